"""Data that several siblings read: read once, before they are forked, it is in memory once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.config import Config
from launcher.errors import LauncherError
from launcher.files import canonical_json
from launcher.launchers.sibling import read_launch


def most_shared(directories: Sequence[Path]) -> dict[str, Any] | None:
    """The config of one of the siblings that share their data with most others; None if none share any."""
    counts: Counter[bytes] = Counter()
    configs: dict[bytes, dict[str, Any]] = {}
    for directory in directories:
        try:
            config = read_launch(directory).config
        except LauncherError:
            continue  # Its own process will say so.
        data = canonical_json([config.get("task"), config.get("data")])
        counts[data] += 1
        configs.setdefault(data, config)
    for data, count in counts.most_common(1):
        return configs[data] if count > 1 else None
    return None


def share_data(config: dict[str, Any]) -> None:
    """Let the task of a config read its data in this process, if it is one that shares it."""
    from hydra.utils import get_class

    from launcher.training.task import SharesData

    task = get_class(config["task"]["_target_"])(Config.from_plain(config))
    if isinstance(task, SharesData):
        task.share_data()
