"""Several processes that train one run together: what they share, and what they agree on."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from blake3 import blake3
from torch import Tensor, nn

from launcher.errors import ConfigError, LauncherError, RunFailed, in_one_line
from launcher.training.rendezvous import ALONE, LOST, Place, choose_interface, met, word_of_end

_T = TypeVar("_T")
_TIMEOUT = datetime.timedelta(hours=1)
"""For what all wait for one: rank 0 may write a large checkpoint. A process that dies is noticed at once."""
_FAILURE = "failure"
_recent: deque[Tensor] = deque(maxlen=16)
"""Tensors of the last collectives. A thread of gloo that lets go of a tensor last needs the lock of Python,
and the process group, when it is freed, waits for that thread with the lock held: for ever."""
_LET_GO_SECONDS = 0.05
"""Time for that with tensors that PyTorch made itself, to send objects."""


class Ranks:
    """The processes of one run. Entered, they are connected; of a single process, every method is free.

    Every method that takes part in a collective says so; all ranks must call it at the same point.
    """

    def __init__(
        self,
        place: Place = ALONE,
        directory: Path = Path(),
        device_type: str = "cpu",
        shard: bool = False,
    ) -> None:
        """``directory`` is seen by all ranks, ``device_type`` (``cpu``, ``cuda``) is what they compute on."""
        self.rank, self.size = place.rank, place.size
        self.shard = shard and place.size > 1
        """Whether parameters and moments are divided among them."""
        self.saving: Any = None
        """A process group of gloo for what goes on beside training; only with ``shard``."""
        self._place = place
        self._directory = directory
        self._device_type = device_type
        self._held = contextlib.ExitStack()
        self._store: Any = None

    @property
    def first(self) -> bool:
        """Whether this process records the run."""
        return self.rank == 0

    def __enter__(self) -> Ranks:
        if self.size > 1:
            self._connect()
        return self

    def _connect(self) -> None:
        import torch.distributed as dist

        if not self.first:
            # What a rank says, rank 0 says as well.
            logging.getLogger("launcher").setLevel(logging.CRITICAL)
        if self._place.here or self._place.of_slurm:
            choose_interface(self._place.here)
        with contextlib.ExitStack() as held:
            self._store = held.enter_context(met(self._place, self._directory))
            self._start_group(dist)
            self._held = held.pop_all()

    def _start_group(self, dist: Any) -> None:
        dist.init_process_group(
            # Whatever is agreed on between steps does not wait for the GPU.
            "cpu:gloo,cuda:nccl" if self._device_type == "cuda" else "gloo",
            store=dist.PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=_TIMEOUT,
        )
        if self.shard:
            self.saving = dist.new_group(backend="gloo", timeout=_TIMEOUT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size == 1:
            return
        import torch.distributed as dist

        with self._held:
            try:
                if error is None:
                    # Whoever started the ranks may end the others as soon as one has left.
                    with self.lost_ones_named():
                        dist.barrier()
            except _PeerLost as lost:
                error = lost
            told = error is not None and not self.first and self._tell(error)
            time.sleep(_LET_GO_SECONDS)
            dist.destroy_process_group()
        if told and isinstance(error, LauncherError):
            raise SystemExit(error.exit_status) from None
        if isinstance(error, _PeerLost) and kind is None:
            raise error

    def _tell(self, error: BaseException) -> bool:
        """Leave word of what ended this rank where rank 0 will look; whether nothing is left to say."""
        if isinstance(error, _PeerLost) or not isinstance(error, Exception):
            return True
        try:
            self._store.set(_FAILURE, f"Rank {self.rank} failed: {in_one_line(error)}")
        except RuntimeError:
            return False
        return True

    @contextlib.contextmanager
    def lost_ones_named(self) -> Iterator[None]:
        """Turns the error of a collective that another rank has left into one that says so.

        Raises:
            RunFailed: with the other rank's own words, if it left any.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _of_connection(error):
                raise
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> RunFailed:
        said, deadline = f"{LOST}.", time.monotonic() + 1
        meeting = self._place.meeting if self._place.here else None
        word = word_of_end(meeting) if meeting is not None else None
        with contextlib.suppress(RuntimeError):
            while self.first and time.monotonic() < deadline:
                if self._store.check([_FAILURE]):
                    said = self._store.get(_FAILURE).decode()
                    break
                if word is not None and word.is_file():
                    said = f"{LOST}: {word.read_text()}."
                    break
                time.sleep(0.05)
        return _PeerLost(
            said,
            found=str(error).splitlines()[0][:200],
            expected=f"{self.size} processes to the end",
            do="give the same command again: it goes on from the newest whole checkpoint",
        )

    def told(self, find: Callable[[], _T]) -> _T:
        """What rank 0 finds, on all ranks. Collective.

        Where rank 0 finds an error it raises that, and the others leave without a word.
        """
        if self.size == 1:
            return find()
        import torch.distributed as dist

        found: list[Any] = [None]
        with self.lost_ones_named():
            try:
                if self.first:
                    found = [(find(),)]
            finally:
                dist.broadcast_object_list(found, src=0)
        if found[0] is None:
            raise SystemExit(ConfigError.exit_status)
        result: _T = found[0][0]
        return result

    def gathered(self, value: _T) -> list[_T]:
        """Every rank's value, on all ranks. Collective."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def means(self, values: Sequence[float]) -> list[float]:
        """The mean over ranks of each value; not finite where one is not. Collective."""
        if self.size == 1:
            return list(values)
        return [value / self.size for value in self._reduced(values, "SUM")]

    def asked(self, own: signal.Signals | None) -> signal.Signals | None:
        """The signal by which any rank was asked to stop, if one was. Collective."""
        if self.size == 1:
            return own
        [number] = self._reduced([own or 0], "MAX")
        return signal.Signals(int(number)) if number else None

    def _reduced(self, values: Sequence[float], how: str) -> list[float]:
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.float64)
        _recent.append(tensor)
        dist.all_reduce(tensor, getattr(dist.ReduceOp, how))
        reduced: list[float] = tensor.tolist()
        return reduced

    def share(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """This rank's part of a batch: equally many consecutive rows of each tensor.

        Raises:
            RunFailed: the batch cannot be divided so.
        """
        if self.size == 1:
            return batch
        if wrong := indivisible(batch, self.size):
            raise RunFailed(
                "A batch cannot be divided among the processes.",
                found=wrong,
                expected=f"a first dimension of one length, a multiple of launch.nproc={self.size}",
            )
        return {
            name: values[self.rank * (count := len(values) // self.size) :][:count]
            for name, values in batch.items()
        }

    def built_on(self, device: torch.device) -> torch.device:
        """Where a model that computes on ``device`` is built, whole."""
        return torch.device("cpu") if self.shard else device

    def divided(self, model: nn.Module) -> nn.Module:
        """The model, divided among the ranks with ``launch.shard``. Collective."""
        if not self.shard:
            return model
        from launcher.training.sharding import shard

        return shard(model, self._device_type)

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model as the loss calls it: gradients are means over ranks after ``backward``. Collective.

        The weights and buffers are those of rank 0. A model of a single process, or one that is divided
        already, is returned as it is.
        """
        if self.size == 1 or self.shard:
            return model
        with _without_its_warning():
            # The warning comes once a process, at the first forward pass: here, at one that does not count.
            _data_parallel(_Nothing())()
        _lay_out_buffers(model)
        return _data_parallel(model)


class _PeerLost(RunFailed):
    """Another rank has ended; what ended it is that one's to tell."""


def indivisible(batch: Mapping[str, Tensor], size: int) -> str | None:
    """Why a batch cannot be divided among ``size`` processes; None if it can."""
    lengths = {len(values) if values.dim() else 0 for values in batch.values()}
    if len(lengths) == 1 and (length := next(iter(lengths))) and length % size == 0:
        return None
    return "; ".join(f"{name}{list(values.shape)}" for name, values in batch.items())


def rank_seed(seed: int, rank: int) -> int:
    """The seed of a rank's own random numbers; rank 0 has those of a single process.

    Not ``seed + rank``: runs with neighbouring seeds would share dropout.
    """
    return seed if rank == 0 else int.from_bytes(blake3(f"{seed} {rank}".encode()).digest(4), "little")


def _data_parallel(model: nn.Module) -> nn.Module:
    # Without find_unused_parameters DDP lays its buckets out anew after the first backward pass it sees, and
    # from three ranks on a sum's last bit depends on its place in a bucket: a resumed run would not be exact.
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)


def _lay_out_buffers(model: nn.Module) -> None:
    """Row by row in memory, as DDP needs buffers to be to send them; their values stay."""
    for buffer in model.buffers():
        if buffer.stride() != torch.empty(buffer.shape, device="meta").stride():
            buffer.data = buffer.data.clone(memory_format=torch.contiguous_format)


class _Nothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(1))

    def forward(self) -> Tensor:
        return self.parameter * 1


@contextlib.contextmanager
def _without_its_warning() -> Iterator[None]:
    """DDP recommends against find_unused_parameters from C++, straight to the file descriptor of stderr."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _of_connection(error: RuntimeError) -> bool:
    """Whether a collective failed because somebody is gone: gloo says so in words, NCCL by its class."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo/" in str(error) or "Connection closed" in str(error)
