"""``task._target_`` of a script that keeps its own loop: its function, and what the checks learn from it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.optim import Optimizer

from launcher.config import Config
from launcher.differences import plain
from launcher.errors import ConfigError, LauncherError
from launcher.script.parts import Parts
from launcher.script.reading import noted
from launcher.script.run import Facts, Run
from launcher.training.task import Direction, Stateful

Main = Callable[[DictConfig, Run], Any]


class OwnLoop:
    """A script's function, and what it registers: found out without training, when it is asked for."""

    def __init__(self, config: Config) -> None:
        """Import the script.

        Raises:
            ConfigError: it cannot be imported, or has no such function; or the config asks for what only the
                launcher's own loop does.
        """
        self.main = imported(config.task.main or "")
        self._config = config
        self._parts: Parts | None = None
        if config.launch.nproc != 1:
            raise ConfigError(
                "A loop of a script's own is trained by one process.",
                where="launch.nproc",
                found=f"launch.nproc={config.launch.nproc}",
                expected="launch.nproc=1",
                do="drop it; several processes can share a task, which the launcher's own loop trains",
            )

    @property
    def parts(self) -> Parts:
        """What the script registers; on the meta device, unless it cannot be built there.

        Raises:
            LauncherError: ``main`` failed, or ended, before it registered anything.
        """
        if self._parts is None:
            self._parts = probe(self.main, self._config)
        return self._parts

    @property
    def optimizer(self) -> Optimizer | None:
        """The one whose state is a checkpoint's ``optimizer_state_dict``."""
        return self.parts.optimizers.get("optimizer")

    def stateful(self) -> Mapping[str, Stateful]:
        """Whatever the script registers besides the model, under names of its own."""
        return self.parts.others

    @property
    def directions(self) -> Mapping[str, Direction]:
        """Which way metrics are better, where the script says so."""
        return self.parts.directions

    def fingerprint(self) -> str:
        """Identifies the data, or says that nobody knows it."""
        return self.parts.fingerprint


def imported(name: str) -> Main:
    """The function that MODULE.FUNCTION names, without the launcher's decorator.

    Raises:
        ConfigError: there is none.
    """
    module, _, attribute = name.rpartition(".")
    try:
        try:
            found = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError:
            # A console command does not look for modules where it was typed.
            if str(Path.cwd()) in sys.path:
                raise
            sys.path.append(str(Path.cwd()))
            found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            "The script's function cannot be imported.",
            where="task.main",
            found=f"task.main={name}: {error}",
            expected="a function main(cfg, run) of a module that Python finds here",
        ) from error
    main: Main = inspect.unwrap(found)
    return main


def probe(main: Main, config: Config) -> Parts:
    """What ``main`` registers, without training: on the meta device, or else built on the CPU.

    The random streams of this process are left as they are; what is printed meanwhile is not shown.

    Raises:
        LauncherError: ``main`` failed, or ended, before it registered anything.
    """
    with _undisturbed(), tempfile.TemporaryDirectory() as directory:
        for kind in ("meta", "cpu"):
            device = torch.device(kind)
            steps = config.training.steps
            run = _Probe(Facts("probe", Path(directory), device, config.seed, steps, steps))
            cfg, _ = noted(plain(config))
            try:
                with device, _quietly():
                    main(cfg, run)
            except _Unwound as unwound:
                return unwound.parts
            except LauncherError:
                raise
            except Exception as error:
                if kind == "cpu":
                    raise _failed(error, main) from error
            else:
                raise ConfigError(
                    "The script's main(cfg, run) ended without registering anything.",
                    where=config.task.main,
                    expected="run.register(model=..., optimizer=...)",
                )
    raise AssertionError


def _failed(error: Exception, main: Main) -> ConfigError:
    script = inspect.getfile(main)
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == script]
    where = f"{script}:{frames[-1].lineno}" if frames else script
    return ConfigError(
        "The script's main(cfg, run) failed before it registered anything.",
        where=where,
        found=f"{type(error).__name__}: {error}",
        do="HYDRA_FULL_ERROR=1 shows the whole traceback",
    )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Leaves the random streams, the number of threads and the default dtype as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    # A copy of a process that computed with several threads hangs, and ranks may be forked from this one.
    torch.set_num_threads(1)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


class _Unwound(BaseException):
    """Takes what was registered out of the script."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts


class _Probe(Run):
    """A run that goes no further than to what is registered."""

    probing = True
    step = 0
    should_stop = log_due = evaluation_due = False

    def _registered(self, parts: Parts) -> NoReturn:
        raise _Unwound(parts)

    def log(self, metrics: Mapping[str, float | Tensor]) -> None:
        """Before the first step there is nothing to log."""

    def save(self) -> None:
        """Nothing is saved."""

    def stop(self) -> None:
        """There is nothing to stop."""

    def begin(self) -> NoReturn:
        """The loop has come before anything was registered.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "The script's loop begins before anything was registered.",
            expected="run.register(model=..., optimizer=...) before run.steps()",
        )

    def advance(self) -> None:
        """Never reached."""

    def leave_if_interrupted(self) -> None:
        """Never reached."""
