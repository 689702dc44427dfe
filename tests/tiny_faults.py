"""What can go wrong in a run of the tiny task: put into its process before it starts."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import math
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import launcher.branch.room
import launcher.checkpoint.writer
import launcher.run
import launcher.training.device
from launcher.checkpoint.content import describe
from launcher.checkpoint.manifest import About, Manifest, write_manifest
from launcher.checkpoint.writer import CheckpointWriter
from launcher.training.task import Batch
from launcher.training.trainer import Trainer
from tests.tiny_task import Counter, TinyTask


@dataclass(frozen=True)
class Kill:
    """The process gets a signal while the task does something for a step."""

    step: int
    signal: str
    where: str = "batch"
    """``batch``, ``loss`` or ``evaluate``."""
    times: int = 1
    saved: bool = False
    """Only once every checkpoint up to there is on disk; the tiny task is faster than any disk."""

    def __call__(self) -> None:
        writers = _writers()
        original = getattr(TinyTask, self.where)
        position = {"batch": 0, "evaluate": 1, "loss": 2}[self.where]

        def dangerous(task: TinyTask, *arguments: Any) -> Any:
            if arguments[position] == self.step:
                if self.saved:
                    writers[-1].wait()
                for _ in range(self.times):
                    os.kill(os.getpid(), signal.Signals[self.signal])
            return original(task, *arguments)

        setattr(TinyTask, self.where, dangerous)


def _writers() -> list[CheckpointWriter]:
    """Every writer that the process opens from now on."""
    opened: list[CheckpointWriter] = []
    original = CheckpointWriter.__init__

    def noted(self: CheckpointWriter, *arguments: Any, **more: Any) -> None:
        original(self, *arguments, **more)
        opened.append(self)

    CheckpointWriter.__init__ = noted  # type: ignore[method-assign]
    return opened


def after_restoring(fault: Callable[[Trainer], None]) -> None:
    """Something happens to a branch between its restoring and its first step."""
    original = launcher.run.branch

    def faulty(*arguments: Any) -> Trainer:
        trainer = original(*arguments)
        fault(trainer)
        return trainer

    launcher.run.branch = faulty


def after_resuming(fault: Callable[[Trainer], None]) -> None:
    """The same with a run that goes on from its own checkpoint."""
    original = launcher.run.resume

    def faulty(*arguments: Any) -> Trainer:
        trainer = original(*arguments)
        fault(trainer)
        return trainer

    launcher.run.resume = faulty


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


def one_layer_more() -> None:
    _change_model(lambda model: model.append(nn.LayerNorm(4)))


def one_layer_less() -> None:
    _change_model(lambda model: model[:4])


def half_precision_weights() -> None:
    _change_model(lambda model: model.bfloat16())


def _change_model(change: Callable[[nn.Sequential], nn.Module]) -> None:
    original = TinyTask.build_model
    TinyTask.build_model = lambda task: change(original(task))  # type: ignore[method-assign,arg-type]


def other_fingerprint(fingerprint: str) -> None:
    """The data is another, and nobody typed it."""
    TinyTask.fingerprint = lambda task: fingerprint  # type: ignore[method-assign]


def little_space(count: int) -> None:
    launcher.branch.room.free_bytes = lambda path: count


def jobs_are_killed_at(step: int) -> None:
    """Hydra's launcher has its jobs in another process, as submitit has, which is killed."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    original = BasicLauncher.launch

    def launch(launcher: Any, overrides: Any, first: int) -> Any:
        if (pid := os.fork()) == 0:
            Kill(step, "SIGKILL")()
            original(launcher, overrides, first)
        os.waitpid(pid, 0)
        raise RuntimeError("A job has ended without a result.")

    BasicLauncher.launch = launch  # type: ignore[method-assign]


def nobody_reads() -> None:
    """What the process prints goes into a pipe that nobody reads any more, as after ``| head``."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    os.dup2(writing, 2)


def no_loading() -> None:
    def refuse(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("a tensor was loaded")

    torch.load = refuse


def kill_in(function: str, name: str, call: int = 1) -> None:
    """The process gets a signal at the ``call``-th call of ``module:function``, before it does anything."""
    module, _, path = function.partition(":")
    *owners, last = path.split(".")
    owner: Any = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    original, calls = getattr(owner, last), itertools.count(1)

    def dangerous(*arguments: Any, **more: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.Signals[name])
        return original(*arguments, **more)

    setattr(owner, last, dangerous)


def kill_in_half_a_checkpoint(step: int) -> None:
    original = launcher.checkpoint.writer.write_state

    def dangerous(state: dict[str, Any], path: Path) -> tuple[int, str]:
        written = original(state, path)
        if state["step"] == step:
            os.truncate(path, written[0] // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    launcher.checkpoint.writer.write_state = dangerous


def describe_start(path: Path) -> None:
    """No fault: puts down what a branch has before its first step."""

    def write(trainer: Trainer) -> None:
        about = About(
            step=trainer.live.progress.step,
            absolute_step=0,
            run="x",
            progress=trainer.live.progress.state_dict(),
        )
        write_manifest(path, Manifest(about, describe(trainer.state_dict())))

    after_restoring(write)


def other_forward(first: int) -> None:
    """From a step on the model computes something else with the weights that it has."""
    original = TinyTask.loss

    def changed(task: TinyTask, model: nn.Module, batch: Batch, step: int) -> Any:
        other = nn.Sequential(model, nn.Tanh()) if step >= first else model
        return original(task, other, batch, step)

    TinyTask.loss = changed  # type: ignore[method-assign]


def raise_at(step: int) -> None:
    original = TinyTask.batch

    def faulty(task: TinyTask, at: int) -> Batch:
        if at == step:
            raise ZeroDivisionError("on purpose")
        return original(task, at)

    TinyTask.batch = faulty  # type: ignore[method-assign]


def nan_gradient(step: int) -> None:
    """A loss that is finite and whose gradient is not: the square root of zero."""
    original = TinyTask.loss

    def faulty(task: TinyTask, model: nn.Module, batch: Batch, at: int) -> Any:
        total, values = original(task, model, batch, at)
        return (total + (total - total.detach()).sqrt() if at == step else total), values

    TinyTask.loss = faulty  # type: ignore[method-assign]


def largest_file(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, resource.RLIM_INFINITY))


def no_privilege() -> None:
    """Root writes anywhere, until it gives up the capabilities that let it."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)
    if os.geteuid() == 0 and libc.capset(header, struct.pack("IIIIII", *[0] * 6)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def other_scale(trainer: Trainer) -> None:
    scaler = trainer.live.scaler
    scaler.load_state_dict({**scaler.state_dict(), "scale": 1024.0})  # type: ignore[no-untyped-call]


def huge_scale() -> None:
    """A scaler that begins so high that the first steps overflow."""
    original = launcher.training.device.build_scaler

    def huge(device: torch.device, precision: str) -> torch.amp.GradScaler:
        enabled = original(device, precision).is_enabled()
        return torch.amp.GradScaler(device.type, init_scale=2.0**60, enabled=enabled)

    launcher.training.device.build_scaler = huge


def wait_at(step: int, until: Path) -> None:
    """The process stands still before a step until a file is there."""
    original = TinyTask.batch

    def patient(task: TinyTask, at: int) -> Batch:
        while at == step and not until.exists():
            time.sleep(0.01)
        return original(task, at)

    TinyTask.batch = patient  # type: ignore[method-assign]


def wait_before_the_launch(reached: Path, until: Path) -> None:
    """A fan-out stands still once everything is checked and nothing is launched, until a file is there."""
    import launcher.fanout.launch

    original = launcher.fanout.launch.write_launches

    def patient(*arguments: Any) -> Any:
        reached.touch()
        while not until.exists():
            time.sleep(0.01)
        return original(*arguments)

    launcher.fanout.launch.write_launches = patient


def bring_back(step: int, source: Path, directory: Path) -> None:
    """Later checkpoints appear in a directory while some run is at a step."""
    _once_at(step, lambda: [path.rename(directory / path.name) for path in source.glob("checkpoint_step_*")])


def damage_at(step: int, path: Path) -> None:
    """A checkpoint goes bad while some run is at a step."""

    def damage() -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    _once_at(step, damage)


def forbid_at(step: int, names: str) -> None:
    """Directories may not be written any more from a step on; ``names`` is a pattern from the root.

    Every checkpoint up to there is on disk.
    """
    writers = _writers()

    def forbid() -> None:
        writers[-1].wait()
        for place in Path("/").glob(names.lstrip("/")):
            place.chmod(0o555)

    _once_at(step, forbid)


def _once_at(step: int, happens: Callable[[], object]) -> None:
    original, happened = TinyTask.batch, []

    def batch(task: TinyTask, at: int) -> Batch:
        if at == step and not happened:
            happened.append(at)
            happens()
        return original(task, at)

    TinyTask.batch = batch  # type: ignore[method-assign]


def odd_direction() -> None:
    """Have the task name a direction that there is not."""
    TinyTask.directions = {"error": "higher"}  # type: ignore[dict-item]


def random_rng(trainer: Trainer) -> None:
    """Random numbers that no run ever has again."""
    torch.seed()


def forget_the_counter() -> None:
    """What the task put into the checkpoint is not taken back."""
    Counter.load_state_dict = lambda *_: None  # type: ignore[method-assign]


@dataclass(frozen=True)
class WithoutPackage:
    """A package is not installed."""

    name: str

    def __call__(self) -> None:
        sys.modules[self.name] = None  # type: ignore[assignment]


def hasty_uploads() -> None:
    """Have a checkpoint that a tracker did not take tried again at once."""
    from launcher.trackers.wandb import artifacts

    artifacts.PAUSES = (0.01, 0.01, 0.01)  # type: ignore[assignment]


def pin_at(step: int, outputs: str, pinned: int) -> None:
    """Somebody pins a checkpoint of the branch while it is at a step."""
    writers = _writers()

    def pin() -> None:
        writers[-1].wait()
        [checkpoint] = Path(outputs).glob(f"*experiments/*/checkpoints/checkpoint_step_{pinned}.pt")
        checkpoint.with_suffix(".pin").touch()

    _once_at(step, pin)


def plant_best_rate(best: float) -> None:
    """What is measured is how far the learning rate is from a best one, in decades, and how long it took."""
    original = TinyTask.__init__

    def noted(task: TinyTask, config: Any) -> None:
        original(task, config)
        task.rate = float(config.optimizer["lr"])  # type: ignore[attr-defined]

    def distance(task: Any, model: nn.Module, step: int, device: torch.device) -> dict[str, float]:
        return {"error": abs(math.log10(task.rate / best)) + 1.0 / step}

    TinyTask.__init__ = noted  # type: ignore[method-assign]
    TinyTask.evaluate = distance  # type: ignore[method-assign]


def stopped_at_the_end() -> None:
    """A signal asks to stop while the finished run waits for its checkpoints to be up."""
    from launcher.trackers import worker
    from launcher.trackers.wandb.artifacts import Uploads

    worker.FINISH_SECONDS = {**worker.FINISH_SECONDS, "interrupted": 0.5}
    waits = Uploads.finish

    def asked(uploads: Uploads) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        waits(uploads)

    Uploads.finish = asked  # type: ignore[method-assign]


def hurried_finish() -> None:
    """Trackers have a second to finish; uploads have their own time."""
    from launcher.trackers import worker

    worker.FINISH_SECONDS = dict.fromkeys(worker.FINISH_SECONDS, 1.0)
