"""What of the counts of Hugging Face's Trainer belongs to the state, and what only to one run of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRAINER = "trainer"
"""What the launcher calls it: in a foreign checkpoint's state, and where a Trainer's run registers it."""
_KEPT = (
    "global_step", "epoch", "num_input_tokens_seen", "total_flos", "log_history", "best_metric",
    "best_global_step",
)  # fmt: skip
"""The rest are settings, places on a disk, or follow from where the run is to end."""
_TIMINGS = ("_runtime", "_per_second", "_preparation_time", "_compilation_time")


def trainer_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a ``TrainerState`` that is equal in two runs that compute the same."""
    kept = {name: state[name] for name in _KEPT if name in state}
    if "log_history" in kept:
        # The last line of all sums up one call of train(), wherever that began.
        lines = kept["log_history"]
        kept["log_history"] = [
            line
            for line in (lines if isinstance(lines, list) else ())
            if isinstance(line, Mapping) and "train_runtime" not in line
        ]
    return {name: lasting(value) for name, value in kept.items()}


def kept_by_callbacks(state: Mapping[str, Any]) -> dict[str, Any]:
    """What callbacks such as early stopping count, by class; their settings are not in it."""
    saved = state.get("stateful_callbacks")
    found = saved.items() if isinstance(saved, Mapping) else ()
    return {
        name: lasting(one.get("attributes", {}))
        for name, one in found
        if name != "TrainerControl" and isinstance(one, Mapping)
    }


def lasting(value: Any) -> Any:
    """Plain values, without those that the machine's speed decides."""
    if isinstance(value, Mapping):
        return {str(key): lasting(one) for key, one in value.items() if not str(key).endswith(_TIMINGS)}
    if isinstance(value, list | tuple):
        return [lasting(one) for one in value]
    return value.item() if hasattr(value, "item") else value
