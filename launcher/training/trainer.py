"""One optimizer step at a time, and the whole state between two steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from blake3 import blake3
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from launcher.config import Config
from launcher.errors import CheckpointError, RunFailed
from launcher.training import device as devices
from launcher.training.distributed import Ranks
from launcher.training.optim import build_optimizer, build_scheduler
from launcher.training.progress import Progress
from launcher.training.rng import restore_rng, rng_digest, rng_state
from launcher.training.schedule import Factor
from launcher.training.task import Batch, Directed, Direction, Task


class Live(NamedTuple):
    """The live objects whose states together are a checkpoint."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR
    scaler: torch.amp.GradScaler
    progress: Progress


class Trainer:
    """Takes steps. Knows the task only through its protocol, and nothing of files or trackers."""

    def __init__(self, task: Task, model: nn.Module, config: Config, factor: Factor, ranks: Ranks) -> None:
        """``model`` is already on its device; the optimizer and everything else start anew. Collective."""
        self.task = task
        self.config = config
        self.factor = factor
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        optimizer = build_optimizer(config.optimizer, model.parameters())
        self.live = Live(
            model=model,
            optimizer=optimizer,
            scheduler=build_scheduler(optimizer, factor),
            scaler=devices.build_scaler(self.device, config.precision),
            progress=Progress(),
        )
        self._ranks = ranks
        self._parallel = ranks.parallel(model)
        self._streams: list[dict[str, Any]] = []
        self._watched: dict[str, torch.Tensor] = {}
        self._watched_at = 0
        model.train()

    def step(self, measure: bool) -> dict[str, float | str]:
        """Take one optimizer step; with ``measure``, give its metrics, else an empty dict.

        Raises:
            RunFailed: the loss or the gradient is not finite. The state is then not worth saving.
        """
        _, optimizer, scheduler, scaler, progress = self.live
        batch = self.task.batch(progress.data_step + 1)
        share = self._moved(self._ranks.share(batch))
        with devices.autocast(self.device, self.config.precision):
            loss, metrics = self.task.loss(self._parallel, share, progress.task_step + 1)
        self._watched, self._watched_at = {"loss": loss.detach()}, progress.step + 1
        # Looking at a value on a GPU waits for it.
        look = measure or self.device.type == "cpu"
        if look:
            self.check_finite()
        digests = self._digests(batch) if measure else {}
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        norm = self._clip()
        if norm is not None and not scaler.is_enabled():  # A scaler skips such a step.
            self._watched["gradient's norm"] = norm
            if look:
                self.check_finite()
        rate = float(optimizer.param_groups[0]["lr"])
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        progress.advance()
        if not measure:
            return {}
        means = self._ranks.means([value.item() for value in metrics.values()])
        values: dict[str, float | str] = {
            f"train/{name}": value for name, value in zip(metrics, means, strict=True)
        }
        values["train/learning_rate"] = rate
        if norm is not None:
            values["train/gradient_norm"] = norm.item()
        return {**values, **digests}

    def check_finite(self) -> None:
        """Refuse to go on after a loss or a gradient that was not a number. Collective.

        Raises:
            RunFailed: the last one is NaN or infinite, at any rank.
        """
        numbers = self._ranks.means([value.item() for value in self._watched.values()])
        for name, number in zip(self._watched, numbers, strict=True):
            if not math.isfinite(number):
                raise _not_finite(name, str(number), self._watched_at)

    def check_saveable(self) -> None:
        """Refuse to save weights that nobody can go on from. Collective.

        Raises:
            RunFailed: the last loss or gradient, or without clipping a weight, is NaN or infinite.
        """
        self.check_finite()
        if self.config.training.gradient_clip is not None:
            return
        parameters = dict(self.live.model.named_parameters())
        finite = [torch.isfinite(self._own_rows(one)).all().item() for one in parameters.values()]
        # Of a divided weight each rank has looked at its own rows.
        for name, share in zip(parameters, self._ranks.means(finite), strict=True):
            if share < 1:
                raise _not_finite(f"weight {name}", "not finite", self.live.progress.step)

    def evaluate(self) -> dict[str, float]:
        """Metrics on held-out data, in eval mode; no random number is drawn."""
        model = self.live.model
        model.eval()
        with torch.no_grad(), devices.autocast(self.device, self.config.precision):
            metrics = self.task.evaluate(model, self.live.progress.task_step, self.device)
        model.train()
        return {f"val/{name}": value for name, value in metrics.items()}

    def gather_streams(self) -> None:
        """Take the RNG streams of the other ranks into the next ``state_dict``. Collective."""
        if self._ranks.size > 1:
            self._streams = self._ranks.gathered(rng_state(own_gpu=True))[1:]

    def state_dict(self) -> dict[str, Any]:
        """The whole state between two steps: tensors and plain values only, with the customary keys.

        Streams of other ranks are as they were at the last ``gather_streams``.
        """
        others = {"rng_state_of_ranks": self._streams} if self._ranks.size > 1 else {}
        return {
            "step": self.live.progress.step,
            "model_state_dict": dict(self.live.model.state_dict()),
            "optimizer_state_dict": self.live.optimizer.state_dict(),
            "scheduler_state_dict": self.live.scheduler.state_dict(),
            "scaler_state_dict": self.live.scaler.state_dict(),
            "progress": self.live.progress.state_dict(),
            "rng_state": rng_state(own_gpu=self._ranks.size > 1),
            "task": {name: part.state_dict() for name, part in self.task.stateful().items()},
            **others,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over everything that ``state`` holds but the model, which is assigned when it is built.

        Parts that ``state`` leaves out stay as they were built.

        Raises:
            CheckpointError: the state does not fit; names the part.
        """
        parts: dict[str, Callable[[Any], Any]] = {
            "optimizer_state_dict": self._load_optimizer,
            "scheduler_state_dict": self._load_scheduler,
            "scaler_state_dict": self._load_scaler,
            "progress": self.live.progress.load_state_dict,
            "task": self._load_task,
            "rng_state": self._load_rng,
            "rng_state_of_ranks": self._load_rng_of_rank,
        }
        for name, load in parts.items():
            if name not in state:
                continue
            try:
                load(state[name])
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                raise CheckpointError(
                    f"The checkpoint's {name} does not fit this run.",
                    where=name,
                    found=str(error) or type(error).__name__,
                ) from error

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self.live.progress

    @property
    def schedule_step(self) -> int:
        """Steps that were taken in the learning-rate schedule."""
        return self.live.scheduler.last_epoch

    @property
    def directions(self) -> Mapping[str, Direction]:
        """Which way metrics are better, where the task says so."""
        return self.task.directions if isinstance(self.task, Directed) else {}

    def fingerprint(self) -> str:
        """Identifies the data."""
        return self.task.fingerprint()

    def weights(self) -> dict[str, torch.Tensor]:
        """The model's state."""
        return dict(self.live.model.state_dict())

    def set_schedule(self, step: int) -> None:
        """Put the schedule behind so many steps; the rates follow when hyperparameters are applied."""
        scheduler = self.live.scheduler
        scheduler.last_epoch, scheduler._step_count = step, step + 1

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        if self._ranks.shard:
            from launcher.training.sharding import divided

            state = divided(state, self.live.optimizer)
        self.live.optimizer.load_state_dict(state)

    def _own_rows(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self._ranks.shard:
            return tensor
        from launcher.training.sharding import own_rows

        return own_rows(tensor)

    def _load_scheduler(self, saved: dict[str, Any]) -> None:
        self.live.scheduler.load_state_dict(saved)
        there, here = len(self.live.scheduler.base_lrs), len(self.live.optimizer.param_groups)
        if there != here:
            raise ValueError(f"base rates of {there} groups, and the optimizer has {here}")

    def _load_scaler(self, state: dict[str, Any]) -> None:
        # A trunk without fp16 has no state for a scaler; one that starts here starts as new.
        if state:
            self.live.scaler.load_state_dict(state)

    def _load_rng(self, state: dict[str, Any]) -> None:
        if self._ranks.first:
            restore_rng(state, own_gpu=self._ranks.size > 1)

    def _load_rng_of_rank(self, states: list[dict[str, Any]]) -> None:
        # A rank that the trunk did not have goes on with what it was seeded with.
        for state in states[self._ranks.rank - 1 :][:1] if not self._ranks.first else []:
            restore_rng(state, own_gpu=True)

    def _load_task(self, state: dict[str, Any]) -> None:
        registered = self.task.stateful()
        if unlike := registered.keys() ^ state.keys():
            raise KeyError(f"{', '.join(sorted(unlike))}: registered by only one of checkpoint and task")
        for name, part in registered.items():
            part.load_state_dict(state[name])

    def _moved(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def _clip(self) -> torch.Tensor | None:
        if self.config.training.gradient_clip is None:
            return None
        self.live.scaler.unscale_(self.live.optimizer)
        norm = nn.utils.clip_grad_norm_(self.live.model.parameters(), self.config.training.gradient_clip)
        if not self._ranks.shard:
            return norm
        from launcher.training.sharding import whole

        return whole(norm)

    def _digests(self, batch: Batch) -> dict[str, float | str]:
        hasher = blake3()
        for name in sorted(batch):
            hasher.update(name.encode())
            hasher.update(batch[name].contiguous().view(-1).view(torch.uint8).numpy().data)
        return {"digest/batch": hasher.hexdigest()[:16], "digest/rng": self._rng_digest()}

    def _rng_digest(self) -> str:
        """Sixteen hex digits over the RNG streams of all ranks. Collective."""
        if self._ranks.size == 1:
            return rng_digest()
        streams = self._ranks.gathered(rng_digest(own_gpu=True))
        return blake3("".join(streams).encode()).hexdigest()[:16]


def _not_finite(what: str, found: str, step: int) -> RunFailed:
    return RunFailed(
        f"The {what} is {found} at step {step}.",
        expected="a finite number",
        do="branch from the last good checkpoint with a lower optimizer.lr or training.gradient_clip",
    )
