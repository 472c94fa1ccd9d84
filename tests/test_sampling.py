"The sampler against an independent numpy version of EDM's Algorithms 1 and 2, closed forms, and every refusal."

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from dde_kit.denoising import *
from dde_kit.sampling import *

# An analytic denoiser of a Gaussian mixture, in numpy and in torch, each on its own.

CENTRES, WEIGHTS, WIDTHS = (
    np.array([[-0.8, 0.1, 0.4], [0.3, 0.9, -0.2], [0.6, -0.5, 0.0]]),
    np.array([0.5, 0.3, 0.2]),
    np.array([0.1, 0.25, 0.4]),
)


def denoise_np(x, s):
    "E[x0 | x] for rows of 3 numbers."
    out = np.empty_like(x)
    for r, row in enumerate(x):
        var = WIDTHS**2 + s**2
        lw = np.log(WEIGHTS) - ((row - CENTRES) ** 2).sum(1) / (2 * var) - 1.5 * np.log(var)
        p = np.exp(lw - lw.max())
        p /= p.sum()
        out[r] = (p[:, None] * (WIDTHS[:, None] ** 2 * row + s**2 * CENTRES) / var[:, None]).sum(0)
    return out


def denoise(x, sigma, y=None):
    c, w, h = [torch.from_numpy(a).to(x) for a in (CENTRES, WEIGHTS, WIDTHS)]
    var = h**2 + sigma[:, None] ** 2
    p = (w.log() - 1.5 * var.log() - torch.cdist(x[:, 0], c) ** 2 / (2 * var)).softmax(1)[..., None]
    return (p * (h[:, None] ** 2 * x + sigma[:, None, None] ** 2 * c) / var[..., None]).sum(1, keepdim=True)


def edm_np(start, fresh, n, lo, hi, rho, second, churn=0.0, window=(0.0, math.inf), extra=1.0):
    "EDM's stochastic sampler as the article's pseudo-code has it; `fresh[j]` is the noise of step j."
    ladder = [(hi ** (1 / rho) + j / (n - 1) * (lo ** (1 / rho) - hi ** (1 / rho))) ** rho for j in range(n)] + [0.0]
    z = start * ladder[0]
    for j in range(n):
        now, nxt = ladder[j], ladder[j + 1]
        g = min(churn / n, 2**0.5 - 1) if window[0] <= now <= window[1] else 0.0
        up = now + g * now
        z_up = z + np.sqrt(up * up - now * now) * extra * fresh[j]
        slope = (z_up - denoise_np(z_up, up)) / up
        z = z_up + (nxt - up) * slope
        if second and nxt > 0:
            slope2 = (z - denoise_np(z, nxt)) / nxt
            z = z_up + (nxt - up) * (0.5 * slope + 0.5 * slope2)
    return z


CASES = [
    dict(),
    dict(churn=20.0),
    dict(churn=7.0, window=(0.05, 2.0)),
    dict(churn=500.0, extra=1.007),
    dict(churn=30.0, window=(0.02, 50.0), extra=0.9),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("solver", ["heun", "euler"])
@pytest.mark.parametrize("n,lo,hi,rho", [(18, 0.002, 80.0, 7.0), (40, 1e-4, 20.0, 7.0), (9, 0.01, 5.0, 3.0)])
def test_agrees_with_edm(case, solver, n, lo, hi, rho):
    b, seed, first = 6, 11, 3
    start = np.stack([unit_noise(seed, first + k, 0, (1, 3)).numpy() for k in range(b)])
    fresh = [np.stack([unit_noise(seed, first + k, j + 1, (1, 3)).numpy() for k in range(b)])[:, 0] for j in range(n)]
    want = edm_np(start[:, 0], fresh, n, lo, hi, rho, solver == "heun", **case)
    window = case.get("window", (0.0, math.inf))
    got = sample(
        denoise,
        (b, 1, 3),
        x=torch.from_numpy(start),
        seed=seed,
        first=first,
        steps=n,
        sigma_min=lo,
        sigma_max=hi,
        rho=rho,
        solver=solver,
        S_churn=case.get("churn", 0),
        S_min=window[0],
        S_max=window[1],
        S_noise=case.get("extra", 1),
    )
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got[:, 0].numpy(), want, rtol=0, atol=1e-9)


def test_the_two_denoisers_are_the_same():
    x = np.random.default_rng(0).normal(size=(5, 3))
    for s in (0.01, 0.5, 30.0):
        np.testing.assert_allclose(
            denoise(torch.from_numpy(x)[:, None], torch.full((5,), s).double())[:, 0].numpy(),
            denoise_np(x, s),
            atol=1e-12,
        )


# Order of convergence

NS = np.array([40, 80, 160, 320])
ORDER = dict(euler=1, heun=2)


def fitted(errors):
    return -np.polyfit(np.log(NS), np.log(errors), 1)[0]


@pytest.mark.parametrize("solver", ORDER)
def test_order_on_gaussian_data(solver):
    D, x = EDMDenoiser(lambda x, c_noise, y: 0 * x, 0.5), torch.ones(1, 1, 1, dtype=torch.float64)
    want = 80 * 0.5 / math.sqrt(80**2 + 0.25)
    errors = [abs(sample(D, x.shape, x=x, steps=int(n), sigma_min=1e-5, solver=solver).item() - want) for n in NS]
    assert fitted(errors) == pytest.approx(ORDER[solver], abs=0.15)


@pytest.mark.parametrize("solver", ORDER)
def test_order_on_a_mixture(solver):
    start, lo, hi = np.array([[0.3, -1.0, 0.5], [-0.7, 0.4, 1.1]]), 0.01, 20.0
    rhs = lambda u, z: (z.reshape(2, 3) - denoise_np(z.reshape(2, 3), math.exp(u))).ravel()  # in u = ln(sigma)
    z = (
        solve_ivp(rhs, (math.log(hi), math.log(lo)), hi * start.ravel(), method="DOP853", rtol=1e-11, atol=1e-12)
        .y[:, -1]
        .reshape(2, 3)
    )
    want = denoise_np(z, lo)
    errors = [
        np.abs(
            sample(
                denoise,
                (2, 1, 3),
                x=torch.from_numpy(start)[:, None],
                steps=int(n),
                sigma_min=lo,
                sigma_max=hi,
                solver=solver,
            )[:, 0].numpy()
            - want
        ).mean()
        for n in NS
    ]
    assert fitted(errors) == pytest.approx(ORDER[solver], abs=0.25)


# Levels


@pytest.mark.parametrize("n", [1, 2, 3, 150])
def test_levels(n):
    s = karras_sigmas(n, 1e-4, 20)
    assert s.dtype == torch.float64 and s.shape == (n + 1,) and s[0] == 20 and s[-1] == 0 and (s.diff() < 0).all()
    if n > 1:
        assert s[-2] == 1e-4


def test_levels_are_even_in_the_root():
    for rho in (1, 2.5, 7):
        torch.testing.assert_close(
            (karras_sigmas(30, 0.002, 80, rho)[:-1] ** (1 / rho)).diff(),
            torch.full((29,), (0.002 ** (1 / rho) - 80 ** (1 / rho)) / 29).double(),
        )


def test_the_papers_churn_window():
    lifted = [s for s in karras_sigmas(150, 1e-4, 20)[:-1].tolist() if churned(s, 150, 20, 0.01, 1.0) > s]
    assert len(lifted) == 57 and churned(0.5, 150, 20, 0.01, 1.0) / 0.5 - 1 == pytest.approx(20 / 150)


# What the denoiser is asked


def levels_asked(**kw):
    seen = []

    def D(x, sigma, y):
        assert sigma.shape == x.shape[:1] and sigma.dtype == x.dtype and (sigma == sigma[0]).all()
        seen.append(sigma[0].item())
        return 0.5 * x

    sample(D, (2, 1, 4), x=torch.ones(2, 1, 4, dtype=torch.float64), seed=0, **kw)
    return seen


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("churn", [0, 3])
def test_calls(n, churn):
    assert len(levels_asked(steps=n, S_churn=churn)) == 2 * n - 1
    assert len(levels_asked(steps=n, S_churn=churn, solver="euler")) == n


def test_churn_lifts_only_inside_its_window():
    s = karras_sigmas(20, 0.002, 80)[:-1]
    asked = torch.tensor(levels_asked(steps=20, solver="euler", S_churn=4, S_min=0.05, S_max=3.0)).double()
    inside = (s >= 0.05) & (s <= 3)
    assert 0 < inside.sum() < 20
    torch.testing.assert_close(asked, torch.where(inside, 1.2 * s, s))


def test_the_ends_of_the_window_belong_to_it():
    s = karras_sigmas(10, 0.002, 80)
    assert levels_asked(steps=10, solver="euler", S_churn=2, S_max=80.0)[0] == pytest.approx(96)
    assert levels_asked(steps=10, solver="euler", S_churn=2, S_min=s[4].item(), S_max=s[4].item())[4] == pytest.approx(
        1.2 * s[4].item()
    )


# Noise and seeds


def test_noise_is_a_function():
    a = unit_noise(1, 2, 3, (2, 5))
    assert torch.equal(a, unit_noise(1, 2, 3, (2, 5))) and a.dtype == torch.float64 and a.shape == (2, 5)
    others = [unit_noise(*k, (2, 5)) for k in ((0, 2, 3), (1, 3, 3), (1, 2, 4), (1 + 2**32, 2, 3), (2**40, 2, 3))]
    assert all((a - o).abs().max() > 0.1 for o in others)


def test_noise_is_standard_normal():
    e = torch.cat([unit_noise(s, k, i, (4000,)) for s in (0, 9) for k in (0, 1, 1000) for i in (0, 1, 50)])
    assert e.mean().abs() < 0.02 and abs(e.std() - 1) < 0.02 and abs((e**4).mean() - 3) < 0.15


@pytest.mark.parametrize("churn", [0, 20])
def test_a_sample_does_not_know_its_batch(churn):
    run = lambda b, first=0, seed=5: sample(denoise, (b, 1, 3), seed=seed, first=first, steps=10, S_churn=churn)
    whole = run(7)
    torch.testing.assert_close(torch.cat([run(2), run(1, 2), run(4, 3)]), whole, rtol=1e-4, atol=1e-4)
    assert (run(7, seed=6) - whole).abs().max() > 0.1 and torch.equal(run(7), whole)


def test_no_seed_is_another_run_and_follows_torch():
    run = lambda: sample(denoise, (3, 1, 3), steps=4)
    assert (run() - run()).abs().max() > 0.01
    torch.manual_seed(3)
    a = run()
    torch.manual_seed(3)
    assert torch.equal(a, run())


def test_without_churn_all_chance_is_in_the_start():
    x = torch.randn(4, 1, 3, dtype=torch.float64)
    run = lambda seed, **kw: sample(denoise, x.shape, x=x, seed=seed, steps=12, **kw)
    assert torch.equal(run(1), run(2)) and (run(1, S_churn=10) - run(2, S_churn=10)).abs().max() > 1e-3
    assert torch.equal(run(1, S_churn=10, S_noise=0, S_min=100.0), run(1))


def test_the_start_is_not_changed():
    x = torch.randn(2, 1, 3)
    y = x.clone()
    sample(denoise, x.shape, x=x, steps=3, S_churn=5)
    assert torch.equal(x, y)


def test_precision():
    x = torch.randn(4, 1, 3, dtype=torch.float64)
    net = EDMDenoiser(ConvNet())
    for D in (denoise, net):
        a, b = sample(D, x.shape, x=x, steps=8), sample(D, x.shape, x=x.float(), steps=8)
        assert (a.dtype, b.dtype) == (torch.float64, torch.float32)
        torch.testing.assert_close(a.float(), b, rtol=1e-3, atol=1e-3)
    assert sample(net, (1, 1, 3), steps=2).requires_grad is False


class ConvNet(nn.Conv1d):
    def __init__(self):
        super().__init__(1, 1, 3, padding=1)

    def forward(self, x, c_noise, y):
        return super().forward(x)


# Settings


def test_settings_come_from_the_denoiser():
    class D(nn.Module):
        sampler = dict(steps=3, solver="euler", sigma_max=10.0)

        def forward(self, x, sigma, y=None):
            seen.append(sigma[0].item())
            return 0 * x

    for wrap in (lambda d: d, Clamp, lambda d: Guided(Clamp(d), 2.0)):
        seen = []
        sample(wrap(D()), (1, 1, 2), seed=0)
        assert len(seen) == 3 and seen[0] == 10
        seen = []
        sample(wrap(D()), (1, 1, 2), seed=0, steps=4, solver="heun")
        assert len(seen) == 7 and seen[0] == 10
    with pytest.raises(ValueError, match="unknown sampler setting step:.*steps"):
        bad = D()
        bad.sampler = dict(step=3)
        sample(bad, (1, 1, 2))


def test_a_new_solver_is_one_entry(monkeypatch):
    monkeypatch.setitem(SOLVERS, "jump", lambda slope, x, s, t: x - s * slope(x, s))
    assert sample(denoise, (2, 1, 3), steps=3, solver="jump").isfinite().all()


def test_progress_bar(capsys):
    sample(denoise, (1, 1, 3), steps=5, progress="five steps")
    err = capsys.readouterr().err
    assert "five steps" in err and "5/5" in err and "<" in err
    sample(denoise, (1, 1, 3), steps=5)
    assert capsys.readouterr().err == ""


def test_conditions_reach_the_denoiser():
    y = torch.arange(3.0)[:, None]

    def D(x, sigma, y):
        return y[:, :, None].expand_as(x)

    torch.testing.assert_close(sample(D, (3, 1, 2), y, steps=4, seed=0), y[:, :, None].expand(3, 1, 2))


# Guidance


def shifted(x, sigma, y=None):
    keep = (0.25 / (sigma**2 + 0.25))[:, None, None]
    return keep * x + (1 - keep) * (0 if y is None else y.nan_to_num(0.0)[:, :, None])


@pytest.mark.parametrize("w", [-1, 0, 0.5, 20])
def test_guided_gaussians_overshoot(w):
    y, x = torch.tensor([[0.7], [-0.2]], dtype=torch.float64), torch.randn(2, 1, 5, dtype=torch.float64)
    plain = sample(shifted, x.shape, (1 + w) * y, x=x, steps=20)
    for null in (None, math.nan, 0, torch.zeros_like):
        torch.testing.assert_close(
            sample(Guided(shifted, w, null), x.shape, y, x=x, steps=20), plain, rtol=1e-9, atol=1e-9
        )


def test_guidance_is_one_call_where_the_condition_is_a_value():
    seen = []

    def D(x, sigma, y=None):
        seen.append((len(x), len(sigma), None if y is None else len(y)))
        return shifted(x, sigma, y)

    x, s, y = torch.randn(3, 1, 4), torch.ones(3), torch.ones(3, 1)
    Guided(D, 2.0, 0.0)(x, s, y)
    assert seen == [(6, 6, 6)]
    seen.clear()
    Guided(D, 2.0)(x, s, y)
    assert seen == [(3, 3, 3), (3, 3, None)]
    seen.clear()
    Guided(D, 0.0)(x, s, y)
    Guided(D, 2.0, 0.0)(x, s)
    assert seen == [(3, 3, 3), (3, 3, None)]


def test_guidance_takes_class_numbers():
    def D(x, sigma, y):
        return y.reshape(-1, 1, 1) * torch.ones_like(x)

    assert (
        Guided(D, 1.0, null=10)(torch.zeros(2, 1, 3), torch.ones(2), torch.tensor([3, 4]))[:, 0, 0]
        == torch.tensor([-4.0, -2.0])
    ).all()


@pytest.mark.parametrize("w", [-1, 0, 0.5, 3])
def test_a_weaker_bell_guides_to_the_geometric_extrapolation(w):
    def belief(s):
        return EDMDenoiser(lambda x, c_noise, y: 0 * x, sigma_data=s)

    x = torch.randn(2, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(
        sample(Guided(belief(0.6), w, weak=belief(0.8)), x.shape, x=x, steps=200),
        x * 0.6 * (0.6 / 0.8) ** w,
        rtol=0.01,
        atol=0,
    )


def test_a_weaker_model_gets_the_condition_and_is_asked_in_its_window_only():
    seen, y = [], torch.ones(2, 1)

    def D(x, sigma, y=None):
        return 2 * torch.ones_like(x)

    def weak(x, sigma, y=None):
        seen.append(y)
        return torch.ones_like(x)

    G, x = Guided(Clamp(D, hi=9), 3.0, weak=weak, above=0.5, below=2.0), torch.zeros(2, 1, 4)
    assert (G(x, torch.tensor([0.5, 2.0]), y)[:, 0, 0] == torch.tensor([2.0, 5.0])).all() and seen == [y]
    seen.clear()
    assert (G(x, torch.tensor([0.4, 2.1]), y) == 2).all() and not seen
    assert G(x.bfloat16(), torch.ones(2)).dtype == torch.bfloat16 and seen == [None]
    with pytest.raises(ValueError, match="use one of the two"):
        Guided(D, 1.0, math.nan, weak=weak)
    for window in ((-1.0, 2.0), (2.0, 2.0), (3.0, 1.0)):
        with pytest.raises(ValueError, match="above < sigma <= below"):
            Guided(D, 1.0, above=window[0], below=window[1])


# A hidden offset and how high to begin


@pytest.mark.parametrize("n,top", [(16, 20.0), (64, 20.0), (64, 80.0)])
def test_a_hidden_offset_arrives_as_the_formula_says(n, top):
    s = 0.3

    def D(x, sigma, y=None):  # every canvas is one constant of standard deviation s
        return s**2 / (s**2 + sigma.reshape(-1, 1, 1, 1) ** 2 / n**2) * x.mean((2, 3), keepdim=True).expand_as(x)

    x = torch.randn(3, 1, n, n, dtype=torch.float64)
    got = sample(D, x.shape, x=x, steps=100, sigma_max=top).mean((1, 2, 3))
    torch.testing.assert_close(got, s * n * x.mean((1, 2, 3)) / math.sqrt(1 + (n * s / top) ** 2), rtol=5e-3, atol=1e-4)


# Refusals


@pytest.mark.parametrize(
    "kw,text",
    [
        (dict(steps=0), "whole number of at least 1"),
        (dict(steps=-3), "whole number"),
        (dict(steps=2.5), "=2.5 has to be a whole number"),
        (dict(solver="rk45"), "'rk45' is not known: use one of euler, heun"),
        (dict(sigma_max=0.001), "0 < sigma_min < sigma_max"),
        (dict(sigma_min=80.0), "0 < sigma_min"),
        (dict(sigma_min=0.0), "sigma_min=0"),
        (dict(sigma_min=-1.0), "sigma_min=-1"),
        (dict(sigma_max=math.nan), "sigma_max=nan"),
        (dict(sigma_max=math.inf), "sigma_max=inf"),
        (dict(rho=0), "rho=0"),
        (dict(rho=math.nan), "rho=nan"),
        (dict(S_churn=-1), "S_churn=-1"),
        (dict(S_churn=math.nan), "S_churn=nan"),
        (dict(S_noise=-0.1), "S_noise"),
        (dict(S_min=2.0, S_max=1.0), "swap them"),
        (dict(x=torch.zeros(2, 1, 4)), r"\(2, 1, 4\).*\(2, 1, 3\)"),
        (dict(y=torch.zeros(3, 1)), "2 samples need 2 conditions, got y of shape"),
    ],
    ids=str,
)
def test_refuses(kw, text):
    with pytest.raises(ValueError, match=text):
        sample(denoise, (2, 1, 3), **kw)


def test_nan_is_noticed_where_it_begins():
    with pytest.raises(FloatingPointError, match="after step 1 of"):
        sample(denoise, (2, 1, 3), x=torch.full((2, 1, 3), math.nan))

    def D(x, sigma, y=None):
        return x * (math.nan if sigma[0] < 1 else 0.5)

    with pytest.raises(FloatingPointError, match="D\\(x, sigma, y\\)"):
        sample(D, (2, 1, 3), seed=0)


def test_a_denoiser_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="must return an estimate of x"):
        sample(lambda x, s, y: x[:, :, :1], (2, 1, 3))
