"""Siblings as people see them: what stops them, what would be launched, what came of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from launcher.branch.room import need
from launcher.branch.undeclared import shown
from launcher.checkpoint.store import newest_step
from launcher.errors import LauncherError
from launcher.fanout.check import Candidate
from launcher.fanout.estimate import disk, duration, estimated_seconds, steps_left
from launcher.fanout.status import STYLE, UNDER_WAY
from launcher.findings import Finding, commands_of, without_commands
from launcher.launchers.sibling import Outcome
from launcher.ledger.no_effect import without_effect
from launcher.lineage import Run, read_run, state_now
from launcher.report.tree import shown_metrics

MOST_NAMED = 4
"""Siblings that one line names."""


def findings_by_sibling(candidates: Sequence[Candidate]) -> RenderableType | None:
    """One line a finding, with the siblings that it is of; then commands. None where nothing was found."""
    having: dict[Finding, list[int]] = {}
    for number, one in enumerate(candidates):
        for each in dict.fromkeys(one.findings):
            having.setdefault(each, []).append(number)
    alike: dict[tuple[int, ...], list[Finding]] = {}
    for each, numbers in having.items():
        alike.setdefault(tuple(numbers), []).append(each)
    if not alike:
        return None
    table = Table()
    table.add_column("sibling", no_wrap=True)
    for column in ("", "what", "found", "expected", "to do"):
        table.add_column(column, overflow="fold")
    # What many share comes first, what is of one in the order of the siblings.
    for having_it, findings in sorted(alike.items(), key=lambda pair: (-len(pair[0]), pair[0])):
        names = [candidates[number].name for number in having_it]
        for each in findings:
            first = escape(_who(names, len(candidates))) if each is findings[0] else ""
            parts = (each.level, each.what, each.found, each.expected, without_commands(each.do))
            table.add_row(first, *(escape(part) for part in parts))
        table.add_section()
    return Group(table, *commands_of(having))


def _who(names: Sequence[str], count: int) -> str:
    """The siblings that share a finding: how many, and which."""
    if len(names) == 1:
        return names[0]
    if len(names) == count:
        return "all siblings"
    more = [f"and {len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return "\n".join([f"{len(names)} of {count} siblings:", *names[:MOST_NAMED], *more])


def dry_run_table(candidates: Iterable[Candidate]) -> Table:
    """What would be launched: one line a sibling, with an estimate from the trunk's own records."""
    table = Table(title="Dry run: nothing is launched.", title_justify="left", show_lines=True)
    for column in (
        "sibling",
        "now",
        "differs in",
        "signature",
        "steps",
        "time",
        "disk",
    ):
        table.add_column(column, overflow="fold")
    for one in candidates:
        planned = one.plan
        if planned is None:
            table.add_row(escape(one.name), "[red]bad[/]")
            continue
        changed = (
            "\n".join(f"{key}: {shown(a)} → {shown(b)}" for key, (a, b) in planned.differences.items())
            or "nothing"
        )
        state = one.there.state if one.good else "[red]bad[/]"
        left = steps_left(planned, one.there.step)
        needed = need(planned, one.there.step)
        table.add_row(
            planned.id,
            state,
            escape(changed),
            planned.signature,
            f"{planned.start.step} → {planned.end_step}",
            duration(estimated_seconds(planned, left)) if left else "",
            disk(needed.bytes if needed else None) if left else "",
        )
    return table


def end_table(candidates: Iterable[Candidate], outcomes: Mapping[str, Outcome]) -> Table:
    """What came of each sibling: state, step, metrics, directory, error in one line."""
    listed = list(candidates)
    idle = without_effect(_runs(listed))
    groups = sorted({str(one.plan.directory.path.parent) for one in listed if one.plan is not None})
    # A run's directory has its id: the place that they share is said once.
    table = Table(title=f"in {', '.join(groups)}" if groups else None, title_justify="left")
    for column in ("directory", "state", "step"):
        table.add_column(column, no_wrap=True)
    for column in ("metrics", "note"):
        table.add_column(column, overflow="fold")
    for one in listed:
        if one.plan is None:
            table.add_row(escape(one.name), "[red]bad[/]", "", "", escape(_first_error(one)))
            continue
        state, run = end_state(one, outcomes)
        record = run.record if run else None
        # Where something is under way, the record may still have why an earlier launch did not start it.
        noted = record.error if record and state not in UNDER_WAY else None
        error = _first_error(one) if not one.good else noted or ""
        outcome = outcomes.get(one.plan.id)
        if (
            outcome is not None
            and outcome.reason
            and state != "finished"
            and (outcome.submitted or not error)
        ):
            error = outcome.reason
        error = error or str(idle.get(one.plan.id, ""))
        table.add_row(
            one.plan.directory.path.name,
            f"[{STYLE.get(state, 'yellow')}]{state}[/]",
            f"{_reached(run)}/{run.record.end_step}" if run else "",
            _metrics(record.metrics) if record else "",
            escape(error.splitlines()[0] if error else ""),
        )
    return table


def _runs(candidates: Iterable[Candidate]) -> list[Run]:
    runs = []
    for one in candidates:
        if one.plan is not None:
            with contextlib.suppress(LauncherError):
                runs.append(read_run(one.plan.directory.path))
    return runs


def end_state(one: Candidate, outcomes: Mapping[str, Outcome]) -> tuple[str, Run | None]:
    """A sibling's state now, and its run where there is one."""
    assert one.plan is not None
    if not one.good:
        return "bad", None
    try:
        run = read_run(one.plan.directory.path)
    except LauncherError:
        return "not started", None
    state: str = state_now(run)
    outcome = outcomes.get(one.plan.id)
    if outcome is not None and outcome.submitted:
        # The record is of an earlier start, or of an attempt that failed.
        return "queued", run
    if outcome is None and one.there.state in UNDER_WAY:
        return one.there.state, run
    if outcome is not None and outcome.elsewhere and state == "running":
        return "running elsewhere", run
    if not run.record.starts and (state != "queued" or (outcome is not None and outcome.status)):
        state = "not started"
    return state, run


def _reached(run: Run) -> int:
    """The step that a run goes on from; one that was killed, or had no room, could not record it."""
    return max(run.record.step, newest_step(run.directory.checkpoints))


def _metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in shown_metrics(metrics).items())


def _first_error(one: Candidate) -> str:
    wrong = [f"{each.what}: {each.found}" for each in one.findings if each.level == "error"]
    return wrong[0] if wrong else ""
