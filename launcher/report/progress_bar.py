"""A progress bar for a run, on a terminal; silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

SHOWN = ("train/total_loss", "train/token_accuracy")
"""Metrics that stand beside the bar, where the task has them."""


class ProgressBar:
    """Steps done and to come, speed, time left, and the last metrics."""

    def __init__(self, name: str, end_step: int) -> None:
        self._name = name
        self._end = end_step
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def start(self, step: int) -> None:
        """Show the bar at ``step``, if someone is there to see it."""
        console = Console(stderr=True)
        if not console.is_terminal or not sys.stderr.isatty():
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=console,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(self._name, total=self._end, completed=step, metrics="")
        self._progress.start()

    def advance(self, step: int) -> None:
        """``step`` is done."""
        if self._progress is not None and step % 10 == 0:
            self._progress.update(self._task, completed=step)

    def show(self, metrics: Mapping[str, float]) -> None:
        """Put the last metrics beside the bar."""
        if self._progress is None:
            return
        shown = [f"{name.partition('/')[2]} {metrics[name]:.3f}" for name in SHOWN if name in metrics]
        self._progress.update(self._task, metrics=" ".join(shown))

    def stop(self) -> None:
        """Take the bar away; a second time does nothing."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
