"""Runs of the tiny task, each in a process of its own, through the whole door.

Starting Python and importing torch takes seconds. So the processes are forked from one that has
everything imported and has computed nothing; each is a real process that real signals can end.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra

from launcher.checkpoint.manifest import Manifest, read_manifest
from launcher.checkpoint.store import checkpoints, step_of
from launcher.layout import checkpoint_file
from launcher.lineage import Run, read_run, read_runs
from launcher.trackers.metrics_file import read_metrics

ROOT = Path(__file__).parents[1]
WIDE = {"COLUMNS": "400"}
"""So wide that nothing in a table is folded."""

Prepare = Callable[[], object]
"""Done in the process before it starts; a function of tests/tiny_faults.py or a partial of one."""

PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = [
    "launcher.entry",
    "launcher.cli",
    "launcher.sources.fetch",
    "launcher.launchers.custom_jobs.client",
    "tests.tiny_process",
    "tests.tiny_faults",
    "torch._dynamo",
    "launcher.checkpoint.shard_writer",
    "launcher.training.sharding",
    "tests.tiny_composed",
]
"""What takes long to import, and computes nothing."""


def preload(*modules: str) -> None:
    """Import these as well before any process of a test is forked. For a test file's own top."""
    PRELOADED.extend(modules)
    PROCESSES.set_forkserver_preload(PRELOADED)


preload()


@dataclass(frozen=True)
class Ended:
    """What a process left, apart from its files."""

    status: int
    """As a shell shows it: 128 + number after a signal."""
    out: str
    err: str

    @property
    def said(self) -> str:
        """Both streams on one line, with single spaces."""
        return " ".join((self.out + " " + self.err).split())

    def commands(self) -> list[list[str]]:
        """The arguments of each ``python train.py ...`` command that was printed."""
        lines = [line.partition("python train.py")[2] for line in (self.out + self.err).splitlines()]
        return [shlex.split(line) for line in lines if line]


@dataclass
class Started:
    """A process under way."""

    process: ForkServerProcess
    streams: tempfile.TemporaryDirectory[str]

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def end(self, seconds: float = 120) -> Ended:
        """Wait for it."""
        self.process.join(seconds)
        status = self.process.exitcode
        if status is None:
            self.process.kill()
            self.process.join()
            status = -9
        files = (Path(self.streams.name, name) for name in ("out", "err"))
        # A process that was killed at once has opened neither.
        out, err = (file.read_text() if file.exists() else "" for file in files)
        self.process.close()
        self.streams.cleanup()
        return Ended(128 - status if status < 0 else status, out, err)


@dataclass(frozen=True)
class Tiny:
    """The tiny project over one directory of runs."""

    outputs: Path

    def start(
        self,
        *overrides: str,
        prepare: Sequence[Prepare] = (),
        environment: Mapping[str, str] | None = None,
        module: str = "tests.tiny_train",
    ) -> Started:
        """Begin ``python -m tests.tiny_train OVERRIDES paths.outputs=...``."""
        if module == "tests.tiny_train" and not any(one.startswith("paths.outputs=") for one in overrides):
            overrides = (*overrides, f"paths.outputs={self.outputs}")
        streams = tempfile.TemporaryDirectory()
        arguments = (module, list(overrides), {**WIDE, **(environment or {})}, list(prepare), streams.name)
        # A test that fails does not wait for it.
        process = PROCESSES.Process(target=_child, args=arguments, daemon=True)
        process.start()
        return Started(process, streams)

    def launch(self, *overrides: str, **options: Any) -> Ended:
        """Run it to its end."""
        return self.start(*overrides, **options).end()

    def train(self, *overrides: str, **options: Any) -> Run:
        """Run it to its end, which has to be a good one; the run that it was."""
        ended = self.launch(*overrides, **options)
        assert ended.status == 0, ended.err
        return self.summarised(ended)

    def summarised(self, ended: Ended) -> Run:
        """The run whose summary a process printed."""
        [line] = [line for line in ended.out.splitlines() if line.startswith("directory ")]
        return read_run(Path(line.removeprefix("directory ").strip()))

    def refuse(self, *overrides: str, **options: Any) -> Ended:
        """Run it; it is refused with exit status 2, one message, and nothing on disk."""
        before = self.files()
        ended = self.launch(*overrides, **options)
        assert ended.status == 2, (ended.status, ended.out, ended.err)
        assert "Traceback" not in ended.err
        assert ended.out == ""
        assert self.files() == before, "a refused launch wrote to disk"
        return ended

    def launcher(self, *arguments: str) -> Ended:
        """``launcher ARGUMENTS --outputs ...``."""
        return self.launch(*arguments, f"--outputs={self.outputs}", module="launcher.cli")

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file and directory below: size and time of the last change."""
        facts = {}
        for path in sorted(self.outputs.rglob("*")):
            stat = path.lstat()
            facts[str(path.relative_to(self.outputs))] = (
                0 if path.is_dir() else stat.st_size,
                stat.st_mtime_ns,
            )
        return facts

    def runs(self) -> list[Run]:
        """Every run; each record is whole."""
        runs, problems = read_runs(self.outputs)
        assert problems == []
        return runs

    def run(self, prefix: str) -> Run:
        """The one run whose id begins so."""
        [run] = [run for run in self.runs() if run.id.startswith(prefix)]
        return run

    @property
    def trunk(self) -> Run:
        """The one trunk."""
        return self.run("trunk-")


def in_a_new_interpreter(*arguments: str, **environment: str) -> Ended:
    """``python ARGUMENTS`` in the project's root, with nothing imported before."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env={**os.environ, **WIDE, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Ended(128 - done.returncode if done.returncode < 0 else done.returncode, done.stdout, done.stderr)


def manifests(run: Run) -> dict[int, Manifest]:
    """The manifest of each checkpoint, by step."""
    return {step_of(path): read_manifest(path) for path in checkpoints(run.directory.checkpoints)}


def digest(run: Run, step: int = 40) -> str:
    """The content digest of the checkpoint at a step; 40 is where the tiny trunk ends."""
    return read_manifest(run.directory.checkpoints / checkpoint_file(step)).sha256


def metrics(run: Run) -> dict[int, dict[str, Any]]:
    """The logged lines by step, each step being there once."""
    lines = read_metrics(run.directory.metrics)
    by_step = {line["global_step"]: line for line in lines}
    assert len(by_step) == len(lines)
    assert list(by_step) == sorted(by_step)
    return by_step


def _child(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    prepare: list[Prepare],
    streams: str,
) -> None:
    os.chdir(ROOT)
    # Daemonic processes may not have children, and a run may have ranks; they die with this one.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    # As in a terminal, also where the suite itself was started in the background, deaf to these signals.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        descriptor = os.open(Path(streams, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    if module.endswith(".py"):
        _run_script(Path(module), arguments, prepare)
        return
    if module == "tests.tiny_train":
        # Hydra composes everything once more only to look for hydra.mode, which nobody sets here.
        Hydra.get_mode = lambda *_, **__: None
    for one in prepare:
        one()
    sys.argv = [f"{module.rpartition('.')[2]}.py", *arguments]
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _run_script(script: Path, arguments: list[str], prepare: list[Prepare]) -> None:
    """As ``python SCRIPT ARGUMENTS``, in the script's directory."""
    os.chdir(script.parent)
    # Loaders fork their workers, as in a process that nobody forked.
    multiprocessing.set_start_method("fork", force=True)
    sys.path[0] = str(script.parent)
    for one in prepare:
        one()
    sys.argv = [script.name, *arguments]
    sys.modules.pop(script.stem, None)
    runpy.run_path(str(script), run_name="__main__")
