"""The loop: step, log, validate, save, until the end or until somebody asks to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Protocol

from torch import Tensor

from launcher.config import Config
from launcher.training.distributed import Ranks
from launcher.training.progress import Progress
from launcher.training.signals import Interruption
from launcher.training.task import Direction
from launcher.training.trainer import Trainer


class Trained(Protocol):
    """What is recorded of whoever takes the steps: the launcher's own trainer, or a script's loop."""

    @property
    def progress(self) -> Progress:
        """How far it is."""
        ...

    @property
    def schedule_step(self) -> int:
        """Steps that were taken in the learning-rate schedule."""
        ...

    @property
    def directions(self) -> Mapping[str, Direction]:
        """Which way metrics are better, as far as that is said; see :class:`.task.Directed`."""
        ...

    def fingerprint(self) -> str:
        """Identifies the data."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The model's state."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The whole state between two steps."""
        ...


class Hooks(Protocol):
    """What the loop tells whoever runs it; called between two steps."""

    def log(self, progress: Progress, metrics: Mapping[str, float | str]) -> None:
        """Metrics of the step that was just taken."""
        ...

    def save(self) -> None:
        """The state is worth keeping now."""
        ...

    def after_step(self) -> None:
        """Called after every step; may raise to fail the run."""
        ...

    def prune(self, progress: Progress, metrics: Mapping[str, float | str]) -> bool:
        """Of a trial, after each validation: whether its search has no use for the rest of it."""
        ...


class Unrecorded:
    """The hooks of a rank that records nothing."""

    def __enter__(self) -> Unrecorded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def log(self, progress: Progress, metrics: Mapping[str, float | str]) -> None:
        """Rank 0 logs."""

    def save(self) -> None:
        """Rank 0 saves."""

    def after_step(self) -> None:
        """Nothing can have failed."""

    def prune(self, progress: Progress, metrics: Mapping[str, float | str]) -> bool:  # noqa: ARG002
        """Rank 0 is told."""
        return False


def due(step: int, every: int) -> bool:
    """Whether something that happens ``every`` steps (0: never) happens at ``step``."""
    return every > 0 and step % every == 0


def train(
    trainer: Trainer,
    end_step: int,
    config: Config,
    hooks: Hooks,
    interruption: Interruption,
    ranks: Ranks,
    until: int | None = None,
) -> bool:
    """Train up to ``end_step``; True if the end was reached, False if it was interrupted before.

    A signal interrupts, and so do the step ``until`` and the search that the run is a trial of. A checkpoint
    is saved at multiples of ``checkpoint.every``, at the end, and when interrupted.
    """
    progress = trainer.live.progress
    after_step: Callable[[], None] = hooks.after_step
    log_every, validate_every = config.training.log_every, config.training.validate_every
    while progress.step < end_step:
        if until is not None and progress.step >= until:
            return False
        coming = progress.step + 1
        last = coming == end_step
        validate = due(coming, validate_every) or (last and validate_every > 0)
        measure = due(coming, log_every) or validate or last
        metrics = trainer.step(measure)
        if validate:
            metrics.update(trainer.evaluate())
        if measure:
            hooks.log(progress, metrics)
        pruned = (
            validate
            and until is None
            and config.fanout.trial is not None
            and ranks.told(partial(hooks.prune, progress, metrics))
        )
        if (asked := ranks.asked(interruption.asked)) is not None:
            interruption.note(asked)
        interrupted = asked is not None or coming == until or pruned
        if due(coming, config.checkpoint.every) or last or interrupted:
            trainer.check_saveable()
            trainer.gather_streams()
            hooks.save()
        after_step()
        if interrupted and not last:
            return False
    return True
