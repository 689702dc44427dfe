"""Where results go: a JSON file each, and one line for the reader."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def save(name: str, result: dict[str, Any], line: str, *, quick: bool = False) -> None:
    """Write ``results/NAME.json`` (a quick run writes nothing) and print ``line``."""
    print(line)
    if quick:
        return
    RESULTS.mkdir(exist_ok=True)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n")
