"""What a tracker that is to mirror metrics.jsonl does not have yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from launcher.layout import RunDirectory
from launcher.trackers.base import RunIdentity
from launcher.trackers.metrics_file import STEP, read_metrics


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The part of a line of metrics.jsonl that trackers are told, without the step itself."""
    return {key: value for key, value in line.items() if key != STEP and not isinstance(value, str)}


def missing(identity: RunIdentity, there: Collection[int]) -> list[tuple[int, dict[str, float]]]:
    """The steps that earlier processes of a run logged and that are not ``there``, in order.

    A kill takes with it what a tracker still held back, and a tracker that failed got nothing more: the
    next process of the run hands it over. An empty list for a run that begins.

    Raises:
        LauncherError: metrics.jsonl cannot be read.
    """
    last = identity.last_logged_step
    if last is None:
        return []
    known = set(there)
    lines = read_metrics(RunDirectory(identity.directory).metrics)
    return [(line[STEP], numbers(line)) for line in lines if line[STEP] <= last and line[STEP] not in known]
