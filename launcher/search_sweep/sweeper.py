"""``hydra/sweeper=optuna``: siblings whose overrides Optuna chooses, one batch after what came of the last.

Everything that holds for siblings holds for trials: the same checks, group, ledger and files. What a value
could be refused for is found out before the first trial, at the corners of what is searched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from launcher.errors import ConfigError
from launcher.launchers.plugins import register_plugin
from launcher.sweep import BranchSweeper, fanout_settings, handed

if TYPE_CHECKING:
    from launcher.branch.plan import Plan
    from launcher.config import FanoutConfig
    from launcher.search.space import Space
    from launcher.search.study import Search

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
            from launcher.search_sweep.trials import Trials
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
        trials = Trials(self, study, search.metric, fixed, settings, handed(arguments))
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
        refuse_metric(own.metric, list(known))
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


def refuse_metric(metric: str, logged: Sequence[str]) -> None:
    """Refuse a metric that the trunk has not logged, as far as that can be told at the branch point.

    Args:
        metric: what is to become best.
        logged: the trunk's metrics at the branch point; a trunk that was not validated before it has none of
            ``val/``, and its trials may have them all the same.

    Raises:
        ConfigError: it is not among them.
    """
    unseen = metric.startswith("val/") and not any(one.startswith("val/") for one in logged)
    if logged and metric not in logged and not unseen:
        raise ConfigError(
            f"The trunk does not log {metric}.",
            where="hydra.sweeper.metric",
            found=metric,
            expected=", ".join(sorted(logged)),
        )


def _said(space: Space) -> dict[str, str]:
    return {key: repr(one) for key, one in space.items()}


def _identity(planned: Plan, search: Search, said: Mapping[str, str]) -> str:
    """Eight digits by which the same search finds its journal again, and another does not."""
    return sha256(repr((planned.signature, search, sorted(said.items()))).encode()).hexdigest()[:8]


def register() -> None:
    """Make ``hydra/sweeper=optuna`` known to Hydra."""
    register_plugin(SearchSweeper, "hydra/sweeper", "optuna", SearchConf)
