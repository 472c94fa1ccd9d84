"Answers of another shape or kind are refused wherever they would be broadcast, and half precision does not overflow."

import math

import pytest
import torch
from torch import nn

import dde_kit as dde
from dde_kit.training import sample_many

X, S = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(2)
WRONG = [lambda x: x[:, :1], lambda x: x[:1], lambda x: x.mean(), lambda x: x + 1j, lambda x: x.long(), lambda x: None]


class Half(nn.Module):
    sigma_data = 0.5

    def forward(self, x, sigma, y=None):
        return x / 2


@pytest.mark.parametrize("answer", WRONG)
def test_answers(answer):
    "Of a network, of a denoiser in loss, score and sampler, of a weaker model, of the base in every rule."
    D = lambda x, sigma, y=None: answer(x)
    D.sigma_data = 0.5
    cases = [
        lambda: dde.EDMDenoiser(lambda x, c, y: answer(x))(X, S),
        lambda: dde.denoising_loss(D, X, None, dde.LogNormal(0, 1)),
        lambda: dde.score(D, X, S),
        lambda: dde.sample(D, X.shape, steps=1),
        lambda: dde.Guided(Half(), 1.0, weak=D)(X, S),
        lambda: dde.MultiDiffusion(D, dde.Tiling(4, 2))(X, S),
        lambda: dde.RRR(D)(X, S, torch.zeros(2, 2, 1)),
    ]
    for case in cases:
        with pytest.raises(ValueError, match="must return an estimate of x"):
            case()


@pytest.mark.parametrize("make", [lambda n: dde.Guided(Half(), 1.0, null=n), lambda n: dde.RRR(Half(), null=n)])
@pytest.mark.parametrize("null", [0.5, -1, math.nan])
def test_no_condition_is_a_value_that_conditions_can_have(make, null):
    y = torch.zeros(2, 2, 1, dtype=torch.uint8)
    with pytest.raises(ValueError, match="is no value that conditions of type torch.uint8"):
        make(null)(X, S, y)
    make(torch.tensor(0.0))(X, S, y)
    make(null)(X, S, y.float())


@pytest.mark.parametrize("sigma", [1.0, 300.0, 4000.0])
def test_half_precision_does_not_overflow(sigma):
    "sigma^2 is beyond float16; the network sees unit variance all the same."
    seen = []
    D = dde.EDMDenoiser(lambda x, c, y: seen.append(x.float().std().item()) or x, 0.5)
    x = (torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * min(sigma, 60000 / 5)).half()
    assert (
        D(x, torch.full((4,), sigma).half()).isfinite().all() and D(x, torch.full((4,), sigma).half()).dtype == x.dtype
    )
    assert 0.7 < seen[0] < 1.2


@pytest.mark.parametrize("kind", [torch.uint8, torch.long, torch.bool])
def test_a_map_of_integers_is_refused(kind):
    y = torch.zeros(1, 3, 64, 64).to(kind)
    for name in ("maps-tiny/base", "maps-tiny/dde"):
        with pytest.raises(ValueError, match="metrics.unit"):
            dde.sample(dde.load(name), y.shape, y, steps=1)


def test_sample_many_makes_its_own_noise():
    with pytest.raises(ValueError, match="give seed="):
        sample_many(Half(), 4, (3, 8, 8), x=X)


def test_weights_of_half_precision_are_not_trained():
    D = dde.EDMDenoiser(nn.Conv2d(3, 3, 1).bfloat16())
    with pytest.raises(ValueError, match="precision='bf16'"):
        dde.fit(D, lambda g, n: (torch.randn(n, 3, 4, 4, generator=g), None), noise=dde.LogNormal(0, 1), steps=1)


def test_a_held_out_loss_that_is_not_finite_stops_the_run():
    D = dde.EDMDenoiser(NetOf())
    data = lambda g, n: (torch.randn(n, 3, 4, 4, generator=g), None)
    held = lambda g, n: (torch.full((n, 3, 4, 4), math.nan), None)
    with pytest.raises(FloatingPointError, match="held-out"):
        dde.fit(D, data, noise=dde.LogNormal(0, 1), steps=2, batch=2, held=held, keep="best", progress=False)


class NetOf(nn.Module):
    "One convolution, whose answer passes through a function."

    def __init__(self, act=torch.relu, layer=nn.ReLU):
        super().__init__()
        self.conv, self.act, self.layer = nn.Conv2d(3, 3, 1), act, layer()

    def forward(self, x, c_noise, y=None):
        return self.layer(self.act(self.conv(x)))


@pytest.mark.parametrize("change", [dict(act=torch.tanh), dict(layer=nn.GELU)])
def test_a_resume_knows_functions_and_layers_without_weights(tmp_path, change):
    data = lambda g, n: (torch.randn(n, 3, 4, 4, generator=g), None)
    kw = dict(noise=dde.LogNormal(0, 1), batch=2, out=tmp_path, progress=False)
    dde.fit(dde.EDMDenoiser(NetOf()), data, steps=2, **kw)
    with pytest.raises(ValueError, match="is of another model"):
        dde.fit(dde.EDMDenoiser(NetOf(**change)), data, steps=2, **kw)


def test_numbers_of_numpy_train_and_are_written(tmp_path):
    import numpy as np

    data = lambda g, n: (torch.randn(n, 3, 4, 4, generator=g), None)
    kw = dict(
        lr=np.float32(1e-3), betas=(np.float32(0.9), 0.999), clip=torch.tensor(1.0), steps=2, batch=2, progress=False
    )
    dde.fit(dde.EDMDenoiser(NetOf()), data, noise=dde.LogNormal(np.float32(0), 1), out=tmp_path, **kw)


def test_models_of_one_table_belong_together():
    from dde_kit.evaluate import check_models

    mine = dict(base=dde.load("maps-tiny/base"), dde=dde.load("maps-tiny/dde"))
    check_models(mine, "maps", "tiny")
    with pytest.raises(ValueError, match="maps/small"):
        check_models(mine, "maps", "small")
    with pytest.raises(ValueError, match="another base"):
        check_models(mine | dict(base=dde.load("maps-tiny-dubai/base")), "maps", "tiny")
