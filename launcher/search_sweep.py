"""``hydra/sweeper=optuna``: siblings whose overrides Optuna chooses, one batch after what came of the last.

Everything that holds for siblings holds for trials: the same checks, group, ledger and files. What a value
could be refused for is found out before the first trial, at the corners of what is searched.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from launcher.errors import ConfigError, PreflightFailed
from launcher.launchers.plugins import register_plugin
from launcher.sweep import BranchSweeper, fanout_settings, handed

if TYPE_CHECKING:
    from launcher.branch.plan import Plan
    from launcher.config import FanoutConfig
    from launcher.fanout.check import Candidate
    from launcher.fanout.written import Fanout
    from launcher.search.space import Space
    from launcher.search.study import Search, Study

log = logging.getLogger("launcher.search")
_POLL_SECONDS = 2.0
"""Between two looks at a trial that an earlier, killed search has left running."""
_DIRECTIONS: Mapping[str, Literal["maximize", "minimize"]] = {
    "maximize": "maximize",
    "minimize": "minimize",
    "up": "maximize",
    "down": "minimize",
}


@dataclass
class SearchConf:
    """Settings of ``hydra/sweeper=optuna``: ``hydra.sweeper.NAME=VALUE``."""

    metric: str | None = None
    """What is to become best, as it is logged at the end: ``val/token_accuracy``."""
    direction: str | None = None
    """``maximize`` or ``minimize``; null: as the task says of the metric."""
    trials: int = 20
    """Trials in the end, with those of earlier commands."""
    parallel: int = 1
    """Trials that are asked for and launched at once; the next ones come when all of them have ended."""
    sampler: str = "tpe"
    """``tpe``, ``random``, ``grid`` or ``cmaes`` (needs the package cmaes)."""
    sampler_options: dict[str, Any] = field(default_factory=dict)
    """Arguments of Optuna's sampler: ``+hydra.sweeper.sampler_options.n_startup_trials=5``."""
    pruner: str = "none"
    """``none``, ``median`` or ``asha``."""
    pruner_options: dict[str, Any] = field(default_factory=dict)
    """Arguments of Optuna's pruner, with steps counted from the branch point:
    ``+hydra.sweeper.pruner_options.n_warmup_steps=100``."""
    seed: int = 0
    """Of the sampler. With ``parallel=1`` the same command chooses the same trials."""
    params: dict[str, str] | None = None
    """What is searched, where it stands in a config file: key to sweep."""


class SearchSweeper(BranchSweeper):
    """Launches trials."""

    def __init__(self, params: dict[str, str] | None = None, **settings: Any) -> None:
        super().__init__(params)
        plain: dict[str, Any] = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in settings.items()
        }
        self._settings = SearchConf(**plain)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As of siblings; a launcher that could return before they have ended waits."""
        if "wait" in config.hydra.launcher:
            with open_dict(config):
                config.hydra.launcher.wait = True
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Search, or go on with a search.

        Raises:
            LauncherError: the settings are wrong, or a trial cannot be launched.
            SystemExit: 1 if a trial failed or was interrupted; 128 + the number of a signal.
        """
        try:
            from launcher.search.space import corners, overrides_of
            from launcher.search.study import SUFFIX, Study
            from launcher.search.table import show
        except ModuleNotFoundError as error:
            raise ConfigError(
                "hydra/sweeper=optuna needs the package optuna.",
                found=str(error),
                do="pip install 'checkpoint-launcher[search]'",
            ) from error
        assert self.config is not None
        settings = fanout_settings(self.config)
        self._refuse(settings)
        fixed, space = self._asked_for(arguments)
        points = [overrides_of(one) for one in corners(space)]
        planned = self._checked([([*fixed, *one], one) for one in points], settings)
        if settings.dry_run:
            return []
        search, said = self._search(planned), _said(space)
        name = f"search-{_identity(planned, search, said)}{SUFFIX}"
        group = planned.directory.path.parent
        study = Study(group / name, search, space, self._settings.parallel)
        trials = _Trials(self, study, search.metric, fixed, settings, handed(arguments))
        trials.run(self._settings.trials)
        show(study, search.metric, [one for one in fixed if one not in handed(arguments)], group / name)
        if study.failed or study.best is None:
            raise SystemExit(1)
        return []

    def _refuse(self, settings: FanoutConfig) -> None:
        """What a search cannot do.

        Raises:
            ConfigError: names the key.
        """
        for key, usual in (("repeats", 1), ("zip", []), ("complete", False), ("if_exists", "resume")):
            if getattr(settings, key) != usual:
                raise ConfigError(
                    f"fanout.{key} is not for a search.",
                    where=f"fanout.{key}",
                    found=str(getattr(settings, key)),
                    do="search first; then launch the best one with hydra/sweeper=branch",
                )
        if self._settings.metric is None:
            raise ConfigError(
                "A search needs a metric.",
                where="hydra.sweeper.metric",
                expected="a metric's name, as it is logged",
                do="hydra.sweeper.metric=val/loss",
            )
        for key in ("trials", "parallel"):
            if (value := getattr(self._settings, key)) < 1:
                raise ConfigError(
                    f"hydra.sweeper.{key}={value}", where=f"hydra.sweeper.{key}", expected="a number from 1"
                )

    def _asked_for(self, arguments: Sequence[str]) -> tuple[list[str], Space]:
        """What is the same in all trials, and what is searched.

        Raises:
            ConfigError: nothing is searched.
        """
        from launcher.search.space import distribution_of

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        fixed, space = [], {}
        for one in parser.parse_overrides([*self._parse_config(), *arguments]):
            key = one.get_key_element()
            if one.is_sweep_override():
                space[key] = distribution_of(one)
            else:
                fixed.append(f"{key}={one.get_value_element_as_str()}")
        if not space:
            raise ConfigError(
                "Nothing is searched.",
                found=" ".join(arguments),
                expected="an override with an interval or several values",
                do="optimizer.lr='tag(log,interval(1e-5,1e-2))'",
            )
        return fixed, space

    def _checked(self, points: Sequence[tuple[list[str], list[str]]], settings: FanoutConfig) -> Plan:
        """Check the corners of the space; the plan of the first one that can be launched."""
        from launcher.fanout.check import check
        from launcher.fanout.launch import print_findings, show, stop_if_bad

        candidates = check(self.candidates(points, 1), self.remote)
        print_findings(candidates)
        if settings.dry_run:
            show(candidates)
        stop_if_bad(candidates, settings)
        return next(one.plan for one in candidates if one.good and one.plan is not None)

    def _search(self, planned: Plan) -> Search:
        """The search as the settings and the task say it.

        Raises:
            ConfigError: nobody logs the metric, or it is not known which way it is better.
        """
        from launcher.branch.effect import build_task
        from launcher.search.study import Search
        from launcher.training.task import Directed

        own = self._settings
        assert own.metric is not None
        known = planned.point.manifest.about.metrics if planned.point is not None else {}
        if known and own.metric not in known:
            raise ConfigError(
                f"The trunk does not log {own.metric}.",
                where="hydra.sweeper.metric",
                found=own.metric,
                expected=", ".join(sorted(known)),
            )
        task = build_task(planned.config)
        said = task.directions if isinstance(task, Directed) else {}
        direction = own.direction or str(said.get(own.metric.partition("/")[2], ""))
        if direction not in _DIRECTIONS:
            raise ConfigError(
                f"It is not known which way {own.metric} is better.",
                where="hydra.sweeper.direction",
                found=direction or "nothing",
                expected="maximize or minimize",
            )
        return Search(
            own.metric,
            _DIRECTIONS[direction],
            own.sampler,
            own.sampler_options,
            own.pruner,
            own.pruner_options,
            own.seed,
        )


@dataclass
class _Trials:
    """Trials, batch by batch."""

    sweeper: SearchSweeper
    study: Study
    metric: str
    fixed: list[str]
    settings: FanoutConfig
    handed: list[str]

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
        from launcher.fanout.launch import launch
        from launcher.job import run_canary, run_sibling

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
        if getattr(leaving, "code", 1) == 1:
            # One that failed is no reason to leave those that an earlier, killed search started.
            _wait_for(siblings)
        self._tell(trials)
        if leaving is not None and getattr(leaving, "code", None) != 1:
            raise leaving
        if trials:
            unfinished = ", ".join(one.name for one in trials.values())
            log.error("Not at their ends: %s. The same command goes on with them.", unfinished)
            raise SystemExit(1)

    def _candidates(self, batch: Mapping[int, Mapping[str, Any]]) -> dict[int, Candidate]:
        """The siblings that trials are; two trials with the same values are one.

        Raises:
            PreflightFailed: one is bad, and ``fanout.skip_bad`` is not set.
        """
        from launcher.fanout.check import check
        from launcher.fanout.launch import print_findings
        from launcher.search.space import overrides_of

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
    from launcher.fanout.status import launch_of
    from launcher.lineage import read_run

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
    from launcher.fanout.status import UNDER_WAY, jobs_of, status_of

    directories = [one.plan.directory for one in candidates if one.plan is not None and not one.wanted]
    while True:
        jobs = jobs_of(directories)
        directories = [one for one in directories if status_of(one, jobs).state in UNDER_WAY]
        if not directories:
            return
        log.info("Waiting for %s.", ", ".join(one.path.name for one in directories))
        time.sleep(_POLL_SECONDS)


def _said(space: Space) -> dict[str, str]:
    return {key: repr(one) for key, one in space.items()}


def _identity(planned: Plan, search: Search, said: Mapping[str, str]) -> str:
    """Eight digits by which the same search finds its journal again, and another does not."""
    return sha256(repr((planned.signature, search, sorted(said.items()))).encode()).hexdigest()[:8]


def register() -> None:
    """Make ``hydra/sweeper=optuna`` known to Hydra."""
    register_plugin(SearchSweeper, "hydra/sweeper", "optuna", SearchConf)
