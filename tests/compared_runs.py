"""Groups of runs that never ran, with curves of any shape: what comparisons are tried on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from launcher.lineage import RunRecord
from launcher.trackers.metrics_file import MetricsFile
from tests.tiny_records import put, record

GROUP = "checkpoint-20-experiments"
Curve = Callable[[int, int], float]
"""(stream, steps since the branch point) to a value."""


def sibling(
    outputs: Path,
    arm: str,
    stream: int = 0,
    curves: Mapping[str, Curve] | None = None,
    *,
    end: int = 40,
    every: int = 1,
    begin: int = 20,
    **changed: Any,
) -> RunRecord:
    """A finished run of an arm in a stream, with a line each ``every`` steps; ``control`` is one.

    Args:
        begin: the number that its first step comes after: 20, the branch point's, or 0 with
            ``branch.step_mode=reset``.
        end: its last step, in the trunk's numbering.
    """
    name = f"{arm}-stream-{stream}" if stream else arm
    kind = ("stream" if stream else "control") if arm == "control" else "factor"
    metrics = curves or {}
    last = {metric: curve(stream, end - 20) for metric, curve in metrics.items()}
    values: dict[str, Any] = {
        "job_type": name, "branch_type": kind, "stream": stream, "arm": f"{arm}-arm", "group": GROUP,
        "signature": f"{name}-signature", "metrics": last, "directions": {"error": "down", "hits": "up"},
        "start_step": begin, "step": end - 20 + begin, "end_step": end - 20 + begin, "compare_to": "trunk",
        "differences": {} if arm == "control" else {"loss.name": ["plain", arm]},
    }  # fmt: skip
    one = dataclasses.replace(record(f"{name}-id", "trunk", 20), **{**values, **changed})
    directory = put(outputs, one).parent
    (directory / "metrics.jsonl").unlink(missing_ok=True)
    file = MetricsFile(directory / "metrics.jsonl")
    for step in range(every, end - 20 + 1, every):
        line: dict[str, int | float | str] = {"global_step": begin + step, "branch_step": step}
        file.append({**line, **{metric: curve(stream, step) for metric, curve in metrics.items()}})
    file.close()
    return one


def fanned_out(outputs: Path, *runs: RunRecord, launched: bool = True) -> None:
    """What a fan-out of these runs leaves in the group."""
    told = [{"run": one.id, "launched": launched} for one in runs]
    path = outputs / GROUP / "fanout.json"
    path.write_text(json.dumps({"fanouts": [{"siblings": told}]}), encoding="utf-8")


def trunk(outputs: Path, metric: str, curve: Callable[[int], float], end: int = 40) -> RunRecord:
    """The run that all branch from, by its own steps."""
    one = record("trunk", metrics={metric: curve(end)}, directions={"error": "down"})
    directory = put(outputs, one).parent
    file = MetricsFile(directory / "metrics.jsonl")
    for step in range(1, end + 1):
        file.append({"global_step": step, "branch_step": step, metric: curve(step)})
    file.close()
    return one


def changed(outputs: Path, one: RunRecord, **fields: Any) -> None:
    """Put another record in a run's place."""
    put(outputs, dataclasses.replace(one, **fields))
