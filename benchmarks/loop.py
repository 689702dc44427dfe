"""Steps per second of the launcher's loop against a bare PyTorch loop.

Both train the reference task: the same model, batches, loss, fused AdamW, clipping, schedule and one
JSON line a log interval. They take turns in one process, a segment each; the result is the median of
the ratios of neighbouring segments. Run: python -m benchmarks.loop [--quick]
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.report import command_line, median, save
from benchmarks.setting import composed
from launcher.branch.declared import Declared
from launcher.branch.effect import launchers_task
from launcher.branch.plan import plan
from launcher.config import Config
from launcher.recording import Recording
from launcher.training.device import environment, prepare_process
from launcher.training.distributed import Ranks
from launcher.training.loop import Unrecorded, train
from launcher.training.progress import Progress
from launcher.training.restore import new_model
from launcher.training.rng import seed_all
from launcher.training.schedule import build_schedule
from launcher.training.signals import Interruption
from launcher.training.task import Task
from launcher.training.trainer import Trainer

CPU = torch.device("cpu")
BAR = 0.97


class Bare:
    """What one would write without a launcher."""

    def __init__(self, config: Config, task: Task, path: Path) -> None:
        seed_all(config.seed)
        self.task = task
        self.model = task.build_model()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            **{k: v for k, v in config.optimizer.items() if k not in {"_target_", "label", "facts"}},
        )
        factor = build_schedule(config.scheduler, config.training.steps)
        self.scheduler = LambdaLR(self.optimizer, factor)
        self.clip = config.training.gradient_clip
        self.every = config.training.log_every
        self.step = 0
        self.file = path.open("w")

    def segment(self, steps: int) -> float:
        """Seconds for ``steps`` steps."""
        model, optimizer = self.model, self.optimizer
        started = time.perf_counter()
        for _ in range(steps):
            self.step += 1
            batch = self.task.batch(self.step)
            loss, metrics = self.task.loss(model, batch, self.step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), self.clip)
            optimizer.step()
            self.scheduler.step()
            if self.step % self.every == 0:
                line = {"step": self.step, **{name: value.item() for name, value in metrics.items()}}
                self.file.write(json.dumps(line) + "\n")
                self.file.flush()
        return time.perf_counter() - started


class Timed(Unrecorded):
    """The run's own hooks, with the clock read when a segment's first and last step are done."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.times: dict[int, float] = {}
        self.step = 0

    def log(self, progress: Progress, metrics: Mapping[str, float | str]) -> None:
        self.recording.log(progress, metrics)

    def save(self) -> None:
        self.recording.save()

    def after_step(self) -> None:
        self.recording.after_step()
        self.step += 1
        self.times[self.step] = time.perf_counter()


def measure(config: Config, segments: int, steps: int, directory: Path) -> list[dict[str, float]]:
    """Seconds of each pair of segments."""
    prepare_process(config, CPU)
    pairs = []
    run_plan = plan(config, Declared())
    with Interruption() as interruption, Recording(run_plan, [], environment(CPU), Ranks()) as recording:
        task = launchers_task(config)
        seed_all(config.seed)
        factor = build_schedule(config.scheduler, run_plan.horizon_steps)
        trainer = Trainer(task, new_model(task, CPU), config, factor, Ranks())
        recording.start(trainer, "nothing")
        hooks = Timed(recording)
        bare = Bare(config, launchers_task(config), directory / "bare.jsonl")
        warm = 3 * config.training.log_every
        # A segment's last step is logged and saved in any case, so the clock stops one step before it.
        train(trainer, warm, config, hooks, interruption, Ranks())
        bare.segment(warm)
        for _ in range(segments):
            first = hooks.step
            train(trainer, trainer.live.progress.step + steps + 1, config, hooks, interruption, Ranks())
            ours = hooks.times[first + steps] - hooks.times[first + 1]
            theirs = bare.segment(steps - 1)
            pairs.append({"ours_s": ours, "bare_s": theirs, "ratio": theirs / ours})
        recording.finish("finished", lambda: False)
    return pairs


def main() -> None:
    options = command_line(__doc__).parse_args()
    logging.getLogger("launcher").setLevel(logging.ERROR)
    segments, steps = (2, 60) if options.quick else (30, 300)
    with tempfile.TemporaryDirectory() as directory:
        config = composed(
            f"paths.outputs={directory}",
            "tracker=none",
            "training.validate_every=0",
            "checkpoint.every=10000000",
        )
        pairs = measure(config, segments, steps, Path(directory))
    ratio = median(pair["ratio"] for pair in pairs)
    save(
        "loop",
        {
            "steps_per_second_ours": (steps - 1) / median(pair["ours_s"] for pair in pairs),
            "steps_per_second_bare": (steps - 1) / median(pair["bare_s"] for pair in pairs),
            "ratio": ratio,
            "bar": BAR,
            "pairs": pairs,
        },
        f"loop: {ratio:.3f} of the bare loop's steps per second (bar: at least {BAR})",
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
