"""Bytes from somewhere into a file: resumed after a break, checked at the end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from launcher.files import disk_error, file_digest, readable_bytes
from launcher.sources.remote import Broken, unavailable

CONNECT_SECONDS = 20.0
"""How long a server may take to be reached."""
STALL_SECONDS = 60.0
"""How long a server may send nothing."""
CHECK_SECONDS = 0.5
"""How often it is made sure that this process may still write."""
PAUSES = (0.5, 2.0, 5.0)
"""Seconds before each further try; only tries that brought nothing new are counted."""

_T = TypeVar("_T")
Opened = tuple[int, Iterable[bytes]]
"""Where the bytes begin, and the bytes."""


def tried(what: Callable[[], _T], reference: str) -> _T:
    """What ``what`` returns, tried again after each :class:`Broken`.

    Raises:
        BranchPointUnavailable: the last try broke off as well.
    """
    for pause in (*PAUSES, None):
        try:
            return what()
        except Broken as error:
            if pause is None:
                raise unavailable(reference, f"{error}, {len(PAUSES) + 1} times") from error
            time.sleep(pause)
    raise AssertionError


def bring(
    part: Path,
    size: int | None,
    open_at: Callable[[int], Opened],
    check: Callable[[], object],
    reference: str,
) -> None:
    """Bring ``part`` up to the whole file.

    Args:
        part: what is there so far.
        size: of the whole, in bytes, where it is known.
        open_at: the bytes from an offset on; it may begin at 0 instead. Raises :class:`Broken`.
        check: called before the first write and then now and again.
        reference: for messages.

    Raises:
        BranchPointUnavailable: it broke off too often without getting any further.
        RunFailed: the disk does not take it.
    """
    best, idle = _size(part), 0
    while True:
        try:
            _append(part, size, open_at, check)
            return
        except Broken as error:
            best, idle = max(best, _size(part)), (0 if _size(part) > best else idle + 1)
            if idle > len(PAUSES):
                of = f" of {readable_bytes(size)}" if size is not None else ""
                why = f"{error}, {idle} times, at {readable_bytes(best)}{of}"
                raise unavailable(reference, why) from error
            time.sleep(PAUSES[max(idle - 1, 0)])
        except OSError as error:
            raise disk_error(error, part) from error


def _append(
    part: Path, size: int | None, open_at: Callable[[int], Opened], check: Callable[[], object]
) -> None:
    have = _size(part)
    if size is not None and have > size:
        part.unlink()
        have = 0
    if have == size and part.exists():
        return
    start, chunks = open_at(have)
    check()
    with part.open("r+b" if part.exists() else "wb", buffering=0) as file:
        file.seek(start)
        file.truncate()
        checked = time.monotonic()
        for chunk in chunks:
            if time.monotonic() - checked > CHECK_SECONDS:
                check()
                checked = time.monotonic()
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
        end = file.tell()
    if size is not None and end != size:
        raise Broken(f"it ended after {readable_bytes(end)}")


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def digest_of(path: Path, algorithm: str) -> str:
    """``ALGORITHM:HEX`` of a file: ``blake3``, ``xxh128``, or one of hashlib's."""
    if algorithm == "blake3":
        return f"blake3:{file_digest(path)}"
    hasher: Any
    if algorithm == "xxh128":
        import xxhash

        hasher = xxhash.xxh128()
    else:
        hasher = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, lambda: hasher).hexdigest()}"
