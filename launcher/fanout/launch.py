"""The launch itself: what is missing goes to the launcher, and a table says what came of it."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from rich.console import Console

from launcher.branch.naming import from_scratch
from launcher.canary import STEPS
from launcher.config import FanoutConfig
from launcher.errors import LauncherError, PreflightFailed, RunsElsewhere
from launcher.fanout.canary import canary_first, why_not
from launcher.fanout.check import Candidate
from launcher.fanout.status import UNDER_WAY
from launcher.fanout.table import dry_run_table, end_state, end_table, findings_by_sibling
from launcher.fanout.written import (
    Fanout,
    command_of,
    handed_overrides,
    launched_config,
    not_started,
    sibling_of,
    write_fanout,
    write_launches,
)
from launcher.findings import finding_of, render_findings
from launcher.launchers.plugins import PARALLELISM
from launcher.launchers.sibling import Attaching, Describing, Outcome, RunSibling, Sibling, SiblingLauncher
from launcher.layout import SCRATCH, RunDirectory
from launcher.messages import print_in_red

log = logging.getLogger("launcher.fanout")


def show(candidates: Sequence[Candidate]) -> None:
    """What would be launched: a table, then each sibling's directory and command, whole."""
    console = Console(highlight=False, width=max(Console().width, 120))
    console.print(dry_run_table(candidates))
    for one in candidates:
        if one.plan is not None:
            print(f"{one.plan.directory.path}\n  {command_of(one)}")


def show_jobs(candidates: Sequence[Candidate], fanout: Fanout, settings: FanoutConfig, launcher: Any) -> None:
    """What a launcher would submit for the siblings that are wanted, where it can say so.

    Raises:
        PreflightFailed: the launcher's own settings are wrong.
    """
    wanted = [one for one in candidates if one.wanted]
    if wanted and isinstance(launcher, Describing) and isinstance(launcher, SiblingLauncher):
        print(launcher.describe([sibling_of(one, fanout) for one in wanted], settings))
        _check_launcher(launcher, wanted, fanout)


def print_findings(candidates: Sequence[Candidate]) -> None:
    """Show what was found about siblings, if anything, on stderr."""
    for one in candidates:
        if one.plan is not None and one.plan.kind == SCRATCH:
            print_in_red(from_scratch(one.plan.id, one.plan.unavailable))
    if (table := findings_by_sibling(candidates)) is not None:
        width = max(Console(stderr=True).width, 120)
        Console(stderr=True, highlight=False, width=width).print(table, crop=False)


def stop_if_bad(candidates: Sequence[Candidate], settings: FanoutConfig) -> None:
    """Stop the whole launch for one bad sibling, unless ``fanout.skip_bad`` says otherwise.

    Raises:
        PreflightFailed: the table of findings has been shown.
    """
    bad = [one for one in candidates if not one.good]
    if not bad or (settings.skip_bad and len(bad) < len(candidates)):
        return
    what = f"{len(bad)} of {len(candidates)} siblings cannot be launched"
    do = (
        "settle the findings above"
        if len(bad) == len(candidates)
        else ("settle the findings above, or launch the others: fanout.skip_bad=true")
    )
    raise PreflightFailed(f"{what}; nothing was.", do=do)


def launch(
    candidates: Sequence[Candidate],
    fanout: Fanout,
    settings: FanoutConfig,
    launcher: Any,
    run: RunSibling,
    canary: RunSibling | None = None,
) -> list[Any]:
    """Launch what is neither finished nor under way, and show what came of all.

    Args:
        candidates: checked.
        fanout: what this launch is called, and by what it is launched.
        settings: of the fan-out.
        launcher: one of this package's, or any of Hydra's.
        run: what one of this package's launchers calls in a sibling's process.
        canary: the same for the canary, where there is to be one.

    Returns what Hydra expects of a sweep: what each job returned, under a launcher of Hydra's.

    Raises:
        PreflightFailed: the launcher's own settings are wrong.
        SystemExit: 1 if a sibling failed; 128 + the signal's number if a signal ended the launch.
    """
    wanted = [one for one in candidates if one.wanted]
    canary = canary if settings.canary and wanted else None
    if canary is not None:
        wanted = canary_first(wanted)
    for one in candidates:
        if one.good and not one.wanted:
            detail = f" ({one.there.detail})" if one.there.detail else ""
            log.info("%s is %s already%s.", one.name, one.there.state, detail)
    returned: list[Any] = []
    outcomes: dict[str, Outcome] = {}
    leaving: BaseException | None = None
    if wanted:
        if isinstance(launcher, SiblingLauncher):
            _check_launcher(launcher, wanted, fanout)
        siblings = write_launches(wanted, fanout)
        write_fanout(candidates, fanout)
        try:
            start = _Start(wanted, siblings, fanout, settings, launcher)
            returned, ended = start.here(run, canary)
        except (KeyboardInterrupt, SystemExit, LauncherError) as error:
            leaving, ended = error, getattr(error, "outcomes", [])
        outcomes = {each.id: each for each in ended}
        if leaving is not None or not getattr(launcher, "remote", False):
            _settle(siblings, outcomes)
    if leaving is None and isinstance(launcher, Attaching):
        outcomes.update(_attached(candidates, fanout, settings, launcher))
    Console(highlight=False, width=max(Console().width, 120)).print(end_table(candidates, outcomes))
    if isinstance(launcher, SiblingLauncher):
        # Nothing was trained in this process, and it ends now. Python would look for garbage in all that
        # torch has imported, which takes most of a second; what is frozen it passes over.
        gc.freeze()
    if leaving is not None:
        raise leaving
    if status := _exit_status(candidates, outcomes):
        raise SystemExit(status)
    return returned


def _attached(
    candidates: Sequence[Candidate], fanout: Fanout, settings: FanoutConfig, launcher: Attaching
) -> dict[str, Outcome]:
    """How siblings ended that an earlier launch submitted, as far as the launcher waited for them."""
    under_way = [sibling_of(one, fanout) for one in candidates if one.good and one.there.state in UNDER_WAY]
    return {each.id: each for each in launcher.attach(under_way, settings)} if under_way else {}


@dataclass(frozen=True)
class _Start:
    """Siblings on their way to a launcher."""

    wanted: Sequence[Candidate]
    siblings: Sequence[Sibling]
    fanout: Fanout
    settings: FanoutConfig
    launcher: Any

    def here(self, run: RunSibling, canary: RunSibling | None) -> tuple[list[Any], list[Outcome]]:
        """What Hydra expects, and how each sibling ended."""
        if isinstance(self.launcher, SiblingLauncher):
            ended = self.launcher.launch_siblings(self.siblings, self.settings, run, canary)
            return [], self._kept_back(ended)
        if canary is not None:
            _, first = self._by_hydra(1, f"fanout.until={STEPS}")
            if not first or first[0].status != 0:
                return [], self._kept_back(first)
        return self._by_hydra(len(self.wanted))

    def _by_hydra(self, count: int, *more: str) -> tuple[list[Any], list[Outcome]]:
        """The first siblings by a launcher of Hydra's.

        One that cannot be told how many may run at a time is given no more than that at once.
        """
        most = self.settings.max_parallel
        at_once = count if most is None or set(PARALLELISM) & self.fanout.settings.keys() else most
        returned: list[Any] = []
        ended: list[Outcome] = []
        for first in range(0, count, at_once):
            some = slice(first, min(first + at_once, count))
            overrides = [[*_overrides(one, self.fanout), *more] for one in self.wanted[some]]
            try:
                jobs = list(self.launcher.launch(overrides, first))
            except Exception as error:
                # What a launcher of Hydra's makes of a job that died; the records say which one.
                log.error("%s: %s", type(error).__name__, str(error).splitlines()[0] if str(error) else "")
                continue
            returned += jobs
            ended += (_outcome(each, job) for each, job in zip(self.siblings[some], jobs, strict=False))
        return returned, ended

    def _kept_back(self, ended: list[Outcome]) -> list[Outcome]:
        """Those that a canary kept from starting do not start, for one reason."""
        if not self.settings.canary or len(ended) == len(self.siblings):
            return ended
        why = why_not(self.siblings[0].directory)
        log.error("The other siblings are %s.", why)
        return [*ended, *(Outcome(one.id, None, why) for one in self.siblings[len(ended) :])]


def _exit_status(candidates: Sequence[Candidate], outcomes: Mapping[str, Outcome]) -> int:
    """0, 1 if a sibling failed, or 128 + the number of the signal that a person stopped all of them with."""
    stopped = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    ended = {each.status for each in outcomes.values()}
    if by_hand := [status for status in ended if status in stopped]:
        return by_hand[0] or 1
    states = {end_state(one, outcomes)[0] for one in candidates}
    # A launcher of Hydra's may not say how one ended whose process was killed.
    undone = {"failed", "bad", "not started", "interrupted"}
    return int(bool(states & undone) or bool(ended - {0, None}))


def _check_launcher(launcher: SiblingLauncher, wanted: Sequence[Candidate], fanout: Fanout) -> None:
    """Have the launcher look at its own settings.

    Raises:
        PreflightFailed: names each thing that is wrong.
    """
    problems = launcher.check([sibling_of(one, fanout) for one in wanted])
    if problems:
        findings = [finding_of(problem) for problem in problems]
        raise PreflightFailed(f"hydra/launcher={fanout.launcher} cannot launch.\n{render_findings(findings)}")


def _overrides(one: Candidate, fanout: Fanout) -> list[str]:
    return [*one.overrides, *handed_overrides(launched_config(one, fanout))]


def _outcome(sibling: Sibling, job: JobReturn) -> Outcome:
    """How a job of one of Hydra's launchers ended."""
    if job.status != JobStatus.FAILED:
        return Outcome(sibling.id, 0)
    cause = job._return_value  # Asking for return_value raises it.
    told = cause.args[0] if isinstance(cause, Exception) and cause.args else cause
    if isinstance(told, RunsElsewhere):
        return Outcome(sibling.id, None, told.found or "", elsewhere=True)
    return Outcome(sibling.id, 1, str(told).splitlines()[0] if str(told) else type(cause).__name__)


def _settle(siblings: Sequence[Sibling], outcomes: Mapping[str, Outcome]) -> None:
    """Siblings that this process will not start any more do not wait for it either."""
    for one in siblings:
        if one.id in outcomes and outcomes[one.id].elsewhere:
            continue
        reason = outcomes[one.id].reason if one.id in outcomes else ""
        not_started(RunDirectory(one.directory), reason or "not started")
