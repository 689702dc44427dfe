"""Whether a checkpoint is complete and undamaged, told without loading it."""

from __future__ import annotations

import stat
from pathlib import Path

from launcher import files
from launcher.checkpoint.fields import OLDER
from launcher.checkpoint.manifest import Manifest, StoredFile, read_manifest
from launcher.checkpoint.store import published
from launcher.errors import CheckpointError


def complete_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint whose file is there in its full length; milliseconds for any size.

    Raises:
        CheckpointError: it has no manifest, or the manifest is damaged, or the file does not fit it.
    """
    _complete(checkpoint, manifest := read_manifest(checkpoint))
    return manifest


def verify_file(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint every byte of which is as it was written.

    Raises:
        CheckpointError: as :func:`complete_manifest`, or the file's digest does not hold.
    """
    stored = _complete(checkpoint, manifest := read_manifest(checkpoint))
    try:
        digest = files.file_digest(checkpoint)
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint cannot be read: {error.strerror or error}.", where=str(checkpoint), do=OLDER
        ) from error
    if digest != stored.digest:
        raise CheckpointError(
            "The checkpoint is damaged: its bytes are not those that were written.",
            where=str(checkpoint),
            found=f"file digest {digest}",
            expected=stored.digest,
            do=OLDER,
        )
    return manifest


def newest_good(directory: Path) -> tuple[Path | None, list[CheckpointError]]:
    """The newest checkpoint that is complete and undamaged, and why each newer one was refused."""
    refused: list[CheckpointError] = []
    for checkpoint in reversed(published(directory)):
        try:
            verify_file(checkpoint)
        except CheckpointError as error:
            refused.append(error)
        else:
            return checkpoint, refused
    return None, refused


def _complete(checkpoint: Path, manifest: Manifest) -> StoredFile:
    stored = manifest.file
    if stored is None or stored.name != checkpoint.name:
        raise CheckpointError(
            "The manifest belongs to another file.",
            where=str(checkpoint),
            found=f"manifest of {stored.name if stored else 'a state that was not saved'}",
            expected=f"manifest of {checkpoint.name}",
            do="give a copied checkpoint and its manifest the names that they had",
        )
    try:
        facts = checkpoint.stat()
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint has a manifest, but cannot be read: {error.strerror or error}.",
            where=str(checkpoint),
            do=OLDER,
        ) from error
    if not stat.S_ISREG(facts.st_mode) or facts.st_size != stored.bytes:
        regular = stat.S_ISREG(facts.st_mode)
        raise CheckpointError(
            "The checkpoint is damaged: it does not have the length that was written.",
            where=str(checkpoint),
            found=f"{facts.st_size} bytes" if regular else "not a regular file",
            expected=f"{stored.bytes} bytes",
            do=OLDER,
        )
    return stored
