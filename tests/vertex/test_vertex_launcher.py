"""Siblings as jobs of Vertex AI: what is submitted, what runs, what is known about it afterwards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests import tiny_faults
from tests.tiny_process import Tiny, digest, metrics
from tests.vertex.conftest import PARENT, Cloud, impatient
from tests.vertex.vertex_server import StoredJob

POINT = "branch.from_step=20"
RATES = "optimizer.lr=0.002,0.003"
GROUP = "checkpoint-20-experiments"


def test_siblings_through_the_whole_door(cloud: Cloud, tiny: Tiny) -> None:
    ended = cloud.launch(POINT, RATES)
    assert ended.status == 0, ended.err
    assert "Submitted 2 siblings to Vertex AI" in ended.err
    jobs = cloud.server.jobs
    assert [one.job_id for one in cloud.launches()] == [job.name for job in jobs]
    assert cloud.states() == ["queued", "queued"]
    assert cloud.run_all() == [0, 0]
    assert cloud.states() == ["finished", "finished"]
    assert tiny.launch("-m", POINT, RATES).status == 0
    for rate in ("0.002", "0.003"):
        here, there = tiny.run(f"lr-{rate}"), cloud.tiny.run(f"lr-{rate}")
        assert here.id == there.id
        assert digest(here) == digest(there)
        assert metrics(here) == metrics(there)
        [start] = there.record.starts
        assert start.job_id in {job.labels["launcher-job"] for job in jobs}
    assert cloud.launch(POINT, RATES).status == 0
    assert len(cloud.server.jobs) == 2


def test_a_job_is_what_the_settings_say(cloud: Cloud) -> None:
    typed = (
        "hydra.launcher.machine_type=g2-standard-8",
        "hydra.launcher.accelerator_type=NVIDIA_L4",
        "hydra.launcher.disk_gb=200",
        "hydra.launcher.spot=true",
        "hydra.launcher.retries=false",
        "hydra.launcher.timeout_min=90",
        "hydra.launcher.service_account=trainer@my-project.iam.gserviceaccount.com",
        "+hydra.launcher.env.WANDB_API_KEY=${oc.env:WANDB_API_KEY}",
        "+hydra.launcher.env.HUB_AUTH=${oc.env:WANDB_API_KEY}",
        "+hydra.launcher.labels.team=proteins",
        "hydra.launcher.network=projects/1/global/networks/n",
        "hydra.launcher.nfs_mounts=[{server:10.0.0.2,path:/runs,mount_point:runs}]",
        "+hydra.launcher.additional_parameters.enableWebAccess=true",
        "+hydra.launcher.additional_parameters.scheduling={maxWaitDuration:60s}",
    )
    cloud.environment["WANDB_API_KEY"] = "abcdef0123"
    shown = cloud.launch(POINT, "loss=heavy", *typed, "fanout.dry_run=true")
    assert shown.status == 0, shown.err
    assert cloud.server.jobs == []
    assert cloud.launch(POINT, "loss=heavy", *typed).status == 0
    [job] = cloud.server.jobs
    [launch] = cloud.launches()
    point = cloud.tiny.trunk.directory.checkpoints / "checkpoint_step_20.pt"
    sha256 = str(launch.config["fanout"]["point"]).rpartition("@")[2]
    assert job.body["displayName"] == launch.run
    assert job.labels == {
        "launcher-group": GROUP,
        "launcher-sibling": launch.run.lower().replace(".", "-"),
        "launcher-signature": launch.run.rpartition("-")[2],
        "launcher-digest": sha256[:63],
        "launcher-fanout": launch.fanout,
        "launcher-siblings": "1",
        "launcher-job": job.environment["LAUNCHER_VERTEX_JOB"],
        "team": "proteins",
    }
    spec = job.body["jobSpec"]
    assert spec["scheduling"] == {
        "timeout": "5400s",
        "strategy": "SPOT",
        "disableRetries": True,
        "maxWaitDuration": "60s",
    }
    assert spec["serviceAccount"] == "trainer@my-project.iam.gserviceaccount.com"
    assert spec["network"] == "projects/1/global/networks/n"
    assert spec["enableWebAccess"] is True
    assert spec["baseOutputDirectory"] == {"outputUriPrefix": f"gs://runs/outputs/{GROUP}/{launch.run}"}
    [pool] = spec["workerPoolSpecs"]
    assert pool["machineSpec"] == {
        "machineType": "g2-standard-8",
        "acceleratorType": "NVIDIA_L4",
        "acceleratorCount": 1,
    }
    assert pool["replicaCount"] == "1"
    assert pool["diskSpec"] == {"bootDiskSizeGb": 200}
    assert pool["nfsMounts"] == [{"server": "10.0.0.2", "path": "/runs", "mountPoint": "runs"}]
    assert job.container["imageUri"] == "us-docker.pkg.dev/my-project/images/tiny:1"
    assert job.container["command"] == ["python", "train.py"]
    assert job.environment["WANDB_API_KEY"] == "abcdef0123"
    there = f"/gcs/runs/outputs/trunks/{cloud.tiny.trunk.id}/checkpoints/{point.name}"
    assert job.container["args"][:2] == [POINT, "loss=heavy"]
    assert job.container["args"][-5:] == [
        "paths.outputs=/gcs/runs/outputs",
        "paths.cache=/tmp/launcher-cache",
        f"branch.from_checkpoint={there}",
        f"branch.sha256={_quoted(sha256)}",
        f"fanout.signature={_quoted(job.labels['launcher-signature'])}",
    ]
    assert not any(str(cloud.mount) in one for one in job.container["args"])

    assert "abcdef0123" not in shown.said
    assert not any("abcdef0123" in path.read_text() for path in (cloud.tiny.outputs / GROUP).rglob("*.json"))
    described = json.loads(shown.out[shown.out.index("\n{\n") :])
    for one in described["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["env"]:
        one.pop("value")
    assert described["jobSpec"]["scheduling"] == spec["scheduling"]
    assert described["jobSpec"]["workerPoolSpecs"][0]["machineSpec"] == pool["machineSpec"]
    assert PARENT in (launch.job_id or "")


def _quoted(text: str) -> str:
    return text if text[0].isalpha() else f"'{text}'"


def test_several_siblings_share_a_job(cloud: Cloud, tiny: Tiny) -> None:
    typed = (POINT, "optimizer.lr=0.002,0.003,0.004", "hydra.launcher.siblings_per_job=2")
    assert cloud.launch(*typed).status == 0
    first, second = cloud.server.jobs
    assert first.labels["launcher-siblings"] == "2"
    assert second.labels["launcher-sibling"].startswith("lr-0-004")
    assert cloud.run_all() == [0, 0]
    assert tiny.launch("-m", *typed[:2]).status == 0
    runs = {run.id: digest(run) for run in tiny.runs() if run.record.kind == "branch"}
    assert {run.id: digest(run) for run in cloud.tiny.runs() if run.record.kind == "branch"} == runs
    assert len(runs) == 3
    logs = {run.id: run.directory.log for run in cloud.tiny.runs() if run.directory.log.is_file()}
    assert sorted(run.rpartition("-")[0] for run in logs) == ["lr-0.002", "lr-0.003"]
    assert all(f"{run} (finished)" in log.read_text() for run, log in logs.items())


def test_the_bucket_may_be_out_of_sight(cloud: Cloud, tmp_path: Path) -> None:
    away = Tiny(tmp_path / "here" / "outputs")
    here = replace(cloud, tiny=away)
    typed = ("seed=1", *here.settings[:2], "hydra.launcher.staging_bucket=gs://runs/lab")
    ended = away.launch("-m", *typed, environment=here.environment)
    assert ended.status == 0, ended.err
    assert here.run_all() == [0]
    ended = here.launcher("status", "--json")
    [status] = json.loads(ended.out)
    assert status["state"] == "finished"
    assert f"its files: gs://runs/lab/outputs/trunks/{status['run']}" in status["detail"]
    assert away.launch("-m", *typed, environment=here.environment).status == 0
    assert len(here.server.jobs) == 1

    shutil.copytree(cloud.mount / "runs" / "lab" / "outputs", away.outputs, dirs_exist_ok=True)
    [run] = away.runs()
    assert (run.record.state, run.record.step, run.id) == ("finished", 40, status["run"])
    # What lies on this machine only, no job can branch from.
    point = away.launch("-m", POINT, *typed, environment=here.environment)
    assert point.status == 2
    assert "No job can see the branch point: it lies on this machine." in point.said
    assert "branch.from_checkpoint=gs://BUCKET/checkpoints/checkpoint_step_20.pt" in point.said
    assert len(here.server.jobs) == 1


def test_another_config_in_the_image_is_another_run(cloud: Cloud) -> None:
    assert cloud.launch(POINT, "loss=heavy").status == 0
    [job] = cloud.server.jobs
    job.container["args"].append("loss.weight=0.7")
    [status] = cloud.run_all()
    assert status == 2
    assert all(run.record.kind == "trunk" or not run.record.starts for run in cloud.tiny.runs())


def test_a_job_that_is_started_again_goes_on(cloud: Cloud, tiny: Tiny) -> None:
    assert cloud.launch(POINT).status == 0
    [job] = cloud.server.jobs
    cloud.prepare = [tiny_faults.Kill(35, "SIGKILL", saved=True)]
    assert cloud.server.run(job, cloud.machine) == 137
    run = cloud.tiny.run("control-")
    # The machine is another one, so nobody can see that the process is gone; its sign of life is fresh.
    [lease] = run.directory.leases.glob("*/lease.json")
    said = json.loads(lease.read_text())
    lease.write_text(json.dumps({**said, "process": {**said["process"], "machine": "another"}}))
    cloud.prepare = []
    stranger = {"LAUNCHER_VERTEX_JOB": "another-job"}
    job.container["env"], own = (
        [{"name": key, "value": value} for key, value in stranger.items()],
        job.container["env"],
    )
    assert cloud.server.run(job, cloud.machine) == 2
    lease.touch()
    job.container["env"] = own
    assert cloud.server.run(job, cloud.machine) == 0
    ended = cloud.tiny.run("control-")
    assert [start.origin for start in ended.record.starts] == ["branch point", "own checkpoint"]
    alone = tiny.train(POINT)
    assert digest(ended) == digest(alone)
    assert metrics(ended) == metrics(alone)


def test_waits_for_room_and_stops_after_a_failure(cloud: Cloud) -> None:
    wait = ("hydra.launcher.wait=true", "fanout.max_parallel=1")
    refused = cloud.launch(POINT, RATES, "fanout.max_parallel=1")
    assert refused.status == 2
    assert "needs somebody who sees jobs end" in refused.said
    hurried = [partial(impatient, "wait", "POLL_SECONDS", 0.2)]
    seen: list[int] = []

    def machine(job: StoredJob) -> int:
        status = cloud.machine(job)
        seen.append(len(cloud.server.jobs))
        return status

    cloud.server.machine = machine
    ended = cloud.launch(POINT, RATES, *wait, prepare=hurried)
    assert ended.status == 0, ended.err
    assert seen == [1, 2]
    assert cloud.states() == ["finished", "finished"]

    cloud.server.machine = lambda _: 1
    stopping = (*wait, "fanout.stop_on_failure=true")
    ended = cloud.launch(POINT, "optimizer.lr=0.004,0.005", *stopping, prepare=hurried)
    assert ended.status == 1
    assert len(cloud.server.jobs) == 3
    assert "not started: another sibling failed" in ended.said
    assert "exited with a non-zero status" in ended.said
