"""Whether a run is logged to a server, to files, or not at all."""

from __future__ import annotations

import logging
import os
from typing import Literal

from launcher.errors import ConfigError
from launcher.validation import CHOICES

log = logging.getLogger("launcher.trackers")


def asked_mode(configured: str) -> str:
    """The mode from the config, or of ``auto`` the one from the environment."""
    found = configured if configured != "auto" else os.environ.get("WANDB_MODE", "").strip() or "auto"
    asked = {"run": "online", "dryrun": "offline"}.get(found, found)
    if asked not in CHOICES["tracker.wandb.mode"]:
        expected = "online | offline | disabled"
        raise ConfigError("WANDB_MODE has no such value.", found=f"WANDB_MODE={found}", expected=expected)
    return asked


def possible_mode(asked: str, host: str) -> Literal["online", "offline"]:
    """The mode that is to be had at a server.

    Raises:
        ConfigError: ``online`` without a key.
    """
    if asked == "offline":
        return "offline"
    if has_key(host):
        return "online"
    if asked == "online":
        # With a terminal the client would ask for a key and wait for an answer.
        raise ConfigError("wandb has no API key.", do="set WANDB_API_KEY, or run `wandb login`")
    log.info("wandb has no API key: logging offline (`launcher sync` uploads later).")
    return "offline"


def has_key(host: str) -> bool:
    """Whether the client would find a key: environment, netrc file, or its settings file."""
    from wandb.sdk.lib import wbauth

    found = wbauth.authenticate_session(
        host=host, source="launcher", prompt=False, update_session=False, no_create=True
    )
    return found is not None
