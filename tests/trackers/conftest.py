"""Nothing that a test tracks reaches the places of the person who runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def trackio_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trackio settles where its database is when it is imported, once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("trackio")
        patch.setenv("TRACKIO_DIR", str(place))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield place


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making one takes seconds."""
    from launcher.config import MlflowConfig
    from launcher.trackers.base import RunIdentity
    from launcher.trackers.mlflow import MlflowTracker

    place = tmp_path_factory.mktemp("mlflow")
    tracker = MlflowTracker(MlflowConfig(store=str(place / "mlflow.db")))
    tracker.start(RunIdentity(id="first", name="first", group=None, job_type=None, directory=place))
    return place / "mlflow.db"
