"""Two ways of doing a thing, timed in turn, so that what else the machine does meets both alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import median


def in_turn(rounds: int, **ways: Callable[[], float]) -> dict[str, list[float]]:
    """Run each way once a round, ``rounds`` times, in alternating order; each returns its own seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(rounds):
        for name in list(ways) if index % 2 == 0 else reversed(ways):
            seconds[name].append(ways[name]())
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios within each round."""
    return median([a / b for a, b in zip(ours, theirs, strict=True)])


def child(module: str, *arguments: str) -> Any:
    """The JSON that ``python -m module arguments`` prints last; a fresh process has its own memory."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> int:
    """Bytes of memory that this process has held at most since :func:`forget_peak`, or since its start."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")
