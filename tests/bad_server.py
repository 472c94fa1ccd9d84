"For the tests of `data_prep`: a server on 127.0.0.1 that misbehaves on purpose; a command that is killed at random."

import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class BadServer:
    """Serves `files` {path: bytes, or a callable that makes them} and counts. `bad[path]` is a list of misbehaviours,
    used up one per request ('*' for any path); `always[path]` is one that stays. The query is part of the path only if
    `files` knows it so.
    """

    def __init__(self, files=None, ranges=True, etag=True, delay=0.0):
        self.files, self.bad, self.always = dict(files or {}), {}, {}
        self.ranges, self.etag, self.delay = ranges, etag, delay
        self.asked, self.good, self.sent = Counter(), Counter(), Counter()
        self.times, self.heads, self.lock, self.busy, self.most = [], [], threading.Lock(), 0, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                with outer.lock:
                    outer.busy += 1
                    outer.most = max(outer.most, outer.busy)
                try:
                    outer.answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with outer.lock:
                        outer.busy -= 1

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def body(self, path):
        b = self.files.get(path, self.files.get(path.partition("?")[0]))
        return b() if callable(b) else b

    def answer(self, h):
        path = h.path
        key = path if path in self.files or path in self.bad else path.partition("?")[0]
        with self.lock:
            self.asked[key] += 1
            self.times.append(time.monotonic())
            self.heads.append((path, dict(h.headers)))
            queue = self.bad.get(key) or self.bad.get("*")
            do = queue.pop(0) if queue else self.always.get(key)
        time.sleep(self.delay)
        body = self.body(path)

        def reply(status, content, kind="application/octet-stream", length=None, stop=None, **headers):
            h.send_response(status)
            for k, v in {
                "Content-Type": kind,
                "Content-Length": len(content) if length is None else length,
                **headers,
            }.items():
                if v is not None:
                    h.send_header(k.replace("_", "-"), str(v))
            h.end_headers()
            content = content[:stop]
            with self.lock:
                self.sent[key] += len(content)
            h.wfile.write(content)
            h.wfile.flush()
            if stop is not None:
                h.close_connection = True

        def endless(piece, most=64 << 20, pause=0.0):
            "Bytes until the other side goes, or a bound is reached."
            n, start = 0, time.monotonic()
            while n < most and time.monotonic() - start < 20:
                h.wfile.write(piece)
                n += len(piece)
                with self.lock:
                    self.sent[key] += len(piece)
                time.sleep(pause)
            h.close_connection = True

        match do:
            case 204:
                h.send_response(204)
                return h.end_headers()
            case int():
                return reply(do, b"no")
            case ("drip", where):  # a byte now and then: of the headers, or of the body
                h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nX-A: " + b"a\r\n\r\n" * (where == "body"))
                return endless(b"a", pause=0.03)
            case ("endless", status, *coding):  # nothing says where the body ends
                h.send_response(status)
                if coding:
                    h.send_header("Content-Encoding", coding[0])
                h.send_header("Connection", "close")
                h.end_headers()
                return endless(b"PK\x03\x04" * (1 << 14))
            case ("coded", coding, content):
                return reply(200, content, "image/png", Content_Encoding=coding)
            case ("long", status, content):
                return reply(status, content, "text/html")
            case (int() as status, wait):
                return reply(status, b"no", Retry_After=wait)
            case "html":
                return reply(
                    200, b"<!DOCTYPE html><html><title>Please sign in</title></html>", "text/html; charset=utf-8"
                )
            case ("html", page):
                return reply(200, page, "text/html")
            case ("to", where):
                return reply(302, b"", Location=where)
            case "garbage":
                return reply(200, b"\x00" * 200)
            case "empty":
                return reply(200, b"")
        if body is None:
            return reply(404, b"<html>not here</html>", "text/html")
        start, status, extra = 0, 200, {}
        tag = f'"{hash(body) & 0xFFFFFFFF:x}"' if self.etag else None
        asked = h.headers.get("Range")
        if self.ranges and asked and h.headers.get("If-Range") in (None, tag):
            first, last = asked[6:].split("-")
            start, stop = int(first), min(int(last or len(body)), len(body) - 1)
            if start >= len(body):
                return reply(416, b"", Content_Range=f"bytes */{len(body)}")
            status, extra = 206, dict(Content_Range=f"bytes {start}-{stop}/{len(body)}")
        else:
            stop = len(body) - 1
        rest = body[start : stop + 1]
        match do:
            case "reset" | "truncated":
                return reply(status, rest, stop=len(rest) // 2, ETag=tag, **extra)
            case ("after", n):
                return reply(status, rest, stop=min(n, len(rest)), ETag=tag, **extra)
            case "slow":  # the first bytes, then nothing
                h.send_response(status)
                h.send_header("Content-Length", str(len(rest)))
                h.end_headers()
                h.wfile.write(rest[:10])
                h.wfile.flush()
                time.sleep(1.0)
                h.close_connection = True
                return
            case "lost":
                h.close_connection = True
                h.connection.shutdown(2)
                return
            case "wrong":
                rest = bytes(255 - b for b in rest[:64]) + rest[64:] if len(rest) > 64 else rest[::-1]
                return reply(status, rest, ETag=tag, **extra)
            case "elsewhere":
                return reply(206, rest, Content_Range=f"bytes {start + 1}-{len(body)}/{len(body) + 1}", ETag=tag)
            case "coded":
                return reply(200, rest, Content_Encoding="gzip")
        with self.lock:
            self.good[key] += 1
        reply(status, rest, ETag=tag, **extra)


FORKS = """
import importlib, json, os, sys
m = importlib.import_module(sys.argv[1])
print('ready', flush=True)
for line in sys.stdin:
    if not (pid := os.fork()):
        try: m.command(m.main, json.loads(line))
        except SystemExit as e: print(e.code, file=sys.stderr, flush=True); os._exit(1)
        except BaseException as e: print(repr(e), file=sys.stderr, flush=True); os._exit(2)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


class Killer:
    "Runs a command again and again, each time in a process of its own (forked from one that has imported everything)."

    def __init__(self, module, **env):
        self.p = subprocess.Popen(
            [sys.executable, "-c", FORKS, module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, OMP_NUM_THREADS="1", **env),
        )
        self.said = []
        threading.Thread(target=lambda: self.said.extend(self.p.stderr), daemon=True).start()
        self.line()

    def line(self):
        while not (s := self.p.stdout.readline().strip()).lstrip("-").isdigit() and s != "ready":
            assert self.p.poll() is None or s, "".join(self.said)
        return s

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.stdin.close()
        self.p.kill()
        self.p.wait()

    def run(self, args, kill=None):  # seconds until SIGKILL
        "The status of the process: 0 when it ended well, 9 when it was killed."
        self.p.stdin.write(json.dumps([str(a) for a in args]) + "\n")
        self.p.stdin.flush()
        pid = int(self.line())
        if kill is not None:
            time.sleep(kill)
            try:
                os.kill(pid, signal.SIGKILL)  # dead already: a zombie until its parent asks
            except ProcessLookupError:
                pass
        return int(self.line())

    def twenty(self, args, seconds):  # how long an undisturbed run takes
        "Twenty kills in a row at random moments, then a run to the end; how many processes were hit before the end."
        rng, hits = random.Random(0), 0
        for k in range(20):
            hits += self.run(args, rng.uniform(0, min(0.3 * seconds, 1))) == 9  # it goes on, so most kills hit
        assert self.run(args) == 0, "".join(self.said)
        return hits
