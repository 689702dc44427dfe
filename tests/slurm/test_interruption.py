"""Jobs that SLURM interrupts in each of its ways. Cases run side by side, each on nodes of its own."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.fanout.status import status_of
from launcher.launchers.jobs.queries import release, requeue, show_job, states
from launcher.launchers.sibling import Sibling
from launcher.layout import RunDirectory
from launcher.lease import holder
from tests.slurm.launched import Launched


def start(on_slurm: Launched, seed: int, partition: str = "main", **settings: object) -> Sibling:
    sibling = on_slurm.sibling(f"seed={seed}")
    on_slurm.launch([sibling], partition=partition, **settings)
    return sibling


def on_node(node: str) -> dict[str, object]:
    return {"additional_parameters": {"nodelist": node}}


def preempt(on_slurm: Launched, *siblings: Sibling) -> list[bool]:
    """Take their nodes from them, and give them back once every job is in the queue again.

    Returns whether SLURM says of each that it was preempted, and not that it asked for its requeue.
    """
    others = [on_slurm.occupy(on_slurm.node(sibling)) for sibling in siblings]
    for sibling in siblings:
        on_slurm.wait(
            lambda sibling=sibling: (job := on_slurm.listed(sibling)) and job.state == "PENDING",  # type: ignore[misc]
            f"{sibling.id} is in the queue again\n{on_slurm.said(sibling)}",
        )
    jobs = [on_slurm.job(sibling) for sibling in siblings]
    told = states(jobs)
    assert [told[job].restarts for job in jobs] == [1] * len(jobs)
    for other in others:
        on_slurm.slurm.run("scancel", other)
    return [told[job].preempted for job in jobs]


def give_time(on_slurm: Launched, sibling: Sibling) -> bool:
    """Once it has been back in the queue, let it run as long as it takes, however slow this machine is."""
    job = on_slurm.listed(sibling)
    if job is None or job.restarts == "0":
        return False
    try:
        on_slurm.slurm.run("scontrol", "update", f"jobid={job.id}", "timelimit=60")
    except subprocess.CalledProcessError:
        return False  # It ends at this moment.
    return True


def finish(on_slurm: Launched, siblings: dict[int, Sibling]) -> None:
    """Each has come back, goes on where it was, and ends as if nothing had been."""
    for sibling in siblings.values():
        on_slurm.wait_for_steps(sibling, start=2)
    on_slurm.hurry()
    on_slurm.wait_until_finished(*siblings.values())
    for seed, sibling in siblings.items():
        on_slurm.check_undisturbed(sibling, seed)
        starts = on_slurm.run(sibling).record.starts
        assert {one.job_id for one in starts} == {on_slurm.job(sibling)}
        assert status_of(RunDirectory(sibling.directory)).requeues >= 1


def test_preemption_time_limit_requeue_and_cancellation(on_slurm: Launched) -> None:
    grace = start(on_slurm, 1, "low", **on_node("n1"))
    none = start(on_slurm, 2, "lowkill", **on_node("n2"))
    limit = start(on_slurm, 3, timeout_min=1, signal_delay_s=45, **on_node("n3"))
    requeued = start(on_slurm, 4, **on_node("n3"))
    cancelled = start(on_slurm, 5, **on_node("n4"))
    for sibling in (grace, none, requeued, cancelled):
        on_slurm.wait_for_steps(sibling)
    on_slurm.slurm.run("scancel", on_slurm.job(cancelled))
    on_slurm.slurm.run("scontrol", "requeue", on_slurm.job(requeued))
    assert preempt(on_slurm, grace, none) == [False, True]
    on_slurm.wait(lambda: give_time(on_slurm, limit), f"the time limit is reached\n{on_slurm.said(limit)}")
    finish(on_slurm, {1: grace, 2: none, 3: limit, 4: requeued})

    # Each that was told in time went on from where it was told, the others from a checkpoint.
    assert on_slurm.run(grace).record.starts[1].step % 100 != 0
    assert on_slurm.run(limit).record.starts[1].step % 100 != 0
    assert on_slurm.run(none).record.starts[1].origin in ("own checkpoint", "nothing")

    record = on_slurm.run(cancelled).record
    assert record.state == "interrupted"
    assert record.step > 0
    assert len(record.starts) == 1
    job = on_slurm.job(cancelled)
    assert on_slurm.slurm.accounted(job)[job].startswith("CANCELLED")
    assert on_slurm.listed(cancelled) is None


def test_a_node_that_dies_and_one_that_is_cut_off(on_slurm: Launched) -> None:
    died = start(on_slurm, 1, exclude="n2,n4")
    cut = start(on_slurm, 2, exclude="n1,n3")
    for sibling in (died, cut):
        on_slurm.wait_for_steps(sibling)
    before = holder(RunDirectory(cut.directory))
    assert before is not None
    lost = on_slurm.node(died), on_slurm.node(cut)
    on_slurm.slurm.kill(lost[0])
    on_slurm.slurm.cut(lost[1])
    assert before.alive
    for sibling in (died, cut):
        on_slurm.wait_for_steps(sibling, start=2)

    # The copy on the lost node was alive when the new one began, and has stopped by itself.
    on_slurm.wait(lambda: not alive(before.process.pid), f"the old copy stops\n{on_slurm.said(cut)}")
    said = on_slurm.said(cut)
    assert "Another process has taken this run over; this one stops, and writes nothing more." in said
    for node in lost:
        on_slurm.slurm.revive(node)
    finish(on_slurm, {1: died, 2: cut})


@pytest.mark.parametrize("shard", ["false", "true"])
def test_a_run_on_two_nodes_is_told_to_save_and_comes_back(on_slurm: Launched, shard: str) -> None:
    # A step of two processes costs as much as ten of one.
    on_slurm = replace(on_slurm, steps=160)
    ranks = ("launch.nproc=2", f"launch.shard={shard}")
    sibling = on_slurm.sibling("seed=1", *ranks)
    on_slurm.launch([sibling], nodes=2)
    on_slurm.wait_for_steps(sibling)
    assert on_slurm.node(sibling) == "n[1-2]"
    on_slurm.slurm.run("scancel", "--signal=USR2", on_slurm.job(sibling))
    on_slurm.wait_for_steps(sibling, start=2)
    assert on_slurm.said(sibling).count("goes back into the queue") == 1
    on_slurm.hurry()
    on_slurm.wait_until_finished(sibling)
    on_slurm.check_undisturbed(sibling, 1, *ranks)
    assert len(on_slurm.run(sibling).record.starts) == 2


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_controller_is_down_at_the_requeue_and_a_job_is_held_after_it(on_slurm: Launched) -> None:
    told = start(on_slurm, 1, **on_node("n1"))
    held = start(on_slurm, 2, **on_node("n2"))
    for sibling in (told, held):
        on_slurm.wait_for_steps(sibling)
    time.sleep(6)  # The controller writes its state every few seconds; of younger jobs it would know nothing.
    on_slurm.slurm.run("scancel", "--signal=USR2", on_slurm.job(told))
    on_slurm.slurm.controller(alive=False)
    on_slurm.wait(lambda: "no requeue yet" in on_slurm.said(told), "the job cannot be requeued")
    on_slurm.slurm.controller(alive=True)

    raw = show_job(on_slurm.job(held))["JobId"]
    requeue(on_slurm.job(held))
    place = on_slurm.slurm.home() / "spool" / "n2" / f"job{raw}"
    on_slurm.wait(lambda: not place.exists(), "the node has forgotten the job")
    place.touch()  # Where the node would make the job's directory.
    job = on_slurm.job(held)
    on_slurm.wait(lambda: states([job])[job].held_after_requeue, "SLURM holds the job")
    place.unlink()
    on_slurm.slurm.revive("n2")
    release([job])
    assert not states([job])[job].held
    finish(on_slurm, {1: told, 2: held})
