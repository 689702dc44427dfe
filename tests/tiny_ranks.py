"""What can go wrong in one of the processes that train a run of the tiny task together."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import launcher.run
from launcher.training.task import Batch
from tests.tiny_task import TinyTask


def is_rank(rank: int) -> bool:
    return os.environ.get("RANK") == str(rank)


def _before_batch(step: int, happens: Callable[[], object]) -> None:
    original = TinyTask.batch

    def faulty(task: TinyTask, at: int) -> Batch:
        if at == step:
            happens()
        return original(task, at)

    TinyTask.batch = faulty  # type: ignore[method-assign]


def kill_rank(rank: int, step: int, name: str) -> None:
    _before_batch(step, lambda: is_rank(rank) and os.kill(os.getpid(), signal.Signals[name]))


def kill_starter(step: int, name: str) -> None:
    """The process that was started by hand gets the signal; the step waits until it is passed on."""

    _before_batch(step, lambda: is_rank(1) and _tell_starter(name))


def kill_starter_in_preflight(name: str) -> None:
    original = launcher.run.preflight

    def faulty(*arguments: Any) -> Any:
        _tell_starter(name)
        return original(*arguments)

    launcher.run.preflight = faulty


def _tell_starter(name: str) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    os.kill(os.getppid(), signal.Signals[name])
    os.read(reading, 1)


def raise_at_rank(rank: int, step: int) -> None:
    def fail() -> None:
        if is_rank(rank):
            raise ZeroDivisionError("on purpose")

    _before_batch(step, fail)


def nan_at_rank(rank: int, step: int) -> None:
    original = TinyTask.loss

    def faulty(task: TinyTask, model: torch.nn.Module, batch: Batch, at: int) -> Any:
        total, values = original(task, model, batch, at)
        return (total * float("nan") if at == step and is_rank(rank) else total), values

    TinyTask.loss = faulty  # type: ignore[method-assign]


def no_writing(rank: int, below: Path) -> None:
    """A rank ends at once where it would change anything below a directory."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            changing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if mode is None else mode != "r"
            changing = changing and mode not in ("rb", "r")
        elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"):
            path, changing = arguments[0], True
        else:
            return
        if changing and is_rank(rank) and str(path).startswith(str(below)):
            os._exit(99)

    sys.addaudithook(hook)


def kill_rank_in(rank: int, function: str, call: int) -> None:
    """A rank is killed at the ``call``-th call of ``module:function`` in it, before it does anything."""
    module, _, path = function.partition(":")
    *owners, last = path.split(".")
    owner: Any = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    original, calls = getattr(owner, last), itertools.count(1)

    def dangerous(*arguments: Any, **more: Any) -> Any:
        if is_rank(rank) and next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **more)

    setattr(owner, last, dangerous)


def full_disk_at_rank(rank: int, call: int) -> None:
    """The ``call``-th file of shards that a rank writes finds no room."""
    from launcher.checkpoint.sink import Sink

    original, calls = Sink.__init__, itertools.count(1)

    def opened(self: Sink, path: Path) -> None:
        original(self, path)
        if is_rank(rank) and path.suffix == ".distcp" and next(calls) == call:
            os.close(self.fileno())
            self._descriptor = os.open("/dev/full", os.O_WRONLY)

    Sink.__init__ = opened  # type: ignore[method-assign]
