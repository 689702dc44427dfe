"""Nothing that a test tracks reaches the places of the person who runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wandb_server.server import WandbServer


@pytest.fixture
def nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no settings of the person who runs the tests; the client gone afterwards."""
    for name in os.environ:
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


@pytest.fixture
def server(nobody_logged_in: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A stand-in for W&B that this process logs to; nothing may be asked of it that it does not model."""
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
        assert server.complaints == []


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
