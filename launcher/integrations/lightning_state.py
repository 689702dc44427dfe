"""Lightning's part of a checkpoint: loops, callbacks, what modules and data save themselves."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.plugins.io import CheckpointIO

from launcher.script.parts import MODEL

_HERE = ("{run.directory}", "{run.directory, absolute}")
"""Stand for the run's directory in what callbacks save: a branch has another one."""
_IN_MEMORY = "memory://launcher"
_WEIGHTS = "state_dict"
_OF_LIGHTNING = frozenset(
    {"epoch", "global_step", "pytorch-lightning_version", _WEIGHTS, "optimizer_states", "lr_schedulers"}
)
"""Keys of Lightning's checkpoints that the launcher saves itself, or that follow from the rest."""
_METRICS = "callback_metrics"
_UNSAVED = (
    "current_score",
    "_last_global_step_saved",
    "_last_checkpoint_saved",
    "_defer_save_until_validation",
)
"""What a ``ModelCheckpoint`` decides by, and neither saves nor restores."""
_ARGUMENTS = ("hyper_parameters", "hparams_name", "hparams_type")


class LauncherCheckpointIO(CheckpointIO):
    """How Lightning reads and writes its checkpoints: as before, but with nothing of them executed.

    ``ckpt_path`` of ``trainer.validate`` and ``trainer.test`` may be a checkpoint of the launcher, too.
    """

    def __init__(self, inner: CheckpointIO) -> None:
        self._inner = inner
        self.taken: dict[str, Any] = {}
        """What Lightning last saved in memory."""
        self.lost: set[Path] = set()
        """Files of steps that the run has lost, and is about to take again."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """As the plugin that was there does."""
        if path == _IN_MEMORY:
            self.taken = checkpoint
        else:
            self._inner.save_checkpoint(checkpoint, path, storage_options=storage_options)
            self.lost.discard(Path(path))

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
        self._plugin, self._directories = plugin, (str(directory), str(directory.resolve()))
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
        whole = self._taken()
        weights = self.trainer.lightning_module.state_dict()
        own = {
            key: value
            for key, value in whole.items()
            if key not in _OF_LIGHTNING and not key.endswith(_ARGUMENTS)
        }
        if any(not _same(value, weights.get(name)) for name, value in whole[_WEIGHTS].items()):
            # A hook has put others there, such as an average, which it will look for.
            own[_WEIGHTS] = dict(whole[_WEIGHTS])
        for callback in self._checkpoint_callbacks():
            kept = {name: getattr(callback, name) for name in _UNSAVED if hasattr(callback, name)}
            own["callbacks"][callback.state_key] = {**own["callbacks"][callback.state_key], **kept}
        for one in self.trainer.callbacks:
            if isinstance(one, StochasticWeightAveraging) and one._swa_scheduler is None:
                # It takes over what was restored at the beginning of an epoch, which is still to come.
                restored = {"scheduler_state": one._scheduler_state, "n_averaged": one._init_n_averaged}
                own["callbacks"][one.state_key].update(restored)
        state = {**own, "loops": own["loops"]["fit_loop"], _METRICS: dict(self.trainer.callback_metrics)}
        for place, mark in zip(self._directories, _HERE, strict=True):
            state = _replaced(state, place, mark)
        return state

    def _taken(self) -> dict[str, Any]:
        """A checkpoint as Lightning makes it, less the position in the data, which is the launcher's.

        Asked for that, a loader that has not begun yet would begin, in another order than its epoch's.
        """
        loop = self.trainer.fit_loop
        loader, loop._combined_loader = loop._combined_loader, None
        try:
            self.trainer.save_checkpoint(_IN_MEMORY, weights_only=False)
        finally:
            loop._combined_loader = loader
        whole, self._plugin.taken = self._plugin.taken, {}
        return whole

    def _checkpoint_callbacks(self) -> list[ModelCheckpoint]:
        return [one for one in self.trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all of it, and call the hooks that a user has for that."""
        self._saved = dict(state)
        for mark, place in zip(_HERE, self._directories, strict=True):
            self._saved = _replaced(self._saved, mark, place)
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
            _WEIGHTS: module.state_dict(),
            **state,
            "loops": {"fit_loop": state["loops"]},
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
        for callback in self._checkpoint_callbacks():
            saved = state["callbacks"].get(callback.state_key, {})
            for name in _UNSAVED:
                if name in saved:
                    setattr(callback, name, saved[name])

    def save_again(self, step: int) -> None:
        """Have ``ModelCheckpoint`` write over what it saved after the launcher saved ``step`` to go on from.

        Lightning would take ``...-v1.ckpt`` for a name that is taken. That path is a part of its state, so a
        run that lost steps when it was killed would end with another state than one that did not.
        """
        own = self._checkpoint_callbacks()
        known = {text for one in own for text in _texts(one.state_dict())}
        for path in {path for one in own if one.dirpath for path in Path(one.dirpath).rglob("*.ckpt")}:
            of = _step_of(path)
            # Of the step itself, a validation that came after it may have saved.
            if of > step or (of == step and str(path) not in known):
                self._plugin.lost.add(path)
        for callback in own:
            callback.file_exists = _unless_lost(callback.file_exists, self._plugin)  # type: ignore[method-assign]


def _unless_lost(exists: Callable[..., bool], plugin: LauncherCheckpointIO) -> Callable[..., bool]:
    def file_exists(filepath: Any, trainer: Any) -> bool:
        return Path(filepath) not in plugin.lost and exists(filepath, trainer)

    return file_exists


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


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same memory."""
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return one is other
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape


def _texts(value: Any) -> Iterator[str]:
    """Whatever texts there are in a state, as keys too."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value


def _replaced(value: Any, old: str, new: str) -> Any:
    """``value`` with texts that begin with ``old`` beginning with ``new``, as keys too."""
    if isinstance(value, dict):
        return {_replaced(key, old, new): _replaced(one, old, new) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replaced(one, old, new) for one in value)
    return new + value.removeprefix(old) if isinstance(value, str) and value.startswith(old) else value
