"""Lightning's part of a checkpoint: loops, callbacks, what modules and data save themselves."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO

from launcher.script.parts import MODEL

_HERE = "{run.directory}"
"""Stands for the run's directory in what callbacks save: a branch has another one."""
_IN_MEMORY = "memory://launcher"
_OF_LIGHTNING = frozenset(
    {"epoch", "global_step", "pytorch-lightning_version", "state_dict", "optimizer_states", "lr_schedulers"}
)
"""Keys of Lightning's checkpoints that the launcher saves itself, or that follow from the rest."""
_METRICS = "callback_metrics"
_ARGUMENTS = ("hyper_parameters", "hparams_name", "hparams_type")


class LauncherCheckpointIO(CheckpointIO):
    """How Lightning reads and writes its checkpoints: as before, but with nothing of them executed.

    ``ckpt_path`` of ``trainer.validate`` and ``trainer.test`` may be a checkpoint of the launcher, too.
    """

    def __init__(self, inner: CheckpointIO) -> None:
        self._inner = inner
        self.taken: dict[str, Any] = {}
        """What Lightning last saved in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """As the plugin that was there does."""
        if path == _IN_MEMORY:
            self.taken = checkpoint
        else:
            self._inner.save_checkpoint(checkpoint, path, storage_options=storage_options)

    def load_checkpoint(
        self,
        path: Any,
        map_location: Any = None,
        weights_only: bool | None = True,  # noqa: ARG002
    ) -> dict[str, Any]:
        """As the plugin that was there does, of tensors and plain values only."""
        held: dict[str, Any] = self._inner.load_checkpoint(path, map_location, weights_only=True)
        if MODEL not in held or "state_dict" in held:
            return held
        version = lightning.__version__
        return {
            "state_dict": held[MODEL],
            "pytorch-lightning_version": version,
            "global_step": held["step"],
            "epoch": 0,
        }

    def remove_checkpoint(self, path: Any) -> None:
        """As the plugin that was there does."""
        self._inner.remove_checkpoint(path)

    def teardown(self) -> None:
        """As the plugin that was there does."""
        self._inner.teardown()


class LightningState:
    """What Lightning itself has in a checkpoint: loops, callbacks, precision, the module's and data's own."""

    def __init__(self, trainer: Any, plugin: LauncherCheckpointIO, directory: Path) -> None:
        self.trainer = trainer
        self._plugin, self._directory = plugin, str(directory)
        self._saved: Any = None

    @property
    def restored(self) -> bool:
        """Whether this Trainer goes on where another one was."""
        return self._saved is not None

    @property
    def within_epoch(self) -> bool:
        """Whether it goes on within an epoch."""
        if self._saved is None:
            return False
        epoch = self._saved["loops"]["epoch_progress"]["current"]
        return bool(epoch["started"] != epoch["processed"])

    def count_from(self, step: int) -> None:
        """Have ``trainer.global_step`` count from here on."""
        steps = self.trainer.fit_loop.epoch_loop
        steps.automatic_optimization.optim_progress.optimizer.step.total.completed = step
        steps.manual_optimization.optim_step_progress.total.completed = step

    def state_dict(self) -> dict[str, Any]:
        """Whatever Lightning, its callbacks and the user's hooks save, less what the launcher does."""
        self.trainer.save_checkpoint(_IN_MEMORY, weights_only=False)
        whole, self._plugin.taken = self._plugin.taken, {}
        own = {
            key: value
            for key, value in whole.items()
            if key not in _OF_LIGHTNING and not key.endswith(_ARGUMENTS)
        }
        loops = own["loops"]["fit_loop"]
        # The position of the data is the launcher's.
        loops["state_dict"].pop("combined_loader", None)
        for callback in self.trainer.checkpoint_callbacks:
            # Nothing restores it.
            own["callbacks"].get(callback.state_key, {}).pop("current_score", None)
        metrics = dict(self.trainer.callback_metrics)
        state = _replaced({**own, "loops": loops, _METRICS: metrics}, self._directory, _HERE)
        assert isinstance(state, dict)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all of it, and call the hooks that a user has for that."""
        self._saved = _replaced(dict(state), _HERE, self._directory)
        self.restore()

    def restore(self) -> None:
        """Put everything where it was; nothing for a run from nothing."""
        if not self._saved:
            return
        state = copy.deepcopy(self._saved)
        trainer, module, data = self.trainer, self.trainer.lightning_module, self.trainer.datamodule
        # Without Lightning's ways of going on within a step: this is between two.
        trainer.fit_loop.load_state_dict(state["loops"])
        for loop in _loops(trainer.fit_loop):
            loop.on_iteration_done()
        # What callbacks and schedules look at, also where it is logged once in many steps.
        trainer.callback_metrics.update(state.pop(_METRICS))
        told = {
            **state,
            "loops": {"fit_loop": state["loops"]},
            "state_dict": module.state_dict(),
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "pytorch-lightning_version": lightning.__version__,
        }
        for part in (trainer.precision_plugin, data):
            if part is not None and (name := type(part).__qualname__) in state:
                part.load_state_dict(state[name])
        module.on_load_checkpoint(told)
        for callback in self.trainer.callbacks:
            callback.on_load_checkpoint(trainer, module, told)
            if (saved := state["callbacks"].get(callback.state_key)) is not None:
                if isinstance(callback, EarlyStopping):
                    # What was typed wins over what was restored.
                    saved = {**saved, "patience": callback.patience}
                callback.load_state_dict(saved)


def save_again(callback: ModelCheckpoint, directory: Path, step: int) -> None:
    """Have ``callback`` write over what it saved after ``step``, which is where the run goes on.

    Lightning would take ``...-v1.ckpt`` for a name that is taken. That path is a part of its state, so a
    run that lost steps when it was killed would end with another state than one that did not.
    """
    if callback.dirpath is None or not Path(callback.dirpath).is_relative_to(directory):
        return
    later = {path for path in Path(callback.dirpath).rglob("*.ckpt") if _step_of(path) > step}
    exists = callback.file_exists

    def file_exists(filepath: Any, trainer: Any) -> bool:
        return Path(filepath) not in later and exists(filepath, trainer)

    callback.file_exists = file_exists  # type: ignore[method-assign]


def _step_of(checkpoint: Path) -> int:
    """The step of a checkpoint of Lightning's; -1 if it cannot be told without executing something."""
    try:
        return int(torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["global_step"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError):
        return -1


def _loops(loop: Any) -> Iterator[Any]:
    yield loop
    for one in vars(loop).values():
        if hasattr(one, "on_iteration_done"):
            yield from _loops(one)


def _replaced(value: Any, old: str, new: str) -> Any:
    """``value`` with texts that begin with ``old`` beginning with ``new``, as keys too."""
    if isinstance(value, dict):
        return {_replaced(key, old, new): _replaced(one, old, new) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replaced(one, old, new) for one in value)
    return new + value.removeprefix(old) if isinstance(value, str) and value.startswith(old) else value
