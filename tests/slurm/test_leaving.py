"""How a process in a job answers signals; SLURM's programs are played by scripts that note what is asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from launcher.launchers.jobs import job as slurm_job
from launcher.launchers.jobs.job import LEFT_STATUS, SlurmJob, current_job, leave
from launcher.launchers.jobs.submit import _GUARDED
from launcher.training.signals import Interruption

JOB = SlurmJob("12_3", 0)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every call of scontrol, one a line. ``scontrol requeue`` fails until the file ``up`` is there."""
    program = tmp_path / "scontrol"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n'
        f"[ -e {tmp_path}/up ] || {{ echo 'connect failure' >&2; exit 1; }}\n"
        f'if [ "$1" = show ]; then echo "JobId=15 JobState=$(cat {tmp_path}/up)"; fi\n'
        f'[ "$1" = show ] || [ "$(cat {tmp_path}/up)" = RUNNING ]\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "up").write_text("RUNNING")
    return tmp_path / "asked"


def calls(asked: Path) -> list[str]:
    return asked.read_text().splitlines() if asked.exists() else []


def after(*signals: signal.Signals, job: SlurmJob = JOB, **seconds: float) -> int:
    with Interruption() as interruption:
        for one in signals:
            os.kill(os.getpid(), one)
        return leave(job, interruption, **seconds)


def test_the_user_signal_asks_for_a_requeue(asked: Path) -> None:
    assert after(signal.SIGUSR2) == LEFT_STATUS
    assert calls(asked) == ["requeue 12_3"]


def test_a_termination_alone_asks_for_nothing(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert after(signal.SIGTERM, kill_seconds=0.3) == 128 + signal.SIGTERM
    assert calls(asked) == []
    assert "SLURM does not end it; leaving." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shown", "kill_seconds", "least"),
    [
        ("RUNNING PreemptTime=None", 60.0, 2),
        ("RUNNING PreemptTime=2026-11-21T20:00:00", 1.0, 3),
        ("COMPLETING PreemptTime=None", 1.0, 3),
        (None, 1.0, 3),
    ],
)
def test_a_termination_by_hand_is_told_from_one_by_slurm(
    asked: Path, monkeypatch: pytest.MonkeyPatch, shown: str | None, kill_seconds: float, least: int
) -> None:
    monkeypatch.setattr(slurm_job, "LOOK_SECONDS", 0.1)
    (asked.parent / "up").unlink()
    if shown is not None:
        (asked.parent / "up").write_text(shown)
    begin = time.monotonic()
    assert after(signal.SIGTERM, kill_seconds=kill_seconds) == 128 + signal.SIGTERM
    assert (time.monotonic() - begin >= kill_seconds) == (kill_seconds < 60)
    assert len(calls(asked)) >= least
    assert set(calls(asked)) == {"show job -o 12_3"}


def test_the_user_signal_is_heard_after_a_termination(asked: Path) -> None:
    assert after(signal.SIGTERM, signal.SIGUSR2) == LEFT_STATUS
    assert calls(asked) == ["requeue 12_3"]


def test_the_user_signal_is_heard_while_waiting_to_be_killed(asked: Path) -> None:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR2)).start()
    assert after(signal.SIGTERM) == LEFT_STATUS
    assert calls(asked) == ["requeue 12_3"]


def test_somebody_at_a_keyboard_is_let_go_at_once(asked: Path) -> None:
    assert after(signal.SIGINT) == 128 + signal.SIGINT
    assert calls(asked) == []


def test_only_rank_0_asks(asked: Path) -> None:
    begin = time.monotonic()
    assert after(signal.SIGUSR2, job=SlurmJob("12_3", 0, rank=1), requeue_seconds=0.3) == LEFT_STATUS
    assert time.monotonic() - begin >= 0.3
    assert calls(asked) == []


def test_a_job_that_slurm_has_requeued_already_is_left_at_that(asked: Path) -> None:
    (asked.parent / "up").write_text("PENDING")
    assert after(signal.SIGUSR2) == LEFT_STATUS
    assert calls(asked) == ["requeue 12_3", "show job -o 12_3"]


def test_a_controller_that_is_down_is_asked_again(asked: Path) -> None:
    (asked.parent / "up").unlink()
    threading.Timer(0.5, (asked.parent / "up").write_text, ("RUNNING",)).start()
    assert after(signal.SIGUSR2) == LEFT_STATUS
    assert calls(asked) == ["requeue 12_3", "show job -o 12_3", "requeue 12_3"]


def test_a_controller_that_stays_down_is_given_up(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (asked.parent / "up").unlink()
    assert after(signal.SIGUSR2, requeue_seconds=0.0) == LEFT_STATUS
    assert "could not be requeued" in capsys.readouterr().out


SLOW_TO_HEAR = """
import signal, sys, time
print("up", flush=True)
time.sleep(0.3)
from launcher.training.signals import ASKING, Interruption
with Interruption() as interruption:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
    print(*sorted(one.name for one in interruption.received))
"""


def test_a_signal_before_there_is_a_handler_is_neither_deadly_nor_lost() -> None:
    command = ["bash", "-c", _GUARDED, "launcher", sys.executable, "-c", SLOW_TO_HEAR]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGUSR2)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "SIGTERM SIGUSR2\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, SlurmJob("12", 0)),
        ({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, SlurmJob("12_3", 0)),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2", "SLURM_PROCID": "1"}, SlurmJob("12", 2, 1)),
    ],
)
def test_which_job_this_is(environment: dict[str, str], job: SlurmJob | None) -> None:
    assert current_job(environment) == job
