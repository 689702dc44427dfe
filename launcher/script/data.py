"""Data that goes on at the batch where it stopped: PyTorch's loaders, and what has a state of its own.

A ``DataLoader`` that a script registers is changed in place, because the script goes on using it. Its order
becomes a function of (seed, epoch), drawn aside from the global random streams; the batches that were taken
of an epoch are counted where they are handed out, and not where workers prefetch them; and what a dataset
draws in a worker is seeded for each batch. So a resumed loader skips by index, loading nothing, and hands out
what would have come. torchdata's ``StatefulDataLoader`` skips by its own state.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, get_worker_info

from launcher.training.task import Stateful

Prepared = tuple[Stateful | None, str | None, tuple[str, ...]]
"""What is saved of the data, its own fingerprint, and why it is not exact."""


@dataclass(frozen=True)
class Elsewhere:
    """Data that another library skips to its place by itself; registered in place of a loader."""

    fingerprint: str | None
    inexact: tuple[str, ...] = ()
    """Why its batches do not come again the same; empty where they do."""


def prepared(data: Any, seed: int) -> Prepared:
    """Make what a script registers as its data resumable, in place.

    Args:
        data: a loader, or anything with a state.
        seed: of the order of batches.
    """
    if isinstance(data, Elsewhere):
        return None, data.fingerprint, data.inexact
    if not isinstance(data, DataLoader):
        return data, fingerprint_of(data), ()
    fingerprint = fingerprint_of(data.dataset)
    own_state = isinstance(data, Stateful)
    why = _inexact(data)
    if why and not own_state:
        return None, fingerprint, why
    if data.num_workers > 0 and not why and not isinstance(data.dataset, IterableDataset):
        data.worker_init_fn = SeededWorker(data.worker_init_fn)
    data.generator = torch.Generator()
    position: Position = StatefulPosition(data, seed) if own_state else Position(data, seed)
    if not own_state and not isinstance(data.dataset, IterableDataset):
        name = "batch_sampler" if data.batch_sampler is not None else "sampler"
        # PyTorch guards these names against a change after it has started; here it has not.
        object.__setattr__(data, name, Ordered(getattr(data, name), position))
    object.__setattr__(data, "_position", position)
    object.__setattr__(data, "__class__", _counted(type(data)))
    return position, fingerprint, why


class Position:
    """How far a loader is: the part of it that is saved."""

    def __init__(self, loader: Any, seed: int) -> None:
        self.loader, self.seed = loader, seed
        self.epoch, self.batch = 0, 0
        self.open = False
        """Whether an iterator of the present epoch is in use."""
        self._continues = False

    def state_dict(self) -> dict[str, Any]:
        """The epoch, counted from 1, the batches taken of it, and whether more of it will be."""
        own = self._dataset
        of_dataset = {} if own is None else {"dataset": own.state_dict()}
        return {**self._counts(), **of_dataset}

    def _counts(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batch": self.batch, "open": self.open or self._continues}

    @property
    def _dataset(self) -> Stateful | None:
        """The dataset, where it has to say itself how far it is."""
        dataset: Any = self.loader.dataset
        return dataset if isinstance(dataset, IterableDataset) and isinstance(dataset, Stateful) else None

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """The next iterator goes on there."""
        self.epoch, self.batch, self._continues = state["epoch"], state["batch"], state["open"]
        if (own := self._dataset) is not None:
            own.load_state_dict(state["dataset"])

    def begin(self) -> None:
        """An iterator is asked for: of the next epoch, or of the one that was left."""
        if not self._continues:
            self.epoch, self.batch = self.epoch + 1, 0
        self._continues, self.open = False, True
        # Workers may outlive an epoch, and are told which one a batch is of.
        self.loader.generator.manual_seed(_seed(self.seed, 0, "workers"))


class StatefulPosition(Position):
    """How far a loader with a state of its own is: that state, and the epoch that it is in."""

    def __init__(self, loader: Any, seed: int) -> None:
        super().__init__(loader, seed)
        self._of_loader: Callable[[], Any] = loader.state_dict
        self._load: Callable[[Any], None] = loader.load_state_dict
        self._loaded: Any = None
        self._begun = False
        for one in _samplers(loader):
            if getattr(one, "generator", self) is None:
                # Without one it would draw from the global stream, at another moment after a resume.
                one.generator = torch.Generator()

    def state_dict(self) -> dict[str, Any]:
        """That of the loader, as it was loaded or as it is; asking it earlier would start its workers."""
        return {**self._counts(), "loader": self._of_loader() if self._begun else self._loaded}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """The next iterator goes on there."""
        self.epoch, self.batch, self._continues = state["epoch"], state["batch"], state["open"]
        self._loaded = own = state["loader"]
        # An iterator that was given up within its epoch is not gone on with.
        if own is not None and (self._continues or own.get("_iterator_finished", True)):
            self._load(own)

    def begin(self) -> None:
        """An iterator is asked for; the loader itself goes on where it was."""
        self._begun = True
        super().begin()
        self.loader.generator.manual_seed(_seed(self.seed, self.epoch, "workers"))
        for one in _samplers(self.loader):
            if isinstance(generator := getattr(one, "generator", None), torch.Generator):
                generator.manual_seed(_seed(self.seed, self.epoch, "order"))


class Ordered:
    """A sampler whose order is a function of (seed, epoch), from the present position on."""

    def __init__(self, sampler: Any, position: Position) -> None:
        self._sampler, self._position = sampler, position

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_sampler"], name)

    def __iter__(self) -> Iterator[Any]:
        position = self._position
        with _aside(_seed(position.seed, position.epoch, "order")) as number:
            for one in _samplers(self._sampler):
                if isinstance(generator := getattr(one, "generator", None), torch.Generator):
                    generator.manual_seed(number)
                if callable(set_epoch := getattr(one, "set_epoch", None)):
                    set_epoch(position.epoch)
            whole = list(self._sampler)
        return (_of_epoch(one, position.epoch) for one in whole[position.batch :])


class Indices(list[Any]):
    """The indices of one batch, with the epoch that they belong to: persistent workers outlive epochs."""

    epoch = 0


def _of_epoch(one: Any, epoch: int) -> Any:
    if not isinstance(one, list):
        return one
    indices = Indices(one)
    indices.epoch = epoch
    return indices


class SeededWorker:
    """``worker_init_fn`` that has a worker draw the same for a batch, whatever it drew before."""

    def __init__(self, then: Callable[[int], Any] | None) -> None:
        self._then = then

    def __call__(self, worker: int) -> None:
        """Called in the worker, before it loads anything."""
        info = get_worker_info()
        assert info is not None
        if self._then is not None:
            self._then(worker)
        base = info.seed - info.id
        kind = type(info.dataset)
        # A builtin list draws nothing, and its class cannot be changed.
        with contextlib.suppress(TypeError):
            own = {"__getitems__": lambda dataset, indices: _items(kind, dataset, indices, base)}
            info.dataset.__class__ = type(kind.__name__, (kind,), own)


def _items(kind: type, dataset: Any, indices: list[Any], base: int) -> list[Any]:
    number = _seed(base, getattr(indices, "epoch", 0), repr(list(indices)))
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)
    together = getattr(kind, "__getitems__", None)
    return together(dataset, indices) if together is not None else [dataset[index] for index in indices]


def _counted(kind: type[Any]) -> type[Any]:
    """A subclass whose iterators count what they hand out."""

    def __iter__(loader: Any) -> Iterator[Any]:  # noqa: N807
        position: Position = loader._position

        def counted() -> Iterator[Any]:
            position.begin()
            try:
                for batch in kind.__iter__(loader):
                    position.batch += 1
                    yield batch
            finally:
                position.open = False

        return counted()

    return type(kind.__name__, (kind,), {"__iter__": __iter__, "__module__": kind.__module__})


def _inexact(loader: DataLoader[Any]) -> tuple[str, ...]:
    """Why a loader cannot go on exactly; empty where it can."""
    if isinstance(loader, Stateful):
        if loader.persistent_workers and not isinstance(loader.dataset, IterableDataset):
            return ("with persistent_workers, what workers draw at random is in nobody's state",)
        return ()
    if isinstance(loader.dataset, IterableDataset):
        if not isinstance(loader.dataset, Stateful):
            return (f"{_named(loader.dataset)} is an IterableDataset without a state: it begins anew",)
        if loader.num_workers > 0:
            return (f"{_named(loader.dataset)} has its state in {loader.num_workers} workers, out of reach",)
        return ()
    sampler = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    for one in reversed(list(_samplers(sampler))):
        kept = [
            name for name, value in getattr(one, "__dict__", {}).items() if isinstance(value, _GENERATORS)
        ]
        if kept:
            return (f"{_named(one)} keeps random numbers of its own ({', '.join(kept)}), which nobody saves",)
        try:
            len(one)
        except TypeError:
            return (f"{_named(one)} has no length: how far an epoch of it is cannot be known",)
    return ()


_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)


def _samplers(sampler: Any) -> Iterable[Any]:
    """A loader's or a sampler's samplers, outermost first."""
    if isinstance(sampler, DataLoader):
        sampler = sampler.batch_sampler if sampler.batch_sampler is not None else sampler.sampler
    while sampler is not None:
        yield sampler
        sampler = getattr(sampler, "sampler", None) if isinstance(sampler, BatchSampler) else None


def fingerprint_of(dataset: Any) -> str | None:
    """The dataset's own: of Hugging Face's datasets, or by a method of that name."""
    own = getattr(dataset, "fingerprint", None)
    found = own() if callable(own) else getattr(dataset, "_fingerprint", None)
    return found if isinstance(found, str) else None


def _named(one: object) -> str:
    return type(one).__qualname__


def _seed(seed: int, epoch: int, what: str) -> int:
    return int.from_bytes(blake3(f"{seed} {epoch} {what}".encode()).digest(7), "little")


@contextlib.contextmanager
def _aside(number: int) -> Iterator[int]:
    """Global random streams that begin at a number, and afterwards are what they were."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)
        try:
            yield number
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
