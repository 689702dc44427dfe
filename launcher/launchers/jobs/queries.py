"""What is asked of SLURM about jobs, and what is done to them. Each question has a time limit.

A job is named as SLURM names it: ``123``, or ``123_4`` for task 4 of the array 123.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from launcher.errors import ConfigError, LauncherError
from launcher.lineage import RunRecord
from launcher.messages import first_line

ANSWER_SECONDS = 60.0
"""How long SLURM has for an answer; its own programs give up a little earlier."""
CERTAIN_SECONDS = 5.0
"""Time between two questions whose equal answers are believed: a lost node's job is FAILED for a moment."""
ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
)
"""States of a job that does not run any more, unless SLURM puts it back into the queue."""
_FIELDS = ("JobArrayID", "State", "Reason", "RestartCnt", "PriorityLong", "NodeList", "Name", "PreemptTime")
_JOBS_A_QUESTION = 500


class SlurmError(LauncherError):
    """SLURM gave no answer, or refused."""

    exit_status = 1


@dataclass(frozen=True)
class JobState:
    """What SLURM knows of a job at one moment."""

    id: str
    state: str
    """``PENDING``, ``RUNNING``, ``COMPLETED``, …; ``UNKNOWN`` where SLURM has forgotten the job."""
    reason: str = ""
    """Why it is pending."""
    restarts: int = 0
    """How often SLURM has started it again."""
    priority: int = 1
    nodes: str = ""
    name: str = ""
    listed: bool = True
    """Whether squeue has it among the jobs that are not over."""
    preempted: bool = False
    """Whether another job takes its place: it is within its grace time, or waits to be started again."""

    @property
    def held(self) -> bool:
        """Whether it does not start before somebody releases it."""
        return self.state == "PENDING" and self.priority == 0

    @property
    def held_after_requeue(self) -> bool:
        """Whether SLURM holds it because it could not be started again: "launch failed requeued held"."""
        return self.held and "requeued held" in self.reason.replace("_", " ")

    @property
    def ended(self) -> bool:
        """Whether nothing runs and nothing waits at this moment; see :func:`certain_states`."""
        return not self.listed and (self.state in ENDED or self.state == "UNKNOWN")

    def under_way(self, alive: bool) -> tuple[str, str]:
        """See :class:`launcher.launchers.sibling.Job`."""
        if self.held:
            return "held", f"job {self.id}: {self.reason}"
        if self.state in {"PENDING", "REQUEUED", "REQUEUE_FED", "SUSPENDED"}:
            again = "back in the queue" if self.restarts else "in the queue"
            preempted = "preempted, " if self.preempted else ""
            return "queued", f"job {self.id}: {preempted}{again} ({self.reason})"
        where = f" on {self.nodes}" if self.nodes else ""
        return "running", f"job {self.id}{where}{self._phase(alive)}"

    def _phase(self, alive: bool) -> str:
        if self.state == "COMPLETING":
            return ", ending"
        if self.preempted:
            return ", preempted"
        return "" if alive else ", starting"

    def over(self, record: RunRecord) -> tuple[str, str]:
        """See :class:`launcher.launchers.sibling.Job`."""
        if self.state == "CANCELLED" and record.error and not record.starts:
            return "not started", first_line(record.error)
        if self.state == "CANCELLED" and record.state != "failed":
            return "cancelled", f"job {self.id}"
        if record.state == "failed":
            return "failed", first_line(record.error) or f"job {self.id}: {self.state}"
        if self.state == "UNKNOWN":
            state = "interrupted" if record.starts else "not started"
            return state, f"SLURM does not know job {self.id} any more"
        return "failed", f"job {self.id}: {self.state}, exit before the run's end"


def ask(*command: str, seconds: float = ANSWER_SECONDS, environment: Mapping[str, str] | None = None) -> str:
    """What one of SLURM's programs prints.

    Raises:
        ConfigError: the program is not on PATH.
        SlurmError: it failed, or gave no answer in time.
    """
    pipe = subprocess.PIPE
    try:
        # In its own session: a signal to the job's process group is not meant for it.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace",
            start_new_session=True, env=environment,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no {command[0]} here.",
            where="PATH",
            expected="SLURM's programs: sbatch, squeue, scontrol, sinfo, scancel",
            do="launch from a login node of the cluster, or take another hydra/launcher",
        ) from error
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        # Sites wrap these programs: whatever the wrapper started holds the pipes as well.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise SlurmError(
            f"SLURM gave no answer within {seconds:.0f} s.",
            where=" ".join(command),
            do="see whether the controller is up: scontrol ping",
        ) from error
    if process.returncode != 0:
        said = (err or out).strip()
        raise SlurmError(f"{command[0]} failed.", where=" ".join(command), found=said or "no message")
    return out


def available() -> bool:
    """Whether SLURM can be asked from here."""
    return shutil.which("squeue") is not None


def queued(jobs: Iterable[str], every: bool = False) -> dict[str, JobState]:
    """What squeue lists of these jobs; each task of an array has its own entry.

    Args:
        jobs: ids; of an array, ``123`` means all tasks.
        every: also those that are over, as long as the controller remembers them.

    Raises:
        SlurmError: the controller gave no answer.
    """
    found: dict[str, JobState] = {}
    for ids in _parts(jobs):
        found.update(_squeue(f"--jobs={','.join(ids)}", *(["--states=all"] if every else [])))
    return found


def queued_as(name: str) -> dict[str, JobState]:
    """Jobs with this name that the controller remembers, over or not.

    Raises:
        SlurmError: the controller gave no answer.
    """
    return _squeue(f"--name={name}", "--states=all")


def accounted(jobs: Iterable[str]) -> dict[str, str] | None:
    """State by id as sacct has it; None where there is no accounting or it does not answer."""
    found: dict[str, str] = {}
    for ids in _parts(jobs):
        try:
            lines = ask("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(ids)).splitlines()
        except (SlurmError, ConfigError):
            return None
        # "CANCELLED by 0" is CANCELLED. Tasks that have not started are one line: 12_[3-5]; squeue has those.
        pairs = (line.split("|", maxsplit=1) for line in lines if "|" in line and "[" not in line)
        found.update({job: state.split()[0] for job, state in pairs if state})
    return found


def _preempted(jobs: Iterable[str]) -> set[str]:
    """Those whose last start ended in a preemption, as far as sacct says so."""
    last: dict[str, tuple[str, str]] = {}
    for ids in _parts(jobs):
        with contextlib.suppress(LauncherError):
            shown = ask("sacct", "-X", "-D", "-n", "-P", "-o", "JobID,Submit,State", "-j", ",".join(ids))
            for job, submitted, state in (line.split("|") for line in shown.splitlines() if "[" not in line):
                if not state.startswith("PENDING"):
                    last[job] = max(last.get(job, ("", "")), (submitted, state), key=lambda one: one[0])
    return {job for job, (_, state) in last.items() if state == "PREEMPTED"}


def states(jobs: Sequence[str]) -> dict[str, JobState]:
    """What SLURM says of each job now: the queue first, then accounting, then the controller's memory.

    Raises:
        SlurmError: the controller gave no answer.
    """
    if not jobs:
        return {}
    known = queued(_arrays(jobs), every=True)
    booked = accounted(_arrays(jobs)) or {}
    preempted = _preempted(job for job, one in known.items() if one.state == "PENDING" and one.restarts)
    answer = {}
    for job in jobs:
        there = known.get(job)
        if there is not None and there.state not in ENDED:
            answer[job] = replace(there, preempted=there.preempted or job in preempted)
            continue
        ended = booked.get(job) or (there.state if there is not None else "UNKNOWN")
        if there is not None and there.state == "CANCELLED":
            # Of a job that was cancelled on its way back into the queue sacct says REQUEUED for ever.
            ended = there.state
        elif there is None and ended not in ENDED:
            ended = "UNKNOWN"  # What the controller does not know never starts again.
        answer[job] = replace(
            there or JobState(job, ended), state=ended, listed=ended not in (*ENDED, "UNKNOWN")
        )
    return answer


def certain_states(jobs: Sequence[str], seconds: float = CERTAIN_SECONDS) -> dict[str, JobState]:
    """As :func:`states`; where a job has ended, SLURM said so twice, some seconds apart.

    Raises:
        SlurmError: the controller gave no answer.
    """
    first = states(jobs)
    over = [job for job, state in first.items() if state.ended]
    if not over:
        return first
    time.sleep(seconds)
    return {**first, **states(over)}


def show_job(job: str) -> dict[str, str]:
    """The fields of ``scontrol show job``; those whose value has spaces are cut at the first.

    Raises:
        SlurmError: the controller gave no answer, or does not know the job.
    """
    words = ask("scontrol", "show", "job", "-o", job).split()
    return dict(word.split("=", maxsplit=1) for word in words if "=" in word)


def requeue(job: str) -> None:
    """Put a job back into the queue. Running, it is killed.

    Raises:
        SlurmError: refused, or no answer.
    """
    ask("scontrol", "requeue", job)


def release(jobs: Iterable[str]) -> None:
    """Let held jobs start.

    Raises:
        SlurmError: refused, or no answer.
    """
    for ids in _parts(jobs):
        ask("scontrol", "release", ",".join(ids))


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs; those that are over already are passed over.

    Raises:
        SlurmError: refused, or no answer.
    """
    for ids in _parts(jobs):
        ask("scancel", "--quiet", *ids)


def _squeue(*options: str) -> dict[str, JobState]:
    asked = ",".join(f"{name}:256|" for name in _FIELDS)
    try:
        lines = ask("squeue", "--noheader", "--array", f"--Format={asked}", *options).splitlines()
    except SlurmError as error:
        if "Invalid job id" in (error.found or ""):
            return {}  # The controller has forgotten it.
        raise
    found = {}
    for line in lines:
        job, state, reason, restarts, priority, nodes, name, preempted = (
            part.strip() for part in line.split("|")[: len(_FIELDS)]
        )
        found[job] = JobState(
            job, state, reason, number(restarts), number(priority), nodes, name, state not in ENDED,
            preempted=number(preempted) > 0,
        )  # fmt: skip
    return found


def _parts(jobs: Iterable[str]) -> list[list[str]]:
    """So few ids at once that they fit into a command line."""
    every = list(dict.fromkeys(jobs))
    return [every[at : at + _JOBS_A_QUESTION] for at in range(0, len(every), _JOBS_A_QUESTION)]


def _arrays(jobs: Iterable[str]) -> list[str]:
    return sorted({job.partition("_")[0] for job in jobs})


def number(text: str) -> int:
    """The number that a field begins with: ``64000+`` is 64000; 0 if there is none."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0
