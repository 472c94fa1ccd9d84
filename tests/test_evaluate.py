"Evaluation: the right reference, seeds that never meet, what is refused before the work, and files that are whole."

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dde_kit import clevr, evaluate, maps, metrics
from dde_kit.metrics import Extractor, FeatureNet, Interval, checksum, extractor, features


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    "No launcher, no GPU, no window."
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("MPLBACKEND", "Agg")


# ---- the reference is of the data ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eye():
    return extractor("kit-small")


def forbidden(*args, **kwargs):
    raise AssertionError("this has to be known before")


def test_a_file_of_the_name_of_shipped_weights_has_its_own_reference(tmp_path, eye):
    p, said = maps.drawn(10, 96, 3), []
    np.savez(tmp_path / "dubai.npz", map=p.map.numpy(), sat=p.sat.numpy())
    source = maps.Source(tmp_path / "dubai.npz")
    got = maps.reference_features("maps-tiny-dubai", source, 96, eye, say=said.append)
    assert np.array_equal(got, features(source.reference(96).sat, eye)) and len(got) == 2
    assert len(said) == 1 and "of other images than now" in said[0] and "dubai.npz" in said[0]


def test_the_shipped_reference_is_used_for_its_own_images(monkeypatch, eye):
    "Nothing is drawn and nothing is said, whatever the folder of the models."
    monkeypatch.setattr(maps.Source, "reference", forbidden)
    for folder in ("maps-tiny", "anywhere/else"):
        got = maps.reference_features(folder, maps.Source(), 128, eye, say=forbidden)
        assert got.shape == (1024, 64)


def test_the_shipped_reference_is_what_it_says(eye):
    "The first 96 of its features are those of the generator's cities."
    stored = maps.reference_features("maps-tiny", maps.Source(), 96, eye)
    assert np.abs(features(maps.Source().reference(96, 8).sat, eye) - stored[:8]).max() < 1e-4


def test_a_stored_reference_knows_images_and_network(tmp_path, eye, monkeypatch):
    p, said = maps.drawn(10, 64, 3), []
    np.savez(tmp_path / "a.npz", map=p.map.numpy(), sat=p.sat.numpy())
    np.savez(tmp_path / "b.npz", map=p.map.numpy(), sat=p.sat.numpy() ^ 1)
    a, b = (maps.Source(tmp_path / f"{k}.npz") for k in "ab")
    maps.store_reference(tmp_path, a, eye)  # 96 and larger do not fit, and are left out
    maps.store_reference(tmp_path, a, eye, sizes=(32, 64, 96))
    assert maps.reference_features(tmp_path, a, 64, eye, say=forbidden).shape == (2, 64)
    maps.reference_features(tmp_path, b, 64, eye, say=said.append)
    other = Extractor(FeatureNet(8, 64, 2), "kit-small", "FID")
    got = maps.reference_features(tmp_path, a, 64, other, say=said.append)
    assert np.array_equal(got, features(a.reference(64).sat, other))
    assert ["images" in said[0], "network" in said[0], "images" in said[1], "network" in said[1]] == [1, 0, 0, 1]
    (tmp_path / "reference.safetensors").write_bytes(b"half a file")
    assert maps.reference_features(tmp_path, a, 64, eye, say=said.append).shape == (2, 64)
    assert "cannot be read" in said[2]


def test_checksum_sees_numbers_shapes_and_types():
    x = torch.arange(6.0)
    same = [checksum(x), checksum(x.numpy()), checksum(x.reshape(2, 3).T.contiguous().T.reshape(6))]
    other = [checksum(x.reshape(2, 3)), checksum(x.double()), checksum(x + 1), checksum(x, x), checksum()]
    assert len(set(same)) == 1 and len({*same, *other}) == 6


# ---- seeds -----------------------------------------------------------------------------------------------------------

SEEDS = [*range(300), 2**31, 2**32 - 102, 2**32 - 101, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**64 + 7]


def states(monkeypatch, module, uses):
    "States of the generators that `uses` hand to the drawing of a scene."
    seen = []

    def scene(size, rng):
        seen.append(tuple(rng.bit_generator.state["state"].values()))
        return (np.zeros((size, size, 3), np.uint8),) * 2

    def arrange(rng):
        scene(8, rng)
        return [dict(at=np.array([0.5, 0.5]))]

    if module is maps:
        monkeypatch.setattr(maps, "scene", scene)
    else:
        monkeypatch.setattr(clevr, "arrange", arrange)
        monkeypatch.setattr(clevr, "render", lambda objects, rng, size: np.zeros((size, size, 3), np.uint8))
    for use in uses:
        use()
    return seen


def test_no_city_has_two_uses(monkeypatch):
    s = maps.Source(images=30, side=8)
    uses = [lambda: s.train(False), lambda: s.reference(8, 30)]
    uses += [lambda k=k: s.test(8, 3, k) for k in SEEDS]
    seen = states(monkeypatch, maps, uses)
    assert len(set(seen)) == len(seen) == 60 + 3 * len(SEEDS)
    for seed in (-1, -102, 0.5, True):
        with pytest.raises(ValueError, match="seed="):
            s.test(8, 1, seed)


def test_no_scene_has_two_uses(monkeypatch):
    uses = [lambda k=k: clevr.drawn(3, k, 8) for k in SEEDS]
    seen = states(monkeypatch, clevr, uses)
    assert len(set(seen)) == len(seen)


def test_cities_and_scenes_of_small_seeds_are_what_they_were(monkeypatch):
    for module, draw in ((maps, maps.drawn), (clevr, lambda n, size, seed: clevr.drawn(n, seed, size))):
        seen = states(monkeypatch, module, [lambda: draw(2, 8, 0), lambda: draw(1, 8, 102)])
        rngs = [np.random.default_rng(k).bit_generator.state["state"] for k in ([0, 0], [0, 1], [102, 0])]
        assert seen == [tuple(s.values()) for s in rngs]


def test_positions_for_choosing_are_in_no_table():
    numbers = [clevr.sequence(s, use) for s in SEEDS for use in ("choose", "test")]
    assert len(set(numbers)) == len(numbers) and clevr.sequence(0) == 0 and clevr.sequence(0, "choose") == 1
    sets = {clevr.draw_positions(1, L, k).numpy().tobytes() for L in (2, 4) for k in numbers[::-9]}
    assert len(sets) == 2 * len(numbers[::-9])


def test_positions_of_small_seeds_are_what_they_were():
    def before(n, L, seed):
        g, out = torch.Generator().manual_seed(1000 * seed + L), []
        while len(out) < n:
            for c in 0.3 + 0.4 * torch.rand(512, L, 2, generator=g):
                if L == 1 or torch.nn.functional.pdist(c).min() >= 0.15:
                    out.append(c)
        return torch.stack(out[:n])

    for L in (1, 2, 4):
        for seed in (0, 1, 9):
            assert torch.equal(clevr.draw_positions(8, L, seed), before(8, L, seed))


def test_impossible_positions_are_refused():
    for L, fit in ((8, "[67]"), (500, "[67]")):
        with pytest.raises(ValueError, match=f"choose L <= {fit}"):
            clevr.draw_positions(4, L)


# ---- parameters ------------------------------------------------------------------------------------------------------


def test_everything_wrong_is_said_at_once():
    rules = dict(train=bool, N=(int, 64), length=(float, 0, 1), data=str, kind=("a", "b"), n=evaluate.some_or_preset)
    good = dict(train=True, N=np.int64(64), length=1, data=Path("x"), kind="a", n=0)
    got = evaluate.check_parameters(good, **rules)
    assert got == good and type(got["N"]) is int and type(got["length"]) is float
    bad = dict(train="false", N=63, length=1.5, data=None, kind="c", n=1)
    with pytest.raises(ValueError) as e:
        evaluate.check_parameters(bad, **rules)
    assert [line.split("=")[0] for line in str(e.value).splitlines()] == list(rules)
    for k in rules:
        with pytest.raises(ValueError, match=k):
            evaluate.check_parameters(good | {k: bad[k]}, **rules)
        with pytest.raises(ValueError, match=f"{k} is missing"):
            evaluate.check_parameters({n: v for n, v in good.items() if n != k}, **rules)


@pytest.mark.parametrize("name", ["30_maps", "20_clevr", "50_scaling"])
@pytest.mark.parametrize(
    "given", [dict(train="false"), dict(seed=-1), dict(samples=1), dict(N=128.0, L=2.5, sizes="x")]
)
def test_notebooks_check_before_they_work(name, given, tmp_path):
    "The first cells of a notebook, with one parameter that does not fit, stop before anything is loaded or drawn."
    cells = json.loads((Path(__file__).parents[1] / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    if not set(given) & {line.split("=")[0].strip() for line in code[0].splitlines()}:
        pytest.skip("it has no such parameter")
    at = next(i for i, s in enumerate(code) if "check_parameters(globals()" in s)
    first = [s for s in code[1:at] if s.startswith("#| hide") or "PRESETS = dict" in s or "tiny = Preset" in s]
    space = {}
    exec(code[0], space)
    space |= {k: v for k, v in given.items() if k in space}
    if name == "30_maps":
        first = [s for s in first if "import" in s]
        space["PRESETS"] = maps.PRESETS
    for s in first:
        exec(s, space)
    with pytest.raises(ValueError, match="|".join(given)):
        exec(code[at], space)


# ---- before the work, and after it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line,words",
    [
        ("maps --samples 1", "at least 2"),
        ("maps --samples -3", "samples=-3"),
        ("maps --N 32", "smaller than a patch"),
        ("maps --N -128", "size=-128"),
        ("maps --seed -1", "seed=-1"),
        ("maps --batch -1", "batch=-1"),
        ("maps --steps 0", "steps=0"),
        ("maps --methods Magic", "Concat, MultiDiffusion, DDE"),
        ("clevr --methods Magic", "RRR, MultiDiffusion, DDE"),
        ("clevr --L 8 --samples 2", "choose L <="),
        ("clevr --seed -2", "seed=-2"),
        ("maps --data {tmp}/small.npz --N 96", "larger than the images"),
        ("maps --data {tmp}", "is a folder"),
        ("maps --results {tmp}/small.npz", "cannot be written"),
        ("clevr --results {tmp}/small.npz/below", "cannot be written"),
    ],
)
def test_refused_before_the_work(line, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "load", forbidden)
    monkeypatch.setattr(evaluate, "sample_many", forbidden)
    a = np.zeros((5, 3, 64, 64), np.uint8)
    np.savez(tmp_path / "small.npz", map=a, sat=a)
    argv = line.format(tmp=tmp_path).split()
    with pytest.raises(SystemExit) as e:
        evaluate.main(argv + ([] if "--results" in argv else ["--results", str(tmp_path / "results")]))
    said = capsys.readouterr().err
    assert e.value.code == 2 and words in said and "Traceback" not in said


class Picture:
    "A figure that may not be saved."

    def __init__(self, error=None):
        self.error = error

    def savefig(self, path, **how):
        if self.error:
            raise self.error
        Path(path).write_bytes(b"picture")


def test_a_table_is_seen_before_it_is_saved(tmp_path, monkeypatch, capsys):
    table = pd.DataFrame(dict(FID=[Interval(12.5, 11, 14), metrics.Rough(7, 6, 8)]), index=["one", "two"])
    full = OSError(28, "No space left on device")
    monkeypatch.setitem(evaluate.TABLES, "maps", lambda m, p, o: dict(a=(table, Picture(full), {})))
    with pytest.raises(SystemExit) as e:
        evaluate.main(["maps", "--results", str(tmp_path), "--cpu"])
    said = capsys.readouterr()
    assert e.value.code == 2 and "No space left" in said.err
    assert "12.5 [11, 14]" in said.out and "7 [6, 8] ?" in said.out and "fewer than 30 samples" in said.out
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    monkeypatch.setitem(evaluate.TABLES, "maps", lambda m, p, o: dict(a=(table, Picture(), dict(N=int(o.size)))))
    evaluate.evaluate("maps", size=np.int64(96), results=str(tmp_path), say=lambda text: None)
    assert sorted(p.name for p in (tmp_path / "maps" / "tiny").iterdir()) == ["a.csv", "a.json", "a.png"]
    facts = json.loads((tmp_path / "maps" / "tiny" / "a.json").read_text(encoding="utf-8"))
    assert facts["N"] == 96 and "fewer than 30" in facts["caution"]


def test_results_are_whole_or_what_they_were(tmp_path):
    table = pd.DataFrame(dict(FID=[Interval(1, 0, 2)]), index=["ö"])
    metrics.save_run(tmp_path / "run", table, Picture(), dict(seed=0, note="σ"))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(OSError):
        metrics.save_run(tmp_path / "run", table + table, Picture(OSError("disk")), dict(seed=1))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before and len(before) == 3
    assert "ö" in (tmp_path / "run.csv").read_text(encoding="utf-8")


# ---- CLEVR chooses its weight ----------------------------------------------------------------------------------------


class Says(torch.nn.Module):
    "Every image is as bright as its guidance weight is good."

    def __init__(self, w):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(dict(zip((1.0, 2.0, 3.0), (-0.5, 0.8, 0.1)))[w]))

    def forward(self, x, sigma, y=None):
        return 0 * x + self.level


def test_clevr_takes_the_weight_that_is_satisfied_most(monkeypatch):
    asked = []

    def satisfied(net, images, c):
        asked.append(c)
        return torch.rand(c.shape[:2], generator=torch.Generator().manual_seed(0)) < images.float().mean() / 255

    monkeypatch.setattr(evaluate, "load", lambda *args, **kwargs: None)
    monkeypatch.setattr(evaluate, "check_models", lambda *args: None)
    monkeypatch.setattr(clevr, "satisfied", satisfied)
    monkeypatch.setattr(clevr, "METHODS", dict(RRR=lambda base, dde, w: Says(w)))
    monkeypatch.setattr(clevr, "WEIGHTS_TRIED", dict(RRR=(1.0, 2.0, 3.0)))
    monkeypatch.setattr(clevr, "Matcher", lambda *args, **kwargs: lambda x: torch.zeros(len(x), 64, 64))
    monkeypatch.setattr(clevr, "threshold", lambda *args: (0.5, 1.0))
    monkeypatch.setattr(clevr, "drawn", lambda n, seed: (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), [None] * 2))
    monkeypatch.setattr(clevr, "crosses", lambda *args, **kwargs: Picture())
    o = evaluate.argparse.Namespace(
        preset="tiny",
        folder="",
        device="cpu",
        data="procedural",
        size=2,
        samples=6,
        methods="",
        seed=3,
        batch=0,
        sampler=dict(steps=1),
    )
    o.wrap = lambda D: D
    _, _, facts = evaluate.clevr_tables(clevr, clevr.tiny, o)["L2-n6-seed3"]
    assert facts["guidance"] == dict(RRR=2.0)
    assert torch.equal(asked[0], clevr.draw_positions(8, 2, 7)) and torch.equal(asked[3], clevr.draw_positions(6, 1, 6))


def test_of_equal_weights_the_smallest():
    assert clevr.best_weight({8.0: 3.0, 4.0: 3.0, 20.0: 1.0}) == 4.0
    assert clevr.best_weight({1.0: 0.0, 2.0: 5.0, 3.0: 4.9}) == 2.0


# ---- files of other people -------------------------------------------------------------------------------------------


def claim(path, members):
    "A `.npz` whose headers claim what is not there."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, shape, content in members:
            with z.open(f"{name}.npy", "w") as f:
                np.lib.format.write_array_header_1_0(f, dict(descr="|u1", fortran_order=False, shape=shape))
                f.write(content)
    return path


@pytest.mark.parametrize(
    "read,names", [(maps.read_pairs, ("map", "sat")), (clevr.read_scenes, ("ims", "coords_labels"))]
)
def test_giant_headers_take_no_memory(read, names, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "load", forbidden)
    for shape, content in (
        ((10**12, 3, 64, 64), b""),
        ((2**62, 4, 1, 1), b"1"),
        ((2, 3, 64, 64), b"1" * 100),
        ((-1, 3, 64, 64), b"1"),
    ):
        with pytest.raises(ValueError, match="it claims|not a readable"):
            read(claim(tmp_path / "a.npz", [(k, shape, content) for k in names]))


def test_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    a = np.zeros((5, 3, 64, 64), np.uint8)
    np.savez(tmp_path / "a.npz", map=a, sat=a)
    monkeypatch.setattr(metrics, "memory", lambda: 100_000)
    with pytest.raises(ValueError, match="this machine has"):
        maps.read_pairs(tmp_path / "a.npz")


def test_other_members_are_not_opened(tmp_path):
    a = np.zeros((5, 3, 64, 64), np.uint8)
    np.savez(tmp_path / "a.npz", map=a, sat=np.asfortranarray(a), source=np.array(["x"] * 5), junk=np.array([{}]))
    train, held = maps.read_pairs(tmp_path / "a.npz")
    assert len(train) == 4 and len(held) == 1 and train.sat.is_contiguous()


# ---- other surroundings ----------------------------------------------------------------------------------------------

PLAIN = """
import sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module="dde_kit")
from dde_kit import evaluate
try: evaluate.main(["--help"])
except SystemExit as e: assert e.code == 0
evaluate.main("maps --N 96 --samples 2 --steps 1 --methods Concat --cpu --results".split() + [sys.argv[1]])
"""


def test_without_home_and_with_ascii_only(tmp_path, plain_folder):
    keep = ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "SYSTEMROOT")
    env = {k: os.environ[k] for k in keep if k in os.environ}
    env |= dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", TMPDIR=str(tmp_path), OMP_NUM_THREADS="1")
    where = str(Path(__file__).parents[1])
    env["PYTHONPATH"] = os.pathsep.join([where, *filter(None, [env.get("PYTHONPATH")])])
    at = tmp_path / "Ergebnisse ü"
    line = [sys.executable, "-X", "warn_default_encoding", "-c", PLAIN, str(at)]
    r = subprocess.run(line, capture_output=True, env=env, cwd=tmp_path, timeout=300)
    assert r.returncode == 0, r.stderr.decode("utf-8", "replace")
    assert (at / "maps" / "tiny" / "N96-n2-seed0.csv").exists()
