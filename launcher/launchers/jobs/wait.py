"""Waiting for submitted siblings; the truth comes from SLURM and the run records, as often as asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from launcher.errors import LauncherError
from launcher.launchers.jobs.queries import CERTAIN_SECONDS, JobState, SlurmError, cancel, states
from launcher.launchers.sibling import Outcome, Sibling
from launcher.layout import RunDirectory
from launcher.lineage import read_run

log = logging.getLogger("launcher.launchers.slurm")
POLL_SECONDS = 5.0
"""Time between two questions. A controller serves everybody."""


def wait_for(
    siblings: Sequence[Sibling], jobs: Mapping[str, str], stop_on_failure: bool
) -> dict[str, Outcome]:
    """Wait until every sibling has ended, or somebody presses Ctrl-C, which leaves the jobs alone.

    Args:
        siblings: all submitted.
        jobs: sibling id → job id.
        stop_on_failure: cancel those that have not started once one has failed.

    Returns:
        Outcomes of those that have ended, by id.
    """
    waiting = _Waiting(siblings, jobs)
    try:
        while waiting.open:
            waiting.look()
            if stop_on_failure and any(outcome.status for outcome in waiting.ended.values()):
                waiting.cancel_pending()
            if waiting.open:
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        log.warning(
            "Not waiting any longer; the jobs go on. See them: squeue --jobs=%s. Cancel them: scancel %s",
            ",".join(waiting.arrays()), " ".join(waiting.arrays()),
        )  # fmt: skip
    return waiting.ended


class _Waiting:
    def __init__(self, siblings: Sequence[Sibling], jobs: Mapping[str, str]) -> None:
        self.open = {sibling.id: sibling for sibling in siblings}
        self.ended: dict[str, Outcome] = {}
        self._jobs = jobs
        self._over_since: dict[str, float] = {}
        self._now: dict[str, JobState] = {}
        self._told = ""

    def look(self) -> None:
        """Ask SLURM and the records once."""
        try:
            self._now = states([self._jobs[name] for name in self.open])
        except SlurmError as error:
            self._tell(f"SLURM gives no answer; asking again. {error.found or error.what}")
            return
        moment = time.monotonic()
        for name, sibling in list(self.open.items()):
            state = self._now[self._jobs[name]]
            if _state(sibling) == "finished":
                self._end(name, 0, state)
            elif not state.ended:
                self._over_since.pop(name, None)
            elif moment - self._over_since.setdefault(name, moment) >= CERTAIN_SECONDS:
                self._end(name, 0 if _state(sibling) == "pruned" else 1, state)
        self._tell_counts()

    def cancel_pending(self) -> None:
        """Cancel what has not started. What runs, or was interrupted and comes back, goes on."""
        pending = [
            job
            for name in self.open
            if (state := self._now.get(job := self._jobs[name])) is not None
            and state.state == "PENDING"
            and state.restarts == 0
        ]
        if pending:
            cancel(pending)

    def arrays(self) -> list[str]:
        """Ids of the arrays that are not over."""
        return sorted({self._jobs[name].partition("_")[0] for name in self.open})

    def _end(self, name: str, status: int, state: JobState) -> None:
        sibling = self.open.pop(name)
        said = "" if status == 0 else f" {state.state.lower()}; see {RunDirectory(sibling.directory).log}"
        self.ended[name] = Outcome(name, status, f"job {self._jobs[name]}{said}")

    def _tell_counts(self) -> None:
        counts: dict[str, int] = {"done": len(self.ended)}
        for name in self.open:
            state = self._now[self._jobs[name]]
            word = "held after a failed requeue" if state.held_after_requeue else state.state.lower()
            counts[word] = counts.get(word, 0) + 1
        self._tell(", ".join(f"{count} {word}" for word, count in sorted(counts.items())))

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            log.info("SLURM: %s", text)


def _state(sibling: Sibling) -> str | None:
    try:
        return read_run(sibling.directory).record.state
    except LauncherError:
        return None
