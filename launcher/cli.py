"""Looking at runs of checkpoint branches, and managing them. `launcher COMMAND --help` says more of each."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from launcher.commands import checkpoints, comparing, looking, managing, reporting, searching, starting
from launcher.commands.verbs import Verbs
from launcher.errors import LauncherError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    The exit status is 0, 1 (a run failed), 2 (wrong input), 3 (a check came out negative) or 130 (Ctrl-C).
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run_verb(options)
        return status
    except LauncherError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # `launcher tree | head` closed the pipe; that is no error of ours.
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launcher", description=__doc__)
    verbs = Verbs(parser)
    for subject in (looking, checkpoints, comparing, reporting, managing, searching, starting):
        subject.add(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
