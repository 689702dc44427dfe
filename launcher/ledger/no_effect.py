"""Runs in which what was changed has changed nothing: their weights are those of a sibling without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.lineage import Run, RunRecord

NO_EFFECT = "NO EFFECT"


def without_effect(runs: Sequence[Run]) -> dict[str, str]:
    """Run id to what is to be said, of each run whose change did not reach its weights.

    Told from the digests in the records (see ``RunRecord.states``): those that a run has in common with the
    control of its stream are all equal, or it ended with the very weights of another arm.
    """
    found: dict[str, str] = {}
    streams: dict[int, list[RunRecord]] = {}
    for run in runs:
        if run.record.kind == "branch" and run.record.states:
            streams.setdefault(run.record.stream, []).append(run.record)
    for records in streams.values():
        controls = [one for one in records if _is_control(one)]
        ended: dict[tuple[str, str], RunRecord] = {}
        for one in (one for one in records if not _is_control(one)):
            told = _as_control(one, controls) or _as_another(one, ended)
            if told is not None:
                found[one.id] = told
    return found


def _as_control(one: RunRecord, controls: Sequence[RunRecord]) -> str | None:
    for control in controls:
        if _point(control) != _point(one):
            continue
        shared = {at for at in one.states if at in control.states}
        if shared and all(one.states[at] == control.states[at] for at in shared):
            return _told(one.states, control, max(shared, key=int))
    return None


def _as_another(one: RunRecord, ended: dict[tuple[str, str], RunRecord]) -> str | None:
    """``ended``: the run of each end state that was seen before."""
    if one.state != "finished":
        return None
    last = max(one.states, key=int)
    other = ended.setdefault((last, one.states[last]), one)
    # The digest of what is computed alike is alike; the same arm once more is no other arm.
    return None if other is one or other.arm == one.arm else _told(one.states, other, last)


def _is_control(one: RunRecord) -> bool:
    return one.branch_type in {"control", "stream"}


def _point(one: RunRecord) -> str | None:
    return one.parent.sha256 if one.parent is not None else None


def _told(states: Mapping[str, str], other: RunRecord, at: str) -> str:
    return f"{NO_EFFECT}: {at} steps after the branch point its weights ({states[at][:8]}) are {other.id}'s"
