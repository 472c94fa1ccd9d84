"The maps domain: cities, data files, presets, and a run of the notebook with other parameters."

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import dde_kit as dde
from dde_kit import maps
from dde_kit.maps import (
    FORMS,
    PRESETS,
    Pairs,
    Source,
    classes,
    drawn,
    errors,
    generate,
    procedural,
    read_pairs,
    train_part,
)


def digest(t):
    return hashlib.sha256(t.numpy().tobytes()).hexdigest()[:16]


def test_same_city_on_every_machine():
    p = drawn(3, 96, seed=5)
    assert (digest(p.map), digest(p.sat)) == CITY
    assert torch.equal(drawn(2, 64, seed=5).sat, p.sat[:2, :, :64, :64])  # nor does it depend on number or size
    assert not torch.equal(drawn(3, 96, seed=6).sat, p.sat)


CITY = ("de090a76e845c7e1", "bb921483282756bd")


def test_procedural_is_in_data_units():
    m, s = procedural(2, 80, seed=3)
    assert m.shape == s.shape == (2, 3, 80, 80) and m.dtype == s.dtype == torch.float32
    assert -1 <= s.min() and s.max() <= 1 and s.std() > 0.05


def test_style_is_hidden_from_the_map_and_shared_by_the_image():
    "The map says nothing about the mean colour; two halves of one image share it."
    p = drawn(48, 96, seed=11)
    left, right = (p.sat[..., :48].float().mean((2, 3)), p.sat[..., 48:].float().mean((2, 3)))
    r = np.corrcoef(left[:, 2], right[:, 2])[0, 1]
    assert r > 0.7


def test_crops_are_aligned():
    "A map that equals its image stays equal in every crop."
    a = torch.randint(0, 256, (5, 3, 70, 90), dtype=torch.uint8)
    draw = Pairs(a, a).crops((32, 48), (64, 64))
    shapes = set()
    for step in range(20):
        x, y = draw(torch.Generator().manual_seed(step), 4)
        assert torch.equal(x, y)
        shapes.add(tuple(x.shape))
    assert shapes == {(4, 3, 32, 48), (4, 3, 64, 64)}
    with pytest.raises(ValueError, match="100x100 do not fit"):
        Pairs(a, a).crops((100, 100))


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_read_pairs(tmp_path):
    a = np.random.default_rng(0).integers(0, 256, (10, 3, 64, 64), dtype=np.uint8)
    train, held = read_pairs(write(tmp_path / "a.npz", map=a, sat=a))
    assert len(train) == 8 and len(held) == 2 and np.array_equal(held.sat, a[8:])
    train, held = read_pairs(write(tmp_path / "b.npz", map=a, sat=a, held=np.arange(10) < 3))
    assert len(train) == 7 and np.array_equal(held.map, a[:3])


@pytest.mark.parametrize(
    "arrays,word",
    [
        (dict(map=np.zeros((2, 3, 8, 8), np.uint8)), "'map' and 'sat' are needed"),
        (dict(map=np.zeros((2, 3, 8, 8), np.float32), sat=np.zeros((2, 3, 8, 8), np.uint8)), "uint8"),
        (dict(map=np.zeros((2, 8, 8, 3), np.uint8), sat=np.zeros((2, 3, 8, 8), np.uint8)), "uint8"),
        (dict(map=np.zeros((2, 3, 8, 8), np.uint8), sat=np.zeros((3, 3, 8, 8), np.uint8)), "differ in shape"),
        (
            dict(map=np.zeros((2, 3, 8, 8), np.uint8), sat=np.zeros((2, 3, 8, 8), np.uint8), held=np.ones(2, bool)),
            "some must be held out",
        ),
    ],
)
def test_read_pairs_refuses(tmp_path, arrays, word):
    with pytest.raises(ValueError, match=word):
        read_pairs(write(tmp_path / "a.npz", **arrays))


def test_read_pairs_damaged_or_absent(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_prep"):
        read_pairs(tmp_path / "no.npz")
    good = write(tmp_path / "a.npz", map=np.zeros((9, 3, 8, 8), np.uint8), sat=np.zeros((9, 3, 8, 8), np.uint8))
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:-300])
    with pytest.raises(ValueError, match="damaged"):
        read_pairs(tmp_path / "cut.npz")
    np.savez(tmp_path / "pickle.npz", map=np.array([{}], dtype=object), sat=np.zeros(1))
    with pytest.raises(ValueError, match="not a readable"):
        read_pairs(tmp_path / "pickle.npz")


def test_training_reference_and_test_are_apart():
    a = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 3, 64, 64)
    s = Source()
    s.procedural = False
    s._train, s._held = Pairs(a[:30], a[:30]), Pairs(a[30:], a[30:])
    assert s.reference(64).sat.min() >= 30 and s.test(64, 8).sat.min() >= 30
    assert len(set(s.test(64, 10).sat[:, 0, 0, 0].tolist())) == 10  # each place once before any twice


@pytest.mark.parametrize("name,n", [("base", 270_068_883), ("coordinator", 26_280_972)])
def test_paper_sizes(name, n):
    "Learned 32-d time features (M7) and map tokens of 4 pixels (M3); see the counts in the paper's text: 270M and 26M."
    assert sum(p.numel() for p in dde.build(f"maps/paper/{name}", device="meta").parameters()) == n


def test_authors_sizes():
    "The authors' code: fixed time features, map tokens of 2 pixels."
    count = lambda m: sum(p.numel() for p in m.parameters())
    assert count(dde.build("maps/paper/base", device="meta", learned_sinusoidal_cond=False)) == 270_117_507
    assert count(dde.build("maps/paper/coordinator", device="meta", cond_patch=2)) == 26_267_148


def test_unknown_names():
    for name, word in (
        ("maps/huge/base", "tiny, small, paper"),
        ("maps/tiny/critic", "'base' or 'coordinator'"),
        ("moon/tiny/base", "unknown domain"),
        ("maps/tiny", "domain/preset/part"),
    ):
        with pytest.raises(ValueError, match=word):
            dde.build(name)


def test_classes():
    m = drawn(2, 64, seed=1).map
    c = classes(m)
    assert c.shape == (2, 64, 64) and c.max() < len(maps.CLASSES)
    for k in range(int(c.max()) + 1):
        assert len(m.permute(0, 2, 3, 1)[c == k].unique(dim=0)) == 1


def test_errors_of_a_known_denoiser():
    "A denoiser that returns its input is wrong by sigma^2, and by sigma^2/k^2 after averaging over k x k pixels."

    class Same(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, sigma, y=None):
            return x

    t = errors(dict(same=Same()), drawn(8, 96, seed=2), [0.5, 2.0], pools=(1, 16)).set_index(["sigma", "pool"]).error
    for s in (0.5, 2.0):
        assert t[s, 1] == pytest.approx(s * s, rel=0.02) and t[s, 16] == pytest.approx(s * s / 256, rel=0.15)


def test_generate_does_not_depend_on_the_batch():
    D = dde.load("maps-tiny/dde")
    D.sampler = D.sampler | dict(steps=2)
    m = drawn(3, 96, seed=4).map
    a, b = (generate(dde.Clamp(D), m, seed=1, batch=k).int() for k in (1, 3))
    assert (a - b).abs().max() <= 1


def test_shipped_weights_work_on_any_canvas():
    D = dde.load("maps-tiny/dde")
    m, s = procedural(1, 140, seed=9)
    for h, w in ((64, 64), (64, 140), (100, 96), (128, 70)):
        x0, y = s[:, :, :h, :w], m[:, :, :h, :w]
        e = (D(x0 + 0.3 * torch.randn_like(x0), torch.tensor([0.3]), y) - x0).square().mean()
        assert e < 0.045  # .09 is what the noise itself is
    with pytest.raises(ValueError, match="64"):
        D(s[:, :, :60, :96], torch.tensor([1.0]), m[:, :, :60, :96])
    with pytest.raises(ValueError):
        D(s[:, :, :96, :96], torch.tensor([1.0]), m[:, :, :64, :64])
    with pytest.raises(ValueError):
        D(s[:, :, :96, :96], torch.tensor([0.0]), m[:, :, :96, :96])


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_train_part_and_resume(tmp_path, preset):
    "A few steps of each preset; stopped and continued is the same as in one go; the composite loads with its base."
    pairs = drawn(6, 128, seed=0)
    few = dict(batch=2, warmup=1, progress=False)
    base = train_part("base", preset, pairs, tmp_path / "m" / "base", steps=2, **few)
    out = train_part(
        "coordinator", preset, pairs, tmp_path / "m" / "dde", base=base, steps=2, canvases=((96, 96), (64, 128)), **few
    )
    D = dde.load(out)
    assert D.sampler == PRESETS[preset].sampler and D.sigma_data == PRESETS[preset].sigma_data
    y, x = procedural(2, 96)
    assert D(x, torch.ones(2), y).shape == x.shape


def run_notebook(tmp_path, **parameters):
    "Execute the maps notebook as a user would, somewhere else; returns its results folder."
    import papermill

    nb = Path(__file__).resolve().parent.parent / "nbs" / "30_maps.ipynb"
    papermill.execute_notebook(
        nb,
        tmp_path / "out.ipynb",
        parameters=dict(results=str(tmp_path / "results"), samples=4) | parameters,
        cwd=str(tmp_path),
        progress_bar=False,
    )
    return tmp_path / "results" / "maps"


def test_papermill_another_size(tmp_path):
    "A side that the stride does not fit, and fewer methods."
    out = run_notebook(tmp_path, N=100, methods="MultiDiffusion,DDE", seed=1) / "tiny"
    t = pd.read_csv(out / "N100-n4-seed1.csv", index_col=0)
    assert list(t.index) == ["MultiDiffusion", "DDE", "real"]
    assert (t["FID lo"] <= t["FID"]).all() and (t["FID"] <= t["FID hi"]).all() and t.loc["DDE", "FID"] > 0
    facts = json.loads((out / "N100-n4-seed1.json").read_text(encoding="utf-8"))
    assert (
        facts["N"] == 100
        and facts["seed"] == 1
        and not facts["seen_in_training"]
        and (out / "N100-n4-seed1.png").stat().st_size > 10_000
    )


def test_papermill_data_from_a_file(tmp_path):
    "What `data_prep` writes goes through the whole notebook."
    p = drawn(20, 128, seed=77)
    np.savez(tmp_path / "mine.npz", map=p.map.numpy(), sat=p.sat.numpy())
    out = run_notebook(tmp_path, N=64, data=str(tmp_path / "mine.npz"), methods="MultiDiffusion") / "tiny-mine"
    assert list(pd.read_csv(out / "N64-n4-seed0.csv", index_col=0).index) == ["MultiDiffusion", "real"]


def test_papermill_train(tmp_path):
    "With train=True what is there stays, what is missing is made, and the features of real images are kept beside it."
    pairs, few, w = drawn(6, 128, seed=0), dict(steps=1, batch=2, warmup=1, progress=False), tmp_path / "maps-tiny"
    train_part(
        "coordinator",
        "tiny",
        pairs,
        w / "dde-paper",
        base=train_part("base", "tiny", pairs, w / "base", **few),
        form=FORMS["paper"],
        canvases=((96, 96),),
        **few,
    )
    run_notebook(
        tmp_path, N=96, samples=2, methods="MultiDiffusion,DDE", weights=str(w), train=True, steps=1, form="paper"
    )
    assert (w / "reference.safetensors").stat().st_size > 10_000 and list(
        (tmp_path / "results" / "maps" / "tiny-paper").glob("N96-n2-seed0.csv")
    )


def test_papermill_unknown_value(tmp_path):
    import papermill

    with pytest.raises(papermill.PapermillExecutionError, match="tiny, small, paper"):
        run_notebook(tmp_path, preset="huge")
    with pytest.raises(papermill.PapermillExecutionError, match="there is no method"):
        run_notebook(tmp_path, methods="Magic")
