"""The factors of a fan-out, before it is launched: which are confounded, what would tell them apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from launcher.branch.effect import effect_begins
from launcher.branch.record import new_record
from launcher.fanout.check import Candidate
from launcher.ledger.entry import Entry, entry_of
from launcher.ledger.factors import Cell, confounded, confounded_finding, factors_of, missing_cells


def entries_of(candidates: Iterable[Candidate]) -> list[Entry]:
    """The siblings, and those in their group that are about the same: that change nothing which none of these
    does. Others belong to another question.
    """
    planned = [one for one in candidates if one.plan is not None and one.plan.kind == "branch"]
    found = {one.plan.id: entry_of(new_record(one.plan, [], {})) for one in planned if one.plan is not None}
    asked = {key for entry in found.values() for key in entry.changed}
    for each in (entry for one in planned for entry in one.beside):
        if each.run not in found and each.changed.keys() <= asked:
            found[each.run] = each
    return list(found.values())


def note_confounded(candidates: Sequence[Candidate]) -> None:
    """Tell every sibling of factors that only change at once. That stops nothing: to hold one whole recipe
    against another is a question as well; it is what may be concluded that is less.
    """
    entries = entries_of(candidates)
    factors = factors_of(entries)
    for together in confounded(factors, entries):
        finding = confounded_finding(together, factors, entries)
        for one in candidates:
            one.findings.append(finding)


def missing(candidates: Sequence[Candidate]) -> list[Cell]:
    """The siblings that ``fanout.complete=true`` adds."""
    entries = entries_of(candidates)
    factors = factors_of(entries)
    cells = (
        cell
        for together in confounded(factors, entries)
        for cell in missing_cells(together, factors, entries)
    )
    return list(cells)


def plan_looks(candidates: Sequence[Candidate]) -> None:
    """Say when each sibling's weights are looked at: one step after what was changed begins to show.

    A control looks whenever one of the others does, so that there is something to hold them against.
    """
    planned = [(one, one.plan) for one in candidates if one.plan is not None and one.plan.kind == "branch"]
    every: set[int] = set()
    for one, plan in planned:
        # Of one that goes on it is not known any more, and it is past that step most often.
        begins = effect_begins(plan) if one.wanted else None
        if plan.branch_type not in {"control", "stream"} and begins is not None:
            one.looks = [min(begins + 1, plan.steps)]
            every.update(one.looks)
    for one, plan in planned:
        if plan.branch_type in {"control", "stream"}:
            one.looks = sorted(step for step in every if step <= plan.steps)
