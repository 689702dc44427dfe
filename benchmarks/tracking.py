"""Steps per second with each tracker, against none, at one log line every ten steps.

One run of the reference task trains throughout. Its segments log into metrics.jsonl alone and into
metrics.jsonl and one tracker in turn; the result is the median of the ratios of neighbouring segments.
A tracker gets its steps a little later than they are logged: the clock of a segment starts when whatever the
one before has left is handed over, and this one's tracker is as far behind as it will be at the end.
W&B is measured offline, and online against the tests' stand-in for its server.
Run: python -m benchmarks.tracking [--quick] [TRACKER ...]
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import torch

from benchmarks.report import command_line, median, save
from benchmarks.setting import composed
from benchmarks.stand_in import wandb_server
from launcher.branch.effect import launchers_task
from launcher.config import Config
from launcher.trackers.base import RunIdentity
from launcher.trackers.metrics_file import STEP, MetricsFile
from launcher.trackers.trackers import Trackers, trackers_of
from launcher.trackers.worker import GATHER_SECONDS
from launcher.training.device import prepare_process
from launcher.training.distributed import Ranks
from launcher.training.loop import Unrecorded, train
from launcher.training.progress import Progress
from launcher.training.restore import new_model
from launcher.training.rng import seed_all
from launcher.training.schedule import build_schedule
from launcher.training.signals import Interruption
from launcher.training.trainer import Trainer

CPU = torch.device("cpu")
BAR = 0.98
ONLINE = "wandb-online"
TRACKERS = ("wandb", ONLINE, "tensorboard", "mlflow", "trackio")
WITHOUT = "metrics.jsonl"


class Switched(Unrecorded):
    """The hooks of the training loop, logging to whichever trackers have their turn."""

    def __init__(self, ways: Mapping[str, Trackers]) -> None:
        self.ways, self.way = ways, WITHOUT
        self.times: dict[int, float] = {}
        self.step = 0

    def log(self, progress: Progress, metrics: Mapping[str, float | str]) -> None:
        self.ways[self.way].log({STEP: progress.step, "branch_step": progress.step, **metrics})

    def save(self) -> None:
        pass

    def after_step(self) -> None:
        self.step += 1
        self.times[self.step] = time.perf_counter()


def started(name: str, directory: Path) -> Trackers:
    """A tracker that is past its start: that is no part of a step."""
    named = {WITHOUT: "none", ONLINE: "wandb"}.get(name, name)
    mode = "online" if name == ONLINE else "offline"
    more = [f"tracker.wandb.mode={mode}"] if named == "wandb" else []
    tracker = composed(f"tracker=[{named}]", f"paths.outputs={directory}", *more).tracker
    place = directory / name
    place.mkdir()
    trackers = Trackers(MetricsFile(place / "metrics.jsonl"), trackers_of(tracker))
    trackers.start(RunIdentity(name, name, "group", "job", place, project="benchmark"))
    return trackers


def measure(
    names: list[str], config: Config, rounds: int, steps: int, directory: Path
) -> dict[str, list[float]]:
    """Seconds of each segment, by tracker."""
    prepare_process(config, CPU)
    task = launchers_task(config)
    seed_all(config.seed)
    trainer = Trainer(task, new_model(task, CPU), config, build_schedule(config.scheduler, 10**6), Ranks())
    hooks = Switched({name: started(name, directory) for name in (WITHOUT, *names)})
    seconds: dict[str, list[float]] = {name: [] for name in hooks.ways}

    def segment(name: str) -> float:
        hooks.way = name
        begun = time.perf_counter()
        while time.perf_counter() - begun < 1.5 * GATHER_SECONDS:
            train(trainer, trainer.live.progress.step + 10, config, hooks, interruption, Ranks())
        first = hooks.step
        # A segment's last step is logged in any case, so the clock stops one step before it.
        train(trainer, trainer.live.progress.step + steps + 1, config, hooks, interruption, Ranks())
        return hooks.times[first + steps] - hooks.times[first + 1]

    with Interruption() as interruption:
        for name in hooks.ways:
            segment(name)
        for index in range(rounds):
            for name in hooks.ways if index % 2 == 0 else reversed(list(hooks.ways)):
                seconds[name].append(segment(name))
    for name, trackers in hooks.ways.items():
        trackers.finish("finished")
        if trackers.dropped:
            raise SystemExit(f"{name} failed: there is nothing to measure.")
    return seconds


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "trackers", nargs="*", metavar="TRACKER", help=f"default: of {', '.join(TRACKERS)}, those installed"
    )
    options = parser.parse_args()
    logging.getLogger("launcher").setLevel(logging.ERROR)
    names = options.trackers or [name for name in TRACKERS if importlib.util.find_spec(name.split("-")[0])]
    rounds, steps = (2, 60) if options.quick else (30, 300)
    with TemporaryDirectory() as directory, wandb_server(Path(directory)):
        os.environ["TRACKIO_DIR"] = f"{directory}/trackio"
        config = composed("training.log_every=10", "training.validate_every=0", "checkpoint.every=10000000")
        # A process has one run of W&B's at a time.
        together = [[name for name in names if name != ONLINE], [name for name in names if name == ONLINE]]
        measured = [
            measure(each, config, rounds, steps, Path(mkdtemp(dir=directory))) for each in together if each
        ]
    ratios = {
        name: median(a / b for a, b in zip(seconds[WITHOUT], taken, strict=True))
        for seconds in measured
        for name, taken in seconds.items()
        if name != WITHOUT
    }
    shown = ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items())
    save(
        "tracking",
        {
            "steps_per_second": {
                name: (steps - 1) / median(each) for seconds in measured for name, each in seconds.items()
            },
            "ratios": ratios,
            "bar": BAR,
            "seconds": measured,
        },
        f"tracking: {shown} of the steps per second without (bar: at least {BAR})",
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
