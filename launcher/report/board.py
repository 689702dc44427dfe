"""``launcher board``: the pages of all groups over HTTP, for the browser on this machine.

It only reads. It is bound to loopback unless another address is given, answers only requests that name the
address it was given (a foreign page whose name was pointed at this machine gets nothing), and hands out no
file and no group that does not lie below the directory of runs once every link is followed.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import ipaddress
import os
import socket
import stat
import sys
import threading
import urllib.parse
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from launcher.errors import ConfigError, LauncherError
from launcher.lineage import Run, read_runs, state_now
from launcher.report.answer import spaced
from launcher.report.compare.comparison import Asked
from launcher.report.group import draw, groups, read_group
from launcher.report.html.contents import contents
from launcher.report.html.library import plotly_js
from launcher.report.html.page import board_page, page, page_js, policy

FILES, GROUP = "/files/", "/group/"
SCRIPTS = {"/plotly.js": plotly_js, "/page.js": page_js}
KINDS = {".json": "application/json", ".png": "image/png"} | dict.fromkeys(
    (".jsonl", ".yaml", ".txt"), "text/plain; charset=utf-8"
)
"""Files that are handed out, and as what; nothing that a browser would run."""
EVERY_SECONDS = 10
"""How often a page of runs that are under way is loaded again."""
MOST_KEPT = 16
"""Pages kept in memory until a run changes."""
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": policy(["'self'"]) + "; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Refused(Exception):
    """A request that is not answered: status and reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Board:
    """The server; a context that closes its socket."""

    def __init__(self, outputs: Path, host: str, port: int) -> None:
        """Bind ``host`` and ``port`` (0: any that is free).

        Raises:
            ConfigError: there is no such directory, or the address cannot be had.
        """
        if not outputs.is_dir():
            raise ConfigError("There is no directory of runs.", where=str(outputs), do="--outputs DIR")
        self.outputs = outputs.resolve()
        self._pages: collections.OrderedDict[str, tuple[object, str]] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._server = _server(host, port, self)
        bound = self._server.server_address[1]
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{bound}/"
        names = {name.lower(), "localhost"} if _is_loopback(host) else {name.lower()}
        self.hosts = {f"{one}:{bound}" for one in names} | (names if bound == 80 else set())

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._server.server_close()

    def serve(self) -> None:
        """Answer requests until the process is interrupted or :meth:`stop` is called."""
        self._server.serve_forever()

    def stop(self) -> None:
        """Have :meth:`serve` return."""
        self._server.shutdown()

    def answer(self, path: str) -> tuple[str, bytes]:
        """Media type and content of what a request's path means.

        Raises:
            Refused: it means nothing here.
            LauncherError: a group's runs cannot be read.
        """
        if path == "/":
            return "text/html; charset=utf-8", self._index().encode()
        if path in SCRIPTS:
            return "text/javascript; charset=utf-8", SCRIPTS[path]().encode()
        if path.startswith(GROUP):
            name, slash, rest = path.removeprefix(GROUP).partition("/")
            name = _decoded(name)
            # Of what there is, so that nothing that was sent becomes a path.
            if slash and not rest and name in groups(self.outputs) and self._inside(name):
                return "text/html; charset=utf-8", self._page(name).encode()
        if path.startswith(FILES):
            place = self._file(_decoded(path.removeprefix(FILES)))
            return KINDS[place.suffix], _read(place)
        raise Refused(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def _file(self, name: str) -> Path:
        """A file that may be handed out.

        Raises:
            Refused: it is not below the directory of runs, is hidden, of another kind, or not there.
        """
        parts = name.split("/")
        if "\\" in name or any(part.startswith(".") or not part for part in parts):
            raise Refused(HTTPStatus.FORBIDDEN, "That is no path below the directory of runs.")
        try:
            place = self.outputs.joinpath(*parts).resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such file.") from error
        if not place.is_relative_to(self.outputs):
            raise Refused(HTTPStatus.FORBIDDEN, "That link leads out of the directory of runs.")
        if place.suffix not in KINDS:
            raise Refused(HTTPStatus.FORBIDDEN, f"Only {', '.join(KINDS)} files are shown.")
        return place

    def _inside(self, group: str) -> bool:
        """Whether a group lies here, and is no link to another place."""
        return (self.outputs / group).resolve() == self.outputs / group

    def _index(self) -> str:
        runs, problems = read_runs(self.outputs)
        by_group: dict[str, list[Run]] = {}
        for run in runs:
            by_group.setdefault(run.directory.path.parent.name, []).append(run)
        by_group = {name: members for name, members in by_group.items() if self._inside(name)}
        told = [_told(name, members) for name, members in sorted(by_group.items())]
        return board_page(
            outputs=str(self.outputs), groups=told, problems=[str(one.where) for one in problems]
        )

    def _page(self, name: str) -> str:
        """A group's page, made anew when something in its runs has changed. One at a time."""
        with self._lock:
            now = _fingerprint(self.outputs / name)
            kept = self._pages.pop(name, None)
            if kept is None or kept[0] != now:
                group = read_group(self.outputs, name, Asked())
                live = any(state in {"running", "queued"} for state in group.states.values())
                text = page(contents(group, draw(group), live, EVERY_SECONDS), served=True)
                # A process that is gone changes no file.
                kept = None if live else now, text
            self._pages[name] = kept
            while len(self._pages) > MOST_KEPT:
                self._pages.popitem(last=False)
            return kept[1]


def _server(host: str, port: int, board: Board) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            # A browser that leaves early is no error.
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            raise ConfigError(
                "The board is bound to one address.",
                where="--host",
                found=host,
                expected="the address or the name that browsers will use, so that no other is answered",
                do="on a machine that you log in to: ssh -L 8765:127.0.0.1:8765 MACHINE",
            )
    try:
        return Server((host, port), lambda *given: _Handler(board, *given))
    except OSError as error:
        raise ConfigError(
            f"The board cannot be served there: {error.strerror or error}.",
            where=f"{host}:{port}",
            do="take another port: --port 0 takes any that is free",
        ) from error


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "launcher", ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def __init__(self, board: Board, *given: Any) -> None:
        self._board = board
        super().__init__(*given)

    def do_GET(self) -> None:
        """Answer with what the path means, or with one line that says why not."""
        try:
            if self.headers.get("Host", "").lower() not in self._board.hosts:
                raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "This board is not called that.")
            kind, body = self._board.answer(self.path.partition("?")[0])
            self._send(HTTPStatus.OK, kind, body)
        except Refused as refused:
            self._send(refused.status, "text/plain; charset=utf-8", f"{refused.reason}\n".encode())
        except LauncherError as error:
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", f"{error}\n".encode())

    do_HEAD = do_GET  # noqa: N815 - the standard library's name

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: there is nobody to read it."""


def _decoded(text: str) -> str:
    """Decoded once, as a file's name is written in a link.

    Raises:
        Refused: it is no text, or has a byte in it that no name has.
    """
    try:
        name = urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "That is no name.") from error
    if not name.isprintable():
        raise Refused(HTTPStatus.BAD_REQUEST, "That is no name.")
    return name


def _read(place: Path) -> bytes:
    """A regular file; what was put in its place since it was looked at is not followed."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Refused(HTTPStatus.FORBIDDEN, "That is no file.")
            return file.read()
    except OSError as error:
        raise Refused(HTTPStatus.NOT_FOUND, "There is no such file.") from error


def _fingerprint(directory: Path) -> object:
    """Equal while no record and no metric in a group has changed."""
    found = []
    for name in ("run.json", "metrics.jsonl"):
        for path in directory.glob(f"*/{name}"):
            with contextlib.suppress(OSError):
                facts = path.stat()
                found.append((str(path), facts.st_size, facts.st_mtime_ns))
    return tuple(sorted(found))


def _told(name: str, runs: list[Run]) -> dict[str, Any]:
    parents = {
        (run.record.parent.run, run.record.parent.step) for run in runs if run.record.parent is not None
    }
    points = [f"{run or 'a checkpoint'} at step {spaced(step)}" for run, step in sorted(parents, key=str)]
    states = collections.Counter(state_now(run) for run in runs)
    return {
        "name": name,
        "point": points[0] if len(points) == 1 else f"{len(points)} branch points" if points else "",
        "states": states.most_common(),
        "updated": max(run.record.updated for run in runs),
        "changed": _readable(max(run.record.updated for run in runs)),
    }


def _readable(moment: str) -> str:
    """``22 Nov 2026, 05:21 UTC`` for a moment in ISO 8601; what is none stays as it is."""
    with contextlib.suppress(ValueError):
        at = datetime.datetime.fromisoformat(moment).astimezone(datetime.UTC)
        return f"{at.day} {at:%b %Y, %H:%M} UTC"
    return moment


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
