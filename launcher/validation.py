"""What values a config may have, checked once, at the edge: choices, ranges, contradictions.

The knobs themselves, with meaning, unit and default, are in :mod:`launcher.config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.errors import ConfigError

CHOICES: Mapping[str, tuple[str, ...]] = {
    "branch.restore": ("full", "weights"),
    "branch.reset": ("optimizer", "scheduler", "data", "rng", "step"),
    "branch.step_mode": ("continue", "reset"),
    "branch.schedule": ("keep", "restart"),
    "branch.require": ("exact", "state", "weights"),
    "branch.on_unavailable": ("error", "scratch"),
    "checkpoint.artifact": ("none", "last", "best", "all", "pinned"),
    "checkpoint.artifact_by": ("copy", "reference"),
    "checkpoint.best_mode": ("max", "min"),
    "device": ("auto", "cpu", "cuda"),
    "fanout.allow": ("code", "libraries", "device", "threads"),
    "fanout.if_exists": ("resume", "rerun", "error"),
    "precision": ("fp32", "bf16", "fp16"),
    "tracker.wandb.mode": ("auto", "online", "offline", "disabled"),
}
"""The values that a key may have; of a list, each of its elements."""


def value_at(config: object, key: str) -> Any:
    """The value at a dotted key of a config; None where a node on the way is absent."""
    for part in key.split("."):
        if config is None:
            return None
        config = config[part] if isinstance(config, Mapping) else getattr(config, part)
    return config


def validate(config: Any) -> None:
    """Refuse values and combinations that cannot be meant, before anything starts.

    Raises:
        ConfigError: names the dotted key, the value found, and what was expected.
    """
    for key, choices in CHOICES.items():
        _check_choice(key, value_at(config, key), choices)
    for key, smallest in _SMALLEST.items():
        value = value_at(config, key)
        if value is not None and value < smallest:
            raise ConfigError(
                f"{key} is out of range.", found=f"{key}={value}", expected=f"at least {smallest}"
            )
        largest = _LARGEST.get(key, _COUNTABLE)
        if value is not None and value > largest:
            raise ConfigError(
                f"{key} is out of range.", found=f"{key}={value}", expected=f"at most {largest}"
            )
    for key in _NAMES:
        _check_text(key, value_at(config, key))
    if config.checkpoint.artifact == "best" and config.checkpoint.best_metric is None:
        raise ConfigError(
            "checkpoint.artifact=best has no metric to go by.",
            found="checkpoint.best_metric=null",
            do="name one: checkpoint.best_metric=val/token_accuracy",
        )
    _validate_shard(config)
    _validate_branch(config.branch)


def _validate_shard(config: Any) -> None:
    if config.launch.shard and config.launch.nproc == 1:
        raise ConfigError(
            "launch.shard=true divides the state among processes, and there is only one.",
            found=f"launch.nproc={config.launch.nproc}",
            do="launch.nproc=N, or launch.shard=false",
        )
    if config.launch.shard and config.checkpoint.artifact != "none":
        raise ConfigError(
            "Checkpoints of a run with launch.shard=true are directories, which are not kept in W&B.",
            found=f"checkpoint.artifact={config.checkpoint.artifact}",
            do="checkpoint.artifact=none; `launcher convert` makes one file of a checkpoint",
        )


_SMALLEST: Mapping[str, float] = {
    "seed": 0,
    "threads": 1,
    "training.steps": 1,
    "training.gradient_clip": 0.0,
    "training.log_every": 1,
    "training.validate_every": 0,
    "checkpoint.every": 1,
    "checkpoint.keep_last": 1,
    "checkpoint.keep_every": 1,
    "branch.from_step": 0,
    "branch.steps": 1,
    "fanout.max_parallel": 1,
    "fanout.repeat": 1,
    "fanout.repeats": 1,
    "fanout.until": 1,
    "launch.nproc": 1,
    "tracker.tensorboard.flush_seconds": 0.0,
    "tracker.mlflow.flush_seconds": 0.0,
    "tracker.trackio.flush_seconds": 0.0,
}


_COUNTABLE = 2**53
"""Up to here, JSON and learning-rate factors tell one step from the next."""
_LARGEST: Mapping[str, int] = {"seed": 2**32 - 1, "threads": 4096, "launch.nproc": 4096}
_NAMES = ("paths.outputs", "paths.cache", "branch.name", "branch.from_checkpoint", "tracking.group")


def _check_text(key: str, value: str | None) -> None:
    """A name or a path: not empty, and no part of it longer than a file system takes."""
    if value is None:
        return
    longest = 2000 if "://" in value else 200  # A URL may be signed.
    if not value.strip() or "\0" in value or any(len(part.encode()) > longest for part in value.split("/")):
        raise ConfigError(
            f"{key} is no name or path.",
            found=f"{key}={value[:60]!r}" + ("…" if len(value) > 60 else ""),
            expected=f"at least one character, and at most {longest} between two slashes",
        )


def _check_choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    for one in value if isinstance(value, list) else [value]:
        if one is not None and one not in choices:
            raise ConfigError(f"{key} has no such value.", found=f"{key}={one}", expected=" | ".join(choices))


def _validate_branch(branch: Any) -> None:
    contradictions = [
        (
            branch.from_checkpoint is not None and branch.from_run is not None,
            "branch.from_checkpoint and branch.from_run both name a place to start from.",
            "give one of the two",
        ),
        (
            branch.restore == "weights" and "optimizer" in branch.reset,
            "branch.restore=weights does not restore the optimizer, so it cannot be reset.",
            "drop branch.reset, or use branch.restore=full",
        ),
        (
            branch.restore == "weights" and bool(branch.reset),
            "branch.restore=weights restores the model only, so nothing else can be reset.",
            "drop branch.reset, or use branch.restore=full",
        ),
        (
            branch.restore == "full" and bool(branch.include or branch.exclude),
            "branch.include and branch.exclude restore a part of the model, "
            "and an optimizer state for a part does not exist.",
            "add branch.restore=weights",
        ),
        (
            branch.schedule == "restart" and "scheduler" in branch.reset,
            "branch.schedule=restart already starts the scheduler anew.",
            "drop scheduler from branch.reset, or use branch.schedule=keep to keep the trunk's horizon",
        ),
        (
            len(set(branch.reset)) != len(branch.reset),
            "branch.reset names a part twice.",
            "name each part once",
        ),
        (
            branch.sha256 is not None
            and (len(branch.sha256) != 64 or set(branch.sha256) - set("0123456789abcdef")),
            "branch.sha256 is not a content digest.",
            "give the 64 lower-case hex digits that `launcher pin` or `launcher show` print",
        ),
    ]
    for wrong, what, do in contradictions:
        if wrong:
            raise ConfigError(what, found=_spelled(branch), do=do)
    default = type(branch)()
    of_a_trunk = {"notes", "tags"}
    alone = [
        key for key, value in vars(branch).items() if value != getattr(default, key) and key not in of_a_trunk
    ]
    if alone and not branch.asked:
        raise ConfigError(
            f"branch.{alone[0]} is set, but no branch point is named.",
            found=_spelled(branch),
            expected="branch.from_step, branch.from_run, branch.from_checkpoint, or +branch=NAME",
        )


def _spelled(branch: Any) -> str:
    default = type(branch)()
    return " ".join(
        f"branch.{key}={str(value).replace(' ', '')}"
        for key, value in vars(branch).items()
        if value != getattr(default, key)
    )
