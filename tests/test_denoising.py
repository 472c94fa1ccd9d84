"The denoiser's contract, the loss and the known answers of notebook 00, in more settings than a page can hold."

import math

import pytest
import torch
from torch import nn

from dde_kit.denoising import *


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def silent(sd):
    return EDMDenoiser(lambda x, c_noise, y: torch.zeros_like(x), sd)


class Net(nn.Module):
    "A raw network with a say in everything: position-wise, with level and condition."

    def __init__(self, c):
        super().__init__()
        self.a, self.b = nn.Linear(c, c), nn.Linear(1, c)

    def forward(self, x, c_noise, y):
        h = self.a(x.movedim(1, -1)) + self.b(c_noise[:, None])[:, *[None] * (x.ndim - 2), :]
        if y is not None:
            h = h + y.reshape(len(y), *[1] * (x.ndim - 1))
        return h.sin().movedim(-1, 1)


SHAPES = [(4, 1, 5), (4, 2, 3, 7), (4, 3, 2, 2, 3)]


@pytest.mark.parametrize("sd", [0.2, 0.5, 3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_gaussian_data_need_no_network(sd, shape):
    sigma = LogNormal(0, 2).sample(4, gen())
    x = torch.randn(shape, generator=gen(1))
    s = sigma.reshape(-1, *[1] * (len(shape) - 1))
    torch.testing.assert_close(silent(sd)(x, sigma), sd**2 / (s**2 + sd**2) * x)


@pytest.mark.parametrize("sd", [0.2, 1.0])
@pytest.mark.parametrize("s", [0.05, 1.0, 20.0])
def test_error_of_the_best_guess(sd, s):
    n = 200_000
    x0, sigma = sd * torch.randn(n, 1, 1, generator=gen()), torch.full((n,), s)
    err = (silent(sd)(x0 + s * torch.randn(n, 1, 1, generator=gen(1)), sigma) - x0).square().mean().item()
    assert err == pytest.approx(s**2 * sd**2 / (s**2 + sd**2), rel=0.02)


def test_coefficients_are_edms():
    s, sd = torch.tensor([0.01, 0.3, 7.0], dtype=torch.float64), 0.4
    c_skip, c_out, c_in = [c.flatten() for c in coefficients(s, sd, 4)]
    torch.testing.assert_close(c_out**2, s**2 * c_skip)  # error of the best linear guess
    torch.testing.assert_close(c_in**2 * (s**2 + sd**2), torch.ones(3, dtype=torch.float64))
    assert coefficients(s, sd, 4)[0].shape == (3, 1, 1, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalised_is_the_raw_output(shape, dtype):
    torch.manual_seed(0)
    D, x, sigma = (
        EDMDenoiser(Net(shape[1]), 0.3),
        torch.randn(shape, generator=gen()).to(dtype),
        LogNormal(-1, 1.6).sample(4, gen()).to(dtype),
    )
    y = torch.randn(4, generator=gen(2))
    raw = D.net((coefficients(sigma, 0.3, x.ndim)[2] * x).float(), (sigma.log() / 4).float(), y)
    got = normalised(D(x, sigma, y), x, sigma, 0.3)
    assert got.dtype == dtype and D(x, sigma, y).dtype == dtype
    torch.testing.assert_close(got.float(), raw, rtol=1e-3, atol=1e-3)


def test_normalised_of_half_precision_is_float32():
    x, sigma = torch.randn(2, 1, 4, generator=gen()), torch.tensor([0.5, 2.0])
    assert normalised(x.bfloat16(), x.bfloat16(), sigma.bfloat16(), 0.5).dtype == torch.float32


def test_rows_do_not_mix():
    torch.manual_seed(0)
    D, x, sigma = EDMDenoiser(Net(2)), torch.randn(5, 2, 8, generator=gen()), LogNormal(-1, 1).sample(5, gen())
    torch.testing.assert_close(D(x, sigma)[3:4], D(x[3:4], sigma[3:4]))


@pytest.mark.parametrize("sigma", [0.5, torch.tensor(0.5), torch.ones(3), torch.ones(2, 1), None])
def test_sigma_of_the_wrong_shape(sigma):
    for f in (silent(0.5), lambda x, s: score(silent(0.5), x, s), Mixture(torch.zeros(1, 3, 4))):
        with pytest.raises(ValueError, match=r"shape \(2,\).*torch\.full"):
            f(torch.zeros(2, 3, 4), sigma)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_sigma_must_be_positive(bad):
    for f in (silent(0.5), lambda x, s: score(silent(0.5), x, s)):
        with pytest.raises(ValueError, match="must be positive"):
            f(torch.zeros(2, 3, 4), torch.tensor([1.0, bad]))


def test_sigma_on_the_meta_device_is_not_read():
    assert silent(0.5)(torch.zeros(2, 1, 4, device="meta"), torch.ones(2, device="meta")).shape == (2, 1, 4)


def test_bad_settings():
    with pytest.raises(ValueError, match="sigma_data=0 has to be a finite number above 0"):
        EDMDenoiser(nn.Identity(), 0)
    with pytest.raises(ValueError, match="std=0 has to be a finite number above 0"):
        LogNormal(0, 0)
    with pytest.raises(ValueError, match="lo < hi"):
        Clamp(silent(1), 1, 1)


@pytest.mark.parametrize("shape", [(3000, 1, 32), (500, 2, 16, 16), (100, 1, 8, 8, 8)])
@pytest.mark.parametrize("noise", [LogNormal(-1, 1.6), LogNormal(-3, 1), LogNormal(3, 0.2)])
def test_a_silent_network_loses_one_per_term(shape, noise):
    x0 = 0.2 * torch.randn(shape, generator=gen())
    assert denoising_loss(silent(0.2), x0, None, noise, gen(1)).item() == pytest.approx(1, abs=0.03)
    assert denoising_loss(silent(0.2), x0, None, noise, gen(1), ((4, 0.5), (8, 2.0))).item() == pytest.approx(
        3.5, rel=0.1
    )


def test_loss_is_the_error_of_the_raw_network():
    torch.manual_seed(0)
    D, noise, y = EDMDenoiser(Net(2), 0.3), LogNormal(-1, 1.6), torch.randn(64)
    x0 = 0.3 * torch.randn(64, 2, 8, 8, generator=gen())
    g = gen(7)
    sigma = noise.sample(64, g)
    x = x0 + sigma.reshape(-1, 1, 1, 1) * torch.randn(x0.shape, generator=g)
    c_skip, c_out, c_in = coefficients(sigma, 0.3, 4)
    r = D.net(c_in * x, sigma.log() / 4, y) - (x0 - c_skip * x) / c_out
    torch.testing.assert_close(denoising_loss(D, x0, y, noise, gen(7)), r.square().mean(), rtol=1e-4, atol=0)
    by_hand = 3 * 16 * r.unflatten(3, (2, 4)).unflatten(2, (2, 4)).mean((3, 5)).square().mean()
    torch.testing.assert_close(
        denoising_loss(D, x0, y, noise, gen(7), ((4, 3.0),)), r.square().mean() + by_hand, rtol=1e-4, atol=0
    )


def test_loss_has_gradients_and_follows_the_generator():
    torch.manual_seed(0)
    D, x0 = EDMDenoiser(Net(1)), torch.randn(8, 1, 16, generator=gen())
    a, b, c = [denoising_loss(D, x0, None, LogNormal(-1, 1), gen(s)) for s in (1, 1, 2)]
    assert a.item() == b.item() != c.item()
    a.backward()
    assert all(p.grad.isfinite().all() for p in D.parameters())


def test_loss_names_what_is_missing():
    with pytest.raises(ValueError, match="sigma_data"):
        denoising_loss(lambda x, s, y: x, torch.zeros(2, 1, 4), None, LogNormal(-1, 1))
    with pytest.raises(ValueError, match="at most 4"):
        denoising_loss(silent(1), torch.zeros(2, 1, 4, 9), None, LogNormal(-1, 1), pools=((5, 1.0),))


def test_lognormal():
    d = LogNormal(-1, 1.6)
    s = d.sample(200_000, gen())
    for p in (0.001, 0.2, 0.5, 0.999):
        assert (s < d.quantile(p)).double().mean().item() == pytest.approx(p, abs=0.004) and d.cdf(
            d.quantile(p)
        ) == pytest.approx(p)
    assert torch.equal(d.sample(5, gen(3)), d.sample(5, gen(3))) and s.shape == (200_000,)


@pytest.mark.parametrize("width", [0.0, 0.1])
@pytest.mark.parametrize("size", [(1, 1), (2, 3, 2)])
def test_score_is_the_gradient_of_the_log_density(width, size):
    D = Mixture(torch.randn(6, *size, generator=gen(), dtype=torch.float64), width)
    sigma = LogNormal(-0.5, 1).sample(30, gen()).double()
    x = (torch.randn(30, *size, generator=gen(1), dtype=torch.float64)).requires_grad_()
    want = torch.autograd.grad(D.log_density(x, sigma).sum(), x)[0]
    torch.testing.assert_close(score(D, x.detach(), sigma), want)


def test_mixture_density_integrates_to_one_and_knows_its_scale():
    D = Mixture(torch.tensor([-1.0, 0.5, 2.0]).double().reshape(3, 1, 1), 0.2)
    u = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    assert D.log_density(u[:, None, None], torch.full((20_001,), 0.7).double()).exp().sum().item() * (
        u[1] - u[0]
    ).item() == pytest.approx(1)
    assert D.sample(100_000, gen()).std().item() == pytest.approx(D.sigma_data, rel=0.01)


def test_mixture_is_unbiased_given_what_is_seen():
    D, g = Mixture(torch.tensor([[[-0.5, 0.3]], [[0.8, 0.1]], [[0.0, -0.9]]]).double(), 0.1), gen()
    x0 = D.sample(200_000, g)
    x = x0 + 0.4 * torch.randn(x0.shape, generator=g, dtype=torch.float64)
    err = D(x, torch.full((200_000,), 0.4).double()) - x0
    for t in (1, x, x.flip(-1), x**2, x.sign()):
        assert (err * t).mean().abs() < 0.004


def test_wrapped_hands_on_what_the_inner_one_knows():
    D = silent(0.3)
    W = Clamp(Clamp(D))
    assert W.sigma_data == 0.3 and not hasattr(W, "sampler")
    D.sampler = dict(steps=7)
    assert W.sampler == dict(steps=7)
    W.sampler = dict(steps=9)
    assert W.sampler["steps"] == 9 and D.sampler["steps"] == 7
    with pytest.raises(AttributeError):
        W.nothing_of_the_kind


def test_clamp_never_hurts():
    torch.manual_seed(0)
    D = EDMDenoiser(lambda x, c_noise, y: 4 * (7 * x).sin())
    x0 = torch.rand(10_000, 1, 1) * 2 - 1
    sigma = LogNormal(-1, 1.6).sample(10_000)
    x = x0 + sigma[:, None, None] * torch.randn(x0.shape)
    assert ((Clamp(D)(x, sigma) - x0).abs() <= (D(x, sigma) - x0).abs()).all()
    assert Clamp(D, 0, 0.5)(x, sigma).aminmax() == (0, 0.5)
