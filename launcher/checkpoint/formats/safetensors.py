"""safetensors: one file, or several with an index. Weights and nothing else."""

from __future__ import annotations

from pathlib import Path

from launcher.checkpoint.formats.places import INDEX, weights, weights_file, weights_files
from launcher.checkpoint.formats.protocol import Entries, Opener

_SUFFIX = ".safetensors"


class Safetensors:
    """``model.safetensors``, ``model.safetensors.index.json``, or a directory with one of them."""

    name = "safetensors"

    def recognises(self, path: Path) -> bool:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        place = self._place(path)
        return place is not None and place.name.endswith((_SUFFIX, _SUFFIX + INDEX))

    def files(self, path: Path) -> list[Path]:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        place = self._place(path)
        assert place is not None
        return weights_files(place)

    def entries(self, path: Path, opener: Opener) -> Entries:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        place = self._place(path)
        assert place is not None
        return Entries(model=weights(place, opener))

    def _place(self, path: Path) -> Path | None:
        return weights_file(path) if path.is_dir() else path
