"The decomposition F on geometries that nobody chose by hand, in other types, and inside training and sampling."

import copy
import random
import pytest
import torch
from dde_kit.decomposition import Axis, Repeat, SideBySide, Tiling, covers, starts, windows


def geometries(n, seed=0):
    "Random tilings with one to three axes and a canvas for each."
    r = random.Random(seed)
    for _ in range(n):
        d = r.randint(1, 3)
        p = [r.randint(1, 9) for _ in range(d)]
        s = [r.randint(1, k) for k in p]
        yield tuple(p), tuple(s), tuple(k + r.randint(0, 12) for k in p), r.choice(list(windows))


def by_hand(x, layout):
    "Parts as slices, one after the other."
    cut = lambda o: x[(..., *[slice(i, i + p) for i, p in zip(o, layout.patch)])]
    return torch.stack([cut(o) for o in layout.origins.tolist()], 1)


@pytest.mark.parametrize("patch,stride,size,window", list(geometries(60)))
def test_split_and_merge(patch, stride, size, window):
    F = Tiling(patch, stride, window=window)
    L = F.layout(size)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    parts = F.split(x)
    assert torch.equal(parts, by_hand(x, L)) and parts.shape == (2, L.L, 3, *patch)
    assert torch.allclose(F.merge(parts, size), x, atol=1e-12)
    p = torch.randn_like(parts)
    assert torch.allclose((parts * p).sum(), (x * L.sum(p)).sum())
    assert torch.equal(L.sum(torch.ones_like(parts))[0, 0], L.coverage().double()) and L.coverage().min() >= 1


@pytest.mark.parametrize("patch,stride,size,window", list(geometries(20, seed=1)))
def test_merge_is_the_mean_by_hand(patch, stride, size, window):
    F = Tiling(patch, stride, window=window)
    L = F.layout(size)
    p = torch.randn(1, L.L, 2, *patch, dtype=torch.float64)
    w = torch.ones((), dtype=torch.float64)
    for n in patch:
        w = w[..., None] * windows[window](n)
    top, bottom = torch.zeros(1, 2, *size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for k, o in enumerate(L.origins.tolist()):
        at = (..., *[slice(i, i + n) for i, n in zip(o, patch)])
        top[at] += w * p[:, k]
        bottom[at] += w
    assert torch.allclose(L.merge(p), top / bottom)


@pytest.mark.parametrize("patch,stride,size,window", list(geometries(20, seed=2)))
def test_side_by_side_has_one_owner(patch, stride, size, window):
    F = SideBySide(patch)
    L = F.layout(size)
    p = torch.randn(1, L.L, 2, *patch)
    want = torch.zeros(1, 2, *size)
    for k, o in reversed(list(enumerate(L.origins.tolist()))):  # the first to cover a position writes last
        want[(..., *[slice(i, i + n) for i, n in zip(o, patch)])] = p[:, k]
    assert torch.equal(L.merge(p), want)
    x = torch.randn(2, 3, *size)
    assert torch.equal(F.merge(F.split(x), size), x)


def test_the_papers_geometry():
    for N, L in [(64, 1), (96, 4), (128, 9), (256, 49)]:
        assert Tiling(64, 32, strict=True).layout((N, N)).L == L
    l = 2**10
    assert (
        Tiling(l, 3 * l // 4, strict=True).layout((4 * l,)).L == 5
        and Tiling(l, 3 * l // 4, strict=True).layout((10 * l,)).L == 13
    )


def test_covers_of_a_table_with_gaps():
    source, one, count = covers(torch.tensor([2, 0, 2]), 4)
    assert (
        count.tolist() == [1, 0, 2, 0]
        and one.tolist() == [[1, 0], [0, 0], [1, 1], [0, 0]]
        and source[2].tolist() == [0, 2]
    )
    a = Axis(10, [3], 4)  # a region that leaves most of the canvas alone
    assert a.mean.isfinite().all() and a.count.tolist() == [0] * 3 + [1] * 4 + [0] * 3


def test_types_devices_and_memory_layout():
    F, x = Tiling(4, 3), torch.arange(200).reshape(2, 1, 10, 10)
    assert F.split(x).dtype == torch.int64 and torch.equal(F.split(x.byte()), F.split(x).byte())
    h = torch.randn(2, 3, 10, 10).bfloat16()
    assert F.merge(F.split(h), (10, 10)).dtype == torch.bfloat16
    t = torch.randn(2, 3, 10, 7).transpose(2, 3)
    assert torch.allclose(F.merge(F.split(t), (7, 10)), t, atol=1e-6)
    assert F.split(torch.zeros(2, 3, 10, 10, device="meta")).shape == (2, 9, 3, 4, 4)
    assert F.merge(torch.zeros(2, 9, 3, 4, 4, device="meta"), (10, 10)).shape == (2, 3, 10, 10)


def test_layouts_are_kept_and_copy_along():
    F = Tiling(4, 3)
    assert F.layout((10, 7)) is F.layout(torch.Size([10, 7])) is not F.layout((7, 10))
    G = copy.deepcopy(F)
    assert torch.equal(G.positions((10, 7)), F.positions((10, 7)))


def test_tables_made_in_inference_mode_serve_training():
    F = Tiling(4, 3, window="hann")
    with torch.inference_mode():
        F.merge(F.split(torch.randn(1, 1, 10)), (10,))
    p = torch.randn(1, 3, 1, 4, requires_grad=True)
    F.merge(p, (10,)).sum().backward()
    assert torch.allclose(p.grad.sum(), torch.tensor(10.0))


def test_gradients():
    F = Tiling((3, 2), (2, 1), window="gaussian")
    f = lambda x: F.merge(torch.sin(F.split(x)), (6, 4))
    assert torch.autograd.gradcheck(f, torch.randn(1, 1, 6, 4, dtype=torch.float64, requires_grad=True))


def test_conditions():
    L = Tiling(4, 2).layout((8, 6))
    y = torch.randn(2, 5, 8, 6)
    assert L.split_y(None) is None and torch.equal(L.split_y(y), L.split(y))
    assert L.split_y(torch.randn(2, 7)).shape == (2, L.L, 7) and L.split_y(torch.arange(2)).shape == (2, L.L)
    with pytest.raises(ValueError, match=r"\(8, 6\).*\(8, 8\)"):
        L.split_y(torch.randn(2, 5, 8, 8))


def test_repeat():
    R, x, y = Repeat(), torch.randn(2, 3, 5, 5), torch.randn(2, 4, 2)
    L = R.layout((5, 5), y)
    assert (L.L, L.patch, L.size) == (4, (5, 5), (5, 5)) and L.origins.tolist() == [[0, 0]] * 4
    p = torch.randn(2, 4, 3, 5, 5)
    assert (
        torch.allclose(L.merge(p), p.mean(1))
        and torch.allclose(L.sum(p), p.sum(1))
        and torch.allclose(R.merge(p, (5, 5)), p.mean(1))
    )
    assert torch.equal(R.split(x), x[:, None]) and R.layout((5, 5)).L == 1 and torch.equal(R.split(x, y)[:, 3], x)


@pytest.mark.parametrize(
    "make,says",
    [
        (lambda: Tiling(4, 5), "would leave gaps"),
        (lambda: Tiling((4, 4), (2, 5)), "would leave gaps"),
        (lambda: Tiling(0), "at least 1"),
        (lambda: Tiling(4.0), "whole number"),
        (lambda: Tiling(4, window="box"), "use one of"),
        (lambda: Tiling((4, 4), (2, 2, 2)), "names 2 axes"),
        (lambda: Tiling((4, 4)).layout((8,)), "names 2 axes where there are 1"),
        (lambda: Tiling(4).layout((8, 3)), "a canvas of 3 is smaller than a part of 4"),
        (lambda: Tiling(4, 3, strict=True).layout((11,)), r"n = patch \+ k\*stride.*10 and 13"),
        (lambda: starts(11, 4, 3, True), "10 and 13"),
        (lambda: Tiling(4).layout((8,)).split(torch.zeros(1, 1, 9)), r"F\.layout\(\(9,\)\)"),
        (lambda: Tiling(4).merge(torch.zeros(1, 3, 1, 4), (8,)), "another size"),
        (lambda: Repeat().layout((8,), torch.zeros(3)), r"y\[:,None\]"),
    ],
)
def test_refusals(make, says):
    with pytest.raises(ValueError, match=says):
        make()
