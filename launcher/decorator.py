"""``@launcher.main``: Hydra's main for a script that keeps its own training loop."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from launcher.entry import exit_with_one_message, register, run_job
from launcher.errors import ConfigError

if TYPE_CHECKING:
    from launcher.script.loop import Main


def main(
    config_path: str | None = "conf", config_name: str = "config"
) -> Callable[[Main], Callable[[], None]]:
    """Make ``main(cfg, run)`` the door of a script: ``main()`` composes, checks and trains, or branches.

    As ``hydra.main``, with the launcher's schema, sweeper, launchers and checks. The primary config has
    ``- launcher_schema`` first in its defaults list; keys of the script's own stand beside the launcher's.
    ``launcher init`` writes such a config.

    Every run of the script, siblings in other processes and on other machines included, calls the function
    itself: it is a function of a module, not of another function. ``cfg`` is the composed config, resolved;
    ``run`` is a :class:`launcher.Run`.

    Args:
        config_path: directory of the config files, relative to the script.
        config_name: name of the primary config.
    """

    def decorate(function: Main) -> Callable[[], None]:
        @functools.wraps(function)
        def call() -> None:
            exit_with_one_message(lambda: _launch(function, config_path, config_name))

        return call

    return decorate


def _launch(function: Main, config_path: str | None, config_name: str) -> None:
    register(_name_of(function))

    # Hydra finds the config files beside what it wraps.
    @functools.wraps(function)
    def job(composed: DictConfig) -> Any:
        if OmegaConf.select(composed, "task._target_") is None:
            raise ConfigError(
                "The config is not composed on the launcher's schema.",
                where=f"{config_path}/{config_name}.yaml",
                expected="`- launcher_schema` at the top of its defaults list",
                do="add it, or have such a file written: launcher init",
            )
        return run_job(composed)

    hydra.main(version_base="1.3", config_path=config_path, config_name=config_name)(job)()


def _name_of(function: Main) -> str:
    """MODULE.FUNCTION by which another process imports it, and by which this one knows it from here on.

    Raises:
        ConfigError: it cannot be imported by any name.
    """
    module, name = function.__module__, function.__qualname__
    if "." in name:
        raise ConfigError(
            "launcher.main decorates a function of a module; siblings import it.",
            found=f"{module}.{name}",
            do="define main(cfg, run) at the top level of the script",
        )
    if module != "__main__":
        return f"{module}.{name}"
    script = sys.modules["__main__"]
    path = Path(str(script.__file__)).resolve()
    module = script.__spec__.name if script.__spec__ is not None else path.stem
    if sys.modules.setdefault(module, script) is not script or (script.__spec__ is None and "." in module):
        raise ConfigError(
            "The script cannot be imported by its name, as its siblings have to.",
            where=str(path),
            found=f"the module {module}",
            do="give the script another name, such as train.py",
        )
    if script.__spec__ is None and str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    return f"{module}.{name}"
