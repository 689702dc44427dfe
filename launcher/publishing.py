"""Which of a run's checkpoints become artifacts, under which aliases, and when."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from launcher.checkpoint.store import checkpoints, metric_by_step, pinned, step_of
from launcher.config import CheckpointConfig
from launcher.layout import RunDirectory, checkpoint_at
from launcher.lineage import Parent
from launcher.trackers.base import KeptCheckpoint
from launcher.trackers.wandb.artifacts import uploaded

WANDB = "wandb://"


def input_of(parent: Parent | None, trunk: RunDirectory | None) -> str | None:
    """A run's branch point as an artifact in W&B: fetched from there, or kept there by its trunk."""
    if parent is None:
        return None
    if parent.source is not None:
        return parent.source.removeprefix(WANDB) if parent.source.startswith(WANDB) else None
    name = uploaded(trunk).get(parent.step, "") if trunk is not None else ""
    return name if ":" in name else None


def wanted(directory: RunDirectory, config: CheckpointConfig, finished: bool) -> list[KeptCheckpoint]:
    """The checkpoints of a run that is over which W&B is to have and, by the run's own files, has not.

    Those are what ``checkpoint.artifact`` asks for, and what was noted offline, as far as they are on disk.
    """
    found: list[KeptCheckpoint] = []
    up = {step for step, name in uploaded(directory).items() if ":" in name}
    noted = uploaded(directory).keys() - up
    publishing = Publishing(directory, config, found.append)
    if config.artifact != "none":
        publishing._begin(up)
        publishing.end(finished)
    publishing._late(noted)
    return sorted(found, key=lambda kept: kept.step)


class Publishing:
    """Hands over each checkpoint that ``checkpoint.artifact`` asks for, once."""

    def __init__(
        self, directory: RunDirectory, config: CheckpointConfig, hand_over: Callable[[KeptCheckpoint], None]
    ) -> None:
        self._directory, self._config, self._hand_over = directory, config, hand_over
        self._known: dict[int, float] = {}
        self._handed: set[int] = set()
        self._under_way: set[int] = set()
        self._seen: int | None = None

    @property
    def under_way(self) -> frozenset[int]:
        """Steps of the checkpoints that are needed until they are up."""
        return frozenset(self._under_way)

    def start(self) -> None:
        """Hand over what an earlier process of the run could not."""
        if self._config.artifact == "none":
            return
        self._begin(set(uploaded(self._directory)))

    def _begin(self, handed: set[int]) -> None:
        self._handed = handed
        if self._config.best_metric is not None:
            self._known = metric_by_step(self._directory.checkpoints, self._config.best_metric)
        there = [step_of(one) for one in checkpoints(self._directory.checkpoints)]
        if self._config.artifact == "all":
            for step in there:
                self._put(step, there[-1])
        elif self._config.artifact == "best" and (best := self._best()) is not None:
            self._put(best, there[-1])

    def saving(self, step: int, metrics: Mapping[str, float]) -> None:
        """A checkpoint with these metrics is being written."""
        value = metrics.get(self._config.best_metric or "", math.nan)
        if not math.isnan(value):
            self._known[step] = value

    def saved(self, step: int | None) -> None:
        """The newest checkpoint that is whole; cheap where nothing is new."""
        if step is None or step == self._seen:
            return
        self._seen = step
        if self._config.artifact == "all" or (self._config.artifact == "best" and self._best() == step):
            self._put(step, step)

    def end(self, finished: bool) -> None:
        """The run stops: what is chosen at the end is chosen now."""
        there = [step_of(one) for one in checkpoints(self._directory.checkpoints)]
        if self._config.artifact == "pinned":
            for step in sorted(pinned(self._directory.checkpoints)):
                self._put(step, there[-1])
        elif self._config.artifact == "last" and finished and there:
            self._put(there[-1], there[-1])

    def _late(self, steps: Iterable[int]) -> None:
        """Those of ``steps`` that are on disk, whatever is asked for by now."""
        there = [step_of(one) for one in checkpoints(self._directory.checkpoints)]
        for step in sorted(set(steps) & set(there)):
            self._put(step, there[-1])

    def _best(self) -> int | None:
        sign = 1 if self._config.best_mode == "max" else -1
        return max(self._known, key=lambda step: (sign * self._known[step], -step), default=None)

    def _put(self, step: int, newest: int) -> None:
        if step in self._handed:
            return
        self._handed.add(step)
        self._under_way.add(step)
        aliases = [f"step-{step}"]
        # The best ones are no sequence: none of them is known to stay the last.
        if step == newest and self._config.artifact != "best":
            aliases.append("last")
        if step == self._best():
            aliases.append("best")
        self._hand_over(
            KeptCheckpoint(
                path=checkpoint_at(self._directory.checkpoints, step),
                step=step,
                aliases=tuple(aliases),
                by=self._config.artifact_by,
                done=lambda: self._under_way.discard(step),
            )
        )
