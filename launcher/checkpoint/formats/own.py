"""The launcher's own checkpoints, which a manifest beside them describes."""

from __future__ import annotations

from pathlib import Path

from launcher import layout
from launcher.checkpoint.formats.customary import customary_parts
from launcher.checkpoint.formats.protocol import Entries, Opener

_BEGINNING = b'{\n  "format": '
"""Of a manifest. Other JSON files may lie beside other people's checkpoints."""


class Own:
    """``checkpoint_step_15000.pt`` with ``checkpoint_step_15000.json``."""

    name = "launcher"

    def recognises(self, path: Path) -> bool:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        if path.suffix != ".pt" or not path.is_file():
            return False
        try:
            with layout.manifest_of(path).open("rb") as file:
                return file.read(len(_BEGINNING)) == _BEGINNING
        except FileNotFoundError:
            return False
        except OSError:
            return True  # Whoever reads it says why it cannot be read.

    def files(self, path: Path) -> list[Path]:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return [path]

    def entries(self, path: Path, opener: Opener) -> Entries:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return customary_parts(path, opener.torch_file(path))
