"""``launcher status | logs | cancel | retry``: siblings looked at and managed after their launch."""

from __future__ import annotations

import io
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launcher.fanout.status import STATES, Status, status_of
from launcher.fanout.status_table import StatusTable
from launcher.launchers.jobs.queries import JobState
from launcher.launchers.sibling import Launch, read_launch
from launcher.lease import holder
from launcher.lineage import Run
from launcher.process import Process
from tests import tiny_faults
from tests.test_resume import wait_until
from tests.tiny_process import Started, Tiny, digest, metrics

POINT = "branch.from_step=20"
POOL = ("-m", POINT, "hydra/launcher=pool", "hydra.launcher.slots=2")
RATES = "optimizer.lr=0.002,0.003,0.004"
GROUP = "checkpoint-20-experiments"


def statuses(tiny: Tiny, *names: str) -> dict[str, dict[str, Any]]:
    ended = tiny.launcher("status", *names, "--json")
    assert ended.status == 0, ended.err
    return {one["run"]: one for one in json.loads(ended.out)}


def states(tiny: Tiny) -> list[str]:
    return sorted(one["state"] for one in statuses(tiny, GROUP).values())


def branches(tiny: Tiny) -> list[Run]:
    return [run for run in tiny.runs() if run.record.kind == "branch"]


@pytest.fixture
def undisturbed(tiny: Tiny, trunk_of: Any, tmp_path: Path) -> dict[str, tuple[str, Any]]:
    """End digest and metrics of each sibling, had nobody touched it."""
    alone = Tiny(tmp_path / "undisturbed")
    place = tiny.trunk.directory.checkpoints / "checkpoint_step_20.pt"
    assert alone.launch("-m", POINT, RATES, f"branch.from_checkpoint={place}").status == 0
    return {run.id: (digest(run), metrics(run)) for run in branches(alone)}


def ends(tiny: Tiny) -> dict[str, tuple[str, Any]]:
    return {run.id: (digest(run), metrics(run)) for run in branches(tiny)}


def under_way(tiny: Tiny, go: Path) -> Started:
    """Three siblings in two slots: two stand still at step 30, one waits."""
    started = tiny.start(*POOL, RATES, prepare=[partial(tiny_faults.wait_at, 30, go)])
    wait_until(
        lambda: (
            sum(
                (there := holder(run.directory)) is not None and there.alive and there.step >= 29
                for run in branches(tiny)
            )
            == 2
        ),
        started.process.is_alive,
    )
    return started


class TestStatus:
    def test_says_what_runs_and_what_waits(self, tiny: Tiny, tmp_path: Path) -> None:
        go = tmp_path / "go"
        started = under_way(tiny, go)
        try:
            assert states(tiny) == ["queued", "running", "running"]
            running = [one for one in statuses(tiny).values() if one["state"] == "running"]
            assert [one["end_step"] for one in running] == [40, 40]
            assert all("process " in one["detail"] for one in running)
        finally:
            go.touch()
            assert started.end().status == 0
        assert states(tiny) == ["finished"] * 3
        assert "40/40" in tiny.launcher("status").out

    def test_says_what_a_run_that_died_has_saved(self, tiny: Tiny) -> None:
        crash = partial(tiny_faults.Kill, 35, saved=True)
        ended = tiny.launch(*POOL, "optimizer.lr=0.002", prepare=[crash("SIGSEGV")])
        assert "failed at step 30: killed by SIGSEGV" in ended.err
        assert "in dangerous" in ended.err
        assert tiny.launch(POINT, "optimizer.lr=0.003", prepare=[crash("SIGKILL")]).status == 137
        assert {one["step"] for one in statuses(tiny, GROUP).values()} == {30}

    @pytest.mark.parametrize("width", [200, 120, 100, 80, 60])
    def test_fits_the_terminal(self, width: int) -> None:
        name, detail = "delayed-curriculum-fixed-spectrum-1a2b3c4d", "process 1 on a, since 2026-11-22T05:00"
        found = [
            Status(name, GROUP, "/d", "running", detail, 15500, 16500, 12.3, 81.0, 2),
            Status("control-1a2b3c4d", GROUP, "/d", "finished", "", 16500, 16500),
        ]
        console = Console(width=width, file=io.StringIO())
        console.print(StatusTable(found))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        lines = text.splitlines()
        assert max(map(len, lines)) <= width
        framed = [line for line in lines if line.startswith("│")]
        assert len(framed) == (4 if width == 60 else 3)
        assert "15500/16500" in text
        assert detail in " ".join(text.split())
        assert [word in lines[1] for word in ("requeued", "steps/s", "left", "what is known")] == {
            200: [True, True, True, True],
            120: [True, True, True, False],
            100: [False, True, True, False],
            80: [False, False, False, False],
            60: [False, False, False, False],
        }[width]

    def test_names_what_there_is(self, tiny: Tiny) -> None:
        ended = tiny.launcher("status", "nothing")
        assert ended.status == 2
        assert "groups: trunks" in ended.err

    def test_of_one_run(self, tiny: Tiny) -> None:
        run = tiny.train(POINT)
        assert list(statuses(tiny, run.id)) == [run.id]

    @pytest.mark.parametrize(
        ("record", "job", "state", "said"),
        [
            ("queued", JobState("7_1", "PENDING", "Resources"), "queued", "in the queue (Resources)"),
            (
                "interrupted",
                JobState("7_1", "PENDING", "BeginTime", restarts=2),
                "queued",
                "back in the queue",
            ),
            (
                "running",
                JobState("7_1", "PENDING", "launch failed requeued held", priority=0),
                "held",
                "held",
            ),
            ("queued", JobState("7_1", "RUNNING", nodes="n1"), "running", "on n1, starting"),
            ("running", JobState("7_1", "RUNNING", preempted=True), "running", "7_1, preempted"),
            (
                "interrupted",
                JobState("7_1", "PENDING", "Resources", restarts=1, preempted=True),
                "queued",
                "preempted, back in the queue (Resources)",
            ),
            ("running", JobState("7_1", "COMPLETING", nodes="n1"), "running", "on n1, ending"),
            ("running", JobState("7_1", "NODE_FAIL", listed=False), "failed", "NODE_FAIL"),
            ("queued", JobState("7_1", "FAILED", listed=False), "failed", "FAILED"),
            ("running", JobState("7_1", "CANCELLED", listed=False), "cancelled", "7_1"),
            ("interrupted", JobState("7_1", "UNKNOWN", listed=False), "interrupted", "does not know"),
            ("finished", JobState("7_1", "RUNNING"), "finished", ""),
            ("queued", None, "queued", "cannot be asked"),
        ],
    )
    def test_of_a_job_is_what_slurm_says(
        self, tiny: Tiny, record: str, job: JobState | None, state: str, said: str
    ) -> None:
        run = tiny.train(POINT)
        value = json.loads(run.directory.record.read_text())
        run.directory.record.write_text(json.dumps({**value, "state": record}))
        launch = Launch(run.id, [], "/", {}, {}, "slurm", "f", "now", Process.this(), job_id="7_1")
        launch.write(run.directory.path)
        found = status_of(run.directory, None if job is None else {"7_1": job})
        assert found.state == state
        assert said in found.detail
        assert found.requeues == (job.restarts if job else 0)
        assert found.state in STATES


class TestLogs:
    def test_are_what_the_process_printed(self, tiny: Tiny) -> None:
        assert tiny.launch(*POOL, RATES).status == 0
        ended = tiny.launcher("logs", "lr-0.003")
        assert ended.status == 0
        assert "lr-0.003" in ended.out
        assert "(finished)" in ended.out

    def test_are_followed_until_the_run_has_ended(self, tiny: Tiny, tmp_path: Path) -> None:
        go = tmp_path / "go"
        started = under_way(tiny, go)
        running = next(one["run"] for one in statuses(tiny).values() if one["state"] == "running")
        following = tiny.start("logs", running, "-f", f"--outputs={tiny.outputs}", module="launcher.cli")
        printed = Path(following.streams.name, "out")
        with tiny.run(running).directory.log.open("ab", buffering=0) as log:
            log.write("half é".encode()[:-1])
            wait_until(lambda: printed.exists() and "half" in printed.read_text(), started.process.is_alive)
            log.write("é\n".encode()[1:])
        go.touch()
        assert started.end().status == 0
        ended = following.end()
        assert ended.status == 0
        assert "half é\n" in ended.out
        assert f"{running} (finished)" in ended.out

    def test_that_nobody_caught(self, tiny: Tiny) -> None:
        run = tiny.train(POINT)
        ended = tiny.launcher("logs", run.id)
        assert ended.status == 2
        assert "no log" in ended.err


class TestCancelAndRetry:
    def test_a_group(self, tiny: Tiny, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
        go = tmp_path / "go"
        started = under_way(tiny, go)
        ended = tiny.launcher("cancel", GROUP, "--json")
        assert ended.status == 0, ended.err
        assert len(json.loads(ended.out)) == 3
        go.touch()
        assert started.end().status != 0
        assert states(tiny) == ["cancelled"] * 3
        assert sorted(run.record.step for run in branches(tiny)) == [20, 30, 30]
        later = tmp_path / "later"
        retried = tiny.start(
            "retry", GROUP, f"--outputs={tiny.outputs}", module="launcher.cli",
            prepare=[partial(tiny_faults.wait_at, 35, later)],
        )  # fmt: skip
        wait_until(lambda: states(tiny) == ["queued", "running", "running"], retried.process.is_alive)
        assert len(json.loads(tiny.launcher("cancel", GROUP, "--json").out)) == 3
        later.touch()
        assert retried.end().status != 0
        assert states(tiny) == ["cancelled"] * 3
        again = tiny.launcher("retry", GROUP)
        assert again.status == 0, again.err
        assert "3 launched again" in again.out
        assert ends(tiny) == undisturbed

    def test_what_runs_is_cancelled_on_a_disk_that_takes_nothing(self, tiny: Tiny, tmp_path: Path) -> None:
        go = tmp_path / "go"
        started = under_way(tiny, go)
        places = [run.directory.path for run in branches(tiny)]
        for place in places:
            place.chmod(0o555)
        typed = ("cancel", GROUP, f"--outputs={tiny.outputs}")
        ended = tiny.launch(*typed, module="launcher.cli", prepare=[tiny_faults.no_privilege])
        for place in places:
            place.chmod(0o755)
        assert (ended.status, "Traceback" in ended.err) == (1, False)
        assert "Cannot write: Permission denied" in ended.err
        go.touch()
        assert started.end().status != 0
        assert states(tiny) == ["finished", "interrupted", "interrupted"]

    def test_after_the_launching_process_was_killed(
        self, tiny: Tiny, tmp_path: Path, undisturbed: dict[str, Any]
    ) -> None:
        go = tmp_path / "go"
        started = under_way(tiny, go)
        os.kill(started.pid, signal.SIGKILL)
        started.end()
        assert states(tiny) == ["not started", "running", "running"]
        go.touch()
        wait_until(lambda: states(tiny) == ["finished", "finished", "not started"], lambda: True)
        assert tiny.launcher("retry", GROUP).status == 0
        assert ends(tiny) == undisturbed
        assert all(len(run.record.starts) == 1 for run in branches(tiny))

    def test_only_what_failed(self, tiny: Tiny, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
        go = tmp_path / "go"
        started = under_way(tiny, go)
        victim = next(run for run in branches(tiny) if (there := holder(run.directory)) and there.alive)
        there = holder(victim.directory)
        assert there is not None
        os.kill(there.process.pid, signal.SIGKILL)
        go.touch()
        ended = started.end()
        assert ended.status == 1
        assert "SIGKILL" in ended.out
        assert states(tiny) == ["failed", "finished", "finished"]
        again = tiny.launcher("retry", GROUP, "--json")
        assert again.status == 0, again.err
        assert json.loads(again.out)["launched"] == 1
        assert ends(tiny) == undisturbed
        assert [len(run.record.starts) for run in branches(tiny) if run.id == victim.id] == [2]

    def test_nothing_to_do(self, tiny: Tiny) -> None:
        assert tiny.launch(*POOL, RATES).status == 0
        before = ends(tiny)
        assert "nothing is missing" in tiny.launcher("retry", GROUP).out
        assert "Nothing was waiting" in tiny.launcher("cancel", GROUP).out
        assert ends(tiny) == before

    def test_each_as_it_was_launched_whatever_becomes_of_the_others(self, tiny: Tiny) -> None:
        hopeless = tiny.launch("-m", POINT, "optimizer.lr=0.002", "loss.nan_at_step=25")
        killed = tiny.launch(*POOL, "optimizer.lr=0.003", prepare=[tiny_faults.Kill(30, "SIGKILL")])
        assert (hopeless.status, killed.status) == (1, 1)
        assert tiny.launcher("retry", GROUP).status == 1
        slots = {
            run.record.state: read_launch(run.directory.path).settings.get("slots") for run in branches(tiny)
        }
        assert slots == {"failed": None, "finished": 2}

    def test_within_the_limits_of_the_launch(self, tiny: Tiny) -> None:
        limits = ("fanout.max_parallel=1", "fanout.stop_on_failure=true")
        hopeless = ("loss.nan_at_step=25", RATES)
        assert tiny.launch(*POOL, *limits, *hopeless).status == 1
        assert states(tiny) == ["failed"] + ["not started"] * 2
        again = tiny.launcher("retry", GROUP)
        assert again.status == 1
        assert states(tiny).count("failed") == 1
        told = [line.split(": ")[1].split()[0] for line in again.err.splitlines() if line.startswith("lr-")]
        assert told[::2] == ["started,"] * (len(told) // 2)

    def test_ended_by_ctrl_c_before_anything_runs(self, tiny: Tiny, tmp_path: Path) -> None:
        assert tiny.launch(*POOL, "loss.nan_at_step=25").status == 1
        reached, never = tmp_path / "reached", tmp_path / "never"
        started = tiny.start(
            "retry", GROUP, f"--outputs={tiny.outputs}", module="launcher.cli",
            prepare=[partial(tiny_faults.wait_before_the_launch, reached, never)],
        )  # fmt: skip
        wait_until(reached.exists, started.process.is_alive)
        os.kill(started.pid, signal.SIGINT)
        ended = started.end()
        assert (ended.status, "Traceback" in ended.err) == (130, False)

    def test_a_run_that_was_launched_alone_has_a_command_of_its_own(self, tiny: Tiny) -> None:
        assert tiny.launch(POINT, "loss.nan_at_step=25").status == 1
        ended = tiny.launcher("retry", GROUP)
        assert ended.status == 2
        assert f"python train.py {POINT} loss.nan_at_step=25" in ended.err

    def test_jobs_of_a_cluster_that_cannot_be_asked_are_left_alone(self, tiny: Tiny, tmp_path: Path) -> None:
        run = tiny.train(POINT)
        value = json.loads(run.directory.record.read_text())
        run.directory.record.write_text(json.dumps({**value, "state": "interrupted"}))
        launch = Launch(run.id, [], "/", {}, {}, "slurm", "f", "now", Process.this(), job_id="7_1")
        launch.write(run.directory.path)
        before = tiny.files()
        arguments = ("retry", GROUP, f"--outputs={tiny.outputs}")
        ended = tiny.launch(*arguments, module="launcher.cli", environment={"PATH": str(tmp_path)})
        assert ended.status == 2
        assert "There is no squeue here." in ended.err
        assert tiny.files() == before
