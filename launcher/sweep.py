"""``hydra/sweeper=branch``: siblings are composed, checked and written down before the first is launched.

A subclass of Hydra's BasicSweeper: the override grammar is Hydra's, whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from launcher.errors import ConfigError
from launcher.launchers.plugins import PARALLELISM, register_plugin

# Looking for plugins runs Hydra's modules a second time; a class that was taken before is not theirs.
Plugins.instance()
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction

    from launcher.composition import Composer
    from launcher.config import FanoutConfig
    from launcher.fanout.check import Candidate
    from launcher.fanout.written import Fanout


@dataclass
class BranchSweeperConf:
    """Settings of the sweeper itself; how siblings are launched is said in ``fanout``."""

    params: dict[str, str] | None = field(default=None)
    """Sweeps that stand in a config file: key to comma-separated values, as in Hydra's basic sweeper."""


class BranchSweeper(BasicSweeper):
    """Fans out siblings."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra's; ``fanout.max_parallel`` lowers the setting of every launcher that has such a one."""
        most = config.fanout.max_parallel
        for name in PARALLELISM:
            if most is not None and name in config.hydra.launcher:
                own = config.hydra.launcher[name]
                with open_dict(config):
                    # joblib's -1 means as many as there are cores.
                    config.hydra.launcher[name] = min(own, most) if own and own > 0 else most
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    @property
    def remote(self) -> bool:
        """Whether siblings run on other machines than this one."""
        return bool(getattr(self.launcher, "remote", False))

    def sweep(self, arguments: list[str]) -> Any:
        """Launch the siblings that ``arguments`` name.

        Raises:
            LauncherError: nothing was launched; the message has all findings.
            SystemExit: 1 if a sibling failed.
        """
        from launcher.fanout.check import check
        from launcher.fanout.factors import note_confounded
        from launcher.fanout.launch import launch, print_findings, show, show_jobs, stop_if_bad
        from launcher.fanout.room import note_room
        from launcher.job import run_canary, run_sibling

        assert self.config is not None
        settings = fanout_settings(self.config)
        candidates = check(self.candidates(self.siblings(arguments, settings), settings.repeats), self.remote)
        candidates = self.with_what_is_needed(candidates, settings, handed(arguments))
        note_room(candidates)
        note_confounded(candidates)
        print_findings(candidates)
        if settings.dry_run:
            show(candidates)
        stop_if_bad(candidates, settings)
        if settings.dry_run:
            show_jobs(candidates, self.fanout(), settings, self.launcher)
            return []
        return launch(candidates, self.fanout(), settings, self.launcher, run_sibling, run_canary)

    def with_what_is_needed(
        self, candidates: list[Candidate], settings: FanoutConfig, handed: Sequence[str]
    ) -> list[Candidate]:
        """The siblings with those that ``fanout.control`` and ``fanout.complete`` add.

        Args:
            candidates: those that were typed, checked.
            settings: of the fan-out.
            handed: the overrides of ``fanout`` itself.
        """
        from launcher.fanout.check import check, without_doubles
        from launcher.fanout.control import control_of, needs_twin
        from launcher.fanout.factors import missing, plan_looks

        def added(siblings: list[tuple[list[str], list[str]]], repeats: int) -> list[Candidate]:
            made = [([*overrides, *handed], swept) for overrides, swept in siblings]
            return check(self.candidates(made, repeats), self.remote) if made else []

        def as_trunk(some: list[Candidate]) -> list[Candidate]:
            """Controls say what the trunk was told: without a sweep the files' defaults would count."""
            unsaid = [one for one in some if not one.swept and one.settle]
            said = iter(added([([*one.overrides, *one.settle], []) for one in unsaid], 1))
            return [next(said) if not one.swept and one.settle else one for one in some]

        if settings.control:
            candidates = without_doubles(as_trunk(candidates))
            if (unchanged := control_of(candidates)) is not None:
                added_controls = as_trunk(added([(unchanged, [])], settings.repeats))
                candidates = without_doubles([*added_controls, *candidates])
        if settings.complete:
            cells = [(list(one.overrides), list(one.overrides)) for one in missing(candidates)]
            candidates = [*candidates, *added(cells, settings.repeats)]
        good = [one.plan for one in candidates if one.plan and one.good]
        for control in [planned for planned in good if planned.branch_type == "control"]:
            if settings.control and needs_twin(control):
                again = f"fanout.repeat={control.config.fanout.repeat + 1}"
                for twin in added([([*control.declared.overrides, again], [])], 1):
                    twin.overrides += (again,)  # Without that word it would be the control.
                    candidates.append(twin)
        candidates = without_doubles(candidates)
        plan_looks(candidates)
        return candidates

    def siblings(self, arguments: Sequence[str], settings: FanoutConfig) -> list[tuple[list[str], list[str]]]:
        """Overrides of each sibling, and those of them that are swept.

        Raises:
            ConfigError: ``fanout.zip`` names a key that is not swept, or lists of different lengths.
            HydraException: the overrides cannot be parsed.
        """
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        fixed: list[str] = []
        axes: dict[str, list[tuple[str, ...]]] = {}
        for one in parser.parse_overrides([*self._parse_config(), *arguments]):
            key = one.get_key_element()
            if one.is_sweep_override():
                axes[key] = [(f"{key}={value}",) for value in _values(one)]
            else:
                fixed.append(f"{key}={one.get_value_element_as_str()}")
        made: list[tuple[list[str], list[str]]] = [(fixed, [])] if settings.control and axes else []
        for chosen in itertools.product(*_zipped(axes, settings.zip)):
            swept = [each for part in chosen for each in part]
            # Beside a control that joins in, everything typed is what makes a sibling another.
            made.append(([*fixed, *swept], swept if axes or not settings.control else _of_the_run(fixed)))
        return made

    def candidates(self, siblings: Sequence[tuple[list[str], list[str]]], repeats: int) -> list[Candidate]:
        """Siblings, each with what of it is swept, composed in so many streams."""
        from launcher.branch.stream import overrides_in, refuse_unrepeatable
        from launcher.composition import Composer

        assert self.hydra_context is not None
        assert self.config is not None
        composer = Composer(self.hydra_context.config_loader, self.config)
        made = [self._candidate(composer, overrides, swept) for overrides, swept in siblings]
        composed = [
            (overrides, swept, one.config)
            for (overrides, swept), one in zip(siblings, made, strict=True)
            if one.config is not None
        ]
        if repeats > 1:
            for _, swept, config in composed:
                refuse_unrepeatable(config, swept)
        # Stream by stream: with fewer slots than siblings, whole pairs are there early.
        for stream in range(1, repeats):
            for overrides, swept, config in composed:
                made.append(self._candidate(composer, overrides_in(stream, overrides, config), swept))
        return made

    def _candidate(self, composer: Composer, overrides: Sequence[str], swept: Sequence[str]) -> Candidate:
        from launcher.fanout.check import Candidate
        from launcher.findings import finding_of

        ranks = self._ranks()
        composed = composer.compose([*overrides, *ranks])
        own = tuple(one for one in composed.overrides if one not in ranks)
        one = Candidate(own, tuple(swept), composed.config, composed.declared)
        if composed.error is not None:
            one.findings.append(finding_of(composed.error))
        return one

    def _ranks(self) -> list[str]:
        """The number of processes of each sibling, where the launcher decides it."""
        world_size = getattr(self.launcher, "world_size", None)
        return [] if world_size is None else [f"launch.nproc={world_size}"]

    def fanout(self) -> Fanout:
        """This command as what it launches will remember it."""
        from launcher.fanout.written import Fanout

        assert self.config is not None
        chosen = self.config.hydra.runtime.choices.get("hydra/launcher") or "basic"
        settings = OmegaConf.to_container(self.config.hydra.launcher, resolve=False)
        assert isinstance(settings, dict)
        return Fanout(str(chosen), {str(key): value for key, value in settings.items()}, Path.cwd())


def handed(arguments: Sequence[str]) -> list[str]:
    """The overrides that speak of the fan-out itself."""
    return [text for text in arguments if text.lstrip("+").startswith("fanout.")]


def _of_the_run(arguments: Sequence[str]) -> list[str]:
    return [text for text in arguments if text not in handed(arguments)]


def fanout_settings(config: DictConfig) -> FanoutConfig:
    """What a composed config says of the fan-out."""
    from launcher.config import FanoutConfig

    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(FanoutConfig), config.fanout))
    assert isinstance(settings, FanoutConfig)
    return settings


def _values(one: Override) -> list[str]:
    if not one.is_discrete_sweep():
        raise HydraException(
            f"{one.input_line}: this sweeper takes lists of values, choice(...), range(...) and glob(...)"
        )
    return list(one.sweep_string_iterator())


def _zipped(axes: dict[str, list[tuple[str, ...]]], keys: Sequence[str]) -> list[list[tuple[str, ...]]]:
    """The axes of the product; those in ``keys`` become one axis that walks along all of them."""
    if not keys:
        return list(axes.values())
    named = {key.lstrip("+~"): key for key in axes}
    unknown = [key for key in keys if key.lstrip("+~") not in named]
    if unknown or len(keys) < 2:
        raise ConfigError(
            "fanout.zip walks two or more swept keys together.",
            where="fanout.zip",
            found=", ".join(unknown or keys),
            expected=f"keys that are swept: {', '.join(axes) or 'there are none'}",
            do="give each of them a list of values: optimizer.lr=1e-4,1e-5 seed=1,2",
        )
    together = [named[key.lstrip("+~")] for key in keys]
    lengths = {key: len(axes[key]) for key in together}
    if len(set(lengths.values())) > 1:
        raise ConfigError(
            "The lists of fanout.zip have different lengths.",
            where="fanout.zip",
            found=", ".join(f"{key}: {count} values" for key, count in lengths.items()),
            expected="as many values for each",
        )
    walked = [tuple(itertools.chain(*step)) for step in zip(*(axes[key] for key in together), strict=True)]
    product: list[list[tuple[str, ...]]] = []
    for key, values in axes.items():
        if key == together[0]:
            product.append(walked)
        elif key not in together:
            product.append(values)
    return product


def register() -> None:
    """Make ``hydra/sweeper=branch`` known to Hydra."""
    register_plugin(BranchSweeper, "hydra/sweeper", "branch", BranchSweeperConf)
