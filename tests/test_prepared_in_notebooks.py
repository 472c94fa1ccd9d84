"What `data_prep` writes goes through the notebook of its domain: made here, and real samples where they are at hand."

import json
from pathlib import Path

import pytest
from PIL import Image

for m in ("papermill", "httpx", "tenacity", "filelock", "soundfile", "soxr"):
    pytest.importorskip(m)
import papermill
import pandas as pd
import soundfile as sf
from data_prep import clevr, pairs, slakh
from dde_kit.clevr import procedural as scenes
from dde_kit.maps import procedural as city
from dde_kit.metrics import to_uint8
from dde_kit.music import procedural as band

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
real = lambda folder: pytest.param(
    SHARED / folder,
    marks=pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"no real samples in ../shared/data/{folder}"),
)


def execute(name, tmp_path, **parameters):
    "Run a notebook on prepared data, somewhere else; returns its results folder."
    papermill.execute_notebook(
        ROOT / "nbs" / f"{name}.ipynb",
        tmp_path / "out.ipynb",
        parameters | dict(results=str(tmp_path / "results")),
        cwd=str(tmp_path),
        progress_bar=False,
    )
    return tmp_path / "results"


def picture(x):
    return Image.fromarray(to_uint8(x).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("folder", [None, real("maps/dubai")])
def test_maps(tmp_path, folder):
    "Photos (.jpg) with their maps (.png) beside them."
    if folder is None:
        folder = tmp_path / "tiles"
        for k in (1, 2):
            (folder / f"tile_{k}").mkdir(parents=True)
            for i, (y, x) in enumerate(zip(*city(2, 256, seed=90 + k))):
                picture(x).save(folder / f"tile_{k}" / f"{i}.jpg", quality=95)
                picture(y).save(folder / f"tile_{k}" / f"{i}.png")
    pairs.main([str(folder), str(tmp_path / "mine.npz"), "--size", "128", "--hold", "tile_2"])
    out = (
        execute("30_maps", tmp_path, N=96, samples=4, methods="MultiDiffusion", data=str(tmp_path / "mine.npz"))
        / "maps"
        / "tiny-mine"
    )
    assert list(pd.read_csv(out / "N96-n4-seed0.csv", index_col=0).index) == ["MultiDiffusion", "real"]


@pytest.mark.parametrize("folder", [None, real("clevr")])
def test_clevr(tmp_path, folder):
    "An unpacked CLEVR release: frames of 480 x 320 and a scenes file with the pixels of all centres."
    if folder is None:
        folder = tmp_path / "CLEVR_v1.0"
        (folder / "images" / "train").mkdir(parents=True)
        (folder / "scenes").mkdir()
        listed = []
        for i, (x, at) in enumerate(zip(*scenes(60, seed=90))):
            name = f"CLEVR_train_{i:06d}.png"
            frame = Image.new("RGB", (480, 320), (120, 120, 120))
            frame.paste(picture(x).resize((320, 320), Image.Resampling.NEAREST), (80, 0))
            frame.save(folder / "images" / "train" / name)
            listed.append(
                dict(
                    image_index=i,
                    split="train",
                    image_filename=name,
                    objects=[{"pixel_coords": [80 + 320 * float(u), 320 * (1 - float(v)), 11.0]} for u, v in at],
                )
            )
        (folder / "scenes" / "CLEVR_train_scenes.json").write_text(json.dumps(dict(scenes=listed)), encoding="utf-8")
    clevr.main(
        [
            "--out",
            str(tmp_path / "mine.npz"),
            "--source",
            "folder",
            "--file",
            str(folder),
            "--limit",
            "60",
            "--size",
            "64",
            "--cache",
            str(tmp_path / "cache"),
        ]
    )
    out = (
        execute("20_clevr", tmp_path, L=2, samples=2, steps=2, data=str(tmp_path / "mine.npz")) / "clevr" / "tiny-mine"
    )
    t = pd.read_csv(out / "L2-n2-seed0.csv")
    assert (
        set(t.figure) == {"accuracy", "satisfied"} and len(t) == 2 * 3 * 2 * 2
    )  # no second opinion: it matches drawn objects


@pytest.mark.parametrize("folder", [None, real("music/stems_22050")])
def test_music(tmp_path, folder):
    "Folders of four stems. A patchwork needs two real tracks."
    held = 1 if folder is None else 2
    if folder is None:
        folder = tmp_path / "tracks"
        for i, x in enumerate(band(4, 12.0, seed=90)):
            (folder / f"Track{i:05d}").mkdir(parents=True)
            for name, stem in zip(slakh.STEMS, x):
                sf.write(folder / f"Track{i:05d}" / f"{name}.wav", stem.numpy(), 4000, subtype="PCM_16")
    slakh.main(
        [
            "--out",
            str(tmp_path / "mine"),
            "--source",
            "folder",
            "--folder",
            str(folder),
            "--cache",
            str(tmp_path / "cache"),
        ]
    )
    out = (
        execute(
            "10_music",
            tmp_path,
            parts=3,
            samples=2,
            methods="MultiDiffusion",
            resample=True,
            data=str(tmp_path / "mine"),
        )
        / "music"
        / "tiny-mine"
    )
    t = pd.read_csv(out / "2.5l-n2-seed0.csv", index_col=0)
    assert list(t.index) == ["MultiDiffusion", "real"] + ["patchwork"] * (held > 1)
