"""``metrics.jsonl``: one JSON object a logged step, always on; the truth that trackers mirror.

The keys are flat: ``global_step`` and ``branch_step`` (and ``absolute_step`` where steps are numbered
anew), metric names (``train/token_accuracy``) and digests (``digest/rng``). Every line is strict JSON:
a value that JSON has no number for is written as ``null``, with ``nonfinite/<name>`` beside it saying
``NaN``, ``Infinity`` or ``-Infinity``; :func:`read_metrics` puts the two together again. Floats are
written with ``repr``, so that what is read is bit for bit what was logged.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError
from launcher.files import disk_error, flush_to_disk, written_aside

STEP = "global_step"
"""The key that every line has."""
NONFINITE = "nonfinite/"
"""Begins the key that says which of the three a ``null`` was."""

_NONFINITE_BYTES = NONFINITE.encode()
_SPELLING = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_TAIL_BYTES = 4096
"""Read from the end at first: more than one line, of some 300 bytes, in one block of a file system."""


class MetricsFile:
    """The metrics file of one run, open for appending.

    It is valid after a kill at any moment: a line goes out in one write, and opening drops a torn last
    line. A resumed run computes again what lies between its checkpoint and its last line; those lines
    are already here and are ignored, so that every step is there once.
    """

    def __init__(self, path: Path, aside: Callable[[], Path | None] = lambda: None) -> None:
        """Open or create ``path``.

        Args:
            path: the file.
            aside: asked before each line; gives the place to write aside in, or raises if this process may
                not write any more (:meth:`launcher.lease.Lease.aside`).

        Raises:
            LauncherError: it cannot be written, or its last complete line is not a line of metrics.
        """
        self.path = path
        self._aside = aside
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._take_over()
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            raise disk_error(error, path) from error
        self._entry_is_durable = False
        try:
            self.last_step = self._drop_torn_line()
        except BaseException:
            self.close()
            raise

    def _take_over(self) -> None:
        """Put a copy in the file's place: an older process still appends to the file that it has open."""
        if (place := self._aside()) is None or not self.path.exists():
            return
        with written_aside(self.path, place) as copy:
            shutil.copyfile(self.path, copy)

    def _drop_torn_line(self) -> int | None:
        line, end = _last_complete_line(self._descriptor)
        step = None if line is None else int(decode_line(line, self.path, "the last line")[STEP])
        if end != os.fstat(self._descriptor).st_size:
            try:
                os.ftruncate(self._descriptor, end)
            except OSError as error:
                raise disk_error(error, self.path) from error
        return step

    def append(self, line: Mapping[str, int | float | str]) -> bool:
        """Add a line, unless its step is there already; says whether it was added.

        Raises:
            LauncherError: it cannot be written; the file then ends with the line before.
        """
        step = line[STEP]
        if not isinstance(step, int):
            raise TypeError(f"{STEP} is a {type(step).__name__}, not an int")
        if self.last_step is not None and step <= self.last_step:
            return False
        self._aside()
        self._write(_encode(line))
        self.last_step = step
        return True

    def _write(self, data: bytes) -> None:
        before = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, data)
            # A nearly full disk takes a part without an error; going on makes it say why.
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            # A caller that goes on must not append to half a line.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, before)
            raise disk_error(error, self.path) from error

    def sync(self) -> None:
        """Have on disk what was appended, so that it outlives a power cut."""
        try:
            os.fsync(self._descriptor)
            if not self._entry_is_durable:
                flush_to_disk(self.path.parent)
                self._entry_is_durable = True
        except OSError as error:
            raise disk_error(error, self.path) from error

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics file, without a torn last one; none where there is no file.

    A NaN is always the one object ``math.nan``, so equal files give lists that compare equal.

    Raises:
        LauncherError: a line is not a line of metrics; it names the file and the line.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(path, error) from error
    return [decode_line(line, path, f"line {number}") for number, line in enumerate(lines, start=1)]


def last_metrics(path: Path) -> dict[str, Any] | None:
    """The last complete line of a metrics file, reading only its end; None where there is none.

    Raises:
        LauncherError: that line is not a line of metrics.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        line, _ = _last_complete_line(descriptor)
    finally:
        os.close(descriptor)
    return None if line is None else decode_line(line, path, "the last line")


def _last_complete_line(descriptor: int) -> tuple[bytes | None, int]:
    """The line, and where it ends in the file."""
    size = os.fstat(descriptor).st_size
    length = _TAIL_BYTES
    while True:
        start = max(0, size - length)
        tail = os.pread(descriptor, size - start, start)
        end = tail.rfind(b"\n")
        begin = tail.rfind(b"\n", 0, end) + 1 if end >= 0 else 0
        if begin > 0 or start == 0:
            return (None, 0) if end < 0 else (tail[begin:end], start + end + 1)
        length *= 4


def _encode(line: Mapping[str, int | float | str]) -> bytes:
    flat: dict[str, int | float | str | None] = {}
    for key, value in line.items():
        if not isinstance(value, int | float | str):
            raise TypeError(f"metric {key} is a {type(value).__name__}, not a plain number or text")
        if isinstance(value, float) and not math.isfinite(value):
            flat[key] = None
            flat[NONFINITE + key] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        else:
            flat[key] = value
    return json.dumps(flat, allow_nan=False).encode() + b"\n"


def decode_line(raw: bytes, path: Path, which: str) -> dict[str, Any]:
    """One line as :func:`read_metrics` gives it; ``which`` is what an error calls it.

    Raises:
        LauncherError: it is not a line of metrics.
    """
    try:
        line = json.loads(raw)
        if not isinstance(line, dict) or type(line.get(STEP)) is not int:
            raise ValueError(f"no {STEP}")
        odd = [key for key in line if key.startswith(NONFINITE)] if _NONFINITE_BYTES in raw else []
        for key in odd:
            line[key.removeprefix(NONFINITE)] = _SPELLING[line.pop(key)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LauncherError(
            f"{which[0].upper()}{which[1:]} of the metrics file is damaged.",
            where=f"{path}:{which.removeprefix('line ')}",
            found=repr(raw[:80])[1:],
            expected=f"one JSON object with {STEP}",
            do="restore the file from a copy, or remove that line",
        ) from error
    return line


def unreadable(path: Path, error: OSError) -> LauncherError:
    """What is said where a metrics file cannot be read."""
    return LauncherError(f"Cannot read the metrics file: {error.strerror or error}.", where=str(path))
