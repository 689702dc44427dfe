"""The control of a fan-out: the unchanged continuation, and its twin where the trunk cannot vouch for it."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.branch.plan import Plan
from launcher.checkpoint.store import checkpoints, step_of
from launcher.fanout.check import Candidate
from launcher.lineage import state_now
from launcher.trackers.metrics_file import read_metrics


def control_of(candidates: Sequence[Candidate]) -> list[str] | None:
    """The overrides of the unchanged continuation; None where it is there, or nothing can be planned.

    They are those of the first sibling without whatever makes it differ from its trunk: what repeats the
    trunk's own settings stays.
    """
    branches = [one for one in candidates if one.plan is not None and one.plan.point is not None]
    if not branches or any(not one.plan.differences for one in branches if one.plan is not None):
        return None
    first = branches[0]
    assert first.plan is not None
    said = first.plan.declared
    dropped: set[str] = set()
    for unit in filter(None, map(said.unit_of, first.plan.differences)):
        source = said.keys.get(unit) or said.nodes.get(unit, "")
        # A named sibling's file is dropped whole; what the branch point's own file says belongs to it.
        dropped.add(unit if source == "command line" else source.partition("/")[0])
    dropped.discard("branch")
    return [text for text in first.overrides if text.partition("=")[0].lstrip("+~") not in dropped]


def needs_twin(control: Plan) -> bool:
    """Whether the control shares no step with its trunk by which it could be held against it."""
    point = control.point
    if point is None:
        return False
    if point.run is None:
        return True
    if state_now(point.run) == "running":
        return False
    begin = point.manifest.step
    end = begin + control.steps
    config = control.config
    saved = {step_of(path) for path in checkpoints(point.run.directory.checkpoints)}
    logged = {int(line["global_step"]) for line in read_metrics(point.run.directory.metrics)}
    kept = {step for step in saved if step % config.checkpoint.every == 0 or step == end}
    told = {step for step in logged if step % config.training.log_every == 0 or step == end}
    return not any(begin < step <= end for step in kept | told)
