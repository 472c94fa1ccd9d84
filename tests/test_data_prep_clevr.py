"`data_prep.clevr` on archives in the sources' exact layout, served by a server that misbehaves on purpose."

import hashlib
import importlib.util
import io
import json
import os
import time
import zipfile
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("httpx")
pytest.importorskip("tenacity")
pytest.importorskip("filelock")
from bad_server import ROOT, BadServer, Killer
from data_prep import clevr
from data_prep.fetch import PrepError

SHARED = ROOT.parent / "shared" / "data" / "clevr"
POS, V1 = "/s/5zj9ci24ofo949l/clevr_pos_data_128_30000.npz", "/clevr/CLEVR_v1.0.zip"


def drawing(seed, w=128, h=128, k=1, dtype=np.uint8):
    "A grey room with `k` coloured discs, and their centres as (column, row)."
    g = np.random.default_rng(seed)
    a = np.full((h, w, 3), 120, np.uint8) + g.integers(0, 6, (h, w, 1), dtype=np.uint8)
    i, j = np.mgrid[:h, :w]
    at = np.stack([g.uniform(0.06, 0.94, k) * w, g.uniform(0.2, 0.45, k) * h], 1)
    for c, r in at:
        a[(i - r) ** 2 + (j - c) ** 2 < (h / 16) ** 2] = g.integers(0, 2, 3) * 200
    return a, at


def npz(n=64, compress=False, labels=None, ims=None, **extra):
    pics = [drawing(i) for i in range(n)]
    out = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(
        out,
        ims=np.stack([a for a, _ in pics]) if ims is None else ims,
        coords_labels=np.stack([(c / 128, 1 - r / 128) for _, ((c, r),) in pics]) if labels is None else labels,
        **extra,
    )
    return out.getvalue()


@lru_cache(None)
def release(n=8, split="train"):
    "CLEVR v1.0 as published: RGBA frames of 480 x 320 and a scenes file, below one folder."
    out, scenes = io.BytesIO(), []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for i in range(n):
            a, at = drawing(100 + i, 480, 320, 3 + i % 4)
            b = io.BytesIO()
            Image.fromarray(np.dstack([a, np.full(a.shape[:2], 255, np.uint8)])).save(b, "PNG")
            name = f"CLEVR_{split}_{i:06d}.png"
            z.writestr(f"CLEVR_v1.0/images/{split}/{name}", b.getvalue())
            scenes.append(
                dict(
                    image_index=i,
                    split=split,
                    image_filename=name,
                    directions={},
                    objects=[
                        {"shape": "cube", "pixel_coords": [int(c), int(r), 11.0], "3d_coords": [0, 0, 0]} for c, r in at
                    ],
                )
            )
        z.writestr(
            f"CLEVR_v1.0/scenes/CLEVR_{split}_scenes.json",
            json.dumps(dict(info=dict(version="1.0"), scenes=scenes[::-1])),
        )
        z.writestr("CLEVR_v1.0/README.txt", "CC BY 4.0")
    return out.getvalue(), scenes


@pytest.fixture
def server():
    with BadServer({POS: npz(), V1: release()[0]}) as s:
        yield s


def go(server, tmp_path, *args, out="a.npz", cache="cache"):
    clevr.main(
        [
            *map(str, args),
            "--out",
            str(tmp_path / out),
            "--base",
            server.url if server else "",
            "--cache",
            str(tmp_path / cache),
            "--pause",
            "0.002",
            "--timeout",
            ".5",
            "--tries",
            "4",
        ]
    )
    with np.load(tmp_path / out, allow_pickle=False) as z:
        return {k: z[k] for k in z.files}


def stands_out(z):
    "Every labelled pixel, found by the written convention, lies on a disc."
    S = z["ims"].shape[1]
    c = z["coords_labels"].reshape(len(z["ims"]), -1, 2)
    ok = [
        np.abs(z["ims"][i, min(round((1 - y) * S), S - 1), min(round(x * S), S - 1)].astype(int) - 122).max() > 20
        for i in range(len(c))
        for x, y in c[i]
        if not np.isnan(x)
    ]
    return np.mean(ok)


# --- the published file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [["truncated"], ["html", 500], [(429, "0.1"), "lost"], ["slow"], ["reset", "reset"], [("to", "/moved")], []],
    ids=str,
)
def test_published_file(server, tmp_path, bad):
    server.files["/moved"] = server.files[POS]
    server.bad[POS] = list(bad)
    z = go(server, tmp_path)
    assert (
        z["ims"].shape == (64, 128, 128, 3)
        and z["ims"].dtype == np.uint8
        and z["coords_labels"].shape == (64, 2)
        and z["coords_labels"].dtype == np.float32
    )
    assert np.array_equal(z["ims"][5], drawing(5)[0]) and stands_out(z) == 1
    m = json.loads((tmp_path / "a.json").read_text())
    assert m["contrast_at_labels"]["y_up"] > 2 * m["contrast_at_labels"]["y_down"] and m["sources"] == {
        "clevr_pos_data_128_30000.npz": hashlib.sha256(server.files[POS]).hexdigest()
    }
    assert sum(server.sent.values()) < len(server.files[POS]) + 2000
    n = sum(server.asked.values())
    go(server, tmp_path)
    small = go(server, tmp_path, "--limit", 10, "--size", 64, out="b.npz")
    assert sum(server.asked.values()) == n and small["ims"].shape == (10, 64, 64, 3)
    assert np.array_equal(small["ims"][0], np.rint(z["ims"][0].reshape(64, 2, 64, 2, 3).mean((1, 3))).astype(np.uint8))


def test_test_set_with_several_positions(tmp_path):
    labels = np.random.default_rng(0).uniform(0.3, 0.7, (64, 3, 2))
    (tmp_path / "t.npz").write_bytes(npz(labels=labels, compress=True))
    z = go(None, tmp_path, "--file", tmp_path / "t.npz")
    assert np.allclose(z["coords_labels"], labels) and z["coords_labels"].dtype == np.float32


class Boom:
    def __reduce__(self):
        return os.system, ("touch unpickled",)


@pytest.mark.parametrize(
    "content,words",
    [
        (b"<!DOCTYPE html><html><title>Dropbox</title></html>", "no .npz file.*dl=1"),
        (npz(8)[:-5000], "damaged"),
        (npz(8, ims=np.zeros((8, 64, 32, 3), np.uint8)), r"uint8 \(8, 64, 32, 3\)"),
        (npz(8, labels=np.full((8, 2), 1.5)), "positions run from 1.5"),
        (npz(8, labels=np.full((8, 2), np.nan)), "nothing"),
        (npz(8, labels=np.array([Boom()] * 8, object)), "pickled Python objects"),
        (npz(64, labels=np.stack([(c / 128, r / 128) for i in range(64) for c, r in drawing(i)[1]])), "y downwards"),
    ],
    ids=["page", "cut", "shape", "range", "nan", "pickle", "convention"],
)
def test_wrong_files(tmp_path, content, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.npz").write_bytes(content)
    with pytest.raises(PrepError, match=words) as e:
        go(None, tmp_path, "--file", tmp_path / "f.npz")
    assert "\n" not in str(e.value) and not (tmp_path / "a.npz").exists() and not (tmp_path / "unpickled").exists()


def test_damaged_inside(server, tmp_path):
    "A file whose bytes changed on the way: found by the checksum inside, removed, fetched again by the next run."
    good = npz(compress=True)
    b = bytearray(good)
    b[40_000] ^= 255
    server.files[POS] = bytes(b)
    with pytest.raises(PrepError, match="damaged"):
        go(server, tmp_path)
    assert not (tmp_path / "cache" / "clevr_pos_data_128_30000.npz").exists() and not (tmp_path / "a.npz").exists()
    server.files[POS] = good
    assert len(go(server, tmp_path)["ims"]) == 64


# --- CLEVR v1.0 -----------------------------------------------------------------------------------------------------


def check_v1(z, scenes, size=128):
    assert z["ims"].shape == (len(scenes), size, size, 3)
    inside = [[(c, r) for c, r, _ in (o["pixel_coords"] for o in s["objects"]) if 80 <= c <= 400] for s in scenes]
    assert z["coords_labels"].shape == (len(scenes), max(map(len, inside)), 2)
    for labels, want in zip(z["coords_labels"], inside):
        got = labels[~np.isnan(labels[:, 0])]
        assert np.isnan(labels[len(got) :]).all() and np.allclose(
            got, [((c - 80) / 320, 1 - r / 320) for c, r in want], atol=1e-6
        )
    assert stands_out(z) > 0.9


def test_whole_release(server, tmp_path, monkeypatch):
    data, scenes = release()
    monkeypatch.setattr(clevr, "V1_MD5", hashlib.md5(data).hexdigest())
    server.files[V1] = data
    server.bad[V1] = ["truncated", 500, "wrong"]
    check_v1(go(server, tmp_path, "--source", "v1"), scenes)
    m = json.loads((tmp_path / "a.json").read_text())
    assert (
        "CC BY 4.0" in m["licence_and_attribution"]
        and m["objects"] + m["objects_outside_the_square"] == sum(len(s["objects"]) for s in scenes)
        and len(m["sources"]) == 9
    )
    n = sum(server.asked.values())
    go(server, tmp_path, "--source", "v1", "--limit", 3, out="b.npz")
    assert sum(server.asked.values()) == n  # from the cache
    (tmp_path / "own.zip").write_bytes(data)
    c = go(None, tmp_path, "--source", "v1", "--file", tmp_path / "own.zip", "--size", 64, out="c.npz", cache="c2")
    check_v1(c, scenes, 64)
    server.files[V1] = data[:-1] + b"x"  # complete, and not the published file
    with pytest.raises(PrepError, match="is another file than the one"):
        go(server, tmp_path, "--source", "v1", out="d.npz", cache="c3")


def test_first_try_without_the_archive(tmp_path):
    "--limit reads only what it needs, survives interruptions, and a second run fetches nothing."
    data, scenes = release(50)
    with BadServer({V1: data}) as server:
        server.bad[V1] = ["lost", 500, "truncated", (429, "0.05")]
        check_v1(go(server, tmp_path, "--source", "v1", "--limit", 4), scenes[:4])
        assert server.sent[V1] < len(data) / 2, (server.sent[V1], len(data))
        (tmp_path / "a.npz").unlink()
        kept = sorted((tmp_path / "cache").rglob("*.png"))
        assert len(kept) == 4
    with (
        BadServer({V1: data}, ranges=False) as server,
        pytest.raises(PrepError, match="Download the whole file|leave out"),
    ):
        go(server, tmp_path, "--source", "v1", "--limit", 4, cache="c2", out="b.npz")


def test_unpacked(tmp_path):
    data, scenes = release(5, "val")
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        z.extractall(tmp_path)
    d = tmp_path / "CLEVR_v1.0"
    check_v1(go(None, tmp_path, "--source", "folder", "--file", d, "--split", "val"), scenes)
    (d / "images" / "val" / "CLEVR_val_000003.png").write_bytes(b"\x89PNG")
    with pytest.raises(PrepError, match="000003.png.*instead of a complete picture"):
        go(None, tmp_path, "--source", "folder", "--file", d, "--split", "val", out="b.npz")
    (d / "images" / "val" / "CLEVR_val_000003.png").unlink()
    with pytest.raises(PrepError, match="does not exist"):
        go(None, tmp_path, "--source", "folder", "--file", d, "--split", "val", out="b.npz")
    with pytest.raises(PrepError, match="CLEVR_train_scenes.json"):
        go(None, tmp_path, "--source", "folder", "--file", d, out="c.npz")
    bad = [dict(scenes[0], image_filename="../../secret.png")]
    (d / "scenes" / "CLEVR_val_scenes.json").write_text(json.dumps(dict(scenes=bad)))
    with pytest.raises(PrepError, match="outside"):
        go(None, tmp_path, "--source", "folder", "--file", d, "--split", "val", out="d.npz")


@pytest.mark.parametrize(
    "args,words",
    [
        (["--size", "50"], "only divides"),
        (["--limit", "0"], "--limit 0"),
        (["--file", "nowhere.npz"], "does not exist"),
        (["--file", "."], "is a folder"),
        (["--source", "folder"], "needs --file"),
    ],
    ids=str,
)
def test_wrong_parameters(server, tmp_path, args, words):
    with pytest.raises(PrepError, match=words):
        go(server, tmp_path, *args)


# --- round trip, kills, real samples --------------------------------------------------------------------------------


def read_scenes(path):
    if not importlib.util.find_spec("dde_kit.clevr"):
        pytest.skip("dde_kit.clevr does not exist yet")
    from dde_kit.clevr import read_scenes

    return read_scenes(path)


@pytest.mark.parametrize("source", ["pos", "v1"])
def test_read_by_the_notebook(server, tmp_path, source):
    z = go(server, tmp_path, "--source", source, *(["--limit", 8] if source == "v1" else []))
    ims, positions = read_scenes(tmp_path / "a.npz")
    c = z["coords_labels"].reshape(len(z["ims"]), -1, 2)
    assert tuple(ims.shape) == (len(c), 3, 64, 64)
    for p, want in zip(positions, c):
        assert np.allclose(p.numpy(), want[~np.isnan(want[:, 0])])


@pytest.mark.parametrize("source", ["pos", "v1"])
def test_killed_twenty_times(tmp_path, source):
    "Through download, reading from afar and writing; the file is the same byte for byte."
    path, data = (POS, npz(100, compress=True)) if source == "pos" else (V1, release(30)[0])
    with BadServer({path: data}, delay=0.003) as server:
        args = ["--source", source, *(["--limit", 25] if source == "v1" else [])]
        start = time.monotonic()
        go(server, tmp_path, *args, out="good.npz", cache="c0")
        seconds = time.monotonic() - start
        if source == "pos":
            server.always[path] = ("after", 100_000)  # and every answer is cut short
        with Killer("data_prep.clevr") as k:
            hits = k.twenty(
                [*args, "--base", server.url, "--pause", 0, "--out", tmp_path / "k.npz", "--cache", tmp_path / "c1"],
                seconds,
            )
    assert hits >= 5 and (tmp_path / "k.npz").read_bytes() == (tmp_path / "good.npz").read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real samples in ../shared/data/clevr")
def test_real_samples(tmp_path):
    z = go(None, tmp_path, "--source", "folder", "--file", SHARED, "--limit", 100)
    want = sorted(json.loads((SHARED / "scenes.json").read_text())["scenes"], key=lambda s: s["image_filename"])[0][
        "objects"
    ]
    got = z["coords_labels"][0][: len(want)]
    assert np.abs(got - [o["coords"] for o in want]).max() < 1.5 / 128  # their pixels are whole numbers
    z = go(None, tmp_path, "--file", SHARED / "clevr_pos_data_128_64.npz", out="b.npz")
    with np.load(SHARED / "clevr_pos_data_128_64.npz", allow_pickle=False) as old:
        assert np.array_equal(z["ims"], old["ims"]) and np.array_equal(z["coords_labels"], old["coords_labels"])
    m = json.loads((tmp_path / "b.json").read_text())["contrast_at_labels"]
    assert m["y_up"] > 2 * m["y_down"]
    assert Image.open(tmp_path / "a.png").size == (6 * 132 + 4, 2 * 132 + 4)
    for n in "ab":
        read_scenes(tmp_path / f"{n}.npz")
