"""What saving a checkpoint costs, against plain blocking ``torch.save``; and reading, and preflight.

    python -m benchmarks.save [--quick] [--in DIRECTORY]

Writes ``benchmarks/results/save.json``. Needs 3 times the largest state in memory and twice on disk.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.paired import child, ratio
from benchmarks.report import command_line, median, record
from launcher.files import cores, readable_bytes

MODULE = "benchmarks.saving"
BAR = 0.10


def measure(megabytes: int, rounds: int, directory: str) -> dict[str, Any]:
    """Everything about one size of state."""

    def run(kind: str) -> Any:
        return child(MODULE, kind, str(megabytes), str(rounds), directory)

    stall, training, digests = run("stall"), run("training"), run("digests")
    memory = {kind: run(f"memory-{kind}") for kind in ("ours", "plain")}
    with tempfile.TemporaryDirectory(dir=directory) as one:
        child(MODULE, "write", str(megabytes), "1", one)
        looks = [child("benchmarks.preflighting", one) for _ in range(rounds)]
        loads = [child(MODULE, "load", "0", "1", one) for _ in range(rounds)]
    seconds = digests["seconds"]
    return {
        "bytes": stall["bytes"],
        "stall": {
            "ours_s": median(stall["stall"]["ours"]),
            "first_save_s": stall["first"],
            "plain_s": median(stall["stall"]["plain"]),
            "ratio": ratio(stall["stall"]["ours"], stall["stall"]["plain"]),
            "ours_best_s": min(stall["stall"]["ours"]),
            "plain_best_s": min(stall["stall"]["plain"]),
            "ratio_best": min(stall["stall"]["ours"]) / min(stall["stall"]["plain"]),
            "all": stall["stall"],
        },
        "until_on_disk_s": {kind: median(values) for kind, values in stall["until_on_disk"].items()},
        "memory_beside_state": {kind: each["beside"] / each["bytes"] for kind, each in memory.items()},
        "training": {
            "step_s": median(training["step"]),
            "steps_slower_while_writing": median(training["slower"]),
            "longest_step_s": median(training["longest"]),
            "until_on_disk_s": median(training["until"]),
            "lost_ours_s": median(training["ours"]),
            "lost_plain_s": median(training["plain"]),
        },
        "digests_s": {name: median(values) for name, values in seconds.items()},
        "digests_ratio": {
            "state": ratio(seconds["state_blake3_all_cores"], seconds["state_sha256"]),
            "state_one_thread": ratio(seconds["state_blake3_one_thread"], seconds["state_sha256"]),
            "file": ratio(seconds["file_blake3"], seconds["file_sha256"]),
            "load_verified_to_plain": ratio(seconds["load_verified"], seconds["load_plain"]),
        },
        "preflight": {
            "ours_s": median([each["seconds"] for each in looks]),
            "ours_bytes": median([each["memory"] for each in looks]),
            "plain_load_s": median([each["seconds"] for each in loads]),
            "plain_load_bytes": median([each["memory"] for each in loads]),
        },
    }


def table(results: dict[str, dict[str, Any]]) -> Table:
    title = f"saving: {cores()} cores, load {os.getloadavg()[2]:.1f}, torch {torch.__version__}; medians"
    made = Table(title=title, title_justify="left")
    made.add_column("")
    for name in results:
        made.add_column(name, justify="right")

    def row(label: str, *keys: str, unit: str = "s", digits: int = 3) -> None:
        """One line: the values at dotted keys, side by side."""
        cells = []
        for result in results.values():
            values = [result[key.split(".")[0]][key.split(".")[1]] for key in keys]
            shown = [readable_bytes(value) if unit == "B" else f"{value:.{digits}f}" for value in values]
            cells.append(" / ".join(shown) + ("" if unit == "B" else f" {unit}"))
        made.add_row(label, *cells)

    row("stall: ours / plain torch.save", "stall.ours_s", "stall.plain_s")
    row(f"stall: ratio (bar {BAR:.2f})", "stall.ratio", unit="x")
    row("... quietest rounds: ours / plain", "stall.ours_best_s", "stall.plain_best_s")
    row("... quietest rounds: ratio", "stall.ratio_best", unit="x")
    row("stall: first save, after reserve()", "stall.first_save_s")
    row(
        "until on disk, idle: ours / plain + fsync", "until_on_disk_s.ours", "until_on_disk_s.plain", digits=2
    )
    row("until on disk beside training", "training.until_on_disk_s", digits=2)
    row(
        "memory beside the state: ours / plain",
        "memory_beside_state.ours",
        "memory_beside_state.plain",
        unit="x",
    )
    row("steps while writing / undisturbed", "training.steps_slower_while_writing", unit="x", digits=2)
    row("longest step while writing / usual step", "training.longest_step_s", "training.step_s")
    row("training time lost: ours / plain", "training.lost_ours_s", "training.lost_plain_s", digits=2)
    row("digest of the state: BLAKE3 / SHA-256", "digests_s.state_blake3_all_cores", "digests_s.state_sha256")
    row("... on one thread, beside training", "digests_s.state_blake3_one_thread")
    row("digest of the file: BLAKE3 / SHA-256", "digests_s.file_blake3", "digests_s.file_sha256")
    row("load: verified / plain", "digests_s.load_verified", "digests_s.load_plain")
    row("load: complete, without digests", "digests_s.load_unverified")
    row("preflight: ours / plain torch.load", "preflight.ours_s", "preflight.plain_load_s", digits=4)
    row("preflight, memory: ours / plain", "preflight.ours_bytes", "preflight.plain_load_bytes", unit="B")
    return made


def main() -> None:
    parser = command_line(__doc__, rounds=9)
    parser.add_argument(
        "--in", dest="place", help="where to write; default: the system's temporary directory"
    )
    arguments = parser.parse_args()
    sizes = {"20 MB": 20} if arguments.quick else {"500 MB": 500, "2 GB": 2000}
    with tempfile.TemporaryDirectory(dir=arguments.place) as directory:
        results = {
            name: measure(size, 2 if arguments.quick else arguments.rounds, directory)
            for name, size in sizes.items()
        }
    Console(width=120).print(table(results))
    if not arguments.quick:
        machine = {
            "cores": cores(),
            "load_average": os.getloadavg(),
            "torch": torch.__version__,
            "rounds": arguments.rounds,
        }
        print(record("save", {"machine": machine, "bar": BAR, **results}).relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
