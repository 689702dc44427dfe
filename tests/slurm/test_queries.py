"""What SLURM says of a job, where its parts say different things."""

from __future__ import annotations

import pytest

from launcher.launchers.jobs.queries import states
from tests.slurm.slurm_cluster import Cluster


def test_a_job_that_is_cancelled_on_its_way_back_into_the_queue_has_ended(
    slurm: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of such a job sacct says REQUEUED for ever."""
    for name, value in slurm.environment().items():
        monkeypatch.setenv(name, value)
    job = slurm.submit("trap '' TERM; sleep 1000 & wait; sleep 1000", "--requeue")
    slurm.wait_for(lambda: states([job])[job].state == "RUNNING", 60, f"{job} runs")
    slurm.run("scontrol", "requeue", job)
    slurm.run("scancel", job)
    slurm.wait_for(lambda: not slurm.jobs(), 60, f"{job} is over")
    now = states([job])[job]
    assert (now.state, now.ended) == ("CANCELLED", True)
