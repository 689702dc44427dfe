"""A state that several processes hold together, each its own rows of what is divided: its digests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from blake3 import blake3
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from launcher.checkpoint.content import byte_pieces, describe, dtype_name
from launcher.checkpoint.manifest import Content, TensorEntry
from launcher.checkpoint.tree import mapped
from launcher.errors import CheckpointError

_T = TypeVar("_T")
_PIECE = 16 << 20
"""Bytes that are sent at a time."""
_recent: deque[Tensor] = deque(maxlen=8)
"""Tensors that were sent last: see the note in :mod:`launcher.training.distributed`."""


class FailedElsewhere(Exception):
    """Rank 0 could not do its part; it tells why itself."""


@dataclass(frozen=True)
class Peers:
    """The processes that hold one state, and how they talk. All ranks call every method at the same point."""

    rank: int
    size: int
    group: Any = None
    """A process group of gloo that nobody else uses meanwhile; None: the default one."""

    @property
    def first(self) -> bool:
        """Whether this process writes the manifest."""
        return self.rank == 0

    def told(self, find: Callable[[], _T]) -> _T:
        """What rank 0 finds, on all ranks.

        Raises:
            FailedElsewhere: rank 0 failed; there its own error is raised.
        """
        found: list[Any] = [None]
        try:
            if self.first:
                found = [(find(),)]
        finally:
            dist.broadcast_object_list(found, src=0, group=self.group)
        if found[0] is None:
            raise FailedElsewhere
        result: _T = found[0][0]
        return result

    def gathered(self, value: _T) -> list[_T]:
        """Every rank's value, on all ranks."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values


@dataclass(frozen=True)
class Division:
    """A state as one rank holds it."""

    state: dict[str, Any]
    """Ordinary tensors only: of a divided one, this rank's rows."""
    shapes: Mapping[str, tuple[int, ...]]
    """The whole shape of each divided tensor, by name."""


def division(state: Mapping[str, Any]) -> Division:
    """What this rank holds of ``state``, and what is divided in it.

    Raises:
        CheckpointError: a tensor is divided in another way than by rows.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def local(name: str, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        own: Tensor = tensor.to_local().detach()
        if tensor.placements == (Shard(0),):
            shapes[name] = tuple(tensor.shape)
        elif tensor.placements != (Replicate(),):
            raise CheckpointError(
                "The state holds a tensor that is divided in a way that a checkpoint does not know.",
                where=name,
                found=str(tensor.placements),
                expected="rows of it at each process",
            )
        return own

    return Division(mapped(state, Tensor, local), shapes)


def describe_divided(own: Division, peers: Peers, *, all_cores: bool = True) -> Content:
    """The digests of a whole state, on all ranks; what is not divided is this rank's.

    They are those that one process would compute. The ranks share the work: each takes in the rows of some
    tensors from all the others, a piece at a time.

    Raises:
        CheckpointError: the ranks do not hold the same tensors.
    """
    rows: dict[str, Tensor] = {}

    def note(name: str, tensor: Tensor) -> None:
        if name in own.shapes:
            rows[name] = tensor

    mapped(own.state, Tensor, note)
    held = [(name, own.shapes[name], dtype_name(tensor)) for name, tensor in rows.items()]
    lengths = peers.gathered((held, [tensor.nbytes for tensor in rows.values()]))
    if any(other != held for other, _ in lengths):
        raise CheckpointError("The processes of the run do not hold the same tensors.")
    load = [0] * peers.size
    entries: dict[str, TensorEntry] = {}
    for index, (name, shape, dtype) in enumerate(held):
        sizes = [of_rank[index] for _, of_rank in lengths]
        owner = load.index(min(load))
        load[owner] += sum(sizes)
        if peers.rank == owner:
            entries[name] = TensorEntry(name, shape, dtype, _taken_in(rows[name], sizes, peers))
        else:
            _send(rows[name], owner, peers)
    known = {name: entry for part in peers.gathered(entries) for name, entry in part.items()}
    return describe(own.state, all_cores=all_cores, known=known)


def _taken_in(own: Tensor, sizes: list[int], peers: Peers) -> str:
    """The digest over the rows of all ranks, in their order."""
    hasher = blake3()
    received = torch.empty(_PIECE, dtype=torch.uint8)
    _recent.append(received)
    for rank, size in enumerate(sizes):
        if rank == peers.rank:
            for piece in byte_pieces(own):
                hasher.update(piece.numpy().data)
            continue
        for start in range(0, size, _PIECE):
            piece = received[: min(_PIECE, size - start)]
            dist.recv(piece, src=rank, group=peers.group)
            hasher.update(piece.numpy().data)
    return hasher.hexdigest()


def _send(own: Tensor, owner: int, peers: Peers) -> None:
    # Rows of a contiguous tensor are one piece already, of any size.
    for whole in byte_pieces(own):
        for piece in torch.split(whole, _PIECE):
            _recent.append(piece)
            dist.send(piece, dst=owner, group=peers.group)
