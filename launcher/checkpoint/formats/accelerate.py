"""The directory that Accelerate's ``save_state`` writes. It does not say which step it is of."""

from __future__ import annotations

from pathlib import Path

from launcher.checkpoint.formats.places import inside, numbered, weights, weights_file, weights_files
from launcher.checkpoint.formats.protocol import Entries, Opener, refuse
from launcher.errors import CheckpointError

_READ = ("optimizer.bin", "scheduler.bin", "scaler.pt")
_STREAMS = "random_states_*.pkl"


class Accelerate:
    """A directory with ``model.safetensors``, ``optimizer.bin`` and ``random_states_0.pkl``."""

    name = "accelerate"

    def recognises(self, path: Path) -> bool:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return path.is_dir() and any(
            (path / name).is_file() for name in (_STREAMS.replace("*", "0"), _READ[0])
        )

    def files(self, path: Path) -> list[Path]:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        model = weights_file(path)
        there = [inside(path, name) for name in _READ if (path / name).exists()]
        return [*(weights_files(model) if model else []), *there, *numbered(path, _STREAMS)]

    def entries(self, path: Path, opener: Opener) -> Entries:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        model = weights_file(path)
        if model is None:
            refuse(path, "no model.safetensors and no pytorch_model.bin", "what save_state writes, whole")
        for name in ("model_1.safetensors", "optimizer_1.bin"):
            if (path / name).exists():
                raise CheckpointError(
                    "The checkpoint holds several models or optimizers, and a branch takes over one of each.",
                    where=str(path),
                    found=name,
                    expected="one model, one optimizer",
                    do="torch.save what is to be branched: model_state_dict, optimizer_state_dict, step",
                )
        parts = {
            name: opener.torch_file(inside(path, name)) if (path / name).exists() else None for name in _READ
        }
        streams = numbered(path, _STREAMS)
        used = {*_READ, *(one.name for one in [*weights_files(model), *streams])}
        return Entries(
            model=weights(model, opener),
            optimizer=parts["optimizer.bin"],
            scheduler=parts["scheduler.bin"],
            scaler=parts["scaler.pt"],
            rng=[opener.torch_file(one) for one in streams],
            unused=tuple(sorted(one.name for one in path.iterdir() if one.name not in used)),
        )
