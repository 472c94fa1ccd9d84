"What a stranger meets first."

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dde_kit as dde

ROOT = Path(__file__).resolve().parent.parent


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "name",
    """EDMDenoiser denoising_loss score LogNormal Clamp karras_sigmas sample Guided Tiling Repeat Concat MultiDiffusion
    RRR ViTCoordinator DDE fit build load rope frechet_distance""".split(),
)
def test_public_name(name):
    assert callable(getattr(dde, name)) and name in dir(dde)


def test_unknown_name():
    with pytest.raises(AttributeError, match="hands on"):
        dde.nonsense


def test_import_is_light():
    "No notebook machinery, no audio, no plots, no clean-fid until they are used."
    heavy = "nbdev fastcore torchaudio cleanfid matplotlib ipywidgets torchvision IPython".split()
    out = run(
        f"import sys, dde_kit as dde; dde.Tiling, dde.EDMDenoiser, dde.load; print([m for m in {heavy} if m in"
        " sys.modules])"
    )
    assert out.strip() == "[]"


def test_rope_stays_a_function():
    assert (
        run(
            "import dde_kit.coordinator, dde_kit as dde; from dde_kit.rope import rope_table; print(callable(dde.rope))"
        ).strip()
        == "True"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "nbs").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_is_small_complete_and_anonymous(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    nb = json.loads(text)
    for c in nb["cells"]:
        assert set(c["metadata"]) <= {"tags"}
    for top in ("home", "root", "work", "tmp"):
        assert f"/{top}/" not in text, f"{path.name} names a path of one machine, under /{top}"


def test_nothing_pickled():
    "Safetensors, JSON and npz without objects only; and published weights, which torch reads with weights_only=True."
    for p in (ROOT / "dde_kit").glob("*.py"):
        s = re.sub(r"torch\.load\([^()]*weights_only=True\)", "", p.read_text(encoding="utf-8"))
        for word in ("import pickle", "torch.load(", "torch.save(", "allow_pickle=True", "joblib"):
            assert word not in s, f"{p.name}: {word}"


@pytest.mark.parametrize("name", dde.shipped())
def test_shipped(name):
    D = dde.load(name)
    assert not D.training and not any(p.requires_grad for p in D.parameters())
    assert D.config["trained"] and (D.sampler or D.config["kind"] == "network")
