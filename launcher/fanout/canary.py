"""``fanout.canary=true``: one sibling shows that it can run before the others start."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import LauncherError
from launcher.fanout.check import Candidate
from launcher.fanout.written import not_started
from launcher.launchers.sibling import read_launch
from launcher.layout import RunDirectory
from launcher.lineage import read_run


def canary_first(wanted: Sequence[Candidate]) -> list[Candidate]:
    """The siblings with the canary in front: the control, or whatever comes first where it is finished."""
    controls = [one for one in wanted if one.plan is not None and one.plan.branch_type == "control"]
    return sorted(wanted, key=lambda one: one is not (controls or wanted)[0])


def why_not(directory: Path) -> str:
    """What is said of the siblings of a canary that did not pass."""
    said = ""
    with contextlib.suppress(LauncherError):
        said = read_run(directory).record.error or ""
    said = said.removeprefix("The canary did not pass: ").rstrip(".")
    return f"not started: the canary {directory.name} did not pass" + (f" ({said})" if said else "")


def keep_back(directory: Path) -> None:
    """Say of the siblings of a canary that did not pass that they do not wait any more."""
    fanout = read_launch(directory).fanout
    for path in sorted(directory.parent.glob("*/launch.json")):
        with contextlib.suppress(LauncherError):
            if path.parent != directory and read_launch(path.parent).fanout == fanout:
                not_started(RunDirectory(path.parent), why_not(directory))
