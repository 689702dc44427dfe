"""Checkpoints go as was said, but never one that some run branched from or that was pinned."""

from __future__ import annotations

from pathlib import Path

from tests.tiny_faults import Kill
from tests.tiny_process import Tiny, manifests

KEEP = "checkpoint.keep_last=1"


def interrupted(empty: Tiny) -> Tiny:
    """A trunk that keeps its newest checkpoint only, stopped at step 15."""
    assert empty.launch(KEEP, prepare=[Kill(15, "SIGTERM")]).status == 143
    assert sorted(manifests(empty.trunk)) == [15]
    return empty


def test_only_the_newest_is_kept(empty: Tiny) -> None:
    assert sorted(manifests(interrupted(empty).train(KEEP))) == [40]


def test_multiples_are_kept_as_well(empty: Tiny) -> None:
    assert sorted(manifests(empty.train(KEEP, "checkpoint.keep_every=20"))) == [20, 40]


def test_the_best_is_kept_as_well(empty: Tiny) -> None:
    run = empty.train(KEEP, "checkpoint.best_metric=val/error", "checkpoint.best_mode=min")
    kept = manifests(run)
    everything = manifests(Tiny(empty.outputs.parent / "everything").train())
    errors = {step: one.about.metrics["val/error"] for step, one in everything.items()}
    assert set(kept) == {40, min(errors, key=lambda step: errors[step])}


def test_one_that_was_branched_from_stays(empty: Tiny) -> None:
    tiny = interrupted(empty)
    tiny.train("branch.from_step=15", "branch.steps=2", "loss=heavy")
    assert sorted(manifests(tiny.train(KEEP))) == [15, 40]


def test_one_that_was_pinned_stays(empty: Tiny, tmp_path: Path) -> None:
    tiny = interrupted(empty)
    assert tiny.launcher("pin", f"{tiny.trunk.id}@15", "here", f"--conf={tmp_path}").status == 0
    assert sorted(manifests(tiny.train(KEEP))) == [15, 40]


def test_while_nobody_can_tell_what_was_branched_from_all_stay(empty: Tiny) -> None:
    tiny = interrupted(empty)
    trunk = tiny.trunk
    unreadable = tiny.outputs / "checkpoint-15-experiments" / "x" / "run.json"
    unreadable.parent.mkdir(parents=True)
    unreadable.write_text("{")
    ended = tiny.launch(KEEP)
    assert ended.status == 0
    assert "could not be removed" in ended.err
    assert sorted(manifests(trunk)) == [15, 20, 30, 40]
