"""Lightning's ``Trainer`` on the launcher's runs: :func:`fit` in place of ``trainer.fit``.

Lightning keeps its loop, callbacks and loggers. What it trains is registered with the run, and so saved,
checked and restored by the launcher, between two steps and to the last random number. Lightning's own
resuming is not used: it saves within a step, without random streams, and its restored learning rate hides a
typed one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, callbacks
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from launcher.errors import ConfigError, RunFailed
from launcher.integrations.lightning_state import LauncherCheckpointIO, LightningState
from launcher.script.run import Run
from launcher.training.task import Stateful

log = logging.getLogger("launcher.run")
_INEXACT = (BaseFinetuning, BatchSizeFinder, LearningRateFinder, ModelPruning)
_AVERAGING = (callbacks.WeightAveraging,) if hasattr(callbacks, "WeightAveraging") else ()


def fit(
    trainer: Trainer,
    model: LightningModule,
    run: Run,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: LightningDataModule | None = None,
    *,
    fingerprint: str | None = None,
) -> None:
    """``trainer.fit`` for a run: trains to ``run.end_step``, from wherever the run is.

    Arguments are those of ``trainer.fit``; ``ckpt_path`` is the run's own affair. The training loader is
    shuffled by the run's seed and epoch from here on, and goes on at the batch where it stopped.

    Args:
        trainer: of one device. ``max_steps`` is the run's; ``max_epochs`` may end it earlier. A
            ``ModelCheckpoint`` without ``dirpath`` saves in the run's directory.
        model: what is trained, by one optimizer.
        run: of ``@launcher.main``; nothing else is registered with it.
        train_dataloaders: one loader.
        val_dataloaders: any.
        datamodule: in place of loaders.
        fingerprint: identifies the training data; by default the dataset's own, where it has one.

    Raises:
        ConfigError: the Trainer is set up in a way in which the run could not go on exactly.
    """
    _refuse(trainer, run)
    theirs: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    plugin = LauncherCheckpointIO(trainer.strategy.checkpoint_io)
    trainer.strategy.checkpoint_io = plugin
    ours = LauncherCallback(run, plugin, train_dataloaders, fingerprint)
    if run.probing:
        # A check before the launch: nothing is written, no device is touched.
        trainer.loggers, theirs[:] = [], [ours]
        for name in ("setup_environment", "model_to_device"):
            setattr(trainer.strategy, name, lambda: None)
        trainer.fit(model, train_dataloaders, val_dataloaders, datamodule)
        return
    for callback in trainer.checkpoint_callbacks:
        if getattr(callback, "dirpath", "") is None:
            callback.dirpath = str(run.directory.resolve() / "lightning")  # type: ignore[attr-defined]
    theirs.insert(0, ours)
    with _one_wandb_run(trainer, run):
        trainer.loggers = [*trainer.loggers, _Metrics(run, ours)]
        trainer.fit(model, train_dataloaders, val_dataloaders, datamodule)
    if not ours.begun:
        run.begin()  # There was no step left to take: Lightning calls no hook of an end.
        for one in theirs:
            averages = isinstance(one, StochasticWeightAveraging) and trainer.max_epochs == -1
            if averages or isinstance(one, _AVERAGING):
                one.on_train_end(trainer, model)


@contextlib.contextmanager
def _one_wandb_run(trainer: Trainer, run: Run) -> Iterator[None]:
    """See that W&B shows the run once, under its own id, group and metadata."""
    theirs = [one for one in trainer.loggers if isinstance(one, WandbLogger)]
    told = run.wandb_run() if theirs else None
    if theirs and told is None:
        # Its lines would go into the launcher's own run of W&B, between those of the launcher.
        trainer.loggers = [one for one in trainer.loggers if one not in theirs]
        log.info("tracker=wandb logs what Lightning logs; its own WandbLogger is left out.")
    with told or contextlib.nullcontext():
        yield


def _refuse(trainer: Any, run: Run) -> None:
    """What of a Trainer cannot go on exactly, or trains something else than the run says.

    Raises:
        ConfigError: names the argument.
    """
    wrong = {
        "devices": (trainer.world_size, trainer.world_size == 1, "1"),
        "accelerator": (
            device := trainer.strategy.root_device.type, run.probing or device == run.device.type,
            f"accelerator=run.device.type, which is {run.device.type}",
        ),
        "max_steps": (trainer.max_steps, trainer.max_steps in {-1, run.end_step}, "max_steps=run.end_step"),
        "reload_dataloaders_every_n_epochs": (
            trainer.reload_dataloaders_every_n_epochs, not trainer.reload_dataloaders_every_n_epochs, "0",
        ),
        "overfit_batches": (trainer.overfit_batches, not trainer.overfit_batches, "limit_train_batches"),
    }  # fmt: skip
    for name, (found, fine, expected) in wrong.items():
        if not fine:
            raise ConfigError(
                f"With this {name} of Lightning's Trainer a run cannot go on exactly.",
                where=f"Trainer({name}=...)",
                found=f"{name}={found}",
                expected=expected,
            )
    for callback in trainer.callbacks:
        if isinstance(callback, _INEXACT):
            raise ConfigError(
                "This callback changes what is trained, and does not save what it takes to go on with that.",
                where="Trainer(callbacks=...)",
                found=type(callback).__qualname__,
                do="drop it; what is frozen or thawed can be said in the module, by a key of the config",
            )
        place = callback.dirpath if isinstance(callback, ModelCheckpoint) else None
        if place is not None and not Path(place).resolve().is_relative_to(run.directory.resolve()):
            raise ConfigError(
                "ModelCheckpoint would save where other runs save: they take each other's names.",
                where="ModelCheckpoint(dirpath=...)",
                found=str(place),
                expected='no dirpath, or one of the run: dirpath=run.directory / "best"',
            )
    # Lightning's default is no end at all, said with a warning.
    trainer.fit_loop.epoch_loop.max_steps = run.end_step


class LauncherCallback(Callback):
    """Registers what a Trainer trains, and takes the run's steps with it; :func:`fit` puts it in place."""

    def __init__(
        self, run: Run, plugin: LauncherCheckpointIO, loader: Any, fingerprint: str | None = None
    ) -> None:
        self._run, self._plugin, self._loader, self._fingerprint = run, plugin, loader, fingerprint
        self.begun = False
        """Whether the run's loop has."""
        self._steps = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything that has a state is there, and Lightning restores nothing: restore it."""
        if len(trainer.optimizers) != 1:
            raise ConfigError(
                "The launcher counts the steps of one optimizer.",
                where=f"{type(pl_module).__qualname__}.configure_optimizers",
                found=f"{len(trainer.optimizers)} optimizers",
            )
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        more: dict[str, Any] = {f"scheduler_{number}": one for number, one in enumerate(schedules[1:], 2)}
        self._whole = LightningState(trainer, self._plugin, self._run.directory)
        loader = self._training_loader(trainer)
        self._run.register(
            model=pl_module,
            optimizer=trainer.optimizers[0],
            scheduler=schedules[0] if schedules else None,
            data=loader if isinstance(loader, DataLoader | Stateful) else None,
            fingerprint=self._fingerprint,
            lightning=self._whole,
            **more,
        )
        self._loader = loader
        if not self._whole.restored:
            # From another library's checkpoint, or from weights alone: counts go on all the same.
            self._whole.count_from(self._run.step)
        self._steps = trainer.global_step
        trainer.fit_loop.epoch_loop.max_steps = self._steps + self._run.end_step - self._run.step
        if self._whole.restored:
            # It would leave its traces in what was restored.
            trainer.num_sanity_val_steps = 0
        if not self._run.probing:
            self._whole.save_again(self._run.step)
        self._attach(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """The loop is about to begin, with the loader that it will use."""
        if trainer.num_training_batches == float("inf"):
            raise ConfigError(
                "The training loader does not say its length: Lightning fetches a batch ahead of each step.",
                where="Trainer(limit_train_batches=...)",
                expected="the number of batches of an epoch",
            )
        if trainer.train_dataloader is not self._loader:
            raise ConfigError(
                "Lightning trains on another loader than the one that was registered.",
                where="train_dataloaders",
                found=type(trainer.train_dataloader).__qualname__,
                expected="one torch.utils.data.DataLoader, or a loader with a state and a length",
            )

    def _training_loader(self, trainer: Any) -> Any:
        """The loader, asked for once: Lightning, asking later, gets the same one."""
        if self._loader is not None:
            return self._loader
        holder: Any = trainer.datamodule if trainer.datamodule is not None else trainer.lightning_module
        loader = holder.train_dataloader()
        holder.train_dataloader = lambda: loader
        return loader

    def _attach(self, trainer: Any) -> None:
        """Have the run's steps taken where one of Lightning's is over, and nothing of the next has begun.

        No hook of callbacks is called there: ``on_train_batch_end`` comes before the validation and the
        schedules that belong to the step, ``on_train_batch_start`` after the next batch was drawn.
        """
        epochs, steps = trainer.fit_loop, trainer.fit_loop.epoch_loop
        _then(epochs, "on_run_start", lambda: self._begin(within_epoch=False))
        _then(steps, "reset", self._restore_within_epoch)
        _then(steps, "on_run_start", lambda: self._begin(within_epoch=True))
        _then(steps, "on_advance_end", lambda: self._batch_over(trainer))
        _then(epochs, "on_advance_end", lambda: self._epoch_over(trainer))

    def _restore_within_epoch(self) -> None:
        # Lightning has just begun an epoch, hooks included; but it is one that goes on.
        if not self.begun:
            self._whole.restore()

    def _begin(self, within_epoch: bool) -> None:
        if self.begun or (self._whole.within_epoch and not within_epoch):
            return
        self.begun = True
        # What the user has put into evaluation mode stays there.
        modules = list(self._whole.trainer.lightning_module.modules())
        modes = [one.training for one in modules]
        self._run.begin()
        for one, mode in zip(modules, modes, strict=True):
            one.training = mode

    def _batch_over(self, trainer: Any) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_progress
        if not batches.is_last_batch and batches.current.ready != trainer.num_training_batches:
            self._step_over(trainer, epochs=-1)

    def _epoch_over(self, trainer: Any) -> None:
        if (position := getattr(self._loader, "_position", None)) is not None:
            # Lightning takes no more of it, and does not wait for its end.
            position.open = False
        self._step_over(trainer, trainer.fit_loop.epoch_progress.current.processed)

    def _step_over(self, trainer: Any, epochs: int) -> None:
        if trainer.global_step == self._steps:
            return  # Gradients are accumulated.
        if trainer.global_step != self._steps + 1:
            raise RunFailed(
                "Lightning took several optimizer steps with one batch; the launcher counts one.",
                found=f"global_step {self._steps}, then {trainer.global_step}",
            )
        self._steps = trainer.global_step
        least = trainer.fit_loop.epoch_progress.current.processed >= (trainer.min_epochs or 0)
        if trainer.should_stop and least and self._steps >= (trainer.min_steps or 0):
            self._run.stop()
        if epochs >= 0 and epochs == trainer.max_epochs:
            self._run.stop()
        self._run.advance()
        self._run.leave_if_interrupted()


def _then(owner: Any, name: str, then: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def both(*arguments: Any) -> None:
        # The signal has reached the run as well, which saves before it leaves.
        with contextlib.suppress(SIGTERMException):
            original(*arguments)
        then()

    setattr(owner, name, both)


class _Metrics(Logger):
    """What Lightning logs, and when it does, in the run's metrics as well."""

    name = "launcher"

    def __init__(self, run: Run, loop: LauncherCallback) -> None:
        super().__init__()
        self._run, self._loop = run, loop

    @property
    def version(self) -> str:
        """The run's id."""
        return self._run.id

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The run's config is recorded already."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # noqa: ARG002
        """Metrics of the present step.

        Of no step are those of an epoch that is entered anew to go on within it, or that ends after the last.
        """
        if not self._loop.begun or self._run.should_stop:
            return
        # Lightning puts the epoch into each line of its own.
        told = {"train/epoch" if name == "epoch" else name: value for name, value in metrics.items()}
        self._run.log(told)
