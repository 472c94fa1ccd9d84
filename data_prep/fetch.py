"""What all of `data_prep` shares: downloads that survive the real world, archives read safely, files written whole or not at all.

A `Fetcher` makes one request at a time with a pause between two, keeps every answer on disk, tries again after anything that
can pass (dropped connection, truncated body, 429 and 5xx with Retry-After, a web page instead of the file), and gives up with
one paragraph after anything that cannot. What was fetched and verified is never asked for again.
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
import lzma
import os
import re
import shutil
import sys
import tarfile
import time
import zipfile
import zlib
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

AGENT = "dde_kit-data_prep/0.1 (research; one request at a time)"
AGAIN = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}  # statuses that pass
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the disk or the quota is full, the file too large
INSTALL = "pip install -e '.[data]'"


class PrepError(RuntimeError):
    "Ends a run in one paragraph: what came, what fits, what to do."


class Missing(PrepError):
    "The server says that there is no such file."


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
        sync and os.fsync(f.fileno())
    os.replace(tmp, path)


def save_json(path, obj):
    with whole(path) as f:
        f.write((json.dumps(obj, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode())


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
    lines = (
        [f"{p.relative_to(path).as_posix()} {p.stat().st_size}" for p in path.rglob("*") if p.is_file()]
        if path.is_dir()
        else [f"{path.name} {path.stat().st_size}"]
    )
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def today():
    return datetime.now(timezone.utc).date().isoformat()


# --- commands --------------------------------------------------------------------------------------------------------


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
        default=os.environ.get("DDE_KIT_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dde_kit",
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


def positive(a, *names):
    "Numbers below 1 make no dataset."
    for n in names:
        v = getattr(a, n)
        if v is not None and v <= 0:
            raise PrepError(f"--{n.replace('_', '-')} {v}: a number above 0 is needed.")


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
    if manifest.exists() and a.resume:
        try:
            old = json.loads(manifest.read_text(encoding="utf-8"))
            same = old["parameters"] == json.loads(json.dumps(params))
            files = old["files"]
        except (ValueError, KeyError):
            old, same, files = None, False, {}
        if same and all(
            (manifest.parent / f).is_file() and digest(manifest.parent / f, "sha256") == [h] for f, h in files.items()
        ):
            mark.unlink(missing_ok=True)
            print(f"{a.out} is complete (made {old['date']}), nothing to do.")
            return True
        if not same and not a.overwrite:
            raise PrepError(
                f"{a.out} was made with other parameters ({manifest} lists them): choose another --out, or add"
                " --overwrite. What was fetched stays in the cache either way."
            )
    elif Path(a.out).is_file() and a.resume and not a.overwrite and not mark.exists():
        raise PrepError(
            f"{a.out} exists and has no manifest beside it, so it was not made by this command: choose another --out,"
            " or add --overwrite."
        )
    save_json(mark, params)  # until `finish`: what lies at --out is ours
    return False


def finish(manifest, **facts):
    "Writes the manifest, the last thing that a command does."
    save_json(manifest, dict(facts, date=today()))
    begun(manifest).unlink(missing_ok=True)


def command(main, argv=None):
    "Runs a command; errors that a user can act on become one paragraph and status 1."
    try:
        main(argv)
    except PrepError as e:
        sys.exit(f"\n{e}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. What was fetched is kept: the same command goes on from here.")
    except OSError as e:
        if e.errno not in FULL:
            raise
        sys.exit(
            f"\nThe disk is full ({e.strerror}{': ' + str(e.filename) if e.filename else ''}): make room, or name"
            " another disk with --cache or --out. What was fetched is kept: the same command goes on from here."
        )


# --- what came -------------------------------------------------------------------------------------------------------


def describe(body, kind=""):
    "In a few words, what a server sent."
    if html(body, kind):
        title = re.search(rb"<title[^>]*>(.*?)</title", body, re.S | re.I)
        words = re.sub(
            r"\s+", " ", re.sub("<[^>]*>", " ", (title[1] if title else body[:300]).decode("utf-8", "replace"))
        ).strip()
        return f'a web page ("{words[:100]}")'
    return (
        f"{len(body)} bytes{f' of type {kind}' if kind else ''} that start with {body[:8]!r}"
        if body
        else "an empty answer"
    )


def html(body, kind=""):
    return "html" in kind.lower() or body[:512].lstrip().lower().startswith((b"<!doctype html", b"<html", b"<head"))


def is_image(body, kind=""):
    "A complete picture: every pixel decodes."
    from PIL import Image

    try:
        im = Image.open(io.BytesIO(body))
        im.load()
    except Exception:
        raise ValueError(f"{describe(body, kind)} instead of a complete picture") from None
    return im


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
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


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
        secret: str = "",  # never shown in a message
        budget: int | None = None,  # most requests
    ):
        need("httpx", "tenacity", "filelock")
        import httpx
        from filelock import FileLock, Timeout

        self.cache, self.pause, self.timeout, self.tries, self.patience, self.secret, self.budget = (
            Path(cache),
            pause,
            timeout,
            max(1, tries),
            patience,
            secret,
            budget,
        )
        self.resume, self.fresh, self.requests, self.last = resume, set(), 0, 0.0
        self.cache.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.cache / ".lock", timeout=0)
        try:
            self.lock.acquire()
        except Timeout:
            raise PrepError(
                f"Another run is using the cache {self.cache}: wait for it, or give this one its own with --cache."
            ) from None
        self.client = httpx.Client(
            follow_redirects=True, timeout=timeout, headers={"User-Agent": AGENT, "Accept-Encoding": "identity"}
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.lock.release()

    def hide(self, s):
        return str(s).replace(self.secret, "***") if self.secret else str(s)

    @contextlib.contextmanager
    def open(self, url, **headers):
        "One request; what can pass becomes Transient, what cannot PrepError."
        import httpx

        if self.budget is not None and self.requests >= self.budget:
            raise PrepError(
                f"The budget of {self.budget} requests is used up. What was fetched is kept: a later run goes on from"
                " here, with a budget of its own (--max-requests)."
            )
        time.sleep(max(0.0, self.last + self.pause - time.monotonic()))
        self.requests += 1
        try:
            with self.client.stream("GET", url, headers=headers) as r:
                if r.url.scheme == "http" and any(h.url.scheme == "https" for h in r.history):
                    raise PrepError(
                        self.hide(
                            f"{url} leads from https to {r.url}, which anyone on the way could change: not followed."
                        )
                    )
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
                if r.status_code in (404, 410):
                    raise Missing(self.hide(f"{url} answers {r.status_code}: there is no such file."))
                if r.status_code not in (200, 206, 416):
                    r.read()
                    raise PrepError(
                        self.hide(
                            f"{url} answers {r.status_code} with"
                            f" {describe(r.content[:2000], r.headers.get('content-type', ''))}; a file was expected."
                            " Check the address and whether you may use it (a key, a quota, terms), then run again:"
                            " what was fetched is kept."
                        )
                    )
                yield r
        except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL) as e:
            raise PrepError(self.hide(f"{url} cannot be fetched: {e}. Check the address.")) from None
        except httpx.HTTPError as e:
            raise Transient(self.hide(f"{type(e).__name__} {e}").strip()) from None
        finally:
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
        most: int = 64 << 20,  # bytes
    ):
        "A small file, from the cache or the network: what `check` makes of it, or its bytes."
        path = self.cache / path
        gone = path.with_name(path.name + ".missing")
        if self.old(path):
            body = path.read_bytes()
            try:
                made = check(body)
                return body if made is None else made
            except ValueError:
                path.unlink()  # damaged on disk: once more
        if self.old(gone):
            raise Missing(self.hide(f"{url}: no such file (answered in an earlier run)."))

        def step():
            start, body = time.monotonic(), bytearray()
            with self.open(url) as r:
                for c in r.iter_bytes():
                    body += c
                    if len(body) > most:
                        raise PrepError(
                            self.hide(f"{url} is larger than {gib(most)}: not the small file that was expected.")
                        )
                    if time.monotonic() - start > 10 * self.timeout:
                        raise Transient(f"only {len(body)} bytes in {10 * self.timeout:.0f} s")
                kind, full = r.headers.get("content-type", ""), r.headers.get("content-length")
            if full and "content-encoding" not in r.headers and len(body) != int(full):
                raise Transient(f"{len(body)} of {full} bytes")
            try:
                return bytes(body), check(bytes(body), kind)
            except ValueError as e:
                raise Transient(f"came {e}") from None

        self.fresh |= {path, gone}
        try:
            body, made = self.persist(step, url)
        except Missing:
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
    ) -> Path:
        "A large file: goes on by Range after any interruption, takes its name when verified."
        path = self.cache / path
        part, note, done = (path.with_name(path.name + e) for e in (".part", ".part.json", ".json"))
        if self.old(path) and done.exists() and path.stat().st_size == json.loads(done.read_text())["size"]:
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
                    self.persist(lambda: self.more(where, part, note, check, size, page, b), url, have)
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
        info = dict(
            size=have(), sha256=found[0], md5=found[1], url=self.hide(url), date=today(), **json.loads(note.read_text())
        )
        save_json(done, info)
        os.replace(part, path)
        note.unlink()
        return path

    @staticmethod
    def sha256(path):
        return json.loads(path.with_name(path.name + ".json").read_text())["sha256"]

    @staticmethod
    def complete(note, have):
        total = json.loads(note.read_text()).get("total")
        return total is not None and have == total

    def more(self, where, part, note, check, size, page, b):
        "One request for what is missing of a file."
        have = part.stat().st_size if part.exists() else 0
        seen = json.loads(note.read_text()) if note.exists() else {}
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
                m = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", r.headers.get("content-range", ""))
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
                have, total = (
                    0,
                    (
                        int(r.headers["content-length"])
                        if "content-length" in r.headers and "content-encoding" not in r.headers
                        else None
                    ),
                )
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
                    for c in pieces:
                        head += c
                        if len(head) > 1 << 20:
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
                room(part.parent, total - have)
                b.total = total
            if not have:
                part.unlink(missing_ok=True)
                save_json(note, dict(now, total=total))
            b.n = have
            b.refresh()
            with open(part, "ab") as f:

                def keep(c):
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
            if html(b"", kind) and self.page:
                self.where["url"] = self.page(r.read().decode("utf-8", "replace"), str(r.url))
                raise Transient("a web page that leads to the file", wait=0)
            if html(b"", kind):
                raise Transient(f"came {describe(r.read(), kind)}")
            m = (
                re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", r.headers.get("content-range", ""))
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
    "The clean path of a member of an archive; refuses whatever would leave the target."
    p = PurePosixPath(name.replace("\\", "/"))
    if p.is_absolute() or ".." in p.parts or re.match("^[A-Za-z]:", name) or "\0" in name:
        raise PrepError(
            f"The archive holds {name!r}, a path outside the folder it is unpacked to: this is not the archive it"
            " should be, nothing more is unpacked. Download it again from the source."
        )
    return str(PurePosixPath(*[q for q in p.parts if q != "."]))


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


def tar_members(
    fileobj, name, most=4 << 30, total=1 << 40
):  # a file to read once, forward; bytes of one member and of all
    "Regular files of a .tar, .tar.gz or .tar.xz as (path, size, file), in its order; checksums of the compression are checked."
    seen, raw = 0, io.BufferedReader(fileobj, 1 << 18) if isinstance(fileobj, io.RawIOBase) else fileobj
    start = raw.peek(6)[:6]
    f = (
        gzip.GzipFile(fileobj=raw)
        if start.startswith(b"\x1f\x8b")
        else lzma.LZMAFile(raw)
        if start.startswith(b"\xfd7zXZ")
        else raw
    )
    with damaged(name), tarfile.open(fileobj=f, mode="r|") as t:
        for m in t:
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
        while f.read(1 << 20):
            pass  # to the end: only there are the checksums


def unpack(src, size, dest, name):
    "One member to one file, of exactly the announced size."
    room(Path(dest).parent, size)
    with damaged(name), whole(dest) as f:
        shutil.copyfileobj(src, f, 1 << 20)
        if f.tell() != size:
            raise EOFError(f"{f.tell()} of {size} bytes")


def zip_bytes(z, name, most=1 << 30):
    "One member of a zip in memory; its size is checked before, its checksum with it."
    inside(name)
    where = z.filename or "the archive"
    try:
        info = z.getinfo(name)
    except KeyError:
        raise PrepError(f"{where} has no {name!r}: not the archive it should be.") from None
    if info.file_size > most:
        raise PrepError(f"{where} unpacks {name!r} to {gib(info.file_size)}: not the archive it should be.")
    with damaged(where), z.open(info) as f:
        return f.read()
