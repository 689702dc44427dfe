"""A search on disk: Optuna's study in a journal file in the group's directory, seen by all processes.

Whatever a process was killed in, the journal has every trial that was asked for and every value that was
told; the next process goes on from there, with the numbers that the killed one would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from launcher.errors import ConfigError
from launcher.process import Process
from launcher.search.methods import pruner, sampler
from launcher.search.space import Space, Value, grid, suggest

NAME = "search"
"""Of the one study in a journal."""
METRIC, PRUNER, RUN = "metric", "pruner", "run"
_HELD = "held_by"
SUFFIX = ".journal"


@dataclass(frozen=True)
class Search:
    """What makes a search the one that it is: another answer to any of these is another study."""

    metric: str
    direction: Literal["maximize", "minimize"]
    sampler: str = "tpe"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    pruner: str = "none"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


def storage(path: Path) -> JournalStorage:
    """The journal in a file."""
    # Optuna says much that is of no use here, and its lock is a link that has to lead somewhere.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(JournalFileBackend(str(path.resolve())))


class Study:
    """Trials: which were asked for, and what came of them.

    Args:
        path: of the journal; made if it is not there.
        search: what is searched for, and how.
        space: where.
        parallel: trials asked for at once.

    Raises:
        ConfigError: a sampler, pruner or option that Optuna does not have; another process searches.
    """

    def __init__(self, path: Path, search: Search, space: Space, parallel: int) -> None:
        self.name = path.name
        self._search, self._space, self._parallel = search, space, parallel
        self._sampler(0, 0)
        stops = pruner(search.pruner, search.pruner_options)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._study = optuna.create_study(
            storage=storage(path),
            study_name=NAME,
            direction=search.direction,
            sampler=RandomSampler(seed=search.seed),
            pruner=stops,
            load_if_exists=True,
        )
        self._hold()
        self._study.set_user_attr(METRIC, search.metric)
        self._study.set_user_attr(PRUNER, [search.pruner, dict(search.pruner_options)])

    def _hold(self) -> None:
        held = self._study.user_attrs.get(_HELD)
        if held is not None:
            process = Process(**held)
            if process.here and process.there and process != Process.this():
                raise ConfigError(
                    "Another process goes on with this search.",
                    where=self.name,
                    found=f"process {process.pid} on {process.host}",
                    do="let it finish, or stop it and give this command again",
                )
        self._study.set_user_attr(_HELD, asdict(Process.this()))

    @property
    def trials(self) -> list[FrozenTrial]:
        """All, by number."""
        return self._study.get_trials(deepcopy=False)

    @property
    def best(self) -> FrozenTrial | None:
        """The best of those that came to their end."""
        done = [one for one in self.trials if one.state == TrialState.COMPLETE]
        return self._study.best_trial if done else None

    @property
    def failed(self) -> bool:
        """Whether a trial did."""
        return any(one.state == TrialState.FAIL for one in self.trials)

    def asked(self, trials: int) -> dict[int, dict[str, Value]]:
        """The trials to run next: those that nobody has told the end of, then new ones; values by number.

        Args:
            trials: how many there shall be in the end.
        """
        running = [one.number for one in self.trials if one.state == TrialState.RUNNING]
        batch = {number: self._values(number) for number in running}
        most = trials if self._search.sampler != "grid" else min(trials, self._points())
        while len(batch) < self._parallel and len(self.trials) < most:
            number = len(self.trials)
            self._study.sampler = self._sampler(number, 0)
            batch[number] = self._values(self._study.ask().number)
        return batch

    def _values(self, number: int) -> dict[str, Value]:
        """Those of a trial, drawn as far as it has none yet."""
        self._study.sampler = self._sampler(number, 0)
        trial = self._trial(number)
        values: dict[str, Value] = {}
        for at, (key, one) in enumerate(self._space.items()):
            self._study.sampler = self._sampler(number, at)
            values[key] = suggest(trial, key, one)
        return values

    def _trial(self, number: int) -> Trial:
        return Trial(self._study, self.trials[number]._trial_id)

    def _sampler(self, number: int, at: int) -> optuna.samplers.BaseSampler:
        """The sampler for one value of one trial.

        With one stream of random numbers for a whole search, whoever goes on with it would begin the stream
        anew and draw the same points again. A grid needs one seed throughout: that is its order.
        """
        seed = self._search.seed
        if self._search.sampler != "grid":
            seed = int(np.random.SeedSequence([seed, number, at]).generate_state(1)[0])
        return sampler(self._search.sampler, self._search.sampler_options, seed, self._space, self._parallel)

    def _points(self) -> int:
        return math.prod(len(values) for values in grid(self._space).values())

    def note_run(self, number: int, run: str) -> None:
        """Say which run a trial is."""
        self._trial(number).set_user_attr(RUN, run)

    def tell(self, number: int, state: str, value: float | None = None) -> None:
        """Say what came of a trial: ``COMPLETE`` with its value, ``PRUNED`` or ``FAIL``."""
        # A sampler's own comment on the end is for loops that Optuna runs itself.
        self._study.sampler = RandomSampler(seed=0)
        self._study.tell(number, value, TrialState[state])
