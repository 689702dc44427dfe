"""Everything about one run: its record, its checkpoints, what was found before it started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from launcher.checkpoint.manifest import read_manifest
from launcher.checkpoint.store import checkpoints, pinned, step_of
from launcher.errors import CheckpointError
from launcher.findings import Finding, findings_table
from launcher.lineage import Run, children, read_runs, state_now
from launcher.report.summary import metrics_table


def show(run: Run) -> dict[str, Any]:
    """One run as plain values: the record, and what lies beside it."""
    runs, _ = read_runs(run.directory.path.parent.parent)
    return {
        **asdict(run.record),
        "state": state_now(run),
        "directory": str(run.directory.path),
        "checkpoints": _checkpoints(run),
        "branches": [branch.id for branch in children(runs, run.id)],
    }


def _checkpoints(run: Run) -> list[dict[str, Any]]:
    marked = pinned(run.directory.checkpoints)
    found = []
    for path in checkpoints(run.directory.checkpoints):
        try:
            manifest = read_manifest(path)
            facts = {"sha256": manifest.sha256, "bytes": manifest.file.bytes if manifest.file else None}
        except CheckpointError as error:
            facts = {"sha256": None, "bytes": None, "error": str(error).splitlines()[0]}
        found.append({"step": step_of(path), "pinned": step_of(path) in marked, **facts})
    return found


def rendered(run: Run, facts: dict[str, Any]) -> RenderableType:
    """One run for a terminal."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(facts):
        table.add_row(name, escape(value))
    parts: list[RenderableType] = [table]
    if facts["differences"]:
        factors = Table("factor", "trunk", "here", title="differs from its trunk in", title_justify="left")
        for key, (left, right) in facts["differences"].items():
            factors.add_row(key, escape(str(left)), escape(str(right)))
        parts.append(factors)
    if facts["checkpoints"]:
        listing = Table("step", "content digest", "", title="checkpoints", title_justify="left")
        for one in facts["checkpoints"]:
            mark = one.get("error") or ("pinned" if one["pinned"] else "")
            listing.add_row(str(one["step"]), one["sha256"] or "", mark)
        parts.append(listing)
    if facts["findings"]:
        parts.append(findings_table(Finding(**one) for one in facts["findings"]))
    if facts["metrics"]:
        parts.append(metrics_table(run))
    return Group(*parts)


def _pairs(changed: Mapping[str, list[Any]], meaning: str) -> str:
    pairs = ((key, "unknown" if left is None else left, right) for key, (left, right) in changed.items())
    told = ", ".join(f"{key} {left} → {right}" for key, left, right in pairs)
    return f"{told}: {meaning}" if changed else ""


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    parent = facts["parent"]
    origin = None
    if parent:
        # A checkpoint that another program wrote has no run here.
        name = parent["run"] or f"{parent['checkpoint']} ({parent['format']})"
        origin = f"{name} at step {parent['step']}, {parent['sha256'][:16]}…"
    starts = [f"{one['time']} {one['host']} from {one['origin']} at {one['step']}" for one in facts["starts"]]
    environment = ", ".join(f"{key} {value}" for key, value in facts["environment"].items())
    lines = [
        ("run", f"{facts['id']} ({facts['state']})"),
        ("kind", " ".join(one for one in (facts["kind"], facts["branch_type"]) if one)),
        ("parent", origin),
        ("fetched from", parent.get("source") if parent else None),
        ("group", f"{facts['group']} (from {facts['group_source']})"),
        ("steps", f"{facts['start_step']} → {facts['step']} of {facts['end_step']}"),
        ("resharded", _pairs(facts["resharded"], "equal to its trunk within tolerance, not exactly")),
        ("typed", " ".join(facts["overrides"]) or "nothing"),
        ("starts", "\n".join(starts)),
        ("error", facts["error"]),
        ("notes", facts["notes"]),
        ("tags", ", ".join(facts["tags"])),
        ("branches", "\n".join(facts["branches"])),
        ("environment", environment),
        ("directory", facts["directory"]),
        *((name, str(said)) for name, said in facts["trackers"].items() if not isinstance(said, dict)),
    ]
    return [(name, value) for name, value in lines if value]
