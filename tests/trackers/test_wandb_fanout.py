"""Runs as they are typed, with tracker=wandb: what the stand-in for W&B's server has of them afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.layout import RunDirectory
from launcher.trackers.metrics_file import read_metrics
from tests import tiny_faults
from tests.tiny_process import Ended, Tiny, metrics
from tests.wandb_server.runs import StoredRun
from tests.wandb_server.server import WandbServer

POINT = "branch.from_step=20"
RATES = "optimizer.lr=0.002,0.003"
GROUP = "checkpoint-20-experiments"


@pytest.fixture
def environment(server: WandbServer, tmp_path: Path) -> dict[str, str]:
    """A process logs to the stand-in, and knows nobody's settings."""
    return {**server.environment, "HOME": str(tmp_path / "home"), "WANDB_ERROR_REPORTING": "false"}


def whole(stored: StoredRun, directory: RunDirectory) -> None:
    """W&B has what metrics.jsonl has: each step once, in order, bit for bit."""
    lines = read_metrics(directory.metrics)
    assert [row["global_step"] for row in stored.history] == [line["global_step"] for line in lines]
    assert [row["_step"] for row in stored.history] == [line["global_step"] for line in lines]
    for row, line in zip(stored.history, lines, strict=True):
        for name, value in line.items():
            if not isinstance(value, str):
                assert row[name] == value, (name, row["_step"])


class TestFanout:
    @pytest.fixture(params=["basic", "submitit_local"])
    def done(
        self, request: pytest.FixtureRequest, tiny: Tiny, server: WandbServer, environment: dict[str, str]
    ) -> Ended:
        overrides = ["-m", POINT, RATES, "tracker=wandb", "tracking.tags=[mine]"]
        overrides += [f"hydra/launcher={request.param}", f"fanout.control={request.param == 'basic'}"]
        overrides.append("+loss.facts={loss: l1, source: paper}")
        ended = tiny.launch(*overrides, environment=environment)
        assert ended.status == 0, ended.err
        return ended

    def test_each_sibling_is_a_run_of_the_group(self, tiny: Tiny, server: WandbServer, done: Ended) -> None:
        branches = [run for run in tiny.runs() if run.record.kind == "branch"]
        assert sorted(stored.id for stored in server.all()) == sorted(run.id for run in branches)
        for run in branches:
            stored = server.run(run.id)
            assert (stored.group, stored.job_type, stored.name) == (GROUP, run.record.job_type, run.id)
            assert stored.tags == run.record.tags
            assert {"from-checkpoint", "mine"} <= set(stored.tags)
            assert (stored.state, stored.exit_code) == ("finished", 0)
            parent = run.record.parent
            assert parent is not None
            told = stored.values
            assert told["branched_from_checkpoint"] == parent.checkpoint
            assert told["branched_from_step"] == parent.step == 20
            assert told["branched_from_run"] == told["comparison_to_run"] == tiny.trunk.id
            assert told["branched_from_sha256"] == parent.sha256
            assert told["branch_type"] == run.record.branch_type
            # A fact is shown by itself, but never in place of a node of the config.
            assert (told["source"], told["loss"]["facts"]["loss"]) == ("paper", "l1")
            assert told["branched_from_metrics"] == parent.metrics
            assert run.record.trackers["wandb"].startswith(server.url)
            settings = run.record.trackers["wandb_settings"]
            assert (settings["mode"], settings["sources"]["group"]) == ("online", "checkpoint")
            assert "wandb_dropped" not in run.record.trackers
            whole(stored, run.directory)
        rates = {server.run(run.id).values["optimizer"]["lr"] for run in branches}
        assert rates >= {0.002, 0.003}
        assert len(rates) == len(branches)
        trunk = metrics(tiny.trunk)
        row = server.run("lr-0.002").history[9]
        assert (row["_step"], row["trunk/val/error"]) == (30, trunk[30]["val/error"])


class TestKilled:
    def test_a_run_that_was_killed_goes_on_as_the_same_run(
        self, tiny: Tiny, server: WandbServer, environment: dict[str, str]
    ) -> None:
        overrides = [POINT, "optimizer.lr=0.002", "tracker=wandb"]
        kill = tiny_faults.Kill(35, "SIGKILL", saved=True)
        assert tiny.launch(*overrides, prepare=[kill], environment=environment).status == 137
        ended = tiny.launch(*overrides, environment=environment)
        assert ended.status == 0, ended.err
        run = tiny.run("lr-0.002")
        assert len(run.record.starts) == 2
        [stored] = server.all()
        assert stored.id == run.id
        whole(stored, run.directory)
        assert stored.state == "finished"

    def test_a_run_that_was_told_to_stop_is_marked_as_one_that_comes_back(
        self, tiny: Tiny, server: WandbServer, environment: dict[str, str]
    ) -> None:
        overrides = [POINT, "optimizer.lr=0.002", "tracker=wandb"]
        kill = tiny_faults.Kill(35, "SIGTERM")
        stopped = tiny.launch(*overrides, prepare=[kill, _patient], environment=environment)
        assert stopped.status == 143
        assert server.run("lr-0.002").state == "preempted"


class TestFork:
    def test_the_trunk_in_front_of_the_branch(
        self, empty: Tiny, server: WandbServer, environment: dict[str, str]
    ) -> None:
        empty.train("tracker=wandb", environment=environment)
        run = empty.train(POINT, "optimizer.lr=0.002", "tracker=wandb", "tracker.wandb.fork=true",
                          environment=environment)  # fmt: skip
        stored = server.run(run.id)
        assert stored.branch_point == {"run_id": empty.trunk.id, "step": 20}
        assert [row["_step"] for row in stored.history] == list(range(1, 41))
        assert run.record.trackers["wandb_settings"]["fork"].startswith("forked from")


def test_a_run_from_scratch_is_not_among_the_siblings(
    tiny: Tiny, server: WandbServer, environment: dict[str, str]
) -> None:
    asked = ("branch.from_step=25", "branch.on_unavailable=scratch", "tracker=wandb", "tracking.group=mine")
    ended = tiny.launch("-m", *asked, environment={**environment, "WANDB_RUN_GROUP": "theirs"})
    assert ended.status == 0, ended.err
    [run] = [run for run in tiny.runs() if run.record.kind == "scratch"]
    stored = server.run(run.id)
    assert "No run has a checkpoint at step 25" in stored.config["branch_unavailable"]["value"]
    assert (stored.group, stored.job_type) == (None, "scratch")
    assert "fallback-from-scratch" in stored.tags
    assert run.record.trackers["wandb_settings"]["sources"]["group"] == "nothing"


def test_what_named_the_group_is_written_down(
    tiny: Tiny, server: WandbServer, environment: dict[str, str]
) -> None:
    environment["WANDB_RUN_GROUP"] = "theirs"
    ended = tiny.launch("-m", POINT, "optimizer.lr=0.002", "tracker=wandb", environment=environment)
    assert ended.status == 0, ended.err
    trunk = tiny.train("seed=7", "tracker=wandb", environment=environment)
    [sibling] = [run for run in tiny.runs() if run.record.kind == "branch"]
    for run in (trunk, sibling):
        assert server.run(run.id).group == "theirs"
        assert run.record.trackers["wandb_settings"]["sources"]["group"] == "WANDB_RUN_GROUP"


@pytest.mark.parametrize("does", ["status", "hang"])
def test_a_server_that_misbehaves_changes_nothing_about_the_run(
    tiny: Tiny, trained: Tiny, server: WandbServer, environment: dict[str, str], does: Any
) -> None:
    server.misbehave(does, on="file_stream")
    ended = tiny.launch(POINT, "tracker=wandb", environment=environment, prepare=[_short])
    assert ended.status == 0, ended.err
    assert tiny.launcher("verify", "control").status == 0
    assert ended.err.count("wandb failed") <= 1


def _patient() -> None:
    from launcher.trackers import worker

    worker.FINISH_SECONDS = dict.fromkeys(worker.FINISH_SECONDS, 120.0)


def _short() -> None:
    from launcher.trackers import worker

    worker.FINISH_SECONDS = dict.fromkeys(worker.FINISH_SECONDS, 2.0)
