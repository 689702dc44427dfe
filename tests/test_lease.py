"""One process a run: fencing tokens, and what an older process can still do (nothing)."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from launcher import lease as leases
from launcher.files import write_text
from launcher.layout import RunDirectory
from launcher.lease import DEAD_SECONDS, Lease, Superseded, holder
from launcher.lineage import utc_now
from launcher.trackers.metrics_file import MetricsFile, read_metrics
from tests import tiny_faults
from tests.test_resume import as_if_undisturbed, logged, wait_until
from tests.tiny_process import Tiny

JOB = {"SLURM_JOB_ID": "7"}
_context = multiprocessing.get_context("forkserver")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def take(run: RunDirectory) -> Lease:
    return Lease(run, utc_now())


class TestTokens:
    def test_each_start_takes_the_next(self, run: RunDirectory) -> None:
        for expected in (1, 2, 3):
            lease = take(run)
            assert lease.token == expected
            lease.release()

    def test_the_holder_is_told(self, run: RunDirectory) -> None:
        assert holder(run) is None
        lease = Lease(run, "today", job_id="7_1", restarts=2)
        there = holder(run)
        assert there is not None
        assert (there.process.pid, there.job_id, there.restarts, there.token) == (os.getpid(), "7_1", 2, 1)
        assert there.alive
        lease.release()
        assert not holder(run).alive  # type: ignore[union-attr]

    def test_many_at_once_each_get_their_own(self, run: RunDirectory) -> None:
        run.path.mkdir()
        with _context.Pool(4) as pool:
            tokens = pool.map(_take_and_leave, [run.path] * 24)
        # One that was overtaken while it took a token gives that back, and its number is skipped.
        assert len(set(tokens)) == 24

    def test_what_a_dead_taker_left_goes_away(self, run: RunDirectory) -> None:
        left = run.leases / "new-0123"
        left.mkdir(parents=True)
        os.utime(left, (0, 0))
        fresh = run.leases / "new-4567"
        fresh.mkdir()
        take(run).release()
        assert not left.exists()
        assert fresh.exists()


def _take_and_leave(directory: Path) -> int:
    lease = Lease(RunDirectory(directory), "")
    lease.release()
    return lease.token


class TestAnOlderProcess:
    def test_is_told_so_before_it_writes(self, run: RunDirectory) -> None:
        old = take(run)
        assert old.aside().is_dir()
        new = take(run)
        with pytest.raises(Superseded, match="taken this run over") as caught:
            old.aside()
        assert caught.value.exit_status == 1
        assert f"start 2: process {os.getpid()}" in str(caught.value)
        assert new.aside().is_dir()

    def test_that_was_past_the_check_has_nothing_left_to_rename(self, run: RunDirectory) -> None:
        old = take(run)
        aside = old.aside()
        new = take(run)
        write_text(run.path / "run.json", "new", new.aside())
        with pytest.raises(FileNotFoundError):
            write_text(run.path / "run.json", "old", aside)
        assert (run.path / "run.json").read_text() == "new"

    def test_appends_to_a_file_that_nobody_reads_any_more(self, run: RunDirectory) -> None:
        old = take(run)
        metrics = MetricsFile(run.metrics, old.aside)
        assert metrics.append({"global_step": 1})
        new = take(run)
        resumed = MetricsFile(run.metrics, new.aside)
        # Past the check: the line itself goes out after the newer process began.
        metrics._write(b'{"global_step": 2, "who": "old"}\n')
        assert resumed.append({"global_step": 2, "who": "new"})
        with pytest.raises(Superseded):
            metrics.append({"global_step": 3})
        assert [line.get("who") for line in read_metrics(run.metrics)] == [None, "new"]

    def test_finds_out_without_writing(self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leases, "RENEW_SECONDS", 0.01)
        old = take(run)
        take(run)
        wait_until(lambda: old.lost, lambda: True)
        with pytest.raises(Superseded):
            old.note(5, 10)


class TestWhetherAProcessLives:
    def changed(self, run: RunDirectory, **facts: object) -> None:
        path = run.leases / "1" / "lease.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "process": {**told["process"], **facts}}))

    def test_a_process_of_this_machine_is_looked_at(self, run: RunDirectory) -> None:
        process = _context.Process(target=_hold, args=(run.path,))
        process.start()
        wait_until(lambda: holder(run) is not None, process.is_alive)
        assert holder(run).alive  # type: ignore[union-attr]
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert not holder(run).alive  # type: ignore[union-attr]

    def test_a_later_process_with_the_same_number_is_another(self, run: RunDirectory) -> None:
        take(run)._stop.set()
        self.changed(run, pid_started="1")
        assert not holder(run).alive  # type: ignore[union-attr]

    def test_of_another_machine_the_last_sign_of_life_counts(self, run: RunDirectory) -> None:
        take(run)._stop.set()
        self.changed(run, machine="another")
        assert holder(run).alive  # type: ignore[union-attr]
        then = time.time() - DEAD_SECONDS - 5
        os.utime(run.leases / "1" / "lease.json", (then, then))
        assert not holder(run).alive  # type: ignore[union-attr]

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"token": 1}', '{"nothing": 2}'])
    def test_a_damaged_sign_is_none(self, run: RunDirectory, text: str) -> None:
        take(run).release()
        (run.leases / "1" / "lease.json").write_text(text)
        assert holder(run) is None
        assert take(run).token == 2


def _hold(directory: Path) -> None:
    Lease(RunDirectory(directory), "")
    time.sleep(60)


class TestTwoProcessesOnOneRun:
    """The newer one is a job that SLURM started again beside its living copy."""

    def test_the_older_one_stops_and_the_end_is_the_same(
        self, empty: Tiny, trained: Tiny, tmp_path: Path
    ) -> None:
        go = tmp_path / "go"
        old = empty.start(prepare=[partial(tiny_faults.wait_at, 25, go)], environment=JOB)
        try:
            wait_until(lambda: logged(empty) >= 24, old.process.is_alive)
            new = empty.launch(environment={**JOB, "SLURM_RESTART_COUNT": "1"})
            before = empty.files()
        finally:
            go.touch()
            ended = old.end()
        assert new.status == 0, new.err
        assert ended.status == 1
        assert "Another process has taken this run over" in ended.err
        assert "Traceback" not in ended.err
        assert empty.files() == before, "the older process wrote"
        as_if_undisturbed(empty.trunk, trained.trunk)
        assert [start.token for start in empty.trunk.record.starts] == [1, 2]

    def test_another_start_of_the_same_allocation_is_refused(self, empty: Tiny, tmp_path: Path) -> None:
        go = tmp_path / "go"
        first = empty.start(prepare=[partial(tiny_faults.wait_at, 25, go)], environment=JOB)
        try:
            wait_until(lambda: logged(empty) >= 24, first.process.is_alive)
            assert empty.launch(environment=JOB).status == 2
        finally:
            go.touch()
            with contextlib.suppress(AssertionError):
                assert first.end().status == 0
