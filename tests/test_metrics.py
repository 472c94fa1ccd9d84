"Metrics: parity with published implementations, coverage of the intervals, clean-fid's real path, broken weights."

import functools
import http.server
import math
import socket
import subprocess
import sys
import threading
import time
import numpy as np
import pytest
import torch
from torch import nn
from dde_kit import metrics as M


def randn(*s, seed=0):
    return torch.randn(*s, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- distances against other implementations -------------------------------------------------------------------------


@pytest.mark.parametrize("n,m,d", [(200, 300, 12), (2, 2, 1), (40, 30, 12)])
def test_frechet_is_the_textbook_formula(n, m, d):
    linalg = pytest.importorskip("scipy.linalg")
    a, b = 1.5 * randn(n, d) + 0.3, randn(m, d, seed=1) @ randn(d, d, seed=2)
    Ca, Cb = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(Ca + Cb - 2 * np.real(linalg.sqrtm(Ca @ Cb)))
    assert M.frechet_distance(a, b) == pytest.approx(float(want), rel=1e-7)


def test_frechet_for_fewer_pictures_than_features():
    "Rank-deficient covariances, against eigenvalues of the small product; numpy float32 in is fine."
    a, b = randn(20, 300).float().numpy(), 2 * randn(15, 300, seed=1).float().numpy()
    A, B = (x.astype(np.float64) - x.astype(np.float64).mean(0) for x in (a, b))
    A, B = A / 19**0.5, B / 14**0.5
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(A @ B.T @ B @ A.T), 0, None)).sum()
    want = (
        ((a.astype(np.float64).mean(0) - b.astype(np.float64).mean(0)) ** 2).sum()
        + (A**2).sum()
        + (B**2).sum()
        - 2 * roots
    )
    assert M.frechet_distance(a, b) == pytest.approx(want, rel=1e-9)


def test_kid_matches_clean_fid():
    "With equal numbers up to 1000 each of clean-fid's subsets is the whole set, so both are the same U-statistic."
    fid = pytest.importorskip("cleanfid.fid")
    a, b = randn(50, 16).numpy(), randn(50, 16, seed=1).numpy() + 0.2
    assert M.kid(a, b) == pytest.approx(fid.kernel_distance(b, a, num_subsets=2), rel=1e-9)


@pytest.mark.parametrize("f", [M.frechet_distance, M.kid, lambda a, b: M.bootstrap("fid", a, b)])
def test_bad_features(f):
    nan = randn(9, 3)
    nan[2, 1] = math.nan
    for bad, words in (
        (nan, "1 of 9 rows"),
        (randn(9, 4), "4 and 3"),
        (randn(1, 3), "at least 2"),
        (randn(9), "one row per picture"),
    ):
        with pytest.raises(ValueError, match=words):
            f(bad, randn(9, 3))


# ---- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stat", ["fid", "kid"])
@pytest.mark.parametrize("n,m,d", [(60, 80, 4), (12, 15, 20)])
def test_influence_is_the_derivative(stat, n, m, d):
    "Adding a second copy of a picture with small weight, for both sets, by differences of a weighted statistic."
    a, b = 1.3 * randn(n, d) + 0.3, randn(m, d, seed=1)

    def weighted(w, v):
        if stat == "kid":
            k = lambda x, y: (x @ y.T / d + 1) ** 3
            part = lambda x, w: (
                (w @ (k(x, x) - k(x, x).diagonal().diag()) @ w) / (len(x) * (len(x) - 1)) * (len(x) / w.sum()) ** 2
            )
            return part(a, w) + part(b, v) - 2 * (w / w.sum()) @ k(a, b) @ (v / v.sum())
        root = lambda x, w: (w / w.sum() * len(x) / (len(x) - 1)).sqrt()[:, None] * (x - w @ x / w.sum())
        A, B = root(a, w), root(b, v)
        return (
            (w @ a / w.sum() - v @ b / v.sum()).square().sum()
            + A.square().sum()
            + B.square().sum()
            - 2 * torch.linalg.svdvals(A @ B.T).sum()
        )

    value, ia, ib = M.stats[stat](a, b)
    one, two = torch.ones(n).double(), torch.ones(m).double()
    assert value == pytest.approx(weighted(one, two).item(), rel=1e-9)
    assert abs(ia.sum()) < 1e-8 * n and abs(ib.sum()) < 1e-8 * m
    for k in (0, 5):
        e = 1e-5 * torch.nn.functional.one_hot(torch.tensor(k), n)
        g = 1e-5 * torch.nn.functional.one_hot(torch.tensor(k), m)
        assert (weighted(one + e, two) - weighted(one - e, two)).item() / 2e-5 * n == pytest.approx(
            ia[k].item(), rel=1e-3, abs=1e-3 * ia.abs().max().item()
        )
        assert (weighted(one, two + g) - weighted(one, two - g)).item() / 2e-5 * m == pytest.approx(
            ib[k].item(), rel=1e-3, abs=1e-3 * ib.abs().max().item()
        )


cases = {
    "far": (256, 64, 1.3, 0.3),
    "near": (256, 64, 1.05, 0.0),
    "equal": (256, 64, 1.0, 0.0),
    "fewer pictures than features": (48, 64, 1.3, 0.3),
}


@pytest.mark.parametrize("skew", [False, True], ids=["gaussian", "skewed"])
@pytest.mark.parametrize("case", cases)
def test_coverage(case, skew):
    "The interval holds the mean of the repeated experiment about as often as it says, and is not much too wide."
    (n, d, scale, shift), g = cases[case], torch.Generator().manual_seed(7)

    def draw(n, scale=1.0, shift=0.0):
        z = torch.randn(n, d, generator=g, dtype=torch.float64)
        if skew:
            z = (0.5 * z).exp() - 1
        return scale * torch.linspace(0.3, 2, d).double() * z + shift

    b = draw(500)
    sets = [draw(n, scale, shift) for _ in range(80)]
    for stat, f in (("fid", M.frechet_distance), ("kid", M.kid)):
        values = np.array([f(a, b) for a in sets])
        found = [M.bootstrap(stat, a, b, n=300) for a in sets[:40]]
        covers = np.mean([i.lo <= values.mean() <= i.hi for i in found])
        width = np.median([i.hi - i.lo for i in found]) / (3.92 * values.std())
        print(
            f"{case} {'skewed' if skew else 'gaussian'} {stat}: coverage {covers:.2f}, width {width:.2f} of the ideal"
        )
        assert covers >= 0.85 and 0.7 < width < 1.8


def test_plain_bootstrap_would_fail():
    "Why the kit does not recompute FID on resamples: with 64 features no percentile interval holds the mean."
    n, d, g = 256, 64, torch.Generator().manual_seed(3)
    draw = lambda n, s: s * torch.randn(n, d, generator=g, dtype=torch.float64)
    b = draw(500, 1.0)
    sets = [draw(n, 1.3) for _ in range(40)]
    mean, hits = np.mean([M.frechet_distance(a, b) for a in sets]), 0
    for k, a in enumerate(sets[:5]):
        reps = [
            M.frechet_distance(a[torch.from_numpy(np.random.default_rng((k, j)).integers(n, size=n))], b)
            for j in range(40)
        ]
        hits += np.quantile(reps, 0.025) <= mean <= np.quantile(reps, 0.975)
    assert hits == 0


def test_coverage_when_real_pictures_are_chance_too():
    g = torch.Generator().manual_seed(5)
    draw = lambda n, s: s * torch.randn(n, 16, generator=g, dtype=torch.float64)
    pairs = [(draw(200, 1.3), draw(80, 1.0)) for _ in range(150)]
    mean = np.mean([M.frechet_distance(*p) for p in pairs])
    hold = lambda reals: np.mean(
        [i.lo <= mean <= i.hi for i in (M.bootstrap("fid", *p, n=300, reals=reals) for p in pairs[:80])]
    )
    both, fixed = hold("resampled"), hold("fixed")
    print(f"reals resampled {both:.2f}, fixed {fixed:.2f}")
    assert both >= 0.88 and fixed < both


def test_coverage_of_the_paired_ratio():
    g = torch.Generator().manual_seed(6)
    b = torch.randn(500, 16, generator=g, dtype=torch.float64)

    def experiment():
        z = torch.randn(200, 16, generator=g, dtype=torch.float64)
        return 1.15 * z, 1.2 * z + 0.1 * torch.randn(200, 16, generator=g, dtype=torch.float64)

    sets = [experiment() for _ in range(150)]
    truth = np.mean([M.frechet_distance(p, b) for p, _ in sets]) / np.mean([M.frechet_distance(q, b) for _, q in sets])
    found = [M.compare("fid", p, q, b, n=300) for p, q in sets[:80]]
    covers = np.mean([i.lo <= truth <= i.hi for i in found])
    print(f"ratio coverage {covers:.2f}")
    assert covers >= 0.85


def test_mean_is_the_ordinary_bootstrap():
    v = randn(400).numpy()
    i = M.bootstrap("mean", v, n=4000)
    assert i.value == pytest.approx(v.mean()) and i.hi - i.lo == pytest.approx(3.92 * v.std(ddof=1) / 20, rel=0.06)
    assert M.bootstrap("mean", np.append(v, [math.nan] * 7)).value == pytest.approx(v.mean())
    with pytest.raises(ValueError, match="nothing to average"):
        M.bootstrap("mean", [math.nan])


def test_undecidable_ratios_have_no_ends():
    z = randn(100).numpy()
    assert math.isnan(M.compare("mean", z + 1, z).lo)
    assert math.isnan(M.closed(z, z, z).value)


def test_fast_enough():
    a, b = 1.1 * randn(256, 64), randn(1000, 64, seed=1)
    t = time.process_time()
    M.bootstrap("fid", a, b)
    M.bootstrap("kid", a, b)
    assert time.process_time() - t < 5


# ---- 8 bits and clean-fid ------------------------------------------------------------------------------------------


def test_rounding_and_the_authors_truncation():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(M.to_uint8(levels / 127.5 - 1), levels)
    assert (M.to_uint8(levels / 127.5 - 1, truncate=True) != levels).sum() == 63
    with pytest.raises(ValueError, match="1 of 2"):
        M.to_uint8(torch.tensor([[0.0], [math.nan]]))
    with pytest.raises(ValueError, match="int64"):
        M.to_uint8(torch.ones(1, 3, 4, 4).long())


def save_pngs(images, folder):
    from PIL import Image

    for k, o in enumerate(M.to_uint8(images)):
        Image.fromarray(o.permute(1, 2, 0).numpy()).save(folder / f"{k:03d}.png")


class Stub(nn.Module):
    "Stands in for Inception's layers: 2048 numbers that depend on colours and places."

    def __init__(self, d: int = 2048):
        super().__init__()
        self.w = nn.Parameter(randn(3 * 23 * 23, d).float())

    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, (23, 23)).flatten(1) @ self.w / 40


class StubInception(nn.Module):
    def __init__(self, d: int = 2048):
        super().__init__()
        self.layers = Stub(d)

    def forward(self, x):
        return self.layers(x)


@functools.lru_cache
def stub_bytes(d=2048):
    import io

    f = io.BytesIO()
    torch.jit.save(torch.jit.script(StubInception(d)), f)
    return f.getvalue()


def put(folder, data=None):
    folder.mkdir(exist_ok=True)
    (folder / M.INCEPTION).write_bytes(stub_bytes() if data is None else data)
    return folder


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    "No Inception file in any place that is looked at, and no network."
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.delenv("DDE_KIT_INCEPTION", raising=False)
    monkeypatch.setattr(M, "inception_folder", lambda: empty)
    monkeypatch.setattr(M.tempfile, "gettempdir", lambda: str(empty))

    def refuse(*a, **kw):
        raise AssertionError("the network was tried")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return empty


@pytest.mark.parametrize("which", ["inception", "kit-small"])
@pytest.mark.parametrize("shape", [(5, 3, 96, 96), (3, 3, 64, 130)])
def test_features_are_clean_fids(which, shape, tmp_path, nowhere):
    fid = pytest.importorskip("cleanfid.fid")
    net = (
        M.extractor("inception", path=put(tmp_path / "w"))
        if which == "inception"
        else M.extractor("kit-small", weights=M.FeatureNet(8, 16, 2))
    )
    images = 1.4 * randn(*shape).float()
    pngs = tmp_path / "png"
    pngs.mkdir()
    save_pngs(images, pngs)
    theirs = fid.get_folder_features(
        str(pngs), net, num_workers=0, device=torch.device("cpu"), mode="clean", verbose=False
    )
    ours = M.features(images, net, batch=2)
    assert ours.shape == theirs.shape and abs(ours - theirs).max() <= 1e-5 * abs(theirs).max()
    assert np.array_equal(ours, M.features(M.to_uint8(images), net, batch=2))


def test_resize299_is_clean_fids():
    from cleanfid.resize import build_resizer

    x = M.to_uint8(randn(1, 3, 96, 130).float())
    theirs = build_resizer("clean")(x[0].permute(1, 2, 0).numpy())
    assert abs(M.resize299(x)[0].permute(1, 2, 0).numpy() - theirs).max() < 0.02


def test_features_refuse_other_shapes():
    with pytest.raises(ValueError, match=r"\(n, 3, H, W\)"):
        M.features(torch.zeros(2, 1, 8, 8), lambda x: x)


# ---- which network -------------------------------------------------------------------------------------------------


def test_auto_says_one_line_and_takes_kit_small(nowhere, capsys):
    net = M.extractor(weights=M.FeatureNet(8, 16, 2))
    said = capsys.readouterr().out
    assert (
        said.count("\n") == 1
        and "absent" in said
        and "kit-small" in said
        and net.name == "kit-small"
        and net.distance != "FID"
    )
    with pytest.raises(FileNotFoundError, match="download=True"):
        M.extractor("inception")


def test_inception_where_it_is_looked_for(nowhere, tmp_path, monkeypatch, capsys):
    other = put(tmp_path / "other")
    for net in (M.extractor(path=other), M.extractor(path=other / M.INCEPTION)):
        assert (net.name, net.distance) == ("Inception", "FID")
    monkeypatch.setenv("DDE_KIT_INCEPTION", str(other))
    assert M.extractor().name == "Inception"
    monkeypatch.delenv("DDE_KIT_INCEPTION")
    put(nowhere)
    assert M.extractor().name == "Inception"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("data", ["cut", "text", "empty", "wrong width"])
def test_broken_inception_is_refused(data, nowhere, tmp_path, capsys):
    whole = stub_bytes()
    broken = {
        "cut": whole[: len(whole) // 2],
        "text": b"<html>not found</html>",
        "empty": b"",
        "wrong width": stub_bytes(100),
    }[data]
    with pytest.raises(ValueError, match="not a whole copy") as e:
        M.extractor(path=put(tmp_path / "w", broken))
    assert "Delete it" in str(e.value)
    put(nowhere, broken)
    assert M.extractor(weights=M.FeatureNet(8, 16, 2)).name == "kit-small"
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "damaged" in said


class Server(http.server.BaseHTTPRequestHandler):
    data, missing = b"", 0

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data[: len(self.data) - self.missing])

    def log_message(self, *a):
        pass


@pytest.mark.parametrize("missing", [0, 1000])
def test_download_is_whole_or_not_at_all(missing, tmp_path):
    handler = type("Handler", (Server,), dict(data=stub_bytes(), missing=missing))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        get = lambda: M.download_inception(tmp_path, url=f"http://127.0.0.1:{server.server_port}/{M.INCEPTION}")
        if missing:
            with pytest.raises((ValueError, OSError)):
                get()
            assert list(tmp_path.iterdir()) == []
        else:
            get()
            assert [p.name for p in tmp_path.iterdir()] == [M.INCEPTION]
            assert M.extractor(path=tmp_path).name == "Inception"
        server.shutdown()


def test_download_without_server(tmp_path):
    with pytest.raises(OSError, match="DDE_KIT_INCEPTION"):
        M.download_inception(tmp_path, url="http://127.0.0.1:9/x")


def test_random_features_are_seeded_and_never_fid():
    x = 255 * torch.rand(2, 3, 299, 299)
    state = torch.get_rng_state()
    a, b, c = (M.extractor("random features", seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a(x), b(x)) and not torch.equal(a(x), c(x)) and a(x).shape == (2, 64)
    assert "FID" not in a.distance


def test_feature_net_file(tmp_path):
    torch.manual_seed(0)
    net = M.FeatureNet(8, 16, 2).eval()
    file = tmp_path / "deep" / "net.safetensors"
    M.save_feature_net(net, file)
    x = 255 * torch.rand(3, 3, 299, 299)
    assert torch.equal(M.extractor("kit-small", weights=file)(x), net(x).detach()) and [
        p.name for p in file.parent.iterdir()
    ] == ["net.safetensors"]
    assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole FeatureNet"):
        M.load_feature_net(file)
    with pytest.raises(FileNotFoundError, match="train_features"):
        M.load_feature_net(tmp_path / "none")


def test_feature_net_learns_and_ignores_unknown_targets():
    def batch(i):
        c = torch.rand(16, 1, generator=torch.Generator().manual_seed(i))
        t = torch.cat([3.4 * (c - 0.5), torch.full_like(c, math.nan)], 1)
        return (2 * c - 1)[..., None, None].expand(-1, 3, 32, 32), t

    torch.manual_seed(0)
    losses = M.train_features(batch, M.FeatureNet(4, 4, 2), steps=25, lr=1e-2, white=0.0, progress=False)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_import_is_light():
    code = (
        "import sys, dde_kit.metrics; print([m for m in ('matplotlib', 'cleanfid', 'torchvision', 'nbdev', 'fastcore',"
        " 'torchaudio') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_borders_of_a_tiling():
    D = pytest.importorskip("dde_kit.decomposition")
    assert M.borders(D.Tiling(64, 32), (96, 128)) == ([32, 64], [32, 64, 96])
    assert M.borders(D.Tiling(64, 64).layout((128, 64))) == ([64], [])


def test_seam_scales_and_axes():
    x = torch.randint(0, 256, (4, 3, 40, 60), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    lines = ([20], [20, 40])
    assert np.allclose(M.seam(x, lines), M.seam(x / 127.5 - 1, lines))
    assert np.allclose(M.seam(x, lines), M.seam(x.mT, lines[::-1]))
    assert np.allclose(M.seam(x, lines), M.seam(255 - x, lines), rtol=1e-5)
    assert M.seam(torch.zeros(1, 3, 8, 8), ([4], [])) == [1.0]
    with pytest.raises(ValueError, match="single part"):
        M.seam(x, ([], []))


@pytest.mark.parametrize("what", ["colour", "light", "both", "shade"])
def test_agreement_ignores_what_all_quarters_share(what):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(60, 120, (3, 3, 48, 64), generator=g).to(torch.uint8)
    labels = torch.randint(-1, 3, (3, 6, 8), generator=g).repeat_interleave(8, 1).repeat_interleave(8, 2)
    found = M.agreement(x, labels, what)
    assert found.shape == (3,) and (found > 0).all()
    assert np.allclose(found, M.agreement(x + 50, labels, what))  # one sensor for all
    flip = lambda t: t.flip(-1)
    assert np.allclose(found, M.agreement(flip(x), flip(labels), what))  # mirrored
    assert np.allclose(found[1:], M.agreement(x[1:], labels[1:], what))  # picture by picture
    assert np.allclose(found, M.agreement(x, labels + 5 * (labels >= 0), what))  # names of classes


def test_agreement_leaves_out_small_classes_and_odd_sizes():
    x = torch.full((1, 3, 33, 47), 90).to(torch.uint8)
    labels = torch.zeros(1, 33, 47).long()
    x[..., 0, 0] = 255
    labels[..., 0, 0] = 1
    x[..., -1, -1] = 0
    labels[..., -1, -1] = 1
    assert M.agreement(x, labels) == [0.0]
    assert M.agreement(x, labels, least=0.0, classes=[1])[0] == pytest.approx(255 * 3**0.5)
    with pytest.raises(ValueError, match="colour, light"):
        M.agreement(x, labels, "style")


def test_wilson():
    assert tuple(M.wilson(8, 10)) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)  # Wilson's textbook example
    assert M.wilson(0, 5).lo == 0 and M.wilson(5, 5).hi == 1
    with pytest.raises(ValueError):
        M.wilson(1, 0)


# ---- directions, and what few samples are worth ----------------------------------------------------------------------


def test_directions():
    "A method that is half way, one that is worse, and one that overshoots; a ratio above 1; ends in their order."
    rng = np.random.default_rng(0)
    near = lambda level: level + 0.3 * rng.standard_normal(60)
    real, base = near(10), near(20)
    for level, share in ((15, 0.5), (12.5, 0.75), (25, -0.5), (5, 1.5)):
        i = M.closed(near(level), base, real)
        assert i.value == pytest.approx(share, abs=0.05) and i.lo < i.value < i.hi and i.hi - i.lo < 0.2
    large, small = near(30), near(10)
    i = M.compare("mean", large, small)
    assert i.value == pytest.approx(3, rel=0.03) and i.lo < i.value < i.hi
    assert M.compare("mean", small, large).hi < 0.4
    d = M.compare("mean", large, small, how="difference")
    assert d.value == pytest.approx(20, rel=0.02) and d.lo < d.value < d.hi
    a = randn(60, 4)
    for stat in ("fid", "kid"):
        i = M.bootstrap(stat, a + 2, a)
        assert i.lo < i.value < i.hi and M.compare(stat, a + 2, a + 1, a).value > 2


def test_agreement_sees_colour_without_light():
    "Two halves of the same luminance and texture, one redder: colour differs, light does not."
    x = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    x[:, :, :, 16:] = torch.tensor([127, 100, 29])[:, None, None]  # 0.299*27 = 0.114*71: the same luminance
    labels = torch.zeros(1, 32, 32).long()
    want = 4 / 6 * (27**2 + 71**2) ** 0.5
    assert M.agreement(x, labels, "light") == pytest.approx(0, abs=1e-9)
    for what in ("colour", "both"):
        assert M.agreement(x, labels, what) == pytest.approx(want, rel=1e-6)


def test_few_samples_are_marked():
    import pandas as pd

    v, f = np.arange(40.0), randn(40, 3)
    missing = np.where(np.arange(40) < 11, np.nan, v)
    for few in (
        M.bootstrap("mean", v[:29]),
        M.bootstrap("mean", missing),
        M.bootstrap("fid", f[:10], f),
        M.bootstrap("kid", f, f[:10], reals="resampled"),
        M.compare("fid", f, f[:29], f, paired=False),
        M.compare("mean", missing, v + 1),
        M.closed(v, v + 9, missing - 9),
    ):
        assert type(few) is M.Rough and str(few).endswith("] ?")
        assert "fewer than 30" in M.caution(pd.DataFrame([[math.nan, few]]))
        assert type(few._replace(hi=9)) is M.Rough  # whatever is done with it afterwards
    lonely = M.bootstrap("mean", [3.0, math.nan, math.nan])
    assert type(lonely) is M.Rough and lonely.value == 3 and math.isnan(lonely.lo) and math.isnan(lonely.hi)
    for enough in (M.bootstrap("mean", v[:30]), M.bootstrap("fid", f, f[:10]), M.closed(v, v + 9, v - 9)):
        assert type(enough) is M.Interval and str(enough).endswith("]")
        assert M.caution(pd.DataFrame([[enough]])) == ""


def test_how_few_are_too_few():
    "What the notebook says of Student's t holds for the intervals themselves."
    rng, held = np.random.default_rng(1), {}
    for n in (3, 30):
        found = [M.bootstrap("mean", rng.standard_normal(n), n=400, seed=k) for k in range(400)]
        held[n] = np.mean([i.lo <= 0 <= i.hi for i in found])
    assert held[3] < 0.87 and 0.91 < held[30] < 0.975
