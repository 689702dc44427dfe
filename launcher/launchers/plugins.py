"""Classes of this package as plugins of Hydra, without a ``hydra_plugins`` folder."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
from omegaconf import OmegaConf, open_dict

_NAMESPACE = "hydra_plugins.checkpoint_launcher"

PARALLELISM = ("array_parallelism", "n_jobs")
"""What launchers call the number of siblings that run at the same time; some cannot be told."""


def register_plugin(cls: type[Plugin], group: str, name: str, node: Any) -> None:
    """Let ``hydra/launcher=NAME`` (or ``hydra/sweeper=NAME``) mean ``cls``.

    Args:
        cls: a launcher or a sweeper; it gets ``node``'s fields as keyword arguments.
        group: ``hydra/launcher`` or ``hydra/sweeper``.
        name: what is typed.
        node: a dataclass of the plugin's settings; ``_target_`` is added here.
    """
    plugins = Plugins.instance()
    plugins.register(cls)
    # Hydra instantiates only what is named below hydra_plugins, wherever the class comes from.
    target = f"{_NAMESPACE}.{cls.__name__}"
    plugins.class_name_to_class[target] = cls
    config = OmegaConf.structured(node)
    with open_dict(config):
        config._target_ = target
    ConfigStore.instance().store(group=group, name=name, node=config, provider="checkpoint-launcher")
