"""The files of a checkpoint that is a directory: all of them in it, whatever an index says."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.checkpoint.formats.protocol import Opener, refuse

INDEX = ".index.json"
_LARGEST_INDEX = 256 << 20
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
"""What Hugging Face's libraries call a model's weights, in the order in which they look."""


def inside(directory: Path, name: str) -> Path:
    """A regular file of the directory.

    A link may lead to a file of the same directory, or into the ``blobs`` of Hugging Face's cache.

    Raises:
        CheckpointError: it lies elsewhere, is none, or is not there.
    """
    path = directory / name
    if "\0" in name or Path(name).name != name:
        refuse(directory, f"a part in another place: {name[:120]!r}", "files of this directory")
    try:
        target, here = path.resolve(strict=True), directory.resolve()
        if target.parent not in (here, here.parent.parent / "blobs"):
            refuse(path, f"a link to {target}", "a file of this directory")
        if not stat.S_ISREG(target.stat().st_mode):
            refuse(path, "not a regular file", "a file")
    except (OSError, RuntimeError) as error:
        refuse(path, str(getattr(error, "strerror", None) or error), "a file of the checkpoint")
    return path


def weights_file(directory: Path) -> Path | None:
    """The file, or the index, that holds a model in one of Hugging Face's directories."""
    return next((directory / name for name in WEIGHTS if (directory / name).exists()), None)


def weights_files(path: Path) -> list[Path]:
    """The files of a model: the file itself, or an index and all that it names."""
    if not path.name.endswith(INDEX):
        return [inside(path.parent, path.name)]
    return [path, *(inside(path.parent, name) for name in sorted(set(_index(path).values())))]


def weights(path: Path, opener: Opener) -> dict[str, Any]:
    """Name to tensor, from one file or from all that an index names.

    Raises:
        CheckpointError: a file is damaged, elsewhere, or does not hold what the index says.
    """
    if not path.name.endswith(INDEX):
        return _opened(inside(path.parent, path.name), opener)
    named = _index(path)
    tensors: dict[str, Any] = {}
    for name in sorted(set(named.values())):
        shard = _opened(inside(path.parent, name), opener)
        wrong = {tensor for tensor in shard if named.get(tensor) != name}
        wrong |= {tensor for tensor, place in named.items() if place == name and tensor not in shard}
        if wrong:
            refuse(
                path, f"{name} and the index disagree about {min(wrong)}", "an index of what the files hold"
            )
        tensors.update(shard)
    return tensors


def _opened(path: Path, opener: Opener) -> dict[str, Any]:
    if path.name.endswith(".safetensors"):
        return opener.safetensors(path)
    held = opener.torch_file(path)
    if not isinstance(held, dict):
        refuse(path, f"a {type(held).__name__}", "a state dict")
    return held


def _index(path: Path) -> dict[str, str]:
    named = read_json(path).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(one, str) for one in named.values()):
        refuse(path, "no weight_map from tensors to files", "an index as Hugging Face's libraries write it")
    return named


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the checkpoint.

    Raises:
        CheckpointError: it is damaged, or no object.
    """
    inside(path.parent, path.name)
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise ValueError("too large for JSON that a library wrote")
        held = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        refuse(path, str(error), "a JSON object")
    if not isinstance(held, dict):
        refuse(path, f"a JSON {type(held).__name__}", "a JSON object")
    return held


def numbered(directory: Path, name: str) -> list[Path]:
    """``NAME`` with 0, 1, … in place of its star, as long as there are such files."""
    return list(_numbered(directory, name))


def _numbered(directory: Path, name: str) -> Iterator[Path]:
    number = 0
    while (directory / name.replace("*", str(number))).exists():
        yield inside(directory, name.replace("*", str(number)))
        number += 1
