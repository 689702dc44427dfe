"""What a run is called: its group, its job type from the factors' labels, its directory."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from launcher.branch.declared import Declared
from launcher.branch.undeclared import shown
from launcher.config import Config
from launcher.differences import differences, plain
from launcher.errors import ConfigError
from launcher.layout import SCRATCH, TRUNKS, RunDirectory, legal_name


def from_scratch(name: str, why: str | None) -> str:
    """What is said of a run that trains from scratch because its branch point cannot be had."""
    return (
        f"{name} is trained FROM SCRATCH (branch.on_unavailable=scratch), outside the branch's group: "
        f"{why_unavailable(why) or 'there is no branch point'}"
    )


def why_unavailable(message: str | None) -> str:
    """What was tried for a branch point and why it failed: its error without what could be done."""
    lines = (message or "").splitlines()
    return "\n".join(takewhile(lambda line: not line.startswith("  to do:"), lines))


def typed_leaves(declared: Declared, config: Config) -> dict[str, tuple[Any, Any]]:
    """Everything that was said of what is computed, as differences from nothing."""
    compared = differences({}, plain(config))
    return {key: value for key, value in compared.items() if declared.unit_of(key) is not None}


def repeated(mark: str, config: Config) -> str:
    """The signature, told apart from those of earlier runs of the same."""
    return mark if config.fanout.repeat == 1 else f"{mark}-{config.fanout.repeat}"


def refuse_reserved(group: str, source: str) -> None:
    """Keep a group of siblings out of the directories of other runs.

    Raises:
        ConfigError: the group has such a name, or none.
    """
    if legal_name(group) in {TRUNKS, SCRATCH, "unnamed"}:
        raise ConfigError(
            "That is no name for a group of siblings.",
            where=source,
            found=repr(group),
            expected=f"any name but {TRUNKS} and {SCRATCH}, which are directories of other runs",
            do="tracking.group=NAME",
        )


def named_group(config: Config, environment: Mapping[str, str]) -> tuple[str | None, str]:
    """The group that the user names, if any, and where."""
    if config.tracking.group is not None:
        return config.tracking.group, "tracking.group"
    return environment.get("WANDB_RUN_GROUP") or None, "WANDB_RUN_GROUP"


def labels_of(changed: Mapping[str, tuple[Any, Any]], config: Config, declared: Declared) -> tuple[str, ...]:
    """One part of the job type for each factor: its node's label, or its key and value."""
    parts: dict[str, None] = {}
    for key, (_, own) in changed.items():
        node, _, rest = key.partition(".")
        unit = declared.unit_of(key)
        if unit in declared.nodes and unit == node:
            values = config.node(node)
            # The launcher's own nodes (training, task) are typed, and have no label.
            label = values.get("label") if rest and isinstance(values, Mapping) else None
            parts[label or f"{node}-{declared.values.get(node)}"] = None
        else:
            parts[f"{key.rpartition('.')[2]}-{shown(own)}"] = None
    return tuple(parts)


def branch_labels(config: Config) -> tuple[str, ...]:
    """One part of the job type for each way in which a branch is more than a continuation."""
    branch = config.branch
    labels = []
    if branch.restore == "weights":
        labels.append("part" if branch.include or branch.exclude else "weights")
    labels += [f"reset-{part}" for part in branch.reset]
    if branch.schedule == "restart":
        labels.append("restarted-schedule")
    return tuple(labels)


def run_directory(group: Path, name: str, mark: str) -> RunDirectory:
    """The run's directory: one that is there with this signature, whatever else its name says."""
    there = sorted(path.parent for path in group.glob(f"*-{mark}/run.json"))
    return RunDirectory(there[0] if there else group / name)
