"""Whether a checkpoint is complete and undamaged, told without loading it."""

from __future__ import annotations

import stat
from pathlib import Path

from launcher import files
from launcher.checkpoint.fields import OLDER, refuse
from launcher.checkpoint.manifest import Manifest, StoredFile, read_manifest
from launcher.checkpoint.store import published
from launcher.errors import CheckpointError
from launcher.layout import manifest_of


def complete_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint whose files are there in full length; milliseconds for any size.

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
    for path, stored in _complete(checkpoint, manifest := read_manifest(checkpoint)):
        try:
            digest = files.file_digest(path)
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint cannot be read: {error.strerror or error}.", where=str(path), do=OLDER
            ) from error
        if digest != stored.digest:
            raise CheckpointError(
                "The checkpoint is damaged: its bytes are not those that were written.",
                where=str(path),
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


def _complete(checkpoint: Path, manifest: Manifest) -> list[tuple[Path, StoredFile]]:
    """The files that a checkpoint consists of, each in the length that was written."""
    stored = manifest.file
    if stored is None or stored.name != checkpoint.name:
        raise CheckpointError(
            "The manifest belongs to another file.",
            where=str(checkpoint),
            found=f"manifest of {stored.name if stored else 'a state that was not saved'}",
            expected=f"manifest of {checkpoint.name}",
            do="give a copied checkpoint and its manifest the names that they had",
        )
    for part in manifest.parts:
        if Path(part.name).name != part.name:
            refuse(manifest_of(checkpoint), f"a part in another place: {part.name[:80]!r}", "names of files")
    there = [(checkpoint / part.name, part) for part in manifest.parts] or [(checkpoint, stored)]
    for path, part in there:
        _whole(path, part)
    return there


def _whole(path: Path, stored: StoredFile) -> None:
    try:
        facts = path.stat()
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint has a manifest, but cannot be read: {error.strerror or error}.",
            where=str(path),
            do=OLDER,
        ) from error
    if not stat.S_ISREG(facts.st_mode) or facts.st_size != stored.bytes:
        regular = stat.S_ISREG(facts.st_mode)
        raise CheckpointError(
            "The checkpoint is damaged: it does not have the length that was written.",
            where=str(path),
            found=f"{facts.st_size} bytes" if regular else "not a regular file",
            expected=f"{stored.bytes} bytes",
            do=OLDER,
        )
