"""Loaders that go on at the batch where they stopped, with workers and without, to the last random number."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from launcher.script.data import prepared
from launcher.training.rng import restore_rng, rng_digest, rng_state, seed_all

STEPS = 7
"""More than an epoch of four batches; the second resume within an epoch is where others shift the data."""


class Augmented(Dataset[Any]):
    """Draws from each random stream for each item, as an augmentation does."""

    def __len__(self) -> int:
        return 14

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        return index, torch.rand(()).item(), random.random(), float(np.random.rand())


class Counting(IterableDataset[int]):
    """Says itself how far it is."""

    def __init__(self) -> None:
        self.next = 0

    def __iter__(self) -> Iterator[int]:
        while self.next < 14:
            self.next += 1
            yield self.next - 1
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class OddFirst(Sampler[int]):
    """Somebody's own: draws from the global streams."""

    def __len__(self) -> int:
        return 14

    def __iter__(self) -> Iterator[int]:
        own = list(np.random.permutation(14))
        random.shuffle(own)
        yield from (int(index) for index in own)


def weighted() -> WeightedRandomSampler:
    return WeightedRandomSampler([1.0 + index for index in range(14)], 14)


MADE: dict[str, Any] = {
    "plain": lambda: DataLoader(Augmented(), batch_size=4, shuffle=True),
    "two workers": lambda: DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=2),
    "persistent": lambda: DataLoader(
        Augmented(), batch_size=4, shuffle=True, num_workers=1, persistent_workers=True
    ),
    "own generator": lambda: DataLoader(
        Augmented(), batch_size=4, sampler=RandomSampler(Augmented(), generator=torch.Generator())
    ),
    "weighted": lambda: DataLoader(Augmented(), batch_size=4, sampler=weighted(), drop_last=True),
    "own sampler": lambda: DataLoader(Augmented(), batch_size=4, sampler=OddFirst()),
    "single items": lambda: DataLoader(Augmented(), batch_size=None, shuffle=True),
    "iterable": lambda: DataLoader(Counting(), batch_size=4),
    "torchdata": lambda: StatefulDataLoader(Augmented(), batch_size=4, shuffle=True),
    "torchdata, two workers": lambda: StatefulDataLoader(
        Augmented(), batch_size=4, shuffle=True, num_workers=2
    ),
}


def steps(loader: Any) -> Iterator[str]:
    """A script's own steps: what each saw, and the streams after it."""
    while True:
        for batch in loader:
            torch.rand(1)  # Dropout.
            yield f"{batch} {rng_digest()}"


def started(name: str) -> tuple[Any, Any]:
    loader = MADE[name]()
    data, _, why = prepared(loader, seed=3)
    assert why == ()
    assert isinstance(loader, type(MADE[name]()))
    return loader, data


def resumed(name: str, state: Any) -> Iterator[str]:
    seed_all(11)  # Another process draws what it will before anything is restored.
    loader, data = started(name)
    data.load_state_dict(state["data"])
    assert data.state_dict() == state["data"]
    restore_rng(state["rng"])
    return steps(loader)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("name", MADE)
def test_it_goes_on_exactly_from_every_step(name: str) -> None:
    seed_all(5)
    loader, data = started(name)
    seen, states = [], []
    taking = steps(loader)
    for _ in range(STEPS):
        states.append(copy.deepcopy({"data": data.state_dict(), "rng": rng_state()}))
        seen.append(next(taking))
    assert len(set(seen)) == STEPS
    few = range(STEPS) if getattr(loader, "num_workers", 0) == 0 else (2, 5)
    for step in few:
        again = resumed(name, states[step])
        assert [next(again) for _ in range(STEPS - step)] == seen[step:], step
    # And a resumed one is saved and resumed again.
    loader, data = started(name)
    data.load_state_dict(states[1]["data"])
    restore_rng(states[1]["rng"])
    taking = steps(loader)
    assert next(taking) == seen[1]
    again = resumed(name, copy.deepcopy({"data": data.state_dict(), "rng": rng_state()}))
    assert [next(again) for _ in range(3)] == seen[2:5]


def test_a_new_iterator_for_each_step_is_a_new_epoch_each_time() -> None:
    seed_all(5)
    loader, data = started("plain")
    seen = [str(next(iter(loader))) for _ in range(3)]
    state, rng = data.state_dict(), rng_state()
    seen.append(str(next(iter(loader))))
    loader, data = started("plain")
    data.load_state_dict(state)
    restore_rng(rng)
    assert str(next(iter(loader))) == seen[3]
    assert len(set(seen)) == 4


def test_the_order_is_that_of_the_seed_and_differs_from_epoch_to_epoch() -> None:
    def order(seed: int) -> list[list[int]]:
        loader = DataLoader(TensorDataset(torch.arange(12)), batch_size=12, shuffle=True)
        prepared(loader, seed)
        return [batch[0].tolist() for _ in range(2) for batch in loader]

    first, second = order(1)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert order(1) == [first, second]
    assert order(2)[0] != first


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


class Remembering(Sampler[int]):
    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return 14

    def __iter__(self) -> Iterator[int]:
        yield from self.random.permutation(14).tolist()


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield from range(14)


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (lambda: DataLoader(Stream()), "Stream is an IterableDataset without a state"),
        (lambda: DataLoader(Counting(), num_workers=2), "Counting has its state in 2 workers"),
        (lambda: DataLoader(Augmented(), sampler=Endless()), "Endless has no length"),
        (
            lambda: StatefulDataLoader(Augmented(), num_workers=1, persistent_workers=True),
            "with persistent_workers, what workers draw at random is in nobody's state",
        ),
        (lambda: DataLoader(Augmented(), sampler=Remembering()), "keeps random numbers of its own (random)"),
    ],
)
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_what_cannot_be_exact_is_said(loader: Any, why: str) -> None:
    made = loader()
    data, _, said = prepared(made, seed=3)
    assert (data is None) == (type(made) is DataLoader)
    assert why in said[0]
    next(iter(made))  # It is left as it was.


def test_a_dataset_that_identifies_itself_is_asked() -> None:
    class Told(Augmented):
        _fingerprint = "abc"

    assert prepared(DataLoader(Told()), 0)[1] == "abc"
    assert prepared(DataLoader(Augmented()), 0)[1] is None
