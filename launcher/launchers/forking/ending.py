"""What a sibling's end was: as its record says, or, of one that could not say it, as its process shows."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

from launcher.checkpoint.store import newest_step
from launcher.errors import LauncherError
from launcher.launchers.forking.fork_server import Ended
from launcher.layout import RunDirectory
from launcher.lease import Lease, holder
from launcher.lineage import RunRecord, State, read_run, utc_now
from launcher.messages import first_line

_RANKS_DIE_SECONDS = 1.0


def describe(ended: Ended) -> str:
    """One line about how a process ended; empty if it ended well."""
    if ended.killed_by is None:
        return f"exit status {ended.status}" if ended.status else ""
    try:
        name = signal.Signals(ended.killed_by).name
    except ValueError:
        name = f"signal {ended.killed_by}"
    if ended.killed_by == signal.SIGKILL:
        return f"killed by {name}: by the kernel's out-of-memory killer, or by hand"
    return f"killed by {name}"


def read_record(directory: Path) -> RunRecord | None:
    """A run's record; None if there is none that can be read."""
    with contextlib.suppress(LauncherError):
        return read_run(directory).record
    return None


def last_lines(log: Path, count: int = 12) -> list[str]:
    """The last lines of what a process printed, or those around its crash; none if there is no such file."""
    with contextlib.suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - (1 << 16)))
        lines = stream.read().decode(errors="replace").splitlines()
        crashes = [at for at, line in enumerate(lines) if line.startswith("Fatal Python error")]
        if not crashes:
            return lines[-count:]
        # Python's report begins with threads that did nothing, and ends with who called the one that crashed.
        before, report = lines[: crashes[-1]][-2:], lines[crashes[-1] :]
        threads = [at for at, line in enumerate(report) if line.startswith("Current thread")]
        first = threads[0] if threads else 1
        return [*before, report[0], *report[first : first + count - len(before) - 1]]
    return []


def settle(directory: Path, ended: Ended, asked: bool) -> str:
    """Put an end that a sibling could not record itself into its record; one line about that end.

    A process that was killed leaves its record as if it still ran. It is written with a fencing token of
    its own, and only if nobody has taken the run up meanwhile.

    Args:
        directory: the run's.
        ended: how its process ended.
        asked: whether it had been asked to stop.
    """
    record = read_record(directory)
    asked = asked and ended.killed_by in (None, signal.SIGINT, signal.SIGKILL)
    if record is None or record.state not in ("running", "queued"):
        return (record and record.error) or ("stopped" if asked and ended.status else describe(ended))
    if asked and record.state == "queued":
        return "stopped before it began"
    reason = "stopped" if asked else describe(ended) or "exit status 0 before its end"
    if ended.killed_by is None and not asked:
        said = [line for line in last_lines(RunDirectory(directory).log, 200) if line.startswith("error: ")]
        reason = "; ".join([reason, *(said[-1:] if not ended.untold else [first_line(ended.untold)])])
    if not _lives_on(directory, ended):
        _record(directory, "interrupted" if asked else "failed", None if asked else reason)
    return reason


def _lives_on(directory: Path, ended: Ended) -> bool:
    """Whether a process has the run although the one that was started has ended."""
    # The ranks of one that was killed die with it, a moment later.
    deadline = time.monotonic() + (_RANKS_DIE_SECONDS if ended.killed_by is not None else 0)
    while (there := holder(RunDirectory(directory))) is not None and there.alive:
        if time.monotonic() >= deadline:
            return True
        time.sleep(0.02)
    return False


def left_to(ended: Ended, directory: Path) -> str:
    """The living process that a sibling's own gave way to; empty if there is none.

    Args:
        ended: how the process ended that was started here.
        directory: the run's.
    """
    # Killed, it may have left ranks behind that live a moment longer.
    if not ended.status or ended.killed_by is not None:
        return ""
    there = holder(RunDirectory(directory))
    return str(there) if there is not None and there.alive else ""


def _record(directory: Path, state: State, error: str | None) -> None:
    with contextlib.suppress(OSError, LauncherError):
        lease = Lease(RunDirectory(directory), utc_now())
        try:
            # Read again: until the token was taken, somebody else could write.
            record = read_run(directory).record
            record.state, record.error = state, error
            record.step = max(record.step, newest_step(RunDirectory(directory).checkpoints))
            record.write(directory, lease.aside())
        finally:
            lease.release()
