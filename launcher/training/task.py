"""What a user's own task provides, and nothing more.

A task is named by ``task._target_`` and built with one argument, the whole validated
:class:`launcher.config.Config`. Building it must be cheap: data is read at the first use, not in
``__init__``, because preflight builds tasks only to ask what they would do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

Batch: TypeAlias = Mapping[str, Tensor]
"""Named CPU tensors; the loop moves them to the device."""


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state belongs in a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values (int, float, str, bool, None, list, tuple, dict) only."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take ``state_dict`` over; unknown or missing names are errors."""
        ...


Direction: TypeAlias = Literal["up", "down"]
"""Which way a metric is better."""


@runtime_checkable
class Directed(Protocol):
    """A task that says, beside its metrics, which way each of them is better. That is optional."""

    directions: Mapping[str, Direction]
    """Metric name, without ``train/`` and ``val/``, to its direction."""


@runtime_checkable
class SharesData(Protocol):
    """A task that can read its data once for all tasks of a process, and of the processes forked from it."""

    def share_data(self) -> None:
        """Read the data and keep it for whichever task of this process has the same.

        May leave neither threads nor processes behind.
        """
        ...


class Task(Protocol):
    """A model, its data and its loss. May also be :class:`SharesData` or :class:`Directed`."""

    def build_model(self) -> nn.Module:
        """A new model, initialised from torch's global RNG.

        Also called under ``torch.device("meta")`` by preflight, so it may not look at values.
        """
        ...

    def batch(self, step: int) -> Batch:
        """The training batch of data step ``step`` (1, 2, ...).

        A pure function of (seed, ``step``): no generator state, no dependence on earlier calls. With
        ``launch.nproc`` processes the first dimension of each tensor is divided among them.
        """
        ...

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss (a scalar that is differentiated) and metrics (scalars) of one batch.

        ``step`` is the task step, which curricula follow. Metric names get the prefix ``train/``.

        With ``launch.nproc`` processes each is given its part of the batch, and ``model`` is a wrapper: call
        it as ``model(...)``, not by another method, or the others' gradients are missing.
        """
        ...

    def evaluate(self, model: nn.Module, step: int, device: torch.device) -> dict[str, float]:
        """Metrics on held-out data; called in eval mode under ``torch.no_grad``. Names get ``val/``.

        May not draw from the global RNGs: it would change what follows. With ``launch.shard`` all processes
        evaluate the same, and ``model`` has all of its parameters only while it is called as ``model(...)``.
        """
        ...

    def settings(self, step: int) -> Mapping[str, object]:
        """Everything that decides what task step ``step`` computes, as plain values.

        A setting that is not active at ``step`` is left out (the loss's facts while its weight is
        zero). Compared between a branch and its trunk over the steps of the branch, this tells
        whether a typed override has an effect at all, and from which step on.
        """
        ...

    def fingerprint(self) -> str:
        """Identifies the data: equal fingerprints mean equal batches for an equal seed."""
        ...

    def stateful(self) -> Mapping[str, Stateful]:
        """Whatever else belongs in a checkpoint, by name; usually empty."""
        ...
