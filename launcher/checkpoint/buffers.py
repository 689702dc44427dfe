"""A copy of a state in memory that is kept between saves, so that taking it costs a memory copy only.

First touches of fresh pages cost several times the copy itself; here they happen once, in the
background, ahead of the first save. Storages are copied, not tensors: tied weights and views are copied
once and stay tied, and of a large storage only the bytes between the first and the last that are used.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from launcher import files
from launcher.checkpoint.tree import check_tensor, mapped

_ALIGNMENT = 64
"""Bytes; a multiple of every element size."""
_MOST_THREADS = 8
_PIECE = 8 << 20
_TOUCH = 64 << 20
_PORTABLE = 1
"""``cudaHostRegisterPortable``: pinned for every device."""

_log = logging.getLogger(__name__)


@dataclass
class _Span:
    """The bytes of one storage that the state uses, and where their copy lies."""

    source: Tensor
    start: int
    stop: int
    place: int = 0


@dataclass(frozen=True)
class _Slot:
    """A tensor as a view into the copy of its storage; ``first`` counts bytes of the original storage."""

    span: _Span | None
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    first: int


@dataclass
class _Layout:
    """Which bytes a state needs, found in one walk over its tensors."""

    spans: dict[tuple[torch.device, int, torch.dtype], _Span] = field(default_factory=dict)

    def slot(self, name: str, tensor: Tensor) -> _Slot:
        tensor = check_tensor(name, tensor)
        shape, stride, size = tensor.shape, tensor.stride(), tensor.element_size()
        if tensor.numel() == 0:
            return _Slot(None, tensor.dtype, shape, stride, 0)
        first = int(tensor.storage_offset()) * size
        last = first + sum(int((n - 1) * s) for n, s in zip(shape, stride, strict=True)) * size
        # torch.save refuses one storage under two dtypes, so there the sharing is given up.
        key = (tensor.device, tensor.untyped_storage().data_ptr(), tensor.dtype)
        span = self.spans.setdefault(key, _Span(tensor, first, last + size))
        span.start, span.stop = min(span.start, first), max(span.stop, last + size)
        return _Slot(span, tensor.dtype, shape, stride, first)

    def cuda(self) -> list[torch.device]:
        """The CUDA devices that the state lies on."""
        return list(dict.fromkeys(device for device, _, _ in self.spans if device.type == "cuda"))

    def place(self) -> int:
        """Give every span its place; the bytes that all of them take."""
        total = 0
        for span in self.spans.values():
            span.place = total
            total += -(-(span.stop - span.start) // _ALIGNMENT) * _ALIGNMENT
        return total


class Snapshot:
    """A state as it was at one moment; valid until the buffers are copied into again."""

    def __init__(self, tree: dict[str, Any], arena: _Arena, size: int) -> None:
        self._tree, self._arena = tree, arena
        self.bytes = size
        """Of all storages; the file is a little longer."""

    def state(self) -> dict[str, Any]:
        """The state, its tensors views into the buffers (on the CPU, wherever the originals were)."""
        storages: dict[int, torch.UntypedStorage] = {}

        def tensor(_name: str, slot: _Slot) -> Tensor:
            empty = torch.empty(0, dtype=slot.dtype)
            if slot.span is None:
                return empty.as_strided(slot.shape, slot.stride)
            span = slot.span
            if id(span) not in storages:
                copied = self._arena.bytes(span.place, span.stop - span.start)
                storages[id(span)] = copied.untyped_storage()
            offset = (slot.first - span.start) // slot.dtype.itemsize
            return empty.set_(storages[id(span)], offset, slot.shape, slot.stride)

        return mapped(self._tree, _Slot, tensor)


class Buffers:
    """Memory for one copy of a state; grows if the state does."""

    def __init__(self) -> None:
        self._arena: _Arena | None = None
        self._touching: threading.Thread | None = None

    def reserve(self, state: Mapping[str, Any]) -> None:
        """Allocate and touch the memory that ``state`` needs, in the background.

        Raises:
            CheckpointError: the state holds something that a checkpoint cannot.
            OSError: so much memory cannot be had.
        """
        layout = _Layout()
        mapped(state, Tensor, layout.slot)
        arena = self._at_least(layout.place())
        self._touching = threading.Thread(
            target=arena.touch, args=(layout.cuda(),), name="checkpoint-reserve"
        )
        self._touching.start()

    def copy(self, state: Mapping[str, Any]) -> Snapshot:
        """Copy ``state``; on return the originals may change. The last snapshot is overwritten.

        Raises:
            CheckpointError: the state holds something that a checkpoint cannot.
            OSError: so much memory cannot be had.
        """
        layout = _Layout()
        tree = mapped(state, Tensor, layout.slot)
        size = layout.place()
        arena = self._at_least(size)
        arena.pin(layout.cuda())
        spans = list(layout.spans.values())
        _copy_from_devices([span for span in spans if span.source.device.type != "cpu"], layout.cuda(), arena)
        _copy_from_memory([span for span in spans if span.source.device.type == "cpu"], arena)
        for span in spans:
            span.source = torch.empty(0)
        return Snapshot(tree, arena, size)

    def release(self) -> None:
        """Give the memory back, once no snapshot is used any more."""
        self._join()
        if self._arena is not None:
            self._arena.unpin()
        self._arena = None

    def _at_least(self, size: int) -> _Arena:
        self._join()
        if self._arena is None or self._arena.size < size:
            self.release()
            self._arena = _Arena(size)
        return self._arena

    def _join(self) -> None:
        if self._touching is not None:
            self._touching.join()
            self._touching = None


class _Arena:
    """One anonymous mapping, in huge pages where the kernel gives them."""

    def __init__(self, size: int) -> None:
        self.size = max(size, mmap.PAGESIZE)
        self._memory = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # DONTFORK: a data worker forked later would otherwise hold a second copy once this one is rewritten.
        for advice in ("MADV_HUGEPAGE", "MADV_DONTFORK"):
            with contextlib.suppress(AttributeError, OSError):
                self._memory.madvise(getattr(mmap, advice))
        self.address = self.bytes(0, 1).data_ptr()
        self._pinned = False

    def bytes(self, place: int, count: int) -> Tensor:
        """A part of the memory as uint8, with a storage of its own."""
        return torch.frombuffer(self._memory, dtype=torch.uint8, count=count, offset=place)

    def touch(self, cuda: list[torch.device]) -> None:
        """Have the kernel provide every page; ctypes lets other threads run meanwhile."""
        for place in range(0, self.size, _TOUCH):
            ctypes.memset(self.address + place, 0, min(_TOUCH, self.size - place))
        self.pin(cuda)

    def pin(self, cuda: list[torch.device]) -> None:
        """Make copies from CUDA devices asynchronous; without it they are only slower."""
        if self._pinned or not cuda:
            return
        # On a device that is in use: on another one CUDA would build a context first.
        with torch.cuda.device(cuda[0]):
            code = int(_cudart().cudaHostRegister(self.address, self.size, _PORTABLE))
        if code != 0:
            _log.warning(
                "memory for checkpoints could not be pinned (CUDA error %d): copies are slower", code
            )
        self._pinned = code == 0

    def unpin(self) -> None:
        if self._pinned:
            _cudart().cudaHostUnregister(self.address)
            self._pinned = False


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _copy_from_devices(spans: list[_Span], cuda: list[torch.device], arena: _Arena) -> None:
    for device in cuda:
        # The state may have been written by other streams than the current one.
        torch.cuda.synchronize(device)
    for span in spans:
        target = arena.bytes(span.place, span.stop - span.start)
        source = torch.empty(0, dtype=torch.uint8, device=span.source.device)
        source.set_(span.source.untyped_storage(), span.start, (span.stop - span.start,), (1,))
        target.copy_(source, non_blocking=span.source.device in cuda)
    for device in cuda:
        torch.cuda.synchronize(device)


def _copy_from_memory(spans: list[_Span], arena: _Arena) -> None:
    """One thread does not fill the memory's bandwidth; several take the next piece whenever they are free."""
    pieces = [
        (arena.address + span.place + at, span.source.untyped_storage().data_ptr() + span.start + at, count)
        for span in spans
        for at in range(0, span.stop - span.start, _PIECE)
        for count in [min(_PIECE, span.stop - span.start - at)]
    ]
    total = sum(count for _, _, count in pieces)
    left = iter(pieces)
    threads = min(_MOST_THREADS, files.cores(), -(-total // _PIECE))
    beside = [threading.Thread(target=_move, args=(left,)) for _ in range(threads - 1)]
    for thread in beside:
        thread.start()
    _move(left)
    for thread in beside:
        thread.join()


def _move(pieces: Iterator[tuple[int, int, int]]) -> None:
    for target, source, count in pieces:
        ctypes.memmove(target, source, count)
