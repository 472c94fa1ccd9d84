"The CLEVR domain: scenes, positions, networks, judges, rules, the panel, and a run of the notebook."

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import dde_kit as dde
from dde_kit import clevr
from dde_kit.clevr import (
    PRESETS,
    Matcher,
    PositionCoordinator,
    Scenes,
    arrange,
    build,
    bumps,
    camera,
    check_data,
    draw_positions,
    drawn,
    generate,
    matched,
    meet,
    paired,
    panel,
    pixel,
    position,
    procedural,
    project,
    propose,
    rays,
    read_scenes,
    satisfied,
    threshold,
    train_part,
    EYE,
)


def digest(t):
    return hashlib.sha256(t.numpy().tobytes()).hexdigest()[:16]


# scenes


def test_same_scene_on_every_machine():
    images, at = drawn(3, seed=5)
    assert digest(images) == SCENES and torch.equal(drawn(2, seed=5)[0], images[:2])
    assert not torch.equal(drawn(3, seed=6)[0], images)


SCENES = "62db92cd4e920617"


def test_procedural_is_in_data_units():
    images, at = procedural(6, seed=1)
    assert images.shape == (6, 3, 64, 64) and -1 <= images.min() and images.max() <= 1 and len(at) == 6
    assert all(a.shape[1] == 2 and 3 <= len(a) <= 10 and (a > 0).all() and (a < 1).all() for a in at)


def test_objects_keep_apart_and_the_square_of_the_evaluation_is_used():
    at = [torch.tensor(np.array([o["at"] for o in arrange(np.random.default_rng([9, i]))])) for i in range(60)]
    assert min(torch.pdist(a).min() for a in at) > 0.14
    assert sum(int(((a > 0.3) & (a < 0.7)).all(1).sum()) for a in at) > 60


def test_pixel_and_position_are_inverse():
    every = torch.cartesian_prod(torch.arange(48), torch.arange(48))
    assert torch.equal(pixel(position(every, 48), 48), every)
    assert pixel(torch.tensor([0.0, 1.0]), 64).tolist() == [0, 0] and pixel(torch.tensor([1.0, 0.0]), 64).tolist() == [
        63,
        63,
    ]


def test_camera_projects_what_its_rays_hit():
    x, y = np.random.default_rng(0).uniform(0, 1, (2, 50))
    assert np.allclose(project(EYE + rays(x, y) * 7.3), np.stack([x, y], -1))
    r, u, f = camera()
    assert np.allclose([r @ u, r @ f, u @ f], 0) and np.allclose([r @ r, u @ u, f @ f], 1)


@pytest.mark.parametrize("shape", ["ball", "cube", "cylinder"])
def test_rays_meet_the_surface_of_objects(shape):
    "Every hit lies on the surface, its normal faces the eye and has unit length; along it one leaves the object."
    c, r, turn = np.array([0.3, 0.2, 0.6]), 0.6, 0.4
    x, y = project(c)
    d = rays(x + np.linspace(-0.2, 0.2, 41)[None], y + np.linspace(-0.2, 0.2, 41)[:, None])
    t, n = meet(shape, c, r, turn, d)
    hit = np.isfinite(t)
    assert 100 < hit.sum() < 1500
    q = (EYE + t[hit][:, None] * d[hit] - c) @ np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    size = dict(
        ball=np.linalg.norm(q, axis=1),
        cube=np.abs(q).max(1),
        cylinder=np.maximum(np.hypot(q[:, 0], q[:, 1]), np.abs(q[:, 2])),
    )[shape]
    assert np.allclose(size, r, atol=1e-9)
    assert np.allclose(np.linalg.norm(n[hit], axis=1), 1) and ((n[hit] * d[hit]).sum(1) < 1e-9).all()


# data


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_read_scenes(tmp_path):
    ims = np.random.default_rng(0).integers(0, 256, (5, 128, 128, 3), dtype=np.uint8)
    c = np.random.default_rng(1).uniform(0, 1, (5, 2)).astype(np.float32)
    images, at = read_scenes(write(tmp_path / "a.npz", ims=ims, coords_labels=c))
    assert images.shape == (5, 3, 64, 64) and np.allclose(torch.stack(at)[:, 0], c)
    assert np.abs(images[0].permute(1, 2, 0).numpy() - ims[0].reshape(64, 2, 64, 2, 3).mean((1, 3))).max() <= 0.5
    many = np.full((5, 4, 2), np.nan, np.float32)
    many[:, :3] = 0.5
    many[0, 3] = 0.1
    assert [len(a) for a in read_scenes(write(tmp_path / "b.npz", ims=ims, coords_labels=many))[1]] == [4, 3, 3, 3, 3]


@pytest.mark.parametrize(
    "arrays,word",
    [
        (dict(ims=np.zeros((2, 64, 64, 3), np.uint8)), "'coords_labels' are needed"),
        (dict(ims=np.zeros((2, 64, 64, 3), np.float32), coords_labels=np.zeros((2, 2))), "uint8"),
        (dict(ims=np.zeros((2, 3, 64, 64), np.uint8), coords_labels=np.zeros((2, 2))), "uint8"),
        (dict(ims=np.zeros((2, 64, 64, 3), np.uint8), coords_labels=np.zeros((3, 2))), "for 2 images"),
        (dict(ims=np.zeros((2, 64, 64, 3), np.uint8), coords_labels=np.full((2, 2), 31.0)), "divide"),
        (dict(ims=np.zeros((2, 50, 50, 3), np.uint8), coords_labels=np.zeros((2, 2))), "multiple of 64"),
    ],
)
def test_read_scenes_refuses(tmp_path, arrays, word):
    with pytest.raises(ValueError, match=word):
        read_scenes(write(tmp_path / "a.npz", **arrays))


def test_read_scenes_damaged_or_absent(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_prep"):
        read_scenes(tmp_path / "no.npz")
    (tmp_path / "x.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="not a readable"):
        read_scenes(tmp_path / "x.npz")
    np.savez(tmp_path / "pickle.npz", ims=np.array([{}], dtype=object), coords_labels=np.zeros(1))
    with pytest.raises(ValueError, match="not a readable"):
        read_scenes(tmp_path / "pickle.npz")


def test_batches_know_their_images():
    "Positions come from the image they are given with; one l per batch; all withheld together in about a tenth."
    at = [torch.full((k, 2), i / 20) + torch.arange(k)[:, None] / 200 for i, k in zip(range(10), [1, 2, 3] * 4)]
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 3, 4, 4)
    draw = Scenes(images, at).batches(2)
    seen, none, total = set(), 0, 0
    for step in range(200):
        x0, c = draw(torch.Generator().manual_seed(step), 10)
        seen.add(c.shape[1])
        empty = c.isnan().flatten(1)
        assert torch.equal(empty.any(1), empty.all(1))
        i = ((x0[:, 0, 0, 0] + 1) * 127.5).round()
        ok = ~empty.all(1)
        assert ((c[ok] - i[ok, None, None] / 20 >= -1e-6) & (c[ok] - i[ok, None, None] / 20 < 0.011)).all()
        if c.shape[1] == 2:
            assert (c[ok, 0] != c[ok, 1]).any(1).all() and (i % 3 != 0).all()
        none += int(empty.all(1).sum())
        total += 10
    assert seen == {1, 2} and 0.07 < none / total < 0.13
    with pytest.raises(ValueError, match="no image has 2"):
        Scenes(images[:1], at[:1]).batches(2)


# networks


def test_paper_sizes():
    count = lambda part: sum(p.numel() for p in dde.build(f"clevr/paper/{part}", device="meta").parameters())
    assert [count(k) for k in ("base", "classifier", "coordinator")] == [42_209_795, 9_908_487, 32_505_264]


def test_paper_base_runs_and_hears_its_condition():
    torch.manual_seed(0)
    net = dde.build("clevr/paper/base", width=32, mults=(1, 2), attend=(1,), head=32)
    torch.nn.init.normal_(net.out[2].weight)
    for b in net.modules():
        if isinstance(b, clevr.PaperBlock):
            torch.nn.init.normal_(b.conv2.weight, std=0.02)
    x, t = torch.randn(1, 3, 16, 16).expand(3, -1, -1, -1), torch.zeros(3)
    out = net(x, t, torch.tensor([[0.2, 0.3], [0.8, 0.3], [torch.nan] * 2]))
    assert (
        out.shape == x.shape
        and (out[0] - out[1]).abs().max() > 1e-3
        and torch.allclose(out[2], net(x[:1], t[:1])[0], atol=1e-3)
    )


def test_bumps_have_their_top_at_the_position():
    c = torch.tensor([[0.25, 0.75], [1.0, 0.0], [torch.nan, torch.nan]])
    b = bumps(c, (64, 64))
    assert b.shape == (3, 4, 64, 64) and (b[2] == 0).all() and (b[:2, 3] == 1).all()
    assert b[0, 0].flatten().argmax() == pixel(c[0], 64) @ torch.tensor([64, 1])


def coordinator(**kw):
    torch.manual_seed(1)
    C = PositionCoordinator(patch=8, hidden=48, depth=2, heads=2, **kw)
    for m in (C.out, *[b.mod for b in C.blocks]):
        torch.nn.init.normal_(m.weight, std=0.2)
    return C


FORMS = (
    dict(),
    dict(residual=True),
    dict(residual=True, weigh=True),
    dict(residual=True, weigh=True, bump_widths=(0.1,)),
)


@pytest.mark.parametrize("form", FORMS)
def test_order_of_conditions_does_not_matter(form):
    C, F = coordinator(**form), dde.Repeat()
    y, parts, s, turn = (
        torch.rand(2, 4, 2),
        torch.randn(2, 4, 3, 32, 32),
        torch.tensor([0.3, 4.0]),
        torch.tensor([3, 1, 0, 2]),
    )
    L = F.layout((32, 32), y)
    a, b = L.merge(C(parts, s, y, L)), L.merge(C(parts[:, turn], s, y[:, turn], L))
    assert torch.allclose(a, b, atol=1e-4) and not torch.allclose(a, L.merge(C(parts, s, y.flip(0), L)), atol=1e-3)


def test_equal_copies_are_one():
    C, F, x = coordinator(), dde.Repeat(), torch.randn(1, 1, 3, 32, 32)
    none = torch.full((1, 5, 2), torch.nan)
    a, b = (
        C(x, torch.tensor([1.0]), None, F.layout((32, 32))),
        C(x.expand(-1, 5, -1, -1, -1), torch.tensor([1.0]), none, F.layout((32, 32), none)),
    )
    assert torch.allclose(a.expand_as(b), b, atol=1e-4)


def test_one_hot_falls_on_the_position():
    C, y = coordinator(), torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.3, 0.6], [torch.nan] * 2]])
    p = C.condition(y, dde.Repeat().layout((64, 64), y))
    assert p.shape == (1, 4, 1, 64, 64) and p.flatten(2).sum(2).tolist() == [[1, 1, 1, 0]]
    assert [divmod(int(v), 64) for v in p[0, :3].flatten(1).argmax(1)] == [(63, 0), (0, 63), (26, 19)]


@pytest.mark.parametrize(
    "y,word",
    [
        (torch.full((1, 1, 2), 1.2), r"both in \[0, 1\]"),
        (torch.zeros(1, 0, 2), "no positions|L conditions for each"),
        (torch.zeros(1, 2, 3), r"\(b, L, 2\)"),
    ],
)
def test_bad_positions(y, word):
    D = dde.load("clevr-tiny/dde")
    with pytest.raises(ValueError, match=word):
        D(torch.zeros(1, 3, 64, 64), torch.ones(1), y)


def test_unknown_part():
    with pytest.raises(ValueError, match="choose one of base"):
        dde.build("clevr/tiny/critic")


# shipped weights


@pytest.fixture(scope="module")
def tiny():
    return [dde.load(f"clevr-tiny/{k}") for k in ("base", "dde", "classifier")]


def test_one_condition_identities(tiny):
    base, D, _ = tiny
    silent = dde.DDE(base, dde.Repeat(), build(PRESETS["tiny"], "coordinator"))
    x, s, c = torch.randn(2, 3, 64, 64), torch.tensor([0.5, 3.0]), torch.rand(2, 2)
    assert torch.allclose(silent(x, s, c[:, None]), base(x, s, c), atol=1e-4)
    assert torch.allclose(
        dde.MultiDiffusion(base, dde.Repeat())(x, s, c[:, None].expand(-1, 3, -1)), base(x, s, c), atol=1e-4
    )
    a, b = (D(x, s, v) for v in (c[:, None].repeat(1, 3, 1), c[:, None]))
    assert torch.allclose(a, b, atol=1e-3)  # equal conditions are one


def test_classifier_shape_and_refusal(tiny):
    net = tiny[2]
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 64, 64)
    with pytest.raises(ValueError, match="64"):
        net(torch.zeros(2, 3, 32, 32))


def test_classifier_finds_objects_it_never_saw(tiny):
    images, at = drawn(40, seed=77)
    recall, precision = matched(propose(tiny[2], images), at)
    assert recall > 0.85 and precision > 0.85
    with pytest.raises(ValueError, match="mirrored"):
        check_data(tiny[2], Scenes(images, [a.flip(1) for a in at]))


def test_matcher_knows_objects_from_floor():
    match, scenes = Matcher(), Scenes(*drawn(40, seed=78))
    t, rate = threshold(match, scenes)
    assert 0.3 < t < 0.95 and rate > 0.9


def test_conditions_are_heard(tiny):
    "Objects are where they were asked for far more often than by chance."
    base, D, judge = tiny
    c = draw_positions(12, 1, 5)
    run = lambda D, y: satisfied(judge, generate(D, y, 5, steps=6, solver="euler"), c).float().mean().item()
    asked, chance = run(dde.Guided(dde.Clamp(D), 4.0), c), run(dde.Guided(dde.Clamp(D), 4.0), draw_positions(12, 1, 6))
    assert asked > chance + 0.4


def test_positions_of_the_evaluation():
    for L in range(1, 6):
        c = draw_positions(20, L, 3)
        assert c.shape == (20, L, 2) and c.min() >= 0.3 and c.max() <= 0.7
        if L > 1:
            assert min(torch.pdist(k).min() for k in c) >= 0.15
    assert torch.equal(draw_positions(5, 3, 1), draw_positions(20, 3, 1)[:5])


def test_paired():
    a, b = torch.tensor([1, 1, 1, 0, 1], dtype=bool), torch.tensor([0, 0, 1, 1, 1], dtype=bool)
    assert paired(a, b) == (2, 1, pytest.approx(1.0)) and paired(a, a) == (0, 0, 1.0)
    assert paired(torch.ones(10, dtype=bool), torch.zeros(10, dtype=bool))[2] == pytest.approx(2 / 1024)


def test_train_parts_and_resume(tmp_path):
    scenes = Scenes(*drawn(12, seed=0))
    for part in ("classifier", "base"):
        train_part(part, "tiny", scenes, tmp_path / part, steps=2, batch=2, progress=False)
    train_part(
        "coordinator", "tiny", scenes, tmp_path / "dde", base=tmp_path / "base", steps=2, batch=2, progress=False
    )
    D, net = dde.load(tmp_path / "dde"), dde.load(tmp_path / "classifier")
    assert D(torch.zeros(1, 3, 64, 64), torch.ones(1), torch.rand(1, 3, 2)).shape == (1, 3, 64, 64) and net(
        torch.zeros(1, 3, 64, 64)
    ).shape == (1, 64, 64)
    assert D.config["trained"]["steps"] == 2


def test_panel_without_a_browser(tiny):
    box = panel(*tiny, steps=2)
    box.go.click()
    assert "at least one" in box.note.value and box.image is None
    for b in list(box.places.values())[:7]:
        b.value = True
    assert sum(b.value for b in box.places.values()) == 5 and "switch one off" in box.note.value
    for k in clevr.METHODS:
        box.method.value = k
        box.go.click()
        assert (
            box.image.shape == (1, 3, 64, 64)
            and box.satisfied.shape == (1, 5)
            and "of 5 places satisfied" in box.note.value
        )


def test_papermill_with_other_parameters(tmp_path):
    pm = pytest.importorskip("papermill")
    nb = Path(__file__).parent.parent / "nbs" / "20_clevr.ipynb"
    pm.execute_notebook(
        nb,
        tmp_path / "out.ipynb",
        dict(L=2, samples=2, steps=2, results=str(tmp_path)),
        cwd=tmp_path,
        progress_bar=False,
    )
    run = tmp_path / "clevr" / "tiny" / "L2-n2-seed0"
    assert json.loads(Path(f"{run}.json").read_text(encoding="utf-8"))["guidance"].keys() == {
        "RRR",
        "MultiDiffusion",
        "DDE",
    }
    assert (
        "accuracy, matching" in Path(f"{run}.csv").read_text(encoding="utf-8")
        and Path(f"{run}.png").stat().st_size > 5000
    )


def test_images_are_remembered(tmp_path):
    "A run that was stopped, or asks for more, gives the images of a single go; another model or position starts anew."
    calls = []

    class Count(torch.nn.Module):
        sigma_data = 0.5

        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(torch.tensor(0.1))

        def forward(self, x, sigma, y=None):
            calls.append(len(x))
            return self.a * x.clamp(-1, 1) + y.mean((1, 2))[:, None, None, None] * 0.1

    D, c, f = Count(), draw_positions(10, 2, 0), tmp_path / "a.safetensors"
    how = dict(batch=4, size=8, steps=2, sigma_min=0.1, sigma_max=2.0)
    want = generate(D, c, 3, **how)
    first = generate(D, c[:6], 3, keep=f, facts=dict(w=1.0), **how)
    assert torch.equal(first, want[:6])
    calls.clear()
    assert (
        torch.equal(generate(D, c, 3, keep=f, facts=dict(w=1.0), **how), want) and set(calls) == {4} and len(calls) == 3
    )
    calls.clear()
    assert torch.equal(generate(D, c[:5], 3, keep=f, facts=dict(w=1.0), **how), want[:5]) and not calls
    for other in (dict(facts=dict(w=2.0)), dict(seed=4, facts=dict(w=1.0))):
        calls.clear()
        generate(D, c[:4], **(dict(seed=3) | other), keep=tmp_path / "a.safetensors", **how)
        assert calls


def test_classifier_loss_in_pieces():
    "Pieces of a batch, each told which rows it has, average to the loss of the whole."
    net, x, c = build(PRESETS["tiny"], "classifier"), torch.randn(6, 3, 64, 64), torch.rand(6, 2)
    with torch.no_grad():
        for q in net.parameters():
            q.copy_(0.3 * torch.randn_like(q))
        g = lambda: torch.Generator().manual_seed(3)
        whole, pieces = (
            clevr.classifier_loss(net, x, c, g()),
            [clevr.classifier_loss(net, x[i : i + 2], c[i : i + 2], g(), (i, 6)) for i in (0, 2, 4)],
        )
    assert abs(whole - 0.693) > 0.01 and torch.allclose(whole, sum(pieces) / 3, rtol=1e-4)
