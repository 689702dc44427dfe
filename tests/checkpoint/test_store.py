"""Which checkpoints are there, and which may go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from launcher import layout
from launcher.checkpoint import store
from launcher.checkpoint.verify import newest_good
from launcher.checkpoint.writer import CheckpointWriter
from launcher.config import CheckpointConfig
from launcher.errors import CheckpointError

from .states import about, saved, tiny_state

step_sets = st.sets(st.integers(0, 60), min_size=1, max_size=20)
retentions = st.builds(
    CheckpointConfig,
    keep_last=st.none() | st.integers(1, 5),
    keep_every=st.none() | st.integers(1, 20),
    best_metric=st.none() | st.just("val/accuracy"),
    best_mode=st.sampled_from(["max", "min"]),
)
metric_values = st.dictionaries(st.integers(0, 60), st.floats(), max_size=20)


@given(step_sets, retentions, metric_values, step_sets)
def test_what_retention_promises(
    steps: set[int], retention: CheckpointConfig, metrics: dict[int, float], protected: set[int]
) -> None:
    gone = store.removable(steps, retention, metrics, protected)
    assert gone == sorted(set(gone))
    assert set(gone) <= steps
    assert not set(gone) & protected
    assert max(steps) not in gone
    if retention.keep_last is None:
        assert gone == []
        return
    assert not set(gone) & set(sorted(steps)[-retention.keep_last :])
    if retention.keep_every is not None:
        assert all(step % retention.keep_every for step in gone)
    known = {step: metrics[step] for step in steps if step in metrics and metrics[step] == metrics[step]}
    if retention.best_metric is not None and known:
        best = max(known.values()) if retention.best_mode == "max" else min(known.values())
        assert any(value == best and step not in gone for step, value in known.items())
    # Protecting one checkpoint does not push out another.
    assert gone == [step for step in store.removable(steps, retention, metrics, ()) if step not in protected]


@given(step_sets, retentions, metric_values)
def test_what_is_kept_for_no_reason_is_removed(
    steps: set[int], retention: CheckpointConfig, metrics: dict[int, float]
) -> None:
    assume(retention.keep_last is not None)
    assert retention.keep_last is not None
    kept = steps - set(store.removable(steps, retention, metrics, ()))
    every = [step for step in kept if retention.keep_every is not None and step % retention.keep_every == 0]
    assert len(kept) <= retention.keep_last + len(every) + (retention.best_metric is not None)


@given(step_sets, retentions, metric_values)
def test_removing_twice_removes_nothing_more(
    steps: set[int], retention: CheckpointConfig, metrics: dict[int, float]
) -> None:
    left = steps - set(store.removable(steps, retention, metrics, ()))
    assert store.removable(left, retention, metrics, ()) == []


@pytest.mark.parametrize(("mode", "best"), [("max", 3), ("min", 1)])
def test_the_best_is_the_earliest_of_equals(mode: str, best: int) -> None:
    retention = CheckpointConfig(keep_last=1, best_metric="m", best_mode=mode)
    metrics = {1: 0.1, 2: 0.1, 3: 0.9, 4: 0.9, 5: 0.5}
    assert set(store.removable(range(1, 6), retention, metrics, ())) == {1, 2, 3, 4} - {best}


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("diverged", [1, 2, 3])
def test_a_metric_that_is_not_a_number_is_never_the_best(mode: str, diverged: int) -> None:
    retention = CheckpointConfig(keep_last=1, best_metric="m", best_mode=mode)
    metrics = {1: 0.5, 2: 0.5, 3: 0.5, diverged: float("nan")}
    assert diverged in store.removable(range(1, 5), retention, metrics, ())
    assert len(store.removable(range(1, 5), retention, metrics, ())) == 2


def test_only_complete_checkpoints_are_listed_by_number(tmp_path: Path) -> None:
    for step in (1000, 900, 20):
        saved(tmp_path, tiny_state(step))
    for name in (
        *(
            "checkpoint_step_7.pt",
            "checkpoint_step_8.json",
            "checkpoint_step_009.pt",
            "checkpoint_step_009.json",
        ),
        *("last.pt", "last.json", ".checkpoint_step_5.pt.1.tmp", "checkpoint_step_x.json", "notes.txt"),
    ):
        (tmp_path / name).touch()
    assert [path.name for path in store.checkpoints(tmp_path)] == [
        layout.checkpoint_file(step) for step in (20, 900, 1000)
    ]
    assert [store.step_of(path) for path in store.published(tmp_path)] == [8, 20, 900, 1000]
    assert store.checkpoints(tmp_path / "nowhere") == []
    assert store.checkpoints(tmp_path / "notes.txt") == []


@pytest.mark.parametrize("name", ["last.pt", "checkpoint_step_007.pt", "checkpoint_step_7.json"])
def test_other_names_have_no_step(name: str) -> None:
    with pytest.raises(CheckpointError, match="not the name"):
        store.step_of(Path(name))


def test_removing_takes_the_manifest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, tiny_state(1))
    removed: list[str] = []
    unlink = os.unlink

    def noted(target: Path, **more: object) -> None:
        removed.append(Path(target).name)
        unlink(target)

    monkeypatch.setattr(os, "unlink", noted)
    store.remove(path)
    assert removed == ["checkpoint_step_1.json", "checkpoint_step_1.pt"]
    store.remove(path)
    assert list(tmp_path.iterdir()) == []


def test_opening_removes_what_dead_writers_left_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path, tiny_state(1))
    stray = [".checkpoint_step_2.pt.4711.tmp", ".checkpoint_step_2.json.1.tmp"]
    other = [".other.tmp", "checkpoint_step_3.pt", ".checkpoint_step_2.pt.tmp", "checkpoint_step_1.pin"]
    for name in stray + other:
        (tmp_path / name).write_text("x")
    before = {path.name for path in tmp_path.iterdir()}
    CheckpointWriter(tmp_path, CheckpointConfig()).close()
    assert before - {path.name for path in tmp_path.iterdir()} == set(stray)


def steps_left(directory: Path) -> list[int]:
    return [store.step_of(path) for path in store.checkpoints(directory)]


def test_a_writer_removes_what_retention_gives_up(tmp_path: Path) -> None:
    retention = CheckpointConfig(keep_last=2, keep_every=40, best_metric="acc")
    with CheckpointWriter(tmp_path, retention, lambda: {50}) as writer:
        for step in range(10, 110, 10):
            writer.save(tiny_state(step), about(step, metrics={"acc": -abs(step - 30)}))
            if step == 20:
                writer.wait()
                layout.pin_of(tmp_path / layout.checkpoint_file(20)).touch()
    assert steps_left(tmp_path) == [20, 30, 40, 50, 80, 90, 100]
    assert {path.suffix for path in tmp_path.iterdir()} == {".pt", ".json", ".pin"}


def test_who_branched_is_asked_only_if_something_would_go(tmp_path: Path) -> None:
    asked: list[int] = []

    def protected() -> set[int]:
        asked.append(1)
        return {1}

    with CheckpointWriter(tmp_path, CheckpointConfig(keep_last=2), protected) as writer:
        for step in (1, 2):
            writer.save(tiny_state(step), about(step))
            writer.wait()
        assert asked == []
        writer.save(tiny_state(3), about(3))
    assert asked == [1]
    assert steps_left(tmp_path) == [1, 2, 3]


def test_if_it_cannot_be_told_who_branched_nothing_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def protected() -> set[int]:
        raise OSError("records cannot be read")

    with CheckpointWriter(tmp_path, CheckpointConfig(keep_last=1), protected) as writer:
        for step in (1, 2, 3):
            writer.save(tiny_state(step), about(step))
    assert steps_left(tmp_path) == [1, 2, 3]
    assert "records cannot be read" in caplog.text


def test_what_was_just_saved_stays_though_a_higher_step_is_there(tmp_path: Path) -> None:
    """A run that went back, because its newest checkpoint was damaged, must not lose its way forward."""
    damaged = saved(tmp_path, tiny_state(9))
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    saved(tmp_path, tiny_state(5), retention=CheckpointConfig(keep_last=1))
    good, refused = newest_good(tmp_path)
    assert good == tmp_path / layout.checkpoint_file(5)
    assert len(refused) == 1
