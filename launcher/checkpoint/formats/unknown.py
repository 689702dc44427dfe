"""Why something is no checkpoint: it is not there, it is empty, it is text, or nobody knows its format."""

from __future__ import annotations

import codecs
import stat
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import CheckpointError

_LOOKED_AT = 256
"""Bytes of a file that tell whether it is text."""
_SHOWN = 60


def has_tensors(path: Path) -> bool:
    """Whether a file can hold any: it is neither empty nor text."""
    begins = _beginning(path)
    return bool(begins) and not _text(begins)


def no_checkpoint(path: Path, formats: Sequence[str]) -> CheckpointError:
    """The error of a path that is recognised as none of ``formats``."""
    known = f"a checkpoint: {', '.join(formats)}"
    try:
        return _directory(path, known) if path.is_dir() else _file(path, known)
    except FileNotFoundError:
        where = "a link to what is not there" if path.is_symlink() else "nothing"
        return CheckpointError(
            "There is no such file or directory.", where=str(path), found=where, do="see what there is: ls"
        )
    except OSError as error:
        return CheckpointError("This cannot be read.", where=str(path), found=error.strerror or str(error))


def _directory(path: Path, known: str) -> CheckpointError:
    names = sorted(one.name for one in path.iterdir())
    if not names:
        return CheckpointError("This directory is empty.", where=str(path), expected=known)
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return CheckpointError(
        "This directory is no checkpoint of a known format.",
        where=str(path),
        found=", ".join(names[:6]) + more,
        expected=known,
        do="name the checkpoint itself: a file, or the directory that its library wrote",
    )


def _file(path: Path, known: str) -> CheckpointError:
    begins = _beginning(path)
    if not begins:
        return CheckpointError(
            "This file is empty.",
            where=str(path),
            found="0 bytes",
            expected=known,
            do="copy it again from where it is whole",
        )
    if text := _text(begins):
        return CheckpointError(
            "This is a text file, and no checkpoint.",
            where=str(path),
            found=f"it begins with {' '.join(text.split())[:_SHOWN]!r}",
            expected=known,
            do="name the checkpoint itself; of a page or pointer saved in its place, fetch the file",
        )
    return CheckpointError(
        "This is no checkpoint of a known format.",
        where=str(path),
        found=f"a file that begins with the bytes {begins[:8].hex(' ')}",
        expected=known,
        do="files of PyTorch before 1.6 have to be saved again with torch.save",
    )


def _beginning(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        # Opening a pipe would wait for whoever writes into it.
        raise OSError("not a regular file")
    with path.open("rb") as file:
        return file.read(_LOOKED_AT)


def _text(begins: bytes) -> str:
    """What a file begins with, if that is text; else nothing."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(begins)  # It may end within a character.
    except UnicodeDecodeError:
        return ""
    return text if all(one.isprintable() or one.isspace() for one in text) else ""
