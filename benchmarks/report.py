"""What every benchmark has: its options, and its results as a JSON file and one line for the reader."""

from __future__ import annotations

import argparse
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


def command_line(doc: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """A benchmark's options: ``--quick``, and ``--rounds`` with this default where it has any."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test: measures and records nothing")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    return parser


def record(name: str, result: dict[str, Any]) -> Path:
    """Write ``results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def save(name: str, result: dict[str, Any], line: str, *, quick: bool = False) -> None:
    """Write ``results/NAME.json`` (a quick run writes nothing) and print ``line``."""
    print(line)
    if quick:
        return
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    record(name, {"machine": machine, **result})
