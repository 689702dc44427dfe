"""``launcher sync``: runs that were tracked by W&B, brought up to what their own files have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import OmegaConf
from rich.table import Table

from launcher.config import CheckpointConfig
from launcher.errors import LauncherError
from launcher.fanout.status import select
from launcher.layout import RunDirectory
from launcher.lineage import Run, State, find_run, state_now
from launcher.publishing import wanted
from launcher.trackers.base import State as Ended
from launcher.trackers.trunk import TrunkValues
from launcher.trackers.wandb.names import legal_id
from launcher.trackers.wandb.sync import Local, Synced, require_key, sync_run, was_tracked


def sync(outputs: Path, name: str | None, rewind: bool = False) -> list[Synced]:
    """Upload what W&B lacks of every run, of a group's, or of one; a run that trains now is left alone.

    Args:
        outputs: directory of all runs.
        name: a group, a run, or None.
        rewind: have W&B forget a run's history from its first hole on, and send it anew.

    Raises:
        UnknownRun: there is no such group or run.
        ConfigError: there is no API key.
    """
    runs = [run for run in select(outputs, name) if was_tracked(run.directory.path)]
    if not runs:
        return []
    require_key()
    return list(_synced(outputs, runs, rewind))


def _synced(outputs: Path, runs: Sequence[Run], rewind: bool) -> Iterator[Synced]:
    for run in runs:
        if (state := state_now(run)) == "running":
            yield Synced(run.id, problem="it is running; what it lacks goes up when it is over")
            continue
        settings = run.record.trackers.get("wandb_settings") or {}
        yield sync_run(
            Local(
                id=settings.get("id") or legal_id(run.id),
                directory=run.directory.path,
                state=_ended(state),
                run_id=run.id,
                project=settings.get("project"),
                entity=settings.get("entity"),
                trunk=_trunk(outputs, run),
                input=settings.get("input") if "input_lacks" in settings else None,
                checkpoints=wanted(run.directory, _policy(run.directory), _ended(state) == "finished"),
            ),
            rewind,
        )


def _ended(state: State) -> Ended:
    """As its trackers were told: to them a pruned run is one that will not go on."""
    return "finished" if state in {"finished", "pruned"} else "failed" if state == "failed" else "interrupted"


def _policy(directory: RunDirectory) -> CheckpointConfig:
    """``checkpoint`` of the config that the run's last process had."""
    recorded = OmegaConf.select(OmegaConf.load(directory.config), "checkpoint", default={})
    policy = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(CheckpointConfig), recorded))
    assert isinstance(policy, CheckpointConfig)
    return policy


def _trunk(outputs: Path, run: Run) -> TrunkValues | None:
    parent = run.record.parent
    if parent is not None and parent.run is not None:
        with contextlib.suppress(LauncherError):  # It may lie elsewhere, or nowhere any more.
            trunk = find_run(outputs, parent.run)
            return TrunkValues(trunk.directory.metrics, parent.step, run.record.start_step)
    return None


def table(found: Sequence[Synced]) -> Table:
    """The results for a terminal, one line a run."""
    shown = Table("run", "steps", "segments", "rows sent", "missing", "checkpoints sent")
    shown.columns[0].no_wrap = True
    for one in found:
        missing = steps(one.missing) if one.missing else "[red]?[/]" if one.problem else "none"
        sent = steps(sorted(one.checkpoints)) if one.checkpoints else ""
        shown.add_row(
            one.run, str(one.lines), str(len(one.uploaded) or ""), str(one.sent or ""), missing, sent
        )  # fmt: skip
    return shown


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
