"""A script whose config names a task: the launcher has the loop, and the script says when."""

from __future__ import annotations

from collections.abc import Callable

import torch

from launcher.branch.plan import Plan
from launcher.differences import plain
from launcher.errors import RunFailed
from launcher.script.loop import imported
from launcher.script.reading import noted
from launcher.script.run import Run, Stopped
from launcher.session.source import facts_of


class TaskRun(Run):
    """A run of a task."""

    def __init__(self, plan: Plan, device: torch.device, loop: Callable[[], bool]) -> None:
        """``loop`` trains the task; whether it reached the end."""
        super().__init__(facts_of(plan, device))
        self._loop = loop
        self.reached: bool | None = None

    def train(self) -> None:
        """Train the task, to its end.

        Raises:
            Stopped: a signal asked to stop; the state is saved.
        """
        if self.reached is not None:
            raise RunFailed("run.train() was called twice.", do="train once")
        self.reached = self._loop()
        if not self.reached:
            raise Stopped


def call(name: str, plan: Plan, device: torch.device, loop: Callable[[], bool]) -> bool:
    """Call the script's function MODULE.FUNCTION, which trains the task; whether it reached the end.

    Raises:
        RunFailed: it trained nothing.
    """
    run = TaskRun(plan, device, loop)
    cfg, _ = noted(plain(plan.config))
    try:
        imported(name)(cfg, run)
    except Stopped:
        return False
    if run.reached is None:
        raise RunFailed(
            "The script's main(cfg, run) ended without training.",
            where=name,
            expected="run.train(), for a config that names a task",
        )
    return run.reached
