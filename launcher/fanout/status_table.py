"""The statuses of runs for a terminal, however wide it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from launcher.fanout.estimate import duration
from launcher.fanout.status import STYLE, Status

_KNOWN = "what is known"
_KNOWN_WIDTH = 30
"""Characters that it needs not to become a column of single words."""
_COLUMNS: Mapping[str, Callable[[Status], str]] = {
    "state": lambda one: f"[{STYLE.get(one.state, 'yellow')}]{one.state}[/]",
    "step": lambda one: f"{one.step}/{one.end_step}",
    "steps/s": lambda one: f"{one.steps_per_second:.1f}" if one.steps_per_second else "",
    "left": lambda one: duration(one.seconds_left) if one.seconds_left is not None else "",
    "requeued": lambda one: str(one.requeues) if one.requeues else "",
    _KNOWN: lambda one: escape(one.detail),
}
"""Beside the run's name."""
_LEFT_OUT: Sequence[Collection[str]] = (
    (),
    ("requeued",),
    (_KNOWN,),
    (_KNOWN, "requeued"),
    (_KNOWN, "requeued", "steps/s"),
    (_KNOWN, "requeued", "steps/s", "left"),
)
"""Columns that are done without, until a line fits."""


@dataclass(frozen=True)
class StatusTable:
    """A table with one line a run. Where there is no room for it, what is known of each run goes below."""

    found: Sequence[Status]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The first layout that fits."""
        used = [name for name, cell in _COLUMNS.items() if any(map(cell, self.found))]
        for left_out in _LEFT_OUT:
            names = [name for name in used if name not in left_out]
            shown = self._table(names)
            whole = self._table([name for name in names if name != _KNOWN])
            needed = console.measure(whole, options=options.update(width=1 << 16)).maximum
            if needed + (_KNOWN in names) * (_KNOWN_WIDTH + 3) <= options.max_width:
                break
        else:
            shown.columns[0].no_wrap = False
        yield shown
        if _KNOWN in left_out:
            yield from (Text(f"{one.run}: {one.detail}") for one in self.found if one.detail)

    def _table(self, names: Collection[str]) -> Table:
        shown = Table()
        shown.add_column("run", no_wrap=True, overflow="fold")
        for name in names:
            if name == _KNOWN:
                shown.add_column(name, overflow="fold", min_width=_KNOWN_WIDTH)
            else:
                shown.add_column(name, no_wrap=True, justify="left" if name == "state" else "right")
        group = None
        for one in self.found:
            if one.group != group:
                shown.add_section()
                shown.add_row(f"[bold]{escape(one.group)}[/]")
                group = one.group
            shown.add_row(f"  {escape(one.run)}", *(_COLUMNS[name](one) for name in names))
        return shown
