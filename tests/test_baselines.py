"Fixed coordination and the Gaussian-process oracle: known answers, special cases, calls of the base model."

import math
import subprocess
import sys
import pytest
import torch
from torch import nn
from dde_kit.baselines import (
    RRR,
    Concat,
    FactorGraph,
    GaussianProcess,
    MultiDiffusion,
    excess_error,
    excess_error_sampled,
    optimal_error,
    overlaps,
    per_part,
)
from dde_kit.decomposition import Repeat, Tiling


class Counting(nn.Module):
    "A convolution that remembers how many rows each call had."

    def __init__(self, ndim=2, sd=0.5):
        super().__init__()
        self.net = (nn.Conv1d, nn.Conv2d)[ndim - 1](3, 3, 3, padding=1)
        self.sigma_data, self.sampler, self.rows = sd, dict(steps=7), []

    def forward(self, x, sigma, y=None):
        self.rows.append(len(x))
        out = self.net(x) / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)))
        return out if y is None else out + y.reshape(len(x), -1).mean(1).reshape(-1, *[1] * (x.ndim - 1))


def base(ndim=2):
    torch.manual_seed(0)
    return Counting(ndim).requires_grad_(False)


x, sigma = torch.randn(2, 3, 24, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3, 4.0])


@pytest.mark.parametrize("rule", [MultiDiffusion, Concat, FactorGraph])
def test_one_part_is_the_base_model(rule):
    D = base()
    assert torch.allclose(rule(D, Tiling((24, 20)))(x, sigma), D(x, sigma), atol=1e-6)


@pytest.mark.parametrize("rule", [MultiDiffusion, FactorGraph])
def test_disjoint_parts_are_concat(rule):
    D = base()
    assert torch.allclose(rule(D, Tiling((8, 5)))(x, sigma), Concat(D, Tiling((8, 5), (4, 2)))(x, sigma), atol=1e-6)


@pytest.mark.parametrize("rule", [MultiDiffusion, Concat])
def test_one_call_per_step_and_chunks(rule):
    D = base()
    whole = rule(D, Tiling(8, 4))(x, sigma)
    assert len(D.rows) == 1
    D.rows.clear()
    assert torch.allclose(rule(D, Tiling(8, 4), chunk=7)(x, sigma), whole, atol=1e-6) and max(D.rows) == 7


def test_conditions_reach_their_part():
    D, F = base(), Tiling(8, 4)
    tone = torch.arange(2.0)[:, None]
    assert torch.allclose(
        MultiDiffusion(D, F)(x, sigma, tone) - MultiDiffusion(D, F)(x, sigma),
        tone[..., None, None].expand_as(x),
        atol=1e-5,
    )
    ramp = torch.arange(24.0)[:, None].expand(2, 1, 24, 20)  # the mean of a part of the map is its centre
    got = (Concat(D, F)(x, sigma, ramp) - Concat(D, F)(x, sigma))[0, 0, :, 0]
    assert torch.allclose(got, torch.tensor([3.5, 11.5, 19.5]).repeat_interleave(8), atol=1e-4)
    with pytest.raises(ValueError, match="condition map"):
        MultiDiffusion(D, F)(x, sigma, ramp[..., :10])


def test_wrapping():
    M = MultiDiffusion(base(), Tiling(8, 4))
    assert M.sigma_data == 0.5 and M.sampler == dict(steps=7) and sum(p.numel() for p in M.parameters()) == 84
    assert not hasattr(MultiDiffusion(lambda x, sigma, y=None: x, Tiling(8)), "sampler")


@pytest.mark.parametrize(
    "sig",
    [
        torch.tensor(1.0),
        torch.ones(3),
        torch.tensor([1.0, 0.0]),
        torch.tensor([1.0, -1.0]),
        torch.tensor([1.0, float("nan")]),
    ],
)
def test_bad_sigma(sig):
    with pytest.raises(ValueError, match="sigma"):
        MultiDiffusion(base(), Tiling(8, 4))(x, sig)


def test_per_part_refuses_conditions_of_other_parts():
    with pytest.raises(ValueError, match=r"\(2, 5, \.\.\.\)"):
        per_part(base(), torch.zeros(2, 5, 3, 8, 8), sigma, y=torch.zeros(2, 4, 1))


def test_rules_that_need_a_tiling():
    for rule in (Concat, FactorGraph):
        with pytest.raises(ValueError, match="use a Tiling"):
            rule(base(), Repeat())


# RRR (eq. 7)


class Labelled:
    "No condition is y=None, nan, or the function's choice: all the same to it."

    def __init__(self):
        self.rows = []

    def __call__(self, x, sigma, y=None):
        self.rows.append(len(x))
        shift = torch.zeros(len(x)) if y is None else y.nan_to_num().sum(1)
        return torch.tanh(x + shift.reshape(-1, *[1] * (x.ndim - 1)))


def test_rrr_formula_and_kinds_of_nothing():
    D, y, w = Labelled(), torch.randn(2, 4, 3), 2.5
    want = D(x, sigma) + w * sum(D(x, sigma, y[:, i]) - D(x, sigma) for i in range(4))
    for null, calls in [(None, [8, 2]), (float("nan"), [10]), (torch.zeros_like, [10])]:
        D.rows.clear()
        assert torch.allclose(RRR(D, w, null)(x, sigma, y), want, atol=1e-5)
        assert D.rows == calls
    assert torch.allclose(RRR(D, w, chunk=3)(x, sigma, y), want, atol=1e-5) and torch.equal(
        RRR(D, w)(x, sigma), D(x, sigma)
    )


def test_rrr_and_mean_do_not_care_about_order():
    D, y = Labelled(), torch.randn(2, 4, 3)
    for rule in (RRR(D, 3.0), MultiDiffusion(D, Repeat())):
        assert torch.allclose(rule(x, sigma, y), rule(x, sigma, y[:, [3, 1, 0, 2]]), atol=1e-5)
    assert torch.allclose(RRR(D, 1 / 4)(x, sigma, y), MultiDiffusion(D, Repeat())(x, sigma, y), atol=1e-5)


# factor graph


@pytest.mark.parametrize("at,patch,n", [([0, 32, 64, 66], 64, 130), ([0, 1, 2, 3], 5, 8), ([0, 4], 4, 8), ([0], 3, 3)])
def test_overlaps_count_every_position_once(at, patch, n):
    count = torch.zeros(n)
    for sign, begins, length in overlaps(at, patch):
        for b in begins:
            count[b : b + length] += sign
    assert torch.equal(count, torch.ones(n))


def test_factor_graph_is_exact_for_a_chain_almost_without_noise():
    gp = GaussianProcess(10.0)
    assert (
        excess_error(FactorGraph(gp, Tiling(16, 8)), gp, 0.01, (64,))
        < 1e-9
        < excess_error(MultiDiffusion(gp, Tiling(16, 8)), gp, 0.01, (64,))
    )


# the oracle


@pytest.mark.parametrize(
    "length,sig,want", [(10.0, 1.0, (0.020, 0.010, 0.0001, 0.000)), (40.0, 3.0, (0.073, 0.039, 0.026, 0.008))]
)
def test_reference_figures(length, sig, want):
    gp, F = GaussianProcess(length), Tiling(64, 32)
    rules = Concat(gp, F), MultiDiffusion(gp, F), MultiDiffusion(gp, Tiling(64, 32, window="hann")), FactorGraph(gp, F)
    for r, w in zip(rules, want):
        assert abs(excess_error(r, gp, sig, (256,)) - w) < (0.0005 if w > 0.001 else 0.00005)


def covariance(size, length, sd, shared):
    i = torch.cartesian_prod(*[torch.arange(n) for n in size]).reshape(-1, len(size)).double()
    return sd**2 * ((1 - shared) * torch.exp(-(i[:, None] - i).abs().sum(-1) / length) + shared)


@pytest.mark.parametrize("size", [(30,), (5, 8), (3, 4, 5)])
@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_against_dense_algebra(size, shared):
    gp, K, s = GaussianProcess(3.0, 0.7, shared), covariance(size, 3.0, 0.7, shared), 0.6
    N = len(K)
    best = K @ torch.linalg.inv(K + s**2 * torch.eye(N).double())
    eye = torch.eye(N, dtype=torch.float64).reshape(N, 1, *size)
    assert torch.allclose(gp(eye, torch.full((N,), s).double()).flatten(1), best, atol=1e-6)
    assert math.isclose(optimal_error(gp, s, size), float((K - best @ K).trace() / N), rel_tol=1e-9)
    rule = MultiDiffusion(gp, Tiling(3, 2))
    d = rule(eye, torch.full((N,), s).double()).flatten(1).T - best
    want = (d @ (K + s**2 * torch.eye(N)) @ d.T).trace() / (N * optimal_error(gp, s, size))
    assert math.isclose(excess_error(rule, gp, s, size, chunk=17), float(want), rel_tol=1e-5)


def test_sampled_agrees_with_exact():
    gp = GaussianProcess(3.0, shared=0.5)
    rule = MultiDiffusion(gp, Tiling(8, 4))
    m, se = excess_error_sampled(rule, gp, 1.0, (16, 16), n=512)
    assert abs(m - excess_error(rule, gp, 1.0, (16, 16))) < 4 * se and se < 0.1 * m
    assert excess_error_sampled(rule, gp, 1.0, (16, 16), n=512, chunk=100)[0] == pytest.approx(m, rel=1e-5)


def test_oracle_refuses():
    with pytest.raises(ValueError, match="excess_error_sampled"):
        excess_error(lambda x, sigma, y=None: x.tanh(), GaussianProcess(3.0), 1.0, (16,))
    with pytest.raises(ValueError, match="fraction"):
        GaussianProcess(3.0, shared=1.0)


def test_gradients_through_the_oracle_and_other_correlations():
    gp = GaussianProcess(lambda h: torch.exp(-h / 20) * torch.cos(h / 5), shared=0.2)
    with torch.inference_mode():
        gp(torch.randn(2, 1, 12), torch.ones(2))
    v = torch.randn(2, 1, 12, requires_grad=True)
    gp(v, torch.ones(2)).sum().backward()
    assert v.grad.isfinite().all() and gp.sample(3, (6, 7)).shape == (3, 1, 6, 7)


def test_importing_is_light():
    code = (
        "import sys, dde_kit.baselines; print(*[m for m in ('nbdev', 'fastcore', 'matplotlib', 'pandas', 'torchaudio',"
        " 'cleanfid', 'ipywidgets') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
