"""Hydra's own contract for a launcher: jobs that are composed and run by Hydra's ``run_job``."""

from __future__ import annotations

import logging
import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from launcher.errors import RunFailed
from launcher.launchers.forking.dispatch import Dispatch, Job
from launcher.launchers.forking.ending import describe
from launcher.launchers.forking.fork_server import Ended, ForkServer
from launcher.launchers.forking.forked import print_to
from launcher.launchers.forking.slots import Slots
from launcher.launchers.forking.stopping import Stopping
from launcher.launchers.sibling import Outcome, Sibling

log = logging.getLogger(__name__)

SlotsFor = Callable[[Sequence[Sibling]], Slots]


@dataclass(frozen=True)
class Hydra:
    """What Hydra hands to a launcher."""

    context: HydraContext
    task_function: TaskFunction
    config: DictConfig


@dataclass(frozen=True)
class HydraJob:
    """One job: what a forked process is told of it."""

    number: int
    overrides: tuple[str, ...]
    result: Path
    """Where the process leaves the JobReturn, or the exception that kept it from one; pickled."""

    def run(self, hydra: Hydra) -> int:
        """Compose and run the job in this process."""
        returned: JobReturn | Exception
        try:
            returned = self._run(hydra)
        except Exception as error:
            returned = error
        self.result.write_bytes(_pickled(returned))
        return 0

    def _run(self, hydra: Hydra) -> JobReturn:
        setup_globals()
        config = hydra.context.config_loader.load_sweep_config(hydra.config, list(self.overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = self.number
        HydraConfig.instance().set_config(config)
        sweep = config.hydra.sweep
        output = Path(str(sweep.dir), str(sweep.subdir))
        output.mkdir(parents=True, exist_ok=True)
        print_to(output / "log.txt")
        return run_job(
            hydra_context=hydra.context,
            task_function=hydra.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def _pickled(returned: JobReturn | Exception) -> bytes:
    """The result as bytes; one that cannot travel makes the job a failed one, and takes no other along."""
    try:
        pickled = pickle.dumps(returned)
        pickle.loads(pickled)  # Some exceptions can be pickled, but not read again.
        return pickled
    except Exception as error:
        said = returned._return_value if isinstance(returned, JobReturn) else returned
        unsent = RunFailed(f"A job's result cannot be sent: {error}", found=repr(said))
        if isinstance(returned, JobReturn):
            returned.status, returned._return_value = JobStatus.FAILED, unsent
            return pickle.dumps(returned)
        return pickle.dumps(unsent)


def launch_jobs(
    hydra: Hydra, server: ForkServer, slots: SlotsFor, overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Run one job for each list of overrides; what each returned, in their order.

    A job whose process died is a failed one.

    Args:
        hydra: what the launcher was handed.
        server: forks the processes; its work runs :class:`HydraJob`.
        slots: gives the places for the jobs.
        overrides: each job's.
        first: number of the first job.

    Raises:
        Exception: a job could not be composed.
        Stopped: a signal asked for it.
    """
    configure_log(hydra.config.hydra.hydra_logging, hydra.config.hydra.verbose)
    sweep = Path(str(hydra.config.hydra.sweep.dir))
    sweep.mkdir(parents=True, exist_ok=True)
    log.info("Launching %d jobs in a pool, output directory %s", len(overrides), sweep)
    with tempfile.TemporaryDirectory(prefix="pool-") as results:
        jobs, siblings = [], []
        for number, one in enumerate(overrides, start=first):
            log.info("\t#%d : %s", number, " ".join(filter_overrides(one)))
            siblings.append(Sibling(str(number), sweep, end_step=0))
            work = HydraJob(number, tuple(one), Path(results, str(number)))
            jobs.append(Job(siblings[-1], work, Path(results, f"{number}.log")))
        outcomes = Dispatch(server, slots(siblings), _Quiet()).run(jobs)
        return [_returned(job.payload, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]


def _returned(job: HydraJob, outcome: Outcome) -> JobReturn:
    if job.result.is_file():
        returned: Any = pickle.loads(job.result.read_bytes())
        if isinstance(returned, Exception):
            raise returned
        assert isinstance(returned, JobReturn)
        return returned
    dead = RunFailed(f"Job {job.number} ended without a result: {outcome.reason or 'exit status 0'}.")
    return JobReturn(
        overrides=list(job.overrides), cfg=OmegaConf.create(), status=JobStatus.FAILED, _return_value=dead
    )


class _Quiet:
    """Hydra's jobs have logs of their own and no leases to look at."""

    def started(self, sibling: Sibling, pid: int) -> None: ...

    def ended(self, sibling: Sibling, ended: Ended) -> Outcome:
        return Outcome(sibling.id, ended.status, describe(ended))

    def stopping(self, stopping: Stopping) -> None:
        assert stopping.asked is not None
        log.warning("%s: %s.", stopping.asked.name, "killing all jobs" if stopping.at_once else "stopping")

    def tick(self) -> None: ...
