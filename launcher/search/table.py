"""What came of a search: every trial, the best one, and how to go on from there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.branch.command import command
from launcher.search.space import overrides_of
from launcher.search.study import RUN, Study

_STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


def show(study: Study, metric: str, fixed: Sequence[str], path: Path) -> None:
    """Print a study.

    Args:
        study: the trials.
        metric: what they were judged by.
        fixed: the overrides that all of them have.
        path: of the journal.
    """
    console = Console(highlight=False, width=max(Console().width, 120))
    console.print(trials_table(study.trials, metric))
    print(f"journal    {path}")
    best = study.best
    if best is None:
        print("best       no trial came to its end")
        return
    own = [*fixed, *overrides_of(best.params)]
    print(f"best       trial {best.number}, {metric} {best.value:.6g}")
    print(f"  {command(own)}")
    # The best of many is better than it is: by luck, which a second stream does not have.
    print("whether it is better than the control, in streams that the search has not seen:")
    print(f"  {command(['-m', *own], 'fanout.control=true', 'fanout.repeats=5')}")


def trials_table(trials: Sequence[FrozenTrial], metric: str) -> Table:
    """One line a trial; of a pruned one the last value that it told, and after how many steps."""
    table = Table(title="trials", title_justify="left")
    keys = list(dict.fromkeys(key for one in trials for key in one.params))
    for name in ("trial", "state"):
        table.add_column(name, no_wrap=True)
    for name in (metric, "at branch step", *keys):
        table.add_column(escape(name), justify="right")
    table.add_column("run", overflow="fold")
    for one in trials:
        state = _STATES.get(one.state.name, one.state.name.lower())
        last = one.last_step
        value = one.value if one.value is not None else one.intermediate_values.get(last or 0)
        table.add_row(
            str(one.number),
            state,
            "" if value is None else f"{value:.6g}",
            "" if last is None else str(last),
            *(f"{value:.6g}" if isinstance(value, float) else escape(str(value))
              for value in (one.params.get(key, "") for key in keys)),
            escape(str(one.user_attrs.get(RUN, ""))),
        )  # fmt: skip
    return table
