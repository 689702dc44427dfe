"""TensorBoard, MLflow and Trackio through the whole door: a trunk that is killed, a fan-out from it.

What they have is read back by their own means: TensorBoard's server, MLflow's client, Trackio's storage.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoint.manifest import read_manifest
from launcher.config import MlflowConfig
from launcher.lineage import Run
from launcher.trackers.base import RunIdentity
from launcher.trackers.metrics_file import STEP, read_metrics
from launcher.trackers.mirror import numbers
from launcher.trackers.mlflow import MlflowTracker
from launcher.trackers.wandb.names import DEFAULT_PROJECT
from tests import tiny_faults
from tests.tiny_process import Tiny
from tests.trackers.mirrors import Mlflow, Rows, Tensorboard, Trackio, mlflow_run, needs

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    needs("tensorboard", "mlflow", "trackio"),
]
GROUP = "checkpoint-20-experiments"
PROJECT = "through-the-door"


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, trackio_elsewhere: Path, mlflow_database: Path) -> Tiny:
    """A trunk, killed and resumed, and two branches, all in three trackers at once."""
    tiny = Tiny(tmp_path_factory.mktemp("tracked"))
    shutil.copyfile(mlflow_database, tiny.outputs / "mlflow.db")
    told = ("tracker=[tensorboard,mlflow,trackio]", f"tracking.project={PROJECT}")
    environment = {name: os.environ[name] for name in ("TRACKIO_DIR", "HF_HUB_OFFLINE")}
    at_once = [f"tracker.{name}.flush_seconds=0" for name in ("tensorboard", "mlflow", "trackio")]
    kill = partial(tiny_faults.Kill(27, "SIGKILL", saved=True))
    killed = tiny.launch(*told, environment=environment, prepare=[kill])
    assert killed.status == 137, killed.err
    tiny.train(*told, *at_once, environment=environment)
    ended = tiny.launch(
        "-m", *told, "branch.from_step=20", "optimizer.lr=0.002,0.003", environment=environment
    )
    assert ended.status == 0, ended.err
    assert "failed" not in ended.err
    return tiny


def trunk(tiny: Tiny) -> Run:
    [found] = [run for run in tiny.runs() if run.record.kind == "trunk"]
    return found


def branches(tiny: Tiny) -> list[Run]:
    return [run for run in tiny.runs() if run.record.kind == "branch"]


def identity(run: Run) -> RunIdentity:
    return RunIdentity(run.id, run.id, run.record.group, None, run.directory.path, PROJECT)


def logged(run: Run) -> Rows:
    return [(line[STEP], numbers(line)) for line in read_metrics(run.directory.metrics)]


def test_each_has_every_step_of_every_run_once(tracked: Tiny) -> None:
    assert len(tracked.runs()) == 3
    mirrors = [kind(tracked.outputs / "mlflow.db") for kind in (Tensorboard, Mlflow, Trackio)]
    for run in tracked.runs():
        expected = logged(run)
        assert [step for step, _ in expected][-1] == 40
        for mirror in mirrors:
            kept = [(step, {k: mirror.stored(v) for k, v in row.items()}) for step, row in expected]
            assert mirror.rows(identity(run)) == kept, mirror.name


def test_the_record_says_where_a_run_can_be_seen(tracked: Tiny) -> None:
    for run in tracked.runs():
        assert run.record.trackers == {
            "tensorboard": str(run.directory.path),
            "mlflow": f"sqlite:///{tracked.outputs.resolve() / 'mlflow.db'}",
            "trackio": f'trackio show --project "{PROJECT}"',
        }


def test_in_mlflow_branches_are_nested_under_their_trunk(tracked: Tiny) -> None:
    client = Mlflow(tracked.outputs / "mlflow.db").client()
    parent = mlflow_run(client, identity(trunk(tracked)))
    assert "mlflow.parentRunId" not in parent.data.tags
    for run in branches(tracked):
        assert run.record.parent is not None
        found = mlflow_run(client, identity(run))
        assert found.info.status == "FINISHED"
        assert found.info.run_name == run.id
        tags = found.data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert tags["group"] == GROUP
        assert tags["job_type"] == run.record.job_type
        assert "from-checkpoint" in tags["tags"]
        assert tags["branched_from_step"] == "20"
        assert tags["branched_from_run"] == trunk(tracked).id
        assert tags["branched_from_sha256"] == run.record.parent.sha256
        assert tags["step"] == "40"
        assert float(found.data.params["optimizer.lr"]) in (0.002, 0.003)


def _begin(place: Path, run: str, ready: Barrier) -> None:
    (place / run).mkdir()
    about = RunIdentity(run, run, "group", None, place / run)
    ready.wait()
    MlflowTracker(MlflowConfig(store=str(place / "mlflow.db"))).start(about)


def test_siblings_that_begin_together_make_mlflows_database_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["launcher.trackers.mlflow", "mlflow"])
    ready = context.Barrier(3)
    siblings = [context.Process(target=_begin, args=(tmp_path, run, ready)) for run in ("a", "b", "c")]
    for one in siblings:
        one.start()
    for one in siblings:
        one.join()
    assert [one.exitcode for one in siblings] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("a", "b", "c")] == ["mlflow.db"]
    client = Mlflow(tmp_path / "mlflow.db").client()
    [experiment] = [one for one in client.search_experiments() if one.name == DEFAULT_PROJECT]
    assert {run.info.run_name for run in client.search_runs([experiment.experiment_id])} == {"a", "b", "c"}


def test_in_mlflow_checkpoints_are_artifacts_by_reference(tracked: Tiny, tmp_path: Path) -> None:
    client = Mlflow(tracked.outputs / "mlflow.db").client()
    found = mlflow_run(client, identity(trunk(tracked)))
    [artifact] = client.list_artifacts(found.info.run_id)
    path = client.download_artifacts(found.info.run_id, artifact.path, str(tmp_path))
    told = json.loads(Path(path).read_text())["checkpoints"]
    assert [each["step"] for each in told] == [10, 20, 30, 40]
    for each in told:
        assert read_manifest(Path(each["uri"].removeprefix("file://"))).sha256 == each["sha256"]
    assert artifact.file_size < 4096


def test_in_trackio_group_and_metadata_are_in_the_config(tracked: Tiny) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    for run in branches(tracked):
        config = SQLiteStorage.get_run_config(PROJECT, run_id=run.id)
        assert config is not None
        assert config["_Group"] == GROUP
        assert config["job_type"] == run.record.job_type
        assert "from-checkpoint" in config["tags"]
        assert config["branched_from_run"] == trunk(tracked).id
    resumed = SQLiteStorage.get_run_config(PROJECT, run_id=trunk(tracked).id)
    assert resumed is not None
    assert resumed["branch_type"] == "trunk"


@pytest.fixture
def board(tracked: Tiny) -> Iterator[str]:
    """TensorBoard's own server over the group, as a person starts it."""
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(
        [*command, f"--logdir={tracked.outputs / GROUP}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}/data"
    finally:
        process.terminate()
        process.wait(20)


def test_tensorboard_shows_the_siblings_under_their_names_and_compares_them(
    tracked: Tiny, board: str
) -> None:
    names = sorted(run.id for run in branches(tracked))
    assert eventually(f"{board}/runs", lambda found: sorted(found) == names) is not None
    asked = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "sliceSize": 10}
    shown = eventually(
        f"{board}/plugin/hparams/session_groups",
        lambda found: (
            len(found.get("sessionGroups", [])) == 2
            and all(metrics_of(one) for one in found["sessionGroups"])
        ),
        asked,
    )
    rates = {one["name"]: float(one["hparams"]["optimizer.lr"]) for one in shown["sessionGroups"]}
    assert sorted(rates) == names
    # A column for each of the trunk's metrics would hide what differs.
    assert not any("branched_from_metrics" in key for one in shown["sessionGroups"] for key in one["hparams"])
    assert sorted(rates.values()) == [0.002, 0.003]
    last = {run.id: dict(logged(run))[40]["train/total_loss"] for run in branches(tracked)}
    assert {
        one["name"]: metrics_of(one)["train/total_loss"] for one in shown["sessionGroups"]
    } == pytest.approx(last, rel=1e-6)


def metrics_of(session_group: dict[str, Any]) -> dict[str, float]:
    return {each["name"]["tag"]: each["value"] for each in session_group.get("metricValues", [])}


def eventually(url: str, good: Any, body: Any = None, seconds: float = 60) -> Any:
    """What a server answers, once it is ``good``."""
    end = time.monotonic() + seconds
    found: Any = None
    while time.monotonic() < end:
        try:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=20) as answer:
                found = json.load(answer)
            if good(found):
                return found
        except OSError as error:
            found = error
        time.sleep(0.2)
    raise AssertionError(f"{url} had this to say: {found}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
