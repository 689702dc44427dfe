"""What is said of runs that keep the others from being compared where these end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.lineage import Run
from launcher.report.compare.aligned import Aligned, Uneven

_MOST_NAMED = 4
"""Runs, or metrics, that one sentence names."""


def uneven_runs(
    aligned: Aligned, metrics: Sequence[str], runs: Mapping[str, Run]
) -> tuple[list[str], list[str]]:
    """Why the set is incomplete, and what else is to be known: each thing once for all metrics.

    Args:
        aligned: what is compared.
        metrics: those that are shown.
        runs: by id, all that are compared.
    """
    alike: dict[tuple[object, ...], tuple[Uneven, list[str]]] = {}
    for metric in metrics:
        if (one := aligned.uneven.get(metric)) is not None:
            key = (one.step, tuple(sorted(one.last.items())), one.furthest, one.left_out)
            alike.setdefault(key, (one, []))[1].append(metric)
    missing: list[str] = []
    notes: list[str] = []
    for one, having in alike.values():
        said = f"{_sentence(one, having)}; {_what_to_do(one, runs)}"
        (missing if one.left_out else notes).append(said)
    return missing, notes


def _sentence(one: Uneven, metrics: Sequence[str]) -> str:
    what, who = _some(metrics), _some([f"{run} (up to +{last})" for run, last in one.last.items()])
    if not one.left_out:
        return f"compared at +{one.step}, as {who} measured {what} no further, others up to +{one.furthest}"
    if one.step is None:
        return f"no step at which more than a half measured {what}: {who}"
    return f"{who} measured {what} at no step that the others share, which are compared at +{one.step}"


def _what_to_do(one: Uneven, runs: Mapping[str, Run]) -> str:
    if any(runs[run].record.kind != "branch" for run in one.last):
        return "its own continuation goes as far as the others: fanout.control=true"
    branches = (run for run in runs.values() if run.record.kind == "branch")
    lengths = {run.id: run.record.end_step - run.record.start_step for run in branches}
    others = [length for run, length in lengths.items() if run not in one.last] or [*lengths.values(), 0]
    usual = max(others, key=lambda length: (others.count(length), length))
    odd = sorted({lengths.get(run, usual) for run in one.last} - {usual})
    if odd:
        takes = f"{', '.join(map(str, odd))} steps and not {usual}"
        return (
            f"it takes {takes}: launch it with branch.steps={usual}, or name the other runs to leave it out"
        )
    return "have all measure at the same steps (training.validate_every, training.log_every)"


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + rest
