"""Checkpoints out of a trunk into W&B, and out of W&B into a branch, by the real client."""

from __future__ import annotations

import json
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoint.formats.convert import convert
from launcher.config import WandbConfig
from launcher.errors import BranchPointUnavailable, ConfigError
from launcher.files import write_json
from launcher.layout import checkpoint_file, manifest_of
from launcher.sources import transfer
from launcher.sources import wandb as sources_wandb
from launcher.sources.fetch import fetch
from launcher.trackers.base import KeptCheckpoint
from launcher.trackers.wandb import artifacts
from launcher.trackers.wandb.tracker import WandbTracker
from tests import tiny_faults
from tests.sources.file_server import FileServer
from tests.tiny_process import Tiny, digest, manifests
from tests.trackers.wandb_runs import identity
from tests.wandb_server.server import WandbServer

PROJECT = "stand-in/checkpoint-branching"


@pytest.fixture
def environment(server: WandbServer, tmp_path: Path) -> dict[str, str]:
    """A process logs to the stand-in, and knows nobody's settings."""
    return {**server.environment, "HOME": str(tmp_path / "home"), "WANDB_ERROR_REPORTING": "false",
            "XDG_CACHE_HOME": str(tmp_path / "cache")}  # fmt: skip


def test_out_of_the_trunk_and_into_a_branch(
    empty: Tiny, server: WandbServer, environment: dict[str, str], tmp_path: Path
) -> None:
    trunk = empty.train(
        "tracker=wandb", "checkpoint.artifact=all", "checkpoint.best_metric=val/error",
        "checkpoint.best_mode=min", environment=environment,
    )  # fmt: skip
    versions = server.artifacts.of(f"model-{trunk.id}")
    assert [one.created_by for one in versions] == [trunk.id] * 4
    steps = manifests(trunk)
    assert [one.metadata["step"] for one in versions] == list(steps) == [10, 20, 30, 40]
    for one, manifest in zip(versions, steps.values(), strict=True):
        assert one.metadata["sha256"] == manifest.sha256
        assert f"step-{manifest.step}" in one.aliases
        name = checkpoint_file(manifest.step)
        assert one.files[name] == (trunk.directory.checkpoints / name).read_bytes()
    best = min(steps.values(), key=lambda one: (one.about.metrics["val/error"], one.step)).step
    named = {alias: one.metadata["step"] for one in versions for alias in one.aliases}
    assert (named["last"], named["best"]) == (40, best)
    kept = json.loads(trunk.directory.artifacts.read_text())
    assert kept == {str(one.metadata["step"]): one.qualified for one in versions}

    far = Tiny(tmp_path / "elsewhere")
    artifact = f"{PROJECT}/model-{trunk.id}:step-20"
    branch = far.train(f"branch.from_checkpoint={artifact}", "tracker=wandb", environment=environment)
    assert digest(branch) == digest(trunk)
    assert branch.record.group == f"model-{trunk.id}-v1-experiments"
    assert branch.record.parent is not None
    assert branch.record.parent.source == f"wandb://{PROJECT}/model-{trunk.id}:v1"
    assert (branch.record.parent.run, branch.record.parent.step) == (trunk.id, 20)
    assert versions[1].used_by == [branch.id]
    assert server.run(branch.id).values["branched_from_checkpoint"] == branch.record.parent.source

    # A branch of the trunk's own file has the same input.
    own = empty.train("branch.from_step=20", "optimizer.lr=0.002", "tracker=wandb",
                      "checkpoint.artifact=last", environment=environment)  # fmt: skip
    assert versions[1].used_by == [branch.id, own.id]
    [output] = server.artifacts.of(f"model-{own.id}")
    assert (output.metadata["step"], output.metadata["parent"]["sha256"]) == (40, steps[20].sha256)
    # The client kept no second copy of anything.
    assert [
        path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 10_000
    ] == []


def test_an_alias_that_moves_between_two_siblings_starts(
    tiny: Tiny, server: WandbServer, environment: dict[str, str], tmp_path: Path
) -> None:
    """``:best`` is what it was when the siblings were launched together."""
    for step in (20, 30):
        place = tiny.trunk.directory.checkpoints / checkpoint_file(step)
        files = {path.name: path.read_bytes() for path in (place, place.with_suffix(".json"))}
        server.artifacts.put(f"{PROJECT}/best-model", files, *(["best"] if step == 20 else []))
    far = Tiny(tmp_path / "elsewhere")
    moved = tmp_path / "moved"
    started = far.start(
        "-m", f"branch.from_checkpoint=wandb://{PROJECT}/best-model:best", "optimizer.lr=0.002,0.003",
        "hydra/launcher=basic", prepare=[partial(tiny_faults.wait_at, 25, moved)], environment=environment,
    )  # fmt: skip
    while started.process.is_alive() and not list(far.outputs.glob("*/*/metrics.jsonl")):
        time.sleep(0.05)
    server.artifacts.name(server.artifacts.of("best-model")[1], ["best"])
    moved.touch()
    ended = started.end()
    assert ended.status == 0, ended.err
    sources = {run.record.parent.source for run in far.runs() if run.record.parent}
    assert sources == {f"wandb://{PROJECT}/best-model:v0"}
    assert {run.record.parent_step for run in far.runs()} == {20}
    assert server.sent[checkpoint_file(20)] == len(
        server.artifacts.of("best-model")[0].files[checkpoint_file(20)]
    )
    [fanout] = json.loads((far.outputs / "best-model-v0-experiments" / "fanout.json").read_text())["fanouts"]
    told = [one["branch_point"] for one in fanout["siblings"]]
    assert [(one["source"], one["sha256"]) for one in told] == [
        (f"wandb://{PROJECT}/best-model:v0", manifests(tiny.trunk)[20].sha256)
    ] * 2


def test_what_others_wrote_is_called_as_the_artifact(
    tiny: Tiny, server: WandbServer, environment: dict[str, str], tmp_path: Path
) -> None:
    """And not by what the store calls it."""
    weights = tmp_path / "model.safetensors"
    convert(tiny.trunk.directory.checkpoints / checkpoint_file(20), weights)
    files = {"model.safetensors": weights.read_bytes(), "config.json": b"{}"}
    server.artifacts.put(f"{PROJECT}/theirs", files)
    asked = [f"branch.from_checkpoint={PROJECT}/theirs:v0", "branch.from_step=20", "tracker=none"]
    ended = tiny.launch(*asked, environment=environment)
    assert ended.status == 2
    assert "theirs:v0 (safetensors) has no optimizer" in " ".join(ended.said.replace("│", " ").split())
    run = tiny.train(*asked, "branch.restore=weights", "branch.require=weights", "branch.steps=10",
                     environment=environment)  # fmt: skip
    assert run.record.group == "theirs-v0-experiments"
    assert run.record.parent is not None
    assert (run.record.parent.run, run.record.parent.name) == (None, "theirs:v0")


class TestDownloads:
    """A server that gives an artifact out badly."""

    NAME = f"{PROJECT}/some-model"

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transfer, "PAUSES", (0.01, 0.01, 0.01))
        monkeypatch.setattr(transfer, "STALL_SECONDS", 0.5)

    @pytest.fixture
    def data(self, server: WandbServer) -> bytes:
        data = os.urandom(1_000_000)
        server.artifacts.put(self.NAME, {"model.bin": data, "config.json": b"{}"}, "best")
        return data

    @pytest.mark.parametrize(
        ("does", "how"),
        [("truncate", {"times": 3}), ("slow", {"seconds": 0.2}), ("status", {"status": 500, "times": 3}),
         ("close", {"times": 2})],
    )  # fmt: skip
    def test_one_that_comes_round(
        self, server: WandbServer, data: bytes, tmp_path: Path, does: Any, how: dict[str, Any]
    ) -> None:
        server.misbehave(does, on="/model.bin", **how)
        found = fetch(f"{self.NAME}:best", tmp_path / "store")
        assert (found.path / "model.bin").read_bytes() == data
        assert (found.path / "config.json").read_bytes() == b"{}"
        assert found.exact == f"wandb://{self.NAME}:v0"
        assert server.sent["model.bin"] <= len(data) * 1.2

    def test_a_list_of_files_that_breaks_off_is_asked_for_again(
        self, server: WandbServer, data: bytes, tmp_path: Path
    ) -> None:
        server.misbehave("truncate", on="/download/", times=2)
        assert (fetch(f"{self.NAME}:best", tmp_path / "store").path / "model.bin").read_bytes() == data

    @pytest.mark.parametrize(("does", "how", "told"), [
        ("status", {"status": 403}, "403 Forbidden: no right to see it"),
        ("status", {"status": 404}, "404 Not Found: nothing is there"),
        ("status", {"status": 500}, "500 Internal Server Error, 4 times, at 0 B of 1.0 MB"),
        ("hang", {}, "nothing came for 0.5 s, 4 times"),
    ])  # fmt: skip
    def test_one_that_does_not(
        self, server: WandbServer, data: bytes, tmp_path: Path, does: Any, how: dict[str, Any], told: str
    ) -> None:
        server.misbehave(does, on="/model.bin", **how)
        with pytest.raises(BranchPointUnavailable) as caught:
            fetch(f"{self.NAME}:best", tmp_path / "store")
        server.behave()
        assert told in caught.value.what
        assert caught.value.where == f"wandb://{self.NAME}:v0, model.bin"

    def test_wrong_bytes_are_not_taken(self, server: WandbServer, data: bytes, tmp_path: Path) -> None:
        [one] = server.artifacts.of("some-model")
        one.files["model.bin"] = data[:-1] + bytes([data[-1] ^ 1])
        with pytest.raises(BranchPointUnavailable, match="its digest is not the one"):
            fetch(f"{self.NAME}:v0", tmp_path / "store")
        assert not list((tmp_path / "store").glob("objects/*"))

    def test_what_it_only_refers_to_is_fetched_from_there(self, server: WandbServer, tmp_path: Path) -> None:
        (tmp_path / "served").mkdir()
        (tmp_path / "served" / "far.bin").write_bytes(data := os.urandom(100_000))
        with FileServer(tmp_path / "served") as web:
            server.artifacts.put(self.NAME, {"model.bin": web.url("far.bin"), "config.json": b"{}"})
            found = fetch(f"{self.NAME}:latest", tmp_path / "store")
        assert (found.path / "model.bin").read_bytes() == data
        assert (found.path / "config.json").read_bytes() == b"{}"

    def test_no_such_artifact_no_key_no_answer(
        self, server: WandbServer, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def why(name: str) -> str:
            with pytest.raises(BranchPointUnavailable) as caught:
                fetch(name, tmp_path / "store")
            return caught.value.what

        assert "'some-model:v7' not found" in why(f"{self.NAME}:v7")
        with pytest.raises(ConfigError, match="no version"):
            fetch(f"wandb://{self.NAME}", tmp_path / "store")
        monkeypatch.setattr(sources_wandb, "ASK_SECONDS", 1.5)
        server.misbehave("hang", on="ArtifactMembershipByName")
        assert "no answer within 1.5 s" in why(f"{self.NAME}:v0")
        server.behave()
        monkeypatch.delenv("WANDB_API_KEY")
        assert f"there is no API key for {server.url}" in why(f"{self.NAME}:v0")


class TestUploads:
    """What goes up, when, and what comes of it when it does not."""

    POINT = ("branch.from_step=20", "optimizer.lr=0.002", "tracker=wandb")

    def test_the_best_ones_as_references(
        self, tiny: Tiny, server: WandbServer, environment: dict[str, str], tmp_path: Path
    ) -> None:
        run = tiny.train(*self.POINT, "checkpoint.artifact=best", "checkpoint.artifact_by=reference",
                         "checkpoint.best_metric=val/error", "checkpoint.best_mode=min",
                         environment=environment)  # fmt: skip
        versions = server.artifacts.of(f"model-{run.id}")
        errors = {step: one.about.metrics["val/error"] for step, one in manifests(run).items()}
        assert versions[-1].metadata["step"] == min(errors, key=lambda step: errors[step])
        assert "best" in versions[-1].aliases
        assert not any("last" in one.aliases for one in versions)  # The last one need not be among them.
        name = checkpoint_file(versions[-1].metadata["step"])
        own = run.directory.checkpoints / name
        assert versions[-1].entries[name]["ref"] == own.resolve().as_uri()
        assert versions[-1].files == {}
        # Fetched, it is the file itself.
        found = fetch(f"{PROJECT}/model-{run.id}:best", tmp_path / "store")
        assert found.path == own.resolve()
        assert not (tmp_path / "store" / "objects").exists()

    def test_one_that_fails_is_tried_again_and_told_and_harms_nobody(
        self, tiny: Tiny, server: WandbServer, environment: dict[str, str]
    ) -> None:
        server.misbehave("status", status=403, on="/upload/")
        prepare = [tiny_faults.hasty_uploads]
        ended = tiny.launch(*self.POINT, "checkpoint.artifact=all", environment=environment, prepare=prepare)
        assert ended.status == 0, ended.err
        run = tiny.run("lr-0.002")
        assert ended.err.count("wandb did not take the checkpoint of step") == 2
        told = run.record.trackers["wandb_settings"]["not_uploaded"]
        assert list(told) == ["30", "40"]
        assert server.requests.count("/graphql#CreateArtifact") == 8
        assert "wandb_dropped" not in run.record.trackers
        assert not run.directory.artifacts.exists()

        # Afterwards, once and with all that they would have had.
        server.behave()
        ended = tiny.launch("sync", run.id, f"--outputs={tiny.outputs}", module="launcher.cli",
                            environment=environment)  # fmt: skip
        assert ended.status == 0, ended.said
        versions = server.artifacts.of(f"model-{run.id}")
        assert [one.metadata["step"] for one in versions] == [30, 40]
        assert [one.aliases - {"latest"} for one in versions] == [{"step-30"}, {"step-40", "last"}]
        assert [one.created_by for one in versions] == [run.id] * 2
        kept = json.loads(run.directory.artifacts.read_text())
        assert kept == {str(one.metadata["step"]): one.qualified for one in versions}
        asked = server.requests.count("/graphql#CreateArtifact")
        again = tiny.launch("sync", run.id, "--json", f"--outputs={tiny.outputs}", module="launcher.cli",
                            environment=environment)  # fmt: skip
        assert (again.status, json.loads(again.out)[0]["checkpoints"]) == (0, {})
        assert server.requests.count("/graphql#CreateArtifact") == asked
        assert server.run(run.id).state == "finished"

    def test_the_end_waits_for_the_last_one(
        self, tiny: Tiny, server: WandbServer, environment: dict[str, str]
    ) -> None:
        server.misbehave("slow", seconds=2.0, on="/upload/")
        run = tiny.train(*self.POINT, "checkpoint.artifact=last", environment=environment,
                         prepare=[tiny_faults.hurried_finish])  # fmt: skip
        [one] = server.artifacts.of(f"model-{run.id}")
        assert one.aliases >= {"step-40", "last"}

    def test_a_signal_ends_the_wait_for_what_hangs(
        self, tiny: Tiny, server: WandbServer, environment: dict[str, str]
    ) -> None:
        server.misbehave("hang", on="/upload/")
        ended = tiny.launch(*self.POINT, "checkpoint.artifact=all", environment=environment,
                            prepare=[tiny_faults.stopped_at_the_end])  # fmt: skip
        assert ended.status == 0, ended.err
        assert ended.err.count("wandb failed (finish): TimeoutError: no answer within 0.5 s") == 1
        run = tiny.run("lr-0.002")
        assert run.record.state == "finished"
        told = dict.fromkeys(("30", "40"), "its upload did not end")
        assert run.record.trackers["wandb_settings"]["not_uploaded"] == told

    def test_a_server_that_is_gone_is_not_waited_for(
        self, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half an hour is for uploads that go on."""
        monkeypatch.setattr(artifacts, "GONE_SECONDS", 0.5)
        monkeypatch.setattr(artifacts, "LOOK_SECONDS", 0.2)
        tracker = WandbTracker(WandbConfig(mode="online"))
        tracker.start(identity(tmp_path / "a"))
        path = tmp_path / "a" / checkpoint_file(3)
        path.write_bytes(b"state")
        write_json(manifest_of(path), {"step": 3})
        server.misbehave("hang", on="/upload/")
        tracker.keep(KeptCheckpoint(path, 3, ("step-3",), "copy", lambda: None))

        def finish() -> None:
            with pytest.raises(TimeoutError, match=r"its server has not answered for 0\.5 s"):
                tracker.finish("finished", {})
            told.set()

        told = threading.Event()
        finishing = threading.Thread(target=finish)
        finishing.start()
        finishing.join(2.0)
        assert finishing.is_alive()  # The server answers, and is given its time.
        server.misbehave("status", status=503)
        finishing.join(20.0)
        assert told.is_set()
        assert tracker.facts["not_uploaded"] == {"3": "its server does not answer"}
        tracker.abandon()

    def test_a_run_that_was_killed_hands_over_what_is_missing(
        self, tiny: Tiny, server: WandbServer, environment: dict[str, str]
    ) -> None:
        # The older one stays until it is up, whatever retention says.
        asked = (*self.POINT, "checkpoint.artifact=all", "checkpoint.keep_last=1")
        server.misbehave("hang", on="/upload/")
        kill = tiny_faults.Kill(35, "SIGKILL", saved=True)
        assert tiny.launch(*asked, environment=environment, prepare=[kill]).status == 137
        server.behave()
        run = tiny.train(*asked, environment=environment)
        steps = [one.metadata["step"] for one in server.artifacts.of(f"model-{run.id}")]
        assert sorted(steps) == [30, 40]
        assert sorted(json.loads(run.directory.artifacts.read_text())) == ["30", "40"]

    def test_pinned_and_offline_then_synced(
        self, tiny: Tiny, server: WandbServer, environment: dict[str, str]
    ) -> None:
        """The run's input and outputs are in W&B in the end."""
        name = checkpoint_file(20)
        place = tiny.trunk.directory.checkpoints / name
        files = {path.name: path.read_bytes() for path in (place, place.with_suffix(".json"))}
        began = server.artifacts.put(f"{PROJECT}/trunk-model", files)
        asked = (f"branch.from_checkpoint={PROJECT}/trunk-model:v0", "tracker=wandb",
                 "tracker.wandb.mode=offline", "checkpoint.artifact=pinned")  # fmt: skip
        pin = partial(tiny_faults.pin_at, 35, str(tiny.outputs), 30)
        run = tiny.train(*asked, environment=environment, prepare=[pin])
        assert list(server.artifacts.stored.values()) == [began]
        assert began.used_by == []
        ended = tiny.launch("sync", run.id, f"--outputs={tiny.outputs}", module="launcher.cli",
                            environment=environment)  # fmt: skip
        assert ended.status == 0, ended.said
        [one] = server.artifacts.of(f"model-{run.id}")
        assert (one.metadata["step"], one.created_by) == (30, run.id)
        name = checkpoint_file(30)
        assert one.files[name] == (run.directory.checkpoints / name).read_bytes()
        assert began.used_by == [run.id]
        assert server.run(run.id).state == "finished"
