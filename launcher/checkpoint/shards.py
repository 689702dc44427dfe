"""A checkpoint that is a directory: each process writes its shards, by torch.distributed.checkpoint.

What lies there is read by PyTorch as any directory of that library. Beside the state itself it holds
``structure``: the state without its tensors' values, because the library keeps neither the types of keys nor
those of containers, and the launcher's digests tell them apart.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from launcher.checkpoint.formats.distributed import STRUCTURE, flat_entries
from launcher.checkpoint.formats.values import Scattered, ScatteredValues
from launcher.checkpoint.manifest import StoredFile
from launcher.checkpoint.sink import Sink
from launcher.checkpoint.together import Division, Peers
from launcher.checkpoint.tree import mapped
from launcher.errors import CheckpointError

_Path = tuple[str | int, ...]
_MOMENTS = "optimizer_state_dict.state."
"""Of the names of all that an optimizer keeps for its parameters."""


def write_shards(own: Division, directory: Path, peers: Peers) -> tuple[StoredFile, ...]:
    """Write a state into ``directory``, which is there and empty; its files. All ranks call it.

    Raises:
        OSError: the disk of some rank is full, read-only or failing.
    """
    planner = _Planner({}, {})
    entries: dict[str, Any] = {}
    for path, value in _entries(own.state, ()):
        name = ".".join(map(str, path))
        if name in own.shapes:
            if value.numel():
                entries[name] = _sharded(value, own.shapes[name], peers)
        elif not peers.first:
            continue
        elif name in entries or name == STRUCTURE:
            raise CheckpointError("The state holds two values of one name.", where=name)
        else:
            entries[name] = value
        planner.paths[name] = path
    if peers.first:
        entries[STRUCTURE] = _structure(own.state)
        planner.paths[STRUCTURE] = (STRUCTURE,)
    planner.entries = entries
    writer = FileSystemWriter(directory)
    writer.fs = disk = _Disk()
    try:
        save(entries, storage_writer=writer, planner=planner, process_group=peers.group)
    except CheckpointException as error:
        raise _cause(error) from error
    files = (one for part in peers.gathered(disk.written) for one in part.items())
    return tuple(StoredFile(name, size, digest) for name, (size, digest) in sorted(files))


def read_shards(directory: Path, by_rows: bool = False) -> dict[str, Any]:
    """The state in a directory that :func:`write_shards` wrote. Nothing in it is executed.

    Args:
        directory: the checkpoint.
        by_rows: leave the optimizer's moments where they are, as :class:`Scattered`.

    Raises:
        CheckpointError: it is damaged, or holds something that would have to be executed.
    """
    entries, _ = flat_entries(directory, ScatteredValues())

    def value(name: str, _: Tensor) -> Tensor | Scattered:
        held: Scattered = entries[name]
        return held if by_rows and held.shape and name.startswith(_MOMENTS) else held.whole()

    try:
        packed = entries[STRUCTURE].whole()
        structure = torch.load(io.BytesIO(packed.numpy().tobytes()), weights_only=True)
        return mapped(structure, Tensor, value)
    except (MemoryError, CheckpointError):
        raise
    except Exception as error:
        raise CheckpointError(
            "The checkpoint cannot be read as tensors and plain values. Nothing in it was executed.",
            where=str(directory),
            found=f"{type(error).__name__}: {str(error)[:200]}",
            expected="a directory that a run with launch.shard=true wrote",
        ) from error


def _structure(state: Mapping[str, Any]) -> Tensor:
    """The state with empty tensors in place of all tensors, as bytes."""
    empty = mapped(state, Tensor, lambda _, tensor: torch.empty(0, dtype=tensor.dtype))
    torch.save(empty, packed := io.BytesIO())
    return torch.frombuffer(packed.getbuffer(), dtype=torch.uint8).clone()


def _entries(value: Any, path: _Path) -> Iterator[tuple[_Path, Any]]:
    """Each tensor, and each largest part without any, with its path as PyTorch's planner has it."""
    if isinstance(value, Tensor) or (path and not _holds_tensor(value)):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _entries(item, (*path, str(key)))
    else:
        for index, item in enumerate(value):
            yield from _entries(item, (*path, index))


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensor, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_tensor, value))
    return isinstance(value, Tensor)


def _sharded(rows: Tensor, shape: tuple[int, ...], peers: Peers) -> DTensor:
    """This rank's rows as a part of the whole; nothing is communicated."""
    mesh = DeviceMesh.from_group(peers.group, "cpu")
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=torch.Size(shape), stride=stride)


class _Planner(DefaultSavePlanner):
    """Takes entries that are named already; PyTorch's own naming does not look into tuples."""

    def __init__(self, entries: dict[str, Any], paths: dict[str, _Path]) -> None:
        super().__init__()
        self.entries, self.paths = entries, paths

    def set_up_planner(
        self, state_dict: dict[str, Any], storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        del state_dict, storage_meta
        self.state_dict, self.mappings, self.is_coordinator = self.entries, self.paths, is_coordinator


class _Stream(Sink):
    """What PyTorch writes to. A failure is raised where Python called, not from within its C++ code."""

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self.raise_failure()

    def close(self) -> None:
        """The context that opened the file closes it."""


class _Disk(FileSystem):
    """Files that are digested on their way."""

    def __init__(self) -> None:
        self.written: dict[str, tuple[int, str]] = {}
        """Size in bytes and BLAKE3 by name."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        """A new file."""
        assert mode == "wb"
        with _Stream(Path(path)) as stream:
            yield stream
            stream.raise_failure()
        self.written[Path(path).name] = (stream.size, stream.digest)

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Rank 0 has made it. If it is gone, so is the right to write there."""

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """As the name says."""
        super().rename(path, new_path)
        self.written[Path(new_path).name] = self.written.pop(Path(path).name)


def _cause(error: CheckpointException) -> BaseException:
    """What failed at one of the ranks; all of them are told of it."""
    failures = [failure for failure, _ in error.failures.values()]
    return next((one for one in failures if isinstance(one, OSError)), failures[0] if failures else error)
