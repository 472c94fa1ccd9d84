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
    ],
)
def test_mistakes_in_training(argv, words, capsys):
    assert words in says(train.main, argv, capsys)


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
    table, facts = pd.read_csv(f"{at}.csv", index_col=0), json.loads(Path(f"{at}.json").read_text())
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
    assert json.loads(Path(f"{half}.json").read_text())["precision"] == "bf16"
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
    pytest.importorskip("torchaudio")
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
    pytest.importorskip("torchaudio")
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
    pytest.importorskip("torchaudio")
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
size,y = dict(maps=((3, 96, 96), lambda n: torch.rand(n, 3, 96, 96)), clevr=((3, 64, 64), lambda n: torch.rand(n, 2, 2)), music=((4, p.length(2)) if domain == 'music' else None, None))[domain]
if part == 'rnn': size = (4, 2*p.patch)
if part == 'base': size,y = dict(maps=((3, 64, 64), lambda n: torch.rand(n, 3, 64, 64)), clevr=((3, 64, 64), lambda n: torch.rand(n, 2)), music=((4, p.patch if domain == 'music' else 0), None))[domain]
F = dict(maps=lambda: Tiling(64, 32), clevr=Repeat, music=lambda: m.layouts(p, part)[0])[domain]()
net = m.build(p, part)
kw = dict(getattr(p, dict(coordinator='fit').get(part, f'{part}_fit'))) | dict(steps=1, batch=1, progress=False, cpu=True)
data = lambda g, n: (p.sigma_data*torch.randn(n, *size, generator=g), y and y(n))
if part == 'classifier': D,kw,data = net,kw | dict(loss=m.classifier_loss),lambda g, n: (torch.randn(n, *size, generator=g), torch.rand(n, 2))
else: D,kw['noise'] = EDMDenoiser(net, p.sigma_data, p.sigma_skip) if part == 'base' else DDE(EDMDenoiser(m.build(p, 'base'), p.sigma_data, p.sigma_skip), F, net, chunk=1),LogNormal(*kw['noise'])
def done(): return round(time.time()-start),round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20, 1)
start = time.time(); log = fit(D, data, **kw); trained = done()
start = time.time()
if part == 'classifier': x = D(torch.zeros(1, *size))
else: x = sample(D, (1, *size), y and y(1), seed=0, **p.sampler | dict(steps=1, solver='euler', S_churn=0))
assert x.isfinite().all() and log[-1]['loss'] > 0
print(f'{domain} {part}: {sum(v.numel() for v in net.parameters())/1e6:.1f}M parameters; a training step of one object {trained[0]} s, a sampling step {done()[0]} s, {trained[1]} GB at most')
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
