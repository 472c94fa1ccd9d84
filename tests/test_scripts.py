"The command line: every domain in two steps, mistakes that are explained, and the paper's networks for one step."

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import dde_kit as dde
from dde_kit import evaluate, train
from dde_kit.training import read_whole

QUICK = "--steps 2 --batch 2 --cpu".split()


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    "No launcher, no GPU, no window."
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("MPLBACKEND", "Agg")


def says(main, argv, capsys):
    "What a call that fails says."
    with pytest.raises(SystemExit) as e:
        main(argv.split())
    assert e.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "argv,words",
    [
        ("moon", "choose one of maps, clevr, music"),
        ("maps --preset huge", "tiny, small, paper"),
        ("clevr --stage critic", "classifier, base, dde"),
        ("music --data nowhere", "no folder at nowhere"),
        ("maps --stage dde --out nowhere", "--stage base"),
        ("maps --precision fp8", "bf16-base"),
        ("maps --form {residual", "is no JSON object"),
        ("maps --form 3", "is no JSON object"),
        ("maps --hold --images 1 --steps 1", "name them with start"),
        ("maps --start nowhere", "no trained denoiser 'nowhere/base'"),
        ('maps --form {"colour":3}', "cannot be built with"),
    ],
)
def test_mistakes_in_training(argv, words, capsys):
    assert words in says(train.main, argv, capsys)


def never(*args, **kw):
    pytest.fail("data were made")


@pytest.mark.parametrize(
    "argv,words",
    [
        ("--steps 0", "steps=0 has to be a whole number of at least 1"),
        ("--steps -5", "steps=-5"),
        ("--images -64", "images=-64"),
        ("--batch -1", "batch=-1"),
        ("--seed -1", "seed=-1"),
        ("--seed 4294967296", "seed=4294967296"),
        ("--every 0", "every=0"),
        ("--accumulate 0", "accumulate=0"),
        ("--lr nan", "lr=nan"),
        ("--lr -1", "lr=-1"),
        ("--noise 0 0", "std of noise"),
        ("--noise nan 1", "mean of noise"),
        ("--noise 0 inf", "std of noise"),
        ("--out FILE", "is a file"),
        ("--out FILE/deep", "is a file"),
        ("--out FOREIGN", "something else than a denoiser"),
        ('--form {"colour":3}', "cannot be built with"),
        ("--start nowhere", "no trained denoiser"),
    ],
)
def test_mistakes_are_found_before_there_are_data(argv, words, capsys, monkeypatch, tmp_path):
    from dde_kit import maps

    monkeypatch.setattr(maps, "drawn", never)
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign" / "dde").mkdir(parents=True)  # the last of the stages
    (tmp_path / "foreign" / "dde" / "notes.txt").write_text("x")
    argv = argv.replace("FILE", str(tmp_path / "file")).replace("FOREIGN", str(tmp_path / "foreign"))
    if "--out" not in argv:
        argv += f" --out {tmp_path / 'runs'}"
    said = says(train.main, f"maps {argv}", capsys)
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(28, "No space left"), ImportError("no")]
)
def test_errors_of_the_system_end_in_one_line(error, capsys, monkeypatch, tmp_path):
    from dde_kit import maps

    def fail(*args, **kw):
        raise error

    monkeypatch.setattr(maps, "drawn", fail)
    said = says(train.main, f"maps --out {tmp_path / 'runs'}", capsys)
    assert str(error) in said and said.count("\n") == 1


def test_another_run_is_told_before_there_are_data(capsys, monkeypatch, tmp_path):
    import threading

    from dde_kit import maps
    from dde_kit.training import locked

    monkeypatch.setattr(maps, "drawn", never)
    ready, done = threading.Event(), threading.Event()

    def run():
        with locked(tmp_path / "dde-training"):
            ready.set()
            done.wait(60)

    t = threading.Thread(target=run)
    t.start()
    ready.wait(60)
    try:
        assert "in use by another run" in says(train.main, f"maps --out {tmp_path}", capsys)
    finally:
        done.set()
        t.join()


def test_a_folder_with_a_shipped_name(tmp_path, monkeypatch, capsys):
    "The coordinator is trained on the base beside it, not on the shipped one whose name is the same."
    from dde_kit import maps

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(maps.PRESETS, "tiny", replace(maps.tiny, canvases=((96, 96),), side=96))
    train.main(["maps", "--out", "maps-tiny", "--images", "4", *QUICK])
    own = json.loads(Path("maps-tiny/base/config.json").read_text(encoding="utf-8"))["tensors"]
    config = json.loads(Path("maps-tiny/dde/config.json").read_text(encoding="utf-8"))
    assert config["base_tensors"] == own and config["base"] == "../base"
    assert own != dde.load(dde.networks.WEIGHTS / "maps-tiny/base").config["tensors"]
    assert all(
        torch.equal(v, dde.load("maps-tiny/base").state_dict()[k])
        for k, v in dde.load("maps-tiny/dde").D.state_dict().items()
    )


def test_trained_already_is_said_of_the_same_training_only(tmp_path, monkeypatch, capsys):
    from dde_kit import maps

    monkeypatch.setitem(maps.PRESETS, "tiny", replace(maps.tiny, canvases=((96, 96),), side=96))
    line = f"maps --out {tmp_path / 'runs'} --images 4 --steps 2 --batch 2 --cpu"
    train.main(line.split())
    files = [
        f for f in (tmp_path / "runs").rglob("*") if f.suffix in (".json", ".safetensors") and f.name != "call.json"
    ]
    before = {f: f.read_bytes() for f in files}
    for change, words in (
        (("images 4", "images 3"), "data: x0"),
        (("steps 2", "steps 3"), "steps: 2 there, 3 here"),
        (("batch 2", "batch 1"), "batch: 2 there, 1 here"),
        (("--cpu", "--cpu --seed 1"), "seed: 0 there, 1 here"),
        (("--cpu", "--cpu --noise 0 1"), "noise"),
        (("--cpu", '--cpu --form {"sigma":1}'), "cannot be built"),
        (("--cpu", '--cpu --stage base --form {"fine":16}'), "this is not the network|trained in another way"),
    ):
        with pytest.raises(SystemExit):
            train.main(line.replace(*change).split())
        assert any(w in capsys.readouterr().err for w in [words]) or "|" in words
    assert {f: f.read_bytes() for f in files} == before
    # the very same call needs no data; without the note of it they are made and compared
    with monkeypatch.context() as m:
        m.setattr(maps, "drawn", never)
        train.main(line.split())
    assert capsys.readouterr().out.count("trained already") == 2
    for k in ("base", "dde"):
        (tmp_path / "runs" / f"{k}-training" / "call.json").unlink()
    train.main(line.split())
    assert capsys.readouterr().out.count("trained already") == 2 and {f: f.read_bytes() for f in files} == before
    # another base in its place
    from safetensors.torch import load_file, save_file

    at = tmp_path / "runs/base"
    save_file({k: v + 1 for k, v in load_file(at / "model.safetensors").items()}, at / "model.safetensors")
    config = json.loads((at / "config.json").read_text(encoding="utf-8")) | dict(
        tensors=dde.networks._digest(at / "model.safetensors")
    )
    (at / "config.json").write_text(json.dumps(config))
    assert "model.base" in says(train.main, f"{line} --stage dde", capsys)


def test_begun_on_other_data(tmp_path, monkeypatch, capsys):
    "A stopped run is not continued with fewer images, nor on another file of the same name."
    from dde_kit import maps

    monkeypatch.setitem(maps.PRESETS, "tiny", replace(maps.tiny, side=96))
    line = f"maps --stage base --out {tmp_path / 'runs'} --steps 2 --batch 2 --cpu"

    def stopped(*args, **kw):
        raise KeyboardInterrupt

    def begin(more):
        with monkeypatch.context() as m:
            m.setattr(dde.networks, "save", stopped)
            with pytest.raises(SystemExit) as e:
                train.main(f"{line} {more}".split())
        assert e.value.code == 130 and "goes on from the last checkpoint" in capsys.readouterr().err

    begin("--images 4")
    assert "data: x0" in says(train.main, f"{line} --images 3", capsys)
    train.main(f"{line} --images 4".split())

    p = maps.drawn(10, 96, 3)
    for k, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "city.npz", map=p.map.numpy(), sat=p.sat.numpy() // (2 + k))
    line = line.replace("runs", "real")
    begin(f"--data {tmp_path}/a/city.npz")
    assert "data: x0" in says(train.main, f"{line} --data {tmp_path}/b/city.npz", capsys)


def test_without_a_home(tmp_path):
    "HOME unset, and a user whom the machine does not know."
    code = "import pwd\ndef unknown(*a): raise KeyError(*a)\npwd.getpwuid = pwd.getpwnam = unknown\n"
    code += "from dde_kit import train, load\nload('clevr-tiny/base')\ntrain.main(['--help'])"
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    r = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd="/",
        env=env | dict(PYTHONPATH=str(Path(dde.__file__).parent.parent), TMPDIR=str(tmp_path)),
    )
    assert r.returncode == 0 and "usage: python -m dde_kit.train" in r.stdout, r.stderr


@pytest.mark.parametrize(
    "argv,words",
    [
        ("moon", "choose one of maps, clevr, music"),
        ("maps --preset huge", "tiny, small, paper"),
        ("maps --methods Magic", "Concat, MultiDiffusion, DDE"),
        ("clevr --data nowhere.npz --samples 2", "no dataset at nowhere.npz"),
        ("maps --weights nowhere", "nowhere"),
        ("music --weights nowhere --samples 2", "nowhere"),
    ],
)
def test_mistakes_in_evaluation(argv, words, capsys):
    assert words in says(evaluate.main, argv, capsys)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    "Ten small cities in a file."
    from dde_kit import maps

    p, f = maps.drawn(10, 96, 3), tmp_path_factory.mktemp("data") / "cities.npz"
    np.savez(f, map=p.map.numpy(), sat=p.sat.numpy() // 2, held=np.arange(10) >= 6)
    return f


def test_maps(pairs, tmp_path, monkeypatch, capsys):
    from dde_kit import maps

    monkeypatch.setitem(maps.PRESETS, "tiny", replace(maps.tiny, canvases=((96, 96),)))
    line = ["maps", "--data", str(pairs), "--out", str(tmp_path / "runs"), *QUICK]
    train.main(line + ["--stage", "base"])
    assert not (tmp_path / "runs" / "dde").exists()
    train.main(line + ["--accumulate", "2"])
    for k in ("base", "dde"):
        D = dde.load(tmp_path / "runs" / k)
        assert (
            D.config["trained"]["steps"] == 2
            and D.config["trained"]["images"] == 6
            and "start" not in D.config["trained"]
        )
    assert dde.load(tmp_path / "runs" / "base").sigma_data != maps.tiny.sigma_data  # that of the file
    before = (tmp_path / "runs" / "dde" / "model.safetensors").read_bytes()
    capsys.readouterr()
    train.main(line)
    assert (
        capsys.readouterr().out.count("trained already") == 2
        and (tmp_path / "runs" / "dde" / "model.safetensors").read_bytes() == before
    )
    # begun again with other settings: refused, with the reason
    (tmp_path / "runs" / "dde" / "config.json").unlink()
    (tmp_path / "runs" / "dde" / "model.safetensors").unlink()
    assert "batch: 2 there, 3 here" in says(train.main, " ".join(line).replace("--batch 2", "--batch 3"), capsys)
    train.main(line)
    assert (tmp_path / "runs" / "dde" / "model.safetensors").read_bytes() == before

    # from other weights: where they come from is kept
    train.main(line + ["--out", str(tmp_path / "on"), "--start", str(tmp_path / "runs"), "--stage", "base"])
    assert dde.load(tmp_path / "on" / "base").config["trained"]["start"] == f"{tmp_path / 'runs'}/base"
    capsys.readouterr()

    ask = [
        "maps",
        "--data",
        str(pairs),
        "--weights",
        str(tmp_path / "runs"),
        "--N",
        "96",
        "--samples",
        "3",
        "--steps",
        "1",
        "--cpu",
        "--results",
    ]
    evaluate.main(ask + [str(tmp_path / "results")])
    shown, at = capsys.readouterr().out, tmp_path / "results" / "maps" / "tiny-cities" / "N96-n3-seed0"
    table, facts = pd.read_csv(f"{at}.csv", index_col=0), json.loads(Path(f"{at}.json").read_text(encoding="utf-8"))
    assert (
        list(table.index) == ["Concat", "MultiDiffusion", "DDE", "real"]
        and np.isfinite(table.FID).all()
        and "MultiDiffusion" in shown
    )
    assert (
        facts["samples"] == 3
        and facts["processes"] == 1
        and facts["data"] == "cities.npz"
        and Path(f"{at}.png").exists()
        and "precision" not in facts
    )
    evaluate.main(ask + [str(tmp_path / "half"), "--precision", "bf16"])
    half = tmp_path / "half" / "maps" / "tiny-cities" / "N96-n3-seed0"
    assert json.loads(Path(f"{half}.json").read_text(encoding="utf-8"))["precision"] == "bf16"
    assert (pd.read_csv(f"{half}.csv", index_col=0).disagreement - table.disagreement).abs().max() < 1


def test_clevr(tmp_path, capsys):
    train.main(["clevr", "--out", str(tmp_path / "runs"), "--images", "16", "--precision", "bf16", *QUICK])
    assert (
        read_whole(tmp_path / "runs" / "dde-training" / "checkpoint.safetensors")[1]["settings"]["precision"] == "bf16"
    )
    evaluate.main(
        [
            "clevr",
            "--weights",
            str(tmp_path / "runs"),
            "--L",
            "2",
            "--samples",
            "2",
            "--steps",
            "1",
            "--methods",
            "RRR,DDE",
            "--results",
            str(tmp_path / "results"),
            "--cpu",
        ]
    )
    table = pd.read_csv(tmp_path / "results" / "clevr" / "tiny" / "L2-n2-seed0.csv")
    assert len(table) == 3 * 4 * 2  # accuracy, satisfied and matching; two methods with two solvers; L = 1 and 2


def test_music(tmp_path, monkeypatch, capsys):
    from dde_kit import music

    monkeypatch.setitem(music.PRESETS, "tiny", replace(music.tiny, pieces=4))
    train.main(["music", "--out", str(tmp_path / "runs"), "--keep", "best", *QUICK])
    trained = dde.load(tmp_path / "runs" / "rnn").config["trained"]
    assert trained["tracks"] == 4 and trained["held_loss"] > 0
    evaluate.main(
        [
            "music",
            "--weights",
            str(tmp_path / "runs"),
            "--parts",
            "5",
            "--samples",
            "2",
            "--steps",
            "1",
            "--methods",
            "MultiDiffusion,RNN",
            "--results",
            str(tmp_path / "results"),
            "--cpu",
        ]
    )
    table = pd.read_csv(tmp_path / "results" / "music" / "tiny" / "4l-n2-seed0.csv", index_col=0)
    assert set(table.index) == {"MultiDiffusion", "RNN", "real", "patchwork"}


def test_training_goes_on_from_trained_weights(tmp_path, monkeypatch):
    "A second run begins where the first one ended, and says so."
    from dde_kit import music

    monkeypatch.setitem(music.PRESETS, "tiny", replace(music.tiny, pieces=4))
    line = ["music", "--stage", "base", "--form", '{"hidden": 48, "depth": 1, "heads": 2}', *QUICK]
    train.main(line + ["--out", str(tmp_path / "first"), "--noise", "-1.5", "1.4"])
    train.main(line + ["--out", str(tmp_path / "second"), "--start", str(tmp_path / "first"), "--lr", "1e-30"])
    first, second = (dde.load(tmp_path / k / "base") for k in ("first", "second"))
    assert first.config["trained"]["noise"] == [-1.5, 1.4] and second.config["trained"]["start"] == str(
        tmp_path / "first" / "base"
    )
    assert all(torch.equal(v, second.net.state_dict()[k]) for k, v in first.net.state_dict().items())


def test_options_of_reading(tmp_path, capsys):
    "Sounds of another rate are converted when asked for; a domain without options says so."
    sf = pytest.importorskip("soundfile")
    from dde_kit import music

    for i in range(3):
        (tmp_path / f"song {i}").mkdir()
        for name in music.STEMS[1:]:
            sf.write(
                tmp_path / f"song {i}" / f"{name}.wav",
                torch.randn(100_000, generator=torch.Generator().manual_seed(i)).numpy() / 9,
                8000,
            )
    p = replace(music.tiny, parts=2)
    with pytest.raises(ValueError, match="resample=True"):
        train.music_things(music, p, tmp_path, False, missing="silence")
    tracks, own = train.music_things(music, p, tmp_path, False, missing="silence", resample=True)
    assert (
        tracks.lengths() == [p.length(2)] * len(tracks)
        and own["sigma_data"] > 0
        and not tracks.read(0, 0, 100)[0].any()
    )
    for script in (train, evaluate):
        with pytest.raises(SystemExit):
            script.main(["maps", "--resample", "--cpu"])
        assert "maps reads its data without resample" in capsys.readouterr().err


# --- the paper's networks, one step of training and one of sampling -------------------------------------------------

PAPER = """
import resource, sys, time, torch
from dde_kit import *
from dde_kit.training import fit
from dde_kit.denoising import LogNormal
from dde_kit.train import domain_of
domain,part = sys.argv[1:]
m,_,p = domain_of(domain, 'paper')
torch.manual_seed(0)
music = domain == 'music'
size,y = dict(maps=((3, 96, 96), lambda n: torch.rand(n, 3, 96, 96)),
              clevr=((3, 64, 64), lambda n: torch.rand(n, 2, 2)),
              music=((4, p.length(2)) if music else None, None))[domain]
if part == 'rnn': size = (4, 2*p.patch)
if part == 'base': size,y = dict(maps=((3, 64, 64), lambda n: torch.rand(n, 3, 64, 64)),
                                 clevr=((3, 64, 64), lambda n: torch.rand(n, 2)),
                                 music=((4, p.patch if music else 0), None))[domain]
F = dict(maps=lambda: Tiling(64, 32), clevr=Repeat, music=lambda: m.layouts(p, part)[0])[domain]()
net = m.build(p, part)
kw = dict(getattr(p, dict(coordinator='fit').get(part, f'{part}_fit')))
kw |= dict(steps=1, batch=1, progress=False, cpu=True)
data = lambda g, n: (p.sigma_data*torch.randn(n, *size, generator=g), y and y(n))
dressed = lambda net: EDMDenoiser(net, p.sigma_data, p.sigma_skip)
if part == 'classifier':
    D,kw = net,kw | dict(loss=m.classifier_loss)
    data = lambda g, n: (torch.randn(n, *size, generator=g), torch.rand(n, 2))
else:
    D = dressed(net) if part == 'base' else DDE(dressed(m.build(p, 'base')), F, net, chunk=1)
    kw['noise'] = LogNormal(*kw['noise'])
def done(): return round(time.time()-start),round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20, 1)
start = time.time(); log = fit(D, data, **kw); trained = done()
start = time.time()
if part == 'classifier': x = D(torch.zeros(1, *size))
else: x = sample(D, (1, *size), y and y(1), seed=0, **p.sampler | dict(steps=1, solver='euler', S_churn=0))
assert x.isfinite().all() and log[-1]['loss'] > 0
size = sum(v.numel() for v in net.parameters())/1e6
print(f'{domain} {part}: {size:.1f}M parameters; a training step of one object {trained[0]} s, '
      f'a sampling step {done()[0]} s, {trained[1]} GB at most')
"""


@pytest.mark.skipif(not os.environ.get("DDE_KIT_SLOW"), reason="minutes of CPU, up to 12 GB: set DDE_KIT_SLOW=1")
@pytest.mark.parametrize(
    "what",
    [
        "maps base",
        "maps coordinator",
        "clevr base",
        "clevr classifier",
        "clevr coordinator",
        "music base",
        "music coordinator",
        "music rnn",
        "music rnn_overlap",
    ],
)
def test_paper_networks(what):
    "One object through one step of Adam and one of the sampler, on a CPU."
    r = subprocess.run(
        [sys.executable, "-c", PAPER, *what.split()],
        capture_output=True,
        text=True,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
    )
    assert r.returncode == 0, r.stdout + r.stderr
    print(r.stdout)
