"""What trackers are told about a branch: tags and the customary metadata keys."""

from __future__ import annotations

from typing import Any

from launcher.branch.plan import Plan
from launcher.differences import plain
from launcher.trackers.base import RunIdentity

RESHARDING = ("launch.nproc", "launch.shard")
"""Keys that say how a run's state is divided among processes."""
FACTOR_NODES = ("model", "data", "loss", "curriculum", "optimizer", "scheduler")


def tags(plan: Plan) -> tuple[str, ...]:
    """``from-checkpoint``, the factors' labels, what was chosen by name, and the user's own."""
    origin = {"trunk": (), "branch": ("from-checkpoint",), "scratch": ("fallback-from-scratch",)}[plan.kind]
    chosen = [
        label
        for node in plan.declared.nodes
        if node in FACTOR_NODES and (label := (plan.config.node(node) or {}).get("label"))
    ]
    own = (*plan.config.branch.tags, *plan.config.tracking.tags)
    return tuple(dict.fromkeys((*origin, *plan.labels, *chosen, *own)))


def comparison(plan: Plan) -> str | None:
    """Id of the run that this one is compared with."""
    if plan.config.branch.compare_to is not None:
        return plan.config.branch.compare_to
    return plan.point.run_id if plan.point is not None and not plan.point.foreign else None


def tracker_config(plan: Plan) -> dict[str, Any]:
    """The resolved config, the branch point, and each factor's own facts, as plain values."""
    told: dict[str, Any] = {}
    for node in FACTOR_NODES:
        told.update((plan.config.node(node) or {}).get("facts") or {})
    # A fact called like a node (curriculum: original) is seen below it, and does not hide its values.
    told.update(plain(plan.config))
    told["branch_type"] = plan.branch_type or plan.kind
    told["stream"] = plan.stream
    told["comparison_to_run"] = comparison(plan)
    if plan.point is not None:
        told["branched_from_checkpoint"] = plan.point.source or str(plan.point.checkpoint)
        told["branched_from_step"] = plan.point.manifest.step
        told["branched_from_run"] = None if plan.point.foreign else plan.point.run_id
        told["branched_from_format"] = plan.point.format
        told["branched_from_sha256"] = plan.point.manifest.sha256
        told["branched_from_metrics"] = dict(plan.point.manifest.about.metrics)
        told["resharded"] = any(key in plan.differences for key in RESHARDING)
    if plan.unavailable is not None:
        told["branch_unavailable"] = plan.unavailable
    return told


def identity_of(plan: Plan) -> RunIdentity:
    """Who a run is, as far as its plan alone says it."""
    tracking = plan.config.tracking
    return RunIdentity(
        id=plan.id,
        name=plan.id,
        group=plan.tracker_group,
        group_source=_group_source(plan),
        job_type=plan.job_type,
        directory=plan.directory.path,
        project=tracking.project,
        entity=tracking.entity,
        tags=tags(plan),
        notes=plan.config.branch.notes,
        config=tracker_config(plan),
        alone=plan.config.fanout.id is None,
    )


def _group_source(plan: Plan) -> str | None:
    """Where the group that trackers are told came from; a trunk's is not that of its directory."""
    if plan.tracker_group is None or plan.kind == "branch":
        return plan.group_source if plan.tracker_group is not None else None
    return "tracking.group" if plan.config.tracking.group is not None else "WANDB_RUN_GROUP"
