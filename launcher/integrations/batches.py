"""Whether the batches of another library's loader come again the same after a resume."""

from __future__ import annotations

from torch.utils.data import DataLoader, IterableDataset

from launcher.training.rng import restore_rng, rng_digest, rng_state


def draws(loader: DataLoader[object]) -> str | None:
    """What in a loader draws from the global random streams, found by making a batch; None: nothing.

    Batches are made ahead of the step that they are for, so a checkpoint between two steps has the streams
    as they are after the draws for the next batch, which a resume makes once more.
    """
    if isinstance(loader.dataset, IterableDataset):
        return None
    before = rng_state()
    try:
        began = rng_digest()
        # Another index may draw where this one does not: a few tell more.
        items = [loader.dataset[index] for index in range(min(4, len(loader.dataset)))]  # type: ignore[arg-type]
        if rng_digest() != began:
            return type(loader.dataset).__qualname__
        if loader.collate_fn is not None and items:
            loader.collate_fn(items)
        return f"collating by {_named(loader.collate_fn)}" if rng_digest() != began else None
    finally:
        restore_rng(before)


def _named(one: object) -> str:
    return getattr(one, "__qualname__", type(one).__qualname__)
