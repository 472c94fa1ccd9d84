"Networks by name, and trained denoisers on disk: round trips, damage, death in the middle, and nothing pickled."

import json
import os
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from dde_kit import networks
from dde_kit.coordinator import DDE
from dde_kit.decomposition import Repeat, Tiling
from dde_kit.denoising import Clamp, EDMDenoiser, denoising_loss, LogNormal
from dde_kit.networks import SpectralUNet, UNet, adopt, build, load, save, shipped, spectrum, waveform

BASE, COORDINATOR = "toydomain/nano/base", "toydomain/nano/coordinator"
FILES = ["config.json", "model.safetensors"]


class Scale(nn.Module):
    "The smallest coordinator: one number per channel."

    def __init__(self, channels=3):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, parts, sigma, y, F):
        return parts * self.scale.reshape(-1, *[1] * (parts.ndim - 3))


def toy_build(preset, part, **overrides):
    if part == "base":
        return UNet(3, **{**preset, **overrides})
    if part == "coordinator":
        return Scale(**overrides)
    raise ValueError(f"unknown {part=} of toydomain: choose base or coordinator.")


@pytest.fixture(autouse=True)
def toydomain(monkeypatch):
    toy = types.ModuleType("dde_kit.toydomain")
    toy.PRESETS, toy.build = (
        dict(nano=dict(widths=(8, 16), blocks=(1, 1)), micro=dict(widths=(8,), blocks=(1,))),
        toy_build,
    )
    monkeypatch.setitem(sys.modules, "dde_kit.toydomain", toy)


def awake(net, seed=0):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return net


def base(seed=0, **overrides):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(BASE, **overrides)
    D = EDMDenoiser(awake(net, seed), sigma_data=0.4, sigma_skip=0.1)
    D.sampler, D.clamp = dict(steps=9, S_churn=2.5), [-1, 1]
    return D


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k].cpu(), b[k].cpu()) for k in a)


def ask(D, side=16):
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return D(torch.randn(2, 3, side, side, generator=g), torch.tensor([0.3, 2.0]))


# the network


@pytest.mark.parametrize("ndim,size", [(1, (32,)), (1, (96,)), (2, (16, 16)), (2, (32, 16))])
@pytest.mark.parametrize("cond", [0, 2])
@pytest.mark.parametrize("stem", [1, 2, 4])
def test_unet_is_silent_then_learns(ndim, size, cond, stem):
    net = UNet(2, ndim, (8, 16), (1, 2), stem, cond)
    x, y, t = torch.randn(3, 2, *size), torch.randn(3, cond, *size) if cond else None, torch.randn(3)
    out = net(x, t, y)
    assert out.shape == x.shape and not out.any()
    opt = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(3):
        opt.zero_grad()
        (net(x, t, y) - x.roll(1, -1)).square().mean().backward()
        opt.step()
    assert all(p.grad.any() for p in net.parameters()), "a parameter without a gradient"
    assert net(x, t, y).any()


def test_samples_of_a_batch_do_not_meet():
    net = awake(UNet(3, widths=(8, 16), blocks=(1, 1), cond_channels=1))
    x, y, t = torch.randn(3, 3, 16, 16), torch.randn(3, 1, 16, 16), torch.randn(3)
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(x, t, y), alone, rtol=1e-4, atol=1e-5)


def test_untrained_loss_is_one_at_any_sigma_data():
    for sd in (0.2, 0.5, 3.0):
        D = EDMDenoiser(UNet(1, widths=(8,), blocks=(1,)), sigma_data=sd)
        with torch.no_grad():
            loss = denoising_loss(D, sd * torch.randn(64, 1, 32, 32), None, LogNormal(-1, 1.6))
        assert abs(loss - 1) < 0.02


# sound, seen twice


@pytest.mark.parametrize("n", [16, 64, 512])
@pytest.mark.parametrize("dtype,eps", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_spectrum_is_invertible(n, dtype, eps):
    g = torch.Generator().manual_seed(0)
    for frames in (1, 2, 7):
        x = torch.randn(2, 3, frames * n // 2, generator=g, dtype=torch.float64).to(dtype)
        v = spectrum(x, n)
        assert v.shape == (2, 6, n // 2, frames) and v.dtype == dtype
        assert (waveform(v) - x).abs().max() < eps


def test_spectrum_against_its_sum():
    n, x = 32, torch.randn(1, 1, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v, z, t = spectrum(x, n), nn.functional.pad(x[0, 0], (n // 4, n // 4)), torch.arange(n).double()
    w = (0.5 - 0.5 * torch.cos(2 * torch.pi * t / n)).sqrt()
    for k in (1, 2, 7, n // 2 - 1):
        for m in range(8):
            want = (
                2
                / n**0.5
                * (-1) ** (k * m)
                * (w * z[m * n // 2 : m * n // 2 + n] * torch.exp(-2j * torch.pi * k * t / n)).sum()
            )
            assert abs(torch.complex(v[0, 0, k, m], v[0, 1, k, m]) - want) < 1e-10


def test_white_noise_stays_white():
    v = spectrum(torch.randn(4, 2, 2**15, generator=torch.Generator().manual_seed(0)))[:, :, 1:, 1:-1]
    power = v.square().mean((0, 3))  # 4 x 126 numbers each, sd about 0.06
    assert (power - 1).abs().max() < 0.4 and abs(power.mean() - 1) < 0.01


def test_spectrum_of_sizes_that_do_not_fit():
    for size, words in ((0, "no axis of length 0"), (100, "whole steps of 256"), (300, "whole steps of 256")):
        pytest.raises(ValueError, spectrum, torch.zeros(1, 1, size), 512).match(words)


def spectral(**kw):
    return SpectralUNet(
        2, dict(widths=(16, 32), blocks=(1, 1), stem=8), dict(widths=(8, 16), blocks=(1, 1), stem=2) | kw, n=32
    )


def test_spectral_unet_learns_in_both_halves():
    net, x, t = awake(spectral()), torch.randn(2, 2, 256), torch.zeros(2)
    assert net.multiple == 64 and net(x, t).shape == x.shape
    net(x, t).square().mean().backward()
    assert {k.split(".")[0] for k, p in net.named_parameters() if p.grad is not None and p.grad.any()} == {
        "wave",
        "picture",
    }


def test_spectral_unet_treats_rows_alone():
    net, x, t = awake(spectral()), torch.randn(3, 2, 128), torch.tensor([-0.5, 0, 0.4])
    with torch.no_grad():
        torch.testing.assert_close(net(x, t)[1:2], net(x[1:2], t[1:2]), rtol=1e-4, atol=1e-5)


def test_spectral_unet_in_half_precision():
    net, x = awake(spectral()), torch.randn(1, 2, 128)
    with torch.no_grad():
        full = net(x, torch.zeros(1))
        with torch.autocast("cpu", torch.bfloat16):
            cast = net(x, torch.zeros(1))
        half = net.to(torch.bfloat16)(x.bfloat16(), torch.zeros(1, dtype=torch.bfloat16))
    for v in (cast, half):
        assert (v - full).norm() < 0.1 * full.norm()


def test_spectral_unet_refuses_sizes():
    pytest.raises(ValueError, spectral(), torch.zeros(1, 2, 96), torch.zeros(1)).match("multiple of 64: crop to")
    pytest.raises(ValueError, spectral, stem=3).match("takes multiples of 6")


def test_adopt():
    net, part = spectral(), awake(UNet(2, ndim=1, widths=(16, 32), blocks=(1, 1), stem=8))
    adopt(net, part)
    assert same(net.wave, part) and all(p.requires_grad for p in net.parameters())
    adopt(net, part, hold=True)
    assert {k.split(".")[0] for k, p in net.named_parameters() if p.requires_grad} == {"picture"}
    whole = awake(spectral(), 1)
    adopt(net, whole)
    assert same(net, whole)
    pytest.raises(ValueError, adopt, part, net).match("of another form")
    pytest.raises(ValueError, adopt, net, whole, hold=True).match("leave it out")


def test_adopt_leaves_new_layers_as_they_are():
    from dde_kit.coordinator import ViTCoordinator

    kw = dict(ndim=1, hidden=24, depth=1, heads=3)
    plain, grown = awake(ViTCoordinator(1, 4, **kw)), ViTCoordinator(1, 4, **kw, periods=(3,))
    adopt(grown, plain, hold=True)
    assert all(torch.equal(v, grown.state_dict()[k]) for k, v in plain.state_dict().items())
    assert {k for k, p in grown.named_parameters() if p.requires_grad} == {
        "trust",
        "blocks.0.recur.weight",
        "blocks.0.recur.bias",
    }
    pytest.raises(ValueError, adopt, plain, grown).match("of another form")


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: build("toydomain/nano"), "domain/preset/part"),
        (lambda: build("no such/nano/base"), "domain/preset/part"),
        (lambda: build("cats/nano/base"), "unknown domain 'cats'"),
        (lambda: build("networks/nano/base"), "is no domain"),
        (lambda: build("toydomain/giant/base"), "choose one of nano, micro"),
        (lambda: build("toydomain/nano/hat"), "choose base or coordinator"),
        (lambda: build(BASE, colour="red"), "{'colour': 'red'}"),
        (lambda: load("maps-giant/base"), "shipped: "),
    ],
)
def test_names_that_do_not_exist(call, words):
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as e:
        call()
    assert words in str(e.value) and "\n" not in str(e.value)


def test_meta_device_allocates_nothing():
    assert all(p.is_meta for p in build(BASE, device="meta").parameters())


# there and back


@pytest.mark.parametrize("overrides", [{}, dict(stem=2), dict(widths=[8, 16, 32], blocks=[1, 1, 1])])
def test_round_trip(tmp_path, overrides):
    D = base(**overrides)
    assert save(D, tmp_path / "a" / "b", BASE, overrides, seed=3, note="x") == (tmp_path / "a" / "b").resolve()
    E = load(tmp_path / "a" / "b")
    assert same(D, E) and torch.equal(ask(D), ask(E))
    assert (E.sigma_data, E.sigma_skip, E.sampler, E.clamp, E.config["trained"]) == (
        0.4,
        0.1,
        D.sampler,
        [-1, 1],
        dict(seed=3, note="x"),
    )
    assert not E.training and not any(p.requires_grad for p in E.parameters())
    assert all(p.requires_grad for p in load(str(tmp_path / "a" / "b"), trainable=True).parameters())
    assert sorted(os.listdir(tmp_path / "a")) == ["b"] and sorted(os.listdir(tmp_path / "a" / "b")) == FILES
    save(E, tmp_path / "again", BASE, overrides)
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "a/b/model.safetensors").read_bytes()


def test_loading_leaves_the_random_state_alone(tmp_path):
    save(base(), tmp_path / "b", BASE)
    before = torch.get_rng_state()
    load(tmp_path / "b")
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision(tmp_path):
    D = base()
    save(D, tmp_path / "h", BASE, dtype=torch.float16)
    E = load(tmp_path / "h")
    assert {p.dtype for p in E.parameters()} == {torch.float32} and not same(D, E)
    torch.testing.assert_close(ask(E), ask(D), rtol=1e-2, atol=1e-2)
    save(
        DDE(D, Tiling(16, 8), build(COORDINATOR)), tmp_path / "dde", COORDINATOR
    )  # what is in memory rounds to the file
    with torch.no_grad():
        D.net.head[2].weight.mul_(1e6)
    with pytest.raises(ValueError, match="not finite"):
        save(D, tmp_path / "h", BASE, dtype=torch.float16)
    assert same(load(tmp_path / "h"), E)


@pytest.mark.skipif(os.name == "nt", reason="POSIX file modes")
def test_files_can_be_read_by_whom_the_folder_is_for(tmp_path):
    save(base(), tmp_path / "b", BASE)
    assert len({(tmp_path / "b" / f).stat().st_mode for f in FILES}) == 1


@pytest.mark.parametrize(
    "F", [Tiling(16, 8), Tiling(16, 8, window="hann"), Tiling((16, 8), (8, 8), strict=True), Repeat()], ids=repr
)
@pytest.mark.parametrize("space", ["f", "x0"])
def test_composite_round_trip(tmp_path, F, space):
    save(base(), tmp_path / "base", BASE)
    D = DDE(load(tmp_path / "base"), F, build(COORDINATOR), space=space)
    save(D, tmp_path / "dde", COORDINATOR, data="toys")
    E = load(tmp_path / "dde")
    assert same(D, E) and torch.equal(ask(D, 32), ask(E, 32)) and repr(E.F) == repr(F)
    assert E.sampler == dict(steps=9, S_churn=2.5) and E.config["base"] == "../base"
    assert not any(p.requires_grad for p in E.parameters())
    T = load(tmp_path / "dde", trainable=True)
    assert all(p.requires_grad for p in T.C.parameters()) and not any(p.requires_grad for p in T.D.parameters())


def test_composite_and_base_move_together(tmp_path):
    D = base()
    save(D, tmp_path / "run/base", BASE)
    C = DDE(D, Tiling(16, 8), build(COORDINATOR))
    save(C, tmp_path / "run/dde", COORDINATOR)
    os.replace(tmp_path / "run", tmp_path / "elsewhere")
    assert same(load(tmp_path / "elsewhere/dde"), C)


def test_a_coordinator_belongs_to_its_base(tmp_path):
    D = base()
    C = DDE(D, Tiling(16, 8), build(COORDINATOR))
    with pytest.raises(ValueError, match="save the base first"):
        save(C, tmp_path / "dde", COORDINATOR)
    save(D, tmp_path / "base", BASE)
    save(base(7), tmp_path / "other", BASE)
    with pytest.raises(ValueError, match="is not the one in"):
        save(C, tmp_path / "dde", COORDINATOR, base=tmp_path / "other")
    save(C, tmp_path / "dde", COORDINATOR)
    save(base(7), tmp_path / "base", BASE)
    with pytest.raises(ValueError, match="coordinator for another base"):
        load(tmp_path / "dde")
    for f in FILES:
        (tmp_path / "base" / f).unlink()
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        load(tmp_path / "dde")
    (tmp_path / "base").rmdir()
    with pytest.raises(FileNotFoundError, match="no trained denoiser"):
        load(tmp_path / "dde")


def test_shipped_names(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "WEIGHTS", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    assert shipped() == []
    D = base()
    save(D, tmp_path / "weights/toy-nano/base", BASE)
    C = DDE(load("toy-nano/base"), Tiling(16, 8), build(COORDINATOR))
    save(C, tmp_path / "weights/toy-nano/dde", COORDINATOR)
    save(C, "mine", COORDINATOR)
    assert shipped() == ["toy-nano/base", "toy-nano/dde"]
    assert load("toy-nano/dde").config["base"] == "../base" and load("mine").config["base"] == "toy-nano/base"
    assert same(load("mine"), C) and same(load("toy-nano/dde"), C)
    save(base(5), "toy-nano/base", BASE)  # a folder wins; what was stored keeps finding its own base
    assert same(load("toy-nano/base"), base(5)) and same(load(tmp_path / "weights/toy-nano/base"), D)
    assert same(load("mine"), C)
    with pytest.raises(FileNotFoundError, match="there is also a folder 'toy-nano' here"):
        load("toy-nano/dde")  # not of that folder, not of the kit: nobody can say which was meant
    with pytest.raises(FileNotFoundError, match="toy-nano/base, toy-nano/dde"):
        load("toy-nano/bass")


@pytest.mark.parametrize("name", shipped() or [pytest.param(None, marks=pytest.mark.skip("nothing is shipped yet"))])
def test_what_is_shipped_loads(name):
    D = load(name)
    assert all(v.isfinite().all() for v in D.state_dict().values())
    if not getattr(D, "alone", False):
        assert D.sigma_data > 0 and D.clamp == [-1, 1] and "steps" in D.sampler  # a classifier denoises nothing


# damage


@pytest.fixture
def folder(tmp_path):
    save(base(), tmp_path / "b", BASE)
    return tmp_path / "b"


def refused(folder, *words, kind=ValueError):
    with pytest.raises(kind) as e:
        load(folder)
    assert type(e.value) is kind and "\n" not in str(e.value) and all(w in str(e.value) for w in words), str(e.value)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, -1])
def test_truncated_tensors(folder, keep):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    refused(folder, "model.safetensors", "damaged or from another save", "Copy both files again")


@pytest.mark.parametrize("at", [0, 5, 9, 200, 0.5, -1])
def test_one_flipped_bit(folder, at):
    path = folder / "model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[int(at * len(whole)) if isinstance(at, float) else at] ^= 16
    path.write_bytes(whole)
    refused(folder, "damaged or from another save")


def test_bytes_too_many(folder):
    with open(folder / "model.safetensors", "ab") as f:
        f.write(b"\0")
    refused(folder, "damaged or from another save")


@pytest.mark.parametrize("file", FILES)
def test_missing_file(folder, file):
    (folder / file).unlink()
    refused(folder, f"has no {file}", "this one holds", kind=FileNotFoundError)


def test_empty_folder_and_file_instead_of_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds nothing", kind=FileNotFoundError)
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "neither a folder", kind=FileNotFoundError)


@pytest.mark.parametrize("keep", [0, 1, 0.5, -3])
def test_truncated_config(folder, keep):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[: int(keep * len(text)) if isinstance(keep, float) else keep])
    refused(folder, "config.json", "damaged")


def test_config_that_is_not_text(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    refused(folder, "config.json", "damaged")


def change(folder, **kw):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (config | kw).items() if v is not ...}))


@pytest.mark.parametrize(
    "kw,words",
    [
        (dict(format=2), ["format", "install a newer dde_kit"]),
        (dict(format=...), ["was not written by `save`"]),
        *[
            ({k: ...}, ["lacks", k])
            for k in ("kind", "network", "overrides", "sigma_data", "sampler", "clamp", "tensors")
        ],
        (dict(kind="dde"), ["lacks base, base_tensors, tiling"]),
        (dict(kind="cat"), ["'cat'", "denoiser", "dde"]),
        (dict(network="toydomain/micro/base"), ["micro", "another preset"]),
        (dict(network="toydomain/giant/base"), ["choose one of"]),
        (dict(overrides=dict(stem=2)), ["stem", "should be"]),
    ],
)
def test_changed_config(folder, kw, words):
    change(folder, **kw)
    refused(folder, *words)


def test_config_that_is_a_list(folder):
    (folder / "config.json").write_text("[]")
    refused(folder, "was not written by `save`")


def test_garbage_with_the_right_checksum(folder):
    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    change(folder, tensors=networks._digest(folder / "model.safetensors"))
    refused(folder, "is no safetensors file")


def test_files_of_two_saves_do_not_mix(folder, tmp_path):
    save(base(9), tmp_path / "c", BASE)
    os.replace(tmp_path / "c/model.safetensors", folder / "model.safetensors")
    refused(folder, "from another save")


# whole or not at all


def die_at(n):
    "In this process, the n-th call that touches the disk is the last."
    left = [n]

    def wrap(f):
        def g(*args, **kw):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return f(*args, **kw)

        return g

    os.fsync, os.replace, os.mkdir, os.unlink, os.rmdir = map(
        wrap, (os.fsync, os.replace, os.mkdir, os.unlink, os.rmdir)
    )
    networks.save_file, networks._digest, networks.shutil.copymode = map(
        wrap, (networks.save_file, networks._digest, networks.shutil.copymode)
    )
    Path.write_text = wrap(Path.write_text)


def dies(D, folder, n):
    if (child := os.fork()) == 0:
        try:
            torch.set_num_threads(1)
            die_at(n)
            save(D, folder, BASE)
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), "the save failed by itself"
    return code == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("before", [True, False], ids=["replacing", "first"])
@pytest.mark.parametrize("clean", [True, False], ids=["each alone", "one after another"])
def test_death_at_any_moment(tmp_path, before, clean):

    old, new, found = base(1), base(2), []
    for n in range(60):
        home = tmp_path / (str(n) if clean else "home")
        folder = home / "b"
        if not home.exists():
            home.mkdir()
            if before:
                save(old, folder, BASE)
        died = dies(new, folder, n)
        try:
            E = load(folder)
        except FileNotFoundError:
            assert not before
            found.append("none")
        else:
            found.append("new" if same(E, new) else "old" if same(E, old) else "neither")
        if not died:
            break
        if clean:  # whatever was left, the next save comes through and clears it
            save(new, folder, BASE)
            assert same(load(folder), new) and os.listdir(home) == ["b"]
    assert not died and found[-1] == "new" and len(found) > 8 and os.listdir(home) == ["b"]
    assert set(found) == {"old" if before else "none", "new"}
    assert found == sorted(found, key=lambda f: f == "new"), "once the new one is there it stays"


@pytest.mark.parametrize("where", ["save_file", "_digest", "_flush"])
@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
def test_a_save_that_fails_changes_nothing(folder, monkeypatch, where, error):
    def fail(*args, **kw):
        raise error

    with monkeypatch.context() as m:
        m.setattr(networks, where, fail)
        with pytest.raises(type(error)):
            save(base(3), folder, BASE)
    assert same(load(folder), base()) and os.listdir(folder.parent) == ["b"]


def test_a_failing_second_rename_puts_the_old_folder_back(folder, monkeypatch):
    real = os.replace

    def fail(a, b):
        if str(a).endswith(".new"):
            raise OSError("no")
        return real(a, b)

    with monkeypatch.context() as m:
        m.setattr(os, "replace", fail)
        with pytest.raises(OSError):
            save(base(3), folder, BASE)
    assert same(load(folder), base()) and os.listdir(folder.parent) == ["b"]


def test_save_destroys_nothing_else(folder):
    (folder / "log.csv").write_text("1,2")
    with pytest.raises(ValueError, match="something else than a denoiser"):
        save(base(3), folder, BASE)
    with pytest.raises(ValueError, match="something else than a denoiser"):
        save(base(3), folder / "log.csv", BASE)
    assert (folder / "log.csv").read_text() == "1,2" and same(load(folder), base())


@pytest.mark.parametrize(
    "make,kw,words",
    [
        (lambda: Clamp(base()), {}, "Clamp cannot be saved"),
        (lambda: UNet(3), {}, "UNet cannot be saved"),
        (lambda: DDE(base(), Tiling(16, 8), build(COORDINATOR), encode=abs), {}, "encode"),
        (base, dict(network="toydomain/micro/base"), "this is not the network"),
        (base, dict(overrides=dict(stem=2)), "this is not the network"),
        (base, dict(network=COORDINATOR), "is missing"),
        (base, dict(history=[float("nan")]), "finite"),
        (base, dict(sampler=dict(S_max=float("inf"))), "finite"),
        (base, dict(when=object()), "cannot be kept in config.json"),
    ],
)
def test_saves_that_could_not_be_loaded(tmp_path, make, kw, words):
    with pytest.raises((TypeError, ValueError)) as e:
        save(make(), tmp_path / "b", **{"network": BASE, **kw})
    assert words in str(e.value) and "\n" not in str(e.value) and not os.listdir(tmp_path)


def test_diverged_training_is_not_saved(tmp_path):
    D = base()
    with torch.no_grad():
        D.net.stem[1].bias[0] = float("inf")
    with pytest.raises(ValueError, match="stem.1.bias holds numbers that are not finite"):
        save(D, tmp_path / "b", BASE)


# nothing pickled


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def never(*args, **kw):
        raise AssertionError("pickle was used")

    D = base()
    C = DDE(D, Tiling(16, 8), build(COORDINATOR))
    with monkeypatch.context() as m:
        for f in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
            m.setattr(pickle, f, never)
        for f in ("load", "save"):
            m.setattr(torch, f, never)
        save(D, tmp_path / "base", BASE)
        save(C, tmp_path / "dde", COORDINATOR)
        load(tmp_path / "dde")
    for path in tmp_path.glob("*/*"):
        assert path.suffix in (".json", ".safetensors")
        if path.suffix == ".json":
            json.loads(path.read_text())
            continue
        data = path.read_bytes()
        n = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + n])
        assert max(t["data_offsets"][1] for t in header.values() if "data_offsets" in t) == len(data) - 8 - n, (
            "only tensors after the header"
        )
