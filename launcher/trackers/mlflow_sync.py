"""``launcher sync`` for MLflow: a run whose server was away is completed from the run's own files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.layout import RunDirectory
from launcher.trackers.base import State, reason_of
from launcher.trackers.metrics_file import STEP, read_metrics
from launcher.trackers.mlflow import MlflowTracker
from launcher.trackers.mlflow_told import told_of


@dataclass
class Completed:
    """What became of one run."""

    link: str | None = None
    lines: int = 0
    """Logged steps in metrics.jsonl."""
    sent: int = 0
    """Rows that were sent from there."""
    problem: str | None = None


def complete_run(directory: Path, state: State, summary: Mapping[str, Any]) -> Completed:
    """Hand over the rows that MLflow lacks and how the run ended; whatever goes wrong is in the result.

    Args:
        directory: the run's.
        state: how it ended.
        summary: what a tracker is told at the end.
    """
    found = Completed()
    metrics = RunDirectory(directory).metrics
    try:
        lines = read_metrics(metrics)
        found.lines = len(lines)
        told = told_of(directory, lines[-1][STEP] if lines else None)
        tracker = MlflowTracker(told.config)
        with contextlib.suppress(FileNotFoundError):
            tracker.ended = metrics.stat().st_mtime
        found.link, found.sent = tracker.complete(told.identity, state, summary)
    except Exception as error:  # The client's errors have no common base.
        found.problem = reason_of(error)
    return found
