"""The cluster itself: does SLURM do here what the tests of the launcher rely on?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.slurm.slurm_cluster import NODES, Cluster

LIMIT = 90
"""Seconds after which something has failed."""


def wait_for_state(slurm: Cluster, state: str, *jobs: str) -> None:
    slurm.wait_for(
        lambda: {job.id for job in slurm.jobs() if job.state == state} >= set(jobs),
        LIMIT,
        f"{jobs} are {state}",
    )


def wait_for_text(slurm: Cluster, path: Path) -> str:
    return slurm.wait_for(lambda: path.exists() and path.read_text(), LIMIT, f"{path.name} is written") or ""


def test_a_job_runs_and_is_accounted_for(slurm: Cluster, tmp_path: Path) -> None:
    written = tmp_path / "written"
    job = slurm.submit(f"echo $SLURM_JOB_ID >{written}")
    slurm.wait_for(lambda: slurm.accounted(job) == {job: "COMPLETED"}, LIMIT, f"sacct has {job} as COMPLETED")
    assert written.read_text() == f"{job}\n"


def test_an_array_runs_on_several_nodes_with_a_gpu_each(slurm: Cluster, tmp_path: Path) -> None:
    script = f"echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES >{tmp_path}/$SLURM_ARRAY_TASK_ID; sleep 1000"
    job = slurm.submit(script, "--array=0-7", "--gpus-per-node=1")
    wait_for_state(slurm, "RUNNING", *(f"{job}_{index}" for index in range(8)))
    lines = [wait_for_text(slurm, tmp_path / str(index)).split() for index in range(8)]
    assert sorted(lines) == [[node, gpu] for node in NODES for gpu in ("0", "1")]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--partition=nowhere",), "invalid partition"),
        (("--partition=short", "--time=11"), "Requested time limit is invalid"),
        (("--array=0-1001",), "Invalid job array specification"),
    ],
)
def test_what_sbatch_refuses(slurm: Cluster, options: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        slurm.submit("true", *options)
    assert complaint in refused.value.stderr


def test_preemption_sends_the_signal_and_requeues(slurm: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    # The batch shell gets the signal, and leaves: the grace time is not waited for.
    script = f"trap 'echo USR2 >>{log}; exit' USR2; echo start >>{log}; sleep 1000 & wait"
    low = slurm.submit(
        script, "--partition=low", "--nodes=4", "--exclusive", "--signal=B:USR2@90", "--requeue"
    )
    assert wait_for_text(slurm, log) == "start\n"
    high = slurm.submit("sleep 1000", "--partition=high", "--nodes=4", "--exclusive")
    wait_for_state(slurm, "RUNNING", high)
    assert log.read_text() == "start\nUSR2\n"


def test_preemption_without_grace_requeues(slurm: Cluster) -> None:
    low = slurm.submit("sleep 1000", "--partition=lowkill", "--nodes=4", "--exclusive")
    wait_for_state(slurm, "RUNNING", low)
    high = slurm.submit("sleep 1000", "--partition=high", "--nodes=4", "--exclusive")
    wait_for_state(slurm, "RUNNING", high)
    wait_for_state(slurm, "PENDING", low)
    slurm.run("scancel", high)
    wait_for_state(slurm, "RUNNING", low)
    assert [job.restarts for job in slurm.jobs()] == ["1"]


def starts(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def runs(pid: str) -> bool:
    stat = Path("/proc") / pid / "stat"
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("fault", ["kill", "cut"])
def test_the_job_of_a_lost_node_runs_again_elsewhere(slurm: Cluster, tmp_path: Path, fault: str) -> None:
    log = tmp_path / "log"
    job = slurm.submit(f"echo $SLURMD_NODENAME $$ >>{log}; sleep 1000 & wait")
    (lost, pid) = slurm.wait_for(lambda: starts(log), LIMIT, "the job has started")[0]
    getattr(slurm, fault)(lost)
    assert runs(pid) == (fault == "cut")
    slurm.wait_for(lambda: len(starts(log)) == 2, LIMIT, "the job has started again")
    assert starts(log)[1][0] != lost
    assert runs(pid) == (fault == "cut")
    slurm.revive(lost)
    wait_for_state(slurm, "RUNNING", job)
    slurm.reset()
    assert not runs(pid)
    assert slurm.jobs() == []


def test_a_job_outlives_the_controller_and_accounting(slurm: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = slurm.submit(
        f"echo start >>{log}; until [ -e {tmp_path}/end ]; do sleep 0.1; done; echo end >>{log}"
    )
    assert wait_for_text(slurm, log) == "start\n"
    slurm.accounting(alive=False)
    slurm.controller(alive=False)
    for command in ("squeue", "sacct"):
        with pytest.raises(subprocess.CalledProcessError):
            slurm.run(command)
    slurm.controller(alive=True)
    slurm.accounting(alive=True)
    wait_for_state(slurm, "RUNNING", job)
    (tmp_path / "end").touch()
    slurm.wait_for(lambda: slurm.accounted(job) == {job: "COMPLETED"}, LIMIT, f"sacct has {job} as COMPLETED")
    assert log.read_text() == "start\nend\n"


def test_up_heals_what_a_killed_session_left(slurm: Cluster) -> None:
    job = slurm.submit("sleep 1000", "--nodelist=n1")
    wait_for_state(slurm, "RUNNING", job)
    slurm.run("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    slurm.kill("n3")
    slurm.controller(alive=False)
    slurm.up()
    wait_for_state(slurm, "RUNNING", job)
    slurm.reset()
    assert slurm.jobs() == []
    assert slurm.run("sinfo", "-h", "-p", "main", "-o", "%D %T") == "4 idle\n"
