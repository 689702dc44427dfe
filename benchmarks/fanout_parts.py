"""A fan-out with the clock read between its parts: where the time of ``train.py -m`` goes.

Started by other benchmarks, as a script: Hydra finds the configs by its place.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import atexit  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from typing import Any  # noqa: E402

from rich.table import Table  # noqa: E402

from benchmarks.setting import ROOT  # noqa: E402
from benchmarks.start_parts import PARTS, timed  # noqa: E402

MARK = "parts of the fan-out: "


def watch(owner: Any, function: str, name: str) -> None:
    """Have the seconds of ``owner.function`` added to PARTS."""
    setattr(owner, function, timed(name, getattr(owner, function)))


def main(overrides: Sequence[str]) -> None:
    import torch  # noqa: F401

    PARTS["import torch"] = time.perf_counter() - STARTED
    started = time.perf_counter()
    import hydra

    import train  # noqa: F401 - it registers the task's schemas
    from launcher import sweep
    from launcher.entry import exit_with_one_message, register, run_job
    from launcher.fanout import check, launch

    register()
    PARTS["import Hydra, launcher, task"] = time.perf_counter() - started
    watch(sweep.BranchSweeper, "candidates", "compose the siblings")
    watch(check, "check", "check them")
    watch(launch, "write_launches", "write what is launched")
    watch(launch._Start, "here", "launch, and wait for the end")
    sweeping: Callable[..., Any] = sweep.BranchSweeper.sweep

    def swept(*arguments: Any, **named: Any) -> Any:
        PARTS["Hydra composes"] = time.perf_counter() - before
        return sweeping(*arguments, **named)

    sweep.BranchSweeper.sweep = swept  # type: ignore[method-assign]
    sys.argv = ["train.py", "-m", *overrides]
    own = os.getpid()

    def job(composed: Any) -> None:
        run_job(composed)

    def tell() -> None:
        if os.getpid() == own:
            PARTS["all"] = time.perf_counter() - STARTED
            print(MARK + json.dumps(PARTS), flush=True)

    atexit.register(tell)
    before = time.perf_counter()
    exit_with_one_message(hydra.main(version_base="1.3", config_path="../conf", config_name="config")(job))


def parts(command: Sequence[str]) -> dict[str, float]:
    """Seconds of each part of ``python train.py -m OVERRIDE ...``."""
    assert command[2] == "-m"
    done = subprocess.run(
        [command[0], __file__, *command[3:]], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    [line] = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    found: dict[str, float] = json.loads(line.removeprefix(MARK))
    found["the rest"] = found["all"] - sum(value for key, value in found.items() if key != "all")
    return found


def table_of(found: dict[str, float]) -> Table:
    """The parts, as they are shown."""
    table = Table("part", "seconds")
    for name, seconds in found.items():
        table.add_row(name, f"{seconds:.2f}")
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
