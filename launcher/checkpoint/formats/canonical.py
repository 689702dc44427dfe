"""From what a library wrote to a state as the launcher restores it: one set of keys, one spelling.

The content digest is taken over this state, so that the same content has the same digest in any format.
What no branch takes over (hyperparameters, callbacks, a foreign schedule's formula) is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from launcher.checkpoint.formats.numpy_data import Array
from launcher.checkpoint.formats.protocol import Entries, Opener, is_tensor, refuse
from launcher.checkpoint.formats.trainer_state import TRAINER
from launcher.errors import CheckpointError

_WRAPPERS = re.compile(r"(^|\.)_orig_mod\.")
"""``torch.compile`` puts its name wherever a module was compiled."""
_PARALLEL = "module."
"""DDP and DataParallel put theirs before everything."""

GENERATORS: Mapping[str, tuple[str, ...]] = {
    "python": (
        "python", "random", "python_rng_state", "python_random_state", "random_state", "py_rng_state",
    ),
    "numpy": (
        "numpy", "np", "numpy_random_seed", "numpy_rng_state", "np_rng_state", "numpy_random_state",
    ),
    "torch": ("torch", "cpu", "torch_manual_seed", "torch_rng_state", "cpu_rng_state", "rng_state"),
    "cuda": (
        "cuda", "torch_cuda_manual_seed", "cuda_rng_state", "cuda_rng_state_all", "cuda_rng_states",
        "torch_cuda_rng_state", "gpu_rng_state",
    ),
}  # fmt: skip
"""What the generators are called in checkpoints."""


def canonical(path: Path, entries: Entries, opener: Opener) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The state in ``entries``, and which parts of it cannot be used and why.

    A key is there only if the checkpoint has it.

    Raises:
        CheckpointError: there is no model, or a generator's state is damaged.
    """
    state: dict[str, Any] = {}
    left_out: list[str] = []
    if entries.step is not None:
        state["step"] = entries.step
    state["model_state_dict"] = model_state(path, entries.model)
    if (optimizer := _one(entries.optimizer)) is not None:
        try:
            state["optimizer_state_dict"] = optimizer_state(path, optimizer)
        except CheckpointError as error:
            left_out.append(f"optimizer: {error.found}")
    if (scheduler := _one(entries.scheduler)) is not None and (kept := _schedule(scheduler)):
        state["scheduler_state_dict"] = kept
    if isinstance(entries.scaler, Mapping):
        state["scaler_state_dict"] = dict(entries.scaler)
    streams = [_generators(path, one, opener) for one in entries.rng]
    if streams and streams[0]:
        state["rng_state"] = streams[0]
        if streams[1:]:
            state["rng_state_of_ranks"] = streams[1:]
    if isinstance(entries.task, Mapping):
        state["task"] = dict(entries.task)
    if entries.trainer is not None:
        state[TRAINER] = dict(entries.trainer)
    return state, tuple(left_out)


def model_state(path: Path, model: Any) -> dict[str, Any]:
    """Name to tensor, without the prefixes of ``torch.compile`` and of data parallelism."""
    tensors = {str(name): one for name, one in model.items() if is_tensor(one)} if _is_map(model) else {}
    if not tensors:
        refuse(path, "no model", "a state dict of tensors", "There are no model weights in this checkpoint.")
    names = {name: _WRAPPERS.sub(r"\1", name) for name in tensors}
    while all(name.startswith(_PARALLEL) for name in names.values()):
        names = {name: short.removeprefix(_PARALLEL) for name, short in names.items()}
    if len(set(names.values())) < len(names):
        refuse(path, "two tensors of one name once wrappers' prefixes are gone", "names that differ")
    return {names[name]: tensor for name, tensor in tensors.items()}


def optimizer_state(path: Path, optimizer: Any) -> dict[str, Any]:
    """``Optimizer.state_dict()`` with parameters by number, also where they are saved by name."""
    groups = optimizer.get("param_groups") if _is_map(optimizer) else None
    states = optimizer.get("state", {}) if _is_map(optimizer) else None
    if isinstance(groups, Mapping):
        groups = list(groups.values())
    if (
        not isinstance(groups, list)
        or not _is_map(states)
        or not all(_is_map(group) and isinstance(group.get("params", ()), list | tuple) for group in groups)
    ):
        refuse(path, "an optimizer without param_groups", "what Optimizer.state_dict() gives")
    members = [[str(one) for one in group.get("params", ())] for group in groups]
    every = [one for group in members for one in group]
    numbers = {name: number for number, name in enumerate(every)}
    unknown = [str(name) for name in states if str(name) not in numbers]
    if unknown or len(numbers) < len(every):
        refuse(path, f"state of parameters that no group has: {', '.join(unknown[:3])}", "one group for each")
    by_number = {numbers[str(name)]: dict(state) for name, state in states.items() if _is_map(state)}
    return {
        "state": {number: by_number[number] for number in sorted(by_number)},
        "param_groups": [
            {**_hyperparameters(group), "params": [numbers[name] for name in names]}
            for group, names in zip(groups, members, strict=True)
        ],
    }


def _hyperparameters(group: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of numbers as tuples, which is what optimizers have; names of parameters are no number."""
    left_out = {"params", "param_names"}
    return {
        str(key): tuple(value) if isinstance(value, list) else value
        for key, value in group.items()
        if key not in left_out
    }


def optimizer_steps(optimizer: Any) -> int | None:
    """The number of steps that an optimizer itself has counted; None if it does not, or not equally."""
    states = optimizer.get("state") if _is_map(optimizer) else None
    counts = {
        count_of(one.get("step")) for one in (states.values() if _is_map(states) else ()) if _is_map(one)
    }
    counts.discard(None)
    return counts.pop() if len(counts) == 1 else None


def count_of(value: Any) -> int | None:
    """A count, which may be a tensor of one element; None for anything else."""
    if is_tensor(value) and getattr(value, "shape", None) in ((), (1,)):
        value = value.item()
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None


def _schedule(scheduler: Any) -> dict[str, Any] | None:
    """A scheduler's position. All of its state where it is LambdaLR's, which is the launcher's own."""
    last = scheduler.get("last_epoch") if _is_map(scheduler) else None
    if type(last) is not int or last < 0:
        return None
    lambdas = scheduler.get("lr_lambdas")
    # A partial function, as Hugging Face's schedules are, has a state, which is empty.
    if isinstance(lambdas, list) and all(one is None or one == {} for one in lambdas):
        return {str(key): value for key, value in scheduler.items()}
    return {"last_epoch": last}


def _generators(path: Path, saved: Any, opener: Opener) -> dict[str, Any]:
    """The states of the generators that one process saved, under the launcher's names."""
    if is_tensor(saved):
        return {"torch": saved, "cuda": []}
    found: dict[str, Any] = {}
    for name, customary in GENERATORS.items():
        value = next((saved[key] for key in customary if key in saved), None) if _is_map(saved) else None
        try:
            if value is not None and (read := _READERS[name](value, opener)) is not None:
                found[name] = read
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            refuse(path, f"the state of {name}'s generator: {error}", "a state as the generator gives it")
    return {**found, "cuda": found.get("cuda", [])} if found else {}


def _python(state: Any, opener: Opener) -> Any:
    if _is_map(state):
        return dict(state)
    version, internal, gauss = state
    return {"version": version, "internal": opener.integers(internal), "gauss": gauss}


def _numpy(state: Any, opener: Opener) -> Any:
    if _is_map(state) and "key" in state:
        return dict(state)
    if _is_map(state):
        inner = state["state"]
        kind, key, pos = state["bit_generator"], inner["key"], inner["pos"]
        has_gauss, gauss = state["has_gauss"], state["gauss"]
    else:
        kind, key, pos, has_gauss, gauss = state
    if kind != "MT19937":
        return None
    if isinstance(key, Array):
        key = opener.integers(key.values())
    elif is_tensor(key):
        key = key.long() if hasattr(key, "long") else key
    else:
        key = opener.integers(key)
    return {"key": key, "pos": int(pos), "has_gauss": int(has_gauss), "gauss": float(gauss)}


def _torch(state: Any, _: Opener) -> Any:
    return state if is_tensor(state) else None


def _cuda(state: Any, _: Opener) -> Any:
    if is_tensor(state):
        return [state]
    return [one for one in state if is_tensor(one)] if isinstance(state, list | tuple) else None


_READERS = {"python": _python, "numpy": _numpy, "torch": _torch, "cuda": _cuda}


def first_of(holder: Mapping[Any, Any], names: Iterable[str]) -> Any:
    """The value of the first of these keys that is there and not None."""
    return next((holder[name] for name in names if holder.get(name) is not None), None)


def _one(part: Any) -> Any:
    """The only element of a list of one: what Lightning and Accelerate save."""
    return part[0] if isinstance(part, Sequence) and len(part) == 1 else part


def _is_map(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)
