"""Runs that are tracked as training does it, and what the wandb client wrote about them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.config import WandbConfig
from launcher.trackers.base import RunIdentity
from launcher.trackers.metrics_file import MetricsFile
from launcher.trackers.trackers import Trackers
from launcher.trackers.wandb.tracker import WandbTracker


def identity(directory: Path, **changes: Any) -> RunIdentity:
    directory.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "id": "fixed-1a2b3c4d", "name": "fixed", "group": "checkpoint-15k-experiments",
        "job_type": "fixed-spectrum", "tags": ("from-checkpoint", "fixed-spectrum"), "notes": "why",
        "config": {"optimizer": {"lr": 5e-5}, "branched_from_step": 15_000},
    }  # fmt: skip
    return RunIdentity(directory=directory, **{**about, **changes})


def run(
    about: RunIdentity,
    steps: range,
    mode: str = "offline",
    state: Any = "finished",
    init_seconds: float = 30.0,
) -> Trackers:
    """A whole run's tracking, as training does it."""
    metrics = MetricsFile(about.directory / "metrics.jsonl")
    trackers = Trackers(metrics, [WandbTracker(WandbConfig(mode=mode), init_seconds=init_seconds)])
    trackers.start(about)
    for step in steps:
        trackers.log({"global_step": step, "train/x": step / 7, "digest/rng": "ab"})
    trackers.finish(state, {"best": 0.5})
    return trackers


def segments(directory: Path) -> list[Path]:
    """What the client wrote for a run, one directory a process."""
    import wandb

    wandb.teardown()
    return sorted((directory / "wandb").glob("*run-*"), key=lambda path: path.stat().st_mtime_ns)


def records(segment: Path) -> dict[str, list[Any]]:
    """The records of one segment, by type."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(segment)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[Any]] = {}
    for line in done.stdout.splitlines():
        record = json.loads(line)
        found.setdefault(record["type"], []).append(record.get(record["type"]))
    return found


def history(found: Mapping[str, list[Any]]) -> list[tuple[int, int, float]]:
    items = [entry["item"] for entry in found["history"]]
    return [(item["_step"], item["global_step"], item["train/x"]) for item in items]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "launcher.trackers" and record.levelno >= logging.WARNING
    ]
