"""A checkpoint behind a web server: fetched once, resumed, checked, and refused with a reason."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import BranchPointUnavailable
from launcher.files import file_digest
from launcher.layout import checkpoint_file, manifest_of
from launcher.sources import transfer
from launcher.sources.fetch import fetch
from tests.sources.file_server import FileServer
from tests.tiny_process import PROCESSES, Tiny, digest

NAME = "foreign.pt"
SIZE = 3_000_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSES", (0.01, 0.01, 0.01))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    root = tmp_path / "served"
    root.mkdir()
    (root / NAME).write_bytes(os.urandom(SIZE))
    with FileServer(root) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def files(directory: Path) -> list[Path]:
    """What was fetched, and what is left of fetching; not who fetched it, and what references lead to."""
    notes = {"known", ".lease"}
    return [path for path in directory.rglob("*") if path.is_file() and not notes & {*path.parts}]


def why(server: FileServer, cache: Path) -> str:
    with pytest.raises(BranchPointUnavailable) as caught:
        fetch(server.url(NAME), cache)
    assert caught.value.where == server.url(NAME)
    return caught.value.what


def same(path: Path, server: FileServer) -> bool:
    return file_digest(path) == file_digest(server.root / NAME)


def test_once_on_disk_and_once_over_the_line(server: FileServer, cache: Path) -> None:
    first, second = fetch(server.url(NAME), cache), fetch(server.url(NAME), cache)
    assert first == second
    assert same(first.path, server)
    assert files(cache) == [first.path]
    assert server.sent[NAME] == SIZE


def test_another_file_at_the_same_place_is_fetched(server: FileServer, cache: Path) -> None:
    first = fetch(server.url(NAME), cache)
    (server.root / NAME).write_bytes(os.urandom(SIZE))
    second = fetch(server.url(NAME), cache)
    assert same(second.path, server)
    assert not same(first.path, server)


def test_what_breaks_off_goes_on_where_it_was(server: FileServer, cache: Path) -> None:
    server.most = 1_000_000
    assert same(fetch(server.url(NAME), cache).path, server)
    begins = [int(one.removeprefix("bytes=").rstrip("-") or 0) for one in server.gets(NAME)]
    assert begins == sorted(set(begins))
    assert len(begins) == 4  # What a break leaves of a chunk is fetched again.
    assert server.sent[NAME] < SIZE * 1.1


def test_an_end_that_comes_too_early_is_a_break(server: FileServer, cache: Path) -> None:
    server.most, server.lengths = 2_000_000, False
    assert same(fetch(server.url(NAME), cache).path, server)
    assert len(server.gets(NAME)) == 2


def test_a_file_that_changes_meanwhile_is_not_taken(server: FileServer, cache: Path) -> None:
    """A half of the old one and a half of the new one would have the right length."""
    server.pause = 0.02
    [other] = _started(1, server.url(NAME), cache)
    while server.sent[NAME] < SIZE / 4:
        time.sleep(0.01)
    (server.root / "new").write_bytes(os.urandom(SIZE))
    (server.root / "new").replace(server.root / NAME)
    other.join()
    assert other.exitcode == 1
    assert not list(cache.glob("objects/*"))
    server.pause = 0.0
    assert same(fetch(server.url(NAME), cache).path, server)


def test_a_server_without_ranges_begins_again(server: FileServer, cache: Path) -> None:
    server.ranges, server.most = False, 1_000_000
    assert "the connection broke off, 4 times" in why(server, cache)
    server.most = None
    assert same(fetch(server.url(NAME), cache).path, server)


@pytest.mark.parametrize(("status", "told", "tries"), [
    (401, "401 Unauthorized: no key", 1), (403, "403 Forbidden: no right to see it", 1),
    (404, "404 Not Found: nothing is there", 1), (500, "500 Internal Server Error, 4 times", 4),
])  # fmt: skip
def test_each_refusal_says_why(server: FileServer, cache: Path, status: int, told: str, tries: int) -> None:
    server.status = status
    assert told in why(server, cache)
    assert sum(method == "HEAD" for method, name, _ in server.asked if name == NAME) == tries


def test_a_server_that_fails_once_is_asked_again(server: FileServer, cache: Path) -> None:
    server.status, server.times = 500, 3
    assert same(fetch(server.url(NAME), cache).path, server)


def test_one_that_stalls_is_told_with_the_seconds(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "STALL_SECONDS", 0.3)
    server.stall = 5.0
    server.ranges = False
    assert "nothing came for 0.3 s, 4 times, at 1." in why(server, cache)


def test_nobody_listens(server: FileServer, cache: Path) -> None:
    with pytest.raises(BranchPointUnavailable, match="refused, 4 times"):
        fetch("http://127.0.0.1:9/x.pt", cache)


def _started(count: int, *arguments: Any) -> list[Any]:
    processes = [PROCESSES.Process(target=fetch, args=arguments) for _ in range(count)]
    for one in processes:
        one.start()
    return processes


def test_of_eight_processes_one_fetches_it(server: FileServer, cache: Path) -> None:
    server.pause = 0.005
    processes = _started(8, server.url(NAME), cache)
    for one in processes:
        one.join()
    assert [one.exitcode for one in processes] == [0] * 8
    assert server.sent[NAME] == SIZE
    assert len(files(cache)) == 1


def test_one_that_is_killed_is_followed_by_one_that_goes_on(server: FileServer, cache: Path) -> None:
    server.pause = 0.02
    [first] = _started(1, server.url(NAME), cache)
    while server.sent[NAME] < SIZE / 4:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    server.pause = 0.0
    found = fetch(server.url(NAME), cache)
    assert same(found.path, server)
    assert int(server.gets(NAME)[-1].removeprefix("bytes=").rstrip("-")) > SIZE / 10
    assert files(cache) == [found.path]


class TestBranch:
    """The whole door, with a checkpoint of the launcher's own behind a URL."""

    STEP = checkpoint_file(20)

    @pytest.fixture
    def served(self, trained: Tiny, server: FileServer) -> FileServer:
        for name in (self.STEP, manifest_of(Path(self.STEP)).name):
            shutil.copy(trained.trunk.directory.checkpoints / name, server.root / name)
        return server

    def test_the_manifest_beside_it_is_what_it_is_checked_against(
        self, empty: Tiny, trained: Tiny, served: FileServer
    ) -> None:
        url = served.url(self.STEP)
        branch = empty.train(f"branch.from_checkpoint='{url}'")
        assert branch.record.group == "checkpoint-20-experiments"
        assert branch.record.parent is not None
        assert (branch.record.parent.source, branch.record.parent.run) == (url, trained.trunk.id)
        assert digest(branch) == digest(trained.trunk)
        damaged = bytearray((served.root / self.STEP).read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (served.root / self.STEP).write_bytes(damaged)
        shutil.rmtree(empty.outputs)
        ended = empty.launch(f"branch.from_checkpoint='{url}'")
        assert ended.status == 2
        assert "It was fetched twice, and its digest is not the one" in ended.said

    def test_one_that_was_cut_off_is_named_by_where_it_came_from(
        self, empty: Tiny, trained: Tiny, server: FileServer
    ) -> None:
        whole = (trained.trunk.directory.checkpoints / self.STEP).read_bytes()
        (server.root / "cut.pt").write_bytes(whole[: len(whole) // 2])
        ended = empty.launch(f"branch.from_checkpoint='{server.url('cut.pt')}'")
        assert ended.status == 2
        assert f"where: {server.url('cut.pt')}, which was fetched to {empty.outputs}" in ended.said

    def test_mirrors_in_order_and_each_failure_with_its_reason(self, empty: Tiny, served: FileServer) -> None:
        gone, good = served.url("gone/checkpoint_step_20.pt"), served.url(self.STEP)
        places = [f"branch.from_checkpoint={empty.outputs}/none.pt", f"branch.mirrors=['{gone}','{good}']"]
        branch = empty.train(*places)
        assert branch.record.parent is not None
        assert branch.record.parent.source == good
        first, second = [one["found"] for one in branch.record.findings]
        assert first == f"{empty.outputs}/none.pt: There is no such checkpoint."
        assert second == f"{gone}: It cannot be fetched: the server answered 404 Not Found: nothing is there."

    def test_with_all_of_them_gone_it_says_so_in_red(self, empty: Tiny, served: FileServer) -> None:
        gone = served.url("gone.pt")
        places = [f"branch.from_checkpoint='{gone}'", f"branch.mirrors=[{empty.outputs}/none.pt]"]
        ended = empty.launch(*places)
        assert ended.status == 2
        assert f"{gone}: It cannot be fetched: the server answered 404" in ended.said
        assert f"{empty.outputs}/none.pt: There is no such checkpoint" in ended.said
        asked = len(served.asked)
        ended = empty.launch("-m", *places, "branch.on_unavailable=scratch", "optimizer.lr=0.002,0.003",
                             environment={"FORCE_COLOR": "1"})  # fmt: skip
        assert ended.status == 0, ended.err
        assert len(served.asked) - asked == asked, "each sibling looked for it again"
        assert ended.err.count("FROM SCRATCH") >= 2
        assert "\x1b[1;31m" in ended.err
        # Of each sibling by the launch, and by itself.
        said = " ".join(ended.err.split())
        assert said.count("group: The branch point cannot be had from any of 2 places") == 4
        for run in empty.runs():
            assert (run.record.kind, run.record.group, run.record.parent) == ("scratch", "scratch", None)
            assert "fallback-from-scratch" in run.record.tags
            assert run.record.job_type.startswith("scratch-lr-0.00")
            [told] = run.record.findings
            assert f"{gone}: It cannot be fetched: the server answered 404" in told["found"]
            assert f"{empty.outputs}/none.pt: There is no such checkpoint" in told["found"]
