"""What every tracker has to do, held against each of them: the real libraries, no stand-ins."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.trackers.base import RunIdentity, Tracker
from launcher.trackers.metrics_file import STEP, MetricsFile, read_metrics
from launcher.trackers.mirror import numbers
from launcher.trackers.trackers import Trackers
from tests.trackers.mirrors import MIRRORS, Mirror, Rows, mirror, needs

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture(params=[pytest.param(name, marks=needs(name)) for name in MIRRORS])
def subject(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mirror]:
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    database = request.getfixturevalue("mlflow_database") if request.param == "mlflow" else None
    yield mirror(request.param, tmp_path, database)
    if request.param == "wandb" and "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def identity(tmp_path: Path, run: str = "fixed-1a2b3c4d", **changes: Any) -> RunIdentity:
    directory = tmp_path / "checkpoint-15k-experiments" / run
    directory.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "id": run, "name": run, "group": "checkpoint-15k-experiments", "job_type": "fixed-spectrum",
        "project": f"project-{tmp_path.name}", "tags": ("from-checkpoint", "fixed-spectrum"), "notes": "why",
        "config": {"optimizer": {"lr": 5e-5}, "branched_from_step": 15_000},
    }  # fmt: skip
    return RunIdentity(directory=directory, **{**about, **changes})


def line(step: int) -> dict[str, int | float | str]:
    told: dict[str, int | float | str] = {
        STEP: step,
        "branch_step": step - 1,
        "train/x": step / 7,
        "digest/rng": "ab",
    }
    if step % 3 == 0:
        told["val/accuracy"] = 1 / step
    return told


def run(
    about: RunIdentity, trackers: Iterable[Tracker], steps: Iterable[int], state: Any = "finished"
) -> Trackers:
    """A process of a run, as training does it."""
    metrics = MetricsFile(about.directory / "metrics.jsonl")
    made = Trackers(metrics, list(trackers))
    last = metrics.last_step
    made.start(RunIdentity(**{**vars(about), "resumed": last is not None, "last_logged_step": last}))
    for step in steps:
        made.log(line(step))
    made.finish(state, {"step": 1})
    return made


def expected(subject: Mirror, about: RunIdentity) -> Rows:
    """What metrics.jsonl has, as the tracker can keep it."""
    lines = read_metrics(about.directory / "metrics.jsonl")
    return [(each[STEP], {k: subject.stored(v) for k, v in numbers(each).items()}) for each in lines]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "launcher.trackers" and record.levelno >= logging.WARNING
    ]


def test_the_tracker_has_what_the_metrics_file_has(
    subject: Mirror, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    about = identity(tmp_path)
    made = run(about, [subject.make()], range(15_001, 15_008))
    assert warnings_in(caplog) == []
    assert capfd.readouterr() == ("", "")
    assert made.dropped == {}
    assert made.links[subject.name]
    rows = subject.rows(about)
    assert len(rows) == 7
    assert rows == expected(subject, about)


def test_a_resumed_run_goes_on_and_has_no_step_twice(subject: Mirror, tmp_path: Path) -> None:
    about = identity(tmp_path)
    run(about, [subject.make()], range(1, 6), "interrupted")
    run(about, [subject.make()], range(3, 9), "interrupted")
    run(about, [subject.make()], range(8, 10))
    assert [step for step, _ in subject.rows(about)] == list(range(1, 10))
    assert subject.rows(about) == expected(subject, about)


def test_siblings_in_one_process_are_runs_of_their_own(subject: Mirror, tmp_path: Path) -> None:
    first, second = identity(tmp_path, "fixed-1a2b3c4d"), identity(tmp_path, "buggy-5e6f7a8b")
    # The second begins while the first is not finished, as after a failure.
    unfinished = subject.make()
    unfinished.start(first)
    run(second, [subject.make()], range(1, 4))
    if subject.name != "wandb":  # There it would take the second's client with it.
        unfinished.abandon()
    run(first, [subject.make()], range(1, 6))
    assert subject.rows(first) == expected(subject, first)
    assert subject.rows(second) == expected(subject, second)


def test_what_a_kill_took_with_it_is_handed_over_by_the_next_process(subject: Mirror, tmp_path: Path) -> None:
    if not subject.fills_gaps:
        pytest.skip("W&B takes no step smaller than its last one")
    about = identity(tmp_path)
    killed = subject.make()
    killed.start(about)
    for step in (1, 2, 5):
        killed.log(step, numbers(line(step)))
    killed.abandon()
    run(about, [], range(1, 8), "interrupted")
    run(about, [subject.make()], range(6, 10))
    assert [step for step, _ in subject.rows(about)] == list(range(1, 10))
    assert subject.rows(about) == expected(subject, about)


def test_numbers_that_are_none(subject: Mirror, tmp_path: Path) -> None:
    about = identity(tmp_path)
    metrics = MetricsFile(about.directory / "metrics.jsonl")
    trackers = Trackers(metrics, [subject.make()])
    trackers.start(about)
    for step, value in enumerate((1.0, math.nan, math.inf, -math.inf), start=1):
        trackers.log({STEP: step, "train/x": value})
    trackers.finish("finished")
    assert trackers.dropped == {}
    found = [float(row["train/x"]) for _, row in subject.rows(about)]
    assert repr(found) == repr([subject.stored(value) for value in (1.0, math.nan, math.inf, -math.inf)])


def test_a_tracker_that_cannot_start_costs_one_warning(
    subject: Mirror, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    about = identity(tmp_path)
    made = run(about, [subject.failing()], range(1, 6))
    [warning] = warnings_in(caplog)
    assert warning.startswith(f"{subject.name} failed (start)")
    assert made.dropped == {subject.name: 5}
    assert len(read_metrics(about.directory / "metrics.jsonl")) == 5


def test_a_tracker_that_breaks_off_costs_one_warning(
    subject: Mirror, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    about = identity(tmp_path)
    metrics = MetricsFile(about.directory / "metrics.jsonl")
    tracker = subject.make()
    trackers = Trackers(metrics, [tracker])
    trackers.start(about)
    while not trackers.links:
        time.sleep(0.01)
    subject.spoil(tracker)
    for step in range(1, 6):
        trackers.log(line(step))
    trackers.finish("finished")
    [warning] = warnings_in(caplog)
    assert warning.startswith(f"{subject.name} failed")
    assert trackers.dropped == {subject.name: 5}
    assert len(read_metrics(about.directory / "metrics.jsonl")) == 5
