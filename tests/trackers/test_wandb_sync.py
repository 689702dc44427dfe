"""launcher sync, with the real client: what ran offline or never arrived is there in the end, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.config import CheckpointConfig, WandbConfig
from launcher.files import write_json
from launcher.layout import RunDirectory, checkpoint_file, manifest_of
from launcher.publishing import wanted
from launcher.trackers.base import KeptCheckpoint
from launcher.trackers.wandb.sync import Local, Synced, sync_run
from launcher.trackers.wandb.tracker import WandbTracker
from tests import tiny_faults
from tests.tiny_process import Tiny
from tests.trackers.test_wandb_fanout import GROUP, POINT, RATES, environment, whole
from tests.trackers.wandb_runs import identity, run, segments
from tests.wandb_server.runs import HISTORY
from tests.wandb_server.server import WandbServer

__all__ = ["environment"]


def synced(directory: Path, rewind: bool = False) -> Synced:
    segments(directory)  # The client has written everything.
    return sync_run(Local("fixed-1a2b3c4d", directory, state="finished"), rewind)


def steps(server: WandbServer) -> list[int]:
    return [row["_step"] for row in server.run("fixed").history]


class TestSynced:
    def test_segments_go_up_in_order_and_once(self, tmp_path: Path, server: WandbServer) -> None:
        run(identity(tmp_path / "a"), range(1, 6), state="interrupted")
        run(identity(tmp_path / "a", resumed=True, last_logged_step=5), range(6, 9))
        assert server.all() == []
        found = synced(tmp_path / "a")
        assert (found.problem, found.missing, found.lines, found.sent) == (None, [], 8, 0)
        assert len(found.uploaded) == 2
        assert steps(server) == list(range(1, 9))
        stored = server.run("fixed")
        assert (stored.group, stored.job_type, stored.state) == (
            "checkpoint-15k-experiments", "fixed-spectrum", "finished",
        )  # fmt: skip
        assert found.link == f"{server.url}/stand-in/checkpoint-branching/runs/fixed-1a2b3c4d"
        again = synced(tmp_path / "a")
        assert again.whole
        assert (again.uploaded, again.sent) == ([], 0)

    @pytest.mark.parametrize("killed", ["first", "last"])
    def test_what_a_kill_cut_off_comes_from_the_metrics_file(
        self, tmp_path: Path, server: WandbServer, killed: str
    ) -> None:
        run(identity(tmp_path / "a"), range(1, 41), state="interrupted")
        run(identity(tmp_path / "a", resumed=True, last_logged_step=40), range(41, 81))
        cut = segments(tmp_path / "a")[0 if killed == "first" else 1]
        [log] = cut.glob("*.wandb")
        log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
        found = synced(tmp_path / "a")
        assert (found.problem, found.missing) == (None, [])
        assert 0 < found.sent < 40
        assert steps(server) == list(range(1, 81))
        assert [row["train/x"] for row in server.run("fixed").history] == [step / 7 for step in range(1, 81)]

    def test_what_never_arrived_is_sent(self, tmp_path: Path, server: WandbServer) -> None:
        run(identity(tmp_path / "a"), range(1, 11), mode="online")
        server.run("fixed").rewind(7)
        found = synced(tmp_path / "a")
        assert (found.sent, found.missing, found.problem) == (3, [], None)
        assert steps(server) == list(range(1, 11))
        assert server.run("fixed").state == "finished"

    def test_a_hole_is_named_and_filled_by_rewinding(self, tmp_path: Path, server: WandbServer) -> None:
        run(identity(tmp_path / "a"), range(1, 11), mode="online")
        stored = server.run("fixed")
        kept = [line for line in stored.lines if json.loads(line)["_step"] not in (4, 5)]
        stored.streams[HISTORY] = dict(enumerate(kept))
        found = synced(tmp_path / "a")
        assert found.missing == [4, 5]
        assert not found.whole
        assert steps(server) == [1, 2, 3, 6, 7, 8, 9, 10]
        found = synced(tmp_path / "a", rewind=True)
        assert (found.missing, found.sent) == ([], 7)
        assert steps(server) == list(range(1, 11))
        assert stored.rewinds == [3]

    def test_a_server_that_refuses_is_named(self, tmp_path: Path, server: WandbServer) -> None:
        run(identity(tmp_path / "a"), range(1, 6))
        server.misbehave("status", status=403)
        found = synced(tmp_path / "a")
        assert found.problem
        assert not found.whole
        assert found.uploaded == []
        server.behave()
        assert synced(tmp_path / "a").whole
        assert steps(server) == list(range(1, 6))

    def test_a_run_whose_tracker_never_began_is_there_with_its_names(
        self, tmp_path: Path, server: WandbServer
    ) -> None:
        server.misbehave("status", status=403)
        failed = run(identity(tmp_path / "a", project="chosen"), range(1, 6), mode="online")
        assert failed.dropped == {"wandb": 5}
        server.behave()
        assert server.all() == []
        found = synced(tmp_path / "a")
        assert (found.problem, found.missing, found.sent) == (None, [], 5)
        [stored] = server.all()
        assert (stored.project, stored.name, stored.group) == (
            "chosen",
            "fixed",
            "checkpoint-15k-experiments",
        )
        assert (stored.job_type, stored.tags) == ("fixed-spectrum", ["from-checkpoint", "fixed-spectrum"])
        assert (stored.values["branched_from_step"], stored.notes) == (15_000, "why")

    def test_checkpoints_that_were_noted_offline(self, tmp_path: Path, server: WandbServer) -> None:
        """By paths that are relative, as ``paths.outputs`` is; one that is gone is named."""
        about = identity(tmp_path / "a")
        directory = RunDirectory(Path("a"))
        directory.checkpoints.mkdir()
        tracker = WandbTracker(WandbConfig(mode="offline"))
        tracker.start(about)
        for step in (3, 5):
            path = directory.checkpoints / checkpoint_file(step)
            path.write_bytes(bytes(range(step)))
            write_json(manifest_of(path), {"step": step})
            tracker.keep(KeptCheckpoint(path, step, (f"step-{step}",), "copy", lambda: None))
            tracker.log(step, {"train/x": 1.0})
        tracker.finish("finished", {})
        (directory.checkpoints / checkpoint_file(3)).unlink()
        # Noted is noted, whatever the last start asked for.
        kept = wanted(directory, CheckpointConfig(artifact="none"), finished=True)
        assert [one.step for one in kept] == [5]
        segments(tmp_path / "a")
        found = sync_run(Local("fixed-1a2b3c4d", tmp_path / "a", state="finished", checkpoints=kept))
        assert (found.problem, found.missing) == (None, [])
        assert found.checkpoints == {}  # The client's own had the path.
        assert found.not_uploaded == {3: "it is not on disk any more"}
        [one] = server.artifacts.of("model-fixed-1a2b3c4d")
        assert (one.metadata["step"], one.files[checkpoint_file(5)]) == (5, bytes(range(5)))
        assert json.loads(directory.artifacts.read_text())["5"] == one.qualified


class TestCommand:
    def sync(
        self, tiny: Tiny, environment: dict[str, str], *arguments: str
    ) -> tuple[int, list[dict[str, object]]]:
        ended = tiny.launch(
            "sync",
            *arguments,
            "--json",
            f"--outputs={tiny.outputs}",
            module="launcher.cli",
            environment=environment,
        )
        return ended.status, json.loads(ended.out or "[]")

    def test_a_fan_out_that_ran_offline(
        self, tiny: Tiny, server: WandbServer, environment: dict[str, str]
    ) -> None:
        offline = {**environment, "WANDB_MODE": "offline"}
        kill = tiny_faults.Kill(35, "SIGKILL", saved=True)
        overrides = ["-m", POINT, RATES, "tracker=wandb"]
        assert tiny.launch(*overrides, prepare=[kill], environment=offline).status == 137
        assert tiny.launch(*overrides, environment=offline).status == 0
        assert server.requests == []
        status, found = self.sync(tiny, environment, GROUP)
        assert status == 0, found
        branches = [one for one in tiny.runs() if one.record.kind == "branch"]
        assert sorted(str(one["run"]) for one in found) == sorted(one.id for one in branches)
        for branch in branches:
            stored = server.run(branch.id)
            whole(stored, branch.directory)
            assert (stored.group, stored.state) == (GROUP, "finished")
            assert stored.values["branched_from_run"] == tiny.trunk.id

    def test_the_checkpoints_of_a_trunk_become_its_branches_input(
        self, empty: Tiny, server: WandbServer, environment: dict[str, str]
    ) -> None:
        """Of runs that W&B was never told of either: one refused, the others offline."""
        offline = {**environment, "WANDB_MODE": "offline"}
        trunk = empty.train("tracker=wandb", "checkpoint.artifact=all", environment=offline)
        first = empty.train(POINT, "optimizer.lr=0.002", "tracker=wandb", environment=offline)
        server.misbehave("status", status=403)
        second = empty.train(POINT, "optimizer.lr=0.003", "tracker=wandb", environment=environment)
        server.behave()
        status, found = self.sync(empty, environment)
        assert status == 0, found
        assert found[0]["run"] == trunk.id
        [used] = [one for one in server.artifacts.of(f"model-{trunk.id}") if "step-20" in one.aliases]
        assert used.used_by == [first.id, second.id]
        asked = server.requests.count("/graphql#UseArtifact")
        assert self.sync(empty, environment)[0] == 0
        assert server.requests.count("/graphql#UseArtifact") == asked

    def test_without_a_key_it_says_what_to_do(self, tiny: Tiny, environment: dict[str, str]) -> None:
        tiny.train(POINT, "tracker=wandb", "tracker.wandb.mode=offline", environment=environment)
        nobody = {**environment, "WANDB_API_KEY": ""}
        ended = tiny.launch("sync", f"--outputs={tiny.outputs}", module="launcher.cli", environment=nobody)
        assert ended.status == 2
        assert "wandb login" in ended.said

    def test_where_nothing_was_tracked(self, tiny: Tiny, environment: dict[str, str]) -> None:
        assert self.sync(tiny, environment) == (0, [])
