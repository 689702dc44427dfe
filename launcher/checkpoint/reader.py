"""Reading a state back: only if it is whole, without executing anything in it, memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from launcher.checkpoint.fields import OLDER
from launcher.checkpoint.formats.values import Scattered
from launcher.checkpoint.manifest import Manifest
from launcher.checkpoint.tree import check_tensor, mapped
from launcher.checkpoint.verify import complete_manifest, verify_file
from launcher.errors import CheckpointError


def read_state(
    checkpoint: Path, device: torch.device | str = "cpu", *, digests: bool = True, by_rows: bool = False
) -> dict[str, Any]:
    """The state in a checkpoint, as it was saved.

    On the CPU its tensors are pages of the file, read when they are first touched; writing to them does
    not change the file. Of a directory of shards they are read whole.

    Args:
        checkpoint: the file or directory; its manifest lies beside it.
        device: where the tensors go.
        digests: check every byte first. Without, only that the checkpoint is complete: for a file that
            :func:`launcher.checkpoint.verify.newest_good` or ``verify_file`` just approved.
        by_rows: of a directory of shards, leave the optimizer's moments where they are, as
            :class:`launcher.checkpoint.formats.values.Scattered`, for a process that needs some rows of them.

    Raises:
        CheckpointError: it is incomplete or damaged, or holds something that would have to be executed.
    """
    manifest = verify_file(checkpoint) if digests else complete_manifest(checkpoint)
    if manifest.parts:
        # It needs torch.distributed, which takes time to import.
        from launcher.checkpoint.shards import read_shards

        state: Any = read_shards(checkpoint, by_rows)
        _compare(checkpoint, state, manifest)
        return mapped(
            state, (Tensor, Scattered), lambda _, one: one.to(device) if isinstance(one, Tensor) else one
        )
    try:
        state = torch.load(checkpoint, map_location=device, mmap=True, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        # An unpickler that is fed with anything can raise anything.
        raise CheckpointError(
            "The checkpoint cannot be read as tensors and plain values. Nothing in it was executed.",
            where=str(checkpoint),
            found=_first_line(error),
            expected="a file that torch.load(..., weights_only=True) reads",
            do="do not load it in another way unless you know who wrote it",
        ) from error
    _compare(checkpoint, state, manifest)
    return state  # type: ignore[no-any-return]


def _compare(checkpoint: Path, state: Any, manifest: Manifest) -> None:
    """What preflight was told by the manifest is what the file holds."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}

    def note(name: str, tensor: Any) -> None:
        if isinstance(tensor, Tensor):
            tensor = check_tensor(name, tensor)
        found[name] = (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    keys = mapped(state, (Tensor, Scattered), note).keys()
    expected = {entry.name: (entry.shape, entry.dtype) for entry in manifest.tensors}
    if found != expected or set(keys) != set(manifest.content.components):
        odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise CheckpointError(
            "The checkpoint and its manifest do not belong together.",
            where=str(checkpoint),
            found=f"other tensors than listed: {', '.join(odd[:3])}" if odd else "other top-level keys",
            expected="what the manifest lists",
            do=OLDER,
        )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (named or lines or [type(error).__name__])[0][:300]
