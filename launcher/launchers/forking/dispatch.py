"""Which process starts when: places are taken in order, ends are waited for, signals are passed on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from launcher.launchers.forking.fork_server import Ended, ForkServer, Order, ServerLost, Started
from launcher.launchers.forking.slots import Place, Slots
from launcher.launchers.forking.stopping import Stopped, Stopping
from launcher.launchers.sibling import Outcome, Sibling

TICK_SECONDS = 0.5
"""How often the display is renewed while nothing happens."""
_KILLED_SECONDS = 10.0
"""How long the ends of killed processes are waited for; one that hangs in the kernel dies when it can."""
_NOT_INHERITED = ("WANDB_SERVICE",)
"""W&B's service belongs to the process that started it, and takes those that share it down with it."""


@dataclass(frozen=True)
class Job:
    """One process to run."""

    sibling: Sibling
    payload: Any
    """What the fork server's work is given."""
    log: Path


class Watcher(Protocol):
    """Who is told how the jobs get on."""

    def started(self, sibling: Sibling, pid: int) -> None:
        """Its process runs."""
        ...

    def ended(self, sibling: Sibling, ended: Ended) -> Outcome:
        """Its process has ended; what is to be said about that."""
        ...

    def stopping(self, stopping: Stopping) -> None:
        """A signal asked to stop, or, the second time, to stop at once."""
        ...

    def tick(self) -> None:
        """Called at least twice a second."""
        ...


class Dispatch:
    """Runs jobs on a fork server.

    Args:
        server: forks them.
        slots: where they run.
        max_parallel: siblings at the same time; None: as many as there are places for.
        stop_on_failure: start none after one has failed.
    """

    def __init__(
        self,
        server: ForkServer,
        slots: Slots,
        watcher: Watcher,
        max_parallel: int | None = None,
        stop_on_failure: bool = False,
    ) -> None:
        self._server, self._slots, self._watcher = server, slots, watcher
        self._max_parallel, self._stop_on_failure = max_parallel, stop_on_failure
        self._waiting: list[tuple[int, Job]] = []
        self._running: dict[int, tuple[Job, Place]] = {}
        self._pids: dict[int, int] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._refused = ""

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """All jobs to their ends; one outcome each, in their order.

        Raises:
            Stopped: a signal asked for it. Every process has ended by then.
        """
        self._waiting = list(enumerate(jobs))
        with Stopping() as stopping:
            try:
                self._until_all_ended(stopping)
            except ServerLost as lost:
                self._give_up(lost)
        for number, job in self._waiting:
            self._outcomes[number] = Outcome(job.sibling.id, None, f"not started: {self._refused}")
        outcomes = [self._outcomes[number] for number in range(len(jobs))]
        if stopping.asked is not None:
            raise Stopped(stopping.asked, outcomes)
        return outcomes

    def _until_all_ended(self, stopping: Stopping) -> None:
        told: signal.Signals | None = None
        deadline = float("inf")
        while True:
            if stopping.asked is not None and told is None:
                self._refused = f"stopped by {stopping.asked.name}"
                # SIGINT, whatever came here: in a SLURM job SIGTERM means "save, and wait to be killed".
                told = signal.SIGINT
                self._watcher.stopping(stopping)
                self._server.signal_all(told)
            if stopping.at_once and told != signal.SIGKILL:
                told, deadline = signal.SIGKILL, time.monotonic() + _KILLED_SECONDS
                self._watcher.stopping(stopping)
                self._server.signal_all(told)
            self._start_what_fits()
            if not self._running or time.monotonic() > deadline:
                return
            wait([self._server.fileno(), stopping.fileno()], TICK_SECONDS)
            stopping.drain()
            for report in self._server.reports():
                self._take(report)
            self._watcher.tick()

    def _start_what_fits(self) -> None:
        while self._waiting and not self._refused:
            if self._max_parallel is not None and len(self._running) >= self._max_parallel:
                return
            number, job = self._waiting[0]
            # In order: a large sibling would wait for ever if small ones were let past it.
            place = self._slots.take(job.sibling)
            if place is None:
                return
            del self._waiting[0]
            self._running[number] = job, place
            threads = self._slots.threads(job.sibling)
            self._server.start(Order(number, job.payload, job.log, _environment(place, threads), threads))

    def _take(self, report: Started | Ended) -> None:
        if isinstance(report, Started):
            self._pids[report.number] = report.pid
            self._watcher.started(self._running[report.number][0].sibling, report.pid)
            return
        job, place = self._running.pop(report.number)
        self._slots.give_back(place)
        outcome = self._watcher.ended(job.sibling, report)
        self._outcomes[report.number] = outcome
        if outcome.status and self._stop_on_failure and not self._refused:
            self._refused = f"{job.sibling.id} failed"

    def _give_up(self, lost: ServerLost) -> None:
        self._refused = f"the fork server is gone: {str(lost).strip().splitlines()[-1]}"
        for number, (job, _) in self._running.items():
            pid = self._pids.get(number)
            reason = f"process {pid} goes on unwatched" if pid else "it is not known whether it was started"
            self._outcomes[number] = Outcome(job.sibling.id, None, f"{reason}: {self._refused}")


def _environment(place: Place, threads: int) -> Mapping[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    # For what the sibling starts itself; PyTorch in the sibling is told directly.
    environment.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)))
    if place.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
    return environment
