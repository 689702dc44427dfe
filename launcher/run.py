"""The story of a run: find out what it is, check it, build it, restore it, train it, record it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from launcher.branch.declared import Declared
from launcher.branch.effect import build_task, launchers_task
from launcher.branch.naming import from_scratch
from launcher.branch.plan import Plan, plan
from launcher.branch.preflight import (
    changed_data,
    differing_environment,
    preflight,
    recheck,
    require_clean,
)
from launcher.branch.select import selected_names, selected_state
from launcher.canary import prove_resumable, refuse_unlike
from launcher.checkpoint.formats.known import load
from launcher.checkpoint.manifest import About, Manifest, read_manifest, write_manifest
from launcher.checkpoint.reader import read_state
from launcher.checkpoint.store import checkpoints
from launcher.checkpoint.verify import newest_good
from launcher.config import Config
from launcher.errors import BranchPointUnavailable, LauncherError
from launcher.findings import Finding, render_findings
from launcher.launchers.jobs.snapshot import script_directory
from launcher.launchers.sibling import failed_sibling
from launcher.layout import SCRATCH
from launcher.ledger.code import code_of
from launcher.lineage import Origin, Run, read_run
from launcher.messages import log_to_stderr, print_in_red
from launcher.recording import Recording
from launcher.report.summary import print_summary
from launcher.script.loop import OwnLoop
from launcher.session.own_loop import own_loop
from launcher.session.task_run import call
from launcher.shards import Sharing, described
from launcher.training.device import choose_device, device_type, environment, prepare_process
from launcher.training.distributed import Ranks, rank_seed
from launcher.training.local_ranks import may_fork, start_ranks
from launcher.training.loop import Trained, Unrecorded, train
from launcher.training.optim import apply_hyperparameters, check_live, hyperparameters
from launcher.training.rendezvous import Place, place_from
from launcher.training.restore import load_weights, model_from, new_model, with_tied
from launcher.training.rng import seed_all
from launcher.training.schedule import build_schedule
from launcher.training.signals import Interruption
from launcher.training.task import Task
from launcher.training.trainer import Trainer

log = logging.getLogger("launcher.run")


def run(config: Config, declared: Declared, interruption: Interruption | None = None) -> Run:
    """Bring the run that ``config`` describes to its end, from wherever it is.

    Its own newest checkpoint comes first, the branch point second, nothing only for a trunk or where
    scratch was asked for. A run that is finished is not run again.

    Args:
        config: the run's.
        declared: what of it was said on purpose.
        interruption: entered already, by a process that catches signals earlier and later than the run.

    Raises:
        LauncherError: the input was wrong or the run failed; the record says so too.
        SystemExit: a signal asked to stop; the state is saved, the same command goes on from it.
    """
    place = place_from(config.launch.nproc)
    if place is None:
        work = partial(_as_rank, config, declared)
        return start_ranks(work, config.launch.nproc, may_fork(config.device), interruption)
    outputs, shard = Path(config.paths.outputs), config.launch.shard
    with Ranks(place, outputs, device_type(config.device), shard) as ranks:
        run_plan, own, findings, done = ranks.told(lambda: _found_out(config, declared, place))
        if done is not None:
            return done
        device = _prepared(config, place)

        with (
            nullcontext(interruption) if interruption else Interruption() as stop,
            Recording(run_plan, findings, _environment(config, device), ranks)
            if ranks.first
            else (Sharing(run_plan, ranks) if ranks.shard else Unrecorded()) as hooks,
            ranks.lost_ones_named(),
        ):
            if own is not None:
                log.info("%s goes on from its own checkpoint %s.", run_plan.id, own.name)
            task = build_task(config)
            started = partial(_record_start, run_plan, hooks, ranks)
            if isinstance(task, OwnLoop):
                assert isinstance(hooks, Recording)  # One process trains it.
                reached = own_loop(run_plan, task, own, hooks, stop, device, started)
            else:
                loop = partial(_launchers_loop, run_plan, task, own, hooks, stop, device, ranks, started)
                script = config.task.main
                reached = loop() if script is None else call(script, run_plan, device, loop)
            if isinstance(hooks, Recording):
                hooks.finish("finished" if reached else "interrupted", lambda: stop.asked is not None)

        finished = read_run(run_plan.directory.path)
        if ranks.first:
            print_summary(finished)
    if stop.asked is not None and not reached:
        log.warning("Stopped by %s; the same command goes on from here.", stop.asked.name)
        raise SystemExit(stop.exit_status)
    return finished


def _launchers_loop(
    plan: Plan,
    task: Task,
    own: Path | None,
    hooks: Recording | Unrecorded,
    stop: Interruption,
    device: torch.device,
    ranks: Ranks,
    started: Callable[[Trainer, Origin], None],
) -> bool:
    """The launcher trains the task; whether it reached the end."""
    trainer: Trainer
    origin: Origin
    if own is not None:
        trainer = resume(plan, task, _read(own, ranks), device, ranks)
        origin = "own checkpoint"
    elif plan.point is not None:
        trainer, origin = branch(plan, task, device, ranks), "branch point"
    else:
        trainer, origin = begin(plan, task, device, ranks), "nothing"
    trainer.gather_streams()
    started(trainer, origin)
    until = plan.config.fanout.until and plan.start.step + plan.config.fanout.until
    reached = train(trainer, plan.end_step, plan.config, hooks, stop, ranks, until)
    if until is not None and stop.asked is None:
        prove_resumable(trainer, partial(_again, plan, hooks, device, ranks), ranks)
    return reached


def _again(plan: Plan, hooks: Recording | Unrecorded, device: torch.device, ranks: Ranks) -> Trainer:
    """The run as it would go on in another process, from what is on disk. Collective."""
    saved = ranks.told(lambda: hooks.saved() if isinstance(hooks, Recording) else Path())
    return resume(plan, launchers_task(plan.config), _read(saved, ranks), device, ranks)


def _read(checkpoint: Path, ranks: Ranks) -> dict[str, Any]:
    """The state in a checkpoint of the run's own that is known to be whole."""
    return read_state(checkpoint, digests=False, by_rows=ranks.shard)


def _environment(config: Config, device: torch.device) -> dict[str, Any]:
    """What an exact repetition needs besides the config. Of a sibling, the code is what was launched."""
    code = config.fanout.code or code_of(script_directory())
    return {**environment(device), **({"code": code} if code else {})}


def _as_rank(config: Config, declared: Declared) -> Run:
    log_to_stderr()  # A new interpreter does not do so yet.
    return run(config, declared)


class _Course(NamedTuple):
    """What rank 0 finds out before anything is built, and every rank goes by."""

    plan: Plan
    own: Path | None
    """The run's own newest checkpoint."""
    findings: list[Finding]
    done: Run | None = None
    """The run, if it is finished already."""


def _found_out(config: Config, declared: Declared, place: Place) -> _Course:
    run_plan = plan(config, declared)
    _refuse_after_failure(run_plan)
    if run_plan.kind == "branch" and run_plan.unavailable is not None:
        log.warning("Its branch point cannot be had any more: %s", run_plan.unavailable.splitlines()[0])
    if (done := _finished(run_plan)) is not None:
        log.info("%s is finished already; nothing to do.", done.id)
        print_summary(done)
        return _Course(run_plan, None, [], done)
    device = _prepared(config, place)
    own, refused = newest_good(run_plan.directory.checkpoints)
    for problem in refused:
        log.warning("Passing over a damaged checkpoint. %s", problem)
    return _Course(run_plan, own, _checked(run_plan, own, device))


def _prepared(config: Config, place: Place) -> torch.device:
    device = choose_device(config.device, place)
    prepare_process(config, device, place.local_size)
    return device


def _refuse_after_failure(plan: Plan) -> None:
    """With ``fanout.stop_on_failure``, no sibling starts once another one failed.

    Raises:
        LauncherError: names the one that failed.
    """
    fanout = plan.config.fanout
    if fanout.stop_on_failure and fanout.id and (failed := failed_sibling(plan.directory, fanout.id)):
        raise LauncherError(
            f"{plan.id} is not started: its sibling {failed} failed.",
            where=str(plan.directory.path),
            found="fanout.stop_on_failure=true",
            do=f"settle what failed, then: launcher retry {plan.group}",
        )


def _checked(plan: Plan, own: Path | None, device: torch.device) -> list[Finding]:
    """Everything that can be found out before anything is built; stops the launch if it has to."""
    if own is None and plan.kind == "branch" and plan.point is None:
        raise BranchPointUnavailable(
            "No checkpoint of the run's own is whole, and its branch point cannot be had any more.",
            where=str(plan.directory.checkpoints),
            found=plan.unavailable,
            do="bring either back; a branch never begins from nothing",
        )
    if plan.kind == SCRATCH and own is None:
        print_in_red(from_scratch(plan.id, plan.unavailable))
    if own is None:
        check = preflight if plan.config.fanout.id is None else recheck
        findings = check(plan, _environment(plan.config, device))
    else:
        fingerprint = build_task(plan.config).fingerprint()
        manifest = read_manifest(own)
        here = _environment(plan.config, device)
        findings = differing_environment(manifest, here) + changed_data(manifest, fingerprint)
    require_clean(plan, findings)
    if findings:
        log.warning("\n%s", render_findings(findings))
    return findings


def begin(plan: Plan, task: Task, device: torch.device, ranks: Ranks) -> Trainer:
    """A run from nothing: everything is drawn from the seed."""
    seed_all(plan.config.seed)
    return _trainer(plan, task, new_model(task, ranks.built_on(device)), ranks)


def branch(plan: Plan, task: Task, device: torch.device, ranks: Ranks) -> Trainer:
    """A run from its branch point, with what was typed winning over what was restored."""
    assert plan.point is not None
    config = plan.config
    seed_all(config.seed)
    # Every byte was checked a moment ago, when the branch point was resolved.
    state = load(plan.point.checkpoint, config.branch.allow_globals, ranks.shard)
    model = _branch_model(plan, task, state["model_state_dict"], ranks.built_on(device))
    trainer = _trainer(plan, task, model, ranks)
    trainer.load_state_dict(taken := selected_state(state, config.branch))
    if plan.point.foreign and "scheduler_state_dict" not in taken:
        trainer.set_schedule(plan.schedule_start)
    trainer.live.progress.load_state_dict(plan.start.state_dict())
    typed = hyperparameters(config.optimizer)
    changed = {name: value for name, value in typed.items() if f"optimizer.{name}" in plan.differences}
    if plan.point.foreign and "lr" in typed:
        # The base rate of a schedule of its own, if it had one, is not this schedule's.
        changed["lr"] = typed["lr"]
    apply_hyperparameters(trainer.live.optimizer, trainer.live.scheduler, changed, trainer.factor)
    check_live(trainer.live.optimizer, trainer.live.scheduler, typed, trainer.factor)
    return trainer


def resume(plan: Plan, task: Task, state: dict[str, object], device: torch.device, ranks: Ranks) -> Trainer:
    """The same run going on; nothing is applied, because nothing may change."""
    seed_all(plan.config.seed)
    weights = state.pop("model_state_dict")
    assert isinstance(weights, dict)
    trainer = _trainer(plan, task, model_from(task, weights, ranks.built_on(device)), ranks)
    trainer.load_state_dict(state)
    return trainer


def _trainer(plan: Plan, task: Task, model: torch.nn.Module, ranks: Ranks) -> Trainer:
    factor = build_schedule(plan.config.scheduler, plan.horizon_steps)
    trainer = Trainer(task, ranks.divided(model), plan.config, factor, ranks)
    if not ranks.first:
        # The weights were drawn as at rank 0; what is drawn from here on is this rank's own.
        seed_all(rank_seed(plan.config.seed, ranks.rank))
    return trainer


def _branch_model(
    plan: Plan, task: Task, weights: dict[str, torch.Tensor], device: torch.device
) -> torch.nn.Module:
    """The model with the checkpoint's weights, or with a part of them over a new initialisation."""
    branch = plan.config.branch
    if branch.restore == "full":
        renamed = selected_names(branch, weights, ())
        return model_from(task, {name: weights[source] for name, source in renamed.items() if source}, device)
    model = task.build_model()
    initial = model.state_dict()
    names = selected_names(branch, weights, initial)
    taken = {name: weights[source] for name, source in names.items() if source is not None}
    return load_weights(model, {**initial, **with_tied(model, taken)}).to(device)


def _finished(plan: Plan) -> Run | None:
    """The run, if it is finished; its data must still be what it was trained on.

    Raises:
        PreflightFailed: the same words now mean other data.
    """
    if not plan.directory.record.is_file():
        return None
    there = read_run(plan.directory.path)
    if there.record.state != "finished":
        return None
    for newest in checkpoints(plan.directory.checkpoints)[-1:]:
        fingerprint = build_task(plan.config).fingerprint()
        require_clean(plan, changed_data(read_manifest(newest), fingerprint))
    return there


def _record_start(
    plan: Plan, hooks: Recording | Unrecorded, ranks: Ranks, trained: Trained, origin: Origin
) -> None:
    """Tell the record and the trackers; of a control, also put down what it was restored to. Collective."""
    if isinstance(hooks, Recording):
        hooks.start(trained, origin)
    elif isinstance(hooks, Sharing):
        hooks.start(trained)
    if origin != "branch point" or plan.branch_type != "control" or not (ranks.first or ranks.shard):
        return
    about = About(step=plan.start.step, absolute_step=plan.start.absolute_step, run=plan.id)
    restored = Manifest(about, described(trained.state_dict(), ranks))
    if not ranks.first:
        return
    write_manifest(plan.directory.restored, restored)
    if plan.config.fanout.until is not None and plan.point is not None:
        refuse_unlike(plan.point.manifest.content, restored.content)
