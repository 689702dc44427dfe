"""The question of a group and what came of it, each in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.ledger.no_effect import NO_EFFECT
from launcher.report.compare.tables import signed, step_of
from launcher.report.compare.verdict import BASELINE, BETTER, INCOMPLETE, NOISE, WORSE, Row
from launcher.report.group import Group

Tone = Literal["better", "worse", "noise", "open"]
MOST_NAMED = 3
"""Arms of one verdict that a sentence names."""


@dataclass(frozen=True)
class Answer:
    """What stands at the head of a report."""

    question: str
    tone: Tone
    """How the sentence is coloured; ``open``: there is no answer."""
    sentence: str


def answer(group: Group) -> Answer:
    """Question and answer, on the primary metric."""
    tone, sentence = _sentence(group)
    if tone != "open" and not {"queued", "running"}.isdisjoint(group.states.values()):
        # Whoever stops at the first look that pleases finds effects in noise.
        sentence = f"So far, with runs still under way: {sentence}"
    return Answer(question(group), tone, sentence)


def question(group: Group) -> str:
    """In the user's words, where all runs have the same notes; else made from what was changed."""
    notes = {run.record.notes for run in group.runs if run.record.kind != "trunk"}
    if len(notes) == 1 and (note := notes.pop()):
        return note
    if _began_from_nothing(group):
        return "How did these runs go?"
    point = group.point
    place = f" from step {spaced(point.step)} of {point.run or 'its checkpoint'}" if point else ""
    changed = [arm for arm in group.arms if not arm.baseline]
    keys = _changed(group)
    if not changed or not keys:
        return f"What comes of going on unchanged{place}?"
    what = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
    if len(keys) > MOST_NAMED:
        what = f"{keys[0]} and {len(keys) - 1} other settings"
    metric = f" move {group.primary}" if group.primary else " matter"
    return f"{'Does' if len(keys) == 1 else 'Do'} {what}{metric}{place}?"


def _began_from_nothing(group: Group) -> bool:
    return all(run.record.parent is None for run in group.runs)


def _changed(group: Group) -> list[str]:
    """Factors by their names; what is changed in all arms alike is none, and has keys only."""
    comparison = group.comparison
    if comparison is None:
        return list(dict.fromkeys(key for run in group.runs for key in run.record.differences))
    keys = dict.fromkeys(key for arm in comparison.arms if not arm.baseline for key in arm.factors)
    return [one.name for one in comparison.factors] or list(keys)


def _sentence(group: Group) -> tuple[Tone, str]:
    comparison = group.comparison
    if _began_from_nothing(group) and comparison is None:
        return "open", "These runs began from nothing, so there is no control to hold them against."
    if comparison is None:
        return "open", f"There is no answer yet: {_lower(group.problems[-1])}"
    if comparison.missing:
        more = len(comparison.missing) - 1
        return "open", (
            f"No arm can be called better or worse, because the set is incomplete: "
            f"{comparison.missing[0].rstrip('.')}"
            f"{f' (and {more} more)' if more else ''}."
        )
    rows = [row for row in comparison.rows if row.metric == group.primary and row.verdict != BASELINE]
    if len(rows) == 1:
        return _of_one(rows[0], comparison.baseline, step_of(rows[0], comparison))
    return _of_several(rows, comparison.baseline, group.primary or "")


def _of_one(row: Row, baseline: str, step: int | None) -> tuple[Tone, str]:
    at = f" at step {spaced(step)}" if step is not None else ""
    size = f"by {signed(row.difference)}{at} ({_interval(row)})"
    if row.verdict == BETTER:
        return "better", f"{row.arm} is better than {baseline} on {row.metric}, {size}{_weaker(row)}."
    if row.verdict == WORSE:
        return "worse", f"{row.arm} is worse than {baseline} on {row.metric}, {size}{_weaker(row)}."
    if row.verdict == NOISE:
        told = f"cannot be told from {baseline} on {row.metric}"
        why = f"a difference of {signed(row.difference)}{at} lies inside the noise"
        return "noise", f"{row.arm} {told}: {why}{f' ({_interval(row)})' if row.low is not None else ''}."
    if row.verdict == NO_EFFECT:
        return (
            "open",
            f"What was changed in {row.arm} had no effect: it computed what {baseline} did, to the last bit.",
        )
    if row.verdict == INCOMPLETE:
        return "open", f"There is no answer yet on {row.metric}: {row.note or 'a value is missing'}."
    return (
        "open",
        f"{row.arm} differs from {baseline} on {row.metric}, {size}; nobody said which way is better.",
    )


def _of_several(rows: Sequence[Row], baseline: str, metric: str) -> tuple[Tone, str]:
    parts = []
    for verdict, one, more in (
        (BETTER, "is better than", "are better than"),
        (WORSE, "is worse than", "are worse than"),
        (NOISE, "cannot be told from", "cannot be told from"),
        (NO_EFFECT, "computed the same as", "computed the same as"),
    ):
        there = [row for row in rows if row.verdict == verdict]
        if there:
            there.sort(key=lambda row: -abs(row.difference or 0.0))
            words = one if len(there) == 1 else more
            parts.append(f"{_named(there, verdict in {BETTER, WORSE})} {words} {baseline}")
    without = sum(row.verdict not in {BETTER, WORSE, NOISE, NO_EFFECT} for row in rows)
    if without:
        parts.append(f"{without} of {len(rows)} arms {'has' if without == 1 else 'have'} no verdict")
    if not parts:
        where = f" on {metric}" if metric else ""
        return "open", f"There is no answer{where}: nothing was held against {baseline}."
    verdicts = {row.verdict for row in rows}
    tone: Tone = (
        "better"
        if BETTER in verdicts
        else "worse"
        if WORSE in verdicts
        else "noise"
        if NOISE in verdicts
        else "open"
    )
    weak = ", in one stream only" if any(row.weaker and row.low is not None for row in rows) else ""
    return tone, f"On {metric}, {'; '.join(parts)}{weak}."


def _named(rows: Sequence[Row], sized: bool) -> str:
    names = [f"{row.arm} ({signed(row.difference)})" if sized else row.arm for row in rows[:MOST_NAMED]]
    if len(rows) > MOST_NAMED:
        return f"{len(rows)} arms, first of all {names[0]}," if sized else f"{len(rows)} arms"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _interval(row: Row) -> str:
    level = f"{100 * (1 - (row.level or 0)):.4g} % interval {signed(row.low)} to {signed(row.high)}"
    over = f"{row.steps} logged steps" if row.weaker else f"{len(row.streams)} streams"
    return f"{level}, {over}"


def _weaker(row: Row) -> str:
    return ", in one stream only: another one may show something else" if row.weaker else ""


def spaced(step: int) -> str:
    """``15 000``, with a space that no line breaks at."""
    return f"{step:,}".replace(",", "\N{NO-BREAK SPACE}")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
