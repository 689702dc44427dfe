"""How one job of Vertex AI runs several siblings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class JobSweeperConf:
    """Settings of ``hydra/sweeper=vertex_job``, which only a job is told to use."""

    siblings: list[list[str]] = field(default_factory=list)
    """The overrides of each sibling."""


class JobSweeper(Sweeper):
    """Runs siblings that were checked where they were launched; each finds out itself what it is."""

    def __init__(self, siblings: Sequence[Sequence[str]]) -> None:
        self._siblings = [list(one) for one in siblings]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run all of them.

        Raises:
            SystemExit: 1 if one failed.
        """
        ended = self._launcher.launch([[*arguments, *one] for one in self._siblings], 0)
        failed = [one for one in ended if one.status == JobStatus.FAILED]
        for one in failed:
            print(f"error: {' '.join(one.overrides or [])}: {one._return_value}", file=sys.stderr)
        if failed:
            raise SystemExit(1)
        return list(ended)
