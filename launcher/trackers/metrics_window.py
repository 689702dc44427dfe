"""A part of a metrics file: the last values up to a step, read backwards and no further than needed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.trackers.metrics_file import STEP, decode_line, unreadable

_FIRST_BLOCK = 4096
_LARGEST_BLOCK = 1 << 18
"""Read at once, in bytes: what a reader holds in memory, whatever the file's length."""
_CLOSE = 1 << 14
"""Bytes within which a step is not searched for by halving any more."""


@dataclass(frozen=True)
class Numbering:
    """How far after the branch point a line of metrics is."""

    key: str = "branch_step"
    offset: int = 0
    """What is taken off: of a trunk's ``global_step`` the step of the branch point."""

    def of(self, line: Mapping[str, Any]) -> int:
        """Steps since the branch point; 0 and less: not after it."""
        return int(line.get(self.key, line[STEP])) - self.offset


BRANCH_STEPS = Numbering()


def last_values(
    path: Path,
    names: Sequence[str],
    count: int,
    up_to: int | None = None,
    numbering: Numbering = BRANCH_STEPS,
) -> dict[str, dict[int, float]]:
    """The last ``count`` values of each metric after the branch point, by steps since it, newest first.

    Args:
        path: the metrics file; where there is none, there are no values.
        names: the metrics.
        count: values of each.
        up_to: the last step that counts; None: the file's last.
        numbering: what the steps are counted from.

    Raises:
        LauncherError: the file cannot be read, or a line that was looked at is damaged.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    needles = {name: json.dumps(name).encode() for name in names}
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return found
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        for raw in _lines_back(descriptor, _end(descriptor, path, up_to, numbering), needles):
            line = decode_line(raw, path, "a line")
            step = numbering.of(line)
            if up_to is not None and step > up_to:
                continue
            if step <= 0:
                break
            for name in [name for name in needles if name in line]:
                if isinstance(line[name], int | float):
                    found[name][step] = float(line[name])
                if len(found[name]) == count:
                    del needles[name]
            if not needles:
                break
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        os.close(descriptor)
    return found


def _lines_back(descriptor: int, end: int, needles: Mapping[str, bytes]) -> Iterator[bytes]:
    """The complete lines before byte ``end`` that have one of ``needles`` in them, last one first.

    Most lines lack the metrics of a validation. They are passed over by a search for what the needles that
    are left begin with, and are not even cut apart.
    """
    rest, length, torn = b"", _FIRST_BLOCK, True
    while end > 0:
        start = max(0, end - length)
        block = os.pread(descriptor, end - start, start) + rest
        end, length = start, min(4 * length, _LARGEST_BLOCK)
        if torn:
            # What follows the last newline: nothing, or a line that was never finished.
            whole, newline, _ = block.rpartition(b"\n")
            if not newline:
                continue
            block = whole
            torn = False
        first = block.find(b"\n") + 1 if start else 0
        if start and not first:
            rest = block
            continue
        yield from _matching(block, first, needles)
        rest = block[: max(0, first - 1)]


def _matching(block: bytes, first: int, needles: Mapping[str, bytes]) -> Iterator[bytes]:
    """The lines of a block from byte ``first`` on that have a needle, last one first."""
    high, count, shared = len(block), 0, b""
    while needles:
        if len(needles) != count:
            count, shared = len(needles), _beginning(list(needles.values()))
        at = block.rfind(shared, first, high)
        if at < 0:
            return
        begin = max(first, block.rfind(b"\n", first, at) + 1)
        stop = block.find(b"\n", at)
        line = block[begin:] if stop < 0 else block[begin:stop]
        if count == 1 or any(needle in line for needle in needles.values()):
            yield line
        high = begin


def _beginning(needles: list[bytes]) -> bytes:
    """What all of them begin with."""
    low, high = min(needles), max(needles)
    same = next((k for k, (one, two) in enumerate(zip(low, high, strict=False)) if one != two), len(low))
    return low[:same]


def _end(descriptor: int, path: Path, up_to: int | None, numbering: Numbering) -> int:
    """A byte that no line up to step ``up_to`` begins behind, and few others before; steps only grow."""
    end = os.fstat(descriptor).st_size
    low, high = 0, end
    while up_to is not None and high - low > _CLOSE:
        middle = (low + high) // 2
        begin, line = _line_after(descriptor, middle, high)
        if line is None:
            high = middle
        elif numbering.of(decode_line(line, path, "a line")) <= up_to:
            low = begin
        else:
            high = end = begin
    return end


def _line_after(descriptor: int, place: int, limit: int) -> tuple[int, bytes | None]:
    """The first complete line that begins after ``place``, and where; None before ``limit``."""
    length = _FIRST_BLOCK
    while True:
        block = os.pread(descriptor, length, place)
        begin = block.find(b"\n") + 1
        end = block.find(b"\n", begin) if begin else -1
        if begin and place + begin >= limit:
            return place + begin, None
        if end >= 0:
            return place + begin, block[begin:end]
        if place + length >= limit:
            return place, None
        length *= 4
