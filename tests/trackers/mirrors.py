"""The trackers as the contract's tests see them: how each is made, read back and broken."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.config import MlflowConfig, TensorboardConfig, TrackioConfig, WandbConfig
from launcher.trackers.base import RunIdentity, Tracker
from launcher.trackers.metrics_file import STEP
from launcher.trackers.mlflow import MlflowTracker
from launcher.trackers.tensorboard import TensorboardTracker
from launcher.trackers.trackio import TrackioTracker
from launcher.trackers.wandb.tracker import WandbTracker

Rows = list[tuple[int, dict[str, float]]]


class Mirror:
    """One tracker."""

    name = ""
    fills_gaps = True
    """Whether a resumed process hands over what earlier ones could not."""

    def make(self) -> Tracker:
        raise NotImplementedError

    def failing(self) -> Tracker:
        """One whose start fails."""
        raise NotImplementedError

    def spoil(self, tracker: Any) -> None:
        """Make the next call of a started tracker fail."""
        raise NotImplementedError

    def rows(self, identity: RunIdentity) -> Rows:
        """What the tracker has of a run."""
        raise NotImplementedError

    def stored(self, value: float) -> float:
        """What becomes of a number in the tracker."""
        return value


class Wandb(Mirror):
    name = "wandb"
    fills_gaps = False

    def __init__(self, mlflow_store: Path) -> None:
        pass

    def make(self) -> Tracker:
        return WandbTracker(WandbConfig(mode="offline"))

    def failing(self) -> Tracker:
        return WandbTracker(WandbConfig(mode="online"))

    def spoil(self, tracker: Any) -> None:
        from wandb.sdk import wandb_setup

        connection: Any = wandb_setup.singleton()._connection
        os.kill(connection._proc._process.pid, signal.SIGKILL)

    def rows(self, identity: RunIdentity) -> Rows:
        import wandb

        wandb.teardown()
        found = sorted(
            (identity.directory / "wandb").glob("*run-*"), key=lambda path: path.stat().st_mtime_ns
        )
        lines: list[dict[str, Any]] = []
        for segment in found:
            command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(segment)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            records = map(json.loads, done.stdout.splitlines())
            lines += [record["history"]["item"] for record in records if record["type"] == "history"]
        return [(int(line[STEP]), _metrics(line)) for line in lines]


class Tensorboard(Mirror):
    name = "tensorboard"

    def __init__(self, mlflow_store: Path) -> None:
        pass

    def make(self) -> Tracker:
        return TensorboardTracker(TensorboardConfig(flush_seconds=0))

    def failing(self) -> Tracker:
        class Elsewhere(TensorboardTracker):
            def start(self, identity: RunIdentity) -> str | None:
                return super().start(RunIdentity("x", "x", None, None, identity.directory / "metrics.jsonl"))

        return Elsewhere(TensorboardConfig())

    def spoil(self, tracker: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        tracker._writer.close()
        tracker._writer = RecordWriter(Path("/dev/full").open("wb", buffering=0))  # noqa: SIM115

    def rows(self, identity: RunIdentity) -> Rows:
        from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

        # Any number of points: TensorBoard itself would show a sample.
        multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 0})
        multiplexer.AddRunsFromDirectory(str(identity.directory.parent))
        multiplexer.Reload()
        rows: Rows = []
        accumulator = multiplexer.GetAccumulator(identity.directory.name)
        for tag in accumulator.PluginTagToContent("scalars"):
            for event in accumulator.Tensors(tag):
                rows.append((event.step, {tag: float(event.tensor_proto.float_val[0])}))
        return merged(rows)

    def stored(self, value: float) -> float:
        return float(struct.unpack("f", struct.pack("f", value))[0])


class Mlflow(Mirror):
    name = "mlflow"

    def __init__(self, mlflow_store: Path) -> None:
        self.store = mlflow_store

    def make(self) -> Tracker:
        return MlflowTracker(MlflowConfig(store=str(self.store), flush_seconds=0))

    def failing(self) -> Tracker:
        return MlflowTracker(MlflowConfig(uri="http://127.0.0.1:9"))

    def spoil(self, tracker: Any) -> None:
        other = self.store.with_name("other.db")
        other.write_bytes(b"not a database" * 1000)
        other.replace(self.store)

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.store}")

    def rows(self, identity: RunIdentity) -> Rows:
        return mlflow_rows(self.client(), identity)

    def stored(self, value: float) -> float:
        return math.copysign(sys.float_info.max, value) if math.isinf(value) else value


class Trackio(Mirror):
    name = "trackio"

    def __init__(self, mlflow_store: Path) -> None:
        pass

    def make(self) -> Tracker:
        return TrackioTracker(TrackioConfig(flush_seconds=0))

    def failing(self) -> Tracker:
        class Refused(TrackioTracker):
            def start(self, identity: RunIdentity) -> str | None:
                return super().start(RunIdentity("x", "x", None, None, identity.directory, "registry-x"))

        return Refused(TrackioConfig())

    def spoil(self, tracker: Any) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        path = SQLiteStorage.get_project_db_path(tracker._project)
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
        path.mkdir()

    def rows(self, identity: RunIdentity) -> Rows:
        from trackio.sqlite_storage import SQLiteStorage

        assert identity.project is not None
        lines = SQLiteStorage.get_logs(identity.project, run_id=identity.id)
        points: Rows = [
            (line["step"], {key: line[key] for key in line.keys() - {"step", "timestamp"}}) for line in lines
        ]
        return merged(points)


MIRRORS: Mapping[str, type[Any]] = {each.name: each for each in (Wandb, Tensorboard, Mlflow, Trackio)}


def mirror(name: str, directory: Path, database: Path | None) -> Mirror:
    """A tracker whose package is there; without it the test is skipped."""
    importlib.import_module(name)
    store = directory / "mlflow.db"
    if database is not None:
        shutil.copyfile(database, store)
    made: Mirror = MIRRORS[name](store)
    return made


def needs(*names: str) -> pytest.MarkDecorator:
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"needs the extra {', '.join(absent)}")


def mlflow_rows(client: Any, identity: RunIdentity) -> Rows:
    run = mlflow_run(client, identity)
    rows: Rows = []
    for key in run.data.metrics:
        rows += [(each.step, {key: each.value}) for each in client.get_metric_history(run.info.run_id, key)]
    return [(step, _metrics(line)) for step, line in merged(rows)]


def mlflow_run(client: Any, identity: RunIdentity) -> Any:
    experiment = client.get_experiment_by_name(identity.project)
    [run] = client.search_runs([experiment.experiment_id], f"tags.launcher_run_id = '{identity.id}'")
    return run


def merged(points: Rows) -> Rows:
    """One row a step; a point that is there twice is an error."""
    rows: dict[int, dict[str, float]] = {}
    for step, metrics in points:
        row = rows.setdefault(step, {})
        assert not row.keys() & metrics.keys(), f"{metrics} is there twice at step {step}"
        row.update(metrics)
    return sorted(rows.items())


def _metrics(line: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in line.items() if key != STEP and not key.startswith("_")}
