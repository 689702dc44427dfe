"""The launcher's own checkpoints, which a manifest beside them describes."""

from __future__ import annotations

from pathlib import Path

from launcher import layout
from launcher.checkpoint.formats.customary import customary_parts
from launcher.checkpoint.formats.protocol import Entries, Opener


class Own:
    """``checkpoint_step_15000.pt`` with ``checkpoint_step_15000.json``."""

    name = "launcher"

    def recognises(self, path: Path) -> bool:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return path.suffix == ".pt" and path.is_file() and layout.manifest_of(path).is_file()

    def files(self, path: Path) -> list[Path]:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return [path]

    def entries(self, path: Path, opener: Opener) -> Entries:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return customary_parts(path, opener.torch_file(path))
