"""``launcher compare`` over 10, 100 and 1 000 runs of 10 000 logged steps each.

The runs are written once, with real records and lines as long as those of real runs (about 300 bytes), and
are looked at in two shapes: four streams an arm, and one. Each measurement is the whole command in a process
of its own. Run: python -m benchmarks.compare [--quick]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.report import command_line, median, save
from benchmarks.setting import ROOT
from launcher.lineage import Parent, RunRecord

BAR = 3.0
STEPS, VALIDATE_EVERY = 10_000, 10
MEASURED = ("total_loss", "cross_entropy", "spectrum_loss", "token_accuracy")
GROUP = "checkpoint-15k-experiments"
DIGITS = b"@@@@"
"""Stands in a template where each run has its own digits."""
COMMAND = """
import resource, sys
from launcher.cli import main
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(status, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, file=sys.stderr)
"""


def template(steps: int) -> bytes:
    """A metrics file with placeholders in its numbers."""
    lines = []
    for step in range(1, steps + 1):
        line: dict[str, Any] = {"global_step": 15_000 + step, "branch_step": step}
        line |= {f"train/{name}": f"0.4{step:05}@@@@12345" for name in MEASURED}
        line |= {"train/learning_rate": 0.00031415, "digest/batch": "0" * 16, "digest/rng": "0" * 16}
        if step % VALIDATE_EVERY == 0:
            line |= {f"val/{name}": f"0.4{step:05}@@@@67890" for name in MEASURED}
        lines.append(json.dumps(line).replace('"0.4', "0.4").replace('12345"', "12345").replace('90"', "90"))
    return "\n".join([*lines, ""]).encode()


def record(number: int, streams: int, steps: int) -> RunRecord:
    arm, stream = divmod(number, streams)
    name = f"arm-{arm:04}" + (f"-stream-{stream}" if stream else "")
    changed = {"optimizer.lr": [0.001, 0.001 + arm]} if arm else {}
    return RunRecord(
        id=f"{name}-{number:08x}", kind="branch", state="finished", group=GROUP, group_source="checkpoint",
        job_type=name, branch_type="factor" if arm else "stream" if stream else "control",
        signature=f"{number:08x}", request="0" * 64, step=15_000 + steps, start_step=15_000,
        end_step=15_000 + steps, horizon_steps=30_000, stream=stream, arm=f"{arm * streams:08x}",
        parent=Parent("trunk", "/x/checkpoint_step_15000.pt", 15_000, 15_000, "0" * 64),
        differences=changed,
        metrics={f"{part}/{one}": 0.5 for part in ("train", "val") for one in MEASURED},
    )  # fmt: skip


def write(outputs: Path, count: int, streams: int, steps: int) -> None:
    body = template(steps)
    for number in range(count):
        one = record(number, streams, steps)
        directory = outputs / GROUP / one.id
        directory.mkdir(parents=True)
        (directory / "run.json").write_text(json.dumps(asdict(one)))
        digits = f"{number * 7919 % 10_000:04}".encode()
        (directory / "metrics.jsonl").write_bytes(body.replace(DIGITS, digits))


def again(outputs: Path, count: int, streams: int, steps: int) -> None:
    """The same files in another shape: only the records are written anew."""
    places = sorted((outputs / GROUP).iterdir(), key=lambda path: int(path.name.rpartition("-")[2], 16))
    for number, place in enumerate(places):
        one = record(number, streams, steps)
        (place / "run.json").unlink(missing_ok=True)
        place.rename(place.with_name(one.id))
        if number < count:
            (outputs / GROUP / one.id / "run.json").write_text(json.dumps(asdict(one)))


def measured(outputs: Path, *arguments: str) -> dict[str, float]:
    """Seconds, processor time and peak bytes of one command, ``launcher ARGUMENTS``."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments, f"--outputs={outputs}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    status, cpu, memory = done.stderr.split()
    assert status == "0"
    assert done.stdout
    return {"seconds": seconds, "cpu_seconds": float(cpu), "peak_bytes": float(memory)}


def main() -> None:
    quick: bool = command_line(__doc__).parse_args().quick
    counts = (8, 16) if quick else (1000, 100, 10)
    steps, rounds = (100, 1) if quick else (STEPS, 3)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        outputs = Path(directory)
        write(outputs, max(counts), 4, steps)
        for count in sorted(counts, reverse=True):
            for streams in (4, 1):
                again(outputs, count, streams, steps)
                for form in ([], ["--json"], [f"--at={15_000 + steps // 2}", "--csv"]):
                    taken = [measured(outputs, "compare", GROUP, *form) for _ in range(rounds)]
                    name = f"{count} runs, {streams} streams an arm {' '.join(form)}".strip()
                    results[name] = {key: median(one[key] for one in taken) for key in taken[0]}
                    print(name, {key: round(value, 2) for key, value in results[name].items()})
    worst = max(one["seconds"] for one in results.values())
    work = max(one["cpu_seconds"] for one in results.values())
    save(
        "compare",
        {"bar_s": BAR, "results": results},
        f"compare: at most {worst:.2f} s ({work:.2f} s of processor time) for {max(counts)} runs "
        f"of {steps} logged steps (bar: {BAR} s)",
        quick=quick,
    )


if __name__ == "__main__":
    main()
