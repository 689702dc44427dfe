"""``launcher.Run``: what a script that keeps its own loop is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher.errors import ConfigError, RunFailed
from launcher.script.data import prepared
from launcher.script.parts import Parts, collected
from launcher.training.task import Direction, Stateful


@dataclass(frozen=True)
class BranchedFrom:
    """The branch point of a run: an exact place to start from."""

    run: str
    """Id of the run that wrote the checkpoint; of a foreign one, its name."""
    step: int
    """In that run's own numbering, in steps."""
    checkpoint: Path
    """Its file, or its directory."""
    sha256: str
    """Content digest of the checkpoint: 64 hex digits."""


@dataclass(frozen=True)
class Facts:
    """What is known of a run before its script builds anything."""

    id: str
    directory: Path
    device: torch.device
    seed: int
    end_step: int
    horizon_steps: int
    branch_point: BranchedFrom | None = None


class Stopped(BaseException):
    """Leaves a script's loop between two steps, with everything saved. Not an error; do not catch it."""


class Run:
    """The run that a script's own loop trains: the second argument of ``main(cfg, run)``.

    Build model, optimizer and whatever else has state as always; hand them to :meth:`register`, which
    restores them; then take one optimizer step in each round of :meth:`steps`::

        run.register(model=model, optimizer=optimizer, scheduler=scheduler, data=loader)
        for step in run.steps():
            ...
            run.log({"train/loss": loss})

    Random numbers: every global stream (Python, NumPy, PyTorch on CPU and GPUs) is seeded with ``seed``
    before ``main`` is called, and restored when the first round begins. So whatever a step uses is drawn
    within its round; a batch that is fetched ahead of the loop is not what the trunk saw.

    What stands before ``register`` is also run by the checks before a launch, on PyTorch's meta device and
    with its output thrown away: there, read and build, but train and write nothing.

    Attributes:
        id: the run's id.
        directory: the run's directory; for files of the script's own.
        device: where to compute. ``device`` of the config decides.
        seed: what the random streams were seeded with, 0 to 2**32 - 1.
        end_step: last step, in the run's own numbering.
        horizon_steps: steps over which a learning-rate schedule is to run. Those of the trunk, unless
            ``branch.schedule=restart``.
        branch_point: where the run branched from; None for a trunk.
        probing: whether this is a check before a launch, which goes no further than to :meth:`register`.
    """

    probing = False

    def __init__(self, facts: Facts) -> None:
        self.id = facts.id
        self.directory = facts.directory
        self.device = facts.device
        self.seed = facts.seed
        self.end_step = facts.end_step
        self.horizon_steps = facts.horizon_steps
        self.branch_point = facts.branch_point
        self._parts: Parts | None = None

    def register(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        scheduler: Any = None,
        scaler: torch.amp.GradScaler | None = None,
        data: Any = None,
        fingerprint: str | None = None,
        directions: Mapping[str, Direction] | None = None,
        **others: Stateful | torch.Generator,
    ) -> None:
        """Say what belongs in a checkpoint, once, before the loop. What was saved is restored here, in place.

        Hyperparameters that the optimizers and schedulers were built with are compared with those of the
        trunk; one that is another here wins over the restored state. A learning rate keeps its place in its
        schedule.

        Args:
            model: its parameters are on the device where they are trained.
            optimizer: over parameters of ``model``.
            scheduler: of ``torch.optim.lr_scheduler``, or with a state and an ``optimizer`` like those.
            scaler: of mixed precision.
            data: whatever says how far it is: with ``state_dict`` and ``load_state_dict`` (torchdata's
                ``StatefulDataLoader``), or a ``torch.utils.data.DataLoader``, which from here on is shuffled
                by ``seed`` and epoch and goes on at the batch where it stopped. See docs/own-script.md for
                what cannot be exact. Batches that are drawn from the global random streams need nothing.
            fingerprint: identifies the data: equal ones mean equal batches for an equal seed. By default the
                dataset's own, where it has one.
            directions: metric, without ``train/`` and ``val/``, to ``up`` or ``down``: which way is better.
            others: anything else with ``state_dict`` and ``load_state_dict``: a second model, an average;
                or a ``torch.Generator``.

        Raises:
            ConfigError: something has no state to save.
            CheckpointError: what was saved does not fit what was built.
            RunFailed: called twice.
        """
        if self._parts is not None:
            raise RunFailed("run.register was called twice.", do="register everything in one call")
        given = {"optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "data": data, **others}

        def resumable(one: Any) -> tuple[Stateful | None, str | None, tuple[str, ...]]:
            return prepared(one, self.seed)

        self._parts = collected(model, given, fingerprint, directions or {}, resumable)
        self._registered(self._parts)

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that are left, in the run's own numbering; the first of a trunk is 1.

        Between two of them metrics are written, checkpoints saved, signals obeyed. The loop ends after
        ``end_step``; where a signal asked to stop, ``main`` is left instead, once the state is on disk.

        Raises:
            RunFailed: nothing was registered; or saving failed.
        """
        self.begin()
        while self.step < self.end_step:
            yield self.step + 1
            self.advance()
            self.leave_if_interrupted()

    def train(self) -> None:
        """Train the task that ``task._target_`` names, by the launcher's own loop, to its end.

        Raises:
            ConfigError: the config names no task.
        """
        raise ConfigError(
            "run.train() trains a task, and the config names none.",
            where="task._target_",
            expected="the import path of a class like launcher.training.task.Task",
            do="name one, or write the loop: for step in run.steps()",
        )

    @property
    def step(self) -> int:
        """Steps done, in the run's own numbering."""
        raise self._has_no_loop("step")

    @property
    def should_stop(self) -> bool:
        """Whether the loop is to end: its last step is over, or a signal came and the state is saved.

        It changes in :meth:`advance` only.
        """
        raise self._has_no_loop("should_stop")

    @property
    def log_due(self) -> bool:
        """Whether the present step is one of ``training.log_every``, or the last."""
        raise self._has_no_loop("log_due")

    @property
    def evaluation_due(self) -> bool:
        """Whether the present step is one of ``training.validate_every``, or the last one of such a run."""
        raise self._has_no_loop("evaluation_due")

    def log(self, metrics: Mapping[str, float | Tensor]) -> None:  # noqa: ARG002
        """Metrics of the present step, scalars by name. Several calls in one step add up to one line.

        Names that begin with ``train/`` are written where :attr:`log_due` holds, so that a tensor is not
        waited for at each step; all others whenever they are given.
        """
        raise self._has_no_loop("log")

    def save(self) -> None:
        """Save a checkpoint when the present step is over, whatever ``checkpoint.every`` says."""
        raise self._has_no_loop("save")

    def stop(self) -> None:
        """End the run when the present step is over, as if it were the last: early stopping."""
        raise self._has_no_loop("stop")

    def begin(self) -> None:
        """For loops that are another library's: the loop begins. :meth:`steps` calls it."""
        raise self._has_no_loop("begin")

    def advance(self) -> None:
        """For loops that are another library's: a step is over. :meth:`steps` calls it."""
        raise self._has_no_loop("advance")

    def leave_if_interrupted(self) -> None:
        """For loops that are another library's: leave ``main`` if a signal asked to stop.

        Raises:
            Stopped: the state is on disk.
        """
        raise self._has_no_loop("leave_if_interrupted")

    def wandb_run(self) -> AbstractContextManager[None] | None:
        """For libraries that begin a run of W&B by themselves: while this is entered, it is this run.

        None where the launcher's own tracker shows the run there.
        """
        raise self._has_no_loop("wandb_run")

    def _registered(self, parts: Parts) -> None:  # noqa: ARG002
        """The parts are there; restore them."""
        raise self._has_no_loop("register")

    def _has_no_loop(self, name: str) -> ConfigError:
        return ConfigError(
            f"run.{name} belongs to a loop of the script's own.",
            found="a config whose task._target_ names a task, which the launcher's loop trains: run.train()",
            do="call run.train(), or drop task from the config and write the loop",
        )
