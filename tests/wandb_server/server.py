"""The stand-in's HTTP side: requests, and misbehaving."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote

from graphql import GraphQLError

from tests.wandb_server.artifacts import Artifacts
from tests.wandb_server.graph import NotModelled, answer
from tests.wandb_server.runs import Refused, Runs, StoredRun
from tests.wandb_server.sweeps import Sweeps
from tests.wandb_server.views import Views

KEY = "0123456789" * 4
"""An API key of the length that the client takes."""


@dataclass(frozen=True)
class Fault:
    """What the server does instead of answering."""

    does: Literal["status", "hang", "close", "slow", "truncate"]
    """``truncate`` is for downloads: half of what is left to send, and no more."""
    status: int = 500
    seconds: float = 0.0
    """``slow``: how long each answer takes."""
    on: str = ""
    """Part of the paths that it concerns; of GraphQL's, ``/graphql#OPERATION``."""
    times: int | None = None
    """After so many requests all is well again; None: for good."""


class WandbServer:
    """A server in threads of its own, on a port of its own. Use it as a context manager."""

    def __init__(self) -> None:
        self.sweeps, self.views = Sweeps(), Views()
        self.runs = Runs()
        self.artifacts = Artifacts(self.runs)
        self.runs.more_of_a_project = self._of_project
        self.runs.more_of_a_run = self.artifacts.of_run
        self.root: dict[str, Any] = {
            **self.runs.root(), **self.artifacts.root(), **self.sweeps.root(), **self.views.root(),
        }  # fmt: skip
        """Root fields of GraphQL."""
        self.sent: Counter[str] = Counter()
        """Bytes of artifacts' files that were downloaded, by name."""
        self.requests: list[str] = []
        """Paths in the order in which they were asked, as :class:`Fault` has them."""
        self.complaints: list[str] = []
        """What the client asked for and the stand-in does not model."""
        self.lock = threading.RLock()
        self._fault: Fault | None = None
        self._left: int | None = None
        self._connections: set[socket.socket] = set()
        self._released = threading.Event()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.stand_in = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def _of_project(self, entity: str, project: str) -> dict[str, Any]:
        return {**self.artifacts.of_project(entity, project), "sweep": self.sweeps.find}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to log here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def all(self) -> list[StoredRun]:
        with self.lock:
            return list(self.runs.stored.values())

    def run(self, prefix: str) -> StoredRun:
        """The one run whose id begins so."""
        [found] = [run for run in self.all() if run.id.startswith(prefix)]
        return found

    def misbehave(self, does: Literal["status", "hang", "close", "slow", "truncate"], **how: Any) -> None:
        """From now on."""
        with self.lock:
            self._fault = Fault(does, **how)
            self._left = self._fault.times
            self._released.clear()

    def behave(self) -> None:
        """Answer again; whoever was kept waiting is let go."""
        with self.lock:
            self._fault = None
        self._released.set()

    def gone(self) -> None:
        """The machine is away: nobody listens, and what was connected is cut off."""
        self.behave()
        self._http.shutdown()
        self._http.server_close()
        with self.lock:
            connections = list(self._connections)
        for one in connections:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def fault(self, path: str) -> Fault | None:
        with self.lock:
            self.requests.append(path)
            fault = self._fault
            if fault is None or fault.on not in path or self._left == 0:
                return None
            if self._left is not None:
                self._left -= 1
            return fault

    def held(self) -> None:
        """Wait until the server is told to behave."""
        self._released.wait()

    def connected(self, connection: socket.socket, there: bool) -> None:
        with self.lock:
            (self._connections.add if there else self._connections.discard)(connection)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gone()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    stand_in: WandbServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.server.stand_in.connected(self.connection, True)

    def finish(self) -> None:
        self.server.stand_in.connected(self.connection, False)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.startswith("/sdk/otel/"):  # The client's measurements of itself.
            self._send(404, {})
        elif self.path == "/graphql":
            request = json.loads(body)
            path = f"/graphql#{_operation(request)}"
            self._answer(path, lambda: self._graphql(path, request))
        else:
            self._answer(self.path, lambda: self._stream(json.loads(body)))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(self.path, lambda: self._store(body))

    def do_GET(self) -> None:
        self._answer(self.path, self._download)

    def _answer(self, path: str, make: Any) -> None:
        stand_in = self.server.stand_in
        fault = stand_in.fault(path)
        if fault is not None and fault.does not in ("slow", "truncate"):
            if fault.does == "hang":
                stand_in.held()
            if fault.does != "status":
                self.close_connection = True
                return
            self._send(fault.status, {"errors": [{"message": f"told to answer {fault.status}"}]})
            return
        if fault is not None:
            time.sleep(fault.seconds)
        self._cut = fault is not None and fault.does == "truncate"
        try:
            with stand_in.lock:
                status, value = make()
        except Exception as error:  # Nothing that a test would not see.
            stand_in.complaints.append(f"{path}: {error!r}")
            status, value = 400, {"errors": [{"message": repr(error)}]}
        self._send(status, value)

    def _send(self, status: int, value: Any) -> None:
        if isinstance(value, bytes | Path):
            self._send_file(value)
            return
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _graphql(self, path: str, request: dict[str, Any]) -> tuple[int, Any]:
        stand_in = self.server.stand_in
        try:
            data = answer(request["query"], request.get("variables") or {}, stand_in.root)
        except Refused as error:
            return 200, {"data": None, "errors": [{"message": str(error)}]}
        except (NotModelled, NotImplementedError, GraphQLError) as error:
            stand_in.complaints.append(f"{path}: {error}")
            return 200, {"data": None, "errors": [{"message": str(error)}]}
        return 200, {"data": json.loads(json.dumps(data).replace("{base}", stand_in.url))}

    def _stream(self, body: dict[str, Any]) -> tuple[int, Any]:
        # /files/ENTITY/PROJECT/RUN/file_stream
        entity, project, run = self.path.strip("/").split("/")[1:4]
        found = self.server.stand_in.runs.find(entity, project, run)
        if found is None or not self.path.endswith("/file_stream"):
            return 404, {"error": "no such run"}
        found.stream(body)
        return 200, {}

    def _download(self) -> tuple[int, Any]:
        if self.path == "/healthz":
            return 200, {}
        # /download/ARTIFACT/NAME
        _, kind, artifact, name = unquote(self.path).split("/", 3)
        found = self.server.stand_in.artifacts.contents(artifact, name) if kind == "download" else None
        return (404, {"error": "there is no such file"}) if found is None else (200, found)

    def _send_file(self, data: bytes | Path) -> None:
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        ranged = self.headers.get("Range")
        start = int(ranged.removeprefix("bytes=").rstrip("-")) if ranged else 0
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        most = (size - start) // 2 if self._cut else size - start
        stand_in, name = self.server.stand_in, self.path.rpartition("/")[2]
        with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
            file.seek(start)
            while most and (block := file.read(min(most, 1 << 20))):
                self.wfile.write(block)
                most -= len(block)
                with stand_in.lock:
                    stand_in.sent[name] += len(block)
        self.close_connection = self.close_connection or self._cut

    def _store(self, body: bytes) -> tuple[int, Any]:
        if self.path.startswith("/upload/"):
            known = self.server.stand_in.artifacts.received(self.path.removeprefix("/upload/"), body)
            return (200, {}) if known else (404, {"error": "no such upload"})
        # /storage/ENTITY/PROJECT/RUN/NAME
        _, entity, project, run, name = self.path.strip("/").split("/", 4)
        found = self.server.stand_in.runs.find(entity, project, run)
        if found is None:
            return 404, {"error": "no such run"}
        found.files[name] = body
        return 200, {}

    def log_message(self, *_: object) -> None:
        """Nothing: the tests say what went wrong."""


def _operation(request: dict[str, Any]) -> str:
    if request.get("operationName"):
        return str(request["operationName"])
    words = request["query"].replace("(", " ").replace("{", " ").split()
    return words[1] if len(words) > 1 else ""
