"""Steps per second while a 500 MB checkpoint goes up to W&B, against without; at one thread and at all.

One run of the reference task trains throughout, tracked by the real client online at the stand-in, which runs
in a process of its own on the same machine: what it takes to receive the bytes is part of what is measured.
Segments with an upload last until it is up; those without have as many steps. As many are taken beside a
process that does nothing but compute MD5 at the lowest priority: what any use of another core costs here.
Run: python -m benchmarks.uploading [--quick] [--rounds N]
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.report import command_line, median, save
from benchmarks.setting import composed
from benchmarks.stand_in import wandb_server
from benchmarks.tracking import CPU, Switched
from launcher.branch.effect import launchers_task
from launcher.config import WandbConfig
from launcher.files import cores
from launcher.trackers.base import KeptCheckpoint, RunIdentity
from launcher.trackers.metrics_file import MetricsFile
from launcher.trackers.trackers import Trackers
from launcher.trackers.wandb.tracker import WandbTracker
from launcher.training.device import prepare_process
from launcher.training.distributed import Ranks
from launcher.training.loop import train
from launcher.training.restore import new_model
from launcher.training.rng import seed_all
from launcher.training.schedule import build_schedule
from launcher.training.signals import Interruption
from launcher.training.trainer import Trainer

BAR = 0.98
WAYS = ("with", "without", "beside")


def _hash() -> None:
    os.nice(19)
    while True:
        hashlib.md5(bytes(1 << 20), usedforsecurity=False)


class Segments(NamedTuple):
    """By way: steps per second of each segment, and the longest step of all, in milliseconds."""

    speeds: dict[str, list[float]]
    longest: dict[str, float]


def measure(threads: int, size: int, rounds: int, root: Path) -> Segments:
    """What each segment took."""
    config = composed(
        "training.log_every=10",
        "training.validate_every=0",
        "checkpoint.every=10000000",
        f"threads={threads}",
    )
    prepare_process(config, CPU)
    torch.set_num_threads(threads)
    task = launchers_task(config)
    seed_all(config.seed)
    trainer = Trainer(task, new_model(task, CPU), config, build_schedule(config.scheduler, 10**6), Ranks())
    place = root / f"run-{threads}"
    checkpoint = place / "checkpoints" / "checkpoint_step_1.pt"
    checkpoint.parent.mkdir(parents=True)
    trackers = Trackers(MetricsFile(place / "metrics.jsonl"), [WandbTracker(WandbConfig(mode="online"))])
    trackers.start(RunIdentity(f"run-{threads}", "run", "group", "job", place, project="benchmark"))
    hooks = Switched({"metrics.jsonl": trackers})
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    longest = dict.fromkeys(WAYS, 0.0)

    def go(steps: int, way: str = "") -> float:
        first = hooks.step
        train(trainer, trainer.live.progress.step + steps + 1, config, hooks, interruption, Ranks())
        times = [hooks.times[step] for step in range(first + 1, first + steps + 1)]
        if way:
            step = max(after - before for before, after in pairwise(times))
            longest[way] = max(longest[way], 1e3 * step)
        return times[-1] - times[0]

    with Interruption() as interruption:
        go(50)
        for index in range(rounds):
            checkpoint.write_bytes(os.urandom(1 << 20) * (size >> 20))
            checkpoint.with_suffix(".json").write_text(json.dumps({"step": index}))
            # A checkpoint is on disk before anyone is told of it.
            os.sync()
            up = threading.Event()
            trackers.keep(KeptCheckpoint(checkpoint, index, (f"step-{index}",), "copy", up.set))
            steps, taken = 0, 0.0
            while not up.is_set():
                taken += go(20, "with")
                steps += 19
            found["with"].append(steps / taken)
            found["without"].append((steps - 1) / go(steps, "without"))
            other = multiprocessing.get_context("spawn").Process(target=_hash, daemon=True)
            other.start()
            time.sleep(1)
            found["beside"].append((steps - 1) / go(steps, "beside"))
            other.kill()
            other.join()
            time.sleep(0.1)
    trackers.finish("finished")
    if len(json.loads((place / "artifacts.json").read_text())) != rounds:
        raise SystemExit("an upload failed: there is nothing to measure.")
    return Segments(found, longest)


def main() -> None:
    options = command_line(__doc__, rounds=9).parse_args()
    logging.getLogger("launcher").setLevel(logging.ERROR)
    size, rounds = (20 << 20, 1) if options.quick else (500 << 20, options.rounds)
    with tempfile.TemporaryDirectory() as directory, wandb_server(Path(directory)):
        found = {
            str(threads): measure(threads, size, rounds, Path(directory)) for threads in sorted({1, cores()})
        }
    ratios, floors = (
        {
            threads: median(a / b for a, b in zip(each.speeds[way], each.speeds["without"], strict=True))
            for threads, each in found.items()
        }
        for way in ("with", "beside")
    )
    longest = {threads: each.longest for threads, each in found.items()}
    shown = ", ".join(
        f"{ratio:.3f} at {threads} of {cores()} threads (beside a process that hashes: {floors[threads]:.3f};"
        " longest step "
        + ", ".join(f"{way} {milliseconds:.0f} ms" for way, milliseconds in longest[threads].items())
        + ")"
        for threads, ratio in ratios.items()
    )
    speeds = {threads: each.speeds for threads, each in found.items()}
    save(
        "uploading",
        {
            "bytes": size,
            "bar": BAR,
            "ratios": ratios,
            "beside_hashing": floors,
            "steps_per_second": speeds,
            "longest_step_milliseconds": longest,
        },
        f"uploading: steps per second while it goes, against without: {shown} (bar: at least {BAR})",
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
