"""The real wandb client against the stand-in for its server: what arrives, whatever the server does."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.config import WandbConfig
from launcher.trackers import worker
from launcher.trackers.metrics_file import MetricsFile, read_metrics
from launcher.trackers.trackers import Trackers
from launcher.trackers.trunk import TrunkValues
from launcher.trackers.wandb.names import LONGEST_TAG, described, shortened
from launcher.trackers.wandb.tracker import WandbTracker
from tests.trackers.wandb_runs import identity, run, warnings_in
from tests.wandb_server.server import WandbServer

ROOT = Path(__file__).parents[2]


def rows(server: WandbServer, run_id: str) -> list[tuple[int, float]]:
    return [(row["_step"], row["train/x"]) for row in server.run(run_id).history]


def expected(first: int, last: int) -> list[tuple[int, float]]:
    return [(step, step / 7) for step in range(first, last + 1)]


def test_everything_about_a_run_arrives(tmp_path: Path, server: WandbServer) -> None:
    state = random.getstate()
    trackers = run(identity(tmp_path / "a"), range(15_001, 15_011), mode="online")
    assert random.getstate() == state
    [found] = server.all()
    assert (found.id, found.name, found.project) == ("fixed-1a2b3c4d", "fixed", "checkpoint-branching")
    assert (found.group, found.job_type) == ("checkpoint-15k-experiments", "fixed-spectrum")
    assert (found.tags, found.notes) == (["from-checkpoint", "fixed-spectrum"], "why")
    assert found.values == {"optimizer": {"lr": 5e-5}, "branched_from_step": 15_000}
    assert rows(server, "fixed") == expected(15_001, 15_010)
    assert [row["global_step"] for row in found.history] == list(range(15_001, 15_011))
    assert found.summary["best"] == 0.5
    assert (found.state, found.exit_code) == ("finished", 0)
    assert trackers.links == {"wandb": f"{server.url}/stand-in/checkpoint-branching/runs/fixed-1a2b3c4d"}
    settings = trackers.facts()["wandb_settings"]
    assert settings["mode"] == "online"
    assert (settings["entity"], settings["project"]) == ("stand-in", "checkpoint-branching")


def test_the_public_api_finds_a_group(tmp_path: Path, server: WandbServer) -> None:
    for name, loss in (("a", "fixed"), ("b", "buggy"), ("c", "none")):
        group = "other" if name == "c" else "checkpoint-15k-experiments"
        about = identity(tmp_path / name, id=name, group=group, config={"loss": loss})
        run(about, range(1, 4), mode="online")
    import wandb

    found = wandb.Api().runs("stand-in/checkpoint-branching", filters={"group": "checkpoint-15k-experiments"})
    assert {one.id: one.config["loss"] for one in found} == {"a": "fixed", "b": "buggy"}
    assert [row["global_step"] for row in found[0].scan_history()] == [1, 2, 3]


class TestResumed:
    def test_no_step_twice_and_no_gap(self, tmp_path: Path, server: WandbServer) -> None:
        run(identity(tmp_path / "a"), range(1, 6), mode="online", state="interrupted")
        assert server.run("fixed").state == "preempted"
        again = identity(tmp_path / "a", resumed=True, last_logged_step=5, config={"threads": 4})
        run(again, range(3, 9), mode="online")
        assert rows(server, "fixed") == expected(1, 8)
        assert server.run("fixed").state == "finished"

    def test_after_sigkill_what_was_lost_is_sent_again(self, tmp_path: Path, server: WandbServer) -> None:
        _killed(tmp_path / "a", server, steps=30)
        lines = len(read_metrics(tmp_path / "a" / "metrics.jsonl"))
        assert lines == 30
        there = server.run("fixed")
        if there.streams:  # What arrives before a kill is up to the client; a part of it is lost here.
            there.rewind(20)
        trackers = run(
            identity(tmp_path / "a", resumed=True, last_logged_step=30), range(25, 41), mode="online"
        )
        assert rows(server, "fixed") == expected(1, 40)
        assert trackers.facts()["wandb_settings"]["sent_later"] >= 10

    def test_a_run_that_found_no_server_at_first_is_whole_in_the_end(
        self, tmp_path: Path, server: WandbServer
    ) -> None:
        run(identity(tmp_path / "a"), range(1, 6), state="interrupted")
        run(identity(tmp_path / "a", resumed=True, last_logged_step=5), range(6, 9), mode="online")
        assert rows(server, "fixed") == expected(1, 8)


def _killed(directory: Path, server: WandbServer, steps: int) -> None:
    """A process that logs online and is killed together with the client's service."""
    code = f"""
        import os, signal, time
        from pathlib import Path
        from tests.trackers.wandb_runs import identity
        from launcher.config import WandbConfig
        from launcher.trackers.metrics_file import MetricsFile
        from launcher.trackers.trackers import Trackers
        from launcher.trackers.wandb.tracker import WandbTracker
        about = identity(Path({str(directory)!r}))
        metrics = MetricsFile(about.directory / "metrics.jsonl")
        tracking = Trackers(metrics, [WandbTracker(WandbConfig(mode="online"))])
        tracking.start(about)
        while not tracking.links:
            time.sleep(0.01)
        for step in range(1, {steps} + 1):
            tracking.log({{"global_step": step, "train/x": step / 7}})
        from wandb.sdk import wandb_setup
        os.kill(wandb_setup.singleton()._connection._proc._process.pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, **server.environment},
        check=False,
    )
    assert done.returncode == -9


class TestForked:
    def branch(self, directory: Path, **changes: Any) -> Trackers:
        about = identity(directory, id="branch", forks_at=("trunk", 5, 5), **changes)
        metrics = MetricsFile(directory / "metrics.jsonl")
        trackers = Trackers(metrics, [WandbTracker(WandbConfig(mode="auto", fork=True))])
        trackers.start(about)
        for step in range(6, 9):
            trackers.log({"global_step": step, "train/x": -1.0})
        trackers.finish("finished", {})
        return trackers

    def test_the_trunks_history_is_in_front(self, tmp_path: Path, server: WandbServer) -> None:
        run(identity(tmp_path / "a", id="trunk"), range(1, 11), mode="online")
        trackers = self.branch(tmp_path / "b")
        assert rows(server, "branch") == [*expected(1, 5), (6, -1.0), (7, -1.0), (8, -1.0)]
        assert server.run("branch").branch_point == {"run_id": "trunk", "step": 5}
        assert trackers.facts()["wandb_settings"]["fork"] == "forked from trunk?_step=5"

    def test_once_and_not_when_it_starts_again(self, tmp_path: Path, server: WandbServer) -> None:
        run(identity(tmp_path / "a", id="trunk"), range(1, 11), mode="online")
        self.branch(tmp_path / "b")
        (tmp_path / "b" / "metrics.jsonl").unlink()  # It had no checkpoint yet: everything begins again.
        trackers = self.branch(tmp_path / "b")
        assert "fork" not in trackers.facts()["wandb_settings"]
        assert rows(server, "branch") == [*expected(1, 5), (6, -1.0), (7, -1.0), (8, -1.0)]

    def test_without_a_trunk_there_it_says_so_and_goes_on(
        self, tmp_path: Path, server: WandbServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        trackers = self.branch(tmp_path / "b")
        [warning] = warnings_in(caplog)
        assert "the run is not forked: W&B refused" in warning
        assert trackers.dropped == {}
        assert rows(server, "branch") == [(6, -1.0), (7, -1.0), (8, -1.0)]
        assert server.run("branch").branch_point is None

    @pytest.mark.parametrize("why", ["offline", "numbered from 0"])
    def test_where_it_makes_no_sense_it_says_so_and_goes_on(
        self, tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture, why: str,
    ) -> None:  # fmt: skip
        if why == "offline":
            monkeypatch.setenv("WANDB_MODE", "offline")
        tracker = WandbTracker(WandbConfig(fork=True))
        tracker.start(identity(tmp_path / "b", forks_at=("trunk", 5, 5 if why == "offline" else 0)))
        tracker.finish("finished", {})
        [warning] = warnings_in(caplog)
        assert why in warning
        assert why in tracker.facts["fork"]


class TestMisbehaving:
    """One warning at most, no step held up, the file complete; then the next run finds all well again."""

    @pytest.fixture
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker, "FINISH_SECONDS", dict.fromkeys(worker.FINISH_SECONDS, 3.0))

    def train(
        self,
        directory: Path,
        server: WandbServer,
        steps: int = 20,
        gone_at: int | None = None,
        init_seconds: float = 30.0,
        upload_seconds: float = 2.0,
    ) -> Trackers:
        metrics = MetricsFile(identity(directory).directory / "metrics.jsonl")
        tracker = WandbTracker(
            WandbConfig(mode="online"), init_seconds=init_seconds, upload_seconds=upload_seconds
        )
        trackers = Trackers(metrics, [tracker])
        trackers.start(identity(directory))
        while not trackers.links and not trackers.dropped:
            time.sleep(0.01)
        for step in range(1, steps + 1):
            if step == gone_at:
                while len(server.all()) == 0 or not server.run("fixed").streams:
                    time.sleep(0.01)
                server.gone()
            trackers.log({"global_step": step, "train/x": step / 7})
        trackers.finish("finished")
        return trackers

    @pytest.mark.parametrize(
        ("does", "how"),
        [
            ("status", {"status": 500}),
            ("status", {"status": 403}),
            ("status", {"status": 404}),
            ("hang", {}),
            ("close", {}),
        ],
        ids=["500", "403", "404", "hang", "close"],
    )
    def test_from_the_beginning(
        self,
        tmp_path: Path,
        server: WandbServer,
        caplog: pytest.LogCaptureFixture,
        does: Any,
        how: dict[str, Any],
    ) -> None:
        server.misbehave(does, **how)
        begun = time.monotonic()
        trackers = self.train(tmp_path / "a", server, init_seconds=1.0)
        assert time.monotonic() - begun < 60
        [warning] = warnings_in(caplog)
        assert "wandb failed (start)" in warning
        assert trackers.dropped == {"wandb": 20}
        assert len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 20
        server.behave()
        run(identity(tmp_path / "b", id="next"), range(1, 4), mode="online")
        assert rows(server, "next") == expected(1, 3)

    @pytest.mark.parametrize(
        ("does", "how"),
        [("status", {"status": 500}), ("status", {"status": 403}), ("status", {"status": 404}), ("hang", {})],
        ids=["500", "403", "404", "hang"],
    )
    @pytest.mark.usefixtures("short")
    def test_once_it_has_begun(
        self,
        tmp_path: Path,
        server: WandbServer,
        caplog: pytest.LogCaptureFixture,
        does: Any,
        how: dict[str, Any],
    ) -> None:
        server.misbehave(does, on="file_stream", **how)
        trackers = self.train(tmp_path / "a", server)
        assert len(warnings_in(caplog)) <= 1
        assert trackers.dropped == ({"wandb": 20} if warnings_in(caplog) else {})
        assert len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 20
        server.behave()
        run(identity(tmp_path / "a", resumed=True, last_logged_step=20), range(21, 23), mode="online")
        assert rows(server, "fixed") == expected(1, 22)
        assert trackers.links

    @pytest.mark.usefixtures("short")
    def test_gone_in_the_middle(
        self, tmp_path: Path, server: WandbServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        trackers = self.train(tmp_path / "a", server, gone_at=12)
        assert len(warnings_in(caplog)) == 1
        assert "The run is complete without it" in warnings_in(caplog)[0]
        assert "`launcher sync` uploads the steps that W&B lacks" in warnings_in(caplog)[0]
        assert trackers.dropped == {"wandb": 20}
        assert len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 20
        assert trackers.links

    def test_slow(self, tmp_path: Path, server: WandbServer, caplog: pytest.LogCaptureFixture) -> None:
        server.misbehave("slow", seconds=0.1)
        self.train(tmp_path / "a", server, upload_seconds=60.0)
        assert warnings_in(caplog) == []
        assert rows(server, "fixed") == expected(1, 20)

    def test_an_error_that_passes_loses_nothing(
        self, tmp_path: Path, server: WandbServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.misbehave("status", status=503, on="UpsertBucket", times=1)
        metrics = tmp_path / "a" / "metrics.jsonl"
        run(identity(tmp_path / "a"), range(1, 6), mode="online")
        assert warnings_in(caplog) == []
        assert rows(server, "fixed") == expected(1, 5)
        assert len(read_metrics(metrics)) == 5


def test_the_trunk_is_seen_beside_the_branch(tmp_path: Path, server: WandbServer) -> None:
    run(identity(tmp_path / "trunk", id="trunk"), range(2, 11, 2), mode="offline")
    trunk = TrunkValues(tmp_path / "trunk" / "metrics.jsonl", parent_step=6, start_step=6)
    run(identity(tmp_path / "b", id="branch", trunk=trunk), range(7, 13), mode="online")
    seen = {
        row["_step"]: row["trunk/train/x"] for row in server.run("branch").history if "trunk/train/x" in row
    }
    assert seen == {8: 8 / 7, 10: 10 / 7}
    renumbered = TrunkValues(tmp_path / "trunk" / "metrics.jsonl", parent_step=6, start_step=0)
    assert renumbered.at(2) == {"trunk/train/x": 8 / 7}
    assert renumbered.at(1) == renumbered.at(0) == {}


class TestSources:
    def test_of_each_name(self, tmp_path: Path) -> None:
        environment = {
            "WANDB_NAME": "shown", "WANDB_JOB_TYPE": "theirs", "WANDB_NOTES": "from outside",
            "WANDB_TAGS": "x, y", "WANDB_PROJECT": "p", "WANDB_ENTITY": "team", "WANDB_RUN_ID": "not-taken",
        }  # fmt: skip
        told = described(identity(tmp_path, notes=None, group_source="checkpoint"), environment)
        assert (told.arguments["name"], told.arguments["job_type"]) == ("shown", "theirs")
        assert (told.arguments["notes"], told.arguments["id"]) == ("from outside", "fixed-1a2b3c4d")
        assert told.arguments["tags"] == ["from-checkpoint", "fixed-spectrum", "x", "y"]
        assert told.sources == {
            "id": "run id", "name": "WANDB_NAME", "job_type": "WANDB_JOB_TYPE", "notes": "WANDB_NOTES",
            "project": "WANDB_PROJECT", "entity": "WANDB_ENTITY", "tags": "factors and config and WANDB_TAGS",
            "group": "checkpoint",
        }  # fmt: skip

    def test_what_is_in_the_config_wins(self, tmp_path: Path) -> None:
        environment = {"WANDB_NOTES": "from outside", "WANDB_PROJECT": "p", "WANDB_ENTITY": "team"}
        told = described(identity(tmp_path, project="ours", entity="me"), environment)
        assert (told.arguments["project"], told.arguments["entity"]) == ("ours", "me")
        assert told.arguments["notes"] == "why"
        sources = {key: told.sources[key] for key in ("project", "entity", "notes", "name", "job_type")}
        assert sources == {
            "project": "tracking.project", "entity": "tracking.entity", "notes": "branch.notes",
            "name": "run id", "job_type": "factors",
        }  # fmt: skip

    def test_long_tags_from_outside_are_made_legal_too(self, tmp_path: Path) -> None:
        long = "t" * 70
        told = described(identity(tmp_path, tags=()), {"WANDB_TAGS": long})
        assert told.changed == {long: shortened(long, LONGEST_TAG)}

    def test_reach_the_server(
        self, tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_JOB_TYPE", "theirs")
        monkeypatch.setenv("WANDB_TAGS", f"x,{'y' * 70}")
        monkeypatch.setenv("WANDB_RUN_ID", "neither/taken:nor legal")
        monkeypatch.setenv("WANDB_NAME", "shown")
        trackers = run(identity(tmp_path / "a"), range(1, 2), mode="online")
        found = server.run("fixed")
        assert (found.job_type, found.name) == ("theirs", "shown")
        assert found.tags == ["from-checkpoint", "fixed-spectrum", "x", shortened("y" * 70, LONGEST_TAG)]
        assert os.environ["WANDB_TAGS"] == f"x,{'y' * 70}"
        assert trackers.facts()["wandb_settings"]["sources"]["job_type"] == "WANDB_JOB_TYPE"
