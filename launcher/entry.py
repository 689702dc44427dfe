"""The edge between Hydra and the launcher: schema, validation, one message for each error."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from rich.console import Console
from rich.logging import RichHandler

from launcher.branch.declared import Declared, declared
from launcher.config import Config
from launcher.errors import ConfigError, LauncherError


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
    """The task function that Hydra calls for one run or for each sibling."""
    from launcher.run import run

    _log_to_stderr()
    run(config_from(composed), declared_by_job())
    return None


def exit_with_one_message(application: Callable[[], Any]) -> None:
    """Call Hydra's main and end the process with the customary exit status.

    Hydra itself would print a traceback and leave with 1 for any error. ``HYDRA_FULL_ERROR`` makes it
    pass errors on; where the user set it, the traceback is theirs.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") not in (None, "", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        application()
    except LauncherError as error:
        _leave(error, str(error), error.exit_status, wants_traceback)
    except (HydraException, OmegaConfBaseException) as error:
        message = "\n".join(str(one) for one in (error, error.__cause__) if one is not None)
        _leave(error, message, 2, wants_traceback)
    finally:
        if not wants_traceback:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _leave(error: Exception, message: str, status: int, wants_traceback: bool) -> None:
    if wants_traceback:
        raise error
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status) from None


def _log_to_stderr() -> None:
    """One readable line for each message of the launcher; libraries' warnings only."""
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
    logger = logging.getLogger("launcher")
    if not logger.handlers:
        handler = RichHandler(
            console=Console(stderr=True), show_time=False, show_path=False, show_level=False, markup=False
        )
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
