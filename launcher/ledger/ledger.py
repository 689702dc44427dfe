"""The ledger of a set of siblings: differences that somebody chose are factors, all others are findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launcher.findings import Finding
from launcher.ledger.entry import Entry, arms_of, entry_of, kind_of
from launcher.ledger.factors import Factor, confounded, confounded_finding, factors_of
from launcher.lineage import Run, state_now

ALLOWED = ("code", "libraries", "device", "threads")
"""Kinds of differences that ``fanout.allow`` can let through."""
_RECORDED_SINCE = ("code", "data")
"""Facts that older records lack."""
_HOW = {
    "code": "run the same code: git checkout, or git stash what was changed",
    "libraries": "install the same version",
    "device": "run it on the same kind of device",
    "threads": "threads=N",
}


@dataclass(frozen=True)
class Ledger:
    """What siblings differ in. Plain values, apart from :attr:`entries`."""

    factors: list[Factor]
    """What somebody chose: swept, typed, or written in a file that was chosen."""
    findings: list[Finding]
    """Everything else: facts that differ, that are not known, and factors that cannot be told apart."""
    entries: list[Entry]

    @property
    def arms(self) -> list[Entry]:
        """One entry for each arm."""
        return arms_of(self.entries)

    def to_json(self) -> dict[str, Any]:
        """The ledger as a JSON object."""
        levels = {factor.name: factor.by_run() for factor in self.factors}
        return {
            "factors": [asdict(factor) for factor in self.factors],
            "findings": [finding.to_json() for finding in self.findings],
            "siblings": [
                {
                    "run": one.run, "stream": one.stream, "facts": dict(one.facts),
                    "levels": {name: by_run[one.run] for name, by_run in levels.items()},
                }
                for one in self.entries
            ],
        }  # fmt: skip


def ledger(runs: Iterable[Run]) -> Ledger:
    """The ledger of some runs, from their records; those that did not branch are left out."""
    return ledger_of([entry_of(run.record) for run in runs if run.record.kind == "branch"])


def ledger_of(entries: Sequence[Entry]) -> Ledger:
    """The ledger of some entries: of runs, or of siblings that are only planned."""
    factors = factors_of(entries)
    findings = _facts(entries)
    for together in confounded(factors, entries):
        findings.append(confounded_finding(together, factors, entries))
    return Ledger(factors, findings, list(entries))


def computed(run: Run) -> bool:
    """Whether something of a branch is computed, so that siblings that come later are held against it.

    One that failed before its first checkpoint begins anew, with whatever there is then.
    """
    record = run.record
    if record.kind != "branch":
        return False
    return record.step > record.start_step or state_now(run) in {"running", "finished"}


def against(own: Entry, there: Sequence[Entry]) -> list[Finding]:
    """What keeps a sibling from being launched beside those that are there.

    Args:
        own: the sibling's; of a fact that is not known before its start nothing is said.
        there: its siblings', those of which something is computed or waits (see :func:`computed`).
    """
    findings = []
    for fact, value in own.facts.items():
        kind = kind_of(fact)
        known = {one.facts[fact]: one.run for one in reversed(there) if fact in one.facts}
        if kind not in ALLOWED or not known or value in known or own.follows(kind):
            continue
        [(other, run), *more] = reversed(known.items())
        also = f", and {len(more)} others" if more else ""
        through = f"fanout.allow=[{kind}]"
        if kind in own.allowed:
            findings.append(Finding("note", fact, value, f"{other}, as {run} had{also}", f"by {through}"))
            continue
        looked = _looked_at(other, value) if kind == "code" else ""
        do = f"{looked}{_HOW[kind]}; or on purpose: {through} (launcher retry: --allow {kind})"
        findings.append(Finding("error", fact, value, f"{other}, as its sibling {run} had{also}", do))
    unknown = [one.run for one in there if "code" not in one.facts] if "code" in own.facts else []
    if unknown and len(unknown) == len(there):
        findings.append(Finding("note", "code", f"not on record of the siblings: {_some(unknown)}"))
    return findings


def _facts(entries: Sequence[Entry]) -> list[Finding]:
    findings = []
    for fact in dict.fromkeys(name for one in entries for name in one.facts):
        kind = kind_of(fact)
        runs: dict[str, list[str]] = {}
        for one in entries:
            if fact in one.facts and not one.follows(kind):
                runs.setdefault(one.facts[fact], []).append(one.run)
        if len(runs) < 2:
            continue
        found = "; ".join(f"{value} in {_some(having)}" for value, having in runs.items())
        if any(kind in one.allowed for one in entries):
            findings.append(Finding("note", fact, found, "", f"let through by fanout.allow=[{kind}]"))
        else:
            findings.append(Finding("warning", fact, found, "the same in all siblings", _HOW.get(kind, "")))
    for fact in _RECORDED_SINCE:
        # A run that waits has no device yet, and may come by the rest as well.
        unknown = [one.run for one in entries if "device" in one.facts and fact not in one.facts]
        if unknown:
            findings.append(Finding("note", fact, f"not on record of {_some(unknown)}"))
    return findings


def _looked_at(other: str, own: str) -> str:
    """The command that shows how the code differs; none where only the other had changes that git has not."""
    if "+" in own:
        return f"git diff --stat {_commit(other)}; "  # Against what lies there now.
    return f"git diff --stat {_commit(other)} {_commit(own)}; " if _commit(other) != _commit(own) else ""


def _commit(code: str) -> str:
    return code.rpartition(", then ")[2].partition("+")[0]


def _some(runs: Sequence[str], most: int = 4) -> str:
    return ", ".join(runs[:most]) + (f" and {len(runs) - most} more" if len(runs) > most else "")
