"""What ``torch.save`` wrote: a dict with customary keys, or a bare state dict."""

from __future__ import annotations

from pathlib import Path

from launcher.checkpoint.formats.archive import is_archive
from launcher.checkpoint.formats.customary import customary
from launcher.checkpoint.formats.protocol import Entries, Opener


class TorchFile:
    """``ckpt.pt``: one file of ``torch.save``."""

    name = "torch"

    def recognises(self, path: Path) -> bool:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return path.is_file() and is_archive(path)

    def files(self, path: Path) -> list[Path]:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return [path]

    def entries(self, path: Path, opener: Opener) -> Entries:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return customary(path, opener.torch_file(path))
