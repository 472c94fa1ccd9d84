"`data_prep.pairs` on folders that the test makes."

import numpy as np
import pytest
from PIL import Image

from data_prep.fetch import PrepError
from data_prep.pairs import corners, cut, main
from dde_kit.maps import read_pairs


@pytest.fixture
def folder(tmp_path):
    "Three tiles with an image each; the map's colour says which tile and place it is, the image repeats it."
    g = np.random.default_rng(0)
    for k in (1, 2, 3):
        d = tmp_path / "set" / f"tile_{k}"
        d.mkdir(parents=True)
        label = np.kron(g.integers(0, 256, (8, 10, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(label).save(d / "image_part_001.png")
        Image.fromarray(label).save(d / "image_part_001.jpg", quality=100, subsampling=0)
    return tmp_path / "set"


def test_corners_cover():
    for n, size in ((256, 64), (250, 64), (64, 64), (65, 64)):
        c = corners(n, size)
        assert c[0] == 0 and c[-1] == n - size and all(b - a <= size for a, b in zip(c, c[1:]))
    assert corners(63, 64) == []


def test_round_trip(folder, tmp_path):
    main([str(folder), str(tmp_path / "out" / "a.npz"), "--size", "64", "--hold", "tile_2"])
    train, held = read_pairs(tmp_path / "out" / "a.npz")
    assert len(train) == 2 * len(held) == 2 * 6  # 128 x 160 pixels: 2 x 3 crops, the last shifted in
    assert (train.map.int() - train.sat.int()).abs().float().mean() < 3  # map and image stay aligned, through JPEG


def test_nearly_empty_crops_are_dropped(folder):
    Image.new("RGB", (160, 128)).save(folder / "tile_1" / "image_part_001.png")
    arrays, dropped = cut(folder, 64)
    assert dropped == 6 and len(arrays["sat"]) == 12


def test_errors(folder, tmp_path):
    with pytest.raises(PrepError, match="no .jpg"):
        cut(tmp_path / "nothing", 64)
    with pytest.raises(PrepError, match="tile_9"):
        cut(folder, 64, ["tile_9"])
    with pytest.raises(PrepError, match="smaller --size"):
        cut(folder, 512)
    Image.new("RGB", (10, 10)).save(folder / "tile_1" / "image_part_001.png")
    with pytest.raises(PrepError, match="a pair has one size"):
        cut(folder, 64)
    (folder / "tile_1" / "image_part_001.png").unlink()
    with pytest.raises(PrepError, match="image_part_001.jpg .1. in .*have no partner, and 2 pairs"):
        cut(folder, 64)
