"""Curves for figures: every run read once, long ones put together step by step without hiding anything.

Neighbouring steps go into one bucket where there are more of them than a figure can show. Of a bucket the
mean, the lowest and the highest value are kept, so that a spike stays visible. Buckets begin at the branch
point and are equally wide in all runs, so that equal steps stay equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.lineage import Run
from launcher.trackers.metrics_file import decode_line, unreadable
from launcher.trackers.metrics_window import BRANCH_STEPS, Numbering

MOST_POINTS = 400
"""Points of a curve after the branch point; as many again for what leads there."""
LEAST_POINTS = 40
ALL_POINTS = 50_000
"""Points of all curves of a figure together: what keeps a page with hundreds of curves small."""


@dataclass
class Bucket:
    """What was logged in some neighbouring steps."""

    step: int
    """The last of them, as the trunk counts."""
    total: float = 0.0
    count: int = 0
    low: float = math.inf
    high: float = -math.inf

    def add(self, step: int, value: float) -> None:
        """One more value."""
        self.step = step
        self.total += value
        self.count += 1
        self.low, self.high = min(self.low, value), max(self.high, value)

    @property
    def mean(self) -> float:
        """Of all values."""
        return self.total / self.count


Curve = Mapping[int, Bucket]
"""By the bucket's number: 1 is the first after the branch point, 0 the last before."""


@dataclass(frozen=True)
class Scale:
    """The steps of all curves of a figure."""

    origin: int
    """The branch point's step as the trunk counts; 0 where there is none."""
    span: int
    """Steps from there to the furthest end."""
    width: int
    """Steps in a bucket, from ``span`` before the branch point on."""
    coarse: int
    """Steps in a bucket further back."""

    @classmethod
    def of(cls, origin: int, span: int, curves: int) -> Scale:
        """The scale that keeps ``curves`` curves within :data:`ALL_POINTS`."""
        points = min(MOST_POINTS, max(LEAST_POINTS, ALL_POINTS // max(1, curves)))
        width = _at_least_one(span, points)
        return cls(origin, span, width, max(width, _at_least_one(origin - span, points)))

    def bucket(self, since: int) -> int:
        """The number of the bucket that a step since the branch point (0 and less: before it) falls in."""
        if since > -self.span:
            return -(-since // self.width)
        near = -(self.span // self.width) - 1
        return near - (-since - self.span) // self.coarse


def _at_least_one(span: int, points: int) -> int:
    return max(1, math.ceil(span / points))


@dataclass
class Read:
    """What one metrics file gave."""

    curves: dict[str, dict[int, Bucket]] = field(default_factory=dict)
    """By metric."""
    skipped: int = 0
    """Values that are no finite number."""
    merged: bool = False
    """Whether a bucket holds several steps."""


def read_curves(run: Run, scale: Scale, numbering: Numbering = BRANCH_STEPS) -> Read:
    """All metrics of one run.

    Raises:
        LauncherError: the file cannot be read, or a line is damaged.
    """
    read = Read()
    for line in _lines(run.directory.metrics):
        since = numbering.of(line)
        number = scale.bucket(since)
        for name, value in line.items():
            if "/" not in name or not isinstance(value, int | float):
                continue
            if not math.isfinite(value):
                read.skipped += 1
                continue
            curve = read.curves.setdefault(name, {})
            bucket = curve.get(number)
            if bucket is None:
                bucket = curve[number] = Bucket(0)
            else:
                read.merged = True
            bucket.add(scale.origin + since, float(value))
    return read


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Line by line: a file may be longer than memory. A torn last line is left out."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.endswith(b"\n"):
                    yield decode_line(raw, path, f"line {number}")
    except FileNotFoundError:
        return
    except OSError as error:
        raise unreadable(path, error) from error


@dataclass(frozen=True)
class Band:
    """One metric of one arm over all its streams."""

    steps: list[int]
    mean: list[float]
    """Over the streams that have a value there."""
    low: list[float]
    """The lowest value of any stream."""
    high: list[float]
    count: list[int]
    """How many streams have a value there."""
    streams: dict[int, list[float | None]]
    """Each stream's own curve, None where it has no value."""

    @property
    def plain(self) -> bool:
        """Whether there is nothing but the line: one value a point."""
        return self.low == self.high


def band(curves: Mapping[int, Curve]) -> Band | None:
    """Put the curves of an arm together, by stream; None where there is no value."""
    numbers = sorted({number for curve in curves.values() for number in curve})
    if not numbers:
        return None
    there = [[curve[number] for curve in curves.values() if number in curve] for number in numbers]
    return Band(
        steps=[max(one.step for one in buckets) for buckets in there],
        mean=[math.fsum(one.mean for one in buckets) / len(buckets) for buckets in there],
        low=[min(one.low for one in buckets) for buckets in there],
        high=[max(one.high for one in buckets) for buckets in there],
        count=[len(buckets) for buckets in there],
        streams={
            stream: [curve[number].mean if number in curve else None for number in numbers]
            for stream, curve in curves.items()
        },
    )
