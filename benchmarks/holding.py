"""The longest training step while a tracker begins and takes its steps, against a run without.

Each tracker has a process of its own, which has imported none: what its library's import costs others falls
into training, as it does in a run. The first steps are left out; they are PyTorch's own.
Run: python -m benchmarks.holding [--quick] [TRACKER ...]
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.report import command_line, save
from benchmarks.setting import composed
from benchmarks.stand_in import wandb_server
from benchmarks.tracking import CPU, TRACKERS, WITHOUT, Switched, started
from launcher.branch.effect import launchers_task
from launcher.training.device import prepare_process
from launcher.training.distributed import Ranks
from launcher.training.loop import train
from launcher.training.restore import new_model
from launcher.training.rng import seed_all
from launcher.training.schedule import build_schedule
from launcher.training.signals import Interruption
from launcher.training.trainer import Trainer

BAR_SECONDS = 0.05
BEFORE = 200
"""Steps before the tracker begins."""


def measure(name: str, steps: int, directory: Path) -> list[float]:
    """Seconds of each step from the tracker's beginning on."""
    logging.getLogger("launcher").setLevel(logging.ERROR)
    config = composed("training.log_every=10", "training.validate_every=0", "checkpoint.every=10000000")
    prepare_process(config, CPU)
    task = launchers_task(config)
    seed_all(config.seed)
    trainer = Trainer(task, new_model(task, CPU), config, build_schedule(config.scheduler, 10**6), Ranks())
    hooks = Switched({WITHOUT: started(WITHOUT, directory)})
    with Interruption() as interruption:
        train(trainer, BEFORE, config, hooks, interruption, Ranks())
        if name != WITHOUT:
            hooks.ways, hooks.way = {**hooks.ways, name: started(name, directory)}, name
        train(trainer, BEFORE + steps, config, hooks, interruption, Ranks())
    for trackers in hooks.ways.values():
        trackers.finish("finished")
        if trackers.dropped:
            raise SystemExit(f"{name} failed: there is nothing to measure.")
    # The first step after the beginning belongs to two calls of train.
    times = [hooks.times[step] for step in sorted(hooks.times) if step > BEFORE]
    return [after - before for before, after in pairwise(times)]


def main() -> None:
    parser = command_line(__doc__, rounds=3)
    parser.add_argument("trackers", nargs="*", metavar="TRACKER")
    options = parser.parse_args()
    names = options.trackers or [name for name in TRACKERS if importlib.util.find_spec(name.split("-")[0])]
    rounds, steps = (1, 100) if options.quick else (options.rounds, 1000)
    longest: dict[str, list[float]] = {name: [] for name in (WITHOUT, *names)}
    over = dict.fromkeys(longest, 0)
    with TemporaryDirectory() as directory, wandb_server(Path(directory)):
        os.environ["TRACKIO_DIR"] = f"{directory}/trackio"
        for index in range(rounds):
            for name, each in longest.items():
                place = Path(directory) / f"{name}-{index}"
                place.mkdir()
                with multiprocessing.get_context("spawn").Pool(1) as process:
                    seconds = process.apply(measure, (name, steps, place))
                each.append(max(seconds))
                over[name] += sum(each > BAR_SECONDS for each in seconds)
    shown = ", ".join(
        f"{name} {1e3 * max(each):.0f} ms ({over[name]} of {rounds * steps} steps over the bar)"
        for name, each in longest.items()
    )
    save(
        "holding",
        {"bar_seconds": BAR_SECONDS, "longest_step_seconds": longest, "steps_over": over, "steps": steps},
        f"holding: the longest step: {shown} (bar: no tracker holds one up for more than 50 ms)",
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
