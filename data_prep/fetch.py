"""What all of `data_prep` shares: downloads that survive the real world, archives read safely, files written whole.

A `Fetcher` makes one request at a time with a pause between two, keeps every answer on disk, tries again after
anything that can pass (dropped connection, truncated body, 429 and 5xx with Retry-After, a web page instead of the
file), and gives up with one line after anything that cannot. What was fetched and verified is never asked for again.
Whatever a server or an archive claims, no more than a known amount of it is ever in memory.
"""

import argparse
import contextlib
import email.utils
import errno
import gzip
import hashlib
import importlib.util
import io
import json
import ipaddress
import logging
import lzma
import math
import os
import re
import shutil
import socket
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
import zlib
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

import numpy as np
from tqdm import tqdm

from .images import is_junk, open_image

AGENT = "dde_kit-data_prep/0.1 (research; one request at a time)"
AGAIN = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}  # statuses that pass
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the disk or the quota is full, the file too large
INSTALL = "pip install 'dde_kit[data]'"


class PrepError(RuntimeError):
    "Ends a run in one paragraph: what came, what fits, what to do."


class Missing(PrepError):
    "The server says that there is no such file, with `status` (or 'empty')."

    def __init__(self, what, status=404):
        super().__init__(what)
        self.status = status


class Transient(Exception):
    "May pass: `wait` seconds as asked by the server, `url` to go on with."

    def __init__(self, what, wait=None, url=None):
        super().__init__(what)
        self.wait, self.url = wait, url


# --- small helpers ---------------------------------------------------------------------------------------------------


def need(*modules):
    "Says in one line which packages are missing."
    gone = [m for m in modules if importlib.util.find_spec(m) is None]
    if gone:
        raise PrepError(
            f"{', '.join(gone)} is not installed: {INSTALL} (or pip install {' '.join(gone)}) and run again."
        )


def gib(n):
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n} bytes"


def bar(it=None, **kw):
    "A progress bar with the remaining time; every half minute where nobody watches."
    return tqdm(it, mininterval=0.2 if sys.stderr.isatty() else 30, dynamic_ncols=True, **kw)


def digest(path, *kinds, title=None):
    "Checksums of a file, read once."
    hs = [hashlib.new(k) for k in kinds]
    with (
        open(path, "rb") as f,
        bar(total=os.path.getsize(path), unit="B", unit_scale=True, desc=title, disable=title is None) as b,
    ):
        while c := f.read(1 << 20):
            for h in hs:
                h.update(c)
            b.update(len(c))
    return [h.hexdigest() for h in hs]


def room(folder, n):
    "Refuses what does not fit on the disk, before it is written."
    folder = Path(folder)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if n > free:
        raise PrepError(
            f"{gib(n)} are needed in {folder} and {gib(free)} are free: make room or choose another disk (--cache for"
            " downloads, --out for the result). What is there stays, a second run goes on."
        )


@contextlib.contextmanager
def whole(path, sync=True):
    "A temporary name to write to; takes the place of `path` when everything has been written."
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.tmp")
    with open(tmp, "wb") as f:
        yield f
        f.flush()
        if sync:
            os.fsync(f.fileno())
    os.replace(tmp, path)


def save_json(path, obj):
    text = json.dumps(obj, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    with whole(path) as f:
        f.write(text.encode("utf-8", "surrogateescape"))


def read_json(path, most=1 << 28):  # bytes
    "An object of a .json file of ours."
    try:
        if Path(path).stat().st_size > most:
            raise ValueError(f"it is larger than {gib(most)}")
        got = json.loads(Path(path).read_bytes().decode("utf-8", "surrogateescape"))
        if not isinstance(got, dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as e:
        raise PrepError(
            f"{path} is damaged or was not written here ({e}): remove it and run the same command again."
        ) from None
    return got


def shown(name):
    "A file name as text: the same in every locale."
    return os.fsencode(str(name)).decode("utf-8", "surrogateescape")


def named(text):
    "The file of that name: the inverse of `shown`."
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def save_npz(path, **arrays):  # an array, or (dtype, shape, iterator of pieces along the first axis)
    "An `.npz` whose bytes depend on the arrays alone: no date, no pickle; pieces are never all in memory."
    with whole(path) as f, zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as z:
        for k, a in arrays.items():
            dtype, shape, pieces = a if isinstance(a, tuple) else (a.dtype, a.shape, [a])
            dtype = np.dtype(dtype)
            if dtype.hasobject:
                raise TypeError(f"{k} holds Python objects")
            info = zipfile.ZipInfo(f"{k}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            with z.open(info, "w", force_zip64=True) as o:
                np.lib.format.write_array_header_1_0(
                    o, dict(descr=np.lib.format.dtype_to_descr(dtype), fortran_order=False, shape=shape)
                )
                n = 0
                for p in pieces:
                    p = np.ascontiguousarray(p, dtype)
                    o.write(p.tobytes())
                    n += p.size
            if n != int(np.prod(shape, dtype=np.int64)):
                raise ValueError(f"{k} got {n} numbers for the shape {shape}")


def content(path):
    "A mark of what a file or folder holds: names and sizes."
    path = Path(path)
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file() and not is_junk(p.relative_to(path))]
        lines = [f"{shown(p.relative_to(path).as_posix())} {p.stat().st_size}" for p in files]
    else:
        lines = [f"{shown(path.name)} {path.stat().st_size}"]
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def today():
    return datetime.now(timezone.utc).date().isoformat()


# --- commands --------------------------------------------------------------------------------------------------------


def cache_place():
    "The folder that keeps downloads; below the working folder where nobody has a home."
    if given := os.environ.get("DDE_KIT_CACHE"):
        return given
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "dde_kit"
    try:
        home = Path.home()
    except RuntimeError:  # HOME is not set, and no user of this number is known
        home = Path("")
    return home / ".cache" / "dde_kit" if home.is_absolute() else Path.cwd() / "dde_kit_cache"


def parser(name, doc, modules, out):
    "Options that every command has."
    gone = [m for m in modules if importlib.util.find_spec(m) is None]
    ap = argparse.ArgumentParser(
        prog=f"python -m data_prep.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Needs the packages {', '.join(modules)}: {INSTALL}."
        + (f"\nMISSING HERE: {', '.join(gone)}." if gone else ""),
    )
    ap.add_argument("--out", required=True, help=out)
    ap.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="a small first try: only the first N (the cache is shared with the full run)",
    )
    ap.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on where an earlier run stopped (default); --no-resume fetches and writes everything anew",
    )
    ap.add_argument("--overwrite", action="store_true", help="replace an --out that was made with other parameters")
    ap.add_argument(
        "--cache",
        default=cache_place(),
        help="folder that keeps what was fetched (default: %(default)s; or DDE_KIT_CACHE)",
    )
    ap.add_argument(
        "--base",
        default=os.environ.get("DDE_KIT_BASE", ""),
        metavar="URL",
        help="fetch from this server (a mirror) instead of the published ones; or DDE_KIT_BASE",
    )
    ap.add_argument(
        "--pause",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="between two requests, and the first wait after a failure, doubled each time (default 1)",
    )
    ap.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="without a byte from the server (default 30)"
    )
    ap.add_argument(
        "--tries", type=int, default=6, help="failures in a row without progress before giving up (default 6)"
    )
    ap.add_argument(
        "--patience",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="longest Retry-After that is waited for (default 3600)",
    )
    return ap


def positive(a, *names, most=10**9):
    "Numbers below 1 make no dataset; for lengths, not even 0."
    for n in names:
        v = getattr(a, n)
        if v is not None and not 0 < v <= most:
            raise PrepError(f"--{n.replace('_', '-')} {v}: a number above 0 and of at most {most} is needed.")


def between(a, low, high, *names, why=""):
    for n in names:
        v = getattr(a, n)
        if v is not None and not low <= v <= high:
            raise PrepError(f"--{n.replace('_', '-')} {v}: a number between {low:g} and {high:g} is needed{why}.")


def check_common(a):
    "The options that every command has, before anything is done."
    positive(a, "limit", "tries")
    between(a, 0, 86400, "pause")
    between(a, 0.001, 86400, "timeout")
    between(a, 0, 10**7, "patience")
    if a.base:
        u = split_url(a.base)
        if not u or u.scheme not in ("http", "https") or not u.hostname or u.query or u.fragment:
            raise PrepError(f"--base {hidden(a.base)}: an address such as https://mirror.example is needed.")


def split_url(url):
    "The parts of an address, or None when it is none."
    try:
        u = urlsplit(url)
        u.port  # raises for a port that is no number
        return u
    except ValueError:
        return None


def can_write(path):
    "Refuses, before the work, a place where nothing can be written; makes nothing."
    path = Path(path)
    if "\0" in str(path):
        raise PrepError(f"{str(path)!r} is no name for a file.")
    place = path.absolute().parent
    try:
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise PrepError(f"{path} cannot be written: {place} is a file, a folder is needed. Choose another name.")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as e:
        raise PrepError(f"{path} cannot be written ({e.strerror or e}): choose another place.") from None


def can_write_npz(out):
    "The same for a dataset in one file."
    out = Path(out)
    if out.suffix != ".npz":
        raise PrepError(f"--out {out}: the dataset is one .npz file, so a name that ends in .npz is needed.")
    for p in (out, out.with_suffix(".json"), out.with_suffix(".png")):
        if p.is_dir():
            raise PrepError(
                f"--out {out}: {p} is a folder, and a file of this name is to be written. Choose another name."
            )
    can_write(out)


def rebase(url, base):
    "The same file on another server (a mirror, or a test's)."
    u = urlsplit(url)
    return base.rstrip("/") + url[len(f"{u.scheme}://{u.netloc}") :] if base else url


def fetcher(a, **kw):
    return Fetcher(a.cache, pause=a.pause, timeout=a.timeout, tries=a.tries, patience=a.patience, resume=a.resume, **kw)


def begun(manifest):
    return Path(manifest).with_name(f".{Path(manifest).name}.begun")


def begin(a, manifest, params):
    "True when the dataset with these parameters is already there; an error when another one is in the way."
    manifest = Path(manifest)
    mark = begun(manifest)
    beside = [manifest] if manifest.parent == Path(a.out) else [Path(a.out), manifest, Path(a.out).with_suffix(".png")]
    old = None
    if manifest.exists():
        try:
            old = read_json(manifest)
            if not (isinstance(old.get("files"), dict) and "parameters" in old and "date" in old):
                old = None
        except PrepError:
            pass
    foreign = [p for p in beside if p.exists()] if old is None and not mark.exists() else []
    if foreign and not a.overwrite:
        raise PrepError(
            f"{foreign[0]} exists and has no manifest beside it that this command wrote, so it was not made by this"
            " command: choose another --out, or add --overwrite."
        )
    if old is not None and a.resume:
        same = old["parameters"] == json.loads(json.dumps(params))
        paths = [(manifest.parent / named(f), h) for f, h in old["files"].items()]
        if same and all(p.is_file() and digest(p, "sha256") == [h] for p, h in paths):
            mark.unlink(missing_ok=True)
            print(f"{a.out} is complete (made {old['date']}), nothing to do.")
            return True
        if not same and not a.overwrite:
            raise PrepError(
                f"{a.out} was made with other parameters ({manifest} lists them): choose another --out, or add"
                " --overwrite. What was fetched stays in the cache either way."
            )
    save_json(mark, params)  # until `finish`: what lies at --out is ours
    return False


def finish(manifest, **facts):
    "Writes the manifest, the last thing that a command does."
    save_json(manifest, dict(facts, date=today()))
    begun(manifest).unlink(missing_ok=True)


def command(main, argv=None):
    "Runs a command; an error that a user can act on becomes one line and status 2."
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends nothing

    def stop(text, status=2):
        print(" ".join(str(text).split()), file=sys.stderr)
        sys.exit(status)

    try:
        main(argv)
    except PrepError as e:
        stop(e)
    except KeyboardInterrupt:
        stop("Stopped. What was fetched is kept: the same command goes on from here.", 1)
    except MemoryError:
        stop("There is not enough memory: try --limit, or a smaller --size.")
    except OSError as e:
        what = f"{e.strerror or type(e).__name__}{f': {e.filename}' if e.filename else ''}"
        if e.errno in FULL:
            stop(
                f"The disk is full ({what}): make room, or name another disk with --cache or --out. What was fetched is"
                " kept: the same command goes on from here."
            )
        stop(f"A file cannot be read or written ({what}): the same command goes on when that is mended.")


# --- what came -------------------------------------------------------------------------------------------------------


def describe(body, kind=""):
    "In a few words, what a server sent."
    size, body = len(body), body[:4096]
    if html(body, kind):
        title = re.search(rb"<title[^>]*>(.*?)</title", body, re.S | re.I)
        words = re.sub(
            r"\s+", " ", re.sub("<[^>]*>", " ", (title[1] if title else body[:300]).decode("utf-8", "replace"))
        ).strip()
        return f'a web page ("{words[:100]}")'
    return (
        f"{size} bytes{f' of type {kind[:80]}' if kind else ''} that start with {body[:8]!r}"
        if body
        else "an empty answer"
    )


def html(body, kind=""):
    return "html" in kind.lower() or body[:512].lstrip().lower().startswith((b"<!doctype html", b"<html", b"<head"))


def is_image(body, kind=""):
    "A complete picture: every pixel decodes; as RGB."
    try:
        return open_image(bytes(body), "it")
    except ValueError as e:
        why = "" if html(body, kind) or not body else f" ({e})"
        raise ValueError(f"{describe(body, kind)} instead of a complete picture{why}") from None


def magic(*starts):
    "A check of the first bytes."

    def check(body, kind=""):
        if html(body, kind) or not body.startswith(starts):
            raise ValueError(
                f"{describe(body, kind)} instead of a file that starts with {' or '.join(map(repr, starts))}"
            )

    return check


# --- downloads -------------------------------------------------------------------------------------------------------


def retry_after(value):
    "Seconds that a Retry-After header asks for (a number or a date), or None."
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, OSError):
            return None
    return None if math.isnan(seconds) else max(0.0, seconds)


SECRET = re.compile(r"key|token|secret|signature|^sig$|password|^pass$|credential|^code$", re.I)


def secrets_of(*urls):
    "What must not be shown of an address: a password, and values whose names say that they are keys."
    out = set()
    for url in urls:
        u = split_url(url)
        if u:
            out |= {v for k, v in parse_qsl(u.query) if SECRET.search(k)} | ({u.password} if u.password else set())
    return {v for v in out if "{" not in v and len(v) > 3}  # a shorter one would blank every text


def hidden(text, secrets=None):
    "A text without its secrets, however they are spelled in an address."
    text = str(text)
    found = secrets_of(text) if secrets is None else secrets
    for v in sorted(found, key=len, reverse=True):
        for spelled in {v, quote(v), quote(v, safe=""), quote_plus(v)}:
            text = text.replace(spelled, "***")
    return text


def is_loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def may_get_key(url, published, allowed=False):  # an address, the host that gives out the keys, the user's word
    "Refuses to send a key anywhere but to the published host, or over https to a server that the user allowed."
    u = split_url(url)
    if is_loopback(u.hostname) or u.scheme == "https" and (u.hostname == published or allowed):
        return
    if u.scheme != "https":
        raise PrepError(
            f"Your key would go to {u.hostname} over {u.scheme}, readable on the way: use an https address."
        )
    raise PrepError(
        f"Your key belongs to {published} and would go to {u.hostname}: leave out --base (or DDE_KIT_BASE), or add"
        " --send-my-key-to-base if that server may know it."
    )


class Hide(logging.Filter):
    "Keeps secrets out of what libraries log: httpx writes every address at INFO."

    def __init__(self, secrets):
        super().__init__()
        self.secrets = secrets

    def filter(self, record):
        if self.secrets:
            record.msg, record.args = hidden(record.getMessage(), self.secrets), ()
        return True


LOGS = ("httpx", *(f"httpcore.{n}" for n in ("connection", "http11", "http2", "proxy", "socks")))


def peek(r, most, seconds):
    "The first bytes of an answer as they came, never decoded, for a short while."
    start, out = time.monotonic(), bytearray()
    for c in r.iter_raw():
        out += c
        if len(out) >= most or time.monotonic() - start > seconds:
            break
    return bytes(out[:most])


def decoded(pieces, coding):
    "The body under one content encoding, in pieces of bounded size; an encoding inside another one is refused."
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        yield from pieces
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"it comes as {coding[:80]!r}, although it was asked for as it is")
    d = zlib.decompressobj(47)  # finds out itself whether gzip or zlib
    for c in pieces:
        while c:
            yield d.decompress(c, 1 << 16)
            c = d.unconsumed_tail
    yield d.flush()
    if not d.eof:
        raise zlib.error("it ends too early")


def note_of(path):
    "What a run noted beside a download; {} when there is nothing that can be read."
    try:
        return read_json(path) if path.exists() else {}
    except PrepError:
        return {}


class Fetcher:
    "Files from the network, kept under `cache`."

    def __init__(
        self,
        cache,  # folder; one process at a time uses it
        pause: float = 1.0,  # seconds between two requests
        timeout: float = 30.0,  # seconds without a byte
        tries: int = 6,  # failures in a row, without progress, before giving up
        patience: float = 3600.0,  # longest Retry-After in seconds
        resume: bool = True,  # False: files from earlier runs are fetched anew
        secret: str = "",  # never shown, logged, kept, or sent to another host
        budget: int | None = None,  # most requests
    ):
        need("httpx", "tenacity", "filelock")
        import httpx
        from filelock import FileLock, Timeout

        for what, v, low in (("pause", pause, 0), ("timeout", timeout, 0.001), ("patience", patience, 0)):
            if isinstance(v, bool) or not isinstance(v, (int, float)) or not low <= v < 1e9:
                raise PrepError(f"{what}={v!r}: a number of seconds from {low} on is needed.")
        if isinstance(tries, bool) or not isinstance(tries, int) or tries < 1:
            raise PrepError(f"tries={tries!r}: a whole number from 1 on is needed.")
        self.cache = Path(cache)
        self.pause, self.timeout, self.tries, self.patience, self.budget = pause, timeout, tries, patience, budget
        self.resume, self.fresh, self.requests, self.last = resume, set(), 0, 0.0
        self.secret, self.secrets = secret, {secret} - {""}
        self.new, self.stream, self.late = [], None, False
        can_write(self.cache / ".lock")
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise PrepError(f"The cache {self.cache} is a file, a folder is needed: choose another --cache.") from None
        self.lock = FileLock(self.cache / ".lock", timeout=0)
        try:
            self.lock.acquire()
        except Timeout:
            raise PrepError(
                f"Another run is using the cache {self.cache}: wait for it, or give this one its own with --cache."
            ) from None
        self.filter = Hide(self.secrets)
        for name in LOGS:
            logging.getLogger(name).addFilter(self.filter)
        self.client = httpx.Client(timeout=timeout, headers={"User-Agent": AGENT, "Accept-Encoding": "identity"})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.lock.release()
        for name in LOGS:
            logging.getLogger(name).removeFilter(self.filter)

    def hide(self, s):
        return hidden(s, self.secrets)

    @contextlib.contextmanager
    def deadline(self, seconds):
        "Cuts the connection when the headers are not complete in time: a byte now and then satisfies any other clock."
        self.late = False

        def cut():
            self.late = True
            old = self.stream.get_extra_info("socket") if self.stream else None
            for s in (*self.new, old):
                if s is not None:
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(s, socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            for s in self.new:
                s.close()
            self.new.clear()

    def watch(self, event, info):
        "Keeps hold of a connection that has just been made, for `deadline`."
        if event == "connection.connect_tcp.complete":
            s = info["return_value"].get_extra_info("socket")
            if s is not None:
                self.new.append(s.dup())

    def send(self, url, headers):
        "One request and where it leads: never from https to http, never with a key to another host."
        import httpx

        request = self.client.build_request("GET", url, headers=headers, extensions=dict(trace=self.watch))
        first = request.url
        for _ in range(20):
            with self.deadline(4 * self.timeout):
                r = self.client.send(request, stream=True)
            self.stream = r.extensions.get("network_stream")
            if r.next_request is None:
                return r
            r.close()  # what stands beside an address is not read
            to = r.next_request.url
            if to.scheme == "http" and request.url.scheme == "https":
                raise PrepError(
                    self.hide(f"{url} leads from https to {to}, which anyone on the way could change: not followed.")
                )
            own = secrets_of(url) | ({self.secret} - {""})
            if to.host != first.host and hidden(to, own) != str(to):
                raise PrepError(self.hide(f"{url} leads to {to}, with your key, at another host: not followed."))
            self.secrets |= secrets_of(str(to))
            request = r.next_request
        raise httpx.TooManyRedirects("more than 20 redirects")

    @contextlib.contextmanager
    def open(self, url, absent=(404, 410), **headers):  # statuses that say that there is no such file
        "One request; what can pass becomes Transient, what cannot PrepError."
        import httpx

        if self.budget is not None and self.requests >= self.budget:
            raise PrepError(
                f"The budget of {self.budget} requests is used up. What was fetched is kept: a later run goes on from"
                " here, with a budget of its own (--max-requests)."
            )
        time.sleep(max(0.0, self.last + self.pause - time.monotonic()))
        self.requests += 1
        self.secrets |= secrets_of(url)
        r = None
        try:
            r = self.send(url, headers)
            wait = retry_after(r.headers.get("retry-after"))
            if r.status_code in AGAIN or r.status_code == 403 and wait is not None:
                if wait is not None and wait > self.patience:
                    raise PrepError(
                        self.hide(
                            f"{url} answers {r.status_code} and asks to come back in {wait / 60:.0f} minutes. What"
                            " was fetched is kept: run the same command then, or raise --patience."
                        )
                    )
                raise Transient(f"status {r.status_code}", wait)
            if r.status_code not in (200, 206, 416):
                body = peek(r, 4096, self.timeout)
                what = describe(body, r.headers.get("content-type", ""))
                if r.status_code in absent:
                    raise Missing(
                        self.hide(f"{url} answers {r.status_code} ({what}): there is no such file."), r.status_code
                    )
                raise PrepError(
                    self.hide(
                        f"{url} answers {r.status_code} with {what}; a file was expected."
                        " Check the address and whether you may use it (a key, a quota, terms), then run again:"
                        " what was fetched is kept."
                    )
                )
            yield r
        except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL) as e:
            raise PrepError(self.hide(f"{url} cannot be fetched: {e}. Check the address.")) from None
        except httpx.HTTPError as e:
            if self.late:
                raise Transient(f"the headers of the answer were not complete in {4 * self.timeout:g} s") from None
            raise Transient(self.hide(f"{type(e).__name__} {e}").strip()[:300]) from None
        finally:
            if r is not None:
                r.close()
            self.last = time.monotonic()

    def persist(self, step, what, size=lambda: 0):  # `step()` does the work, `size()` shows progress
        "Repeats a step that fails with Transient; progress resets the count of failures."
        import tenacity

        state = dict(fails=0, best=size())

        def stop(rs):
            grown = size() > state["best"]
            state.update(fails=1 if grown else state["fails"] + 1, best=max(size(), state["best"]))
            return state["fails"] >= self.tries

        def wait(rs):
            asked = rs.outcome.exception().wait
            return asked if asked is not None else min(60.0, self.pause * 2 ** min(state["fails"] - 1, 10))

        try:
            return tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(Transient), stop=stop, wait=wait, reraise=True
            )(step)
        except Transient as e:
            raise PrepError(
                self.hide(
                    f"{what} could not be fetched: {state['fails']} times in a row, at the end {e}. What was fetched is"
                    " kept: run the same command again later."
                )
            ) from None

    def old(self, path):
        return path.exists() and (self.resume or path in self.fresh)  # kept by an earlier run, or by this one

    def get(
        self,
        url,
        path,  # address, and the name under the cache
        check=is_image,  # check(body, content type) raises ValueError
        most: int = 64 << 20,  # bytes, decoded
        tile: bool = False,  # 204, 400 and an answer without a byte also say that there is no such file
    ):
        "A small file, from the cache or the network: what `check` makes of it, or its bytes."
        path = self.cache / path
        gone = path.with_name(path.name + ".missing")
        if self.old(path):
            try:
                if path.stat().st_size > most:
                    raise ValueError("too large")
                body = path.read_bytes()
                made = check(body)
                return body if made is None else made
            except ValueError:
                path.unlink()  # damaged on disk: once more
        if self.old(gone):
            raise Missing(self.hide(f"{url}: no such file (answered in an earlier run)."))
        absent, empty = (404, 410, 204, 400) if tile else (404, 410), []

        def step():
            start, body = time.monotonic(), bytearray()
            with self.open(url, absent) as r:
                kind, full = r.headers.get("content-type", ""), r.headers.get("content-length")
                coding = r.headers.get("content-encoding", "")
                try:
                    for c in decoded(r.iter_raw(), coding):
                        body += c
                        if len(body) > most:
                            raise PrepError(
                                self.hide(f"{url} is larger than {gib(most)}: not the small file that was expected.")
                            )
                        if time.monotonic() - start > 10 * self.timeout:
                            raise Transient(f"only {len(body)} bytes in {10 * self.timeout:.0f} s")
                except zlib.error as e:
                    raise Transient(f"a damaged {coding[:80]} body came ({e})") from None
                except ValueError as e:
                    raise PrepError(self.hide(f"{url} cannot be used: {e}.")) from None
            if full and not coding and len(body) != int(full):
                raise Transient(f"{len(body)} of {full} bytes")
            if tile and not body:
                empty.append(1)
                if len(empty) == 2:  # an accident does not happen twice
                    raise Missing(self.hide(f"{url} answers with nothing: there is no such file."), "empty")
            try:
                return bytes(body), check(bytes(body), kind)
            except ValueError as e:
                raise Transient(f"came {e}") from None

        self.fresh |= {path, gone}
        try:
            body, made = self.persist(step, url)
        except Missing as e:
            if e.status in (404, 410, 204):  # the others may be another fault: asked again by the next run
                with whole(gone, sync=False):
                    pass
            raise
        with whole(path, sync=False) as f:
            f.write(body)  # checked whenever it is read
        return body if made is None else made

    def download(
        self,
        url,
        path,  # address, and the name under the cache
        check=None,  # check(first bytes, content type) raises ValueError
        size: int | None = None,
        md5: str | None = None,
        git: str | None = None,  # what is known of the file (git: the id of a blob)
        page=None,  # page(text, url) -> address of the file when a web page came instead; or raises PrepError
        title=None,  # for the bar
        most: int = 1 << 38,  # bytes that any file of ours has
    ) -> Path:
        "A large file: goes on by Range after any interruption, takes its name when verified."
        path = self.cache / path
        part, note, done = (path.with_name(path.name + e) for e in (".part", ".part.json", ".json"))
        if self.old(path) and path.stat().st_size == note_of(done).get("size"):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self.resume and path not in self.fresh or not note.exists():
            part.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
        self.fresh.add(path)
        have = lambda: part.stat().st_size if part.exists() else 0
        where = dict(url=url)
        with bar(unit="B", unit_scale=True, unit_divisor=1024, desc=title or path.name, total=size) as b:
            for again in (True, False):
                if not (note.exists() and self.complete(note, have())):
                    self.persist(lambda: self.more(where, part, note, check, size, page, b, most), url, have)
                first = part.read_bytes() if have() < 4096 else b""
                found = digest(part, "sha256", "md5", title="checksum" if have() > 1 << 28 else None)
                if git:
                    h = hashlib.sha1(b"blob %d\0" % have())
                    h.update(part.read_bytes())
                    found.append(h.hexdigest())
                wrong = (
                    f"md5 {found[1]} instead of {md5}"
                    if md5 and found[1] != md5
                    else f"git blob {found[2]} instead of {git}"
                    if git and found[2] != git
                    else None
                )
                if not wrong:
                    break
                n = have()
                part.unlink()
                note.unlink()  # a mixture of two versions, perhaps: once from the start
                if not again:
                    raise PrepError(
                        self.hide(
                            f"{url} came complete ({n} bytes: {describe(first) if first else gib(n)}) but is another"
                            f" file than the one this script knows: {wrong}, twice. The file at the source has changed"
                            " or is damaged on the way: nothing of it is used. See whether a newer dde_kit knows it."
                        )
                    )
        info = dict(size=have(), sha256=found[0], md5=found[1], url=self.hide(url), date=today(), **note_of(note))
        save_json(done, info)
        os.replace(part, path)
        note.unlink()
        return path

    @staticmethod
    def sha256(path):
        return note_of(path.with_name(path.name + ".json")).get("sha256") or digest(path, "sha256")[0]

    @staticmethod
    def complete(note, have):
        total = note_of(note).get("total")
        return total is not None and have == total

    def more(self, where, part, note, check, size, page, b, most):
        "One request for what is missing of a file."
        have = part.stat().st_size if part.exists() else 0
        seen = note_of(note)
        tag = seen.get("etag") if not str(seen.get("etag")).startswith("W/") else None
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and (mark := tag or seen.get("modified")):
            headers["If-Range"] = mark

        def anew(why):
            part.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
            raise Transient(why)

        with self.open(where["url"], **headers) as r:
            kind, now = (
                r.headers.get("content-type", ""),
                dict(etag=r.headers.get("etag"), modified=r.headers.get("last-modified")),
            )
            if r.status_code == 416:
                anew("status 416: the file is shorter than what was kept of it, so it has changed")
            if r.status_code == 206:
                m = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", r.headers.get("content-range", ""))
                total = int(m[3]) if m and m[3] != "*" else None
                if not m or int(m[1]) != have or total is None:
                    anew(f"a wrong part of the file ({r.headers.get('content-range')})")
                if seen.get("total") not in (None, total) or any(
                    seen.get(k) and now[k] and seen[k] != now[k] for k in now
                ):
                    anew("the file changed on the server")
            else:
                if have:
                    tqdm.write(
                        "The server sends the file from the start (it has changed, or the server cannot go on in the"
                        " middle).",
                        file=sys.stderr,
                    )
                have, total = 0, None
                if "content-length" in r.headers and "content-encoding" not in r.headers:
                    total = int(r.headers["content-length"])
            if "content-encoding" in r.headers:
                raise PrepError(
                    self.hide(
                        f"{where['url']} comes as {r.headers['content-encoding']}, although it was asked for as it is:"
                        " download it with another program and name the file."
                    )
                )
            pieces = r.iter_raw()  # no size: what came before a break is not lost
            if not have:
                head = b""
                while len(head) < 512 and (c := next(pieces, b"")):
                    head += c
                if page and html(head, kind):
                    start = time.monotonic()
                    for c in pieces:
                        head += c
                        if len(head) > 1 << 20 or time.monotonic() - start > 10 * self.timeout:
                            break
                    where["url"] = page(head.decode("utf-8", "replace"), str(r.url))
                    raise Transient("a web page that leads to the file", wait=0)
                if check:
                    try:
                        check(head, kind)
                    except ValueError as e:
                        raise Transient(f"came {e}") from None
                if size is not None and total not in (None, size):
                    raise PrepError(
                        self.hide(
                            f"{where['url']} is {total} bytes, the file that this script knows has {size}: it has"
                            " changed at the source. See whether a newer dde_kit knows it."
                        )
                    )
            if total is not None:
                if total > most:
                    raise PrepError(
                        self.hide(f"{where['url']} is {gib(total)}, {gib(most)} is the most that is expected.")
                    )
                room(part.parent, total - have)
                b.total = total
            if not have:
                part.unlink(missing_ok=True)
                save_json(note, dict(now, total=total))
            b.n = have
            b.refresh()
            with open(part, "ab") as f:

                def keep(c):
                    if f.tell() + len(c) > most:
                        raise PrepError(
                            self.hide(f"{where['url']} does not end: {gib(most)} is the most that is expected.")
                        )
                    if total is None and f.tell() >> 26 != f.tell() + len(c) >> 26:
                        room(part.parent, 1 << 26)  # nobody knows how much is still to come
                    f.write(c)
                    f.flush()
                    b.update(len(c))

                if not have:
                    keep(head)
                for c in pieces:
                    keep(c)
        have = part.stat().st_size
        if total is not None and have > total:
            anew(f"{have} bytes instead of {total}")
        if total is not None and have < total:
            raise Transient(f"{have} of {total} bytes")
        if total is None:
            if size is not None and have != size:
                anew(f"{have} bytes instead of {size}")
            save_json(note, dict(now, total=have))


class Remote(io.RawIOBase):
    "A large file on a server, read without storing it; after a broken connection it goes on at the same byte."

    def __init__(
        self, fetcher, url, check=None, page=None, step=0
    ):  # bytes to ask for after a jump, doubled while it reads on; 0: all
        self.f, self.where, self.check, self.page, self.step, self.ahead = (
            fetcher,
            dict(url=url),
            check,
            page,
            step,
            step,
        )
        self.pos, self.size, self.mark, self.r, self.stack, self.until = 0, None, None, None, None, None

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self.pos

    def drop(self):
        self.r = None
        if self.stack:
            s, self.stack = self.stack, None
            s.close()

    def close(self):
        self.drop()
        super().close()

    def connect(self, last=""):
        if self.ahead and not last:
            last = self.pos + self.ahead - 1
        headers = {"Range": f"bytes={self.pos}-{last}", **({"If-Range": self.mark} if self.mark else {})}
        stack = contextlib.ExitStack()
        r = stack.enter_context(self.f.open(self.where["url"], **headers))
        try:
            kind = r.headers.get("content-type", "")
            if html(b"", kind):
                text = peek(r, 1 << 20, 10 * self.f.timeout)
                if not self.page:
                    raise Transient(f"came {describe(text, kind)}")
                self.where["url"] = self.page(text.decode("utf-8", "replace"), str(r.url))
                raise Transient("a web page that leads to the file", wait=0)
            if coding := r.headers.get("content-encoding"):
                raise PrepError(
                    self.f.hide(f"{self.where['url']} comes as {coding[:80]}, although asked for as it is.")
                )
            m = (
                re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", r.headers.get("content-range", ""))
                if r.status_code == 206
                else None
            )
            if self.pos and (not m or int(m[1]) != self.pos):
                raise PrepError(
                    self.f.hide(
                        f"{self.where['url']} cannot be continued at byte {self.pos} (status {r.status_code}): the file"
                        " has changed, or the server cannot send a part of it. Download the whole file instead (leave"
                        " out --stream, or --limit)."
                    )
                )
            size = int(m[3]) if m else int(r.headers["content-length"]) if "content-length" in r.headers else None
            if self.size not in (None, size):
                raise PrepError(
                    self.f.hide(
                        f"{self.where['url']} had {self.size} bytes and now has {size}: it changed while it was read."
                        " Run again."
                    )
                )
            tag = r.headers.get("etag") or ""
            self.size, self.mark = (
                size,
                self.mark or (tag if not tag.startswith("W/") else "") or r.headers.get("last-modified"),
            )
        except BaseException:
            stack.close()
            raise
        self.stack, self.r, self.pieces, self.left, self.until = (
            stack,
            r,
            r.iter_raw(),
            b"",
            int(m[2]) + 1 if m else size,
        )

    def seek(self, offset, whence=0):
        if whence == 2 and self.size is None:
            self.f.persist(lambda: self.connect(511), self.where["url"])
            self.drop()
        to = offset + (0, self.pos, self.size)[whence]
        if to != self.pos:
            if self.r and 0 < to - self.pos < 1 << 18:
                while self.pos < to and self.read(min(to - self.pos, 1 << 16)):
                    pass
            else:
                self.drop()
                self.ahead = self.step
        self.pos = to
        return to

    def readinto(self, into):
        def step():
            if self.size is not None and self.pos >= self.size:
                return 0
            try:
                if self.r and not self.left and self.pos == self.until:
                    self.drop()
                    self.ahead = min(2 * self.ahead, 8 << 20)
                if not self.r:
                    self.connect()
                import httpx

                try:
                    if not self.left:
                        self.left = next(self.pieces, b"")
                        if self.pos == 0 and self.check and self.left:
                            try:
                                self.check(self.left, self.r.headers.get("content-type", ""))
                            except ValueError as e:
                                raise Transient(f"came {e}") from None
                except httpx.HTTPError as e:
                    raise Transient(f"{type(e).__name__} {e}") from None
                if not self.left and self.size is not None:
                    raise Transient(f"{self.pos} of {self.size} bytes")
            except Transient:
                self.drop()
                raise
            n = min(len(into), len(self.left))
            into[:n] = self.left[:n]
            self.left = self.left[n:]
            self.pos += n
            return n

        return self.f.persist(step, self.where["url"], lambda: self.pos)


# --- archives --------------------------------------------------------------------------------------------------------


def inside(name):
    "The clean path of a member of an archive; refuses whatever would leave the target, here or on Windows."
    if not isinstance(name, str):
        raise PrepError(f"The archive or list names {name!r} as a file: a text is needed.")
    p = PurePosixPath(name.replace("\\", "/"))
    if p.is_absolute() or ".." in p.parts or ":" in name or "\0" in name or len(name) > 4096 or str(p) == ".":
        raise PrepError(
            f"The archive holds {name[:200]!r}, a path outside the folder it is unpacked to, or none: this is not the"
            " archive it should be, nothing more is unpacked. Download it again from the source."
        )
    return str(p)


@contextlib.contextmanager
def damaged(name):
    "Whatever a broken archive raises, in words."
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        gzip.BadGzipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        NotImplementedError,
    ) as e:
        raise PrepError(
            f"{name} is damaged ({type(e).__name__}: {e}): remove it and run the same command again."
        ) from None


class Xz(io.RawIOBase):
    "An .xz file read forward, with a bound on the memory that its header may ask for."

    def __init__(self, raw, memory=1 << 28):  # bytes; xz -9 takes 65 MiB
        self.raw, self.memory, self.d, self.over = raw, memory, None, False

    def readable(self):
        return True

    def readinto(self, into):
        while True:
            if self.d is None or self.d.eof:
                rest = (self.d.unused_data if self.d else b"") or self.raw.read(1 << 16)
                rest = rest.lstrip(b"\0") if self.d else rest  # padding between two streams
                if not rest:
                    if self.d is None:
                        raise EOFError("it is empty")
                    if self.raw.peek(1):
                        continue
                    return 0
                self.d = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=self.memory)
            else:
                rest = self.raw.read(1 << 16) if self.d.needs_input else b""
                if not rest and self.d.needs_input:
                    raise EOFError("it ends too early")
            out = self.d.decompress(rest, len(into))
            if out:
                into[: len(out)] = out
                return len(out)


class Header(tarfile.TarInfo):
    "A member of a .tar whose own headers (long names, extended attributes) are bounded, and that is not sparse."

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        m = super().frombuf(buf, encoding, errors)
        long = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")
        if m.type in long and m.size > 1 << 16:
            raise PrepError(f"The archive holds a name or a header of {gib(m.size)}: nothing more is unpacked.")
        if m.type == tarfile.GNUTYPE_SPARSE:
            raise PrepError(f"The archive holds {m.name!r}, a sparse file: nothing more is unpacked.")
        return m

    def _sparse(self, *_):
        raise PrepError(f"The archive holds {self.name!r}, a sparse file: nothing more is unpacked.")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _sparse


def tar_members(
    fileobj,  # a file to read once, forward
    name,
    most=4 << 30,  # bytes of one member
    total=1 << 40,  # bytes of all
    count=5_000_000,  # members
):
    "Regular files of a .tar, .tar.gz or .tar.xz as (path, size, file), in its order; checksums inside are checked."
    seen, n = 0, 0
    raw = io.BufferedReader(fileobj, 1 << 18) if isinstance(fileobj, io.RawIOBase) else fileobj
    start = raw.peek(6)[:6]
    f = raw
    if start.startswith(b"\x1f\x8b"):
        f = gzip.GzipFile(fileobj=raw)
    if start.startswith(b"\xfd7zXZ"):
        f = io.BufferedReader(Xz(raw), 1 << 18)
    with damaged(name), tarfile.open(fileobj=f, mode="r|", tarinfo=Header) as t:
        while (m := t.next()) is not None:
            t.members.clear()  # else every header stays in memory
            n += 1
            if n > count:
                raise PrepError(f"{name} holds more than {count} members: not the archive it should be.")
            if is_junk(m.name):
                continue
            if m.isdir() and PurePosixPath(m.name) == PurePosixPath("."):
                continue
            path = inside(m.name)
            if m.isdir():
                continue
            if not m.isfile():
                raise PrepError(
                    f"{name} holds {path!r}, a link or a device: only plain files and folders are taken, nothing more"
                    " is unpacked. Unpack it by hand, look at it, and name the folder."
                )
            seen += m.size
            if m.size > most or seen > total:
                raise PrepError(
                    f"{name} unpacks {path!r} to {gib(m.size)} ({gib(seen)} in all so far), more than such a dataset"
                    " has: nothing more is unpacked. Download it again from the source."
                )
            yield path, m.size, t.extractfile(m)
        after = 0
        while c := f.read(1 << 20):  # to the end: only there are the checksums
            after += len(c)
            if after > 1 << 30:
                raise PrepError(f"{name} goes on for more than {gib(after)} after its last member: it is damaged.")


def unpack(src, size, dest, name):
    "One member to one file, of exactly the announced size."
    room(Path(dest).parent, size)
    with damaged(name), whole(dest) as f:
        shutil.copyfileobj(src, f, 1 << 20)
        if f.tell() != size:
            raise EOFError(f"{f.tell()} of {size} bytes")


@contextlib.contextmanager
def open_zip(file, name=None):  # a path, or a file to seek in; what a message calls it
    "A zip whose list of members is bounded before it is read."
    name = name or file
    if isinstance(file, (str, os.PathLike)) and not Path(file).is_file():
        raise PrepError(f"{name} is no file.")
    with contextlib.ExitStack() as stack, damaged(name):
        f = stack.enter_context(open(file, "rb")) if isinstance(file, (str, os.PathLike)) else file
        size = f.seek(0, 2)
        f.seek(max(0, size - 65557 - 76))  # the end: 22 bytes and a comment, and before it what large zips add
        end = f.read()
        at = end.rfind(b"PK\5\6")
        if at < 0 or len(end) < at + 22:
            raise zipfile.BadZipFile("it has no list of members at its end")
        length = int.from_bytes(end[at + 12 : at + 16], "little")
        big = end.rfind(b"PK\6\6", 0, at)
        if length == 0xFFFFFFFF and 0 <= big <= at - 48:
            length = int.from_bytes(end[big + 40 : big + 48], "little")
        if length > 1 << 26:
            raise PrepError(f"{name} has a list of members of {gib(length)}: not the archive it should be.")
        f.seek(0)
        z = stack.enter_context(zipfile.ZipFile(f))
        yield z


def zip_bytes(z, name, most=1 << 30):
    "One member of a zip in memory; its size is checked before, its checksum with it."
    inside(name)
    where = z.filename or "the archive"
    try:
        info = z.getinfo(name)
    except KeyError:
        raise PrepError(f"{where} has no {name!r}: not the archive it should be.") from None
    if info.flag_bits & 1:
        raise PrepError(f"{where} holds {name!r} under a password: unpack it and name the folder.")
    if info.file_size > most:
        raise PrepError(f"{where} unpacks {name!r} to {gib(info.file_size)}: not the archive it should be.")
    with damaged(where), z.open(info) as f:
        return f.read()


class Member:
    "An array inside an .npz, read forward in pieces; never unpickled, and never believed about its size."

    def __init__(self, z, name, path):
        try:
            info = z.getinfo(f"{name}.npy")
        except KeyError:
            found = sorted(n.removesuffix(".npy") for n in z.namelist()[:20])
            raise PrepError(
                f"{path} holds {found}, `{name}` is needed: this is not the published file. Download it again."
            ) from None
        self.path, self.name = path, name
        if info.flag_bits & 1:
            raise PrepError(f"{path}: `{name}` is under a password: this is not the published file.")
        with damaged(path):
            self.f = z.open(info)
            self.shape, fortran, self.dtype, self.at = self.header()
        if self.dtype.hasobject or fortran or self.dtype.kind not in "biufSU":
            what = "columns first" if fortran else f"numbers of the kind {self.dtype}"
            if self.dtype.hasobject:
                what = "pickled Python objects, which could run anything when read"
            raise PrepError(f"{path}: `{name}` holds {what}; plain numbers are needed: this is not the published file.")
        self.row = math.prod(self.shape[1:]) * self.dtype.itemsize  # bytes
        claimed = math.prod(self.shape) * self.dtype.itemsize + self.at
        if claimed != info.file_size or info.file_size > 1100 * info.compress_size + 1000:
            raise PrepError(
                f"{path}: `{name}` claims {gib(claimed)} of {self.dtype} {self.shape} and the archive has"
                f" {gib(info.file_size)} in {gib(info.compress_size)}: it is damaged, or not the published file."
            )

    def header(self):
        "Shape, order, type and length of the header, which may not be longer than any plain array's."
        try:
            version = np.lib.format.read_magic(self.f)
            n = 2 if version == (1, 0) else 4
            length = self.f.read(n)
            if version > (3, 0) or len(length) < n or int.from_bytes(length, "little") > 1 << 14:
                raise ValueError("its header is too long")
            text = self.f.read(int.from_bytes(length, "little"))
            read = np.lib.format.read_array_header_1_0 if n == 2 else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(io.BytesIO(length + text))
            if not shape or any(isinstance(k, bool) or not isinstance(k, int) or k < 0 for k in shape):
                raise ValueError(f"the shape is {shape}")
            return shape, fortran and len(shape) > 1, dtype, 6 + 2 + n + len(text)
        except PrepError:
            raise
        except Exception as e:  # whatever numpy's reader of Python text makes of it
            raise PrepError(
                f"{self.path}: `{self.name}` is no plain array ({str(e)[:100]}): download the file again."
            ) from None

    def pieces(self, n=None, step=256):
        "The first `n` rows, some at a time: never more than 32 MiB, or one row."
        if self.row > 1 << 28:
            raise PrepError(f"{self.path}: a row of `{self.name}` takes {gib(self.row)}: not the published file.")
        step = max(1, min(step, (1 << 25) // max(1, self.row)))
        n = self.shape[0] if n is None else n
        for i in range(0, n, step):
            k = min(step, n - i)
            with damaged(self.path):
                b = self.f.read(k * self.row)
            if len(b) != k * self.row:
                raise PrepError(
                    f"{self.path} is damaged (it ends in row {i + len(b) // max(1, self.row)} of {self.shape[0]}):"
                    " remove it and run again."
                )
            yield np.frombuffer(b, self.dtype).reshape(k, *self.shape[1:])

    def whole(self, most=1 << 28):
        "All of it, when it is small; its checksum is compared."
        if self.shape[0] * self.row > most:
            raise PrepError(
                f"{self.path}: `{self.name}` takes {gib(self.shape[0] * self.row)}: not the published file."
            )
        out = np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *self.pieces()])
        self.end()
        return out

    def end(self):
        with damaged(self.path):
            while self.f.read(1 << 20):
                pass  # the checksum is compared at the end
