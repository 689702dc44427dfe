"""Files that are written completely or not at all, and digests of what is in them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from launcher.errors import RunFailed

TEMPORARY_SUFFIX = ".tmp"
"""Ends the name of a file that is still being written; such a file is never read."""


def temporary_path(path: Path, aside: Path | None = None) -> Path:
    """Where ``path`` is written before it is renamed: in ``aside`` or beside it; own to this process."""
    return (aside or path.parent) / f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}"


@contextlib.contextmanager
def written_aside(path: Path, aside: Path | None = None) -> Iterator[Path]:
    """Gives a temporary path to write to; on leaving it is flushed to disk and renamed to ``path``.

    After a crash at any point ``path`` is either what it was or complete. If the body raises, the
    temporary file is removed.

    Args:
        path: what is replaced.
        aside: directory of the temporary file, on the same file system; by default that of ``path``.
    """
    temporary = temporary_path(path, aside)
    try:
        yield temporary
        flush_to_disk(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    flush_to_disk(path.parent)


def write_text(path: Path, text: str, aside: Path | None = None) -> None:
    """Replace ``path`` by ``text``, atomically and durably; see :func:`written_aside`."""
    with written_aside(path, aside) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, aside: Path | None = None) -> None:
    """Replace ``path`` by ``value`` as readable JSON, atomically and durably; see :func:`written_aside`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=True) + "\n", aside)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a JSON object.
    """
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def flush_to_disk(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def canonical_json(value: Any) -> bytes:
    """The one spelling of a plain value that digests are taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def file_digest(path: Path) -> str:
    """BLAKE3 of a file's bytes, 64 hex digits; memory-mapped, on all cores.

    BLAKE3 is as strong as SHA-256 and was measured 4 to 8 times as fast (``make bench``).
    """
    hasher = blake3(max_threads=digest_threads(path.stat().st_size))
    hasher.update_mmap(path)
    return hasher.hexdigest()


def digest_threads(size: int) -> int:
    """How many threads of BLAKE3 are worth their start for so many bytes.

    Never ``blake3.AUTO``: the threads of its one pool do not survive a fork, and a forked process that
    digests after its parent did waits for them for ever. A number gives each digest threads of its own.
    """
    return cores() if size >= 1 << 20 else 1


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes(path: Path) -> int:
    """Bytes that can still be written to the file system of ``path`` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def readable_bytes(count: float) -> str:
    """``2.0 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def disk_error(error: OSError, path: Path) -> RunFailed:
    """A failed write in the user's words."""
    return RunFailed(
        f"Cannot write: {error.strerror or error}.",
        where=str(path),
        do="make the place writable, with enough room, and give the same command again",
    )


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; lists and empty mappings are leaves."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{dotted}."))
        else:
            flat[dotted] = value
    return flat
