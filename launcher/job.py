"""The process of one sibling that a launcher started: ``python -P -m launcher.job RUN_DIRECTORY``.

Everything that it does was decided at the launch: ``launch.json`` has the resolved config.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launcher.branch.declared import Declared
from launcher.config import Config
from launcher.errors import LauncherError
from launcher.launchers.sibling import read_launch
from launcher.layout import RunDirectory


def run_sibling(directory: Path) -> int:
    """Bring the sibling in ``directory`` to its end in this process; the exit status.

    What it prints goes to ``log.txt`` in the run's directory.
    """
    _print_to(RunDirectory(directory).log)
    try:
        launch = read_launch(directory)
        os.chdir(launch.working_directory)
        from launcher.run import run

        run(Config.from_plain(launch.config), Declared(**launch.declared))
    except LauncherError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def _print_to(log: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def main(arguments: list[str]) -> int:
    """Run the sibling whose directory is the one argument."""
    [directory] = arguments
    return run_sibling(Path(directory))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
