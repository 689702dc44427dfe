"""What the trunk had at the steps that a branch logs, to be seen beside the branch's own."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from launcher.errors import LauncherError
from launcher.trackers.metrics_file import STEP, read_metrics

log = logging.getLogger("launcher.trackers")

PREFIX = "trunk/"
"""Begins the names under which trackers show the trunk's values."""


class TrunkValues:
    """The trunk's lines after the branch point, read once, when the first of them is asked for.

    Where the trunk has no line at a step, because it ended before or logged at other intervals, there is no
    reference at that step: nothing is carried forward or interpolated.
    """

    def __init__(self, metrics: Path, parent_step: int, start_step: int) -> None:
        """The trunk's metrics file, and the branch point in the trunk's numbering and in the branch's."""
        self._metrics, self._parent_step = metrics, parent_step
        self._offset = parent_step - start_step
        self._lines: dict[int, dict[str, float]] | None = None
        self._lock = threading.Lock()  # Each tracker asks from a thread of its own.

    def at(self, step: int) -> dict[str, float]:
        """``trunk/val/token_accuracy`` and the like at the branch's ``step``; empty where there are none."""
        with self._lock:
            if self._lines is None:
                self._lines = self._read()
            return self._lines.get(step + self._offset, {})

    def _read(self) -> dict[int, dict[str, float]]:
        try:
            lines = read_metrics(self._metrics)
        except LauncherError as error:
            log.warning("Trackers do not show the trunk beside the branch. %s", error)
            return {}
        return {line[STEP]: _shown(line) for line in lines if line[STEP] > self._parent_step}


def _shown(line: dict[str, float | str]) -> dict[str, float]:
    return {
        PREFIX + name: value
        for name, value in line.items()
        if "/" in name and not isinstance(value, str) and value is not None
    }
