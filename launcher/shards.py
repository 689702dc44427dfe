"""Where a run's state is divided, the other ranks save and describe it together with rank 0."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from launcher.branch.plan import Plan
from launcher.checkpoint.content import describe
from launcher.checkpoint.manifest import About, Content
from launcher.checkpoint.writer import CheckpointWriter
from launcher.config import CheckpointConfig
from launcher.training.distributed import Ranks
from launcher.training.loop import Trained, Unrecorded

if TYPE_CHECKING:
    from launcher.checkpoint.together import Peers


def described(state: Mapping[str, Any], ranks: Ranks) -> Content:
    """The digests of a run's live state, of which each rank may have a part. Collective.

    Raises:
        CheckpointError: the state holds something that a checkpoint cannot.
    """
    if not ranks.shard:
        return describe(state)
    from launcher.checkpoint.together import Peers, describe_divided, division

    return describe_divided(division(state), Peers(ranks.rank, ranks.size))


def checkpoint_writer(
    directory: Path,
    retention: CheckpointConfig,
    ranks: Ranks,
    protected: Callable[[], Collection[int]] = frozenset,
    aside: Callable[[], Path | None] = lambda: None,
) -> CheckpointWriter:
    """The writer of a run's checkpoints, at rank 0, or, where the state is divided, at any rank."""
    if not ranks.shard:
        return CheckpointWriter(directory, retention, protected, aside)
    # It takes torch.distributed.checkpoint.
    from launcher.checkpoint.shard_writer import ShardWriter

    return ShardWriter(directory, retention, _beside(ranks), protected, aside)


def _beside(ranks: Ranks) -> Peers:
    from launcher.checkpoint.together import Peers

    return Peers(ranks.rank, ranks.size, ranks.saving)


class Sharing(Unrecorded):
    """The hooks of a rank that records nothing, but writes its shards."""

    def __init__(self, plan: Plan, ranks: Ranks) -> None:
        self._plan, self._ranks = plan, ranks
        self._trained: Trained | None = None
        self._began = 0

    def __enter__(self) -> Sharing:
        config = self._plan.config.checkpoint
        self._writer = checkpoint_writer(self._plan.directory.checkpoints, config, self._ranks)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last save. What rank 0 ended by, it tells; the own failure is raised."""
        with contextlib.suppress(Exception) if error is not None else contextlib.nullcontext():
            self._writer.close()

    def start(self, trained: Trained) -> None:
        """The live objects are ready."""
        self._trained, self._began = trained, trained.progress.step

    def save(self) -> None:
        """This rank's part of a checkpoint."""
        assert self._trained is not None
        progress = self._trained.progress
        about = About(progress.step, progress.absolute_step, self._plan.id)
        self._writer.save(self._trained.state_dict(), about)

    def after_step(self) -> None:
        """Fail if a write failed meanwhile; take part in what rank 0 does."""
        assert self._trained is not None
        self._writer.check()
        step = self._trained.progress.step
        if step == self._began + 1:
            self._writer.reserve(self._trained.state_dict())
        if step - self._plan.start.step in self._plan.config.fanout.looks:
            described(weights_of(self._trained), self._ranks)


WEIGHTS = "model_state_dict"


def weights_of(trained: Trained) -> dict[str, Any]:
    """The part of the state whose digest a run record keeps."""
    return {WEIGHTS: trained.weights()}
