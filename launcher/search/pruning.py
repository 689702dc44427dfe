"""A sibling's side of a search: it tells its values as they come, and hears whether to go on."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.trial import Trial

from launcher.search.methods import pruner
from launcher.search.study import METRIC, NAME, PRUNER, storage

log = logging.getLogger("launcher.search")


class Pruning:
    """Of one trial.

    Whatever goes wrong with the journal is told once, and the run goes on without being pruned.

    Args:
        group: the directory of the siblings.
        trial: ``STUDY@NUMBER``, as in ``fanout.trial``.
    """

    def __init__(self, group: Path, trial: str) -> None:
        self._trial: Trial | None = None
        name, _, number = trial.rpartition("@")
        try:
            study = optuna.load_study(study_name=NAME, storage=storage(group / name))
            study.pruner = pruner(*study.user_attrs[PRUNER])
            self._metric = str(study.user_attrs[METRIC])
            frozen = study.get_trials(deepcopy=False)[int(number)]
            if not frozen.state.is_finished():
                self._trial = Trial(study, frozen._trial_id)
        except Exception as error:
            _warn(error)

    def look(self, step: int, metrics: Mapping[str, float | str]) -> bool:
        """Tell the metric after so many steps since the branch point; True if the run is to end here."""
        value = metrics.get(self._metric) if self._trial is not None else None
        if self._trial is None or not isinstance(value, float | int) or not math.isfinite(value):
            return False
        try:
            there = self._trial.study.get_trials(deepcopy=False)[self._trial.number].intermediate_values
            if step not in there:
                # What a run has told before it was interrupted, it comes by again.
                self._trial.report(value, step)
            return step >= max(there, default=step) and self._trial.should_prune()
        except Exception as error:
            _warn(error)
            self._trial = None
            return False


def _warn(error: Exception) -> None:
    log.warning(
        "The search's journal cannot be used; this run is not pruned. %s: %s", type(error).__name__, error
    )
