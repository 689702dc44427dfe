"""The edge between Hydra and the launcher: schema, validation, one message for each error."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from launcher import schema, sweep
from launcher.branch.declared import Declared
from launcher.composition import config_from, declared_by
from launcher.config import Config
from launcher.errors import ConfigError, LauncherError
from launcher.fanout.alone import refuse_alone
from launcher.interpreter import importing, leave_garbage
from launcher.launchers import pool, slurm, vertex
from launcher.messages import ending_quietly, log_to_stderr
from launcher.search_sweep import sweeper as search

_TRACEBACK_WANTED = os.environ.get("HYDRA_FULL_ERROR") not in (None, "", "0")


def register(main: str | None = None) -> None:
    """Make the schema, the sweeper and the launchers known to Hydra; before its main is called.

    Args:
        main: the function of a script that has its own loop, as MODULE.FUNCTION; see :mod:`launcher.schema`.
    """
    schema.register(main)
    for part in (sweep, search, pool, slurm, vertex):
        part.register()


def run_job(composed: DictConfig) -> float | None:
    """The task function that Hydra calls for one run or for each sibling.

    The error of a single run ends the process here, with one message. Among siblings it is shown here
    and passed on, so that the others still run and the exit status says that one failed.
    """
    with importing():
        from launcher.run import run

    try:
        config, said = config_from(composed), declared_by(HydraConfig.get())
        if HydraConfig.get().mode == RunMode.RUN:
            refuse_alone(HydraConfig.get().overrides.task)
        if config.fanout.dry_run and config.fanout.id is None:
            _show_only(config, said)
        else:
            run(config, said)
    except LauncherError as error:
        if _TRACEBACK_WANTED:
            raise
        if error.exit_status == ConfigError.exit_status and os.environ.get("RANK", "0") != "0":
            raise SystemExit(error.exit_status) from None  # Rank 0 shows it.
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.RUN:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(error.exit_status) from None
        print(f"error: {error}\n  sibling:  {' '.join(hydra.overrides.task)}", file=sys.stderr)
        raise SiblingFailed(error) from error
    return None


def _show_only(config: Config, said: Declared) -> None:
    """The dry run of a single run.

    Raises:
        PreflightFailed: it could not be launched.
    """
    from launcher.fanout.check import Candidate, check
    from launcher.fanout.launch import print_findings, show, stop_if_bad

    only = [Candidate(said.overrides, (), config, said)]
    check(only, remote=False)
    print_findings(only)
    show(only)
    stop_if_bad(only, config.fanout)


class SiblingFailed(Exception):
    """One of several siblings failed; its message has been shown."""


def exit_with_one_message(application: Callable[[], Any]) -> None:
    """Call Hydra's main and end the process with the customary exit status.

    Hydra itself would print a traceback and leave with 1 for any error. ``HYDRA_FULL_ERROR`` makes it
    pass errors on; where the user set it, the traceback is theirs.
    """
    log_to_stderr()
    with ending_quietly():
        try:
            if _TRACEBACK_WANTED:
                application()
            else:
                _without_traceback(application)
        finally:
            leave_garbage()


def _without_traceback(application: Callable[[], Any]) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        application()
    except SiblingFailed:
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except LauncherError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except (HydraException, OmegaConfBaseException) as error:
        lines = [str(one).strip() for one in (error, error.__cause__) if one is not None]
        message = schema.in_our_words(error) or "\n".join(lines)
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)
