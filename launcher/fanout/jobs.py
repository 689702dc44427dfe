"""The jobs that runs are, whoever has them: SLURM, or Vertex AI. Each is asked about its own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from launcher.errors import LauncherError
from launcher.launchers.custom_jobs import states as vertex
from launcher.launchers.jobs import queries as slurm
from launcher.launchers.sibling import Job


def system_of(job: str) -> str:
    """Who has the job."""
    return "Vertex AI" if vertex.is_custom_job(job) else "SLURM"


def known(jobs: Sequence[str]) -> dict[str, Job]:
    """What is said of each job now, without those whose system cannot be asked from here."""
    answer: dict[str, Job] = {}
    of_slurm, of_vertex = _by_system(jobs)
    with contextlib.suppress(LauncherError):
        if of_slurm and slurm.available():
            answer.update(slurm.states(of_slurm))
    with contextlib.suppress(LauncherError):
        answer.update(vertex.states(of_vertex))
    return answer


def certain(jobs: Sequence[str]) -> dict[str, Job]:
    """What is said of every job; where SLURM's have ended, it said so twice.

    Raises:
        LauncherError: a system gave no answer.
    """
    of_slurm, of_vertex = _by_system(jobs)
    return {**slurm.certain_states(of_slurm), **vertex.states(of_vertex)}


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; those that are over already are passed over.

    Raises:
        LauncherError: a system refused, or gave no answer.
    """
    of_slurm, of_vertex = _by_system(jobs)
    slurm.cancel(of_slurm)
    vertex.cancel(of_vertex)


def prints_elsewhere(job: str) -> bool:
    """Whether what the job prints goes to no file in the run's directory."""
    return vertex.is_custom_job(job)


def places_of_log(job: str) -> list[str]:
    """What a person does to see what such a job printed."""
    return [*vertex.log_commands(job), vertex.console_url(job)]


def _by_system(jobs: Sequence[str]) -> tuple[list[str], list[str]]:
    every = list(dict.fromkeys(jobs))
    return (
        [job for job in every if not vertex.is_custom_job(job)],
        [job for job in every if vertex.is_custom_job(job)],
    )
