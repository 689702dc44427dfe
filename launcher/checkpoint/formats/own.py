"""The launcher's own checkpoints, a file or a directory of shards, which a manifest beside them describes."""

from __future__ import annotations

from pathlib import Path

from launcher import layout
from launcher.checkpoint.formats.customary import customary_parts
from launcher.checkpoint.formats.distributed import STRUCTURE, Distributed, nested_entries
from launcher.checkpoint.formats.protocol import Entries, Opener
from launcher.checkpoint.manifest import read_manifest

_BEGINNING = b'{\n  "format": '
"""Of a manifest. Other JSON files may lie beside other people's checkpoints."""
_DIRECTORY = Distributed()


class Own:
    """``checkpoint_step_15000.pt``, or ``checkpoint_step_15000/``, with ``checkpoint_step_15000.json``."""

    name = "launcher"

    def recognises(self, path: Path) -> bool:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        if not (path.is_file() and path.suffix == ".pt") and not _DIRECTORY.recognises(path):
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
        return [path] if path.is_file() else _DIRECTORY.files(path)

    def entries(self, path: Path, opener: Opener) -> Entries:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        held = opener.torch_file(path) if path.is_file() else nested_entries(path, opener)
        if path.is_dir():
            held.pop(STRUCTURE, None)
        entries = customary_parts(path, held)
        if entries.step is None:
            # It was converted from what does not tell its step; whoever converted it may have.
            entries.step = read_manifest(path).about.progress.get("step")
        return entries
