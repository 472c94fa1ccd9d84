"`data_prep.maps` against a tile server that misbehaves on purpose."

import hashlib
import io
import json
import subprocess
import sys
import time
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("httpx")
pytest.importorskip("tenacity")
pytest.importorskip("filelock")
from bad_server import ROOT, BadServer, Killer
from data_prep import maps
from data_prep.fetch import PrepError

SHARED = ROOT.parent / "shared" / "data" / "maps"


@lru_cache(None)
def colours(x, y, layer, kind):
    "A tile of 16 x 16 random fields."
    g = np.random.default_rng([x, y, layer])
    a = np.kron(g.integers(30, 200, (16, 16, 4), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    a[..., 3] = 255
    return encode(a if kind == "rgba" else a[..., :3], kind)


def encode(a, kind):
    out = io.BytesIO()
    im = Image.fromarray(a)
    if kind == "palette":
        im = im.convert("P", palette=Image.Palette.ADAPTIVE)
    im.save(out, "JPEG" if kind == "jpg" else "PNG", **(dict(quality=90) if kind == "jpg" else dict(compress_level=1)))
    return out.getvalue()


class Earth(BadServer):
    "Every tile of the GSI, PLATEAU and USGS addresses: colours say which. `special` {(layer, x, y): bytes or None}."

    kinds = {
        "/xyz/seamlessphoto/": "jpg",
        "/xyz/pale/": "palette",
        "/xyz/std/": "rgba",
        "/tiles/plateau-ortho-2023/": "rgba",
        "/arcgis/rest/services/USGSImageryOnly/": "jpg",
        "/arcgis/rest/services/USGSTopo/": "png",
    }

    def __init__(self, **kw):
        super().__init__(**kw)
        self.special = {}

    def body(self, path):
        prefix, kind = next(((p, k) for p, k in self.kinds.items() if path.startswith(p)), (None, None))
        if not prefix:
            return super().body(path)
        z, x, y = (int(v.split(".")[0]) for v in path.split("/")[-3:])
        if "USGS" in prefix:
            x, y = y, x
        if (prefix, x, y) in self.special:
            return self.special[prefix, x, y]
        return colours(x, y, len(prefix), kind)


@pytest.fixture
def earth():
    with Earth() as s:
        yield s


def go(earth, tmp_path, *args, out="a.npz", cache="cache"):
    maps.main(
        [
            *map(str, args),
            "--out",
            str(tmp_path / out),
            "--base",
            earth.url,
            "--cache",
            str(tmp_path / cache),
            "--pause",
            "0.002",
            "--timeout",
            "2",
            "--tries",
            "4",
        ]
    )
    with np.load(tmp_path / out, allow_pickle=False) as z:
        return {k: z[k] for k in z.files}


def test_geometry():
    assert maps.metres(35.707, 18) == pytest.approx(0.4849, abs=1e-4)
    x, y = maps.pixel(35.707, 139.6, 18)
    assert (int(x // 256), int(y // 256)) == (232725, 103203)
    assert maps.degrees(x, y, 18) == pytest.approx((35.707, 139.6))
    n = sorted(maps.shuffled(1000, 3))
    assert n == list(range(1000)) and list(maps.shuffled(50, 1)) != list(maps.shuffled(50, 2))
    a = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert maps.average(a, 2)[0, 0, 0] == round((0 + 3 + 12 + 15) / 4)


def test_default(earth, tmp_path):
    "The default pair: zoom 18 in the paper's square, halved; what the tiles show is what the file holds."
    z = go(earth, tmp_path, "--limit", 12)
    assert (
        z["map"].shape == z["sat"].shape == (12, 3, 128, 128)
        and z["map"].dtype == z["sat"].dtype == np.uint8
        and 0 < z["held"].sum() < 6
    )
    for i in range(12):
        _, zoom, x, y = z["source"][i].split("/")
        for k, layer, kind in (("sat", "seamlessphoto", "jpg"), ("map", "pale", "png")):
            im = np.asarray(
                Image.open(io.BytesIO(earth.body(f"/xyz/{layer}/{zoom}/{x}/{y}.{kind}"))).convert("RGB").reduce(2),
                np.int16,
            )
            assert np.abs(im.transpose(2, 0, 1) - z[k][i]).max() <= 1
        assert np.allclose(maps.pixel(*z["place"][i], 18), [(int(x) + 0.5) * 256, (int(y) + 0.5) * 256])
        assert np.abs((z["place"][i] - maps.PAPER) * [111.3, 90.4]).max() < 10.1  # km from the middle of the square
    assert earth.most == 1 and sum(earth.asked.values()) == 24
    m = json.loads((tmp_path / "a.json").read_text())
    assert (
        m["files"] == {"a.npz": hashlib.sha256((tmp_path / "a.npz").read_bytes()).hexdigest()}
        and len(m["sources"]) == 24
        and "地理院タイル" in m["licence_and_attribution"][0]
        and m["parameters"]["zoom"] == 18
    )
    go(earth, tmp_path, "--limit", 12)
    assert sum(earth.asked.values()) == 24  # complete: nothing to do
    go(earth, tmp_path, "--limit", 15, out="b.npz")
    assert sum(earth.asked.values()) == 30  # a longer run takes up the cache
    with pytest.raises(PrepError, match="other parameters"):
        go(earth, tmp_path, "--limit", 13)
    go(earth, tmp_path, "--limit", 13, "--overwrite")
    assert sum(earth.asked.values()) == 30


def test_read_by_the_notebook(earth, tmp_path):
    "The round trip: what the maps notebook reads, from tiles, Static Maps and folders alike."
    pytest.importorskip("torch")
    from dde_kit.maps import read_pairs

    go(earth, tmp_path, "--limit", 10)
    train, held = read_pairs(tmp_path / "a.npz")
    assert len(train) + len(held) == 10 and train.map.shape[1:] == (3, 128, 128)


@pytest.mark.parametrize(
    "bad",
    [["slow"], [(429, "0.1")], [500], ["truncated"], ["reset"], ["lost"], ["html"], ["garbage"], ["wrong"]],
    ids=str,
)
def test_misbehaviour(earth, tmp_path, bad):
    "Whatever happens on the way, the dataset is the same, byte for byte."
    go(earth, tmp_path, "--limit", 3, out="good.npz", cache="c0")
    n = sum(earth.asked.values())
    earth.bad["*"] = bad * 3
    go(earth, tmp_path, "--limit", 3, cache="c1")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "good.npz").read_bytes() and sum(
        earth.asked.values()
    ) == 2 * n + 3


def test_redirected_and_other_sizes(earth, tmp_path):
    z = go(earth, tmp_path, "--limit", 2, out="good.npz", cache="c0")
    for s in z["source"]:
        *_, x, y = s.split("/")
        p = f"/xyz/pale/18/{x}/{y}.png"
        earth.files[p.replace("xyz", "moved")] = earth.body(p)
        earth.bad[p] = [("to", p.replace("xyz", "moved"))]
    go(earth, tmp_path, "--limit", 2)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "good.npz").read_bytes()
    earth.special["/xyz/seamlessphoto/", int(x), int(y)] = encode(np.zeros((512, 512, 3), np.uint8), "jpg")
    with pytest.raises(PrepError, match="512x512 pixels instead of 256x256"):
        go(earth, tmp_path, "--limit", 2, out="c.npz", cache="c2")


def test_fails_in_words_then_goes_on(earth, tmp_path):
    good = go(earth, tmp_path, "--limit", 5, out="good.npz", cache="c0")
    path = "/xyz/pale/18/{}/{}.png".format(*good["source"][3].split("/")[2:])
    earth.asked.clear()
    earth.good.clear()
    earth.always[path] = 500
    with pytest.raises(PrepError, match="status 500") as e:
        go(earth, tmp_path, "--limit", 5)
    assert "run the same command again" in str(e.value) and not (tmp_path / "a.npz").exists()
    earth.always.clear()
    go(earth, tmp_path, "--limit", 5)
    assert (
        (tmp_path / "a.npz").read_bytes() == (tmp_path / "good.npz").read_bytes()
        and set(earth.good.values()) == {1}
        and len(earth.good) == 10
    )


def test_what_is_left_out(earth, tmp_path):
    "Missing, blank and cloudy places are replaced and counted; held-out places share no cell with the rest."
    order = [s.split("/")[2:] for s in go(earth, tmp_path, "--limit", 8, out="good.npz", cache="c0")["source"]]
    g = np.random.default_rng(0)
    grey = g.integers(225, 240, (256, 256, 1), dtype=np.uint8)
    special = [
        ("seamlessphoto", None),
        ("pale", None),
        ("seamlessphoto", encode(np.full((256, 256, 3), 255, np.uint8), "jpg")),
        ("pale", encode(np.full((256, 256, 3), 200, np.uint8), "png")),
        ("seamlessphoto", encode(np.repeat(grey, 3, 2), "jpg")),
    ]
    for (x, y), (layer, b) in zip(order, special):
        earth.special[f"/xyz/{layer}/", int(x), int(y)] = b
    earth.asked.clear()
    z = go(earth, tmp_path, "--limit", 20)
    m = json.loads((tmp_path / "a.json").read_text())
    assert (
        m["left_out"]
        == {
            "no tile of gsi-photo": 1,
            "no tile of gsi-pale": 1,
            "blank photo": 1,
            "blank map": 1,
            "clouds": 1,
        }
        and len(z["sat"]) == 20
    )
    assert not {tuple(o) for o in order[:5]} & {tuple(s.split("/")[2:]) for s in z["source"]}
    xy = np.array([list(map(int, s.split("/")[2:])) for s in z["source"]])
    cells = [tuple(c) for c in xy // 8]
    assert {c for c, h in zip(cells, z["held"]) if h}.isdisjoint({c for c, h in zip(cells, z["held"]) if not h})
    assert len(np.unique(xy, axis=0)) == 20
    n = sum(earth.asked.values())
    (tmp_path / "a.npz").unlink()
    go(earth, tmp_path, "--limit", 20)
    assert sum(earth.asked.values()) == n  # what is missing is remembered as well


def test_nothing_there(earth, tmp_path):
    earth.kinds = {}
    with pytest.raises(PrepError, match="first 60 places.*60 no tile of gsi-photo"):
        go(earth, tmp_path, "--limit", 5)


@pytest.mark.parametrize(
    "args,shape,words",
    [
        (["--source", "plateau", "--size", "128"], 128, "CC BY 4.0"),
        (["--source", "gsi", "--style", "std", "--size", "256"], 256, "standard map"),
        (["--source", "usgs", "--center", "40.7", "-74", "--size", "256"], 256, "public domain"),
        (["--source", "gsi", "--size", "512", "--side", "5"], 512, "pale"),
        (["--source", "gsi", "--size", "256", "--reduce", "1", "--zoom", "17"], 256, "pale"),
    ],
    ids=str,
)
def test_sources_and_sizes(earth, tmp_path, args, shape, words):
    "Blocks of tiles are put together in the right order, without overlap."
    z = go(earth, tmp_path, "--limit", 2, *args)
    m = json.loads((tmp_path / "a.json").read_text())
    p = m["parameters"]
    assert z["map"].shape == (2, 3, shape, shape) and words in " ".join(m["licence_and_attribution"])
    k = shape * p["reduce"] // 256
    url = maps.rebase(p["urls"][0], "")
    x, y = (int(v) for v in z["source"][0].split("+")[0].split("/")[2:])
    assert x % k == y % k == 0
    for i in range(k):
        for j in range(k):
            path = url[url.index("/", 9) :].format(z=p["zoom"], x=x + i, y=y + j)
            tile = np.asarray(Image.open(io.BytesIO(earth.body(path))).convert("RGB").reduce(p["reduce"]), np.int16)
            s = len(tile)
            assert np.abs(z["sat"][0][:, j * s : (j + 1) * s, i * s : (i + 1) * s].transpose(1, 2, 0) - tile).max() <= 1
    assert sum(earth.asked.values()) == 2 * 2 * k * k


def test_transparent_tiles(earth, tmp_path):
    x, y = map(
        int,
        go(earth, tmp_path, "--limit", 2, "--source", "plateau", out="b.npz", cache="c0")["source"][0].split("/")[2:],
    )
    a = np.full((256, 256, 4), 90, np.uint8)
    a[:100, :, 3] = 0
    earth.special["/tiles/plateau-ortho-2023/", x, y] = encode(a, "rgba")
    go(earth, tmp_path, "--limit", 2, "--source", "plateau")
    assert json.loads((tmp_path / "a.json").read_text())["left_out"] == {"transparent tile of plateau": 1}


@pytest.mark.parametrize(
    "args,words",
    [
        (["--size", "100"], "whole tiles of 256"),
        (["--zoom", "19"], "not 19"),
        (["--source", "usgs"], "needs --center"),
        (["--center", "139.6", "35.7"], "latitude between"),
        (["--number", "90000"], "the square of 20.0 km has 25921"),
        (["--side", "0.01"], "smaller than one image"),
        (["--limit", "0"], "--limit 0"),
        (["--limit", "1"], "two places"),
        (["--held", "1.5"], "between 0 and 1"),
        (["--source", "tiles", "--center", "1", "2"], "--photo-url"),
        (["--source", "folder"], "--folder DIR"),
        (["--side", "0.4", "--number", "12"], "has 9"),
    ],
    ids=str,
)
def test_wrong_parameters(earth, tmp_path, args, words):
    with pytest.raises(PrepError, match=words) as e:
        go(earth, tmp_path, *args)
    assert "\n" not in str(e.value) and not earth.asked


def test_any_tile_server(earth, tmp_path):
    z = go(
        earth,
        tmp_path,
        "--limit",
        2,
        "--source",
        "tiles",
        "--center",
        "-33.9",
        "18.4",
        "--photo-url",
        "https://a.example/xyz/seamlessphoto/{z}/{x}/{y}.jpg",
        "--map-url",
        "https://b.example/xyz/std/{z}/{x}/{y}.png",
        "--terms",
        "mine",
    )
    assert np.abs(z["place"] - [-33.9, 18.4]).max() < 0.15


# --- Google Static Maps ---------------------------------------------------------------------------------------------


def static_map(path):
    from urllib.parse import parse_qs, urlsplit

    q = parse_qs(urlsplit(path).query)
    lat, lon = map(float, q["center"][0].split(","))
    assert (
        q["zoom"] == ["19"]
        and q["size"] == ["600x600"]
        and q["key"] == ["k3y"]
        and ("style" in q) == (q["maptype"] == ["roadmap"])
    )
    x, y = (round(v) for v in maps.pixel(lat, lon, 19))
    j, i = np.mgrid[y - 300 : y + 300, x - 300 : x + 300]
    a = np.stack(
        [
            i // 16 * 37 % 200,
            j // 16 * 53 % 200,
            (i // 16 + j // 16) * 29 % 200 if q["maptype"] == ["roadmap"] else i // 16 * j // 16 % 200,
        ],
        -1,
    ).astype(np.uint8)
    a[-24:] = 255  # the logo strip
    return encode(a, "png")


@pytest.fixture
def google(earth):
    earth.body = lambda p: static_map(p) if p.startswith("/maps/api/staticmap") else None
    return earth


def test_google_asks_first(google, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("GOOGLE_MAPS_API_KEY", raising=False)
    with pytest.raises(PrepError, match="--my-agreement-allows-this"):
        go(google, tmp_path, "--source", "google", "--limit", 3)
    err = capsys.readouterr().err
    assert "3.2.3" in err and "bulk download" in err and "3 places x 2 = 6 billed requests" in err
    with pytest.raises(PrepError, match="GOOGLE_MAPS_API_KEY"):
        go(google, tmp_path, "--source", "google", "--limit", 3, "--my-agreement-allows-this")
    assert not google.asked


def test_google(google, tmp_path, monkeypatch):
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", "k3y")
    args = ["--source", "google", "--limit", 20, "--my-agreement-allows-this", "--side", "2.5"]
    with pytest.raises(PrepError, match="budget of 5 requests"):
        go(google, tmp_path, *args, "--max-requests", 5)
    z = go(google, tmp_path, *args)
    assert z["map"].shape == (20, 3, 128, 128) and sum(google.asked.values()) == 40
    at = np.array([[int(v) for v in s.split("/")[-1].split(",")] for s in z["source"]])
    near = (np.abs(at[:, None] - at[None]) < 512).all(-1)
    assert not (near & (z["held"][:, None] != z["held"][None])).any()  # no held-out crop on the ground of another
    x, y = at[0]
    j, i = np.mgrid[y : y + 512, x : x + 512]
    assert (
        np.abs(
            maps.average(np.stack([i // 16 * 37 % 200] * 3, -1).astype(np.uint8), 4)[..., 0].astype(int)
            - z["map"][0, 0]
        ).mean()
        < 3
    )
    assert not any(b"k3y" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    google.always["/maps/api/staticmap"] = 403
    with pytest.raises(PrepError) as e:
        go(google, tmp_path, *args, out="c.npz", cache="c2")
    assert "k3y" not in str(e.value) and "403" in str(e.value)


# --- folders and the Dubai set --------------------------------------------------------------------------------------


def pair(seed, h=130, w=200):
    a = np.kron(
        np.random.default_rng(seed).integers(0, 256, (-(-h // 10), -(-w // 10), 3), dtype=np.uint8),
        np.ones((10, 10, 1), np.uint8),
    )[:h, :w]
    return 255 - a, a


def folder(where, layout, n=6):
    for i in range(n):
        d = where / ("train" if i < 4 else "val")
        d.mkdir(parents=True, exist_ok=True)
        photo, street = pair(i)
        if layout == "side":
            Image.fromarray(np.concatenate([photo, street], 1)).save(d / f"{i}.png")
        else:
            Image.fromarray(photo).save(d / f"{i}.jpg", quality=95)
            Image.fromarray(street).save(d / f"{i}.png")
    return where


@pytest.mark.parametrize("layout", ["side", "two"])
def test_folders(tmp_path, layout, earth):
    pytest.importorskip("torch")
    from dde_kit.maps import read_pairs

    d = folder(tmp_path / "pairs", layout)
    z = go(earth, tmp_path, "--source", "folder", "--folder", d, "--size", 64, "--hold", "val")
    assert (
        len(z["sat"]) == 6 * 12 and z["held"].sum() == 24 and np.abs(255 - z["sat"].astype(int) - z["map"]).mean() < 10
    )
    train, held = read_pairs(tmp_path / "a.npz")
    assert (len(train), len(held)) == (48, 24)
    z = go(earth, tmp_path, "--source", "folder", "--folder", d, "--size", 64, out="b.npz")
    images = [s.split("@")[0] for s in z["source"]]
    assert {i for i, h in zip(images, z["held"]) if h}.isdisjoint(
        {i for i, h in zip(images, z["held"]) if not h}
    ) and z["held"].any()
    if layout == "side":
        assert np.array_equal(
            go(
                earth, tmp_path, "--source", "folder", "--folder", d, "--size", 64, "--photo-side", "right", out="c.npz"
            )["sat"],
            z["map"],
        )
    Image.fromarray(np.concatenate(pair(9), 1)).save(d / "train" / "9.png") if layout == "side" else None
    if layout == "side":
        with pytest.raises(PrepError, match="other parameters"):
            go(earth, tmp_path, "--source", "folder", "--folder", d, "--size", 64, out="b.npz")  # the folder changed
    with pytest.raises(PrepError, match="smaller --size"):
        go(earth, tmp_path, "--source", "folder", "--folder", d, "--size", 640, out="d.npz")
    (d / "train" / "0.png").write_bytes(b"no picture")
    with pytest.raises(PrepError, match="0.png"):
        go(earth, tmp_path, "--source", "folder", "--folder", d, "--size", 64, out="e.npz")
    assert not earth.asked


def test_dubai(earth, tmp_path, monkeypatch):
    known = {}
    for k in (1, 2, 3):
        for i in (1, 2):
            photo, street = pair(10 * k + i)
            for e, kind, a in (("jpg", "images", photo), ("png", "masks", street)):
                b = encode(a, e)
                known[f"tile_{k}/image_part_{i:03d}.{e}"] = [
                    len(b),
                    hashlib.sha1(b"blob %d\0" % len(b) + b).hexdigest(),
                ]
                u = maps.DUBAI.format(k=k, kind=kind, name=f"image_part_{i:03d}.{e}")
                earth.files[u[u.index("/", 9) :]] = b
    monkeypatch.setattr(earth, "body", lambda p: earth.files.get(p))
    monkeypatch.setattr(
        maps.json, "loads", lambda t, old=json.loads: known if "image_part" in t and '"sources"' not in t else old(t)
    )
    earth.bad["*"] = ["wrong", "html", "truncated"]
    z = go(earth, tmp_path, "--source", "dubai", "--size", 64)
    assert (
        len(z["sat"]) == 72
        and {s.split("/")[0] for s in z["source"][z["held"]]} == {"tile_2"}
        and sum(earth.asked.values()) == 15
    )
    assert "CC0" in json.loads((tmp_path / "a.json").read_text())["licence_and_attribution"][0]
    go(earth, tmp_path, "--source", "dubai", "--size", 32, out="b.npz")
    assert sum(earth.asked.values()) == 15
    earth.always[next(iter(earth.files))] = "wrong"
    with pytest.raises(PrepError, match="another file than the published one|instead of a complete picture"):
        go(earth, tmp_path, "--source", "dubai", "--size", 64, out="c.npz", cache="c2")


def test_dubai_list():
    known = json.loads((ROOT / "data_prep" / "dubai.json").read_text())
    assert len(known) == 144 and sum(v[0] for v in known.values()) == 33_523_800


# --- killed ---------------------------------------------------------------------------------------------------------


def test_killed_twenty_times(earth, tmp_path):
    "At random moments, in a row; the file is the same and no tile was served twice."
    args = ["--limit", 40, "--base", earth.url, "--pause", 0]
    start = time.monotonic()
    go(earth, tmp_path, "--limit", 40, out="good.npz", cache="c0")
    seconds = time.monotonic() - start
    earth.good.clear()
    with Killer("data_prep.maps") as k:
        hits = k.twenty([*args, "--out", tmp_path / "k.npz", "--cache", tmp_path / "c1"], seconds)
    assert hits >= 5 and (tmp_path / "k.npz").read_bytes() == (tmp_path / "good.npz").read_bytes()
    assert (
        len(earth.good) == 80 and sum(earth.good.values()) <= 80 + hits
    )  # a tile in flight when the process dies is asked for again
    a, b = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("k", "good"))
    for m in (a, b):
        m.pop("files")
        m.pop("date")
    assert (
        a == b
        and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
        and (tmp_path / "k.png").read_bytes() == (tmp_path / "good.png").read_bytes()
    )


def test_error_on_the_command_line(earth, tmp_path):
    p = subprocess.run(
        [
            sys.executable,
            "-m",
            "data_prep.maps",
            "--out",
            str(tmp_path / "a.npz"),
            "--limit",
            "2",
            "--zoom",
            "3",
            "--size",
            "100",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert p.returncode == 2 and "Traceback" not in p.stderr and len(p.stderr.strip().splitlines()) == 1


# --- real samples ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real samples in ../shared/data/maps")
def test_real_dubai(earth, tmp_path):
    pytest.importorskip("torch")
    from dde_kit.maps import read_pairs

    z = go(earth, tmp_path, "--source", "folder", "--folder", SHARED / "dubai", "--limit", 9, "--size", 256)
    train, held = read_pairs(tmp_path / "a.npz")
    assert len(train) + len(held) == len(z["sat"]) >= 50 and len(held)
    known = json.loads((ROOT / "data_prep" / "dubai.json").read_text())
    for k, (n, git) in list(known.items())[:12:2]:
        b = (SHARED / "dubai" / k).read_bytes()
        assert (
            k.endswith(".jpg") and len(b) == n and hashlib.sha1(b"blob %d\0" % n + b).hexdigest() == git
        )  # the list knows the real files


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real samples in ../shared/data/maps")
def test_real_tiles(earth, tmp_path, monkeypatch):
    "One real pair of GSI tiles, served for every place."
    photo, street = (
        (SHARED / "gsi_sample" / n).read_bytes() for n in ("seamlessphoto_14_14622_6017.jpg", "std_14_14622_6017.png")
    )
    monkeypatch.setattr(earth, "body", lambda p: photo if "seamlessphoto" in p else street)
    z = go(earth, tmp_path, "--limit", 2, "--style", "std", "--zoom", 14, "--center", "43.06", "141.3")
    assert np.array_equal(
        z["map"][0], maps.average(np.asarray(Image.open(io.BytesIO(street)).convert("RGB")), 2).transpose(2, 0, 1)
    )
