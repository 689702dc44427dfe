"""Checkpoints out of a trunk into W&B, and out of W&B into a branch, by the real client."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import pytest

from launcher.layout import checkpoint_file
from tests import tiny_faults
from tests.tiny_process import Tiny, digest, manifests
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
