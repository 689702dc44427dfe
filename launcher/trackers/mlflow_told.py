"""What MLflow is told of a run, kept in the run's directory: ``launcher sync`` tells it again."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from launcher.config import MlflowConfig
from launcher.files import read_json_object, write_json
from launcher.trackers.base import RunIdentity
from launcher.trackers.wandb.names import DEFAULT_PROJECT

_FILE = "mlflow.json"


@dataclass(frozen=True)
class Told:
    """Where a run was to be, and who it is."""

    config: MlflowConfig
    identity: RunIdentity


def note_told(identity: RunIdentity, uri: str, store: str) -> None:
    """Keep it; a directory that cannot be written is no reason to go without MLflow."""
    about = {
        "id": identity.id, "name": identity.name, "group": identity.group, "job_type": identity.job_type,
        "project": experiment_name(identity), "tags": list(identity.tags), "notes": identity.notes,
        "config": dict(identity.config),
    }  # fmt: skip
    place = {"uri": without_secret(uri), "store": str(Path(store).resolve())}
    with contextlib.suppress(OSError, TypeError, ValueError):
        write_json(identity.directory / _FILE, {**place, "identity": about})


def was_told(directory: Path) -> bool:
    """Whether the run in a directory was to be tracked by MLflow."""
    return (directory / _FILE).is_file()


def told_of(directory: Path, last_logged_step: int | None) -> Told:
    """What was told of the run in a directory, as of one that goes on after ``last_logged_step``.

    A password is not kept: where the address had one, ``MLFLOW_TRACKING_URI`` has to say it again.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
    """
    kept = read_json_object(directory / _FILE)
    about = {**kept["identity"], "tags": tuple(kept["identity"]["tags"])}
    identity = RunIdentity(directory=directory, resumed=True, last_logged_step=last_logged_step, **about)
    said = os.environ.get("MLFLOW_TRACKING_URI", "")
    uri = said if without_secret(said) == kept["uri"] else kept["uri"]
    return Told(MlflowConfig(uri=uri, store=kept["store"]), identity)


def without_secret(uri: str) -> str:
    """A server's or a database's address as it may be shown and kept: without user and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def experiment_name(identity: RunIdentity) -> str:
    """The experiment, which is the project."""
    environment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or os.environ.get("WANDB_PROJECT")
    return identity.project or environment or DEFAULT_PROJECT
