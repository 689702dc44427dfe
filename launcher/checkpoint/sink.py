"""The file that a state is written to: digested on the way, and honest about a full disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from blake3 import blake3

_CHUNK = 4 << 20
"""Bytes digested, then written while they are still in the cache."""


def write_state(state: dict[str, Any], path: Path) -> tuple[int, str]:
    """Write ``state`` with ``torch.save``; the file's size in bytes and its BLAKE3 digest.

    ``torch.save`` to a path holds the interpreter's lock while it writes, which stops training, and turns
    a full disk into a RuntimeError without an errno; to an object with ``write`` it does neither.

    Raises:
        OSError: the disk is full, read-only or failing.
    """
    with Sink(path) as sink:
        torch.save(state, sink)  # type: ignore[arg-type]
        sink.raise_failure()
    return sink.size, sink.digest


class Sink:
    """A new file that is only appended to."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._hasher = blake3()
        self._failure: OSError | None = None
        self.size = 0

    @property
    def digest(self) -> str:
        """BLAKE3 of all that was written."""
        return self._hasher.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        """Write all of ``data``. A failure is kept: it must not unwind through torch's C code."""
        view = memoryview(data)
        try:
            while view and self._failure is None:
                chunk, view = view[:_CHUNK], view[_CHUNK:]
                self._hasher.update(chunk)
                while chunk:
                    chunk = chunk[os.write(self._descriptor, chunk) :]
        except OSError as error:
            self._failure = error
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Nothing is held back here."""

    def raise_failure(self) -> None:
        """Raise what failed in ``write``."""
        if self._failure is not None:
            raise self._failure

    def fileno(self) -> int:
        """The file descriptor."""
        return self._descriptor

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
