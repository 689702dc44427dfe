"""The edge between Hydra and the launcher: schema, validation, one message for each error."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from launcher.branch.declared import Declared, declared
from launcher.config import Config
from launcher.errors import ConfigError, LauncherError

_TRACEBACK_WANTED = os.environ.get("HYDRA_FULL_ERROR") not in (None, "", "0")


def config_from(composed: DictConfig) -> Config:
    """The validated config of a composed one.

    Raises:
        ConfigError: names the dotted key.
    """
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"{error.full_key} has no value.",
            where=str(error.full_key),
            expected="a value on the command line or in a config file",
            do=f"{error.full_key}=VALUE",
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0], where=str(error.full_key)) from error
    assert isinstance(plain, dict)
    return Config.from_plain({str(key): value for key, value in plain.items()})


def declared_by_job() -> Declared:
    """What was declared by the job that Hydra is running."""
    hydra = HydraConfig.get()
    directories = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    return declared(hydra.overrides.task, dict(hydra.runtime.choices), directories)


def run_job(composed: DictConfig) -> float | None:
    """The task function that Hydra calls for one run or for each sibling.

    The error of a single run ends the process here, with one message. Among siblings it is shown here
    and passed on, so that the others still run and the exit status says that one failed.
    """
    _log_to_stderr()
    try:
        _run_with_its_ranks(config_from(composed), declared_by_job())
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


def _run_with_its_ranks(config: Config, declared: Declared) -> None:
    """Run in this process, or in the processes that ``launch.nproc`` asks for and nobody has started."""
    from launcher.training.local_ranks import may_fork, start_ranks
    from launcher.training.rendezvous import place_from

    if place_from(config.launch.nproc) is not None:
        _run(config, declared)
    else:
        start_ranks(partial(_run, config, declared), config.launch.nproc, fork=may_fork(config.device))


def _run(config: Config, declared: Declared) -> None:
    from launcher.run import run

    _log_to_stderr()  # In a new interpreter it is not done yet.
    run(config, declared)


class SiblingFailed(Exception):
    """One of several siblings failed; its message has been shown."""


def exit_with_one_message(application: Callable[[], Any]) -> None:
    """Call Hydra's main and end the process with the customary exit status.

    Hydra itself would print a traceback and leave with 1 for any error. ``HYDRA_FULL_ERROR`` makes it
    pass errors on; where the user set it, the traceback is theirs.
    """
    if _TRACEBACK_WANTED:
        application()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        application()
    except SiblingFailed:
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except (HydraException, OmegaConfBaseException) as error:
        message = "\n".join(str(one).strip() for one in (error, error.__cause__) if one is not None)
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)


class _PresentStderr(logging.Handler):
    """Writes to whatever stderr is at the time, so that a progress bar can keep below the messages."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message as it is."""
        print(self.format(record), file=sys.stderr)


def _log_to_stderr() -> None:
    """One readable line for each message of the launcher; libraries' warnings only."""
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
    # Hydra logs what it raises as well; one message is enough.
    logging.getLogger("hydra").addHandler(logging.NullHandler())
    logger = logging.getLogger("launcher")
    if not logger.handlers:
        logger.addHandler(_PresentStderr())
        logger.setLevel(logging.INFO)
        logger.propagate = False
