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


def test_an_array_runs_on_several_nodes(slurm: Cluster, tmp_path: Path) -> None:
    script = f"echo $SLURMD_NODENAME >{tmp_path}/$SLURM_ARRAY_TASK_ID; sleep 1000"
    job = slurm.submit(script, "--array=0-7", "--cpus-per-task=2")
    wait_for_state(slurm, "RUNNING", *(f"{job}_{index}" for index in range(8)))
    ran_on = [wait_for_text(slurm, tmp_path / str(index)).strip() for index in range(8)]
    assert sorted(ran_on) == sorted(NODES * 2)


def test_two_jobs_on_a_node_get_a_gpu_each(slurm: Cluster, tmp_path: Path) -> None:
    if "gpu" not in slurm.run("sinfo", "-h", "-o", "%G"):
        pytest.skip("no fake GPUs: mknod is not permitted here")
    script = f"echo $CUDA_VISIBLE_DEVICES >{tmp_path}/$SLURM_ARRAY_TASK_ID; sleep 1000"
    slurm.submit(script, "--array=0-1", "--gpus-per-node=1", "--nodelist=n3")
    assert {wait_for_text(slurm, tmp_path / index) for index in "01"} == {"0\n", "1\n"}


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
    slurm.submit(script, "--partition=low", "--nodes=4", "--exclusive", "--signal=B:USR2@90", "--requeue")
    assert wait_for_text(slurm, log) == "start\n"
    high = slurm.submit("sleep 1000", "--partition=high", "--nodes=4", "--exclusive")
    wait_for_state(slurm, "RUNNING", high)
    assert log.read_text() == "start\nUSR2\n"


def test_preemption_without_grace_requeues(slurm: Cluster) -> None:
    low = slurm.submit("sleep 1000", "--partition=lowkill", "--nodes=4", "--exclusive")
    wait_for_state(slurm, "RUNNING", low)
    high = slurm.submit("sleep 1000", "--partition=high", "--nodes=4", "--exclusive")
    wait_for_state(slurm, "RUNNING", high)
    assert {(job.id, job.state, job.restarts) for job in slurm.jobs()} == {
        (low, "PENDING", "1"),
        (high, "RUNNING", "0"),
    }


def starts(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def runs(pid: str) -> bool:
    stat = Path("/proc") / pid / "stat"
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_jobs_of_lost_nodes_run_again_elsewhere(slurm: Cluster, tmp_path: Path) -> None:
    logs = {name: tmp_path / name for name in ("killed", "cut")}
    for log in logs.values():
        slurm.submit(f"echo $SLURMD_NODENAME $$ >>{log}; sleep 1000 & wait", "--exclusive")
    slurm.wait_for(lambda: all(starts(log) for log in logs.values()), LIMIT, "the jobs have started")
    first = {name: starts(log)[0] for name, log in logs.items()}
    slurm.kill(first["killed"][0])
    slurm.cut(first["cut"][0])
    assert not runs(first["killed"][1])
    slurm.wait_for(
        lambda: all(len(starts(log)) == 2 for log in logs.values()), LIMIT, "they have started again"
    )
    assert runs(first["cut"][1])
    nodes = [node for log in logs.values() for node, _ in starts(log)]
    assert sorted(nodes) == list(NODES)
    for node, _ in first.values():
        slurm.revive(node)
    assert {(job.state, job.restarts) for job in slurm.jobs()} == {("RUNNING", "1")}
    slurm.reset()
    assert [pid for log in logs.values() for _, pid in starts(log) if runs(pid)] == []
    assert slurm.jobs() == []


def test_a_job_outlives_the_controller_and_accounting(slurm: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = slurm.submit(
        f"echo start >>{log}; until [ -e {tmp_path}/end ]; do sleep 0.1; done; echo end >>{log}"
    )
    assert wait_for_text(slurm, log) == "start\n"
    slurm.wait_for_saved(job)
    slurm.accounting(alive=False)
    slurm.controller(alive=False)
    for command in ("squeue", "sacct"):
        with pytest.raises(subprocess.CalledProcessError):
            slurm.run(command)
    slurm.accounting(alive=True)
    slurm.controller(alive=True)
    wait_for_state(slurm, "RUNNING", job)
    (tmp_path / "end").touch()
    slurm.wait_for(lambda: slurm.accounted(job) == {job: "COMPLETED"}, LIMIT, f"sacct has {job} as COMPLETED")
    assert log.read_text() == "start\nend\n"


def test_up_heals_what_a_killed_session_left(slurm: Cluster) -> None:
    job = slurm.submit("sleep 1000", "--nodelist=n1")
    wait_for_state(slurm, "RUNNING", job)
    slurm.run("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    slurm.wait_for_saved(job)
    slurm.kill("n3")
    slurm.controller(alive=False)
    slurm.up()
    wait_for_state(slurm, "RUNNING", job)
    slurm.reset()
    assert slurm.jobs() == []
    assert slurm.run("sinfo", "-h", "-p", "main", "-o", "%D %T") == "4 idle\n"


def test_options_hold_until_the_next_test(slurm: Cluster) -> None:
    other = Cluster({"SLURM_TEST_MAX_ARRAY": "4", "SLURM_TEST_ACCT": "none"})
    other.up()
    with pytest.raises(subprocess.CalledProcessError):
        other.submit("true", "--array=0-4")
    other.submit("sleep 1000", "--array=0-3")
    with pytest.raises(subprocess.CalledProcessError):
        other.accounted("1")
    slurm.up()
    slurm.submit("sleep 1000", "--array=0-4")
    assert slurm.accounted("1") == {}


def test_waiting_says_what_it_waited_for_and_shows_the_queue(slurm: Cluster) -> None:
    job = slurm.submit("sleep 1000", "--job-name=waited-for", "--hold")
    with pytest.raises(AssertionError) as failed:
        slurm.wait_for(lambda: False, 0.2, "pigs fly")
    said = str(failed.value)
    for expected in ("pigs fly", "waited-f", "End of ", f"_slurm_rpc_submit_batch_job: JobId={job} "):
        assert expected in said
