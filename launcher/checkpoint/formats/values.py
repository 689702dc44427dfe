"""Files opened with their values, memory-mapped: by ``torch.load(weights_only=True)`` and safetensors."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from launcher.checkpoint.formats.archive import read_archive
from launcher.checkpoint.formats.classes import may_not, refused_classes
from launcher.checkpoint.formats.facts import Facts, safetensors_header
from launcher.checkpoint.formats.numpy_data import STAND_INS
from launcher.checkpoint.formats.protocol import Piece, TensorFacts, refuse
from launcher.errors import CheckpointError, ConfigError


class Values:
    """Opens files with their values. On the CPU tensors are pages of the file where it can be mapped."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        """``allowed``: dotted names of classes that may be made besides tensors and plain values.

        Raises:
            ConfigError: one of them cannot be imported, or may never be.
        """
        self._allowed = [_class(name) for name in allowed]

    def torch_file(self, path: Path) -> Any:
        """See :class:`~launcher.checkpoint.formats.protocol.Opener`."""
        read_archive(path, crc=True)
        (facts := Facts()).torch_file(path)
        with self._safe(path, str(path), facts.unknown):
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)

    def torch_bytes(self, path: Path, start: int, length: int) -> Any:
        """See :class:`~launcher.checkpoint.formats.protocol.Opener`."""
        read_archive(path, start, length, crc=True)
        (facts := Facts()).torch_bytes(path, start, length)
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(length)
        with self._safe(path, io.BytesIO(data), facts.unknown):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

    def safetensors(self, path: Path) -> dict[str, Any]:
        """See :class:`~launcher.checkpoint.formats.protocol.Opener`."""
        safetensors_header(path)
        library = safetensors_torch(path)
        try:
            tensors: dict[str, Any] = library.load_file(path)
            return tensors
        except Exception as error:
            refuse(path, str(error), "a safetensors file")

    def assembled(self, facts: TensorFacts, pieces: Sequence[Piece]) -> Any:
        """See :class:`~launcher.checkpoint.formats.protocol.Opener`."""
        return Scattered(self, facts, pieces).whole()

    def integers(self, values: Sequence[int]) -> Any:
        """See :class:`~launcher.checkpoint.formats.protocol.Opener`."""
        return torch.tensor(list(values), dtype=torch.int64)

    @contextmanager
    def _safe(self, path: Path, source: str | io.BytesIO, unknown: set[str]) -> Iterator[None]:
        """What is allowed within, and every way to fail as one message."""
        stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
            (made, name) for name, made in STAND_INS.items()
        ]
        with torch.serialization.safe_globals([*stand_ins, *self._allowed]):
            self._refuse_unsafe(path, source, unknown)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    yield
            except (MemoryError, CheckpointError):
                raise
            except Exception as error:
                refuse(
                    path,
                    (str(error).splitlines() or [type(error).__name__])[0],
                    "a file that torch.load(..., weights_only=True) reads",
                    "The checkpoint cannot be read as tensors and plain values. Nothing in it was executed.",
                )

    def _refuse_unsafe(self, path: Path, source: str | io.BytesIO, unknown: set[str]) -> None:
        try:
            unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(source))
        except Exception:
            # It holds instructions that torch.load does not know either; what it names is told all the same.
            unsafe = sorted(unknown - {name for _, name in self._allowed})
        if unsafe:
            raise refused_classes(path, unsafe)


def safetensors_torch(path: Path) -> ModuleType:
    """The library for safetensors, to read or write ``path``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise ConfigError(
            "Tensors of safetensors files need the package of that name.",
            where=str(path),
            found="it is not installed",
            do="pip install 'checkpoint-launcher[safetensors]'",
        ) from error


class Scattered:
    """A tensor that lies in the parts that several processes saved; read when its values are asked for."""

    def __init__(self, values: Values, facts: TensorFacts, pieces: Sequence[Piece]) -> None:
        self._values, self._pieces = values, pieces
        self.shape = torch.Size(facts.shape)
        self.dtype: torch.dtype = getattr(torch, facts.dtype)

    def whole(self) -> Tensor:
        """All of it.

        Raises:
            CheckpointError: a part is damaged, or is not what the metadata say.
        """
        return self.rows(0, self.shape[0]) if self.shape else self._part(self._pieces[0])

    def rows(self, start: int, stop: int) -> Tensor:
        """Its rows from ``start`` up to, and without, ``stop``; no part without any of them is read.

        Raises:
            CheckpointError: as :meth:`whole`.
        """
        target = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        for piece in self._pieces:
            first = piece.offsets[0]
            begin, end = max(start, first), min(stop, first + piece.sizes[0])
            if begin >= end:
                continue
            place = target[begin - start : end - start]
            for dimension, offset in enumerate(piece.offsets[1:], start=1):
                place = place.narrow(dimension, offset, piece.sizes[dimension])
            place.copy_(self._part(piece)[begin - first : end - first])
        return target

    def _part(self, piece: Piece) -> Tensor:
        part = self._values.torch_bytes(piece.path, piece.start, piece.length)
        if not isinstance(part, Tensor) or part.shape != piece.sizes or part.dtype != self.dtype:
            refuse(piece.path, "a part that is not what the metadata say", "the parts of one checkpoint")
        return part


class ScatteredValues(Values):
    """Leaves the values of tensors in parts where they are."""

    def assembled(self, facts: TensorFacts, pieces: Sequence[Piece]) -> Any:
        """See :class:`Scattered`."""
        return Scattered(self, facts, pieces)


def _class(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    if not module or may_not(name):
        raise _never(name)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            "branch.allow_globals names a class that cannot be imported.", found=f"{name}: {error}"
        ) from error
    # A module may have it from another one.
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', attribute)}"
    if may_not(home):
        raise _never(f"{name}, which is {home}")
    return found, name


def _never(name: str) -> ConfigError:
    return ConfigError(
        "branch.allow_globals names what no checkpoint needs.",
        found=name,
        expected="the dotted name of a class of the library that wrote the checkpoint",
    )
