"""The process of one sibling that a launcher started: ``python -P -m launcher.job RUN_DIRECTORY [--canary]``.

Everything that it does was decided at the launch: ``launch.json`` has the resolved config.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

# Whatever takes long to import is imported later: until main() has its handlers, a signal finds nobody.
from launcher.errors import LauncherError
from launcher.interpreter import importing, leave_garbage
from launcher.layout import RunDirectory
from launcher.messages import log_to_stderr
from launcher.training.signals import ASKING, Interruption

IMPORTED_LATER = (
    "launcher.run",
    "launcher.canary",
    "launcher.launchers.sibling",
    "torch.utils.serialization",
)
"""What :func:`run_sibling` will import: for whoever forks the processes that call it."""


def run_sibling(directory: Path, interruption: Interruption | None = None, until: int | None = None) -> int:
    """Bring the sibling in ``directory`` to its end in this process; the exit status.

    What it prints goes to ``log.txt`` in the run's directory.

    Args:
        directory: the run's.
        interruption: entered already, by a process that catches signals earlier and later than the run.
        until: the sibling is the canary, and stops after so many steps.

    Raises:
        LauncherError: the run failed, and its log cannot be written either.
    """
    _print_to(RunDirectory(directory).log)
    try:
        from launcher.launchers.sibling import read_launch

        launch = read_launch(directory)
        if launch.cancelled:
            print(f"{launch.run} was cancelled at {launch.cancelled}; it does not start.", file=sys.stderr)
            return 128 + signal.SIGTERM
        os.chdir(launch.working_directory)
        launch.find_script()
        with importing():
            from launcher.branch.declared import Declared
            from launcher.config import Config
            from launcher.run import run

        log_to_stderr()
        config = Config.from_plain(launch.config)
        config.fanout.until = until
        run(config, Declared(**launch.declared), interruption)
    except LauncherError as error:
        try:
            print(f"error: {error}", file=sys.stderr)
        except OSError:
            raise error from None  # The log's disk takes nothing: whoever waits for the process is told.
        return error.exit_status
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def run_canary(directory: Path, interruption: Interruption | None = None) -> int:
    """Let the sibling in ``directory`` show that it can run; 0 if its siblings may start."""
    from launcher.canary import STEPS

    return run_sibling(directory, interruption, STEPS)


def _print_to(log: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def main(arguments: list[str]) -> int:
    """Run the sibling whose directory is the first argument; with ``--canary`` only its first steps."""
    directory, *options = arguments
    canary = options == ["--canary"]
    with Interruption() as interruption:
        # The batch script blocks them, so that none is lost or deadly before there is a handler.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
        status = (run_canary if canary else run_sibling)(Path(directory), interruption)
        from launcher.launchers.jobs.job import current_job, leave

        job = current_job()
        stopped = interruption.asked is not None and status == interruption.exit_status
        if canary and status and not stopped:
            from launcher.fanout.canary import keep_back

            keep_back(Path(directory))
        return leave(job, interruption) if job is not None and stopped else status


if __name__ == "__main__":
    ended = main(sys.argv[1:])
    leave_garbage()
    sys.exit(ended)
