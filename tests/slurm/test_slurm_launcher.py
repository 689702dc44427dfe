"""Siblings on a real SLURM, whatever happens to their jobs."""

from __future__ import annotations

from tests.slurm.launched import Launched


def test_siblings_of_an_array_end_as_runs_alone_do(on_slurm: Launched) -> None:
    siblings = [on_slurm.sibling(f"seed={seed}") for seed in (1, 2)]
    on_slurm.hurry()
    outcomes = on_slurm.launch(siblings)
    jobs = [on_slurm.job(sibling) for sibling in siblings]
    assert [(one.status, one.reason) for one in outcomes] == [(None, f"job {job}") for job in jobs]
    assert len({job.partition("_")[0] for job in jobs}) == 1
    on_slurm.wait_until_finished(*siblings)
    for seed, sibling in zip((1, 2), siblings, strict=True):
        assert on_slurm.run(sibling).record.job_id == on_slurm.job(sibling)
        on_slurm.check_undisturbed(sibling, seed)
        [start] = on_slurm.run(sibling).record.starts
        assert start.job_id == on_slurm.job(sibling)
