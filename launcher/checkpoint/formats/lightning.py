"""Lightning's ``.ckpt``: a dict of ``torch.save``. It has no RNG state unless a callback put it there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.checkpoint.formats.archive import is_archive, read_archive
from launcher.checkpoint.formats.customary import customary
from launcher.checkpoint.formats.protocol import Entries, Opener
from launcher.errors import CheckpointError

_MARK = b"pytorch-lightning_version"


class Lightning:
    """``epoch=3-step=15000.ckpt``."""

    name = "lightning"

    def recognises(self, path: Path) -> bool:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        if not path.is_file() or not is_archive(path):
            return False
        try:
            return _MARK in read_archive(path).pickle
        except CheckpointError:
            return False

    def files(self, path: Path) -> list[Path]:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return [path]

    def entries(self, path: Path, opener: Opener) -> Entries:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        held = opener.torch_file(path)
        entries = customary(path, held)
        # What a callback of the user's saved lies under the callback's name.
        callbacks = held.get("callbacks") if isinstance(held, Mapping) else None
        for saved in callbacks.values() if isinstance(callbacks, Mapping) and not entries.rng else ():
            if isinstance(saved, Mapping) and {"python", "numpy", "torch"} <= set(saved):
                entries.rng = [saved]
        return entries
