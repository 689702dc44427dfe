"""``launcher compare``: a set of runs, held against its baseline in every metric."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launcher.errors import ConfigError, LauncherError
from launcher.findings import Finding
from launcher.ledger.factors import Factor
from launcher.ledger.ledger import ledger
from launcher.ledger.no_effect import NO_EFFECT, Idle, without_effect
from launcher.lineage import Parent, Run
from launcher.report.compare.aligned import WINDOW, Aligned, Source, align, measured
from launcher.report.compare.arms import Arm
from launcher.report.compare.expectation import Answer, Expectation, answer, arms_meant, read_expectation
from launcher.report.compare.factorial import effects, factorial_of
from launcher.report.compare.selection import Selection, select
from launcher.report.compare.statistics import LEVEL
from launcher.report.compare.uneven import uneven_runs
from launcher.report.compare.verdict import NOISE, Row, baseline_row, hold, judged
from launcher.report.verify import verify

HIDDEN = ("train/gradient_norm", "train/learning_rate")
"""Metrics that tell how a run trains and not how good it is; compared when they are named."""
_AT = re.compile(r"(\+?)(\d+)")


@dataclass(frozen=True)
class Asked:
    """What a comparison is asked for."""

    metrics: Sequence[str] = ()
    """None: those of validation, or all where there are none."""
    at: str | None = None
    """Step in the trunk's numbering, or ``+N``: steps since the branch point. None: where the runs end."""
    smooth: int = 1
    """Logged values that a value is the mean of, up to the step."""
    baseline: str | None = None
    """Arm or run to compare with; None: the control, else what the runs name themselves."""
    expect: Sequence[str] = ()
    """See :mod:`launcher.report.compare.expectation`."""


@dataclass(frozen=True)
class Proof:
    """Whether the control continues the trunk bit for bit."""

    exact: bool | None
    """None: it could not be found out."""
    run: str | None
    text: str


@dataclass(frozen=True)
class ArmFacts:
    """One arm, as it is shown."""

    name: str
    baseline: bool
    factors: dict[str, list[Any]]
    """Dotted key to [the trunk's value, the own value]."""
    runs: dict[int, str]
    """Stream to run id."""
    states: dict[int, str]
    no_effect: str | None = None
    """What shows that its factors changed nothing in what is computed; None: they did, as far as is known."""


@dataclass(frozen=True)
class Comparison:
    """The answer, whole. Plain values: :func:`dataclasses.asdict` gives JSON."""

    group: str | None
    baseline: str
    branch_point: dict[str, Any] | None
    """``run``, ``step``, ``sha256``, and ``name``, which a checkpoint of another program has as well; None
    where the runs have no common one."""
    proof: Proof
    arms: list[ArmFacts]
    rows: list[Row]
    """The baseline's first, then arm by arm, in the order of the metrics."""
    missing: list[str]
    """Why the set is incomplete; empty if it is whole."""
    notes: list[str]
    smooth: int
    """Logged values that each value is the mean of."""
    level: float
    """What the verdicts keep together."""
    comparisons: int
    """Rows that have an interval."""
    corrected: bool
    """Whether levels were corrected for their number."""
    factors: list[Factor]
    """In what the arms differ on purpose."""
    findings: list[Finding]
    """In what else they differ; and factors that cannot be told apart."""
    effects: list[Row]
    """Main effects and interactions, where the arms are a full factorial; ``arm`` is the effect's name."""
    effects_corrected: bool
    expectations: list[Answer]

    @property
    def holds(self) -> bool:
        """Whether everything that was expected is so."""
        return all(one.holds for one in self.expectations)

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON object."""
        return asdict(self)


def compare(outputs: Path, names: Sequence[str], asked: Asked) -> Comparison:
    """Compare the runs that ``names`` mean.

    Raises:
        LauncherError: a name, a metric or a step means nothing here, or a file cannot be read.
    """
    selection = select(outputs, names, asked.baseline)
    expected = [read_expectation(text) for text in asked.expect]
    called = [(one, *arms_meant(one, selection.all_arms)) for one in expected]
    point = _point(selection.arms)
    sources = _sources(selection, asked.smooth, called)
    shown = _metrics(sources, asked.metrics)
    read = list(dict.fromkeys([*shown, *_known(sources, [one.metric for one in expected])]))
    aligned = align(sources, read, _steps_since(asked.at, point, selection))
    apart, shortened = uneven_runs(aligned, shown, {one.run.id: one.run for one in sources})
    missing = [*selection.missing, *_short(selection, aligned, shown), *apart]
    held = [hold(arm, selection.baseline, metric, aligned, asked.smooth)
            for arm in selection.arms for metric in shown]  # fmt: skip
    rows, corrected = judged(held, complete=not missing)
    runs = [run for arm in selection.all_arms for run in arm.runs.values()]
    book, idle = ledger(runs), without_effect(runs)
    design = factorial_of(book.factors, selection.all_arms, selection.baseline)
    shown_effects, effects_corrected = (
        effects(design, shown, aligned, asked.smooth, complete=not missing) if design else ([], False)
    )
    return Comparison(
        group=selection.group,
        baseline=selection.baseline.name,
        branch_point=_told(point) if point else None,
        proof=_proof(selection),
        arms=[_facts(arm, selection, idle) for arm in selection.all_arms],
        rows=[
            *(baseline_row(selection.baseline, metric, aligned, asked.smooth) for metric in shown),
            *_said(rows, selection, idle),
        ],
        missing=missing,
        notes=[*selection.notes, *shortened],
        smooth=asked.smooth,
        level=LEVEL,
        comparisons=sum(one.estimate is not None for one in held),
        corrected=corrected,
        factors=book.factors,
        findings=book.findings,
        effects=shown_effects,
        effects_corrected=effects_corrected,
        expectations=_answers(called, aligned, asked.smooth, missing),
    )


def _answers(
    called: Sequence[tuple[Expectation, Arm, Arm]], aligned: Aligned, smooth: int, missing: Sequence[str]
) -> list[Answer]:
    """Expectations were there before the data: they are a family of their own."""
    held = [hold(arm, other, one.metric, aligned, smooth) for one, arm, other in called]
    rows, _ = judged(held, complete=not missing)
    return [answer(one, row, missing) for (one, _, _), row in zip(called, rows, strict=True)]


def _sources(
    selection: Selection, smooth: int, called: Sequence[tuple[Expectation, Arm, Arm]]
) -> list[Source]:
    """The runs to read; a whole window only of those that have no more than one stream to be paired in."""
    against = [(arm, selection.baseline) for arm in selection.arms] + [(one, two) for _, one, two in called]
    long: set[str] = set()
    for pair in against:
        streams = pair[0].runs.keys() & pair[1].runs.keys()
        if len(streams) == 1:
            long.update(arm.runs[stream].id for arm in pair for stream in streams)
    return [
        Source(
            run, selection.states[run.id], arm.numbering, max(smooth, WINDOW) if run.id in long else smooth
        )
        for arm in selection.all_arms
        for run in arm.runs.values()
    ]


def _metrics(sources: Sequence[Source], named: Sequence[str]) -> list[str]:
    if named:
        return _known(sources, named)
    every = [name for name in measured(sources) if name not in HIDDEN and "/" in name]
    return [name for name in every if name.startswith("val/")] or every


def _known(sources: Sequence[Source], named: Sequence[str]) -> list[str]:
    """The named metrics.

    Raises:
        ConfigError: no run has one of them.
    """
    there = measured(sources)
    unknown = [name for name in named if name not in there]
    # Runs under way have metrics that their records do not tell yet.
    if unknown and all(one.state in {"finished", "failed"} for one in sources):
        raise ConfigError(
            f"No run has the metric {unknown[0]!r}.", found=", ".join(there) or "no metrics", where="--metric"
        )
    return list(dict.fromkeys(named))


def _point(arms: Sequence[Arm]) -> Parent | None:
    """The branch point that all share."""
    parents = {
        run.record.parent.sha256: run.record.parent
        for arm in arms
        for run in arm.runs.values()
        if run.record.parent is not None
    }
    return next(iter(parents.values())) if len(parents) == 1 else None


def _told(point: Parent) -> dict[str, Any]:
    return {"run": point.run, "step": point.step, "sha256": point.sha256, "name": point.name}


def _steps_since(at: str | None, point: Parent | None, selection: Selection) -> int | None:
    if at is None:
        return None
    match = _AT.fullmatch(at)
    since = None
    if match is not None:
        since = int(match[2]) if match[1] else int(match[2]) - point.step if point else None
    if since is None or since <= 0:
        raise ConfigError(
            "That is no step to compare at.",
            found=f"--at {at}",
            expected=f"a step after {point.step}, the branch point"
            if point
            else "+N: steps since the branch",
            do="--at +500 counts from the branch point",
        )
    records = [run.record for arm in selection.all_arms for run in arm.runs.values()]
    furthest = max(record.end_step - record.start_step for record in records)
    if since > furthest:
        raise ConfigError(
            "No run goes so far.",
            found=f"--at {at}",
            expected=f"at most +{furthest}: {furthest} steps since the branch",
            do="leave --at out to compare where the runs end",
        )
    return since


def _short(selection: Selection, aligned: Aligned, metrics: Sequence[str]) -> list[str]:
    """Runs that have not come to where the others are compared. One that failed is told already."""
    short = []
    for arm in selection.all_arms:
        for run in arm.runs.values():
            state = selection.states[run.id]
            lacking = [metric for metric in metrics if aligned.value(metric, run.id) is None]
            # Early on nobody has a metric on record, and nobody has come anywhere.
            if (lacking or not metrics) and state not in {"failed", "finished"}:
                short.append(f"{run.id} is {state} at step {run.record.step} of {run.record.end_step}")
    return short


def _proof(selection: Selection) -> Proof:
    """What holding the controls of stream 0 against their trunk gives: of several, one that is not exact."""
    controls = [arm.runs[0] for arm in selection.all_arms if arm.is_control and 0 in arm.runs]
    if not controls and selection.baseline.is_unchanged:
        why = "has no factor, but takes over less than all of its trunk (branch.restore, branch.reset)"
        return Proof(None, None, f"{selection.baseline.name} {why}")
    if not controls:
        return Proof(None, None, "no control of stream 0 among the runs: fanout.control=true")
    proofs = [_proved(control) for control in controls]
    return next((one for one in proofs if one.exact is False), proofs[0])


def _proved(control: Run) -> Proof:
    try:
        verdict = verify(control)
    except LauncherError as error:
        return Proof(None, control.id, error.what)
    if verdict.exact:
        lines, saved = verdict.metric_lines, len(verdict.checkpoint_steps)
        seen = f"{lines} logged step{'s' * (lines != 1)}, {saved or 'no'} checkpoint{'s' * (saved != 1)}"
        twin = ", its twin: the trunk has no step that both logged or saved" if verdict.twin else ""
        return Proof(True, control.id, f"{control.id} is {verdict.trunk} bit for bit ({seen}){twin}")
    first = verdict.divergence
    assert first is not None
    return Proof(
        False, control.id, f"{control.id} leaves {verdict.trunk} at step {first.step}, in {first.component}"
    )


def _said(rows: Sequence[Row], selection: Selection, idle: Mapping[str, Idle]) -> list[Row]:
    """The rows as they are; of an arm that computed what the baseline did, with that for a verdict."""
    baselines = {run.id for run in selection.baseline.runs.values()}
    without = {
        arm.name
        for arm in selection.arms
        if any(run.id in idle and idle[run.id].other in baselines for run in arm.runs.values())
    }
    return [
        replace(row, verdict=NO_EFFECT) if row.arm in without and row.verdict == NOISE else row
        for row in rows
    ]


def _facts(arm: Arm, selection: Selection, idle: Mapping[str, Idle]) -> ArmFacts:
    runs: Mapping[int, Run] = dict(sorted(arm.runs.items()))
    return ArmFacts(
        name=arm.name,
        baseline=arm is selection.baseline,
        factors=arm.factors,
        runs={stream: run.id for stream, run in runs.items()},
        states={stream: selection.states[run.id] for stream, run in runs.items()},
        no_effect=next((str(idle[run.id]) for run in runs.values() if run.id in idle), None),
    )
