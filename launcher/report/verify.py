"""The proof that a control is exact: digests and metrics of both runs, at every step they share.

Evidence comes from files only: the digests in the manifests, the digest of what the control was
restored to, and the metrics with the digests of batches and of the RNG that stand beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from launcher.checkpoint.difference import differing
from launcher.checkpoint.manifest import Content, Manifest, read_manifest, read_manifest_file
from launcher.checkpoint.store import checkpoints, step_of
from launcher.errors import ConfigError, UnknownRun
from launcher.lineage import Parent, Run, find_run, read_run
from launcher.trackers.metrics_file import read_metrics

CAUSES = ("data", "rng", "scheduler", "optimizer", "model")
"""Components from cause to consequence: of several that diverge at one step, the first one is named."""

_COMPONENT = {
    "progress": "data",
    "step": "data",
    "task": "data",
    "data_state": "data",
    "rng_state": "rng",
    "rng_state_of_ranks": "rng",
    "scheduler_state_dict": "scheduler",
    "optimizer_state_dict": "optimizer",
    "scaler_state_dict": "optimizer",
    "fresh": "optimizer",
    "model_state_dict": "model",
}
_LOGGED = {"digest/batch": "data", "digest/rng": "rng", "train/learning_rate": "scheduler"}
_NUMBERING = ("step", "progress")


@dataclass(frozen=True)
class Divergence:
    """Where a run first left its trunk."""

    component: str
    """One of :data:`CAUSES`."""
    step: int
    """In the trunk's numbering."""
    evidence: str
    """``restored state``, ``metrics`` or ``checkpoint``."""
    what: str
    """The tensor, the metric or the value that differs."""
    found: str
    expected: str


@dataclass(frozen=True)
class Verdict:
    """What came of holding a control against its trunk."""

    run: str
    trunk: str
    """What it was held against."""
    exact: bool
    from_step: int
    checkpoint_steps: list[int]
    """Steps at which both have a checkpoint; the branch point itself stands for the restored state."""
    metric_lines: int
    """How many logged steps were compared, in every metric."""
    divergence: Divergence | None
    twin: bool = False
    """Whether ``trunk`` is the control itself, run once more: it shares no step with its trunk."""

    def to_json(self) -> dict[str, Any]:
        """The verdict as a JSON object."""
        return asdict(self)


def verify(run: Run) -> Verdict:
    """Hold a control against its trunk, or, where that went no further, against itself, run once more.

    Raises:
        ConfigError: the run is no control, or there is nothing to compare.
        LauncherError: a record, a manifest or the metrics cannot be read.
    """
    parent = run.record.parent
    if parent is None or run.record.branch_type != "control":
        raise ConfigError(
            f"{run.id} is not a control, so it is not meant to equal anything.",
            found=f"{run.record.branch_type or run.record.kind}; differs in "
            f"{', '.join(run.record.differences) or 'how it was restored'}",
            expected="a branch in which nothing was changed",
            do=f"branch one: python train.py branch.from_run={parent.run if parent else run.id} "
            f"branch.from_step={parent.step if parent else 'N'}",
        )
    offset = parent.step - run.record.start_step
    others = _others(run, parent, offset)
    for other, shift in others:
        lines = _common_lines(other, shift, run, offset)
        manifests = _common_manifests(other, shift, run, offset)
        if lines or manifests:
            break
    else:
        raise ConfigError(
            f"{run.id} and {others[0][0].id} share no step that was logged or saved.",
            found="; ".join(f"{other.id} ended at step {other.record.step}" for other, _ in others),
            expected=f"steps after {parent.step}",
            do="let both train on, or run the control twice: fanout.control=true launches its twin as well",
        )
    trunk = next((one for one, _ in others if one.id == parent.run), None)
    events = [
        *(_restored(run, trunk, parent.step) if trunk is not None else ()),
        *_metrics(lines, _equal_states(manifests)),
        *_checkpoints(manifests, offset != shift),
    ]
    first = min(events, key=_order, default=None)
    return Verdict(
        run=run.id,
        trunk=other.id,
        exact=first is None,
        from_step=parent.step,
        checkpoint_steps=sorted(manifests),
        metric_lines=len(lines),
        divergence=first,
        twin=other is not trunk,
    )


def _others(run: Run, parent: Parent, offset: int) -> list[tuple[Run, int]]:
    """What a control can be held against: its trunk, else the control that was run once more.

    Each with what has to be added to its steps to have them in the trunk's numbering.

    Raises:
        UnknownRun: there is neither.
        ConfigError: there is neither, and the trunk was never a run of the launcher's.
    """
    again = [
        other
        for path in sorted(run.directory.path.parent.glob("*/run.json"))
        if run.record.signature in path.parent.name
        and path.parent != run.directory.path
        and (other := read_run(path.parent)).record.signature == run.record.signature
    ]
    twins = [(other, offset) for other in again]
    if parent.run is None and not twins:
        raise ConfigError(
            f"The trunk of {run.id} is no run of the launcher, so there is nothing to hold it against.",
            where=parent.checkpoint,
            found=f"a checkpoint of {parent.format}; it lacked: {', '.join(parent.missing) or 'nothing'}",
            do="run the control twice: fanout.control=true launches its twin as well",
        )
    if parent.run is None:
        return twins
    try:
        return [(find_run(run.directory.path.parent.parent, parent.run), 0), *twins]
    except UnknownRun:
        if not twins:
            raise
        return twins


def _order(event: Divergence) -> tuple[int, bool, int]:
    """Earlier first; at one step, what was seen before what a metric only points to; then causes."""
    inferred = event.evidence == "metrics" and event.what not in _LOGGED
    return event.step, inferred, CAUSES.index(event.component)


def _restored(run: Run, trunk: Run, step: int) -> Iterator[Divergence]:
    """What the control was restored to, against the branch point."""
    if not run.directory.restored.is_file():
        return
    restored = read_manifest_file(run.directory.restored)
    saved = next((one for one in checkpoints(trunk.directory.checkpoints) if step_of(one) == step), None)
    if saved is not None:
        renumbered = run.record.start_step != step
        yield from _contents(restored, read_manifest(saved), step, "restored state", renumbered)


def _checkpoints(
    manifests: Mapping[int, tuple[Manifest, Manifest]], renumbered: bool
) -> Iterator[Divergence]:
    for step, (theirs, own) in sorted(manifests.items()):
        yield from _contents(own, theirs, step, "checkpoint", renumbered)


def _contents(
    own: Manifest, theirs: Manifest, step: int, evidence: str, renumbered: bool
) -> Iterator[Divergence]:
    difference = differing(theirs.content, own.content)
    for name in difference.components:
        if renumbered and name in _NUMBERING:
            continue
        tensor = next((one.name for one in difference.tensors if one.name.startswith(f"{name}.")), None)
        yield Divergence(
            component=_COMPONENT.get(name, "model"),
            step=step,
            evidence=evidence,
            what=tensor or name,
            found=_digest(own.content, tensor, name),
            expected=_digest(theirs.content, tensor, name),
        )


def _digest(content: Content, tensor: str | None, component: str) -> str:
    digests = {entry.name: entry.digest for entry in content.tensors}
    return (digests.get(tensor, "absent") if tensor else content.components.get(component, "absent"))[:16]


def _equal_states(manifests: Mapping[int, tuple[Manifest, Manifest]]) -> set[int]:
    return {
        step
        for step, (theirs, own) in manifests.items()
        if not set(differing(theirs.content, own.content).components) - set(_NUMBERING)
    }


def _metrics(
    lines: Mapping[int, tuple[Mapping[str, Any], Mapping[str, Any]]], equal_states: set[int]
) -> Iterator[Divergence]:
    """The first logged step at which anything differs, with the component that it points to."""
    before: int | None = None
    for step, (theirs, own) in sorted(lines.items()):
        names = [
            name for name in theirs if name in own and "/" in name and not _same(theirs[name], own[name])
        ]
        if not names:
            before = step
            continue
        for name in names:
            component = _LOGGED.get(name) or _blamed(step, before, equal_states)
            yield Divergence(component, step, "metrics", name, str(own[name]), str(theirs[name]))
        return


def _blamed(step: int, last_equal: int | None, equal_states: set[int]) -> str:
    """Which component a metric points to that differs although batch, RNG and learning rate do not.

    If the very step before had equal metrics, its gradient was equal too, and only the optimizer can
    have made different weights of it; unless a checkpoint shows that the weights are equal.
    """
    return "optimizer" if last_equal == step - 1 and last_equal not in equal_states else "model"


def _same(left: Any, right: Any) -> bool:
    return repr(left) == repr(right)


def _common_lines(
    other: Run, shift: int, run: Run, offset: int
) -> dict[int, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    theirs = {int(line["global_step"]) + shift: line for line in read_metrics(other.directory.metrics)}
    own = {int(line["global_step"]) + offset: line for line in read_metrics(run.directory.metrics)}
    return {step: (theirs[step], own[step]) for step in theirs.keys() & own.keys()}


def _common_manifests(other: Run, shift: int, run: Run, offset: int) -> dict[int, tuple[Manifest, Manifest]]:
    theirs = {step_of(path) + shift: path for path in checkpoints(other.directory.checkpoints)}
    own = {step_of(path) + offset: path for path in checkpoints(run.directory.checkpoints)}
    return {
        step: (read_manifest(theirs[step]), read_manifest(own[step])) for step in theirs.keys() & own.keys()
    }
