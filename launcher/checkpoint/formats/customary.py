"""The keys that people give the parts of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.checkpoint.formats.canonical import GENERATORS, count_of, first_of
from launcher.checkpoint.formats.protocol import Entries, is_tensor, refuse

MODEL = ("model_state_dict", "state_dict", "model", "model_state", "module", "net")
OPTIMIZER = ("optimizer_state_dict", "optimizer", "optimizer_states", "optim", "optim_state_dict", "opt")
SCHEDULER = (
    "scheduler_state_dict", "lr_scheduler_state_dict", "scheduler", "lr_scheduler", "lr_schedulers",
)  # fmt: skip
SCALER = ("scaler_state_dict", "scaler", "grad_scaler", "MixedPrecision")
STEP = ("global_step", "step", "iter_num", "iteration", "iter")
RNG = ("rng_state", "rng_states", "rng", "random_states")
LENGTH = ("max_steps", "max_iters", "total_steps")
_CONFIG = ("config", "args", "hparams", "hyper_parameters")


def customary(path: Path, held: Any) -> Entries:
    """The parts of a dict with customary keys, or of a bare state dict.

    Raises:
        CheckpointError: it is neither, or the launcher's own without its manifest.
    """
    progress = held.get("progress") if isinstance(held, Mapping) else None
    if isinstance(progress, Mapping) and "data_step" in progress and "task" in held:
        refuse(
            path,
            "a checkpoint of the launcher without its manifest",
            "its manifest beside it: without one it may be half written",
            "There is no such checkpoint: it has no manifest, so it was never completely written.",
        )
    return customary_parts(path, held)


def customary_parts(path: Path, held: Any) -> Entries:
    """As :func:`customary`, also for what the launcher wrote.

    Raises:
        CheckpointError: it is no dict.
    """
    if not isinstance(held, Mapping):
        refuse(path, f"a {type(held).__name__}", "a dict: a whole checkpoint or a state dict")
    if held and all(is_tensor(value) for value in held.values()):
        return Entries(model=held)
    used = {
        *MODEL,
        *OPTIMIZER,
        *SCHEDULER,
        *SCALER,
        *STEP,
        *RNG,
        "epoch",
        "task",
        "progress",
        "rng_state_of_ranks",
    }
    used |= {name for names in GENERATORS.values() for name in names}
    return Entries(
        model=_mapping(held, MODEL),
        optimizer=first_of(held, OPTIMIZER),
        scheduler=first_of(held, SCHEDULER),
        scaler=first_of(held, SCALER),
        rng=_generators(held),
        task=held.get("task"),
        step=count_of(first_of(held, STEP)),
        epoch=count_of(held.get("epoch")),
        end_step=_length(held),
        unused=tuple(str(key) for key in held if key not in used),
    )


def _mapping(held: Mapping[Any, Any], names: tuple[str, ...]) -> Any:
    return next((held[name] for name in names if isinstance(held.get(name), Mapping)), None)


def _generators(held: Mapping[Any, Any]) -> list[Any]:
    """The states of the generators: in a part of their own, or at the top beside the others."""
    whole = first_of(held, RNG)
    if isinstance(whole, Mapping):
        others = held.get("rng_state_of_ranks")
        return [whole, *(others if isinstance(others, list) else [])]
    names = {name for names in GENERATORS.values() for name in names}
    found = {key: held[key] for key in held if key in names}
    return [found] if found else [whole] if whole is not None else []


def _length(held: Mapping[Any, Any]) -> int | None:
    """Where the run was to end: said by the checkpoint, or in the config that it holds."""
    for one in (held, *(held.get(name) for name in _CONFIG)):
        found = count_of(first_of(one, LENGTH)) if isinstance(one, Mapping) else None
        if found:
            return found
    return None
