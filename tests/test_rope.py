"""Rotary positions: against the matrix of the paper (B.3.4), and in the forms in which tensors arrive."""

import numpy as np
import pytest
import torch

from dde_kit.rope import apply_rope, rope, rope_table


def rotate(x, position, theta=10_000.0):
    "R x for one vector, pair by pair, in plain numpy (Su et al. 2023, eq. 15)."
    out, d = np.empty_like(x), len(x)
    for i in range(d // 2):
        a = position * theta ** (-2 * i / d)
        out[2 * i] = np.cos(a) * x[2 * i] - np.sin(a) * x[2 * i + 1]
        out[2 * i + 1] = np.sin(a) * x[2 * i] + np.cos(a) * x[2 * i + 1]
    return out


@pytest.mark.parametrize("theta", [100.0, 10_000.0])
def test_is_the_matrix_of_the_paper(theta):
    x, p = np.random.default_rng(0).normal(size=(6, 12)), [0, 1, 7, 100, -3, 2.5]
    got = rope(torch.tensor(x), torch.tensor(p), theta).numpy()
    np.testing.assert_allclose(got, [rotate(v, m, theta) for v, m in zip(x, p)], atol=1e-12)


def test_two_dimensions_are_two_halves():
    x, p = np.random.default_rng(1).normal(size=(5, 16)), [[0, 0], [3, 0], [0, 3], [2, 5], [-1, 0.5]]
    want = [np.concatenate([rotate(v[:8], a), rotate(v[8:], b)]) for v, (a, b) in zip(x, p)]
    np.testing.assert_allclose(rope(torch.tensor(x), torch.tensor(p)).numpy(), want, atol=1e-12)


@pytest.mark.parametrize("axes", [1, 2])
def test_scores_depend_on_differences_only(axes):
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, 4, 20, 24, generator=g, dtype=torch.float64)
    p = (
        torch.randint(-50, 50, (20, axes), generator=g).squeeze(-1)
        if axes == 1
        else torch.randint(-50, 50, (20, 2), generator=g)
    )
    scores = lambda shift: rope(q, p + shift) @ rope(k, p + shift).mT
    shift = torch.tensor(1234.5) if axes == 1 else torch.tensor([-17.0, 400.25])
    torch.testing.assert_close(scores(shift), scores(0), atol=1e-9, rtol=0)
    assert (rope(q, p + shift) @ rope(k, p).mT - scores(0)).abs().max() > 0.1


def test_whatever_memory_looks_like():
    base, p = torch.randn(3, 5, 17), torch.arange(5)
    for x in (
        base[:, :, 1:],
        base[:, :, :16],
        base.transpose(0, 2)[1:].transpose(0, 2),
        base[:1, :, :16].expand(4, 5, 16),
        base[..., :16].permute(1, 0, 2)[:, :, None].expand(5, 3, 5, 16),
    ):
        torch.testing.assert_close(rope(x, p), rope(x.clone(memory_format=torch.contiguous_format), p))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_type_is_kept(dtype):
    x = torch.randn(7, 8).to(dtype)
    got = rope(x, torch.arange(7) * 1000)
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.double(),
        rope(x.double(), torch.arange(7) * 1000),
        atol={torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 3e-2),
        rtol=0,
    )


def test_gradient():
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rope(x, torch.tensor([[0, 1], [5, 2], [-3, 0]])), x)


def test_table_is_the_same_thing():
    x, p = torch.randn(2, 9, 8), torch.rand(9, 2) * 30
    assert torch.equal(apply_rope(x, *rope_table(p, 8)), rope(x, p))


def test_errors():
    with pytest.raises(ValueError, match="use a multiple of 4"):
        rope(torch.zeros(4, 6), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="use a multiple of 2"):
        rope(torch.zeros(4, 5), torch.zeros(4))
    for p in (torch.zeros(3), torch.zeros(1, 4), torch.zeros(())):
        with pytest.raises(ValueError, match="one position per token"):
            rope(torch.zeros(4, 8), p)
