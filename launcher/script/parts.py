"""What a script registers, and all of it as one state: saved, checked, restored in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from launcher.errors import CheckpointError, ConfigError
from launcher.training.restore import refuse_unlike, with_tied
from launcher.training.task import Direction, Stateful

MODEL = "model_state_dict"
DATA = "data_state"
SCHEDULER_STATE = "scheduler_state_dict"
FRESH = "fresh"
_CUSTOMARY = {
    "optimizer": "optimizer_state_dict",
    "scheduler": SCHEDULER_STATE,
    "scaler": "scaler_state_dict",
    "data": DATA,
}
"""What ``register`` calls a part, and where its state lies in a checkpoint; any other is in ``task``."""
UNKNOWN = "unknown"
"""The fingerprint of data of which nobody said what it is."""


@dataclass(frozen=True)
class Parts:
    """The live objects whose states together are a checkpoint."""

    model: nn.Module
    stateful: Mapping[str, Stateful]
    """Everything else, by the name that it was registered under."""
    fingerprint: str
    """Identifies the data, or is :data:`UNKNOWN`."""
    directions: Mapping[str, Direction] = field(default_factory=dict)
    inexact: tuple[str, ...] = ()
    """Why the data cannot go on exactly where it stopped; empty where it can."""

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizers, by name."""
        return {name: one for name, one in self.stateful.items() if isinstance(one, Optimizer)}

    @property
    def schedulers(self) -> dict[str, Any]:
        """The learning-rate schedulers, by name: whatever drives one of the optimizers."""
        driven = tuple(self.optimizers.values())
        return {
            name: one
            for name, one in self.stateful.items()
            if any(getattr(one, "optimizer", None) is optimizer for optimizer in driven)
        }

    @property
    def others(self) -> dict[str, Stateful]:
        """What has a name of the script's own."""
        return {name: one for name, one in self.stateful.items() if name not in _CUSTOMARY}

    def state_dict(self) -> dict[str, Any]:
        """The state of every part, under the customary keys."""
        state: dict[str, Any] = {MODEL: dict(self.model.state_dict())}
        others: dict[str, Any] = {}
        for name, part in self.stateful.items():
            (state if name in _CUSTOMARY else others)[_CUSTOMARY.get(name, name)] = part.state_dict()
        return {**state, "task": others}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy ``weights`` into the model, whose parameters the optimizer holds already.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape or dtype differs.
        """
        whole = with_tied(self.model, weights)
        refuse_unlike(self.model, whole)
        self.model.load_state_dict(whole, strict=True)

    def load(self, state: Mapping[str, Any]) -> set[str]:
        """Take over what ``state`` holds besides the model; the names of the parts that it was.

        Raises:
            CheckpointError: the state does not fit; names the part.
        """
        others = state.get("task", {})
        if "task" in state and (unlike := others.keys() ^ self.others.keys()):
            raise CheckpointError(
                "The script registers other parts than the checkpoint has.",
                where="run.register",
                found=f"only in one of the two: {', '.join(sorted(unlike))}",
                do="register what the trunk registered",
            )
        loaded = set()
        for name, part, saved in self._saved(state, others):
            try:
                part.load_state_dict(saved)
            except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
                raise CheckpointError(
                    f"The checkpoint's {name} does not fit this run.",
                    where=name,
                    found=str(error) or type(error).__name__,
                ) from error
            loaded.add(name)
        return loaded

    def _saved(
        self, state: Mapping[str, Any], others: Mapping[str, Any]
    ) -> Iterator[tuple[str, Stateful, Any]]:
        for name, part in self.stateful.items():
            place, key = (state, _CUSTOMARY[name]) if name in _CUSTOMARY else (others, name)
            if key in place:
                yield name, part, place[key]


def collected(
    model: nn.Module,
    given: Mapping[str, Any],
    fingerprint: str | None,
    directions: Mapping[str, Direction],
    prepare_data: Callable[[Any], tuple[Stateful | None, str | None, tuple[str, ...]]],
) -> Parts:
    """The parts that a script registers; what is None is none.

    Args:
        model: the model.
        given: everything else, by name.
        fingerprint: of the data, where the script says it.
        directions: of metrics.
        prepare_data: makes ``data`` resumable: its state, its own fingerprint, and why it is not exact.

    Raises:
        ConfigError: something has no state to save.
    """
    stateful = {name: _within(one) for name, one in given.items() if one is not None}
    inexact: tuple[str, ...] = ()
    if "data" in stateful:
        resumable, own, inexact = prepare_data(stateful.pop("data"))
        fingerprint = fingerprint or own
        if resumable is not None:
            stateful["data"] = resumable
    for name, one in {"model": model, **stateful}.items():
        if not isinstance(one, Stateful):
            raise ConfigError(
                f"run.register was given something as {name} that has no state.",
                where=f"run.register({name}=...)",
                found=f"{type(one).__module__}.{type(one).__qualname__}",
                expected="an object with state_dict() and load_state_dict(state)",
            )
    return Parts(model, stateful, fingerprint or UNKNOWN, dict(directions), inexact)


class GeneratorState:
    """A generator of the script's own; PyTorch's say their state in another way than all else."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        """How far it is."""
        return {"state": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """It goes on there."""
        self._generator.set_state(state["state"].cpu())


def _within(one: Any) -> Any:
    """An optimizer or schedule that another library has wrapped, as Accelerate does; or what was given.

    A wrapper hides which schedule drives which optimizer, and then a typed learning rate would be lost.
    """
    if isinstance(one, Generator):
        return GeneratorState(one)
    inner = getattr(one, "optimizer" if isinstance(one, Optimizer) else "scheduler", None)
    return inner if isinstance(inner, Optimizer | LRScheduler) else one
