"""What can go wrong in a run of the tiny task: put into its process before it starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import torch

import launcher.run
from launcher.training.trainer import Trainer
from tests.tiny_task import TinyTask


def kill_at(step: int, name: str, where: str = "batch", times: int = 1) -> None:
    """The process gets a signal while the task does something (``batch``, ``loss``) for a step."""
    original = getattr(TinyTask, where)
    position = {"batch": 0, "loss": 2, "evaluate": 1}[where]

    def dangerous(self: TinyTask, *arguments: Any) -> Any:
        if arguments[position] == step:
            for _ in range(times):
                os.kill(os.getpid(), signal.Signals[name])
        return original(self, *arguments)

    setattr(TinyTask, where, dangerous)


def after_restoring(fault: Callable[[Trainer], None]) -> None:
    """Something happens to a branch between its restoring and its first step."""
    original = launcher.run.branch

    def faulty(*arguments: Any) -> Trainer:
        trainer = original(*arguments)
        fault(trainer)
        return trainer

    launcher.run.branch = faulty


def after_step(step: int, fault: Callable[[Trainer], None]) -> None:
    """Something happens between two steps, before anything of the first one is saved."""
    original = Trainer.step

    def faulty(self: Trainer, measure: bool) -> Any:
        result = original(self, measure)
        if self.live.progress.step == step:
            fault(self)
        return result

    Trainer.step = faulty  # type: ignore[method-assign]


def other_rng(trainer: Trainer) -> None:
    torch.manual_seed(1)


def other_moments(trainer: Trainer) -> None:
    for state in trainer.live.optimizer.state.values():
        state["exp_avg"].zero_()


def other_schedule(trainer: Trainer) -> None:
    trainer.live.scheduler.last_epoch += 1


def other_weight(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.live.model.get_parameter("4.bias")[0] += 1e-3


def other_buffer(trainer: Trainer) -> None:
    trainer.live.model.get_buffer("1.running_mean").zero_()


def other_data(trainer: Trainer) -> None:
    trainer.live.progress.data_step += 1


def other_counter(trainer: Trainer) -> None:
    trainer.task.counter.batches = 0  # type: ignore[attr-defined]


def lose_what_was_typed() -> None:
    """Restoring comes last, as in a script that calls ``load_state_dict`` and nothing after it."""
    launcher.run.apply_hyperparameters = lambda *arguments: None
