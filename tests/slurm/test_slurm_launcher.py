"""Siblings submitted to a real SLURM: what runs, what is refused, what happens once."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launcher.config import FanoutConfig
from launcher.errors import ConfigError
from launcher.launchers.jobs import submit as slurm_submit
from launcher.launchers.jobs.limits import accounts
from launcher.launchers.jobs.queries import SlurmError, accounted, certain_states, states
from launcher.launchers.jobs.submit import world_size
from launcher.launchers.sibling import Sibling, read_launch
from tests.slurm.launched import LIMIT, SLOW_UNTIL, STEPS, Launched, launcher, length, undisturbed
from tests.slurm.slurm_cluster import Cluster
from tests.tiny_process import ROOT, digest


def test_siblings_of_an_array_end_as_runs_alone_do(
    on_slurm: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SERVICE", "2-1-tcp-localhost-1")
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1000")
    monkeypatch.setenv("ODD", "two\nlines, 'quotes' and = $HOME")
    monkeypatch.setenv("LARGE", "x" * 100_000)
    task = "task._target_=tests.slurm.telling.TellingTask"
    good = [on_slurm.sibling(f"seed={seed}", task) for seed in (1, 2)]
    bad = on_slurm.sibling("seed=3", "loss.nan_at_step=5")
    siblings = [good[0], bad, good[1]]
    on_slurm.hurry()
    outcomes = on_slurm.launch(siblings, partition="main", wait=True)

    jobs = [on_slurm.job(sibling) for sibling in siblings]
    assert [one.status for one in outcomes] == [0, 1, 0]
    assert jobs == [f"{jobs[0].partition('_')[0]}_{index}" for index in range(3)]
    assert [one.reason.split()[1] for one in outcomes] == jobs
    assert on_slurm.slurm.accounted(jobs[1]) == {jobs[1]: "FAILED"}
    assert certain_states([jobs[1]], seconds=0)[jobs[1]].ended
    assert on_slurm.run(bad).record.state == "failed"
    for seed, sibling in zip((1, 2), good, strict=True):
        on_slurm.check_undisturbed(sibling, seed)
        [start] = on_slurm.run(sibling).record.starts
        assert start.job_id == on_slurm.job(sibling) == on_slurm.run(sibling).record.job_id
        said = on_slurm.said(sibling)
        code = read_launch(sibling.directory).code
        assert f"launcher {code}/launcher/__init__.py\ntiny_task {code}/tests/tiny_task.py" in said
        assert "WANDB_SERVICE None" in said
        assert f"ODD {os.environ['ODD']!r} 100000" in said
        assert f"directory {ROOT}" in said
    assert len({read_launch(sibling.directory).code for sibling in siblings}) == 1


def test_siblings_through_the_whole_door_whose_launching_shell_is_killed(on_slurm: Launched) -> None:
    tiny = on_slurm.tiny
    typed = ("-m", "seed=1,2", *length(), "hydra/launcher=slurm", "hydra.launcher.wait=true")
    there = {**on_slurm.slurm.environment(), SLOW_UNTIL: str(on_slurm.hurried)}
    shell = tiny.start(*typed, environment=there)
    on_slurm.wait(
        lambda: [run.record.state for run in tiny.runs()] == ["running"] * 2, "both siblings have begun"
    )
    os.kill(shell.pid, signal.SIGKILL)
    assert shell.end().status == 128 + signal.SIGKILL
    again = tiny.start(*typed, environment=there)
    said = Path(again.streams.name, "err")
    on_slurm.wait(lambda: said.exists() and said.read_text().count("is running already") == 2, "it attaches")
    one = tiny.runs()[0].id
    follow = ("logs", one, "-f", f"--outputs={tiny.outputs}")
    logs = tiny.start(*follow, module="launcher.cli", environment=there)
    on_slurm.hurry()
    ended = again.end()
    assert ended.status == 0, ended.said
    assert [run.record.state for run in tiny.runs()] == ["finished", "finished"]
    assert [len(run.record.starts) for run in tiny.runs()] == [1, 1]
    assert f"{one} (finished)" in logs.end().out
    assert {digest(run, STEPS) for run in tiny.runs()} == {
        undisturbed(on_slurm.hurried.parent, f"seed={seed}") for seed in (1, 2)
    }
    refused = tiny.refuse(
        "-m", "seed=3", "hydra/launcher=slurm", "hydra.launcher.partition=no", environment=there
    )
    assert "There is no partition 'no' that you may use." in refused.said


@pytest.mark.parametrize(
    ("settings", "what", "expected"),
    [
        (
            {"partition": "nowhere"},
            "There is no partition 'nowhere' that you may use.",
            "short (at most 10 min",
        ),
        ({"partition": "short", "timeout_min": 20}, "hydra.launcher.timeout_min is more", "at most 10 min"),
        ({"timeout_min": 1, "signal_delay_s": 60}, "Every job would be told to save", "a small part"),
        ({"cpus_per_task": 5}, "hydra.launcher.cpus_per_task is more", "at most 4 CPUs: main"),
        ({"mem_gb": 63}, "hydra.launcher.mem_gb is more", "at most 62 GB"),
        ({"constraint": "a100"}, "No node of main has the feature 'a100'.", "there are no features"),
        ({"gres": "tpu:1"}, "No node of main has the generic resource 'tpu'.", "of: "),
        ({"qos": "urgent"}, "There is no quality of service 'urgent'.", "one of: normal"),
        ({"nodes": 2}, "The jobs would have another number of processes", None),
        ({"additional_parameters": {"reservation": "x"}}, "SLURM would refuse these jobs.", None),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_slurm_would_refuse_is_refused_before(
    on_slurm: Launched, settings: dict[str, object], what: str, expected: str | None
) -> None:
    sibling = Sibling("a", Path("/a"), 10)
    [error] = launcher(**settings).check([sibling])
    assert isinstance(error, ConfigError)
    assert error.what.startswith(what)
    assert error.expected is None or (expected or "") in error.expected
    assert on_slurm.slurm.jobs() == []


def test_accounts_are_those_of_who_asks(on_slurm: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USER", raising=False)
    mine = f"user={pwd.getpwuid(os.getuid()).pw_name}"
    there = on_slurm.slurm.run("sacctmgr", "-nP", "show", "assoc", mine, "format=account,qos").split()
    assert accounts() == sorted(f"{one.replace('|', ' (')})" for one in there)


def test_what_slurm_can_do_is_not_refused(on_slurm: Launched) -> None:
    settings = {
        "partition": "short,main",
        "timeout_min": 10,
        "nodes": 2,
        "tasks_per_node": 2,
        "cpus_per_task": 2,
    }
    assert world_size(settings) == 4
    assert launcher(**settings).check([Sibling("a", Path("/a"), 10, nproc=4)]) == []


def test_without_slurm_one_message_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    [error] = launcher().check([Sibling("a", Path("/a"), 10)])
    assert error.what == "There is no sinfo here."


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_slurm: Launched) -> Path:
    """A directory whose programs come before SLURM's."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


def put_program(place: Path, name: str, *lines: str) -> None:
    real = shutil.which(name)
    text = "\n".join(["#!/bin/bash", *(line.replace("REAL", f'{real} "$@"') for line in lines), ""])
    (place / name).write_text(text)
    (place / name).chmod(0o755)


@pytest.mark.parametrize(
    "end", ["echo 'error: Socket timed out on send/recv operation' >&2; exit 1", "sleep 1000"]
)
def test_a_job_that_sbatch_did_not_confirm_is_found_and_not_submitted_twice(
    on_slurm: Launched, programs: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(slurm_submit, "SBATCH_SECONDS", 2.0)
    put_program(programs, "sbatch", "REAL", end)
    sibling = on_slurm.sibling("seed=1")
    on_slurm.launch([sibling])
    [job] = on_slurm.slurm.jobs()
    assert on_slurm.job(sibling) == job.id
    on_slurm.wait_for_steps(sibling)


def test_a_job_that_sbatch_lost_is_not_submitted_at_all(
    on_slurm: Launched, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_submit, "FIND_SECONDS", 3.0)
    put_program(programs, "sbatch", "echo 'error: Socket timed out on send/recv operation' >&2; exit 1")
    sibling = on_slurm.sibling("seed=1")
    with pytest.raises(SlurmError) as refused:
        on_slurm.launch([sibling])
    assert "Socket timed out" in str(refused.value)
    assert on_slurm.run(sibling).record.job_id is None


def test_ctrl_c_while_waiting_leaves_the_jobs_alone(on_slurm: Launched) -> None:
    siblings = [on_slurm.sibling(f"seed={seed}") for seed in (1, 2)]

    def press() -> None:
        on_slurm.wait_for_steps(siblings[0])
        os.kill(os.getpid(), signal.SIGINT)

    keyboard = threading.Thread(target=press)
    keyboard.start()
    outcomes = on_slurm.launch(siblings, FanoutConfig(max_parallel=1), wait=True)
    keyboard.join()
    assert [one.status for one in outcomes] == [None, None]
    assert [on_slurm.listed(sibling).state for sibling in siblings] == ["RUNNING", "PENDING"]  # type: ignore[union-attr]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_edit_after_the_launch_changes_nothing(
    on_slurm: Launched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(ROOT / "tests" / "conf", project / "conf")
    module = project / "own_task.py"
    module.write_text("from tests.tiny_task import TinyTask as Task\nRIGHT = True\nassert RIGHT\n")
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    sibling = on_slurm.sibling("seed=1", "task._target_=own_task.Task", conf=project / "conf")
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    other = on_slurm.occupy("n1")
    on_slurm.wait(lambda: on_slurm.slurm.jobs()[0].state == "RUNNING", "n1 is taken")
    on_slurm.launch([sibling], additional_parameters={"nodelist": "n1"})

    edit(module, "RIGHT = True", "RIGHT = False")
    edit(project / "conf" / "loss" / "plain.yaml", "weight: 0.1", "weight: 70")
    on_slurm.slurm.run("scancel", other)
    on_slurm.wait_for_steps(sibling)
    module.unlink()
    on_slurm.slurm.run("scontrol", "requeue", on_slurm.job(sibling))
    on_slurm.wait_for_steps(sibling, start=2)
    on_slurm.hurry()
    on_slurm.wait_until_finished(sibling)
    on_slurm.check_undisturbed(sibling, 1)


PLAIN = """
import hydra
from launcher.launchers import slurm
slurm.register()
@hydra.main(version_base="1.3", config_path=None)
def main(config):
    return float(config.x) * 2
if __name__ == "__main__":
    main()
"""


def test_with_another_sweeper_it_is_submitits_launcher(on_slurm: Launched, tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    command = [sys.executable, str(script), "-m", "hydra/launcher=slurm", "+x=1,2", "hydra.sweep.dir=sweep"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("*_result.pkl"))) == 2
    refused = subprocess.run(
        [*command, "hydra.launcher.python=python"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "hydra.launcher.python is kept with hydra/sweeper=branch only." in refused.stderr


def test_small_arrays_no_accounting_and_no_signal_at_preemption(on_slurm: Launched, programs: Path) -> None:
    Cluster({"SLURM_TEST_USER_SIGNAL": "0", "SLURM_TEST_MAX_ARRAY": "2"}).up()
    put_program(programs, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    siblings = {seed: on_slurm.sibling(f"seed={seed}") for seed in (1, 2, 3)}
    on_slurm.launch([siblings[1]], partition="low", additional_parameters={"nodelist": "n1"})
    on_slurm.launch([siblings[2]], partition="lowkill", additional_parameters={"nodelist": "n2"})
    for seed in (1, 2):
        on_slurm.wait_for_steps(siblings[seed])
    others = [on_slurm.occupy(node) for node in ("n1", "n2")]
    for seed in (1, 2):
        job = on_slurm.job(siblings[seed])
        if seed == 1:
            on_slurm.wait(lambda job=job: states([job])[job].preempted, "its grace time is seen")  # type: ignore[misc]
        on_slurm.wait(lambda job=job: states([job])[job].state == "PENDING", f"{job} waits")  # type: ignore[misc]
    assert accounted(others) is None
    on_slurm.slurm.run("scancel", *others)
    for seed in (1, 2):
        on_slurm.wait_for_steps(siblings[seed], start=2)
    on_slurm.hurry()

    more = [on_slurm.sibling(f"seed={seed}") for seed in (4, 5)]
    outcomes = on_slurm.launch([siblings[3], *more], wait=True)
    assert [one.status for one in outcomes] == [0, 0, 0]
    arrays = [on_slurm.job(one).split("_") for one in (siblings[3], *more)]
    assert [task for _, task in arrays] == ["0", "1", "0"]
    assert arrays[0][0] == arrays[1][0] != arrays[2][0]
    on_slurm.wait_until_finished(*siblings.values())
    for seed, sibling in siblings.items():
        on_slurm.check_undisturbed(sibling, seed)
    assert "waiting for SLURM to end the job" in on_slurm.said(siblings[1])
