"""From any format to the launcher's own, with a manifest, or to safetensors. The source is only read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from launcher import files, layout
from launcher.checkpoint.formats.known import load, recognise, verified
from launcher.checkpoint.formats.own import Own
from launcher.checkpoint.formats.values import safetensors_torch
from launcher.checkpoint.manifest import StoredFile, write_manifest
from launcher.checkpoint.sink import write_state
from launcher.errors import ConfigError


def convert(path: Path, out: Path, allowed: Sequence[str] = (), said: int | None = None) -> list[Path]:
    """Write the checkpoint ``path`` anew; the files that were written.

    Args:
        path: a checkpoint of any format.
        out: ``NAME.safetensors`` for the model alone; ``NAME.pt``, or a directory, for the launcher's own.
        allowed: ``branch.allow_globals``.
        said: its step, where the checkpoint itself does not tell.

    Raises:
        CheckpointError: it cannot be read.
        ConfigError: something is there already, nothing would change, or the step is not known.
        RunFailed: the disk is full or cannot be written.
    """
    form = recognise(path)
    if out.suffix == ".safetensors":
        written = [_free(out)]
        write = _write_safetensors
    elif isinstance(form, Own) and path.is_file():
        raise ConfigError(
            "The checkpoint has a manifest already.", where=str(path), do="convert it to NAME.safetensors"
        )
    else:
        manifest = verified(path, allowed, said)
        if out.suffix != ".pt" and "step" not in manifest.about.progress:
            # In a directory the name tells the step.
            raise ConfigError(
                "Nobody says how many steps the checkpoint is behind.",
                where=str(path),
                do=f"launcher convert --step N, or a file: {out / 'NAME.pt'}",
            )
        target = out if out.suffix == ".pt" else out / layout.checkpoint_file(manifest.step)
        written = [_free(target), _free(layout.manifest_of(target))]

        def write(state: dict[str, Any], to: Path) -> None:
            with files.written_aside(to) as temporary:
                size, digest = write_state(state, temporary)
            stored = StoredFile(to.name, size, digest)
            write_manifest(layout.manifest_of(to), replace(manifest, file=stored, parts=()))

    try:
        written[0].parent.mkdir(parents=True, exist_ok=True)
        write(load(path, allowed), written[0])
    except OSError as error:
        raise files.disk_error(error, written[0]) from error
    return written


def _free(path: Path) -> Path:
    if path.exists():
        raise ConfigError("There is a file already.", where=str(path), do="choose another name, or remove it")
    return path


def _write_safetensors(state: dict[str, Any], to: Path) -> None:
    library = safetensors_torch(to)
    # safetensors refuses tensors that share memory, as tied weights do.
    tensors = {
        name: tensor.detach().clone().contiguous()
        for name, tensor in state["model_state_dict"].items()
        if isinstance(tensor, Tensor)
    }
    with files.written_aside(to) as temporary:
        library.save_file(tensors, temporary, {"format": "pt"})
