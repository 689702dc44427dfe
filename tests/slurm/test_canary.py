"""``fanout.canary=true`` on a real SLURM: a job of its own that opens or closes the way for the others."""

from __future__ import annotations

from launcher.launchers.jobs.queries import states
from launcher.launchers.sibling import read_launch
from tests.slurm.launched import SLOW_UNTIL, Launched
from tests.tiny_process import Ended

TYPED = ("-m", "branch.from_step=20", "loss=heavy,plain", "fanout.canary=true", "hydra/launcher=slurm")


def launched(on_slurm: Launched, *overrides: str) -> Ended:
    there = {**on_slurm.slurm.environment(), SLOW_UNTIL: str(on_slurm.hurried)}
    return on_slurm.tiny.launch(*TYPED, "hydra.launcher.wait=true", *overrides, environment=there)


def test_the_others_wait_for_it(on_slurm: Launched) -> None:
    tiny = on_slurm.tiny
    on_slurm.hurry()
    tiny.train(environment={SLOW_UNTIL: ""})
    ended = launched(on_slurm)
    assert ended.status == 0, ended.said
    control, heavy = tiny.run("control"), tiny.run("heavy")
    assert [start.origin for start in control.record.starts] == ["branch point", "own checkpoint"]
    assert control.record.starts[1].step == 22
    jobs = [start.job_id for start in control.record.starts]
    assert jobs[0] != jobs[1] == read_launch(control.directory.path).job_id
    assert [start.step for start in heavy.record.starts] == [20]
    passed = control.directory.checkpoints / "checkpoint_step_22.json"
    assert heavy.directory.config.stat().st_mtime_ns > passed.stat().st_mtime_ns
    assert {control.record.state, heavy.record.state} == {"finished"}
    assert tiny.launcher("verify", control.id).status == 0


def test_one_that_does_not_pass_closes_the_way(on_slurm: Launched) -> None:
    tiny = on_slurm.tiny
    on_slurm.hurry()
    tiny.train("task._target_=tests.slurm.telling.ForgetfulTask", environment={SLOW_UNTIL: ""})
    ended = launched(on_slurm, "task._target_=tests.slurm.telling.ForgetfulTask")
    assert ended.status == 1
    control, heavy = tiny.run("control"), tiny.run("heavy")
    assert control.record.state == "failed"
    assert "The canary did not pass" in (control.record.error or "")
    assert heavy.record.starts == []
    why = f"not started: the canary {control.id} did not pass"
    assert why in (heavy.record.error or "")
    job = read_launch(heavy.directory.path).job_id
    assert job is not None
    assert states([job])[job].state == "CANCELLED"
    assert why in ended.out
    said = {line.split()[1]: line for line in tiny.launcher("status").out.splitlines() if heavy.id in line}
    assert "not started" in next(iter(said.values()))
