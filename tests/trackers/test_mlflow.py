"""A real MLflow server on the loopback: seen while it lives, missed without harm, caught up with later."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launcher.config import MlflowConfig
from launcher.files import write_json
from launcher.layout import RunDirectory, checkpoint_file, manifest_of
from launcher.trackers import worker
from launcher.trackers.metrics_file import MetricsFile
from launcher.trackers.mlflow import METRICS_AT_ONCE, MlflowTracker
from launcher.trackers.mlflow_sync import complete_run
from launcher.trackers.mlflow_told import told_of
from launcher.trackers.trackers import Trackers
from tests.tiny_process import Tiny
from tests.trackers.mirrors import Mirror, mlflow_rows, mlflow_run, needs
from tests.trackers.test_contract import expected, identity, line, run, warnings_in
from tests.trackers.test_others import eventually, free_port

if TYPE_CHECKING:
    from mlflow.entities import Run

pytestmark = [needs("mlflow"), pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")]


@dataclass
class Server:
    """``mlflow server`` over a directory; it can be killed."""

    place: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--workers=1",
            "--host=127.0.0.1", f"--port={self.port}",
            f"--backend-store-uri=sqlite:///{self.place / 'mlflow.db'}",
            f"--artifacts-destination={self.place / 'artifacts'}",
        ]  # fmt: skip
        with (self.place / "log.txt").open("ab") as log:
            # Jobs are evaluations of language models, done by three more processes.
            environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        eventually(
            f"{self.uri}/api/2.0/mlflow/experiments/get?experiment_id=0", lambda found: "experiment" in found
        )

    def hang(self) -> None:
        """It takes connections, and answers nothing."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self.process is None:
            return
        # Its workers are its children, in the same group.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)
        self.process = None


@pytest.fixture
def server(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    shutil.copyfile(mlflow_database, tmp_path / "mlflow.db")
    made = Server(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_a_server_has_the_run_loses_it_in_the_middle_and_has_all_of_it_in_the_end(
    how: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setitem(worker.FINISH_SECONDS, "interrupted", 1.0)  # type: ignore[arg-type]
    config = MlflowConfig(flush_seconds=0)
    trunk = identity(tmp_path, "trunk-1a2b3c4d")
    directory = RunDirectory(trunk.directory)
    directory.checkpoints.mkdir()
    (directory.checkpoints / checkpoint_file(3)).touch()
    write_json(manifest_of(directory.checkpoints / checkpoint_file(3)), {"sha256": "ab" * 32})
    run(trunk, [MlflowTracker(config)], range(1, 4))
    client = MlflowClient(server.uri)
    parent = mlflow_run(client, trunk).info.run_id
    # As the page asks for it.
    artifact = f"{server.uri}/get-artifact?path=checkpoints.json&run_uuid={parent}"
    [reference] = eventually(artifact, lambda found: "checkpoints" in found)["checkpoints"]
    assert reference["uri"] == (directory.checkpoints / checkpoint_file(3)).as_uri()
    assert (reference["step"], reference["sha256"]) == (3, "ab" * 32)
    about = identity(tmp_path, config={"branched_from_run": trunk.id, "long": "x" * 9000})
    metrics = MetricsFile(about.directory / "metrics.jsonl")
    trackers = Trackers(metrics, [MlflowTracker(config)])
    trackers.start(about)
    while not trackers.links:  # It begins in a thread of its own.
        time.sleep(0.01)
    for step in range(1, 12):
        if step == 6:
            server.kill() if how == "killed" else server.hang()
        trackers.log(line(step))
    trackers.finish("interrupted")
    [warning] = warnings_in(caplog)
    assert warning.startswith("mlflow failed")
    assert trackers.dropped["mlflow"] > 0
    server.kill()

    # Going on by the database itself: a second start of the server would take as long as all of this.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{server.place / 'mlflow.db'}")
    run(about, [MlflowTracker(config)], range(10, 16))
    assert len(warnings_in(caplog)) == 1
    assert capfd.readouterr() == ("", "")
    client = MlflowClient(f"sqlite:///{server.place / 'mlflow.db'}")
    assert mlflow_rows(client, about) == expected(Mirror(), about)
    found = mlflow_run(client, about)
    page = f"{server.uri}/#/experiments/{found.info.experiment_id}/runs/{found.info.run_id}"
    assert trackers.links == {"mlflow": page}
    assert found.info.status == "FINISHED"
    assert found.data.tags["mlflow.parentRunId"] == parent
    assert found.data.params["long"] == "x" * 6000


def test_a_finished_run_whose_server_was_away_is_completed_by_sync(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no next process. Of the one that lost its server from the beginning nothing is there yet."""
    from mlflow import MlflowClient

    secret = server.uri.replace("//", "//her:secret@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    runs = [identity(tmp_path, "lost-1a2b3c4d"), identity(tmp_path, "never-1a2b3c4d")]
    for about in runs:
        metrics = MetricsFile(about.directory / "metrics.jsonl")
        trackers = Trackers(metrics, [MlflowTracker(MlflowConfig(flush_seconds=0))])
        trackers.start(about)
        while not trackers.links and not trackers.dropped:
            time.sleep(0.01)
        for step in range(1, 12):
            if step == 6:
                server.hang()
            trackers.log(line(step))
        trackers.finish("finished")
        assert "secret" not in f"{trackers.links} {(about.directory / 'mlflow.json').read_text()}"
        assert told_of(about.directory, 11).config.uri == secret
    assert len(warnings_in(caplog)) == 2
    assert "`launcher sync` hands it over later" in warnings_in(caplog)[0]
    server.go_on()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # It stands in the run's directory where it was to go.
    client = MlflowClient(server.uri)
    assert mlflow_run(client, runs[0]).info.status == "RUNNING"
    for about in runs:
        done = complete_run(about.directory, "finished", {"step": 11})
        assert (done.problem, done.lines) == (None, 11)
        assert done.sent > 0
        assert mlflow_rows(client, about) == expected(Mirror(), about)
        found = mlflow_run(client, about)
        assert done.link == f"{server.uri}/#/experiments/{found.info.experiment_id}/runs/{found.info.run_id}"
        assert (found.info.status, found.data.tags["step"]) == ("FINISHED", "11")
        assert found.data.tags["group"] == str(about.group)
        again = complete_run(about.directory, "finished", {"step": 11})
        assert (again.problem, again.sent) == (None, 0)
        assert mlflow_run(client, about).info.end_time == found.info.end_time
    server.kill()
    assert "Max retries exceeded" in str(complete_run(runs[0].directory, "finished", {}).problem)


def test_launcher_sync_looks_after_mlflow_too(tiny: Tiny, tmp_path: Path, mlflow_database: Path) -> None:
    """And without a key of W&B, which has the run as well, after MLflow only."""
    from mlflow import MlflowClient

    database = shutil.copyfile(mlflow_database, tmp_path / "mlflow.db")
    asked = ("branch.from_step=20", "optimizer.lr=0.002", f"tracker.mlflow.store={database}")
    nobody = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "WANDB_MODE": "offline"}
    about = tiny.train(*asked, "tracker=[wandb,mlflow]", environment=nobody)
    client = MlflowClient(f"sqlite:///{database}")

    def found() -> Run:
        experiment = client.get_experiment_by_name("checkpoint-branching")
        assert experiment is not None
        query = f"tags.launcher_run_id = '{about.id}'"
        [one] = client.search_runs([experiment.experiment_id], query)
        return one

    def sync() -> list[tuple[str, int, str | None]]:
        ended = tiny.launch("sync", about.id, "--json", f"--outputs={tiny.outputs}", module="launcher.cli",
                            environment=nobody)  # fmt: skip
        assert ended.status == 3, ended.said
        return [(one["tracker"], one["lines"], one["problem"]) for one in json.loads(ended.out)]

    client.update_run(found().info.run_id, status="RUNNING")  # As its server was left.
    assert sync() == [("wandb", 0, "wandb has no API key."), ("mlflow", 20, None)]
    ended = found().info
    assert ended.status == "FINISHED"
    last = about.directory.metrics.stat().st_mtime
    assert ended.end_time == max(int(last * 1000), ended.start_time)
    sync()
    assert found().info.end_time == ended.end_time


def test_what_an_interrupted_run_is_shown_as(tmp_path: Path, mlflow_database: Path) -> None:
    from mlflow import MlflowClient

    shutil.copyfile(mlflow_database, tmp_path / "mlflow.db")
    config = MlflowConfig(store=str(tmp_path / "mlflow.db"))
    about = identity(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run(about, [MlflowTracker(config)], range(1, 4), "interrupted")
    assert mlflow_run(client, about).info.status == "SCHEDULED"
    run(about, [MlflowTracker(config)], range(4, 6), "failed")
    assert mlflow_run(client, about).info.status == "FAILED"
    # An equal run in another directory is not this one.
    run(identity(tmp_path / "elsewhere", project=about.project), [MlflowTracker(config)], range(1, 9))
    experiment = client.get_experiment_by_name(str(about.project))
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_many_lines_at_once_and_keys_that_mlflow_refuses(tmp_path: Path, mlflow_database: Path) -> None:
    from mlflow import MlflowClient

    shutil.copyfile(mlflow_database, tmp_path / "mlflow.db")
    about = identity(tmp_path)
    tracker: Any = MlflowTracker(
        config := MlflowConfig(store=str(tmp_path / "mlflow.db"), flush_seconds=3600)
    )
    tracker.start(about)
    sent: list[int] = []
    send = tracker._client.log_batch

    def noted(run_id: str, metrics: list[object]) -> None:
        sent.append(len(metrics))
        send(run_id, metrics=metrics)

    tracker._client.log_batch = noted
    for step in range(1, 701):
        # Beside training, and at the end, when nobody is held up any more.
        config.flush_seconds = 0.0 if step == 300 else 3600.0
        tracker.log(step, {"train/x": 1 / step, "acc@5 (top)": 0.5})
    assert sum(sent) == 900
    assert max(sent) <= METRICS_AT_ONCE
    tracker.finish("finished", {})
    assert max(sent) > METRICS_AT_ONCE
    rows = mlflow_rows(MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}"), about)
    assert rows == [(step, {"train/x": 1 / step, "acc_5 _top_": 0.5}) for step in range(1, 701)]
