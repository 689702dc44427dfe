"""The trials of a search, batch by batch: chosen, checked, launched, waited for, told."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from launcher.errors import PreflightFailed
from launcher.fanout.check import Candidate, check
from launcher.fanout.launch import launch, print_findings
from launcher.fanout.status import UNDER_WAY, jobs_of, launch_of, status_of
from launcher.job import run_canary, run_sibling
from launcher.lineage import read_run
from launcher.search.space import overrides_of
from launcher.search.study import Study

if TYPE_CHECKING:
    from launcher.config import FanoutConfig
    from launcher.fanout.written import Fanout
    from launcher.search_sweep.sweeper import SearchSweeper

log = logging.getLogger("launcher.search")
_POLL_SECONDS = 5.0
"""Between two looks at a trial that an earlier, killed search has left running."""


@dataclass
class Trials:
    """Trials, batch by batch."""

    sweeper: SearchSweeper
    study: Study
    metric: str
    fixed: list[str]
    """The overrides that all trials have."""
    settings: FanoutConfig
    handed: list[str]
    """Those of ``fixed`` that speak of the fan-out itself."""

    def run(self, count: int) -> None:
        """All up to a number of them.

        Raises:
            PreflightFailed: one of them may not be launched.
            SystemExit: one was interrupted.
        """
        fanout, settings = self.sweeper.fanout(), self.settings
        while batch := self.study.asked(count):
            self._launch(batch, fanout, settings)
            settings = replace(settings, control=False, canary=False)
            if self.study.failed and settings.stop_on_failure:
                log.error("A trial failed: no more of them are launched.")
                return

    def _launch(self, batch: Mapping[int, Mapping[str, Any]], fanout: Fanout, settings: FanoutConfig) -> None:
        """Bring a batch to its end and tell the study."""
        trials = self._candidates(batch)
        self._tell(trials)
        if not trials:
            return
        wanted = list({id(one): one for one in trials.values()}.values())
        siblings = self.sweeper.with_what_is_needed(wanted, settings, self.handed)
        leaving: BaseException | None = None
        try:
            launch(siblings, fanout, settings, self.sweeper.launcher, run_sibling, run_canary)
        except (SystemExit, KeyboardInterrupt) as error:
            leaving = error
        # With 1, a sibling failed: no reason to leave those that an earlier, killed search started.
        stopped = leaving if getattr(leaving, "code", None) != 1 else None
        if stopped is None:
            _wait_for(siblings)
        self._tell(trials)
        if stopped is not None:
            raise stopped
        if trials:
            unfinished = ", ".join(one.name for one in trials.values())
            log.error("Not at their ends: %s. The same command goes on with them.", unfinished)
            raise SystemExit(1)

    def _candidates(self, batch: Mapping[int, Mapping[str, Any]]) -> dict[int, Candidate]:
        """The siblings that trials are; two trials with the same values are one.

        Raises:
            PreflightFailed: one is bad, and ``fanout.skip_bad`` is not set.
        """
        points: dict[tuple[str, ...], int] = {}
        for number, values in batch.items():
            points.setdefault(tuple(overrides_of(values)), number)
        siblings = [
            ([*self.fixed, *one, f"fanout.trial={self.study.name}@{number}"], list(one))
            for one, number in points.items()
        ]
        made = check(self.sweeper.candidates(siblings, 1), self.sweeper.remote)
        found = dict(zip(points, made, strict=True))
        if bad := [one for one in made if not one.good]:
            print_findings(bad)
            if not self.settings.skip_bad:
                raise PreflightFailed(
                    f"{len(bad)} of {len(made)} trials cannot be launched; none of them was.",
                    do="settle the findings above, or count such trials as failed: fanout.skip_bad=true",
                )
        return {number: found[tuple(overrides_of(values))] for number, values in batch.items()}

    def _tell(self, trials: dict[int, Candidate]) -> None:
        """Tell the study of those that have ended, and drop them."""
        for number, one in list(trials.items()):
            if one.good and one.plan is not None:
                self.study.note_run(number, one.plan.id)
            state, value = _end_of(one, self.study.name, self.metric)
            if state is not None:
                self.study.tell(number, state, value)
                del trials[number]


def _end_of(one: Candidate, study: str, metric: str) -> tuple[str | None, float | None]:
    """How a trial ended, in Optuna's words, and its value; None while it has not."""
    if not one.good or one.plan is None:
        return "FAIL", None
    directory = one.plan.directory
    if not directory.record.is_file():
        return None, None
    record, launch = read_run(directory.path).record, launch_of(directory)
    if record.state == "finished":
        value = record.metrics.get(metric)
        good = value is not None and math.isfinite(value)
        return ("COMPLETE", value) if good else ("FAIL", None)
    # What another command or another search made of the same sibling is not this one's end.
    trial = launch.config.get("fanout", {}).get("trial") if launch is not None else None
    if trial is None or str(trial).rpartition("@")[0] != study:
        return None, None
    return {"pruned": "PRUNED", "failed": "FAIL"}.get(record.state), None


def _wait_for(candidates: Sequence[Candidate]) -> None:
    """Wait for those that were under way when they were asked for: a killed search left them so."""
    directories = [one.plan.directory for one in candidates if one.plan is not None and not one.wanted]
    while True:
        jobs = jobs_of(directories)
        directories = [one for one in directories if status_of(one, jobs).state in UNDER_WAY]
        if not directories:
            return
        log.info("Waiting for %s.", ", ".join(one.path.name for one in directories))
        time.sleep(_POLL_SECONDS)
