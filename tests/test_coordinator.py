"""The coordinator and the composite denoiser: special cases, invariances, sizes, and what can go wrong."""

import copy
import math

import pytest
import torch
from torch import nn

from dde_kit.baselines import Concat, MultiDiffusion
from dde_kit.coordinator import (
    Chain,
    Combs,
    DDE,
    Spread,
    ViTCoordinator,
    map_positions,
    part_positions,
    tokens,
    untokens,
)
from dde_kit.decomposition import Repeat, Tiling
from dde_kit.denoising import EDMDenoiser, coefficients
from dde_kit.sampling import Guided, sample

F = Tiling(64, 32)
MAPS = dict(hidden=48, depth=2, heads=3, cond="tokens", cond_channels=3)


class Net(nn.Module):
    def __init__(self, ndim=2):
        super().__init__()
        self.conv, self.drop = {1: nn.Conv1d, 2: nn.Conv2d}[ndim](6, 3, 5, padding=2), nn.Dropout(0.5)

    def forward(self, x, c_noise, y=None):
        return self.drop(self.conv(torch.cat([x, torch.zeros_like(x) if y is None else y], 1)).tanh())


def base(ndim=2):
    torch.manual_seed(0)
    return EDMDenoiser(Net(ndim), sigma_data=0.5).eval()


def randomise(m, std=0.1):
    g = torch.Generator().manual_seed(0)
    for p in m.parameters():
        p.data = torch.randn(p.shape, generator=g) * std
    return m


def canvas(*size, b=2, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    return (
        *torch.randn(2, b, 3, *size, generator=g, dtype=dtype),
        torch.tensor([0.05, 3.0] + [1.0] * (b - 2), dtype=dtype)[:b],
    )


def count(*args, **kw):
    with torch.device("meta"):
        return sum(p.numel() for p in ViTCoordinator(*args, **kw).parameters())


@pytest.mark.parametrize(
    "n, args, kw",
    [
        (26_267_148, (3, 2), dict(cond="tokens", cond_channels=3)),
        (26_267_148 + 13_824, (3, 2), dict(cond="tokens", cond_channels=3, cond_patch=4)),
        (26_267_148 - 1_625_088, (3, 2), dict(cond="tokens", cond_channels=3, trim=True)),
        (32_505_264, (3, 4), dict(depth=12, cond="channels", cond_channels=1)),
        (66_526_976, (4, 128), dict(ndim=1, hidden=768)),
    ],
)
def test_parameters_of_the_paper(n, args, kw):
    assert count(*args, **kw) == n


@pytest.mark.parametrize("size, p", [((64, 64), (2, 2)), ((64, 32), (8, 4)), ((6, 4), (1, 2)), ((256,), (128,))])
def test_tokens_round_trip(size, p):
    x = torch.randn(2, 3, 4, *size)
    t = tokens(x, p)
    assert t.shape == (2, 3 * math.prod(size) // math.prod(p), 4 * math.prod(p))
    assert torch.equal(untokens(t, p, 3, size), x)


@pytest.mark.parametrize("p,grid", [((4,), (5,)), ((4, 8), (5, 3))])
def test_spread_is_a_transposed_convolution(p, grid):
    "In one dimension and two, at any border; the weights have the same names and shapes."
    last = randomise(Spread(6, 3, p, 2)).double()
    conv = (nn.ConvTranspose1d if len(p) == 1 else nn.ConvTranspose2d)(6, 3, tuple(k + 2 for k in p), p, 1).double()
    conv.load_state_dict(last.state_dict())
    x = torch.randn(2, 2 * math.prod(grid), 6, dtype=torch.float64)
    want = conv(x.reshape(4, *grid, 6).movedim(-1, 1)).unflatten(0, (2, 2))
    torch.testing.assert_close(last(x, 2, tuple(t * k for t, k in zip(grid, p))), want, rtol=1e-12, atol=1e-12)


def test_spread_can_be_trained_in_bfloat16():
    "torch 2.11 gets the gradient of a transposed convolution of this shape wrong on the CPU."
    last, x = randomise(Spread(384, 4, (128,), 128)), torch.randn(4, 64, 384, requires_grad=True)

    def slope(half):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = last(x, 1, (8192,)).float().square().mean()
        return torch.autograd.grad(loss, x)[0]

    exact = slope(False)
    assert (slope(True) - exact).norm() < 0.02 * exact.norm()


def bars(n, P, sigma, b=6, d=16):
    "Tokens that come back after P, in noise."
    g = torch.Generator().manual_seed(P)
    return torch.randn(b, P, d, generator=g)[:, torch.arange(n) % P] + sigma * torch.randn(b, n, d, generator=g)


def places(*shape):
    return torch.cartesian_prod(*[torch.arange(n) + 0.5 for n in shape]).reshape(-1, len(shape))


@pytest.mark.parametrize("n", [40, 90])
def test_evidence_is_an_analysis_of_variance(n):
    "Against the sums of squares, class by class; zero on average for noise, and positive for what comes back."
    periods, x = (5, 6, 8), torch.randn(400, n, 20, generator=torch.Generator().manual_seed(0))
    got, i = Combs(places(n), periods).evidence(x), torch.arange(n)
    for h, P in enumerate(periods):
        within = sum((v - v.mean(1, keepdim=True)).square().sum(1) for v in (x[:, i % P == c] for c in range(P)))
        chance = torch.digamma(torch.tensor((n - 1) / 2)) - torch.digamma(torch.tensor((n - P) / 2))
        want = n / 2 * ((x - x.mean(1, keepdim=True)).square().sum(1) / within).log() - n / 2 * chance
        torch.testing.assert_close(got[:, h], want, atol=2e-3, rtol=2e-3)
        assert got[:, h].mean().abs() < 4 * got[:, h].std() / (400 * 20) ** 0.5
        assert (Combs(places(n), periods).evidence(bars(n, P, 1.0)).sum(-1).argmax(1) == h).all()


def test_recall_averages_what_is_a_period_away():
    "On a plane, along both axes; two periods half and half."
    x, at = torch.randn(2, 8 * 6, 3), places(8, 6)
    got = Combs(at, (2, 3)).recall(x, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))

    def slow(P):
        return torch.stack([x[:, ((at - a) % P == 0).all(1)].mean(1) for a in at], 1)

    torch.testing.assert_close(got, torch.stack([(slow(2) + slow(3))[0] / 2, slow(3)[1]]))


def test_tokens_at_one_place_are_one_witness():
    "Overlapping parts that hold the same numbers give the same evidence and the same memories as the canvas itself."
    track = Tiling(12, 8).layout((44,))
    at = part_positions(track, (1,))
    where = at.floor().long()[:, 0]
    x, once, twice = bars(44, 7, 2.0), Combs(places(44), (6, 7)), Combs(at, (6, 7))
    torch.testing.assert_close(twice.evidence(x[:, where]), once.evidence(x), atol=1e-3, rtol=1e-4)
    belief = torch.tensor([[0.3, 0.7]])
    torch.testing.assert_close(twice.recall(x[:, where], belief), once.recall(x, belief)[:, where])


def test_periods_in_a_coordinator():
    "Untrained: nothing. Trained: the canvas may be too short, silent, of any precision; and all tell what recurs."
    with pytest.raises(ValueError, match="whole number of at least 1"):
        ViTCoordinator(1, 4, ndim=1, periods=(0,))
    kw, track = dict(ndim=1, hidden=24, depth=2, heads=3, residual=True), Tiling(32, 24)
    parts, sigma = torch.randn(2, 5, 1, 32), torch.ones(2)
    lay = track.layout((128,))
    assert torch.equal(ViTCoordinator(1, 4, **kw, periods=(3, 5))(parts, sigma, None, lay), parts)
    net = randomise(ViTCoordinator(1, 4, **kw, periods=(3, 5), horizon=2))
    for v, l in (
        (parts[:, :1], track.layout((32,))),
        (parts[:, :1, :, :8], Tiling(8).layout((8,))),
        (0 * parts, lay),
        (parts.double(), lay),
    ):
        assert net(v, sigma, None, l).isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(parts, sigma, None, lay).square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters()) and net.trust.grad.abs().sum() > 0
    moved = parts.clone()
    moved[:, 4, :, -1] += 1  # far beyond the horizon of the first part
    assert not torch.equal(net(moved, sigma, None, lay)[:, 0], net(parts, sigma, None, lay)[:, 0])
    deaf = randomise(ViTCoordinator(1, 4, **kw, horizon=2))
    assert torch.equal(deaf(moved, sigma, None, lay)[:, 0], deaf(parts, sigma, None, lay)[:, 0])


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (64, 160), (101, 70)])
@pytest.mark.parametrize(
    "kw",
    [{}, dict(cond_patch=16), dict(noisy=True, trim=True), dict(positions="concat", time_scale=10.0), dict(weigh=True)],
)
def test_untrained_residual_is_multidiffusion(size, kw):
    D, (x, y, sigma) = base(), canvas(*size)
    for y in (y, None):
        got, want = (
            m(x, sigma, y) for m in (DDE(D, F, ViTCoordinator(3, 8, residual=True, **MAPS, **kw)), MultiDiffusion(D, F))
        )
        torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [None, "hann"])
def test_weights_choose_between_parts_and_do_no_more(window):
    lay, C = Tiling(64, 32, window=window).layout((96, 130)), ViTCoordinator(3, 8, residual=True, weigh=True, **MAPS)
    nn.init.normal_(C.out.weight[-64:])  # the last 64 numbers of a token weigh its positions
    x, y, sigma = torch.randn(2, 3, 96, 130), torch.randn(2, 3, 96, 130), torch.tensor([0.1, 5.0])
    parts = torch.randn(2, lay.L, 3, 64, 64)
    torch.testing.assert_close(
        lay.merge(C(lay.split(x), sigma, y, lay)), x, atol=1e-4, rtol=1e-4
    )  # parts that agree stay
    got, covered = lay.merge(C(parts, sigma, y, lay)), lay.split(lay.coverage().expand(1, 1, -1, -1).float())[0, :, 0]
    back = lay.split(got)
    assert (got - lay.merge(parts)).abs().max() > 0.05 and (got <= parts.max()).all() and (got >= parts.min()).all()
    alone = covered == 1  # (L, 64, 64) where no other part is
    assert alone.any() and (back[0][:, 0][alone] - parts[0][:, 0][alone]).abs().max() < 1e-4


def test_untrained_paper_form_is_c_skip_x():
    x, y, sigma = canvas(96, 130)
    got = DDE(base(), F, ViTCoordinator(3, 8, **MAPS))(x, sigma, y)
    torch.testing.assert_close(got, coefficients(sigma, 0.5, 4)[0] * x, atol=1e-7, rtol=0)


@pytest.mark.parametrize("space", ["f", "x0"])
@pytest.mark.parametrize("ndim", [1, 2])
def test_identity(space, ndim):
    D, C, (x, y, sigma) = base(ndim), lambda parts, sigma, y, F: parts, canvas(*(128, 96)[:ndim])
    same = lambda F, rule: torch.testing.assert_close(
        DDE(D, F, C, space=space)(x, sigma, y), rule(x, sigma, y), atol=2e-6, rtol=1e-5
    )
    same(Tiling((128, 96)[:ndim]), D)
    same(F, MultiDiffusion(D, F))
    same(Tiling(32), Concat(D, Tiling(32)))
    same(Tiling(64, 32, window="hann"), MultiDiffusion(D, Tiling(64, 32, window="hann")))


def test_canvas_numbering_is_where_a_token_is():
    lay = F.layout((96, 130))
    at = part_positions(lay, (8, 8)) * 8
    inside = torch.cartesian_prod(torch.arange(8), torch.arange(8)) * 8 + 4.0
    for i, o in enumerate(lay.origins):
        torch.testing.assert_close(at.reshape(lay.L, 64, 2)[i], o + inside)
    maps = map_positions((96, 130), (4, 16), (8, 8)) * 8
    assert maps.shape == (24 * 9, 2)
    assert maps[0].tolist() == [2, 8] and maps[-1].tolist() == [94, 136]


@pytest.mark.parametrize("N, image, map_", [(96, 63, 47), (128, 95, 63)])
def test_numbering_of_the_authors(N, image, map_):
    at = part_positions(F.layout((N, N)), (2, 2), "concat").floor()
    assert at.min() == 0 and at.max() == image and len(at.unique(dim=0)) == len(at)
    assert map_positions((N, N), (2, 2), (2, 2)).floor().max() == map_


def test_without_a_map_only_differences_of_positions_count():
    C = randomise(ViTCoordinator(3, 8, hidden=48, depth=2, heads=3))
    lay, far = F.layout((96, 96)), copy.deepcopy(F.layout((96, 96)))
    far.origins = far.origins + torch.tensor([40, 1000])
    f, sigma = torch.randn(2, 4, 3, 64, 64), torch.tensor([0.1, 2.0])
    torch.testing.assert_close(C(f, sigma, None, far), C(f, sigma, None, lay), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", [{}, dict(residual=True), dict(residual=True, weigh=True)])
def test_order_of_conditions(form):
    class Shift(nn.Module):
        sigma_data = 0.5

        def forward(self, x, sigma, y=None):
            return 0.5 * x + y[:, :, None, None].expand_as(x)

    encode = lambda y: y.sum(-1)[:, :, None, None, None].expand(-1, -1, 1, 32, 32) * torch.linspace(-1, 1, 32)
    C = randomise(ViTCoordinator(3, 4, hidden=48, depth=2, heads=3, cond="channels", cond_channels=1, **form), 0.2)
    D, x, y, sigma = (
        DDE(Shift(), Repeat(), C, encode=encode),
        torch.randn(2, 3, 32, 32),
        torch.randn(2, 4, 3),
        torch.tensor([0.1, 2.0]),
    )
    want = D(x, sigma, y)
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        torch.testing.assert_close(D(x, sigma, y[:, order]), want, atol=1e-4, rtol=1e-4)
    assert (D(x, sigma, y[:, :3]) - want).abs().max() > 1e-2


def test_only_the_coordinator_learns():
    D, (x, y, sigma) = base(), canvas(96, 96)
    D.requires_grad_(True)
    dde = DDE(D, F, randomise(ViTCoordinator(3, 8, **MAPS))).train()
    assert dde.C.training and not any(m.training for m in D.modules())
    before = {k: v.clone() for k, v in D.state_dict().items()}
    opt = torch.optim.Adam([p for p in dde.parameters() if p.requires_grad], 1e-2)
    dde(x, sigma, y).square().mean().backward()
    opt.step()
    assert all(p.grad is None for p in D.parameters())
    silent = {k for k, p in dde.C.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == {f"blocks.1.mlp_y.{i}.{k}" for i in (0, 2) for k in ("weight", "bias")}
    assert all(torch.equal(v, before[k]) for k, v in D.state_dict().items())


def test_trimmed_is_the_same_function():
    full = randomise(ViTCoordinator(3, 8, **MAPS))
    trimmed = ViTCoordinator(3, 8, trim=True, **MAPS)
    trimmed.load_state_dict({k: full.state_dict()[k][: len(v)] for k, v in trimmed.state_dict().items()})
    x, y, sigma = canvas(96, 96)
    args = F.split(x), sigma, y, F.layout((96, 96))
    torch.testing.assert_close(trimmed(*args), full(*args), atol=1e-5, rtol=1e-5)


def test_chunks_copies_and_states():
    dde, (x, y, sigma) = DDE(base(), F, randomise(ViTCoordinator(3, 8, noisy=True, **MAPS))), canvas(96, 130)
    want = dde(x, sigma, y)
    torch.testing.assert_close(DDE(dde.D, F, dde.C, chunk=5)(x, sigma, y), want)
    torch.testing.assert_close(copy.deepcopy(dde)(x, sigma, y), want)
    other = DDE(base(), Tiling(64, 32), ViTCoordinator(3, 8, noisy=True, **MAPS))
    other.load_state_dict(dde.state_dict())
    torch.testing.assert_close(other(x, sigma, y), want)
    assert all(k.startswith(("C.", "D.")) for k in dde.state_dict())


def test_tables_made_in_inference_mode_serve_training():
    dde, (x, y, sigma) = DDE(base(), Tiling(64, 32), randomise(ViTCoordinator(3, 8, **MAPS))), canvas(96, 96)
    with torch.inference_mode():
        dde(x, sigma, y)
    dde(x, sigma, y).sum().backward()
    assert len(dde.C.tables) == 1


def test_precision():
    D = DDE(base(), F, ViTCoordinator(3, 8, residual=True, **MAPS))
    x, y, sigma = canvas(96, 96, dtype=torch.float64)
    got = D(x, sigma, y.float())
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, MultiDiffusion(D.D, F)(x, sigma, y.float()), atol=1e-6, rtol=1e-6)
    x, y, sigma = canvas(96, 96)
    with torch.autocast("cpu", torch.bfloat16):
        loss = DDE(base(), F, randomise(ViTCoordinator(3, 8, **MAPS)))(x, sigma, y).square().mean()
    loss.backward()
    assert torch.isfinite(loss)


def test_is_a_denoiser_like_any_other():
    D = base()
    D.sampler = dict(steps=3, sigma_max=5.0)
    dde, (x, y, _) = DDE(D, F, ViTCoordinator(3, 8, residual=True, **MAPS)).eval(), canvas(96, 64)
    assert dde.sampler == D.sampler and dde.sigma_data == 0.5
    torch.testing.assert_close(
        sample(dde, x.shape, y, seed=0), sample(MultiDiffusion(D, F), x.shape, y, seed=0), atol=1e-4, rtol=1e-4
    )
    assert sample(Guided(dde, 2.0), x.shape, y, seed=0).shape == x.shape


def test_per_part_maps_as_channels():
    C = randomise(ViTCoordinator(3, 8, hidden=48, depth=1, heads=3, cond="channels", cond_channels=3))
    x, y, sigma = canvas(96, 130)
    lay = F.layout((96, 130))
    torch.testing.assert_close(C(lay.split(x), sigma, y, lay), C(lay.split(x), sigma, lay.split(y), lay))
    torch.testing.assert_close(C(lay.split(x), sigma, None, lay), C(lay.split(x), sigma, 0 * y, lay))


def test_bad_arguments():
    bad = lambda text, **kw: pytest.raises(ValueError, match=text)
    with bad("multiple of 12"):
        ViTCoordinator(3, 8, hidden=50, heads=3)
    with bad("do not go together"):
        ViTCoordinator(3, 8, cond="tokens")
    with bad("do not go together"):
        ViTCoordinator(3, 8, cond_channels=3)
    with bad("use None, 'tokens' or 'channels'"):
        ViTCoordinator(3, 8, cond="maps", cond_channels=3)
    with bad("use 'canvas' or 'concat'"):
        ViTCoordinator(3, 8, positions="global")
    with bad("corrects the 3 channels"):
        ViTCoordinator(3, 8, residual=True, out_channels=4)
    with bad("use it with residual=True"):
        ViTCoordinator(3, 8, weigh=True)
    with bad("names 3 axes"):
        ViTCoordinator(3, (8, 8, 8))
    with bad("use 'f'"):
        DDE(base(), F, nn.Identity(), space="z")
    with bad("pass sigma_data="):
        DDE(lambda x, sigma, y=None: x, F, nn.Identity())


def test_bad_input():
    x, y, sigma = canvas(96, 96)
    dde = DDE(base(), F, ViTCoordinator(3, 8, **MAPS))
    with pytest.raises(ValueError, match="multiples of those of a token"):
        DDE(base(), F, ViTCoordinator(3, 24, **MAPS))(x, sigma, y)
    with pytest.raises(ValueError, match="smaller than a part of 64"):
        dde(x[..., :50], sigma, y[..., :50])
    with pytest.raises(ValueError, match=r"\(96, 90\)"):
        dde(x, sigma, y[..., :90])
    with pytest.raises(ValueError, match="crop or resize"):
        dde.C(F.split(x), sigma, y[..., :90], F.layout((96, 96)))
    with pytest.raises(ValueError, match="reads parts of shape"):
        dde.C(F.split(x)[:, :3], sigma, y, F.layout((96, 96)))
    for s in (-sigma, 0 * sigma, sigma[:1], torch.tensor(1.0), sigma * float("nan")):
        with pytest.raises(ValueError, match="sigma"):
            dde(x, s, y)


def test_guidance_is_meant_for_a_number_of_parts():
    "Its weight falls with the root of their number; a number under 1 is refused."
    F, C = Tiling(8, 4), lambda parts, sigma, y, F: parts

    class Still(torch.nn.Module):
        sigma_data = 0.5

        def forward(self, x, sigma, y=None):
            return x / 2

    D = DDE(Still(), F, C, w=1.0, among=3)
    assert D.weight(3) == 1 and D.weight(12) == 0.5 and DDE(Still(), F, C, w=1.0).weight(12) == 1
    with pytest.raises(ValueError, match="at least 1"):
        DDE(Still(), F, C, w=1.0, among=0)


# What the composite says to its coordinator, and does with the answer


class Half(nn.Module):
    "A base that answers with half of what it is given."

    sigma_data = 0.5

    def forward(self, x, sigma, y=None):
        return x / 2


def asked(C, x, sigma, **kw):
    "The composite's answer as normalised output on a canvas of one layout, and that of the base alone."
    G = Tiling(8, 4)
    D = DDE(Half(), G, C, **kw)
    c_skip, c_out, _ = coefficients(sigma, 0.5, x.ndim)
    unnormalised = lambda v: (v - c_skip * x) / c_out
    return unnormalised(D(x, sigma)), unnormalised(x / 2)


def track(b=2):
    return torch.randn(b, 1, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_the_coordinator_is_told_the_noise_level():
    x, sigma = track(), torch.tensor([0.3, 2.0], dtype=torch.float64)
    got, f = asked(lambda parts, sigma, y, layout: parts * sigma.reshape(-1, 1, 1, 1), x, sigma)
    torch.testing.assert_close(got, f * sigma.reshape(-1, 1, 1))


def test_noisy_parts_come_along_at_unit_variance():
    x, sigma = track(), torch.tensor([0.3, 2.0], dtype=torch.float64)

    class Hand(nn.Module):
        noisy = True

        def forward(self, parts, sigma, y, layout):
            return parts[:, :, 1:]

    got, _ = asked(Hand(), x, sigma)
    torch.testing.assert_close(got, x / (sigma**2 + 0.5**2).sqrt().reshape(-1, 1, 1))


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 2.0])
def test_guidance_by_the_coordinator_goes_on_in_its_direction(w):
    "w = -1 takes the coordinator back, w > 0 goes further; below the window nothing happens."
    x, sigma = track(), torch.tensor([0.3, 2.0], dtype=torch.float64)
    got, f = asked(lambda parts, sigma, y, layout: parts + 1, x, sigma, w=w, above=1.0)
    torch.testing.assert_close(got - f, torch.tensor([1.0, 1 + w], dtype=torch.float64).reshape(-1, 1, 1).expand_as(f))


def test_a_chain_runs_all_of_its_coordinators_in_order():
    class Plus(nn.Module):
        def forward(self, parts, sigma, y, layout):
            return parts + 1

    class Times(nn.Module):
        noisy = True

        def forward(self, parts, sigma, y, layout):
            f, x = parts.chunk(2, 2)
            return 2 * f + x

    x, sigma = track(), torch.tensor([0.3, 2.0], dtype=torch.float64)
    z = x / (sigma**2 + 0.5**2).sqrt().reshape(-1, 1, 1)
    got, f = asked(Chain(Plus(), Times()), x, sigma)
    torch.testing.assert_close(got, 2 * (f + 1) + z)
    got, f = asked(Chain(Times(), Plus()), x, sigma)
    torch.testing.assert_close(got, 2 * f + z + 1)


@pytest.mark.parametrize("form", [{}, dict(residual=True), dict(residual=True, weigh=True)])
def test_a_transformer_hears_the_noise_level(form):
    "The same parts at two levels get different answers, in every block: not only in the last layer."
    C = randomise(ViTCoordinator(3, 8, hidden=48, depth=2, heads=3, **form))
    x, _, _ = canvas(64, 96)
    lay = F.layout((64, 96))
    at = lambda s: C(lay.split(x), torch.full((2,), s), None, lay)
    assert (at(0.1) - at(5.0)).abs().mean() > 0.01 * at(0.1).abs().mean()
    for block in C.blocks:
        deaf = copy.deepcopy(C)
        k = [b is block for b in C.blocks].index(True)
        nn.init.zeros_(deaf.blocks[k].mod.weight)
        assert not torch.equal(deaf(lay.split(x), torch.full((2,), 5.0), None, lay), at(5.0))


@pytest.mark.parametrize(
    "answer", [lambda f: f[:1], lambda f: f[:, :, :1], lambda f: f[:, :1], lambda f: 0.0, lambda f: None]
)
def test_an_answer_of_another_shape_is_refused_and_not_broadcast(answer):
    x, _, sigma = canvas(64, 96)
    with pytest.raises(ValueError, match="has to return parts of the same shape"):
        DDE(base(), F, lambda parts, sigma, y, layout: answer(parts))(x, sigma)
