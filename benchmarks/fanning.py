"""What the benchmarks of fan-outs share: a trunk to branch from, and each launcher's command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.setting import ROOT

TRUNK = (
    "training.steps=2000",
    "checkpoint.every=20",
    "checkpoint.keep_last=1",
    "scheduler.warmup_steps=5",
    "tracker=none",
    "training.validate_every=0",
)
"""A trunk of whose schedule only the first steps are ever trained."""
LOG_EVERY = "training.log_every=100"

BARE = """
import json, sys
import torch
torch.set_num_threads(1)
from launcher.config import Config
from launcher.peptide.task import PeptideTask
checkpoint, config, rate, steps, line = sys.argv[1:]
task = PeptideTask(Config.from_plain(json.load(open(config))))
state = torch.load(checkpoint, weights_only=True)
model = task.build_model()
model.load_state_dict(state["model_state_dict"])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
optimizer.load_state_dict(state["optimizer_state_dict"])
for group in optimizer.param_groups:
    group["lr"] = float(rate)
with open(line, "w") as log:
    for step in range(state["step"] + 1, state["step"] + 1 + int(steps)):
        optimizer.zero_grad(set_to_none=True)
        loss, _ = task.loss(model, task.batch(step), step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == state["step"] + 1:
            log.write(json.dumps({"step": step, "loss": loss.item()}) + "\\n")
            log.flush()
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, line + ".pt")
"""


class Setting:
    """A trunk with a checkpoint at step 20, and places for what branches from it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        command = [*self._train(), *TRUNK, "training.steps=20", f"paths.outputs={place}/trunk"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        [run] = (place / "trunk" / "trunks").iterdir()
        self.checkpoint = run / "checkpoints" / "checkpoint_step_20.pt"
        self.config = place / "config.json"
        self.config.write_text(
            json.dumps(json.loads(self.checkpoint.with_suffix(".json").read_text())["config"])
        )
        self.script = place / "bare.py"
        self.script.write_text(BARE)
        self._count = 0

    def _train(self) -> list[str]:
        return [sys.executable, "train.py"]

    def command(
        self, launcher: str, rates: Sequence[str], steps: int, outputs: Path, *more: str
    ) -> list[str]:
        """``train.py -m`` with that launcher."""
        return [
            *self._train(), "-m", *TRUNK[1:], LOG_EVERY,
            f"branch.from_checkpoint={self.checkpoint}", f"branch.steps={steps}",
            f"checkpoint.every={steps}", f"optimizer.lr={','.join(rates)}",
            f"hydra/launcher={launcher}", f"paths.outputs={outputs}", *more,
        ]  # fmt: skip

    def siblings(self, launcher: str, rates: Sequence[str], steps: int, *more: str) -> Callable[[], float]:
        """Seconds of ``train.py -m`` with that launcher, from the command to its end."""

        def run() -> float:
            self._count += 1
            outputs = self.place / f"{launcher}-{self._count}"
            seconds = timed(self.command(launcher, rates, steps, outputs, *more))
            finished = len(list(outputs.glob("*/*/checkpoints/*.json")))
            assert finished == len(rates), (
                f"{launcher}: {finished} of {len(rates)} siblings have a checkpoint"
            )
            shutil.rmtree(outputs)
            return seconds

        return run

    def shell(self, rates: Sequence[str], steps: int, at_once: int) -> Callable[[], float]:
        """Seconds of a shell that runs a bare script for each rate, so many at the same time."""
        bare = f"{sys.executable} {self.script} {self.checkpoint} {self.config}"
        each = f"{bare} {{}} {steps} {self.place}/line-{{}}"
        script = f"printf '%s\\n' {' '.join(rates)} | xargs -P {at_once} -I {{}} {each}"
        return lambda: timed(["bash", "-c", script])

    def bare_start(self) -> float:
        """Seconds of one bare script that takes one step, from the command to its end."""
        return self.shell(["1e-4"], 1, 1)()

    def bare_steps(self, steps: int, at_once: int = 1) -> float:
        """Seconds of so many steps of a bare script, without its start, with so many running side by side."""
        chosen = rates(at_once)
        return self.shell(chosen, steps + 1, at_once)() - self.shell(chosen, 1, at_once)()


def timed(command: Sequence[str]) -> float:
    """Seconds of a command from its start to its end, which has to be a good one."""
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds


def rates(count: int) -> list[str]:
    """So many learning rates."""
    return [f"{(index + 1) * 1e-5:.5f}" for index in range(count)]
