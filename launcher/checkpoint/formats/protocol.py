"""What a format gives: its entries, under one set of names, whoever opens its files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

from launcher.errors import CheckpointError


def _no_value() -> None:
    return None


@dataclass(frozen=True)
class TensorFacts:
    """A tensor without its values."""

    shape: tuple[int, ...]
    dtype: str
    """``float32``."""
    item: Callable[[], Any] = field(default=_no_value, compare=False, repr=False)
    """Reads the value of a tensor of one element; None where it cannot be had so cheaply."""

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """What the elements take."""
        return self.numel * ITEM_BYTES.get(self.dtype, 4)


ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("bool", "int8", "uint8", "qint8", "quint8"), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32", "complex32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}
"""Bytes of one element, by torch's name of the dtype."""


class Piece(NamedTuple):
    """A part of a tensor that was saved by one process: a slice of a file."""

    path: Path
    start: int
    length: int
    offsets: tuple[int, ...]
    """Where the part begins in the whole tensor."""
    sizes: tuple[int, ...]


class Opener(Protocol):
    """Opens files, either for the facts alone or with the tensors' values. Nothing in them is executed."""

    def torch_file(self, path: Path) -> Any:
        """What ``torch.save`` wrote."""
        ...

    def torch_bytes(self, path: Path, start: int, length: int) -> Any:
        """What ``torch.save`` wrote into a slice of a file."""
        ...

    def safetensors(self, path: Path) -> dict[str, Any]:
        """Name to tensor."""
        ...

    def assembled(self, facts: TensorFacts, pieces: Sequence[Piece]) -> Any:
        """A whole tensor from the parts that several processes saved."""
        ...

    def integers(self, values: Sequence[int]) -> Any:
        """A tensor of int64."""
        ...


@dataclass
class Entries:
    """What a checkpoint holds, as its library wrote it; None for what is not there."""

    model: Any = None
    """Name to tensor."""
    optimizer: Any = None
    """``Optimizer.state_dict()``, or a list of one."""
    scheduler: Any = None
    scaler: Any = None
    rng: Sequence[Any] = ()
    """The state of the generators, for each process that trained."""
    task: Any = None
    """The state of a task's own parts, as the launcher saves it."""
    trainer: Mapping[str, Any] | None = None
    """What Hugging Face's Trainer counts beside the step, plain values."""
    step: int | None = None
    """Optimizer steps done."""
    epoch: int | None = None
    end_step: int | None = None
    """Where the run was going to end, in steps."""
    unused: tuple[str, ...] = ()
    """What is there beside all this, and no branch takes over."""


class Format(Protocol):
    """One way in which a checkpoint lies on disk."""

    name: str

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` is such a checkpoint, told from names and first bytes."""
        ...

    def files(self, path: Path) -> list[Path]:
        """The files that are read, for their size."""
        ...

    def entries(self, path: Path, opener: Opener) -> Entries:
        """What it holds.

        Raises:
            CheckpointError: it is damaged, or not what its name says.
        """
        ...


@dataclass
class Unread:
    """An object of a class that is not known: its name is all that is taken of it."""

    name: str
    state: Any = field(default=None, repr=False)

    __hash__ = object.__hash__


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor, or the facts of one."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def refuse(path: Path, found: str, expected: str, what: str = "The checkpoint cannot be read.") -> NoReturn:
    """Raise the error of a file that is damaged, or that somebody made to do harm."""
    raise CheckpointError(
        what,
        where=str(path),
        found=found[:300],
        expected=expected,
        do="copy it again from where it is whole; if it never was, do not load it in another way",
    )
