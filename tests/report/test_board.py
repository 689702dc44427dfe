"""``launcher board``: every group's page on loopback, and nothing else on this machine's disk."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.lineage import find_run
from launcher.report.board import Board
from tests.compared_runs import GROUP, changed, sibling, trunk
from tests.report.browser import DRAWN, browser, opened
from tests.tiny_process import Tiny

ERROR = "val/error"
SECRET = "nobody is to read this"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups, one of which has a name that is markup and a path at once; and what lies beside them."""
    place = tmp_path_factory.mktemp("board") / "outputs"
    trunk(place, ERROR, lambda step: 1 / step)
    for name in ("control", "treated"):
        for stream in range(2):
            sibling(place, name, stream, {ERROR: lambda stream, step: 1 / (20 + step)})
    moment = "2026-11-21T23:59:30+00:00"
    sibling(place, "odd", 0, {ERROR: lambda stream, step: 1.0}, group="a <b> & 'c' %2e?#", updated=moment)
    (place.parent / "secret.json").write_text(SECRET)
    (place.parent / "outputs-2").mkdir()
    (place.parent / "outputs-2" / "secret.json").write_text(SECRET)
    (place / "trunks" / "out.json").symlink_to(place.parent / "secret.json")
    (place / "out").symlink_to(place.parent)
    sibling(place.parent / "outputs-2", SECRET, 0, {ERROR: lambda stream, step: 1.0})
    (place / "linked").symlink_to(place.parent / "outputs-2" / GROUP)
    (place / "trunks" / ".hidden.json").write_text(SECRET)
    (place / "trunks" / "state.pt").write_text(SECRET)
    (place / "trunks" / "page.html").write_text(SECRET)
    os.mkfifo(place / "trunks" / "pipe.json")
    (place / "trunks" / "folder.json").mkdir()
    return place


@pytest.fixture(scope="module")
def board(outputs: Path) -> Iterator[Board]:
    with Board(outputs, "127.0.0.1", 0) as one:
        thread = threading.Thread(target=one.serve)
        thread.start()
        yield one
        one.stop()
        thread.join()


def asked(
    board: Board, path: str, host: str | None = None, method: str = "GET"
) -> tuple[int, str, http.client.HTTPResponse]:
    """Status and text of a request whose path is sent as it is."""
    address = next(one for one in board.hosts if one.startswith("127."))
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or address)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, answer


def test_all_groups_and_their_pages(board: Board) -> None:
    status, text, answer = asked(board, "/")
    assert status == 200
    assert f'<a href="/group/{GROUP}/">' in text
    assert "a &lt;b&gt; &amp; &#39;c&#39; %2e?#" in text
    assert '<time datetime="2026-11-21T23:59:30+00:00">21 Nov 2026, 23:59 UTC</time>' in text
    assert "trunk at step 20" in text
    assert "linked" not in text
    policy = answer.getheader("Content-Security-Policy") or ""
    assert "default-src 'none'; script-src 'self';" in policy
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    status, text, _ = asked(board, f"/group/{GROUP}/")
    assert status == 200
    assert "treated-id" in text
    assert len(text) < 200_000  # The library is sent once, beside it.


def test_a_page_is_made_anew_when_a_run_changes(board: Board, outputs: Path) -> None:
    record = find_run(outputs, "treated-id").record
    assert "from another day" not in asked(board, f"/group/{GROUP}/")[1]
    changed(outputs, record, overrides=["from another day"])
    assert "from another day" in asked(board, f"/group/{GROUP}/")[1]
    changed(outputs, record)


def test_in_a_browser(board: Board) -> None:
    with browser() as started, opened(started, board.url, width=400) as one:
        one.page.click("text=a <b>")
        one.page.wait_for_selector(DRAWN)
        one.page.click("text=all groups")
        one.page.click(f"text={GROUP}")
        one.page.wait_for_selector(DRAWN)
        assert {trace["name"] for trace in one.traces()} >= {"control", "treated"}
        assert one.measured("document.documentElement.scrollWidth") == 400
        one.page.click("a:text-is('metrics') >> nth=0")
        assert '"global_step": 1' in one.page.inner_text("body")
        assert one.said == []
        assert all(url.startswith(board.url) for url in one.asked)


@pytest.mark.parametrize(
    "path",
    [
        "/files/../secret.json", "/files/%2e%2e/secret.json", "/files/..%2fsecret.json",
        "/files/%2e%2e%2fsecret.json", "/files/trunks/../../secret.json",
        "/files/trunks/%2e%2e/%2e%2e/secret.json", "/files/../outputs-2/secret.json",
        "/files/%252e%252e/secret.json", "/files/..\\secret.json", "/files/..%5csecret.json",
        "/files//etc/passwd", "/files/%2fetc/passwd", "/files/trunks/out.json", "/files/out/secret.json",
        "/files/trunks/.hidden.json", "/files/trunks/state.pt", "/files/trunks/page.html",
        "/files/trunks/pipe.json", "/files/trunks/folder.json", "/files/trunks/run.json%00.json",
        "/files/%ff/x.json", "/files/", "/files", "/group/..%2f/", "/group/../", "/group/%2e%2e/",
        "/group/out/", "/group/", "/group/nobody/", f"/group/{GROUP}", f"/group/{GROUP}/x",
        "/group/linked/", "http://elsewhere/", "*", f"/files/{'x' * 5000}.json",
    ],
)  # fmt: skip
def test_nothing_outside_and_nothing_hidden_is_handed_out(board: Board, path: str) -> None:
    status, text, _ = asked(board, path)
    assert status in {400, 403, 404}
    assert SECRET not in text
    assert "root:" not in text


def test_files_of_runs_are_text(board: Board) -> None:
    status, text, answer = asked(board, "/files/trunks/trunk/metrics.jsonl")
    assert (status, answer.getheader("Content-Type")) == (200, "text/plain; charset=utf-8")
    assert text.count("\n") == 40


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "127.0.0.1", "127.0.0.1.evil.example", "[::1]"]
)
def test_a_foreign_name_for_this_machine_is_not_answered(board: Board, host: str) -> None:
    """DNS rebinding: a page from elsewhere has its own name point here, and the browser lets it read."""
    assert asked(board, "/", host)[0] == 421
    assert asked(board, f"/group/{GROUP}/", host)[0] == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_reads(board: Board, method: str) -> None:
    assert asked(board, f"/group/{GROUP}/", method=method)[0] == 501


def test_it_writes_nothing(board: Board, outputs: Path) -> None:
    before = Tiny(outputs).files()
    asked(board, "/")
    asked(board, f"/group/{GROUP}/")
    assert Tiny(outputs).files() == before


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_addresses_that_it_is_not_bound_to(empty: Tiny, host: str) -> None:
    empty.outputs.mkdir()
    ended = empty.launcher("board", "--host", host, "--port", "0")
    assert ended.status == 2
    assert "error: The board" in ended.err
    assert "Traceback" not in ended.err


def test_the_command_is_on_loopback_and_ends_with_ctrl_c(empty: Tiny, outputs: Path) -> None:
    started = empty.start("board", "--port", "0", f"--outputs={outputs}", module="launcher.cli")
    out = Path(started.streams.name) / "out"
    while started.process.is_alive() and not (out.exists() and "Ctrl-C" in out.read_text()):
        time.sleep(0.05)
    url = out.read_text().split()[0]
    assert url.startswith("http://127.0.0.1:")
    port = int(url.rpartition(":")[2].strip("/"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("HEAD", "/")
    assert connection.getresponse().status == 200
    connection.close()
    with pytest.raises(OSError), socket.create_connection((elsewhere(), port), timeout=5):
        pass
    os.kill(started.pid, signal.SIGINT)
    ended = started.end()
    assert (ended.status, ended.err) == (0, "")


def elsewhere() -> str:
    """Another address of this machine: every one that begins with 127 is its own."""
    return "127.0.0.2"
