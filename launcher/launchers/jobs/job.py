"""Inside a SLURM job: which job this process is, and how it leaves after a signal.

SLURM says two things with signals, and the answer to one is wrong for the other:

- SIGUSR2 comes before the time limit, and at preemption on clusters with ``send_user_signal``. The job has
  to ask for its own requeue.
- SIGTERM alone is ``scancel``, or preemption on other clusters; nothing tells them apart. A requeue would
  bring a cancelled job back to life, and a job that leaves by itself while it is preempted counts as failed
  and is not started again. So the job waits to be killed, and SLURM does what it meant. Where SLURM means
  nothing, because somebody sent the signal by hand, the job leaves.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.errors import LauncherError
from launcher.launchers.jobs.queries import requeue, show_job
from launcher.training.signals import Interruption

LEFT_STATUS = 75
"""Exit status of a process that leaves for a requeue: EX_TEMPFAIL."""
KILL_SECONDS = 1800.0
"""How long a job waits to be killed where SLURM does not say what it means; more than a GraceTime."""
LOOK_SECONDS = 5.0
"""Time between two questions whether SLURM means to end the job; two equal answers count."""
REQUEUE_SECONDS = 600.0
"""How long a requeue is tried: a controller may be down for a while."""
_ON_ITS_WAY = ("PENDING", "COMPLETING", "PREEMPTED", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


@dataclass(frozen=True)
class SlurmJob:
    """The job that a process runs in."""

    id: str
    """``123_4`` for a task of an array, else ``123``: what ``scontrol requeue`` takes."""
    restarts: int
    """How often SLURM has started it again."""
    rank: int = 0
    """Which of the job's processes this is."""


def current_job(environment: Mapping[str, str] = os.environ) -> SlurmJob | None:
    """The SLURM job that this process runs in, if any."""
    job = environment.get("SLURM_JOB_ID")
    if not job:
        return None
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    restarts, rank = (
        int(text) if (text := environment.get(name, "")).isdecimal() else 0
        for name in ("SLURM_RESTART_COUNT", "SLURM_PROCID")
    )
    return SlurmJob(f"{array}_{task}" if array and task else job, restarts, rank)


def leave(
    job: SlurmJob,
    interruption: Interruption,
    kill_seconds: float = KILL_SECONDS,
    requeue_seconds: float = REQUEUE_SECONDS,
) -> int:
    """What is left to do once a signal stopped the run and its state is on disk; the exit status.

    Most often it does not return: SLURM kills the job first. Of a job's several processes, rank 0 asks for
    the requeue and the others wait.
    """
    if interruption.asked is signal.SIGINT:
        return interruption.exit_status
    if signal.SIGUSR2 not in interruption.received:
        _say(f"job {job.id}: the state is saved; waiting for SLURM to end the job.")
        if not _told(job, interruption, kill_seconds):
            _say(f"job {job.id}: SLURM does not end it; leaving. Launch it again to go on.")
            return interruption.exit_status
    if job.rank != 0:
        time.sleep(requeue_seconds)
    elif requeue_this(job, requeue_seconds):
        _say(f"job {job.id}: the state is saved and the job goes back into the queue.")
    else:
        _say(f"job {job.id}: could not be requeued for {requeue_seconds:.0f} s. Launch it again to go on.")
    return LEFT_STATUS


def requeue_this(job: SlurmJob, seconds: float) -> bool:
    """Put this process's job back into the queue, unless SLURM was first; False if it could not be done."""
    end = time.monotonic() + seconds
    for pause in itertools.chain((0, 1, 3), itertools.repeat(5)):
        time.sleep(pause)
        try:
            requeue(job.id)
            return True
        except LauncherError as refused:
            if _on_its_way(job.id):
                return True
            _say(f"job {job.id}: no requeue yet: {refused.found or refused.what}")
        if time.monotonic() > end:
            break
    return False


def _on_its_way(job: str) -> bool:
    try:
        return show_job(job).get("JobState") in _ON_ITS_WAY
    except LauncherError:
        return False


def _told(job: SlurmJob, interruption: Interruption, seconds: float) -> bool:
    """Wait to be killed; True: SIGUSR2 came; False: it will not happen, or did not for so long."""
    end, look, unmeant = time.monotonic() + seconds, time.monotonic() + LOOK_SECONDS, 0
    while signal.SIGUSR2 not in interruption.received:
        now = time.monotonic()
        if now > end or unmeant == 2:
            return False
        if now > look and job.rank == 0:
            look = now + LOOK_SECONDS
            unmeant = unmeant + 1 if _left_alone(job.id) else 0
        time.sleep(0.1)
    return True


def _left_alone(job: str) -> bool:
    """Whether SLURM says that the job runs, and neither preempts nor cancels it."""
    try:
        shown = show_job(job)
    except LauncherError:
        return False
    return shown.get("JobState") == "RUNNING" and shown.get("PreemptTime") == "None"


def _say(text: str) -> None:
    print(text, flush=True)
