"""``launcher tree``, ``compare`` and ``report`` over 10, 100 and 1 000 runs of 10 000 logged steps each.

The runs are those of benchmarks/compare.py, four streams an arm, with their trunk beside them. Each
measurement is the whole command in a process of its own. Run: python -m benchmarks.reporting [--quick]
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.compare import DIGITS, GROUP, STEPS, again, measured, record, template, write
from benchmarks.report import command_line, median, save
from launcher.lineage import RunRecord

STREAMS = 4
PAGE_BAR = 6_000_000
"""Bytes of a page: what most mail servers let through, with room."""
COMMANDS = {"tree": ["tree", "--json"], "compare": ["compare", GROUP, "--json"], "report": ["report", GROUP]}


def write_trunk(outputs: Path, steps: int) -> None:
    """The run that all branched from, as long before the branch point as they are after it."""
    one = record(0, STREAMS, steps)
    trunk = RunRecord(
        id="trunk", kind="trunk", state="finished", group="trunks", group_source="trunk", job_type="trunk",
        branch_type=None, signature="trunk", request="0" * 64, step=15_000, start_step=0, end_step=15_000,
        horizon_steps=15_000, metrics=one.metrics,
    )  # fmt: skip
    directory = outputs / "trunks" / trunk.id
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps(asdict(trunk)))
    lines = [json.loads(line) for line in template(steps).replace(DIGITS, b"0000").splitlines()]
    for line in lines:
        line["global_step"] -= steps
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    quick: bool = command_line(__doc__).parse_args().quick
    counts = (16, 8) if quick else (1000, 100, 10)
    steps, rounds = (100, 1) if quick else (STEPS, 3)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        outputs = Path(directory)
        write(outputs, max(counts), STREAMS, steps)
        write_trunk(outputs, steps)
        for count in counts:
            again(outputs, count, STREAMS, steps)
            for verb, arguments in COMMANDS.items():
                taken = [measured(outputs, *arguments) for _ in range(rounds)]
                facts = {key: median(one[key] for one in taken) for key in taken[0]}
                if verb == "report":
                    facts["page_bytes"] = (outputs / GROUP / "report.html").stat().st_size
                    (outputs / GROUP / "report.html").unlink()
                results[f"{verb}, {count} runs"] = facts
                print(f"{verb}, {count} runs", {key: round(value, 2) for key, value in facts.items()})
    largest = max(one.get("page_bytes", 0) for one in results.values())
    told = ", ".join(f"{verb} {results[f'{verb}, {counts[0]} runs']['seconds']:.2f} s" for verb in COMMANDS)
    save(
        "reporting",
        {"page_bar_bytes": PAGE_BAR, "results": results},
        f"{counts[0]} runs of {steps} logged steps: {told}; pages of at most {largest / 1e6:.1f} MB "
        f"(bar: {PAGE_BAR / 1e6:.0f} MB)",
        quick=quick,
    )


if __name__ == "__main__":
    main()
