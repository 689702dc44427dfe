"""Hugging Face's Trainer as it is: ``train(trainer, run)`` in place of ``trainer.train()``.

Everything that has a state is registered and restored by the launcher, what was typed on top. The Trainer is
then told where it is by a directory of its own format, which holds only what the launcher cannot reach from
outside: the counts, and the random streams, which the Trainer restores after it has skipped batches.
"""

from __future__ import annotations

import contextlib
import logging
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import WandbCallback
from transformers.trainer_callback import ExportableState

from launcher.checkpoint.formats.trainer_state import lasting, trainer_state
from launcher.errors import ConfigError
from launcher.integrations.batches import draws
from launcher.script.data import Elsewhere, fingerprint_of
from launcher.script.run import Run
from launcher.training.task import Direction

log = logging.getLogger("launcher.run")
_VALIDATION = "eval_"


def train(trainer: Trainer, run: Run, *, fingerprint: str | None = None) -> Any:
    """Train as ``trainer.train()`` does, from wherever the run is; up to ``run.end_step``.

    Registers the Trainer's model, optimizer, schedule and counts, so the script calls no ``run.register``.
    What the Trainer logs is also logged to the run, as ``train/...`` and ``val/...``. Its own checkpoints,
    evaluation, early stopping and other callbacks work as always; ``max_steps`` is ``run.end_step``, and the
    schedule runs over ``run.horizon_steps``.

    Args:
        trainer: built as always, with ``TrainingArguments(seed=run.seed, ...)``.
        run: the run.
        fingerprint: identifies the training data; by default that of ``trainer.train_dataset``, where it
            has one, as Hugging Face's datasets do.

    Returns:
        What ``trainer.train()`` returns; None where the run had no step left.

    Raises:
        ConfigError: the Trainer is set to do what cannot be continued exactly.
        launcher.script.run.Stopped: a signal asked to stop; the state is on disk.
    """
    _refuse_unfit(trainer, run)
    assert trainer.model is not None
    position = Position(trainer)
    trainer.create_optimizer()
    if trainer.lr_scheduler is None:
        trainer.create_scheduler(num_training_steps=run.horizon_steps)
        # As if it had been given, or the Trainer would build another, over max_steps and not restored.
        trainer._created_lr_scheduler = False
    run.register(
        model=trainer.model,
        optimizer=trainer.optimizer,
        scheduler=trainer.lr_scheduler,
        scaler=trainer.accelerator.scaler,
        data=_data(trainer, fingerprint),
        directions=_directions(trainer.args),
        trainer=position,  # The name is that of TRAINER in a foreign checkpoint.
    )
    _refuse_device(trainer, run)
    position.begin(run)
    if run.step >= run.end_step:
        run.begin()
        position.end()
        return None
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trainer-")))
        stack.enter_context(_weights_as_they_are(trainer))
        stack.enter_context(_one_wandb_run(trainer, run))
        callback = LauncherCallback(trainer, run, position, directory)
        trainer.add_callback(callback)
        stack.callback(trainer.remove_callback, callback)
        return trainer.train(resume_from_checkpoint=resume_from(trainer, position, directory))


class LauncherCallback(TrainerCallback):
    """Between two steps: metrics are written, checkpoints saved, signals obeyed. ``train`` adds it."""

    def __init__(self, trainer: Trainer, run: Run, position: Position, directory: Path) -> None:
        self._trainer, self._run, self._position, self._directory = trainer, run, position, directory
        self._pending = False
        """Whether a step was taken that the run has not counted yet."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Everything is built: the random streams are put where they were."""
        self._run.begin()
        self._position.restore()
        # The Trainer reads it once it has skipped the batches of the present epoch.
        torch.save(_streams(), self._directory / "rng_state.pth")

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step was taken; its logging, evaluation and saving are still to come."""
        self._pending = True

    def on_log(self, *_: Any, logs: Mapping[str, Any] | None = None, **__: Any) -> None:
        """The Trainer logs: within a step its metrics; once at the end, before it loads the best model."""
        if "train_runtime" in (logs or {}):
            if self._pending and self._position.step < self._run.end_step:
                self._run.stop()
            self._step_over()
        elif self._pending:
            self._run.log(_metrics(logs or {}))

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Nothing more comes of the step before, within an epoch."""
        self._step_over()

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Nothing more comes of the last step of an epoch, and the next epoch has drawn nothing yet."""
        self._step_over()

    def _step_over(self) -> None:
        if self._pending:
            self._pending = False
            self._run.advance()
            self._run.leave_if_interrupted()


class Position:
    """How far a Trainer is: the part of its state that is neither model, optimizer nor schedule."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.saved: dict[str, Any] = {}
        """What is to be restored."""
        self.offset = 0
        """Steps in the Trainer's numbering, which is the trunk's, beyond those in the run's own."""
        self._begun = False

    @property
    def step(self) -> int:
        """Steps that the Trainer has taken, in the run's numbering."""
        return self._trainer.state.global_step - self.offset

    def state_dict(self) -> dict[str, Any]:
        """The counts, what was logged, the best metric, and what callbacks such as early stopping keep."""
        trainer = self._trainer
        if not self._begun:
            return self.saved
        # As far as the Trainer has not added it up yet; it does so at moments of its own.
        flos = trainer.state.total_flos + trainer.current_flos
        callbacks = [one for one in trainer.callback_handler.callbacks if isinstance(one, ExportableState)]
        return {
            **trainer_state({**vars(trainer.state), "total_flos": float(flos)}),
            "callbacks": {type(one).__name__: lasting(one.state()["attributes"]) for one in callbacks},
            "loss": trainer._tr_loss.item(),
            "unlogged_steps": trainer.state.global_step - trainer._globalstep_last_logged,
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Keep what is to be restored when training begins."""
        self.saved = dict(state)

    def begin(self, run: Run) -> None:
        """The run is restored: see where the Trainer is to go on, and where to end."""
        if not self.saved and run.step:
            self.saved = {"global_step": run.step}
        self.offset = self.saved.get("global_step", 0) - run.step
        args = self._trainer.args
        args.max_steps = run.end_step + self.offset
        if self.saved:
            args.eval_on_start = False
        self._best = [Path(str(args.output_dir))]
        if run.branch_point is not None:
            self._best += _output_directories(run, self._best[0])

    def restore(self) -> None:
        """Put back what the Trainer itself begins anew."""
        self._begun = True
        trainer = self._trainer
        for callback in trainer.callback_handler.callbacks:
            attributes = self.saved.get("callbacks", {}).get(type(callback).__name__, {})
            for name, value in attributes.items():
                setattr(callback, name, value)
        loss = self.saved.get("loss", 0.0)
        trainer._tr_loss.fill_(loss)
        trainer._globalstep_last_logged -= self.saved.get("unlogged_steps", 0)
        # The mean that the Trainer tells at the end is over the steps that it took itself.
        trainer._total_loss_scalar = -loss

    def end(self) -> None:
        """No step is left: have the Trainer as it is after its last one."""
        trainer = self._trainer
        for name, value in trainer_state(self.saved).items():
            setattr(trainer.state, name, value)
        trainer.state.best_model_checkpoint = self.best_checkpoint()
        if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None:
            trainer._load_best_model()

    def best_checkpoint(self) -> str | None:
        """The Trainer's own checkpoint of its best step, in this run's directory or in the trunk's."""
        best = self.saved.get("best_global_step")
        found = [place / f"checkpoint-{best}" for place in self._best]
        there = next((str(one) for one in found if one.is_dir()), None)
        if best is not None and there is None and self._trainer.args.load_best_model_at_end:
            log.warning("%s is not there: the best model is only looked for from here on.", found[-1])
        return there


def resume_from(trainer: Trainer, position: Position, directory: Path) -> str | None:
    """Write what ``resume_from_checkpoint`` reads into ``directory``; None where nothing is resumed."""
    if not position.saved:
        return None
    exported: list[Any] = [
        one for one in (*trainer.callback_handler.callbacks, trainer.control)
        if isinstance(one, ExportableState)
    ]  # fmt: skip
    # Intervals and patience are those of this run: the Trainer takes them from what it resumes.
    state = TrainerState(stateful_callbacks=exported)
    state.train_batch_size = trainer._train_batch_size
    state.compute_steps(trainer.args, trainer.args.max_steps)  # type: ignore[no-untyped-call]
    for name, value in trainer_state(position.saved).items():
        setattr(state, name, value)
    state.best_model_checkpoint = position.best_checkpoint()
    state.save_to_json(str(directory / "trainer_state.json"))
    return str(directory)


def _refuse_unfit(trainer: Trainer, run: Run) -> None:
    """Refuse what cannot be continued exactly, or would disagree with the run."""
    args = trainer.args

    def refuse(what: str, found: str, expected: str) -> None:
        raise ConfigError(what, where="TrainingArguments", found=found, expected=expected)

    if args.seed != run.seed:
        refuse("The Trainer has another seed than the run.", f"seed={args.seed}", "seed=run.seed")
    if args.max_steps not in {-1, run.end_step}:
        refuse(
            "The Trainer would end at another step than the run.",
            f"max_steps={args.max_steps}",
            f"max_steps=run.end_step ({run.end_step}), or none: training.steps of the config",
        )
    if trainer.model_init is not None:
        refuse("The Trainer would build another model than the one to restore.", "model_init", "model=...")
    for name in ("auto_find_batch_size", "ignore_data_skip", "deepspeed", "fsdp"):
        if getattr(args, name, None):
            refuse(f"{name} cannot be continued exactly.", f"{name}={getattr(args, name)}", f"no {name}")


def _refuse_device(trainer: Trainer, run: Run) -> None:
    there = trainer.args.device.type
    if there != run.device.type or trainer.args.n_gpu > 1:
        raise ConfigError(
            "The Trainer computes on another device than the run.",
            where="TrainingArguments",
            found=f"{trainer.args.n_gpu} devices of type {there}",
            expected=f"one device of type {run.device.type}",
            do='TrainingArguments(use_cpu=run.device.type == "cpu"); of several GPUs, CUDA_VISIBLE_DEVICES=0',
        )


@contextlib.contextmanager
def _weights_as_they_are(trainer: Trainer) -> Iterator[None]:
    """The Trainer loads no weights: the launcher has restored all of them, of frozen parameters too."""
    if not hasattr(trainer, "_load_from_checkpoint") or not hasattr(trainer, "_run_epoch"):
        raise ConfigError("This version of transformers is too old.", expected="transformers 5")
    vars(trainer)["_load_from_checkpoint"] = lambda *_, **__: None
    try:
        yield
    finally:
        del vars(trainer)["_load_from_checkpoint"]


@contextlib.contextmanager
def _one_wandb_run(trainer: Trainer, run: Run) -> Iterator[None]:
    """See that W&B shows the run once, under its own id, group and metadata."""
    theirs = [one for one in trainer.callback_handler.callbacks if isinstance(one, WandbCallback)]
    told = run.wandb_run()
    if told is None:
        for callback in theirs:
            # Its lines would go into the launcher's own run of W&B, between those of the launcher.
            trainer.remove_callback(callback)
            log.info("tracker=wandb logs what the Trainer logs; its own W&B callback is left out.")
    with told if told is not None and theirs else contextlib.nullcontext():
        yield


def _metrics(logs: Mapping[str, Any]) -> dict[str, float]:
    """What the Trainer logs, under the launcher's names; without what the machine's speed decides."""
    return {
        f"val/{name.removeprefix(_VALIDATION)}" if name.startswith(_VALIDATION) else f"train/{name}": value
        for name, value in lasting(dict(logs)).items()
        if isinstance(value, int | float)
    }


def _streams() -> dict[str, Any]:
    """The random streams as the Trainer saves them."""
    streams: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        streams["cuda"] = torch.cuda.get_rng_state()
    return streams


def _output_directories(run: Run, own: Path) -> list[Path]:
    """Where the trunk's Trainer had its own checkpoints."""
    assert run.branch_point is not None
    checkpoint = run.branch_point.checkpoint
    if checkpoint.is_dir():
        return [checkpoint.parent]
    with contextlib.suppress(ValueError):
        return [checkpoint.parents[1] / own.absolute().relative_to(run.directory.absolute())]
    return []


def _directions(args: TrainingArguments) -> dict[str, Direction]:
    if args.metric_for_best_model is None:
        return {}
    name = args.metric_for_best_model.removeprefix(_VALIDATION)
    return {name: "up" if args.greater_is_better else "down"}


def _data(trainer: Trainer, fingerprint: str | None) -> Elsewhere:
    """What the Trainer trains on; it skips to its place by itself, by the step."""
    why = []
    strategy = getattr(trainer.args, "train_sampling_strategy", "random")
    if strategy not in {"random", "sequential"}:
        why.append(f"{strategy} draws the order of an epoch from a stream that goes on")
    if (name := draws(trainer.get_train_dataloader())) is not None:
        why.append(f"{name} draws random numbers, ahead of the step that they are for")
    return Elsewhere(fingerprint or fingerprint_of(trainer.train_dataset), tuple(why))
