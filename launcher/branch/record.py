"""The run record that a plan begins with."""

from __future__ import annotations

from typing import Any

from launcher.branch.declared import plain_value
from launcher.branch.metadata import RESHARDING, comparison, tags
from launcher.branch.plan import Plan
from launcher.findings import Finding
from launcher.layout import RunDirectory
from launcher.lineage import Parent, RunRecord, State, read_run


def resharded(plan: Plan) -> dict[str, list[Any]]:
    """How the branch point's state was divided (None: nobody knows), and how it is, where these differ."""
    known = plan.point is not None and not plan.point.foreign
    return {
        key: [plan.differences[key][0] if known else None, plan.differences[key][1]]
        for key in RESHARDING
        if key in plan.differences
    }


def going_on(directory: RunDirectory) -> RunRecord | None:
    """The record that is there, of a run that goes on; None for a new one.

    Raises:
        LauncherError: it cannot be read.
    """
    if not directory.record.is_file():
        return None
    record = read_run(directory.path).record
    record.state, record.error = "running", None
    return record


def new_record(
    plan: Plan, findings: list[Finding], environment: dict[str, Any], state: State = "running"
) -> RunRecord:
    """The record of a run that has not begun; of one that waits for its turn, in state ``queued``."""
    parent = None
    if plan.point is not None:
        manifest = plan.point.manifest
        parent = Parent(
            run=None if plan.point.foreign else manifest.about.run,
            checkpoint=str(plan.point.checkpoint),
            step=manifest.step,
            absolute_step=manifest.about.absolute_step,
            sha256=manifest.sha256,
            metrics=dict(manifest.about.metrics),
            format=plan.point.format,
            missing=list(plan.point.missing),
            source=plan.point.source,
        )
    return RunRecord(
        id=plan.id,
        kind=plan.kind,
        state=state,
        group=plan.group,
        group_source=plan.group_source,
        job_type=plan.job_type,
        branch_type=plan.branch_type,
        signature=plan.signature,
        request=plan.request,
        step=plan.start.step,
        start_step=plan.start.step,
        end_step=plan.end_step,
        horizon_steps=plan.horizon_steps,
        parent=parent,
        compare_to=comparison(plan),
        stream=plan.stream,
        arm=plan.arm,
        overrides=list(plan.declared.overrides),
        declared={key: plain_value(value) for key, value in plan.declared.values.items()},
        differences={key: [left, right] for key, (left, right) in plan.differences.items()},
        resharded=resharded(plan),
        findings=[finding.to_json() for finding in findings],
        environment=environment,
        allowed=list(plan.config.fanout.allow),
        notes=plan.config.branch.notes,
        tags=list(tags(plan)),
    )
