"`data_prep.fetch` against a server that misbehaves on purpose."

import email.utils
import hashlib
import io
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("httpx")
pytest.importorskip("tenacity")
from bad_server import BadServer
from data_prep import fetch
from data_prep.fetch import Fetcher, Missing, PrepError, Remote, magic

ROOT = Path(__file__).resolve().parent.parent


def png(seed=0, size=16):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


BIG = b"PK\x03\x04" + random.Random(0).randbytes(3_000_000)
MD5 = hashlib.md5(BIG).hexdigest()


@pytest.fixture
def server():
    with BadServer({"/a.png": png(0), "/b.png": png(1), "/big.zip": BIG}) as s:
        yield s


@pytest.fixture
def f(tmp_path):
    with Fetcher(tmp_path / "cache", pause=0.01, timeout=0.4, tries=4) as f:
        yield f


# --- small files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        [429],
        [500],
        [503, 502],
        ["truncated"],
        ["reset"],
        ["lost"],
        ["slow"],
        ["html"],
        ["garbage"],
        ["empty"],
        ["lost", 500, "html"],
        [("to", "/b.png")],
    ],
    ids=str,
)
def test_small_survives(server, f, bad):
    n = len(bad)
    server.bad["/a.png"] = list(bad)
    im = f.get(server.url + "/a.png", "a")
    assert np.array_equal(im, Image.open(io.BytesIO(server.files["/b.png" if ("to", "/b.png") in bad else "/a.png"])))
    assert server.asked["/a.png"] == (1 if bad[0] == ("to", "/b.png") else n + 1)
    f.get(server.url + "/a.png", "a")
    assert sum(server.good.values()) == 1  # the second time from the disk


@pytest.mark.parametrize(
    "bad,word",
    [
        ("html", "Please sign in"),
        ("garbage", "200 bytes"),
        ("empty", "empty"),
        (500, "status 500"),
        ("truncated", "RemoteProtocolError"),
        ("slow", "Timeout"),
    ],
    ids=str,
)
def test_small_gives_up_in_words(server, f, bad, word):
    server.always["/a.png"] = bad
    with pytest.raises(PrepError, match=word) as e:
        f.get(server.url + "/a.png", "a")
    assert server.asked["/a.png"] == 4 and "\n" not in str(e.value) and "again" in str(e.value)
    assert not (f.cache / "a").exists() and not list(f.cache.glob("*.tmp"))
    server.always.clear()
    f.get(server.url + "/a.png", "a")  # a second run goes on


def test_refusals_are_not_repeated(server, f):
    server.always["/a.png"] = 403
    with pytest.raises(PrepError, match="answers 403"):
        f.get(server.url + "/a.png", "a")
    assert server.asked["/a.png"] == 1
    for _ in range(2):
        with pytest.raises(Missing):
            f.get(server.url + "/none.png", "none")
    assert server.asked["/none.png"] == 1  # remembered
    server.always["/b.png"] = ("to", "/b.png")
    with pytest.raises(PrepError, match="cannot be fetched"):
        f.get(server.url + "/b.png", "b")


def test_retry_after(server, f):
    server.bad["/a.png"] = [(429, "0.5"), (503, "0.3")]
    f.get(server.url + "/a.png", "a")
    a, b, c = server.times
    assert b - a >= 0.5 and c - b >= 0.3
    server.bad["/b.png"] = [(429, email.utils.formatdate(time.time() + 2, usegmt=True))]
    start = time.monotonic()
    f.get(server.url + "/b.png", "b")
    assert 0.9 < time.monotonic() - start < 3
    server.bad["/big.zip"] = [(503, 7200)]
    with pytest.raises(PrepError, match="come back in 120 minutes"):
        f.get(server.url + "/big.zip", "c")


def test_pause_and_one_at_a_time(server, tmp_path):
    with Fetcher(tmp_path, pause=0.15) as f:
        for k in "ab":
            f.get(f"{server.url}/{k}.png", k)
        with pytest.raises(PrepError, match="Another run"):
            Fetcher(tmp_path)
    assert server.times[1] - server.times[0] >= 0.15 and server.most == 1
    Fetcher(tmp_path).__exit__()  # free again


def test_damaged_cache_and_no_resume(server, tmp_path):
    with Fetcher(tmp_path, pause=0) as f:
        f.get(server.url + "/a.png", "a")
        (tmp_path / "a").write_bytes(b"xx")
        f.get(server.url + "/a.png", "a")
    assert server.asked["/a.png"] == 2
    with Fetcher(tmp_path, pause=0, resume=False) as f:
        f.get(server.url + "/a.png", "a")
        f.get(server.url + "/a.png", "a")
    assert server.asked["/a.png"] == 3


def test_secret_and_budget(server, tmp_path):
    with Fetcher(tmp_path, pause=0, tries=2, secret="s3cret", budget=4) as f:
        for path, bad in (("/a.png", 403), ("/b.png", "html"), ("/none", None)):
            server.always[path] = bad
            with pytest.raises(PrepError) as e:
                f.get(f"{server.url}{path}?key=s3cret", path[1:])
            assert "s3cret" not in str(e.value) and "***" in str(e.value)
        with pytest.raises(PrepError, match="budget of 4"):
            f.get(server.url + "/a.png", "c")
    assert (
        not any(b"s3cret" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
        and sum(server.asked.values()) == 4
    )


# --- large files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        ["truncated"],
        ["reset", "reset", "reset", "reset", "reset", "reset"],
        [500, "truncated", (429, "0.05")],
        ["html"],
        ["slow"],
        ["lost"],
        ["truncated", "elsewhere"],
        [("to", "/copy.zip")],
    ],
    ids=str,
)
def test_large_goes_on(server, f, bad):
    server.files["/copy.zip"] = BIG
    server.bad["/big.zip"] = list(bad)
    path = f.download(server.url + "/big.zip", "big.zip", magic(b"PK"), size=len(BIG), md5=MD5)
    assert path.read_bytes() == BIG and sorted(p.name for p in f.cache.iterdir()) == [
        ".lock",
        "big.zip",
        "big.zip.json",
    ]
    if "elsewhere" not in bad:
        assert sum(server.sent.values()) < len(BIG) + 1000  # nothing twice
    n = sum(server.asked.values())
    f.download(server.url + "/big.zip", "big.zip", md5=MD5)
    assert sum(server.asked.values()) == n


@pytest.mark.parametrize("options", [dict(ranges=False), dict(etag=False)], ids=str)
def test_large_from_simple_servers(f, options):
    with BadServer({"/big": BIG}, **options) as s:
        s.bad["/big"] = ["truncated", "truncated"]
        assert f.download(s.url + "/big", "big").read_bytes() == BIG


def test_file_changes_while_it_is_fetched(server, f):
    new = BIG[:100] + BIG[:50:-1]
    server.bad["/big.zip"] = ["truncated"]
    server.body = lambda p: BIG if server.asked["/big.zip"] < 2 else new
    assert f.download(server.url + "/big.zip", "big.zip").read_bytes() == new  # never a mixture


@pytest.mark.parametrize("shorter", [True, False])
def test_file_changed_between_runs(tmp_path, shorter):
    with BadServer({"/big": BIG}, etag=False) as s:
        s.bad["/big"] = ["truncated"]
        s.always["/big"] = 500
        with Fetcher(tmp_path, pause=0, tries=2) as f, pytest.raises(PrepError):
            f.download(s.url + "/big", "big")
        s.always.clear()
        s.files["/big"] = new = BIG[:1000] if shorter else BIG[::-1] + b"x"
        with Fetcher(tmp_path, pause=0) as f:
            assert f.download(s.url + "/big", "big").read_bytes() == new


def test_wrong_checksum(server, f):
    server.bad["/big.zip"] = ["wrong"]
    assert f.download(server.url + "/big.zip", "big.zip", md5=MD5).read_bytes() == BIG  # damaged once: fetched again
    server.always["/big.zip"] = "wrong"
    with pytest.raises(PrepError, match=f"instead of {MD5}"):
        f.download(server.url + "/big.zip", "other.zip", md5=MD5)
    assert not (f.cache / "other.zip").exists() and server.asked["/big.zip"] == 4
    with pytest.raises(PrepError, match="is 3000004 bytes, the file"):
        f.download(server.url + "/big.zip", "third", size=5)


def test_web_page_instead_of_a_large_file(server, f):
    server.always["/big.zip"] = "html"
    with pytest.raises(PrepError, match=r'web page \("Please sign in"\) instead of a file that starts'):
        f.download(server.url + "/big.zip", "x", magic(b"PK"))
    server.files["/real"] = BIG
    assert (
        f.download(server.url + "/big.zip", "x", magic(b"PK"), page=lambda text, url: server.url + "/real").read_bytes()
        == BIG
    )


def test_coded_answer_is_refused(server, f):
    server.bad["/big.zip"] = ["coded"]
    with pytest.raises(PrepError, match="comes as gzip"):
        f.download(server.url + "/big.zip", "x")


def test_no_room(server, f, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda p: type("U", (), dict(free=1_000_000)))
    with pytest.raises(PrepError, match="2.9 MiB are needed"):
        f.download(server.url + "/big.zip", "x")
    assert not (f.cache / "x.part").exists()


CODE = """
import sys
from data_prep.fetch import Fetcher, command
def main(_):
    with Fetcher(sys.argv[2], pause=0, tries=3) as f: f.download(sys.argv[1]+'/big.zip', 'big.zip', md5=sys.argv[3])
command(main)
"""


def run(*args, **kw):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, args)],
        cwd=ROOT,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        stderr=subprocess.PIPE,
        text=True,
        **kw,
    )


def test_full_disk(server, tmp_path):
    "A real write error (the largest allowed file is smaller than the download), then a second run."
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    p = run(server.url, tmp_path, MD5, preexec_fn=limit)
    err = p.communicate()[1]
    assert p.returncode == 2 and "The disk is full" in err and "Traceback" not in err
    kept = (tmp_path / "big.zip.part").stat().st_size
    assert kept > 500_000
    server.sent.clear()
    p = run(server.url, tmp_path, MD5)
    assert p.wait() == 0 and server.sent["/big.zip"] == len(BIG) - kept


def test_killed_and_continued(server, tmp_path):
    "Killed in the middle of a body several times; every byte that was kept is not sent again."
    server.always["/big.zip"], server.delay = ("after", 100_000), 0.05  # the server also cuts every answer short
    rng, kills = random.Random(1), 4
    for _ in range(kills):
        n = sum(server.asked.values())
        p = run(server.url, tmp_path, MD5)
        while sum(server.asked.values()) == n:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.05, 0.3))
        p.send_signal(signal.SIGKILL)
        p.communicate()
    p = run(server.url, tmp_path, MD5)
    assert p.communicate() and p.returncode == 0 and (tmp_path / "big.zip").read_bytes() == BIG
    assert sum(server.sent.values()) <= len(BIG) + (kills + 1) * 100_000


def test_stopped_by_hand(server, tmp_path):
    server.always["/big.zip"] = (503, 30)
    p = run(
        server.url, tmp_path, MD5, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )  # ignored in a background job
    while not server.asked:
        time.sleep(0.05)
    time.sleep(0.3)
    p.send_signal(signal.SIGINT)
    err = p.communicate()[1]
    assert p.returncode == 1 and "goes on from here" in err and "Traceback" not in err


# --- reading from afar ----------------------------------------------------------------------------------------------


def test_remote_zip_and_stream(server, f):
    z = io.BytesIO()
    with zipfile.ZipFile(z, "w") as w:
        for i in range(30):
            w.writestr(f"{i}.bin", random.Random(i).randbytes(20_000))
    server.files["/z"] = z.getvalue()
    server.bad["/z"] = ["truncated", "lost", 500, "truncated"]
    for step in (0, 30_000):
        with zipfile.ZipFile(io.BufferedReader(Remote(f, server.url + "/z", magic(b"PK"), step=step), 1 << 14)) as r:
            assert r.read("17.bin") == random.Random(17).randbytes(20_000) and r.testzip() is None
    server.bad["/big.zip"] = ["truncated"] * 5
    server.sent.clear()
    assert io.BufferedReader(Remote(f, server.url + "/big.zip"), 1 << 16).read() == BIG and server.sent[
        "/big.zip"
    ] == len(BIG)
    server.always["/big.zip"] = "html"
    with pytest.raises(PrepError, match="web page"):
        Remote(f, server.url + "/big.zip").read(10)


def test_remote_without_ranges(f):
    with BadServer({"/big": BIG}, ranges=False) as s:
        assert io.BufferedReader(Remote(f, s.url + "/big")).read() == BIG
        s.bad["/big"] = ["truncated"]
        with pytest.raises(PrepError, match="Download the whole file"):
            io.BufferedReader(Remote(f, s.url + "/big")).read()


# --- archives -------------------------------------------------------------------------------------------------------


def tar(members, mode="w:gz"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:
        for name, content in members.items():
            m = tarfile.TarInfo(name)
            if content is None:
                m.type = tarfile.DIRTYPE
                t.addfile(m)
                continue
            if isinstance(content, bytes):
                m.size = len(content)
                t.addfile(m, io.BytesIO(content))
            else:
                m.type, m.linkname = content
                t.addfile(m)
    return out.getvalue()


class Buffered(io.BufferedReader):
    def __init__(self, data):
        super().__init__(io.BytesIO(data))


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w"])
def test_tar(mode):
    got = [
        (p, n, f.read())
        for p, n, f in fetch.tar_members(Buffered(tar({"./d/": None, "./d/a": b"1", "b": b"22"}, mode)), "x")
    ]
    assert got == [("d/a", 1, b"1"), ("b", 2, b"22")]


@pytest.mark.parametrize("name", ["../a", "/etc/a", "d/../../a", "C:\\a", "..\\a"])
def test_paths_outside(name):
    with pytest.raises(PrepError, match="outside the folder"):
        list(fetch.tar_members(Buffered(tar({name: b"1"})), "x"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(kind):
    with pytest.raises(PrepError, match="link or a device"):
        list(fetch.tar_members(Buffered(tar({"a": (kind, "/etc/passwd")})), "x"))


def test_bombs_and_damage(tmp_path, monkeypatch):
    data = tar({"a": random.Random(0).randbytes(100_000), "b": b"2"})
    with pytest.raises(PrepError, match="more than such a dataset"):
        list(fetch.tar_members(Buffered(data), "x", most=1000))
    with pytest.raises(PrepError, match="more than such a dataset"):
        list(fetch.tar_members(Buffered(data), "x", total=100_000))
    for broken in (
        data[:-4],
        data[:50_000],
        data[:-8] + bytes(8),
        data[:60_000] + b"\0" * 30 + data[60_030:],
        b"",
        b"<html>",
    ):
        with pytest.raises(PrepError, match="damaged"):
            for p, n, f in fetch.tar_members(Buffered(broken), "x"):
                fetch.unpack(f, n, tmp_path / p, "x")
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda p: type("U", (), dict(free=10)))
    with pytest.raises(PrepError, match="needed"):
        for p, n, f in fetch.tar_members(Buffered(data), "x"):
            fetch.unpack(f, n, tmp_path / "new" / p, "x")


def test_zip_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("a", b"0" * 5000)
        z.writestr("../b", b"1")
        z.writestr("c", b"hello")
    data = bytearray((tmp_path / "z").read_bytes())
    with zipfile.ZipFile(tmp_path / "z") as z:
        assert fetch.zip_bytes(z, "c") == b"hello"
        with pytest.raises(PrepError, match="not the archive"):
            fetch.zip_bytes(z, "a", most=100)
        with pytest.raises(PrepError, match="outside"):
            fetch.zip_bytes(z, "../b")
        with pytest.raises(PrepError, match="has no 'd'"):
            fetch.zip_bytes(z, "d")
        at = z.getinfo("a").header_offset + 31
    data[at + 3] ^= 255
    (tmp_path / "y").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "y") as z, pytest.raises(PrepError, match="damaged"):
        fetch.zip_bytes(z, "a")


# --- files that we write --------------------------------------------------------------------------------------------


def test_npz_depends_on_the_arrays_alone(tmp_path):
    a, b = np.arange(24, dtype=np.uint8).reshape(6, 4), np.array(["x", "yé"])
    fetch.save_npz(tmp_path / "1.npz", a=a, b=b)
    time.sleep(0.01)
    fetch.save_npz(tmp_path / "2.npz", a=(np.uint8, (6, 4), (a[i : i + 2] for i in (0, 2, 4))), b=b)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    with np.load(tmp_path / "1.npz", allow_pickle=False) as z:
        assert np.array_equal(z["a"], a) and np.array_equal(z["b"], b)
    with pytest.raises(TypeError):
        fetch.save_npz(tmp_path / "3.npz", a=np.array([None]))
    with pytest.raises(ValueError):
        fetch.save_npz(tmp_path / "3.npz", a=(np.uint8, (7, 4), [a]))
    assert not (tmp_path / "3.npz").exists()


def test_not_imported_by_the_kit():
    code = (
        "import sys, dde_kit as dde; dde.Tiling; print([m for m in sys.modules if m.split('.')[0] in ('data_prep',"
        " 'httpx', 'tenacity', 'soundfile', 'soxr', 'mido')])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize("name", ["maps", "clevr", "slakh"])
def test_help_reads_without_the_packages(name):
    code = (
        "import sys; sys.modules['httpx'] = sys.modules['tenacity'] = None\nimport importlib.util as u; old ="
        " u.find_spec\nu.find_spec = lambda m, *a: None if m in ('httpx', 'tenacity') else old(m, *a)\nfrom"
        f" data_prep.{name} import main; main(['--help'])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "MISSING HERE: httpx, tenacity" in out.stdout and "--limit" in out.stdout and "kit[data]" in out.stdout, (
        out.stderr
    )
