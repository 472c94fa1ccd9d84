"What an installation consists of: versions that belong together, wheel and sdist, and surroundings that differ."

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def python(code, cwd=ROOT, **env):
    "Run a few lines in a process of their own; a variable that is None is taken away."
    variables = {k: v for k, v in (os.environ | env).items() if v is not None}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=variables)


def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def locked():
    "name: version, of constraints.txt."
    rows = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(row.split("==") for row in rows if not row.startswith("#"))


def settings():
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]


def plain(name):
    "A package's name as indexes compare it."
    return re.sub(r"[-_.]+", "-", name).lower()


PAIRS = """import torch, torchvision
torchvision.ops.nms(torch.rand(2, 4), torch.rand(2), 0.5)"""


@pytest.mark.parametrize("partner, code", [("torchvision", PAIRS), ("torchaudio", "import torch, torchaudio")])
def test_torch_and_its_partners_load_together(partner, code):
    "A pair of other versions ends in a symbol name; here it is said what to install."
    if not version(partner):
        pytest.skip(f"{partner} is not installed")
    r = python(code)
    fits = "pip install " + " ".join(f"{k}=={v}" for k, v in locked().items() if k in ("torch", partner))
    if partner not in locked():
        fits = f"pip uninstall {partner}, which the kit does not need"
    assert r.returncode == 0, (
        f"torch {version('torch')} and {partner} {version(partner)} do not load together: {fits}\n{r.stderr[-300:]}"
    )


# Versions


def test_the_lock_holds_versions_only():
    for row in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert row.startswith("#") or re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!]+", row), row
    assert len({plain(name) for name in locked()}) == len(locked())


@pytest.mark.parametrize("extra", ["", "paper", "music", "data", "dev"])
def test_the_lock_covers_all_requirements(extra):
    "Each is in it, in a version that its range allows."
    have = {plain(name): v for name, v in locked().items()}
    for text in settings()[f"{extra}_requirements".lstrip("_")].split():
        need = Requirement(text)
        assert plain(need.name) in have, f"{text} is not in constraints.txt: make lock"
        assert need.specifier.contains(have[plain(need.name)]), f"{text} and {have[plain(need.name)]}: make lock"


def test_ranges_stay_wide_for_torch():
    "The core runs on torch 2.11, too; the lock has the newest that was tested."
    ranges = {r.name: r.specifier for r in map(Requirement, settings()["requirements"].split())}
    for pair in (("2.11.0", "0.26.0"), ("2.14.1", "0.29.1")):
        assert ranges["torch"].contains(pair[0]) and ranges["torchvision"].contains(pair[1])
    assert Version(locked()["torch"]) >= Version("2.14")


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not the environment that make has made")
def test_what_is_installed_is_what_is_locked():
    other = {k: (v, version(k)) for k, v in locked().items() if version(k) and version(k).split("+")[0] != v}
    assert not other, f"locked and installed: {other}; make clean setup"


# Packages

ELSEWHERE = """import dde_kit as dde, data_prep.fetch, torch
from dde_kit.maps import procedural
city,_ = procedural(1, 96, seed=3)
image = dde.sample(dde.Clamp(dde.load('maps-tiny/dde')), city.shape, city, seed=0, steps=2)
print(dde.__file__, data_prep.fetch.__file__, tuple(image.shape), len(dde.shipped()))"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    "An sdist of this folder with the weights of one experiment, the wheel that pip makes of it, and what went in."
    out = tmp_path_factory.mktemp("dist")
    copy = out / "checkout"
    skip = ".* *.egg-info __pycache__ out runs build nbs results clevr-tiny* music-tiny maps-tiny-dubai".split()
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*skip))
    files = [p for d in ("dde_kit", "data_prep") for p in (copy / d).rglob("*") if p.is_file()]
    files = [p.relative_to(copy).as_posix() for p in files]
    for what, at in (("sdist", copy), ("wheel", None)):
        at = at or next(out.glob("*.tar.gz"))
        if what == "wheel":
            command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, at]
        else:
            command = ["build", "--no-isolation", "--sdist", "--outdir", out, at]
        r = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True)
        assert r.returncode == 0, r.stdout[-2000:] + r.stderr[-2000:]
    shutil.rmtree(copy)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl")), files


def test_sdist_and_wheel_are_whole(packages):
    with tarfile.open(packages[0]) as t:
        names = {n.split("/", 1)[1] for n in t.getnames() if "/" in n}
    assert {"settings.ini", "constraints.txt", "README.md", "LICENSE", "setup.py"} <= names
    with zipfile.ZipFile(packages[1]) as z:
        inside = set(z.namelist())
    missing = [f for f in packages[2] if f not in inside or f not in names]
    assert not missing, missing


def test_the_wheel_works_elsewhere(packages, tmp_path):
    "Unpacked away from the checkout it loads a shipped model, samples, and prepares data."
    site = tmp_path / "site"
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(packages[1])]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    r = python(ELSEWHERE, cwd=tmp_path, PYTHONPATH=str(site))
    assert r.returncode == 0, r.stderr
    kit, prep, *rest = r.stdout.split()
    assert kit.startswith(str(site)) and prep.startswith(str(site)) and "96," in rest
    command = [sys.executable, "-m", "data_prep.pairs", "--help"]
    r = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert r.returncode == 0 and "held" in r.stdout


# Surroundings


@pytest.mark.parametrize(
    "env",
    [
        dict(HOME=None, USERPROFILE=None, XDG_CACHE_HOME=None),
        dict(WORLD_SIZE=""),
        dict(LC_ALL="C", LANG="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
    ],
    ids=["no home", "empty WORLD_SIZE", "ASCII"],
)
def test_surroundings(env, request):
    "A home, a language and a launcher are not needed for anything."
    if "PYTHONUTF8" in env:
        request.getfixturevalue("plain_folder")
    code = (
        "import importlib, pkgutil, dde_kit as dde\n"
        "for m in pkgutil.iter_modules(dde.__path__): importlib.import_module(f'dde_kit.{m.name}')\n"
        "for m in ('fetch', 'pairs', 'maps', 'clevr', 'slakh'): importlib.import_module(f'data_prep.{m}')\n"
        "D = dde.load('maps-tiny/base'); print(D.sigma_data)"
    )
    r = python(code, **env)
    assert r.returncode == 0 and float(r.stdout) > 0, r.stderr


STUB = """#!/bin/sh
printf '%s|%s|%s\\n' "$(basename "$0")" "$DDE_KIT_RESULTS" "$*" >> "$(dirname "$0")/../../log"
"""


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize("folder", ["plain", "with spaces", "dïr — größe", "it's (1)"])
def test_make_in_any_folder(tmp_path, folder):
    "The commands of `make test` and `make demo`, with stand-ins for the programs."
    top = tmp_path / folder
    (top / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "setup.py", "settings.ini", "constraints.txt"):
        shutil.copy(ROOT / name, top)
    for name in ("ruff", "nbdev_test", "pytest", "papermill"):
        (top / ".venv" / "bin" / name).write_text(STUB, encoding="utf-8")
        (top / ".venv" / "bin" / name).chmod(0o755)
    (top / ".venv" / "ready").touch()
    for target in ("test", "demo"):
        r = subprocess.run(["make", target], cwd=top, capture_output=True, text=True)
        assert r.returncode == 0, r.stdout + r.stderr
    rows = [row.split("|") for row in (top / "log").read_text(encoding="utf-8").splitlines()]
    assert [row[0] for row in rows] == ["ruff", "nbdev_test", "pytest", "papermill"]
    assert rows[1][1] == f"{top}/out/results"
