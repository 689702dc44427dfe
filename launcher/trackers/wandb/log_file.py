"""The file that the client writes offline: whether it has its end.

The client says nothing where its disk is full. Its file is one of LevelDB's logs: blocks of 32 KiB with
records of a head (checksum, length, type) and a body, a protobuf message. The last says how the run ended.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

_BLOCK = 32 * 1024
_HEAD = struct.Struct("<IHB")
_FULL, _FIRST, _LAST = 1, 2, 4
_FLUSH_SECONDS = 5.0
"""How long the client may take to write what it was told last."""


def require_whole(path: Path) -> None:
    """See that a finished run's file has its end.

    Raises:
        OSError: it has not, some seconds after.
    """
    deadline = time.monotonic() + _FLUSH_SECONDS
    while not _has_its_end(path):
        if time.monotonic() > deadline:
            raise OSError(f"the client's file is cut off, as on a full disk: {path}")
        time.sleep(0.01)


def _has_its_end(path: Path) -> bool:
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    try:
        return bool(Record.FromString(_last_record(path)).HasField("exit"))
    except Exception:  # There is no file yet, or no message in it: an error of protobuf's own.
        return False


def _last_record(path: Path) -> bytes:
    """The last complete record within the last two blocks; empty if there is none."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        begin = max(0, (size - 1) // _BLOCK - 1) * _BLOCK
        file.seek(begin)
        data = file.read()
    at = _HEAD.size if begin == 0 else 0  # The file's own head is as long.
    last = record = b""
    while at + _HEAD.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEAD.size:  # Too little for a head is filled up.
            at += left
            continue
        _, length, kind = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        body, at = data[at : at + length], at + length
        record = body if kind in (_FULL, _FIRST) else record + body
        if kind in (_FULL, _LAST) and len(body) == length:
            last = record
    return last
