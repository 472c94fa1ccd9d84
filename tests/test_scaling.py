"What a run costs: the same result whichever way it is computed, books that balance, and predictions that scale."

import math
import pytest
import torch
import torch.nn.functional as nnf
from dde_kit.baselines import MultiDiffusion
from dde_kit.coordinator import DDE, ViTCoordinator
from dde_kit.decomposition import Tiling
from dde_kit.denoising import Clamp, EDMDenoiser
from dde_kit.networks import UNet
from dde_kit.sampling import sample, sampler_settings
from dde_kit.scaling import (
    KINDS,
    Cost,
    Ledger,
    Living,
    Loop,
    calls_of,
    clock,
    flops,
    matmul_rate,
    on_meta,
    peak,
    peak_bytes,
    predict,
    race,
    seconds,
    who,
)


def pair(cond=True, ndim=2, seed=0):
    "A base and a composite around it, small, with weights that do something."
    torch.manual_seed(seed)
    c = 2 * cond
    D = EDMDenoiser(UNet(3, ndim=ndim, widths=(16, 32), blocks=(1, 1), stem=2, cond_channels=c), 0.5).requires_grad_(
        False
    )
    C = ViTCoordinator(
        3,
        4,
        hidden=48,
        depth=3,
        heads=2,
        ndim=ndim,
        residual=True,
        noisy=True,
        cond="tokens" if cond else None,
        cond_channels=c,
    )
    dde = DDE(D, Tiling(16, 8), C).eval()
    for p in dde.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return D, dde


def canvas(n, b=1, cond=True, ndim=2, device="cpu", seed=1):
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(b, c, *[n] * ndim, generator=g).to(device) for c in (3, 2))
    return x, torch.linspace(0.3, 3, b).to(device), y if cond else None


def close(a, b):
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cond", [True, False])
@pytest.mark.parametrize("ndim", [1, 2])
@pytest.mark.parametrize("n", [16, 32, 40, 44])
def test_loop_is_batch(n, ndim, cond):
    D, dde = pair(cond, ndim)
    args = canvas(n, 2, cond, ndim)
    close(Loop(D, dde.F)(*args), MultiDiffusion(D, dde.F)(*args))


@pytest.mark.parametrize("chunk", [1, 2, 5, 8, 9, 17, 18, 100])
def test_chunk_changes_nothing(chunk):
    D, dde = pair()
    args = canvas(32, 2)
    close(DDE(D, dde.F, dde.C, chunk=chunk)(*args), dde(*args))
    close(MultiDiffusion(D, dde.F, chunk=chunk)(*args), MultiDiffusion(D, dde.F)(*args))


def test_batch_changes_nothing():
    D, dde = pair()
    x, s, y = canvas(32, 3)
    for rule in (dde, MultiDiffusion(D, dde.F), Loop(D, dde.F)):
        close(torch.cat([rule(x[i : i + 1], s[i : i + 1], y[i : i + 1]) for i in range(3)]), rule(x, s, y))


def test_who():
    D, dde = pair()
    assert who(Clamp(dde)) == (D, dde.C) and who(MultiDiffusion(D, dde.F)) == (D, None) and who(D) == (D, None)


def test_ledger_leaves_no_trace():
    D, dde = pair()
    args, attention = canvas(32), nnf.scaled_dot_product_attention
    plain = dde(*args)
    with Ledger(dde, lambda: 0):
        assert torch.equal(dde(*args), plain)
    with pytest.raises(ValueError, match="sigma"), Ledger(dde, lambda: 0):
        dde(args[0], torch.zeros(1), args[2])
    assert nnf.scaled_dot_product_attention is attention
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in dde.modules())


def test_books_balance():
    "Whatever the total is, what is booked is all of it."
    D, dde = pair()
    n = iter(range(10**6))
    with Ledger(dde, lambda: next(n)) as ledger:
        dde(*canvas(32))
    assert (
        set(ledger.spent) == set(KINDS)
        and sum(ledger.spent.values()) == next(n) - 1
        and all(v > 0 for v in ledger.spent.values())
    )


@pytest.mark.parametrize("n", [16, 32, 64])
def test_flops_on_meta_are_flops(n):
    D, dde = pair()
    a, b = flops(dde, *canvas(n)), flops(dde, *canvas(n, device="meta"))
    assert a == b and a["rest"] == 0
    C, layout = dde.C, dde.F.layout((n, n))
    t, m = layout.L * (16 // 4) ** 2, math.prod(-(-n // q) for q in C.q)
    assert a["attention"] == 4 * 48 * (2 * (t + m) ** 2 + t * (t + m))
    assert a["base"] == layout.L * flops(D, *canvas(16))["base"] == flops(Loop(D, dde.F), *canvas(n))["base"]


def test_bytes_on_meta_are_bytes():
    D, dde = pair()
    args, ghosts = canvas(32), canvas(32, device="meta")
    for a in (args, ghosts):
        peak(dde, *a)  # the tables of a layout are made once
    assert peak(dde, *args) == peak(dde, *ghosts)
    few, all = (peak(DDE(D, dde.F, dde.C, chunk=k), *canvas(64, device="meta")) for k in (2, None))
    assert few < all


def test_meta_leaves_the_weights():
    D, dde = pair()
    args = canvas(32)
    before = dde(*args)
    with Ledger(dde, lambda: 0):
        assert on_meta(dde)(*canvas(32, device="meta")).shape == before.shape
    assert torch.equal(dde(*args), before) and all(p.device.type == "cpu" for p in dde.parameters())


def test_living_by_hand():
    def f():
        a = torch.zeros(1000)
        b = a + 1
        del a
        b.add_(1)
        return b.view(10, 100) * 2

    assert peak_bytes(f) == 8000
    with Living() as living:
        a = torch.zeros(10)
        b = a[2:]
        del a
        held = living.now
        del b
    assert held == 40 and living.now == 0


def test_given_tensors_are_not_counted():
    a = torch.zeros(1000)
    assert peak_bytes(lambda: a.add_(1)) == 0 and peak_bytes(lambda: a + 1) == 4000


def test_race_rows_and_names():
    order = []
    t = race(dict(a=lambda: order.append("a"), b=lambda: order.append("b")), repeats=3)
    assert list(t.columns) == ["a", "b"] and len(t) == 3 and order == ["a", "b"] * 4 and (t >= 0).all().all()


def test_clock_and_rate():
    read = clock()
    assert read() <= read() and matmul_rate(n=64, repeats=2) > 0


def test_seconds_by_kind():
    D, dde = pair()
    t = seconds(dde, *canvas(32), repeats=2)
    assert set(t) == set(KINDS) and all(v >= 0 for v in t.values()) and t["base"] > 0
    assert seconds(MultiDiffusion(D, dde.F), *canvas(32))["coordinator"] == 0


class Counted(Clamp):
    "How often is it asked?"

    calls = 0

    def forward(self, *args):
        self.calls += 1
        return super().forward(*args)


@pytest.mark.parametrize(
    "settings",
    [dict(steps=1), dict(steps=4), dict(steps=4, solver="euler"), dict(steps=6, S_churn=3.0, S_min=0.1, S_max=5.0)],
)
def test_calls_and_draws(settings, monkeypatch):
    "As many as the sampler really makes."
    import dde_kit.sampling as s

    draws, noise = [], s.unit_noise
    monkeypatch.setattr(s, "unit_noise", lambda *a: draws.append(a) or noise(*a))
    D = Counted(pair(cond=False)[0])
    sample(D, (1, 3, 16, 16), seed=0, **settings)
    assert calls_of(sampler_settings(D, **settings)) == (D.calls, len(draws))


@pytest.mark.parametrize("probe", [None, (32, 32)])
def test_predict(probe):
    D, dde = pair()
    x, s, y = canvas(64)
    dde(x, s, y)  # the tables of a layout are made once
    short, long = (predict(dde, x.shape, y, probe=probe, repeats=1, steps=k, solver="euler") for k in (1, 1000))
    assert isinstance(short, Cost) and 0 < short.seconds < long.seconds and short.bytes > 0
    assert (short.calls, long.calls) == (1, 1000) and short.bytes == long.bytes
    assert short.flops == long.flops == sum(flops(dde, *canvas(64, device="meta")).values())
    assert "for 1000 calls" in str(long)


def test_predict_scales():
    "Bytes and FLOPs grow with the canvas and the batch."
    D, dde = pair()
    cost = {
        (n, b): predict(dde, (b, 3, n, n), canvas(n, b)[2], repeats=1, steps=2) for n, b in ((16, 1), (32, 1), (32, 2))
    }
    assert cost[16, 1].flops < cost[32, 1].flops < cost[32, 2].flops == 2 * cost[32, 1].flops
    assert cost[16, 1].bytes < cost[32, 1].bytes < cost[32, 2].bytes


def test_predict_takes_the_samplers_settings():
    D, dde = pair(cond=False)
    dde.sampler = dict(steps=7, solver="euler")
    assert (
        predict(dde, (1, 3, 16, 16), repeats=1).calls == 7
        and predict(Clamp(dde), (1, 3, 16, 16), repeats=1, steps=3).calls == 3
    )
    with pytest.raises(ValueError, match="unknown sampler setting"):
        predict(dde, (1, 3, 16, 16), step=3)


@pytest.mark.parametrize(
    "shape,kw,says",
    [
        ((1, 3), {}, "not that of samples"),
        ((1, 3, 0, 16), {}, "not that of samples"),
        ((1, 3, 32, 32), dict(probe=(64, 64)), "none longer"),
        ((1, 3, 32, 32), dict(probe=(16,)), "2 axes"),
        ((1, 3, 32, 32), dict(repeats=0), "repeats=0 has to be"),
        ((1, 3, 32, 32), dict(y=torch.zeros(2, 2, 32, 32)), "1 samples need 1 conditions"),
        ((1, 3, 8, 8), {}, "smaller than a part"),
        ((1, 3, 32, 32), dict(steps=0), "steps"),
    ],
)
def test_predict_refuses(shape, kw, says):
    D, dde = pair(cond=False)
    with pytest.raises(ValueError, match=says):
        predict(dde, shape, **kw)


def test_predict_refuses_meta():
    with pytest.raises(ValueError, match="has no speed"):
        predict(pair(cond=False)[1].to("meta"), (1, 3, 16, 16))


class Foreign(torch.nn.Module):
    "A model that looks at its numbers, so that it cannot run on `meta`."

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(3, 3))

    def forward(self, x, sigma, y=None):
        return torch.einsum("bchw,cd->bdhw", x, self.w) * float(x.abs().max() > 0)


def test_predict_foreign():
    "Counted on the real call; only a probe needs `meta`."
    cost = predict(Foreign(), (2, 3, 16, 16), repeats=1, steps=5)
    assert cost.calls == 9 and cost.flops == 2 * 2 * 16 * 16 * 9 and cost.seconds > 0
