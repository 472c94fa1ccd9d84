"Recurrent coordinators: what holds for any weights, and the sizes of the paper."

import pytest
import torch

import dde_kit as dde
from dde_kit.decomposition import Tiling
from dde_kit.networks import UNet
from dde_kit.rnn import RNNCoordinator, small_rnn

KW = dict(widths=(16, 32), blocks=(1, 1), stem=4)


def noisy_weights(net, std=0.08, seed=0):
    torch.manual_seed(seed)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=std)
    return net


class Plain(torch.nn.Module):
    "A cell that is one matrix over the channels: the scan can then be written down independently."

    def __init__(self, k, seed=0):
        super().__init__()
        self.w = torch.nn.Parameter(
            torch.randn(k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.4
        )

    def forward(self, x, c_noise, y=None):
        return torch.tanh(self.w @ x + c_noise[:, None, None])


@pytest.mark.parametrize("L", [1, 2, 5])
def test_equals_the_recurrence_written_down(L):
    c, h, n = 3, 4, 8
    f, F = Plain(c + h), Tiling(n).layout((L * n,))
    x, s = torch.randn(2, L, c, n, dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64)
    got = RNNCoordinator(f, c, h)(x, s, None, F)
    memory = torch.zeros(2, h, n, dtype=torch.float64)
    for i in range(L):
        z = torch.tanh(torch.einsum("kj,bjn->bkn", f.w, torch.cat([memory, x[:, i]], 1)) + (s.log() / 4)[:, None, None])
        memory = z[:, :h]
        assert torch.allclose(got[:, i], z[:, h:], atol=1e-12)


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize(
    "size,stride", [(64, 48), (64 + 48 * 3, 48), (64 + 48 * 3 + 20, 48), (64 + 24 * 4, 24), (256, 64)]
)
def test_silent_is_multidiffusion(blend, noisy, size, stride):
    "For overlaps of at most half a part; the blend is w = 1/2 of the canvas so far and the new part."
    base = dde.EDMDenoiser(noisy_weights(UNet(2, ndim=1, **KW)), 0.3)
    F, x, s = Tiling(64, stride), torch.randn(2, 2, size), torch.tensor([0.1, 5.0])
    deep = F.layout((size,)).coverage().max() > 2
    a, b = dde.DDE(base, F, small_rnn(2, 4, blend, noisy=noisy, **KW))(x, s), dde.MultiDiffusion(base, F)(x, s)
    assert torch.allclose(a, b, atol=1e-5) != (blend and deep)


@pytest.mark.parametrize("blend", [False, True])
def test_batch_and_length(blend):
    C, F = noisy_weights(small_rnn(2, 4, blend, **KW)), Tiling(64, 48)
    long, short = F.layout((64 + 48 * 6,)), F.layout((64 + 48 * 2,))
    x, s = torch.randn(3, 7, 2, 64), torch.tensor([0.1, 1.0, 10.0])
    with torch.no_grad():
        y = C(x, s, None, long)
        for k in range(3):
            assert torch.allclose(C(x[k : k + 1], s[k : k + 1], None, long), y[k : k + 1], atol=1e-4)
        assert torch.allclose(C(x[:, :3], s, None, short)[:, :2], y[:, :2], atol=1e-4)


@pytest.mark.parametrize("blend", [False, True])
def test_direction(blend):
    "Changing part 3 leaves the canvas before it as it was, and changes everything after."
    C, F = noisy_weights(small_rnn(2, 4, blend, **KW)), Tiling(64, 48).layout((64 + 48 * 5,))
    x = torch.randn(1, 6, 2, 64)
    z = x.clone()
    z[:, 3] += 1
    with torch.no_grad():
        d = (F.merge(C(x, torch.ones(1), None, F)) - F.merge(C(z, torch.ones(1), None, F))).abs().sum((0, 1))
    assert (d[: 3 * 48] < 1e-6).all() and (d[3 * 48 + 16 :] > 0).float().mean() > 0.9


def test_blend_output_agrees_with_itself():
    "Where parts overlap, a blending coordinator says the same in both: merging and cutting changes nothing."
    C, F = noisy_weights(small_rnn(2, 4, True, **KW)), Tiling(64, 48).layout((64 + 48 * 3 + 10,))
    with torch.no_grad():
        y = C(torch.randn(2, F.L, 2, 64), torch.ones(2), None, F)
    assert torch.allclose(F.split(F.merge(y)), y, atol=1e-6)


def test_every_weight_learns():
    C, F = noisy_weights(small_rnn(2, 4, True, noisy=True, **KW)), Tiling(64, 48).layout((64 + 48 * 2,))
    C(torch.randn(1, 3, 4, 64), torch.ones(1), None, F).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in C.parameters())


def test_refuses():
    C = small_rnn(2, 4, **KW)
    with pytest.raises(ValueError, match="cut them with the layout"):
        C(torch.zeros(1, 3, 2, 64), torch.ones(1), None, Tiling(64, 48).layout((64,)))
    with pytest.raises(ValueError, match="one axis"):
        C(torch.zeros(1, 4, 2, 8, 8), torch.ones(1), None, Tiling(8).layout((16, 16)))


def test_lazy_name():
    assert dde.RNNCoordinator is RNNCoordinator
