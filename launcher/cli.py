"""Looking at runs of checkpoint branches, and managing them. `launcher COMMAND --help` says more of each."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from launcher.commands import checkpoints, comparing, looking, managing, reporting, searching, starting
from launcher.commands.verbs import Verbs
from launcher.errors import LauncherError
from launcher.messages import ending_quietly


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    The exit status is 0, 1 (a run failed), 2 (wrong input), 3 (a check came out negative), 130 (Ctrl-C) or
    141 (nobody reads what it prints).
    """
    with ending_quietly():
        options = _parser().parse_args(arguments)
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        status: int = options.run_verb(options)
        return status
    except LauncherError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launcher", description=__doc__)
    verbs = Verbs(parser)
    for subject in (looking, checkpoints, comparing, reporting, managing, searching, starting):
        subject.add(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
