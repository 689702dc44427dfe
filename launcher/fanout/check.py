"""Everything that can be found out about siblings before the first of them is launched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.branch.declared import Declared
from launcher.branch.effect import build_task
from launcher.branch.naming import repeated
from launcher.branch.plan import Plan, plan
from launcher.branch.preflight import changed_data, preflight, siblings_of
from launcher.branch.resolve import BranchPoint, cache_of, resolve
from launcher.checkpoint.manifest import read_manifest
from launcher.checkpoint.store import checkpoints
from launcher.config import BranchConfig, Config
from launcher.errors import BranchPointUnavailable, LauncherError, UndeclaredDifference
from launcher.fanout.status import UNDER_WAY, Status, jobs_of, status_of
from launcher.files import canonical_json
from launcher.findings import Finding, errors, finding_of
from launcher.launchers.jobs.snapshot import script_directory
from launcher.ledger.code import code_of
from launcher.ledger.entry import Entry, entry_of
from launcher.lineage import Run, read_runs
from launcher.training.device import choose_device, environment


@dataclass
class Candidate:
    """One sibling on its way to being launched."""

    overrides: tuple[str, ...]
    """As typed and swept."""
    swept: tuple[str, ...]
    """Those of them in which it differs from its siblings."""
    config: Config | None = None
    declared: Declared = field(default_factory=Declared)
    plan: Plan | None = None
    findings: list[Finding] = field(default_factory=list)
    settle: tuple[str, ...] = ()
    """The overrides without which it differs from its trunk in something that nobody typed."""
    beside: Sequence[Entry] = ()
    """The runs of its group that it was held against."""
    looks: list[int] = field(default_factory=list)
    """Steps since the branch point after which a digest of the weights tells whether it has an effect."""
    there: Status = field(default_factory=lambda: Status("", "", "", "new"))

    @property
    def name(self) -> str:
        """What tables call it: its id, or what was typed while it has none."""
        return self.plan.id if self.plan is not None else " ".join(self.swept) or "the sibling"

    @property
    def good(self) -> bool:
        """Whether nothing stops it."""
        return self.plan is not None and not errors(self.findings)

    @property
    def wanted(self) -> bool:
        """Whether it is to be launched: nothing stops it, and it is neither finished nor under way."""
        return self.good and self.there.state not in {"finished", *UNDER_WAY}


def check(candidates: Sequence[Candidate], remote: bool) -> list[Candidate]:
    """Plan and check every candidate; what is found stands in each.

    Returns all of them, without a control that was asked for beside one that is among the siblings.

    Args:
        candidates: composed, or with a finding that says why not.
        remote: whether they run on other machines, whose devices and threads cannot be seen from here.
    """
    points = _Points()
    runs: dict[str, list[Run]] = {}
    code = code_of(script_directory())
    for one in candidates:
        if one.config is None:
            continue
        try:
            outputs = one.config.paths.outputs
            if outputs not in runs:
                runs[outputs], _ = read_runs(Path(outputs))
            one.plan = plan(one.config, one.declared, point=points.of(one.config, one.declared))
            one.config = one.plan.config
        except LauncherError as error:
            one.findings.append(finding_of(error))
            one.settle = error.settle if isinstance(error, UndeclaredDifference) else ()
    jobs = jobs_of(one.plan.directory for one in candidates if one.plan is not None)
    groups: dict[tuple[str, str], list[Entry]] = {}
    for one in candidates:
        if one.plan is None:
            continue
        try:
            one.there = status_of(one.plan.directory, jobs)
            place = (one.plan.config.paths.outputs, one.plan.group)
            if place not in groups:
                groups[place] = _group(one.plan, runs[place[0]])
            one.beside = groups[place]
            one.findings += _findings(one, runs[place[0]], remote, code)
        except LauncherError as error:
            one.findings.append(finding_of(error))
    return without_doubles(candidates)


def without_doubles(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The siblings, each run of which is there once.

    A control or a twin that was added gives way to a sibling that is that very run. Where the trunk's own
    settings are not known it is the other way round: the sibling would be called after what was typed, and
    only the run that is called a control is one. Of two that were typed the second has a finding.
    """
    kept: list[Candidate] = []
    first: dict[tuple[Path, str], Candidate] = {}
    for one in candidates:
        if one.plan is None:
            kept.append(one)
            continue
        run = one.plan.directory.path.parent.resolve(), repeated(one.plan.signature, one.plan.config)
        there = first.setdefault(run, one)
        if there is one:
            kept.append(one)
        elif one.swept and there.swept:
            if (finding := _equal(there, one)) not in one.findings:
                one.findings.append(finding)
            kept.append(one)
        elif one.swept or there.swept:
            added, typed = (there, one) if one.swept else (one, there)
            stays, goes = (typed, added) if typed.name == added.name else (added, typed)
            if stays is added:
                found = f"is what the config files say without it, and is {stays.name}"
                stays.findings.append(Finding("note", " ".join(typed.swept), found))
            first[run] = stays
            kept = [each for each in kept if each is not goes] + ([] if goes is one else [one])
    return kept


def _group(planned: Plan, runs: list[Run]) -> list[Entry]:
    """The runs of a sibling's group that it is held against: those that wait as well."""
    queued = [run for run in runs if run.record.group == planned.group and run.record.state == "queued"]
    jobs = jobs_of(run.directory for run in queued)
    waiting = [run for run in queued if status_of(run.directory, jobs).state in UNDER_WAY]
    return [*siblings_of(planned, runs), *(entry_of(run.record) for run in waiting)]


def _findings(one: Candidate, runs: list[Run], remote: bool, code: str | None) -> list[Finding]:
    planned, there = one.plan, one.there
    assert planned is not None
    if there.state in UNDER_WAY:
        return []
    own = checkpoints(planned.directory.checkpoints)
    if own or there.state == "finished":
        fingerprint = build_task(planned.config).fingerprint()
        return changed_data(read_manifest(own[-1]), fingerprint) if own else []
    if planned.kind == "branch" and planned.point is None:
        return [Finding("error", "branch", planned.unavailable or "", "a branch point", "bring it back")]
    seen: Mapping[str, Any] = {} if remote else environment(choose_device(planned.config.device))
    if planned.config.threads is not None or remote:
        # Set when the run starts, not here.
        seen = {key: value for key, value in seen.items() if key != "threads"}
    return preflight(planned, {**seen, **({"code": code} if code else {})}, runs, one.beside)


def _equal(first: Candidate, second: Candidate) -> Finding:
    """Two siblings that are one run."""
    found = f"{' '.join(first.swept)} and {' '.join(second.swept)} are both {first.name}"
    return Finding(
        "error", "siblings", found, "siblings that differ in what they compute", "drop one of them"
    )


class _Points:
    """Branch points, each resolved once: what ``latest`` means cannot change between two siblings."""

    def __init__(self) -> None:
        self._known: dict[bytes, BranchPoint | BranchPointUnavailable] = {}

    def of(self, config: Config, declared: Declared) -> BranchPoint | BranchPointUnavailable | None:
        """The branch point of a sibling, or why it cannot be had; None where it has none."""
        branch = config.branch
        if not branch.asked:
            return None
        key = _place(branch, config.paths.outputs)
        if key not in self._known:
            try:
                outputs, cache = Path(config.paths.outputs), cache_of(config.paths)
                self._known[key] = resolve(branch, outputs, declared.overrides, cache)
            except BranchPointUnavailable as error:
                self._known[key] = error
        # What a failure means for this sibling, the plan finds out: it may go on from its own checkpoint.
        return self._known[key]


def _place(branch: BranchConfig, outputs: str) -> bytes:
    named = (
        branch.from_step,
        branch.from_run,
        branch.from_checkpoint,
        branch.mirrors,
        branch.sha256,
        branch.name,
        branch.allow_globals,
    )
    return canonical_json([*named, outputs])
