"The spectral coordinator: each of the three terms of its answer has a known value when it stands alone."

import pytest
import torch

from dde_kit.decomposition import Tiling
from dde_kit.spectral import SpectralCoordinator

F = Tiling(256, 192)
NET = dict(widths=(16,), blocks=(1,), stem=2, fine=8)


def coordinator(*on):
    "Two stems, all bins; of the last layer only the offsets of the named terms are not zero: 1."
    torch.manual_seed(0)
    C = SpectralCoordinator(2, NET, NET, n=64, rows=32, hint=4)
    C.picture.out.weight.data.zero_()
    C.picture.out.bias.data.zero_()
    for k in on:
        C.picture.out.bias.data[2 * k : 2 * k + 2] = 1
    return C


def heard(C, f, x, s=1.0):
    "What is added to the mean of the parts."
    lay = F.layout(f.shape[2:])
    parts = lay.split(torch.cat([f, x], 1))
    out = C(parts, torch.full((len(f),), s), None, lay)
    return lay.merge(out) - f


@pytest.fixture
def canvases():
    g = torch.Generator().manual_seed(1)
    return torch.randn(2, 2, 832, generator=g), torch.randn(2, 2, 832, generator=g)


def test_alone_the_first_term_adds_the_noisy_canvas(canvases):
    f, x = canvases
    torch.testing.assert_close(heard(coordinator(0), f, x), x, atol=1e-4, rtol=1e-4)


def test_alone_the_third_term_adds_the_estimate(canvases):
    f, x = canvases
    torch.testing.assert_close(heard(coordinator(2), f, x), f, atol=1e-4, rtol=1e-4)


def test_alone_the_second_term_lets_through_what_stands_out_of_the_noise(canvases):
    "A tone is let through nearly whole, times (s^2 + sd^2)/(s sd); noise hardly; and silence is silence."
    f, x = canvases
    C, s = coordinator(1), 1.0
    t = torch.arange(832)
    tone = 20 * torch.sin(2 * torch.pi * t / 8).expand_as(x)
    scale = (s**2 + C.sigma_data**2) / (s * C.sigma_data)
    got = heard(C, f, x + tone, s)
    inside = slice(64, -64)
    gain = (got * tone)[..., inside].sum(-1) / tone.square()[..., inside].sum(-1) / scale
    assert (gain > 0.9).all() and (gain < 1.02).all()
    assert heard(C, f, x, s).square().mean() < 0.2 * scale**2
    assert heard(C, f, 0 * x, s).abs().max() < 1e-4


def test_terms_add_up(canvases):
    f, x = canvases
    one = [heard(coordinator(k), f, x) for k in range(3)]
    torch.testing.assert_close(heard(coordinator(0, 1, 2), f, x), sum(one), atol=1e-3, rtol=1e-3)


def test_both_networks_are_told_the_noise_level(canvases):
    f, x = canvases
    C, told = coordinator(), []
    for net in (C.trunk, C.picture):
        net.register_forward_pre_hook(lambda net, args: told.append(args[1]))
    heard(C, f, x, 0.3)
    for c_noise in told:
        torch.testing.assert_close(c_noise, torch.full((2,), 0.3).log() / 4)
    assert len(told) == 2
