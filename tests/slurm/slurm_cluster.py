"""The SLURM of `tests/slurm/cluster`, for tests."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

SCRIPT = Path(__file__).parent / "cluster"
NODES = ("n1", "n2", "n3", "n4")
NOT_INSTALLED = 3
"""Exit status of the script where SLURM neither is there nor can be installed."""

SQUEUE_FIELDS = ("JobArrayID", "State", "Partition", "NodeList", "Reason", "RestartCnt", "Name")
"""In the order of the fields of ``Job``."""

T = TypeVar("T")


class NotInstalled(Exception):
    """SLURM is not installed and cannot be."""


@dataclass(frozen=True)
class Job:
    """A line of squeue. Each task of an array has its own."""

    id: str
    """As SLURM writes it: ``12``, or ``12_3`` for a task of an array."""
    state: str
    partition: str
    nodes: str
    """Empty while the job is pending."""
    reason: str
    restarts: str
    """How often SLURM has requeued it, as a number."""
    name: str


@dataclass(frozen=True)
class Cluster:
    """Methods fail with ``CalledProcessError``, and what the script said, where the script fails."""

    options: Mapping[str, str] = field(default_factory=dict)
    """Of ``up``, by the name of their environment variable: see the head of the script."""

    def up(self) -> None:
        """Start it, or heal it; install it where that is possible.

        Raises:
            NotInstalled: with the reason in one line.
        """
        self._script("up", "--install")

    def reset(self) -> None:
        """No jobs, all nodes idle, all daemons alive."""
        self._script("reset")

    def down(self) -> None:
        """Stop everything that ``up`` started, and what is left of jobs."""
        self._script("down")

    def kill(self, node: str) -> None:
        """The machine dies: SIGKILL to slurmd and to every process of its jobs."""
        self._script("node", "kill", node)

    def cut(self, node: str) -> None:
        """The network is cut: only slurmd dies. The processes of jobs go on, unknown to the controller."""
        self._script("node", "cut", node)

    def revive(self, node: str) -> None:
        """Bring a node back, and wait until it is in service."""
        self._script("node", "up", node)

    def controller(self, alive: bool) -> None:
        """SIGKILL to slurmctld, or start it and wait until it answers.

        slurmctld saves its state up to 5 s after a change. What it had not saved is lost, as on any cluster:
        a new job is unknown, a cancelled one lives again. ``wait_for_saved`` before the kill avoids that.
        """
        self._script("controller", "up" if alive else "kill")

    def accounting(self, alive: bool) -> None:
        """SIGKILL to slurmdbd, or start it and wait until it answers."""
        self._script("accounting", "up" if alive else "kill")

    @cached_property
    def _environment(self) -> dict[str, str]:
        exports = [shlex.split(line)[1] for line in self._script("env").splitlines()]
        return {
            name: os.path.expandvars(value) for name, _, value in (each.partition("=") for each in exports)
        }

    def environment(self) -> dict[str, str]:
        """What a process needs beside its other environment to talk to this cluster: SLURM_CONF and PATH."""
        return dict(self._environment)

    def home(self) -> Path:
        """Everything of the cluster: configuration, logs, recorded pids."""
        return Path(self._environment["SLURM_CONF"]).parents[1]

    def run(self, *command: str) -> str:
        """What a command printed that talks to this cluster."""
        return _run(command, _without_slurm() | self._environment)

    def submit(self, script: str, *options: str) -> str:
        """The id of a batch job with this text. Its output is discarded unless ``options`` say otherwise."""
        wrapped = ["--parsable", "--chdir=/", "--output=/dev/null", *options, f"--wrap={script}"]
        return self.run("sbatch", *wrapped).strip()

    def jobs(self, *options: str) -> list[Job]:
        """What squeue lists: jobs that are not over. ``--states=all`` adds those that are."""
        asked = ",".join(f"{each}:256|" for each in SQUEUE_FIELDS)
        lines = self.run("squeue", "-h", "-r", "-O", asked, *options).splitlines()
        return [Job(*(each.strip() for each in line.split("|")[: len(SQUEUE_FIELDS)])) for line in lines]

    def accounted(self, job: str) -> dict[str, str]:
        """State by job id, as sacct has it: one entry for a job, one for each started task of an array."""
        lines = self.run("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", job).splitlines()
        return dict(line.split("|", maxsplit=1) for line in lines)

    def wait_for_saved(self, job: str) -> None:
        """Wait until slurmctld has saved all that it knows now. ``job`` is one that is not over."""
        token = f"saved-{time.monotonic_ns()}"
        saved = self.home() / "state" / "job_state"
        self.run("scontrol", "update", f"jobid={job}", f"comment={token}")
        self.wait_for(
            lambda: saved.exists() and token.encode() in saved.read_bytes(), 60, "slurmctld saves its state"
        )

    def wait_for(self, predicate: Callable[[], T], seconds: float, what: str) -> T:
        """Ask until the answer is true, and return it. The seconds are a limit for failures, not a pace.

        Raises:
            AssertionError: with squeue, sinfo and the end of the controller's log.
        """
        end = time.monotonic() + seconds
        while not (answer := predicate()):
            assert time.monotonic() < end, f"Not within {seconds} s: {what}\n{self.situation()}"
            time.sleep(0.1)
        return answer

    def situation(self) -> str:
        """What one wants to read after a failure."""
        log = self.home() / "log" / "slurmctld.log"
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:] if log.exists() else []
        seen = []
        for command in (("squeue", "--states=all"), ("sinfo", "-N", "-l")):
            done = subprocess.run(
                command, env=_without_slurm() | self._environment, capture_output=True, text=True, check=False
            )
            seen.append(f"$ {shlex.join(command)}\n{done.stdout}{done.stderr}")
        return "\n".join([*seen, f"End of {log}:", *tail])

    def _script(self, *arguments: str) -> str:
        try:
            return _run([str(SCRIPT), *arguments], _without_slurm() | dict(self.options))
        except subprocess.CalledProcessError as error:
            if error.returncode == NOT_INSTALLED:
                raise NotInstalled(error.stderr.strip()) from None
            raise


def _without_slurm() -> dict[str, str]:
    """The environment less what a job that these tests may themselves run in has set there."""
    prefixes = ("SLURM_", "SLURMD_", "SBATCH_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SRUN_")
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("SLURM_TEST_") or not name.startswith(prefixes)
    }


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        error.add_note(done.stderr)
        raise error
    return done.stdout
