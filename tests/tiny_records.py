"""Records of runs that never ran: as many as wanted, of whatever family."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launcher.lineage import Parent, RunRecord, Start

STARTED = Start("2026-11-21T20:00:00+00:00", "elsewhere", 1, "nothing", 0)


def record(name: str, parent: str | None = None, step: int = 0, **changed: Any) -> RunRecord:
    """A finished run; with a parent, a branch of it from ``step``."""
    values: dict[str, Any] = {
        "id": name,
        "kind": "branch" if parent else "trunk",
        "state": "finished",
        "group": "checkpoint-20-experiments" if parent else "trunks",
        "group_source": "checkpoint" if parent else "trunk",
        "job_type": name,
        "branch_type": "factor" if parent else None,
        "signature": name[-8:],
        "request": "0" * 64,
        "step": 40,
        "start_step": step,
        "end_step": 40,
        "horizon_steps": 40,
        "parent": Parent(parent, f"/x/checkpoint_step_{step}.pt", step, step, "0" * 64) if parent else None,
        "metrics": {"val/error": 0.5, "train/error": 0.25},
        "starts": [STARTED],
    }
    return RunRecord(**{**values, **changed})


def put(outputs: Path, one: RunRecord) -> Path:
    """Write a record where it belongs; without the care that real ones are written with."""
    path = outputs / one.group / one.id / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(one)), encoding="utf-8")
    return path


def family(outputs: Path, count: int) -> None:
    """``count`` runs: ten trunks, and branches of branches below them."""
    for number in range(count):
        parent = f"run-{number // 10 - 1:04}" if number >= 10 else None
        put(outputs, record(f"run-{number:04}", parent, step=10 * (number % 3 + 1)))
