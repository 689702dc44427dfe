"""How siblings get on: on a terminal a line each, renewed in place; elsewhere a line a start and end.

Where nobody sees it any more, the terminal having gone, the siblings go on and those that wait are started.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from launcher.launchers.forking.ending import last_lines, left_to, read_record, settle
from launcher.launchers.forking.fork_server import Ended
from launcher.launchers.forking.stopping import Stopping
from launcher.launchers.sibling import Outcome, Sibling
from launcher.layout import RunDirectory
from launcher.lease import holder

_RENEW_SECONDS = 0.45


@dataclass
class _Line:
    sibling: Sibling
    state: str = "waiting"
    step: int = 0
    end_step: int = 0
    per_second: float = 0.0
    loss: str = ""
    note: str = ""

    @property
    def left(self) -> str:
        """``1:05`` until the end, at the present speed."""
        if self.state != "running" or self.per_second <= 0:
            return ""
        seconds = int((self.end_step - self.step) / self.per_second)
        minutes, hours = seconds // 60, seconds // 3600
        return f"{hours}:{minutes % 60:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


class Display:
    """Told of each start and end; looks up the rest in the siblings' leases. On stderr.

    Args:
        siblings: in the order of their lines.
        good_ends: states in which one has done what it was started for.
    """

    def __init__(self, siblings: Sequence[Sibling], good_ends: Collection[str] = ("finished",)) -> None:
        self._good_ends = good_ends
        self._lines = {one.id: _Line(one, end_step=one.end_step) for one in siblings}
        self._console = Console(stderr=True, highlight=False)
        shown = self._console.is_terminal and sys.stderr.isatty()
        self._live = Live(console=self._console, auto_refresh=False) if shown else None
        self._asked = False
        self._next = 0.0

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            if self._live is not None:
                self._live.update(self.table(), refresh=True)
                self._live.stop()

    def started(self, sibling: Sibling, pid: int) -> None:
        """A sibling's process runs."""
        self._lines[sibling.id].state = "starting"
        self._say(f"{sibling.id}: started, process {pid}, log {RunDirectory(sibling.directory).log}")

    def ended(self, sibling: Sibling, ended: Ended) -> Outcome:
        """A sibling's process has ended: see that its record says so, and tell."""
        line = self._lines[sibling.id]
        if other := left_to(ended, sibling.directory):
            line.state, line.note = "running elsewhere", other
            self._say(f"{sibling.id}: running elsewhere: {other}")
            return Outcome(sibling.id, None, other, elsewhere=True)
        reason = settle(sibling.directory, ended, self._asked)
        record = read_record(sibling.directory)
        line.state = record.state if record is not None else "failed" if ended.status else "finished"
        line.step = record.step if record is not None else line.step
        line.note = reason
        self._say(f"{sibling.id}: {line.state} at step {line.step}" + (f": {reason}" if reason else ""))
        if not self._asked and (ended.killed_by is not None or reason.startswith("exit status")):
            log = RunDirectory(sibling.directory).log
            self._print(f"{sibling.id}: {reason}; the last lines of {log}:")
            for text in last_lines(log):
                self._print(f"    {text[:300]}")
        for text in ended.untold.splitlines():
            self._print(f"    {text}")
        ended_well = not reason and line.state in self._good_ends
        return Outcome(sibling.id, 0 if ended_well else ended.status or 1, reason)

    def stopping(self, stopping: Stopping) -> None:
        """A signal asked to stop."""
        assert stopping.asked is not None
        self._asked = True
        how = "killing all siblings" if stopping.at_once else "all siblings save and stop; Ctrl-C: at once"
        self._print(f"{stopping.asked.name}: {how}.")

    def tick(self) -> None:
        """Renew the lines."""
        if self._live is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _RENEW_SECONDS
        self.look()
        with contextlib.suppress(OSError):
            self._live.update(self.table(), refresh=True)

    def look(self) -> None:
        """See how far those are that run."""
        for line in self._lines.values():
            if line.state in ("starting", "running"):
                _look(line)

    def table(self) -> Table:
        """The lines; where the terminal is too low for them, those that run and one that counts the rest."""
        table = Table.grid(padding=(0, 2))
        lines = list(self._lines.values())
        hidden: dict[str, int] = {}
        if len(lines) > self._console.height - 2:
            for line in lines:
                if line.state not in ("starting", "running"):
                    hidden[line.state] = hidden.get(line.state, 0) + 1
            lines = [line for line in lines if line.state not in hidden][: self._console.height - 3]
        for line in lines:
            speed = f"{line.per_second:.3g} steps/s" if line.left else ""
            steps = f"{line.step}/{line.end_step}"
            row = (line.sibling.id, line.state, steps, speed, line.loss, line.left, line.note)
            table.add_row(*map(escape, row))
        if hidden:
            table.add_row(", ".join(f"{count} {state}" for state, count in hidden.items()))
        return table

    def _say(self, text: str) -> None:
        if self._live is None:
            self._print(text)

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):
            if self._live is None:
                print(text, file=sys.stderr, flush=True)
            else:
                self._live.console.print(text, markup=False)


def _look(line: _Line) -> None:
    there = holder(RunDirectory(line.sibling.directory))
    if there is None or not there.alive:
        return
    line.state, line.step, line.per_second = "running", there.step, there.steps_per_second
    line.end_step = there.end_step or line.end_step
    line.loss = _loss(there.metrics)


def _loss(metrics: Mapping[str, float]) -> str:
    """The loss that is trained on, where the task calls it so; else the first one of any name."""
    named = [name for name in metrics if name.endswith("loss")]
    for name in ("train/total_loss", *named):
        if name in metrics:
            return f"{name.rpartition('/')[2]} {metrics[name]:.4g}"
    return ""
