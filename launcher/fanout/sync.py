"""``launcher sync``: runs in W&B and MLflow, brought up to what the runs' own files have."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from rich.table import Table

from launcher.config import CheckpointConfig
from launcher.errors import ConfigError, LauncherError
from launcher.fanout.status import select
from launcher.layout import RunDirectory
from launcher.lineage import Run, State, find_run, state_now
from launcher.publishing import input_of, wanted
from launcher.trackers.base import State as Ended
from launcher.trackers.mlflow_sync import complete_run
from launcher.trackers.mlflow_told import was_told
from launcher.trackers.trunk import TrunkValues
from launcher.trackers.wandb.names import legal_id
from launcher.trackers.wandb.sync import Local, Synced, require_key, sync_run, was_tracked


def sync(outputs: Path, name: str | None, rewind: bool = False) -> list[Synced]:
    """Upload what W&B and MLflow lack of every run, a group's, or one; one that trains now is left alone.

    Args:
        outputs: directory of all runs.
        name: a group, a run, or None.
        rewind: have W&B forget a run's history from its first hole on, and send it anew.

    Raises:
        UnknownRun: there is no such group or run.
        ConfigError: there is no API key of W&B, and MLflow knows none of the runs.
    """
    # A trunk's checkpoints are the input of its branches: it comes before them.
    runs = sorted(select(outputs, name), key=lambda run: run.record.created)
    in_wandb = [run for run in runs if was_tracked(run.directory.path)]
    in_mlflow = [run for run in runs if was_told(run.directory.path)]
    no_key = None
    if in_wandb:
        try:
            require_key()
        except ConfigError as error:
            if not in_mlflow:
                raise
            no_key = str(error).splitlines()[0]
    found = [
        Synced(run.id, problem=no_key) if no_key else _with_wandb(outputs, run, rewind) for run in in_wandb
    ]
    return found + [_with_mlflow(run) for run in in_mlflow]


_RUNNING = "it is running; what it lacks goes up when it is over"


def _with_wandb(outputs: Path, run: Run, rewind: bool) -> Synced:
    if (state := state_now(run)) == "running":
        return Synced(run.id, problem=_RUNNING)
    settings = run.record.trackers.get("wandb_settings") or {}
    declared = "input" in settings and "input_lacks" not in settings
    local = Local(
        id=settings.get("id") or legal_id(run.id),
        directory=run.directory.path,
        state=_ended(state),
        run_id=run.id,
        project=settings.get("project"),
        entity=settings.get("entity"),
        trunk=_trunk(outputs, run),
        summary=_summary(run),
        input=None if declared else settings.get("input") or _input(outputs, run),
        checkpoints=wanted(run.directory, _policy(run.directory), _ended(state) == "finished"),
    )
    return sync_run(local, rewind)


def _with_mlflow(run: Run) -> Synced:
    if (state := state_now(run)) == "running":
        return Synced(run.id, "mlflow", problem=_RUNNING)
    done = complete_run(run.directory.path, _ended(state), _summary(run))
    return Synced(run.id, "mlflow", done.link, done.lines, sent=done.sent, problem=done.problem)


def _summary(run: Run) -> dict[str, float]:
    return {**run.record.metrics, "step": run.record.step}


def _ended(state: State) -> Ended:
    """As its trackers were told: to them a pruned run is one that will not go on."""
    return "finished" if state in {"finished", "pruned"} else "failed" if state == "failed" else "interrupted"


def _policy(directory: RunDirectory) -> CheckpointConfig:
    """``checkpoint`` of the config that the run's last process had."""
    recorded = OmegaConf.select(OmegaConf.load(directory.config), "checkpoint", default={})
    policy = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(CheckpointConfig), recorded))
    assert isinstance(policy, CheckpointConfig)
    return policy


def _input(outputs: Path, run: Run) -> str | None:
    trunk = _parent(outputs, run)
    return input_of(run.record.parent, trunk.directory if trunk is not None else None)


def _trunk(outputs: Path, run: Run) -> TrunkValues | None:
    trunk, parent = _parent(outputs, run), run.record.parent
    if trunk is None or parent is None:
        return None
    return TrunkValues(trunk.directory.metrics, parent.step, run.record.start_step)


def _parent(outputs: Path, run: Run) -> Run | None:
    parent = run.record.parent
    if parent is not None and parent.run is not None:
        with contextlib.suppress(LauncherError):  # It may lie elsewhere, or nowhere any more.
            return find_run(outputs, parent.run)
    return None


def table(found: Sequence[Synced]) -> Table:
    """The results for a terminal, one line a run and tracker; what none of them has gets no column."""
    columns = {
        "run": [one.run for one in found],
        "tracker": [one.tracker for one in found] if any(one.tracker != "wandb" for one in found) else [],
        "steps": [str(one.lines) for one in found],
        "segments": [str(len(one.uploaded) or "") for one in found],
        "rows sent": [str(one.sent or "") for one in found],
        "checkpoints sent": [steps(sorted(one.checkpoints)) for one in found],
        "missing": [_missing(one) for one in found],
    }
    there = {name: cells for name, cells in columns.items() if any(cells)}
    shown = Table(*there)
    shown.columns[0].no_wrap = True
    for cells in zip(*there.values(), strict=True):
        shown.add_row(*cells)
    return shown


def _missing(one: Synced) -> str:
    if one.problem and not one.missing:
        return "[red]?[/]"
    lacking = [steps(one.missing)] if one.missing else []
    lacking += [f"checkpoints {steps(sorted(one.not_uploaded))}"] if one.not_uploaded else []
    return "; ".join(lacking) or "none"


def below(found: Sequence[Synced]) -> list[str]:
    """What stands under the table: where each run can be seen, and what went wrong."""
    links = [one.link for one in found if one.link]
    problems = [f"{one.run}: {one.problem}" for one in found if one.problem]
    for one in found:
        problems += [f"{one.run}: the checkpoint of step {step} is not up: {why}"
                     for step, why in sorted(one.not_uploaded.items())]  # fmt: skip
    return links + problems


def steps(numbers: Sequence[int], most: int = 6) -> str:
    """``5, 6, 7, … (40 steps)``."""
    listed = ", ".join(map(str, numbers[:most]))
    return listed if len(numbers) <= most else f"{listed}, … ({len(numbers)} steps)"
