"""Everything that can be found out before a model is built in memory; all findings at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from launcher.branch.effect import build_task, effect_findings, note_effect
from launcher.branch.fit import fit_findings
from launcher.branch.foreign import foreign_findings
from launcher.branch.frozen import frozen_findings
from launcher.branch.naming import why_unavailable
from launcher.branch.plan import Plan
from launcher.branch.record import new_record, resharded
from launcher.branch.room import nearest, need, no_room
from launcher.branch.script import own_keys, script_findings
from launcher.checkpoint.manifest import Manifest
from launcher.checkpoint.store import newest_step
from launcher.differences import override
from launcher.errors import PreflightFailed, UnknownRun
from launcher.findings import Finding, errors, render_findings
from launcher.ledger.entry import Entry, entry_of
from launcher.ledger.ledger import against, computed
from launcher.lineage import Run, find_run, read_runs
from launcher.script.loop import OwnLoop
from launcher.trackers.trackers import not_installed
from launcher.training.distributed import indivisible
from launcher.training.optim import build_optimizer
from launcher.training.schedule import build_schedule
from launcher.training.task import Task


def preflight(
    plan: Plan,
    environment: Mapping[str, object],
    runs: Sequence[Run] | None = None,
    there: Sequence[Entry] | None = None,
) -> list[Finding]:
    """Check a run before it starts.

    Args:
        plan: the run.
        environment: code, device, threads and library versions of this process, as far as they are known.
        runs: all runs that there are, where they were read already.
        there: those of the group that the run is held against, where that is known already.

    Raises:
        LauncherError: the config names something that cannot be built at all; the rest is findings.
    """
    task, model, fingerprint = _built(plan)
    if runs is None:
        runs, _ = read_runs(Path(plan.config.paths.outputs))
    findings = _place(plan) + _trackers(plan)
    findings += script_findings(plan, task) if isinstance(task, OwnLoop) else _shares(plan, task, model)
    if plan.unavailable is not None:
        tried = why_unavailable(plan.unavailable)
        findings.append(Finding("warning", "branch", tried, "a branch point", "from scratch"))
    if plan.point is not None:
        manifest = plan.point.manifest
        findings += [Finding("warning", "branch", place.splitlines()[0]) for place in plan.point.passed_over]
        findings += foreign_findings(plan, task, model)
        own = task.optimizer if isinstance(task, OwnLoop) else None
        fit = fit_findings(plan, model, manifest, own)
        findings += fit or (frozen_findings(plan, task, manifest) if isinstance(task, OwnLoop) else [])
        findings += _data(plan, manifest, fingerprint)
        findings += _siblings(plan, manifest, runs)
        entry = entry_of(new_record(plan, [], dict(environment)))
        findings += against(entry, siblings_of(plan, runs) if there is None else there)
        findings += _seed(plan)
        findings += _compared_run(plan)
        findings += differing_environment(manifest, environment)
        if isinstance(task, OwnLoop):
            note_effect(plan, 1)
        elif not errors(findings):
            findings += effect_findings(plan, task, model)
    return findings


def recheck(plan: Plan, environment: Mapping[str, object]) -> list[Finding]:
    """What may have changed since the sweeper checked a sibling: place, data, and where it runs.

    Raises:
        LauncherError: as :func:`preflight`.
    """
    _, _, fingerprint = _built(plan)
    findings = _place(plan)
    if plan.point is not None:
        findings += _data(plan, plan.point.manifest, fingerprint)
        findings += differing_environment(plan.point.manifest, environment)
    return findings


def _built(plan: Plan) -> tuple[Task | OwnLoop, torch.nn.Module, str]:
    """The task, its model without memory, and its data's fingerprint: all that the config names can be built.

    Raises:
        ConfigError: a node's target cannot be imported or refuses its arguments.
        DataError: the data is not there.
    """
    task = build_task(plan.config)
    if isinstance(task, OwnLoop):
        return task, task.parts.model, task.fingerprint()
    build_schedule(plan.config.scheduler, plan.horizon_steps)
    with torch.device("meta"):
        model = task.build_model()
        build_optimizer(plan.config.optimizer, model.parameters())
    return task, model, task.fingerprint()


def require_clean(plan: Plan, findings: list[Finding]) -> None:
    """Stop the launch if a finding says so.

    Raises:
        PreflightFailed: the message is the table of all findings.
    """
    if stopping := errors(findings):
        count = f"{len(stopping)} finding{'s stop' if len(stopping) > 1 else ' stops'} the launch"
        raise PreflightFailed(f"{count} of {plan.id}.\n{render_findings(findings)}")


def _place(plan: Plan) -> list[Finding]:
    """Whether there is a writable place with room for the checkpoints to come."""
    findings = []
    place = nearest(plan.directory.path)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        findings.append(
            Finding(
                "error",
                "paths.outputs",
                f"{place} cannot be written to",
                "a writable directory",
                "paths.outputs=DIR",
            )
        )
    needed = need(plan, newest_step(plan.directory.checkpoints))
    return findings if needed is None else findings + no_room(place, [needed])


def _shares(plan: Plan, task: Task, model: torch.nn.Module) -> list[Finding]:
    """Whether the processes that train the run can share its batches and its state."""
    nproc = plan.config.launch.nproc
    if nproc == 1:
        return _resharded(plan)
    threads = torch.get_num_threads()
    # The ranks may be forked from this process, and a copy of one that computed with several threads hangs.
    torch.set_num_threads(1)
    try:
        wrong = indivisible(task.batch(plan.start.data_step + 1), nproc)
    finally:
        torch.set_num_threads(threads)
    findings = _resharded(plan) + _undividable(plan, model)
    if wrong is None:
        return findings
    return [
        *findings,
        Finding(
            "error",
            f"launch.nproc={nproc}",
            f"a batch with {wrong}",
            f"one first dimension, a multiple of {nproc}",
            "another launch.nproc or another batch size",
        ),
    ]


def _resharded(plan: Plan) -> list[Finding]:
    """Whether the branch point's state is divided anew, so that the bits will not be the trunk's."""
    keys = resharded(plan)
    if not keys:
        return []
    here = " ".join(override(key, own) for key, (_, own) in keys.items())
    there = " ".join(override(key, trunks) for key, (trunks, _) in keys.items() if trunks is not None)
    found = "the state is resharded: what follows is equal to the trunk within tolerance, not exactly"
    return [Finding("warning", here, found, there, "")]


def _undividable(plan: Plan, model: torch.nn.Module) -> list[Finding]:
    """Parameters that FSDP2 cannot divide."""
    without_rows = [name for name, one in model.named_parameters() if one.dim() == 0]
    if not plan.config.launch.shard or not without_rows:
        return []
    return [
        Finding(
            "error",
            "launch.shard=true",
            f"parameters without a dimension: {', '.join(without_rows[:4])}",
            "rows to divide",
            "give them one: torch.zeros(1); or launch.shard=false",
        )
    ]


def _data(plan: Plan, manifest: Manifest, fingerprint: str) -> list[Finding]:
    """Other data is a difference like any other: fine if the config says so, refused if it does not."""
    foreign = plan.point is not None and plan.point.foreign
    if foreign or any(key.partition(".")[0] in {"data", "task"} for key in plan.differences):
        return []
    if own_keys(plan):  # Which of a script's keys speak of its data, nobody here knows.
        return []
    return changed_data(manifest, fingerprint)


def _siblings(plan: Plan, manifest: Manifest, runs: Sequence[Run]) -> list[Finding]:
    """Siblings of two different checkpoints are not siblings."""
    strangers = [
        run.id
        for run in runs
        if run.record.group == plan.group
        and run.record.parent is not None
        and run.record.parent.sha256 != manifest.sha256
    ]
    if not strangers:
        return []
    return [
        Finding(
            "error",
            f"group {plan.group}",
            f"it holds branches of another checkpoint: {', '.join(strangers[:4])}",
            f"branches of {manifest.about.run} at step {manifest.step} ({manifest.sha256[:12]}…)",
            f"tracking.group={plan.group}-{manifest.about.run.rpartition('-')[2]}, or branch.name=NAME",
        )
    ]


def siblings_of(plan: Plan, runs: Iterable[Run]) -> list[Entry]:
    """The runs that a new sibling is held against: those of its group of which something is computed."""
    group = (run for run in runs if run.record.group == plan.group)
    return [entry_of(run.record) for run in group if computed(run)]


def _compared_run(plan: Plan) -> list[Finding]:
    name = plan.config.branch.compare_to
    if name is None:
        return []
    try:
        find_run(Path(plan.config.paths.outputs), name)
    except UnknownRun as error:
        return [Finding("error", f"branch.compare_to={name}", error.what, "a run", "; ".join(error.do))]
    return []


def _seed(plan: Plan) -> list[Finding]:
    """A seed changes the data order; the RNG streams are restored unless they are reset."""
    branch = plan.config.branch
    if "seed" not in plan.differences or branch.restore == "weights" or "rng" in branch.reset:
        return []
    found = "changes the order of the data; dropout goes on with the trunk's random numbers"
    return [Finding("note", f"seed={plan.config.seed}", found, "", "branch.reset=[rng] for new ones")]


def _trackers(plan: Plan) -> list[Finding]:
    """A tracker may fail, but what is known to before the run starts was a mistake."""
    return [
        Finding(
            "error",
            f"tracker.{name}",
            f"the package {name} is not installed",
            "it, or another tracker",
            f"pip install 'checkpoint-launcher[{name}]'",
        )
        for name in not_installed(plan.config.tracker)
    ]


def changed_data(manifest: Manifest, fingerprint: str) -> list[Finding]:
    """Whether the data is still what it was when the checkpoint of ``manifest`` was written."""
    if fingerprint == manifest.about.data_fingerprint:
        return []
    return [
        Finding(
            "error",
            "data",
            f"fingerprint {fingerprint}",
            f"{manifest.about.data_fingerprint}, as {manifest.about.run} had",
            "put the data back as it was; for other data on purpose, give it another path: data.path=FILE",
        )
    ]


def differing_environment(manifest: Manifest, environment: Mapping[str, object]) -> list[Finding]:
    """What keeps a continuation from being exact although the config is the same."""
    there = manifest.about.environment
    return [
        Finding(
            "warning",
            key,
            str(environment[key]),
            f"{there[key]}, as {manifest.about.run} had",
            _HINTS.get(key, ""),
        )
        for key in environment
        if key in there and there[key] != environment[key]
    ]


_HINTS = {
    "threads": "threads=N; a different number can change the last bit",
    "device": "device=cpu|cuda",
    "code": "whether that matters, the control tells: fanout.control=true, launcher verify",
}
