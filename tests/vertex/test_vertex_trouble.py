"""What goes wrong between here and Vertex AI: lost answers, refusals, and what is done about jobs later."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from functools import partial

import pytest

from launcher.config import FanoutConfig
from launcher.launchers.custom_jobs import client
from launcher.launchers.custom_jobs.inside import JOB_VARIABLE
from launcher.launchers.custom_jobs.spec import arguments, label
from launcher.launchers.custom_jobs.states import VertexError
from launcher.launchers.sibling import read_launch
from tests.vertex.conftest import PARENT, Asked, Cloud, impatient, without_lookup
from tests.vertex.vertex_server import wait_for

POINT = "branch.from_step=20"
RATES = "optimizer.lr=0.002,0.003"
GROUP = "checkpoint-20-experiments"
CREATE = f"POST /v1/{PARENT}/customJobs"
LIST = f"GET /v1/{PARENT}/customJobs"
SHORT = [
    partial(impatient, "submit", "FIND_SECONDS", 0.5),
    partial(impatient, "submit", "LOOK_SECONDS", 0.1),
]


def test_a_job_whose_answer_is_lost_is_submitted_once(cloud: Cloud) -> None:
    cloud.server.misbehave("lost", CREATE, times=1)
    ended = cloud.launch(POINT, RATES)
    assert ended.status == 0, ended.err
    assert len(cloud.server.jobs) == 2
    assert [launch.job_id for launch in cloud.launches()] == [job.name for job in cloud.server.jobs]
    assert cloud.server.requests.count(CREATE) == 2


def test_a_job_that_nobody_can_tell_of_is_found_later(cloud: Cloud) -> None:
    cloud.server.misbehave("lost", CREATE, times=1)
    cloud.server.misbehave("status", LIST, status=400, after=1)
    ended = cloud.launch(POINT, prepare=SHORT)
    assert ended.status == 1
    assert "Google Cloud gave no usable answer." in ended.err
    assert "launcher status looks for it" in ended.said
    [launch] = cloud.launches()
    [job] = cloud.server.jobs
    assert launch.job_id == f"{PARENT}/customJobs/{job.labels['launcher-job']}"
    cloud.server.behave()
    assert cloud.states() == ["queued"]
    again = cloud.launch(POINT)
    assert again.status == 0
    assert "queued" in again.out
    assert "not started" not in again.out
    assert len(cloud.server.jobs) == 1
    assert cloud.launcher("cancel", GROUP).status == 0
    assert job.state == "JOB_STATE_CANCELLED"


def test_a_job_that_was_never_taken_is_launched_again(cloud: Cloud) -> None:
    cloud.server.misbehave("close", CREATE, times=1)
    assert cloud.launch(POINT, prepare=SHORT).status == 1
    assert cloud.server.jobs == []
    assert cloud.states() == ["not started"]
    assert cloud.launcher("retry", GROUP).status == 0
    assert len(cloud.server.jobs) == 1
    assert cloud.states() == ["queued"]


def test_the_launching_process_may_die_at_the_worst_moment(cloud: Cloud) -> None:
    cloud.server.misbehave("hang", CREATE, times=1)
    started = cloud.tiny.start(
        "-m", POINT, RATES, *cloud.settings, environment=cloud.environment, prepare=[without_lookup]
    )
    wait_for(lambda: len(cloud.server.jobs) == 1)
    os.kill(started.pid, signal.SIGKILL)
    started.end()
    cloud.server.behave()
    assert cloud.states() == ["not started", "queued"]
    assert cloud.launch(POINT, RATES).status == 0
    assert len(cloud.server.jobs) == 2
    assert cloud.states() == ["queued", "queued"]


@pytest.mark.parametrize(
    ("on", "status", "message", "what", "do"),
    [
        (LIST, 403, "Permission 'aiplatform.customJobs.list' denied", "may not do that", "roles/aiplatform"),
        (LIST, 404, "Project not found", "knows nothing of that name", "check project"),
        (LIST, 429, "Quota exceeded for requests per minute", "quota is used up", "fanout.max_parallel=N"),
        ("GET /storage", 404, "The specified bucket does not exist.", "knows nothing of that name", "bucket"),
        (CREATE, 429, "custom_model_training_nvidia_l4_gpus exceeded", "quota is used up", "ask for more"),
        (CREATE, 400, "Machine type x is not supported", "takes no such job", "correct hydra.launcher"),
        (CREATE, 403, "iam.serviceAccounts.actAs denied", "may not do that", "serviceAccountUser"),
    ],
)
def test_a_refusal_is_told_in_one_message(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, on: str, status: int, message: str, what: str, do: str
) -> None:
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.2)
    asked.cloud.server.misbehave("status", on, status=status, message=message)
    problems = asked.launcher().check([asked.sibling])
    if on == CREATE:
        assert problems == []
        with pytest.raises(VertexError) as caught:
            asked.launcher().launch_siblings([asked.sibling], FanoutConfig(), lambda _: 0)
        problems = [caught.value]
        assert caught.value.exit_status == 1
        assert read_launch(asked.sibling.directory).job_id is None
    [error] = problems
    assert all(part in str(error) for part in (what, message, do)), error
    assert error.found == message
    assert asked.cloud.server.jobs == []
    assert asked.cloud.server.requests.count(CREATE) == (on == CREATE)


def test_quota_that_ends_half_way_leaves_what_was_taken(cloud: Cloud) -> None:
    cloud.server.misbehave("status", CREATE, status=429, message="exceeded", after=1)
    ended = cloud.launch(POINT, RATES)
    assert ended.status == 1
    assert "The project's quota is used up." in ended.said
    assert len(cloud.server.jobs) == 1
    assert cloud.states() == ["not started", "queued"]
    cloud.server.behave()
    assert cloud.launcher("retry", GROUP).status == 0
    assert len(cloud.server.jobs) == 2


def test_a_bucket_that_may_not_be_looked_at_is_taken(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    asked.cloud.server.misbehave("status", "GET /storage", status=403, message="no storage.buckets.get")
    assert asked.launcher().check([asked.sibling]) == []
    assert "it needs a hierarchical namespace" in caplog.text


def test_jobs_are_looked_at_cancelled_and_launched_again(cloud: Cloud) -> None:
    assert cloud.launch(POINT, RATES).status == 0
    first, second = cloud.server.jobs
    first.state, first.error = "JOB_STATE_FAILED", "The replica workerpool0-0 ran out of memory."
    second.state = "JOB_STATE_RUNNING"
    assert cloud.states() == ["failed", "running"]
    shown = cloud.launcher("status").said
    assert "ran out of memory" in shown
    assert f"job {second.name.rpartition('/')[2]}" in shown
    ended = cloud.launcher("logs", "lr-0.003", "-f")
    assert ended.status == 2
    number = second.name.rpartition("/")[2]
    assert (
        f"gcloud ai custom-jobs stream-logs {number} --project=my-project --region=us-central1" in ended.said
    )
    assert f"vertex-ai/locations/us-central1/training/{number}?project=my-project" in ended.said

    assert cloud.launcher("cancel", GROUP).status == 0
    assert second.state == "JOB_STATE_CANCELLED"
    assert cloud.states() == ["cancelled", "failed"]
    assert cloud.launcher("retry", GROUP).status == 0
    assert len(cloud.server.jobs) == 4
    assert cloud.states() == ["queued", "queued"]
    assert {launch.launcher for launch in cloud.launches()} == {"vertex"}
    assert cloud.run_all() == [0, 0]
    assert cloud.states() == ["finished", "finished"]


def test_a_shared_job_is_cancelled_as_a_whole(cloud: Cloud) -> None:
    assert cloud.launch(POINT, RATES, "hydra.launcher.siblings_per_job=2").status == 0
    refused = cloud.launcher("cancel", "lr-0.002")
    assert refused.status == 2
    assert "The job runs other siblings as well." in refused.said
    [job] = cloud.server.jobs
    assert job.state == "JOB_STATE_PENDING"
    assert cloud.launcher("cancel", GROUP).status == 0
    assert job.state == "JOB_STATE_CANCELLED"


def test_nobody_is_asked_where_google_cannot_be_reached(cloud: Cloud) -> None:
    assert cloud.launch(POINT).status == 0
    cloud.environment["GOOGLE_APPLICATION_CREDENTIALS"] = "/nowhere.json"
    assert "Vertex AI cannot be asked here" in cloud.launcher("status").said
    ended = cloud.launcher("retry", GROUP)
    assert ended.status == 1
    assert "There are no credentials for Google Cloud here." in ended.said
    assert len(cloud.server.jobs) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image": None}, "There is no image for the jobs to run."),
        ({"region": "Mars"}, "That is no region of Google Cloud."),
        ({"accelerator_type": "NVIDIA_L5"}, "NVIDIA_L4"),
        ({"outputs": None}, "What the jobs make would end with them."),
        ({"outputs": "/gcs/flat/outputs"}, "Directories of this bucket cannot be renamed"),
        ({"labels": {"Team": "x"}}, "Google Cloud does not take"),
        ({"labels": {"team": "X" * 64}}, "Google Cloud does not take"),
        ({"env": {JOB_VARIABLE: "x"}}, "the launcher's own"),
        ({"additional_parameters": {"enableWebAcess": True}}, 'no field named "enableWebAcess"'),
        ({"additional_parameters": {"scheduling": {"timeout": "soon"}}}, "timeout"),
        ({"nfs_mounts": [{"server": 1, "path": "/", "mount_point": "x"}]}, "server"),
        ({"siblings_per_job": 0}, "hydra.launcher.siblings_per_job is out of range."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_would_not_work_is_refused_before(asked: Asked, settings: dict[str, object], said: str) -> None:
    assert asked.launcher().check([asked.sibling]) == []
    [error] = asked.launcher(**settings).check([asked.sibling])
    assert said in str(error)


def test_without_the_package_the_extra_is_named(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "launcher.launchers.custom_jobs.client", None)
    [error] = asked.launcher().check([asked.sibling])
    assert "pip install 'checkpoint-launcher[vertex]'" in str(error)


@pytest.mark.parametrize(("nproc", "per_job"), [(2, 1), (2, 2)])
def test_processes_have_room(asked: Asked, nproc: int, per_job: int) -> None:
    launcher = asked.launcher(accelerator_type="NVIDIA_L4", accelerator_count=1, siblings_per_job=per_job)
    assert len(launcher.check([replace(asked.sibling, nproc=nproc)])) == per_job


def test_a_reference_travels_as_it_is_and_a_local_path_does_not(asked: Asked) -> None:
    config = asked.sibling.launch.config if asked.sibling.launch else {}
    for place, reached in (
        ("gs://lab/checkpoint_step_20.pt", True),
        ("wandb://me/project/best:v3", True),
        ("file:///tmp/checkpoint_step_20.pt", False),
        ("/tmp/checkpoint_step_20.pt", False),
    ):
        branch = {**config["branch"], "from_checkpoint": place}
        point = {**config["fanout"], "point": f"/tmp/.cache/checkpoint_step_20.pt@{'a' * 64}"}
        sibling = asked.with_config({**config, "branch": branch, "fanout": point})
        assert (asked.launcher().check([sibling]) == []) is reached
        if reached:
            said = arguments(sibling, asked.launcher().settings)
            assert f"branch.from_checkpoint='{place}'" in said
            assert f"branch.sha256={'a' * 64}" in said
            assert not any("/tmp/.cache" in one for one in said)


def test_labels_are_what_google_takes() -> None:
    assert label("Best-DyLoRA:v3 (é)") == "best-dylora-v3"
    assert len(label("x" * 100)) == 63
