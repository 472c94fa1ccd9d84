"`data_prep` and sources that are broken or mean harm: whatever arrives, memory and time stay bounded, the key at home."

import functools
import gzip
import io
import json
import logging
import lzma
import os
import resource
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

for m in ("httpx", "tenacity", "filelock", "soundfile", "soxr", "yaml"):
    pytest.importorskip(m)
from bad_server import ROOT, BadServer
from data_prep import clevr, fetch, maps, preview, slakh
from data_prep.fetch import Fetcher, Missing, PrepError, Remote, magic


def png(size=16, **kw):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(out, "PNG", **kw)
    return out.getvalue()


@pytest.fixture
def server():
    with BadServer({"/a.png": png(), "/big.zip": b"PK\x03\x04" + bytes(300_000)}) as s:
        yield s


@pytest.fixture
def f(tmp_path):
    with Fetcher(tmp_path / "cache", pause=0, timeout=0.2, tries=2) as f:
        yield f


@pytest.fixture
def little():
    "What Python takes at most while a test runs."
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", [[], ["gzip"], ["gzip, gzip"]], ids=str)
def test_of_an_error_only_the_start_is_read(server, f, little, coding):
    server.always["/a.png"] = ("endless", 403, *coding)
    with pytest.raises(PrepError, match="answers 403"):
        f.get(server.url + "/a.png", "a")
    assert server.sent["/a.png"] < 16 << 20 and little() < 8


def test_a_long_title_takes_no_time(server, f):
    server.always["/a.png"] = ("long", 403, b"<!doctype html>" + b"<title" * 200_000)
    start = time.monotonic()
    with pytest.raises(PrepError, match="web page"):
        f.get(server.url + "/a.png", "a")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "where,words", [("headers", "headers of the answer were not complete"), ("body", "only .* bytes")]
)
def test_drips_have_a_deadline(server, f, where, words):
    server.always["/a.png"] = ("drip", where)
    start = time.monotonic()
    with pytest.raises(PrepError, match=words):
        f.get(server.url + "/a.png", "a")
    assert server.asked["/a.png"] == 2 and time.monotonic() - start < 8


def test_a_drip_on_a_connection_that_was_good(server, f):
    f.get(server.url + "/a.png", "a")
    server.always["/a.png"] = ("drip", "headers")
    with pytest.raises(PrepError, match="not complete"):
        f.get(server.url + "/a.png", "b")
    server.always.clear()
    f.get(server.url + "/a.png", "b")


def test_bodies_without_an_end(server, f, little):
    server.always["/a.png"] = server.always["/big.zip"] = ("endless", 200)
    with pytest.raises(PrepError, match="larger than 1.0 MiB"):
        f.get(server.url + "/a.png", "a", most=1 << 20)
    with pytest.raises(PrepError, match="does not end: 1.0 MiB"):
        f.download(server.url + "/big.zip", "x", magic(b"PK"), most=1 << 20)
    assert little() < 8 and sum(server.sent.values()) < 64 << 20


def test_a_page_without_an_end(server, f):
    server.always["/big.zip"] = ("long", 200, b"<html>" + b"x" * (20 << 20))
    seen = []
    with pytest.raises(PrepError, match="could not be fetched"):
        f.download(server.url + "/big.zip", "x", page=lambda text, url: seen.append(len(text)) or url)
    with pytest.raises(PrepError, match="web page"):
        Remote(f, server.url + "/big.zip").read(10)
    assert max(seen) < 2 << 20


def bomb(n=1, size=200 << 20):
    d = zlib.compressobj(9, wbits=31)
    data = b"".join(d.compress(bytes(1 << 20)) for _ in range(size >> 20)) + d.flush()
    for _ in range(n - 1):
        data = gzip.compress(data)
    return data


def test_encodings(server, f, little):
    "One layer is undone, in pieces; a bomb ends at the bound, a layer in a layer is not opened."
    server.bad["/a.png"] = [("coded", "gzip", gzip.compress(png())), ("coded", "deflate", zlib.compress(png()))]
    for k in "ab":
        assert np.array_equal(f.get(server.url + "/a.png", k), Image.open(io.BytesIO(png())))
    server.bad["/a.png"] = [("coded", "gzip", bomb())]
    with pytest.raises(PrepError, match="larger than 4.0 MiB"):
        f.get(server.url + "/a.png", "c", most=4 << 20)
    assert little() < 32
    for coding in ("gzip, gzip", "br"):
        server.bad["/a.png"] = [("coded", coding, bomb(2, 1 << 20))]
        with pytest.raises(PrepError, match=f"comes as '{coding}'"):
            f.get(server.url + "/a.png", "d")
    server.bad["/a.png"] = [("coded", "gzip", b"no gzip"), ("coded", "gzip", gzip.compress(png())[:-20])]
    with pytest.raises(PrepError, match="damaged gzip body"):
        f.get(server.url + "/a.png", "e")
    server.bad["/big.zip"] = [("coded", "gzip", bomb(1, 1 << 20))]
    with pytest.raises(PrepError, match="comes as gzip"):
        Remote(f, server.url + "/big.zip").read(10)


def test_redirects_have_no_body_and_an_end(server, f):
    server.files["/b.png"] = png()
    server.bad["/a.png"] = [("to", "/b.png")]
    f.get(server.url + "/a.png", "a")
    for to in ("file:///etc/passwd", "http://[", "/a.png"):
        server.always["/a.png"] = ("to", to)
        with pytest.raises(PrepError, match="cannot be fetched|could not be fetched"):
            f.get(server.url + "/a.png", "c")


@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "-5", "Wed, 99 Foo 10000", "soon"])
def test_odd_retry_after(server, f, value):
    server.bad["/a.png"] = [(429, value)]
    if value in ("inf", "1e999"):
        with pytest.raises(PrepError, match="come back"):
            f.get(server.url + "/a.png", "a")
    else:
        f.get(server.url + "/a.png", "a")


def test_damaged_notes_in_the_cache(server, f):
    f.download(server.url + "/big.zip", "big.zip")
    (f.cache / "big.zip.json").write_bytes(b"{")
    assert f.download(server.url + "/big.zip", "big.zip").stat().st_size == 300_004


def test_tiles_that_are_not_there(server, f):
    "404, 410 and 204 are remembered; 400 and nothing at all are asked again by the next run."
    for status, again in ((404, 0), (410, 0), (204, 0), (400, 1), ("empty", 2)):
        name = f"t{status}"
        server.always["/a.png"] = status
        with pytest.raises(Missing) as e:
            f.get(server.url + "/a.png", name, tile=True)
        assert e.value.status == status
        server.asked.clear()
        with pytest.raises(Missing):
            f.get(server.url + "/a.png", name, tile=True)
        assert server.asked["/a.png"] == again, status
    server.always.clear()
    server.bad["/a.png"] = ["empty"]
    f.get(server.url + "/a.png", "once", tile=True)  # nothing, once, is an accident
    server.bad["/a.png"] = [400]
    with pytest.raises(PrepError, match="answers 400"):
        f.get(server.url + "/a.png", "no tile")


# --- the key ---------------------------------------------------------------------------------------------------------


def test_nothing_logs_the_key(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with Fetcher(tmp_path, pause=0, tries=1, secret="s3 cr/t+") as f:
        server.bad["/a.png"] = [("to", "/a.png?key=s3%20cr%2Ft%2B&n=1")]
        f.get(server.url + "/a.png?key=s3%20cr/t%2B", "a")
        f.get(server.url + "/a.png?access_token=mytoken42", "b")
        server.always["/a.png"] = 403
        with pytest.raises(PrepError) as e:
            f.get(server.url + "/a.png?access_token=mytoken42", "c")
    said = caplog.text + str(e.value) + "".join(p.read_text("latin1") for p in tmp_path.rglob("*") if p.is_file())
    assert "HTTP Request" in caplog.text and "***" in said
    assert not [v for v in ("s3 cr", "s3%20cr", "s3+cr", "mytoken42") if v in said]
    assert not any(isinstance(x, fetch.Hide) for n in fetch.LOGS for x in logging.getLogger(n).filters)


def test_the_key_stays_with_its_host(server, tmp_path):
    ok = [("https://maps.googleapis.com", False), ("https://mirror.example", True), ("http://127.0.0.1:1", False)]
    for url, allowed in [*ok, ("http://localhost:2", False), ("http://[::1]:2", False)]:
        fetch.may_get_key(url, maps.GOOGLE, allowed)
    for url, allowed, words in (
        ("https://mirror.example", False, "--send-my-key-to-base"),
        ("http://mirror.example", True, "over http"),
        ("http://maps.googleapis.com", False, "over http"),
        ("https://maps.googleapis.com.evil.example", False, "--send-my-key"),
        ("http://127.0.0.1.evil.example", True, "over http"),
    ):
        with pytest.raises(PrepError, match=words):
            fetch.may_get_key(url, maps.GOOGLE, allowed)
    with Fetcher(tmp_path, pause=0, tries=1, secret="s3cret") as f:
        port = server.http.server_port
        server.bad["/a.png"] = [("to", f"http://localhost:{port}/a.png?key=s3cret")]
        with pytest.raises(PrepError, match="at another host: not followed"):
            f.get(server.url + "/a.png?key=s3cret", "a")
        assert server.asked["/a.png"] == 1


def test_google_asks_where_the_key_may_go(tmp_path, monkeypatch):
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", "k3y")
    args = ["--source", "google", "--limit", "3", "--my-agreement-allows-this", "--out", str(tmp_path / "a.npz")]
    for base, more, words in (
        ("https://mirror.example", [], "--send-my-key-to-base"),
        ("http://mirror.example", ["--send-my-key-to-base"], "over http"),
    ):
        with pytest.raises(PrepError, match=words) as e:
            maps.main([*args, "--base", base, *more])
        assert "k3y" not in str(e.value) and not list(tmp_path.iterdir())


# --- archives --------------------------------------------------------------------------------------------------------


def header(name="a", size=0, kind=b"0"):
    t = tarfile.TarInfo(name)
    t.size, t.type = size, kind
    return t.tobuf(tarfile.USTAR_FORMAT)


class Zeros(io.RawIOBase):
    "Some bytes, then as many others as are asked for."

    def __init__(self, start, then=b"a", most=1 << 32):
        self.start, self.then, self.left = start, then, most

    def readable(self):
        return True

    def readinto(self, into):
        if self.start:
            b = self.start[: len(into)]
            self.start = self.start[len(b) :]
        else:
            b = self.then * (min(len(into), self.left) // len(self.then))
            self.left -= len(b)
        into[: len(b)] = b
        return len(b)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"X"])
def test_names_and_headers_of_gigabytes(little, kind):
    with pytest.raises(PrepError, match="a name or a header of 3.0 GiB"):
        list(fetch.tar_members(Zeros(header(size=3 << 30, kind=kind)), "x"))
    assert little() < 8


def test_sparse_members(little):
    with pytest.raises(PrepError, match="sparse"):
        list(fetch.tar_members(Zeros(header(kind=tarfile.GNUTYPE_SPARSE)), "x"))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        m = tarfile.TarInfo("a")
        m.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a"}
        t.addfile(m)
    with pytest.raises(PrepError, match="sparse"):
        list(fetch.tar_members(Zeros(out.getvalue()[:1536] + b"99999999999\n", b"1\n"), "x"))
    assert little() < 8


def test_more_members_than_any_dataset(little):
    used = []
    with pytest.raises(PrepError, match="more than 3000 members"):
        for k, _ in enumerate(fetch.tar_members(Zeros(b"", header()), "x", count=3000)):
            if k in (1000, 2999):
                used.append(tracemalloc.get_traced_memory()[0])
    assert used[1] - used[0] < 300_000, used


def test_an_archive_that_goes_on_after_its_end(monkeypatch):
    with pytest.raises(PrepError, match="goes on for more than"):
        list(fetch.tar_members(Zeros(header() + bytes(1024), bytes(1 << 20), 2 << 30), "x"))


def test_xz(monkeypatch):
    "Several streams and padding as before; a dictionary of gigabytes is refused."
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as t:
        m = tarfile.TarInfo("a")
        m.size = 300_000
        t.addfile(m, io.BytesIO(bytes(range(250)) * 1200))
    data = data.getvalue()
    x = lzma.compress(data[:1000]) + bytes(8) + lzma.compress(data[1000:])
    ((path, n, f),) = [(p, n, f.read()) for p, n, f in fetch.tar_members(io.BufferedReader(io.BytesIO(x)), "x")]
    assert (path, n, f) == ("a", 300_000, bytes(range(250)) * 1200)
    with pytest.raises(PrepError, match="damaged"):
        list(fetch.tar_members(io.BufferedReader(io.BytesIO(x[:-30])), "x"))
    monkeypatch.setattr(fetch, "Xz", functools.partial(fetch.Xz, memory=1 << 20))  # stands for one that asks for more
    with pytest.raises(PrepError, match="[Mm]emory"):
        list(fetch.tar_members(io.BufferedReader(io.BytesIO(x)), "x"))


@pytest.mark.parametrize("name", ["a:b", "d/C:/x", "a.txt:stream", "..\\..\\x", "\\\\host\\share", "x\\..\\..\\y"])
def test_names_that_windows_reads_otherwise(name):
    with pytest.raises(PrepError, match="outside"):
        fetch.inside(name)


def test_a_list_of_members_of_gigabytes(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("a", b"1")
    data = bytearray(out.getvalue())
    at = data.rfind(b"PK\5\6")
    data[at + 12 : at + 16] = struct.pack("<I", 3 << 30)
    (tmp_path / "z.npz").write_bytes(data)
    with pytest.raises(PrepError, match="list of members of 3.0 GiB"):
        preview.preview(tmp_path / "z.npz")


def npy(shape, dtype="|u1", length=None, body=b"", version=1):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    n = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + n + text + body


@pytest.mark.parametrize(
    "ims,words",
    [
        (npy((10**9, 4096, 4096, 3)), "claims .* and the archive has"),
        (npy("(2**70, 1, 1, 3)"), "no plain array|claims"),
        (npy((4, 8, 8, 3), "<S2000000000"), "claims"),
        (npy((-4, 8, 8, 3)), "no plain array"),
        (npy((True, 8, 8, 3)), "no plain array"),
        (npy(()), "no plain array"),
        (npy((2, 2, 2, 3), version=2, length=3 << 30, body=b"a" * 1000), "header is too long"),
        (npy((2, 2, 2, 3), "[('a', '<f8')]"), "no plain array|kind"),
        (npy((2, 2, 2, 3), "<M8[s]"), "kind"),
        (b"\x93NUMPY", "no plain array"),
        (b"", "no plain array"),
        (npy("(" * 500), "no plain array"),
    ],
    ids=range(12),
)
def test_arrays_that_claim_too_much(tmp_path, little, ims, words):
    p = tmp_path / "a.npz"
    with zipfile.ZipFile(p, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("ims.npy", ims)
        z.writestr("coords_labels.npy", npy((2, 2), "<f4", body=bytes(16)))
    with pytest.raises(PrepError, match=words):
        clevr.from_npz(p, tmp_path / "out.npz")
    with pytest.raises(PrepError, match=words):
        preview.preview(p)
    assert little() < 16 and not (tmp_path / "out.npz").exists()


def test_a_row_is_never_larger_than_the_bound(tmp_path, little):
    "An honest file with images of 2,000 pixels is read 32 MiB at a time."
    p = tmp_path / "a.npz"
    fetch.save_npz(
        p,
        ims=(np.uint8, (40, 1024, 1024, 3), (np.zeros((1, 1024, 1024, 3), np.uint8) for _ in range(40))),
        coords_labels=np.full((40, 2), 0.5, np.float32),
    )
    with fetch.open_zip(p) as z:
        m = fetch.Member(z, "ims", p)
        assert sum(len(b) for b in m.pieces()) == 40 and little() < 100


# --- pictures, scenes, metadata --------------------------------------------------------------------------------------


def huge(w, h):
    "A PNG of which only the header is large."
    b = bytearray(png())
    b[16:24] = struct.pack(">II", w, h)
    b[29:33] = struct.pack(">I", zlib.crc32(bytes(b[12:29])))
    return bytes(b)


@pytest.mark.parametrize("w,h", [(12_000, 12_000), (20_000, 20_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_giant_dimensions_are_not_decoded(little, w, h):
    with pytest.raises(ValueError, match="not decoded"):
        fetch.is_image(huge(w, h))
    assert little() < 4


def test_formats_that_start_other_programs():
    with pytest.raises(ValueError, match="no picture"):
        fetch.is_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


@pytest.mark.parametrize(
    "text,words",
    [
        ("[" * 100_000, "no scenes file"),
        ('{"scenes": [{"image_filename": 1, "objects": []}]}', "no scenes file"),
        ('{"scenes": {"a": 1}}', "no scenes file"),
        ('{"scenes": [{"image_filename": "a.png", "objects": [{}]}]}', "without a place"),
        ('{"scenes": [{"image_filename": "a.png", "objects": [{"pixel_coords": [NaN, 1]}]}]}', "without a place"),
        ('{"scenes": [{"image_filename": "a.png", "objects": [{"pixel_coords": ["x", 1]}]}]}', "without a place"),
        ('{"scenes": [{"image_filename": "a.png", "objects": [{"pixel_coords": [5]}]}]}', "without a place"),
        ('{"scenes": [{"image_filename": "a.png", "objects": [3]}]}', "without a place"),
        (
            '{"scenes": [{"image_filename": "a.png", "objects": []}, {"image_filename": "a.png", "objects": []}]}',
            "twice",
        ),
        ('{"scenes": []}', "lists no image"),
        ('{"scenes": [{"image_filename": "../a.png", "objects": []}]}', "outside"),
        ('{"scenes": [{"image_filename": "a.png", "objects": [%s{}]}]}' % ("{}," * 1000), "1001 objects"),
    ],
    ids=range(12),
)
def test_scenes(tmp_path, text, words):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(160))
    (tmp_path / "scenes.json").write_text(text)
    with pytest.raises(PrepError, match=words):
        clevr.main(["--source", "folder", "--file", str(tmp_path), "--out", str(tmp_path.parent / "no.npz")])


BOMB = "stems:\n  a: &a {x: 1}\n" + "".join(
    f"  {b}: &{b} {{{', '.join(f'<<: *{a}' for _ in range(9))}}}\n" for a, b in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    "text,words",
    [
        ("stems: {../../../private: {program_num: 0}}", "is no name of a stem"),
        ("stems: {/etc/private: {program_num: 0}}", "is no name of a stem"),
        ("stems: {S0/../../x: {program_num: 0}}", "is no name of a stem"),
        ("stems: {'..\\x': {program_num: 0}}", "is no name of a stem"),
        ("stems: {1: {program_num: 0}}", "is no name of a stem"),
        ("stems: {S00: {program_num: x}}", "the program of S00"),
        ("stems: {S00: 5}", "AttributeError"),
        ("stems: [1]", "AttributeError"),
        (BOMB, "parts of itself"),
        ("a: &a [*a]\nstems: {}", "parts of itself"),
        ("stems: !!python/object/apply:os.system ['touch x']", "ConstructorError"),
        ("[" * 200_000, "nested too deeply"),
        ("stems: " + "[" * 900 + "]" * 900, "RecursionError"),
        ("x: " + "y" * 300_000, "it has 300003"),
        ("\x00", "ReaderError"),
    ],
    ids=range(15),
)
def test_metadata(tmp_path, text, words):
    import soundfile as sf

    d = tmp_path / "in" / "Track00001"
    (d / "stems").mkdir(parents=True)
    sf.write(tmp_path / "private.wav", np.zeros(100, np.float32), 22050)
    (d / "metadata.yaml").write_text(text)
    start = time.monotonic()
    with pytest.raises(PrepError, match=words):
        slakh.sum_stems(d)
    assert time.monotonic() - start < 5


def test_the_whole_process_stays_small(tmp_path):
    "A gzip of gigabytes as a tile, a header that claims terabytes: with 1.5 GB of addresses both end in words."
    with BadServer() as server:
        server.always["/a"] = ("coded", "gzip", bomb(1, 600 << 20))
        code = (
            "import sys; from data_prep.fetch import Fetcher, command\n"
            "def main(_):\n"
            "    with Fetcher(sys.argv[1], pause=0, tries=1, timeout=5) as f: f.get(sys.argv[2], 'a')\n"
            "command(main)"
        )
        p = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), server.url + "/a"],
            cwd=ROOT,
            env=dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000)),
            capture_output=True,
            text=True,
        )
    assert p.returncode == 2 and "larger than 64.0 MiB" in p.stderr, p.stderr


def test_a_sound_that_claims_days(tmp_path):
    import soundfile as sf

    out = io.BytesIO()
    sf.write(out, np.zeros(4096, np.int16), 44100, format="FLAC")
    b = bytearray(out.getvalue())
    b[21] |= 0x0F  # the upper bits of the number of samples
    b[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(b)
    with pytest.raises(PrepError, match="claims 68719476735 samples|no readable"):
        slakh.mono(tmp_path / "a.flac")


def test_manifests_of_others(tmp_path):
    "A manifest that is none, or that names files elsewhere, is no licence to overwrite."
    args = ["--source", "google", "--limit", "3", "--out", str(tmp_path / "a.npz")]
    for text in ("[]", "{", json.dumps(dict(files=[], parameters={})), "[" * 100_000, '{"files": {}}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(PrepError, match="not made by this command"):
            fetch.begin(
                type("A", (), dict(out=str(tmp_path / "a.npz"), resume=True, overwrite=False)), tmp_path / "a.json", {}
            )
    assert args and (tmp_path / "a.json").read_text() == text
