"""The directory that Hugging Face's Trainer saves. Its ``training_args.bin`` is code, and never read."""

from __future__ import annotations

from pathlib import Path

from launcher.checkpoint.formats.places import (
    inside,
    numbered,
    read_json,
    weights,
    weights_file,
    weights_files,
)
from launcher.checkpoint.formats.protocol import Entries, Opener, refuse
from launcher.checkpoint.formats.trainer_state import kept_by_callbacks, trainer_state
from launcher.errors import CheckpointError

_STATE = "trainer_state.json"
_READ = ("optimizer.pt", "scheduler.pt", "scaler.pt")


class HuggingFaceTrainer:
    """``checkpoint-15000/``."""

    name = "huggingface-trainer"

    def recognises(self, path: Path) -> bool:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return (path / _STATE).is_file()

    def files(self, path: Path) -> list[Path]:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        model = weights_file(path)
        there = [inside(path, name) for name in _READ if (path / name).exists()]
        return [*(weights_files(model) if model else []), *there, *_streams(path), path / _STATE]

    def entries(self, path: Path, opener: Opener) -> Entries:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        model = weights_file(path)
        if model is None:
            if any(path.glob("*/adapter_model.safetensors")):
                raise CheckpointError(
                    "The checkpoint holds only adapters, without the model that they are for.",
                    where=str(path),
                    expected="the whole model, as the launcher's own checkpoints have it",
                    do="branch from the launcher's: branch.from_step=N",
                )
            refuse(path, "no model.safetensors and no pytorch_model.bin", "the Trainer's directory, whole")
        state = read_json(path / _STATE)
        steps = [state.get(key) for key in ("global_step", "max_steps")]
        step, end = (one if type(one) is int and one >= 0 else None for one in steps)
        parts = {
            name: opener.torch_file(inside(path, name)) if (path / name).exists() else None for name in _READ
        }
        streams = _streams(path)
        used = {*_READ, _STATE, *(one.name for one in [*weights_files(model), *streams])}
        return Entries(
            model=weights(model, opener),
            optimizer=parts["optimizer.pt"],
            scheduler=parts["scheduler.pt"],
            scaler=parts["scaler.pt"],
            rng=[opener.torch_file(one) for one in streams],
            step=step,
            end_step=end or None,
            trainer={**trainer_state(state), "callbacks": kept_by_callbacks(state)},
            unused=tuple(sorted(one.name for one in path.iterdir() if one.name not in used)),
        )


def _streams(path: Path) -> list[Path]:
    """The generators' states: one file, or one for each process."""
    alone = path / "rng_state.pth"
    return numbered(path, "rng_state_*.pth") or ([inside(path, alone.name)] if alone.exists() else [])
