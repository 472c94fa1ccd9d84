"Folders that are not what `save` wrote: refused in words, in little time, and before anything is allocated for them."

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dde_kit as dde
from dde_kit import networks
from dde_kit.coordinator import DDE
from dde_kit.decomposition import Tiling
from dde_kit.networks import DiT, build, fit_and_save, load, save
from test_networks import BASE, COORDINATOR, ask, base, change, same, toydomain  # noqa: F401  (a fixture for all tests)

HERE = Path(__file__).parent


@pytest.fixture
def dde_folder(tmp_path):
    save(base(), tmp_path / "base", BASE)
    save(DDE(load(tmp_path / "base"), Tiling(16, 8), build(COORDINATOR)), tmp_path / "dde", COORDINATOR)
    return tmp_path / "dde"


@pytest.fixture
def folder(tmp_path):
    save(base(), tmp_path / "b", BASE)
    return tmp_path / "b"


def refused(folder, words, kind=ValueError):
    with pytest.raises(kind, match=words) as e:
        load(folder)
    assert type(e.value) is kind and "\n" not in str(e.value) and len(str(e.value)) < 900


def rewritten(folder, f):
    "Other tensors, with a checksum that is right."
    tensors = f(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors")
    change(folder, tensors=networks._digest(folder / "model.safetensors"))


# --- sizes ----------------------------------------------------------------------------------------------------------

BOMBS = [
    ("clevr-tiny/dde", dict(overrides=dict(depth=10**9))),
    ("clevr-tiny/dde", dict(overrides=dict(depth=10**7))),
    ("clevr-tiny/dde", dict(overrides=dict(hidden=9_600_000))),
    ("clevr-tiny/dde", dict(overrides=dict(mlp_ratio=1e12))),
    ("clevr-tiny/dde", dict(overrides=dict(patch=10**7))),
    ("clevr-tiny/dde", dict(overrides=dict(depth=10**400))),
    ("clevr-tiny/base", dict(overrides=dict(widths=[8_000_000, 9_600_000, 32], blocks=[1, 1, 1]))),
    ("clevr-tiny/base", dict(overrides=dict(blocks=[10**7, 1, 1]))),
    ("clevr-tiny/base", dict(overrides=dict(widths=[64] * 1000, blocks=[1] * 1000))),
    ("clevr-tiny/base", dict(overrides=dict(widths=[64] * 10**5, blocks=[1] * 10**5))),
    ("clevr-tiny/base", dict(overrides=dict(stem=10**7))),
    ("clevr-tiny/base", dict(overrides=dict(fine=10**7))),
    ("maps-tiny/base", dict(network="maps/paper/base")),
    ("music-tiny/spectral", dict(network="music/tiny/spectral", overrides=dict(n=2**22))),
    ("music-tiny/dde", dict(overrides=dict(channels=10**7))),
    ("music-tiny/dde", dict(overrides=dict(horizon=[[[[[[1]]]]]]))),
]


def test_what_asks_for_too_much_is_refused_in_little_time_and_memory(tmp_path):
    "All in one process that may not have more than half a gigabyte beyond what it starts with."
    (tmp_path / "child.py").write_text(
        textwrap.dedent("""
        import resource, sys, time
        sys.path.insert(0, sys.argv[1])
        from dde_kit.networks import WEIGHTS, load
        from pathlib import Path
        import json, torch, shutil
        from dde_kit import clevr, maps, music
        BOMBS = eval(Path(sys.argv[2]).read_text())
        load('clevr-tiny/dde'), load('maps-tiny/base'), torch.empty(1, device='meta')
        used = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**29,)*2)
        for i,(name,kw) in enumerate(BOMBS):
            f = Path(sys.argv[3])/str(i); shutil.copytree(WEIGHTS/name, f)
            config = json.loads((f/'config.json').read_text())
            if 'base' in config: config['base'] = str(WEIGHTS/name/config['base'])
            sys.set_int_max_str_digits(0)
            (f/'config.json').write_text(json.dumps(config | kw))
            start = time.time()
            try: load(f); print('accepted', kw)
            except ValueError as e: print(round(time.time()-start, 2), str(e)[:300])
        """)
    )
    (tmp_path / "bombs").write_text(repr(BOMBS).replace(str(10**400), "10**400"))
    r = subprocess.run(
        [sys.executable, tmp_path / "child.py", HERE, tmp_path / "bombs", tmp_path],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | dict(PYTHONPATH=str(Path(dde.__file__).parent.parent), OMP_NUM_THREADS="1"),
    )
    assert r.returncode == 0, r.stdout + r.stderr
    assert len(r.stdout.splitlines()) == len(BOMBS) and "accepted" not in r.stdout, r.stdout
    assert max(float(row.split()[0]) for row in r.stdout.splitlines()) < 10, r.stdout


def test_nothing_is_built_that_does_not_fit_the_file(folder, monkeypatch):
    "The network is built for real after the header was compared with one on the device `meta`, not before."
    made = []

    def watched(name, device=None, **kw):
        made.append(device)
        return build(name, device, **kw)

    monkeypatch.setattr(networks, "build", watched)
    change(folder, overrides=dict(stem=2))
    refused(folder, "stem.* should be")
    assert made == ["meta"]
    change(folder, overrides={})
    assert same(load(folder), base()) and made == ["meta", "meta", None]


def test_settings_of_megabytes_are_not_read(folder, monkeypatch):
    (folder / "config.json").write_text("{" + " " * 2**21 + "}")
    monkeypatch.setattr(networks.json, "loads", lambda *_: pytest.fail("was read"))
    refused(folder, "2097154 bytes, and settings need a few thousand")


def test_nested_settings(folder):
    (folder / "config.json").write_text("[" * 500_000)
    refused(folder, "damaged")


# --- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_weights_that_are_no_floating_point_numbers(folder, dtype):
    with pytest.raises(ValueError, match="cannot hold weights"):
        save(base(3), folder, BASE, dtype=dtype)
    assert same(load(folder), base())
    rewritten(folder, lambda t: {k: v.to(dtype) for k, v in t.items()})
    refused(folder, "is stored as .*weights are numbers of F64, F32, F16, BF16")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_in_every_precision(tmp_path, dtype):
    save(base(), tmp_path / "b", BASE, dtype=dtype)
    torch.testing.assert_close(ask(load(tmp_path / "b")), ask(base()), rtol=0.1, atol=0.1)


def test_numbers_that_are_not_finite(folder):
    rewritten(folder, lambda t: {k: v * float("nan") for k, v in t.items()})
    refused(folder, "not finite")


@pytest.mark.parametrize(
    "kw",
    [
        dict(sigma_data=0),
        dict(sigma_data="0.4"),
        dict(sigma_data=True),
        dict(sigma_skip=-1),
        dict(sampler=[1]),
        dict(clamp=[1, -1]),
        dict(clamp="all"),
        dict(overrides=None),
        dict(network=["maps/tiny/base"]),
        dict(tensors=None),
        dict(guidance=3),
    ],
)
def test_settings_of_the_wrong_type(folder, kw):
    change(folder, **kw)
    refused(folder, "config.json cannot be used")


# --- bases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [".", "../dde", "././."])
def test_a_composite_is_not_its_own_base(dde_folder, at):
    tensors = json.loads((dde_folder / "config.json").read_text())["tensors"]
    for kw in (dict(base=at), dict(base=at, base_tensors=tensors)):
        change(dde_folder, **kw)
        refused(dde_folder, "as its base, and that is of kind 'dde'")


def test_a_base_is_no_composite(dde_folder, tmp_path):
    "A chain of folders, each of which names the next one."
    for k in range(3):
        shutil.copytree(dde_folder, tmp_path / f"d{k}")
    for k in range(3):
        change(tmp_path / f"d{k}", base=f"../d{(k + 1) % 3}")
    refused(tmp_path / "d0", "of kind 'dde'")


def test_a_stored_composite_finds_its_base_whatever_else_has_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "WEIGHTS", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    save(base(), tmp_path / "weights/toy-nano/base", BASE)
    C = DDE(load("toy-nano/base"), Tiling(16, 8), build(COORDINATOR))
    save(C, "mine/dde", COORDINATOR)
    save(base(7), "toy-nano/base", BASE)  # the user trains one of the same name
    save(base(8), "mine/toy-nano/base", BASE)
    (tmp_path / "mine/dde/toy-nano").mkdir()
    assert same(load("mine/dde"), C)
    shutil.rmtree(tmp_path / "weights")  # and a later version does not ship it any more
    refused("mine/dde", "coordinator for another base")
    save(base(), "toy-nano/base", BASE)
    assert same(load("mine/dde"), C)


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_folder_wins_over_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = load("maps-tiny/base")
    assert networks.place("maps", "tiny") == "maps-tiny"
    save(base(), "maps-tiny/base", BASE)
    assert same(load("maps-tiny/base"), base()) and same(load(networks.WEIGHTS / "maps-tiny/base"), shipped)
    with pytest.raises(FileNotFoundError, match="there is also a folder 'maps-tiny' here"):
        load("maps-tiny/dde")
    assert networks.place("maps", "tiny") == str(networks.WEIGHTS / "maps-tiny")  # the shipped ones are meant
    assert networks.place("maps", "tiny", weights="maps-tiny") == "maps-tiny"  # this folder is meant
    os.replace("maps-tiny/base", "maps-tiny/.base.old")  # a save that was killed between its two renames
    assert same(load("maps-tiny/base"), base())
    shutil.rmtree("maps-tiny")
    assert same(load("maps-tiny/dde").D, shipped)


# --- fit_and_save ---------------------------------------------------------------------------------------------------

HOW = dict(noise=(-1.0, 1.0), steps=2, batch=2)


def images(n, seed=0):
    x = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return lambda g, k: (x[torch.randint(len(x), (k,), generator=g)], None)


def never(g, n):
    pytest.fail("data were asked for")


def made(out, data=None, D=None, settings=None, **kw):
    return fit_and_save(D or base(), data or images(9), out, BASE, HOW | (settings or {}), **dict(progress=False) | kw)


def test_a_finished_model_is_left_alone_if_it_is_the_same_and_refused_if_not(tmp_path):
    out = tmp_path / "m"
    made(out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    made(out)
    shutil.rmtree(tmp_path / "m-training")
    made(out)  # it says itself how it came about
    assert list(tmp_path.iterdir()) == [out]
    for kw, words in (
        (dict(data=images(8)), "data: x0"),
        (dict(settings=dict(steps=3)), "steps: 2 there, 3 here"),
        (dict(settings=dict(noise=(-1.0, 1.1))), "noise"),
        (dict(seed=1), "seed: 0 there, 1 here"),
        (dict(D=dde.EDMDenoiser(base().net, 0.5, 0.1)), "model.sigma_data: 0.4 there, 0.5 here"),
        (dict(held=images(5)), "held: nothing there"),
    ):
        with pytest.raises(ValueError, match=f"was trained in another way .*{words}"):
            made(out, **kw)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_other_initial_weights_are_another_run(tmp_path):
    save(base(1), tmp_path / "one", BASE)
    save(base(2), tmp_path / "two", BASE)
    made(tmp_path / "m", start=tmp_path / "one")
    with pytest.raises(ValueError, match="facts.start"):
        made(tmp_path / "m", start=tmp_path / "two")
    shutil.rmtree(tmp_path / "m")  # from its checkpoint it is not continued either
    with pytest.raises(ValueError, match="facts.start"):
        made(tmp_path / "m", start=tmp_path / "two")
    with pytest.raises(ValueError, match="facts"):
        made(tmp_path / "m")


@pytest.mark.parametrize(
    "kw,words",
    [
        (dict(out="file"), "something else than a denoiser|is a file"),
        (dict(out="file/deep"), "is a file"),
        (dict(out="foreign"), "something else than a denoiser"),
        (dict(dtype=torch.int8), "cannot hold weights"),
        (dict(form=dict(stem=2)), "this is not the network"),
        (dict(note=float("nan")), "cannot be kept in config.json"),
        (dict(settings=dict(lr=-1)), "lr=-1"),
        (dict(settings=dict(noise=(0, 0))), "std of noise"),
    ],
)
def test_what_could_not_be_saved_is_not_trained(tmp_path, kw, words):
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").write_text("x")
    out = tmp_path / kw.pop("out", "m")
    with pytest.raises(ValueError, match=words):
        made(out, never, **kw)


def test_an_interrupted_training_is_saved_by_the_next(tmp_path):
    "Killed after the last checkpoint and before the save: the next call saves what is there."
    made(tmp_path / "a")
    made(tmp_path / "b")
    shutil.rmtree(tmp_path / "b")
    made(tmp_path / "b")
    assert same(load(tmp_path / "a"), load(tmp_path / "b"))


# --- the transformer of one part ------------------------------------------------------------------------------------


def test_rotary_tables_are_made_once_per_size():
    "Many calls, several batch sizes, a copy: as many tables as there are sizes."
    net = DiT(1, 4, ndim=1, hidden=16, depth=1, heads=2).eval()
    with torch.no_grad():
        for k in range(20):
            for b, size in ((1, 8), (3, 8), (2, 16)):
                net(torch.randn(b, 1, size), torch.zeros(b))
    assert len(net.vit.tables) == len(net.layouts) == 2
    import copy

    again, x = copy.deepcopy(net), torch.randn(2, 1, 16)
    for _ in range(3):
        assert torch.equal(again(x, torch.zeros(2)), net(x, torch.zeros(2)))
    assert len(again.vit.tables) == len(net.vit.tables) == 2


def test_a_header_says_what_a_file_holds(folder):
    "What `load` compares is what is in the file, and reading it allocates nothing."
    header = networks._read_header(folder, json.loads((folder / "config.json").read_text()))
    with safe_open(folder / "model.safetensors", "pt") as f:
        assert {k: tuple(f.get_tensor(k).shape) for k in f.keys()} == {k: h.shape for k, h in header.items()}
    assert {h.dtype for h in header.values()} == {"F32"}
    start = time.time()
    networks._check_network(folder, json.loads((folder / "config.json").read_text()), header)
    assert time.time() - start < 5


def test_a_changed_sigma_data_of_the_base_is_noticed(tmp_path):
    "The checksum of a base covers its weights; what its config says is compared as well."
    dde.save(dde.load("maps-tiny/base"), tmp_path / "base", "maps/tiny/base")
    D = dde.load("maps-tiny/dde")
    dde.save(D, tmp_path / "dde", "maps/tiny/coordinator", base=tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(config | dict(sigma_data=0.9))
    (tmp_path / "base" / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="sigma_data"):
        dde.load(tmp_path / "dde")


@pytest.mark.parametrize("change", [dict(guidance=dict(w=3.0)), dict(sampler=dict(steps=50))])
def test_a_finished_model_with_other_settings_of_sampling_is_refused(tmp_path, change):
    from dde_kit.decomposition import Tiling
    from dde_kit.maps import PRESETS, build
    from dde_kit.networks import fit_and_save

    def run(**kw):
        torch.manual_seed(0)
        D = dde.DDE(dde.load("maps-tiny/base"), Tiling(64, 32), build(PRESETS["tiny"], "coordinator"))
        data = lambda g, n: (torch.randn(n, 3, 64, 96, generator=g), torch.zeros(n, 3, 64, 96))
        settings = dict(noise=(0.0, 1.0), steps=1, batch=1)
        kw = dict(sampler=dict(steps=5), guidance=dict(w=0.5)) | kw
        return fit_and_save(D, data, tmp_path / "m", "maps/tiny/coordinator", settings, progress=False, **kw)

    run()
    run()
    with pytest.raises(ValueError, match="other settings for sampling"):
        run(**change)
