"""A web server on 127.0.0.1 that gives out the files below a directory, and can be told to do it badly."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self


class FileServer:
    """Use it as a context manager. What it is told concerns ``.pt`` files only."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ranges = True
        """Whether a part of a file can be asked for."""
        self.status: int | None = None
        """What it answers instead of the file."""
        self.times: int | None = None
        """How often ``status`` is answered; None: for good."""
        self.most: int | None = None
        """Bytes after which it cuts an answer off."""
        self.lengths = True
        """Whether an answer says how long it is, so that its end is told from a break."""
        self.stall = 0.0
        """Seconds that it waits before the second half of an answer."""
        self.pause = 0.0
        """Seconds before each 64 kB: a slow line."""
        self.asked: list[tuple[str, str, str]] = []
        """Method, name and range of each request."""
        self.sent: Counter[str] = Counter()
        """Bytes of bodies, by name."""
        self.lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.told = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/{name}"

    def gets(self, name: str) -> list[str]:
        """The ranges of a file that were asked for."""
        return [ranged for method, path, ranged in self.asked if method == "GET" and path.endswith(name)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    told: FileServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        told, name = self.server.told, self.path.lstrip("/")
        path, ranged = told.root / name, self.headers.get("Range", "")
        with told.lock:
            told.asked.append((self.command, name, ranged))
            concerned = name.endswith(".pt")
            refused = told.status if concerned and told.times != 0 else None
            if refused and told.times is not None:
                told.times -= 1
        if refused or not path.is_file():
            return self._bare(refused or 404)
        facts = path.stat()
        size, tag = facts.st_size, f'"{facts.st_mtime_ns:x}"'
        start, status = 0, 200
        if ranged and told.ranges:
            start, status = int(ranged.removeprefix("bytes=").rstrip("-")), 206
        if start >= size > 0:
            return self._bare(416)
        self.send_response(status)
        self.send_header("ETag", tag)
        if told.lengths or not body:
            self.send_header("Content-Length", str(size - start))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        if body:
            self._body(path, start, size - start, concerned)
        return None

    def _bare(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self, path: Path, start: int, count: int, concerned: bool) -> None:
        told = self.server.told
        most = min(count, told.most) if concerned and told.most is not None else count
        size = 1 << (16 if concerned and (told.pause or told.stall) else 20)
        offset = 0
        try:
            with path.open("rb") as file:
                file.seek(start)
                while offset < most and (block := file.read(min(size, most - offset))):
                    if concerned and told.pause:
                        time.sleep(told.pause)
                    if concerned and told.stall and offset >= count // 2:
                        time.sleep(told.stall)
                    self.wfile.write(block)
                    offset += len(block)
                    with told.lock:
                        told.sent[path.name] += len(block)
        except OSError:
            self.close_connection = True
        if most < count:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests say what went wrong."""
