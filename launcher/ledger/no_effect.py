"""Runs in which what was changed has changed nothing: their weights are those of a sibling without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.lineage import Run, RunRecord

NO_EFFECT = "NO EFFECT"


@dataclass(frozen=True)
class Idle:
    """A run that computed what another one did."""

    other: str
    """The other's id: the control, or one that was changed otherwise."""
    steps: int
    """How far that was seen, in steps since the branch point."""
    digest: str
    """Of the weights that both have there."""

    def __str__(self) -> str:
        at = f"{self.steps} steps after the branch point"
        return f"{NO_EFFECT}: {at} its weights ({self.digest[:8]}) are those of {self.other}"


def without_effect(runs: Sequence[Run]) -> dict[str, Idle]:
    """Run id to what shows it, of each run whose change did not reach its weights.

    Told from the digests in the records (see ``RunRecord.states``): those that a run has in common with the
    control of its stream are all equal, or it ended with the very weights of another arm.
    """
    found: dict[str, Idle] = {}
    streams: dict[tuple[int, str | None], list[RunRecord]] = {}
    for run in runs:
        if run.record.kind == "branch" and run.record.states:
            streams.setdefault((run.record.stream, _point(run.record)), []).append(run.record)
    for records in streams.values():
        controls = [one for one in records if _is_control(one)]
        ended: dict[tuple[str, str], RunRecord] = {}
        for one in (one for one in records if not _is_control(one)):
            idle = _as_control(one, controls) or _as_another(one, ended)
            if idle is not None:
                found[one.id] = idle
    return found


def _as_control(one: RunRecord, controls: Sequence[RunRecord]) -> Idle | None:
    for control in controls:
        shared = {at for at in one.states if at in control.states}
        if shared and all(one.states[at] == control.states[at] for at in shared):
            last = max(shared, key=int)
            return Idle(control.id, int(last), one.states[last])
    return None


def _as_another(one: RunRecord, ended: dict[tuple[str, str], RunRecord]) -> Idle | None:
    """``ended``: by end state, the run that was seen first to have it."""
    if one.state != "finished":
        return None
    last = max(one.states, key=int)
    if int(last) != one.step - one.start_step:
        return None
    other = ended.setdefault((last, one.states[last]), one)
    same = other is one or other.arm == one.arm  # Once more, in a directory of its own.
    return None if same else Idle(other.id, int(last), one.states[last])


def _is_control(one: RunRecord) -> bool:
    return one.branch_type in {"control", "stream"}


def _point(one: RunRecord) -> str | None:
    return one.parent.sha256 if one.parent is not None else None
