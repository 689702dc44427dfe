"""Submitting 200 siblings to SLURM, from the command to the prompt, against hydra-submitit-launcher.

Needs SLURM (tests/slurm/cluster up; eval "$(tests/slurm/cluster env)"). The jobs may not begin within an
hour, so that none starts. Hydra's launcher waits for its jobs' results: its clock stops when
the last job is in the queue. Run: python -m benchmarks.submitting [--quick] [--siblings 200]
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.fanning import LOG_EVERY, TRUNK, Setting, rates, timed
from benchmarks.fanout_parts import parts, table_of
from benchmarks.paired import in_turn, ratio
from benchmarks.report import command_line, median, save
from benchmarks.setting import ROOT

BAR = 0.5


def queued() -> int:
    """Jobs in SLURM's queue, each task of an array counted."""
    listed = subprocess.run(["squeue", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=True)
    return len(listed.stdout.split())


def empty() -> None:
    subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
    while queued():
        time.sleep(0.2)


def command(setting: Setting, count: int, launcher: str, outputs: Path) -> list[str]:
    return [
        sys.executable, "train.py", "-m", *TRUNK[1:], LOG_EVERY,
        f"branch.from_checkpoint={setting.checkpoint}",
        "branch.steps=5", f"optimizer.lr={','.join(rates(count))}", f"paths.outputs={outputs}",
        f"hydra/launcher={launcher}", "hydra.launcher.timeout_min=10",
        "+hydra.launcher.additional_parameters.begin='now+1hour'",
    ]  # fmt: skip


def ours(setting: Setting, count: int) -> float:
    outputs = setting.place / "ours"
    seconds = timed(command(setting, count, "slurm", outputs))
    assert queued() == count
    empty()
    shutil.rmtree(outputs)
    return seconds


def submitit(setting: Setting, count: int) -> float:
    outputs = setting.place / "submitit"
    typed = [*command(setting, count, "submitit_slurm", outputs), "hydra/sweeper=basic"]
    started = time.perf_counter()
    process = subprocess.Popen(
        typed, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while queued() < count:
        assert process.poll() is None, "the launcher ended before its jobs were queued"
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    empty()
    shutil.rmtree(outputs, ignore_errors=True)
    return seconds


def main() -> None:
    parser = command_line(__doc__, rounds=3)
    parser.add_argument("--siblings", type=int, default=200)
    options = parser.parse_args()
    if (
        shutil.which("sbatch") is None
        or subprocess.run(["sinfo"], capture_output=True, check=False).returncode
    ):
        print("submitting: no SLURM answers here; see tests/slurm/cluster")
        return
    count = 5 if options.quick else options.siblings
    with tempfile.TemporaryDirectory(dir=ROOT / "multirun_outputs") as directory:
        setting = Setting(Path(directory))
        empty()
        seconds = in_turn(
            1 if options.quick else options.rounds,
            ours=lambda: ours(setting, count),
            submitit=lambda: submitit(setting, count),
        )
        spent = parts(command(setting, count, "slurm", setting.place / "parts"))
        empty()
    found = ratio(seconds["ours"], seconds["submitit"])
    Console().print(table_of(spent))
    save(
        "submitting",
        {"siblings": count, "ratio": found, "bar": BAR, "rounds": seconds, "parts_s": spent},
        f"submitting {count} siblings: {median(seconds['ours']):.1f} s, hydra-submitit-launcher "
        f"{median(seconds['submitit']):.1f} s, ratio {found:.2f} (bar: at most {BAR})",
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
