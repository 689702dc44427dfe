"""Submitting jobs as earlier ones end, and waiting for all of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from launcher.launchers.custom_jobs.spec import PlannedJob
from launcher.launchers.custom_jobs.states import VertexError, VertexJob, cancel, states
from launcher.launchers.sibling import Outcome

log = logging.getLogger("launcher.launchers.vertex")
POLL_SECONDS = 15.0
"""Time between two questions."""


class Waiting:
    """The jobs of one launch, on their way."""

    def __init__(
        self, jobs: Sequence[PlannedJob], submit: Callable[[PlannedJob], str], most: int | None, stop: bool
    ) -> None:
        """Nothing is submitted yet.

        Args:
            jobs: in the order in which they are submitted.
            submit: submits one; gives its name.
            most: how many may be under way at the same time.
            stop: whether one failure keeps those from starting that have not.
        """
        self.outcomes: dict[str, Outcome] = {}
        self._left, self._submit = list(jobs), submit
        self._most = most if most is not None else len(jobs)
        self._stop = stop
        self._open: dict[str, PlannedJob] = {}
        self._told = ""

    def run(self) -> dict[str, Outcome]:
        """Until all have ended, or somebody presses Ctrl-C, which leaves submitted jobs alone.

        Raises:
            VertexError: the first job was refused.
        """
        try:
            while self._left or self._open:
                self._submit_more()
                self._look()
                if self._stop and any(outcome.status for outcome in self.outcomes.values()):
                    self._stop_the_rest()
                if self._open:
                    time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            log.warning("Not waiting any longer; %d jobs go on: launcher status", len(self._open))
            for name, job in self._open.items():
                self._end(job, None, f"job {name}")
            self._give_up("not started: somebody pressed Ctrl-C")
        return self.outcomes

    def _submit_more(self) -> None:
        while self._left and len(self._open) < self._most:
            try:
                self._open[self._submit(self._left[0])] = self._left[0]
            except VertexError as error:
                if not self._open and not self.outcomes:
                    raise
                log.error("error: %s", error)
                self._give_up(f"not started: {error.what}")
                return
            del self._left[0]

    def _look(self) -> None:
        try:
            found = states(list(self._open))
        except VertexError as error:
            self._tell(f"no answer; asking again. {error.found or error.what}")
            return
        for name, there in found.items():
            if there.ended:
                self._end(self._open.pop(name), int(there.state != "SUCCEEDED"), _told(name, there))
        counts: dict[str, int] = {"done": len(self.outcomes), "to come": len(self._left)}
        for name in self._open:
            word = found[name].state.lower()
            counts[word] = counts.get(word, 0) + 1
        self._tell(", ".join(f"{count} {word}" for word, count in sorted(counts.items()) if count))

    def _stop_the_rest(self) -> None:
        self._give_up("not started: another sibling failed")
        found = states(list(self._open))
        waiting = [name for name, there in found.items() if there.state in ("QUEUED", "PENDING")]
        cancel(waiting)

    def _give_up(self, why: str) -> None:
        while self._left:
            self._end(self._left.pop(), 1, why)

    def _end(self, job: PlannedJob, status: int | None, reason: str) -> None:
        for one in job.siblings:
            self.outcomes[one.id] = Outcome(one.id, status, reason, submitted=status is None)

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            log.info("Vertex AI: %s", text)


def _told(name: str, there: VertexJob) -> str:
    said = f" {there.state.lower()}" if there.state != "SUCCEEDED" else ""
    return f"job {name}{said}" + (f": {there.error}" if there.error else "")
