"""Time from the command to the first training step of a branch, against a bare script.

The bare script imports torch and the task's model, loads the same checkpoint and takes one step. Both
are started in turn as processes of their own; the clock stops when the first step's line is on disk.
A table says what the launcher's time is spent on. Run: python -m benchmarks.start [--quick]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.report import command_line, median, save
from benchmarks.setting import ROOT

BAR = 1.5
TRUNK = ("training.steps=40", "checkpoint.every=20", "scheduler.warmup_steps=5", "tracker=none")

BARE = """
import sys, time
import torch
from launcher.config import Config
from launcher.peptide.task import PeptideTask
import json
checkpoint, config, line = sys.argv[1:]
config = Config.from_plain(json.load(open(config)))
task = PeptideTask(config)
state = torch.load(checkpoint, weights_only=True)
model = task.build_model()
model.load_state_dict(state["model_state_dict"])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
optimizer.load_state_dict(state["optimizer_state_dict"])
loss, _ = task.loss(model, task.batch(21), 21)
loss.backward()
optimizer.step()
open(line, "w").write("done\\n")
"""


def seconds_until(command: list[str], directory: Path, pattern: str) -> float:
    """Seconds from starting ``command`` until a file that fits has content; then waits for its end."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not any(path.stat().st_size for path in directory.glob(pattern)):
        time.sleep(0.001)
    elapsed = time.perf_counter() - started
    _, errors = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()}")
    return elapsed


def spent(arguments: list[str]) -> dict[str, float]:
    """Seconds that each part of a branch's start takes, read inside its process."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.start_parts", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    parts: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return parts


def main() -> None:
    options = command_line(__doc__).parse_args()
    rounds = 2 if options.quick else 15
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        trunk = [sys.executable, "train.py", *TRUNK, f"paths.outputs={place}/trunk"]
        subprocess.run(trunk, cwd=ROOT, check=True, capture_output=True)
        [run] = (place / "trunk" / "trunks").iterdir()
        checkpoint = run / "checkpoints" / "checkpoint_step_20.pt"
        plain = place / "config.json"
        plain.write_text(json.dumps(json.loads(checkpoint.with_suffix(".json").read_text())["config"]))
        bare_script = place / "bare.py"
        bare_script.write_text(BARE)
        pairs = []
        parts: list[dict[str, float]] = []
        for index in range(rounds):
            outputs = place / f"branch-{index}"
            branch = [
                f"branch.from_checkpoint={checkpoint}",
                "branch.steps=1",
                "training.log_every=1",
                "training.validate_every=0",
                *TRUNK[2:],
                f"paths.outputs={outputs}",
            ]
            command = [sys.executable, "train.py", *branch]
            ours = seconds_until(command, outputs, "*/*/metrics.jsonl")
            files = [str(checkpoint), str(plain), str(place / f"bare-{index}.line")]
            bare = seconds_until([sys.executable, str(bare_script), *files], place, f"bare-{index}.line")
            pairs.append({"ours_s": ours, "bare_s": bare, "ratio": ours / bare})
            if index < 5:
                parts.append(spent([*branch, f"paths.outputs={place}/parts-{index}"]))
    ratio = median(pair["ratio"] for pair in pairs)
    table = Table("part", "seconds", title="where the launcher's time goes", title_justify="left")
    shares = {name: median(one[name] for one in parts) for name in parts[0]}
    for name, seconds in shares.items():
        table.add_row(name, f"{seconds:.3f}")
    Console().print(table)
    ours, bare = median(one["ours_s"] for one in pairs), median(one["bare_s"] for one in pairs)
    save(
        "start",
        {"ours_s": ours, "bare_s": bare, "ratio": ratio, "bar": BAR, "parts_s": shares, "pairs": pairs},
        f"start: {ours:.2f} s to the first step, bare {bare:.2f} s, ratio {ratio:.2f} (bar: at most {BAR})",
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
