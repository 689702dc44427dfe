"""Ctrl-C once and twice, the other signals that stop a command, and a command that is killed."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from launcher.launchers.forking.stopping import Stopping
from launcher.launchers.sibling import Sibling
from launcher.layout import RunDirectory
from launcher.lineage import read_run
from tests.launchers.siblings import acting, alive, outcomes, queued, record, seen, start, until
from tests.tiny_process import Started, Tiny, digest

LONG = "training.steps=1000000"


def training(sibling: Sibling) -> bool:
    metrics = RunDirectory(sibling.directory).metrics
    return metrics.exists() and metrics.stat().st_size > 0


def said(started: Started) -> str:
    """On stderr, so far."""
    return Path(started.streams.name, "err").read_text()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_once_all_save_and_stop(empty: Tiny, name: str) -> None:
    typed = [LONG, "checkpoint.every=1000000", "training.validate_every=0"]
    siblings = [queued(empty, *typed, f"seed={seed}") for seed in range(3)]
    started = start(empty, siblings, "launcher.job:run_sibling", slots=2)
    until(lambda: all(map(training, siblings[:2])))
    number = signal.Signals[name]
    os.kill(started.pid, number)
    ended = started.end(60)
    assert ended.status == 128 + number
    stopped = [(one.id, 130, "stopped") for one in siblings[:2]]
    assert outcomes(ended.out) == [*stopped, (siblings[2].id, None, f"not started: stopped by {name}")]
    assert [record(one).state for one in siblings] == ["interrupted", "interrupted", "queued"]
    for one in siblings[:2]:
        assert record(one).error is None
        assert digest(read_run(one.directory), record(one).step), "the last step was not saved"
    assert f"{name}: all siblings save and stop; Ctrl-C: at once." in ended.err


def test_the_terminals_ctrl_c_reaches_the_command_only(empty: Tiny) -> None:
    siblings = [acting(empty.outputs, number, "stay") for number in range(2)]
    started = start(empty, siblings, slots=2, prepare=[os.setsid])
    until(lambda: all((one.directory / "ready").exists() for one in siblings))
    pids = [seen(one)["pid"] for one in siblings]
    helpers = [int((one.directory / "helper").read_text()) for one in siblings]
    os.killpg(started.pid, signal.SIGINT)
    until(lambda: "save and stop" in said(started))
    os.kill(started.pid, signal.SIGHUP)
    os.kill(started.pid, signal.SIGTERM)
    assert all(map(alive, pids)), "only Ctrl-C again means at once"
    os.killpg(started.pid, signal.SIGINT)
    ended = started.end(30)
    assert ended.status == 130
    assert [one[1:] for one in outcomes(ended.out)] == [(137, "stopped")] * 2
    until(lambda: not any(map(alive, [*pids, *helpers])))
    assert "SIGINT: killing all siblings." in ended.err


def test_only_ctrl_c_makes_it_at_once() -> None:
    with Stopping() as stopping:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert (stopping.asked, stopping.at_once) == (signal.SIGHUP, False)
        os.kill(os.getpid(), signal.SIGINT)
        assert (stopping.asked, stopping.at_once) == (signal.SIGHUP, True)


def test_a_sibling_that_was_killed_by_ctrl_c_is_interrupted_and_goes_on_later(empty: Tiny) -> None:
    [sibling] = siblings = [queued(empty)]
    (sibling.directory / "act").write_text("stay")
    started = start(empty, siblings)
    until((sibling.directory / "ready").exists)
    os.kill(started.pid, signal.SIGINT)
    until(lambda: "save and stop" in said(started))
    os.kill(started.pid, signal.SIGINT)
    assert started.end(30).status == 130
    assert record(sibling).state == "queued"
    ended = start(empty, siblings, "launcher.job:run_sibling").end()
    assert outcomes(ended.out) == [(sibling.id, 0, "")]
    assert record(sibling).state == "finished"


def test_what_was_ignored_stays_ignored(empty: Tiny) -> None:
    sibling = acting(empty.outputs, 0, "wait_for_go")
    started = start(empty, [sibling], prepare=[partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)])
    until((sibling.directory / "seen.json").exists)
    os.kill(started.pid, signal.SIGHUP)
    (empty.outputs / "go").touch()
    assert outcomes(started.end(30).out) == [(sibling.id, 0, "")]


def test_when_the_command_is_killed_those_that_run_go_on_and_no_other_starts(empty: Tiny) -> None:
    siblings = [acting(empty.outputs, number, "wait_for_go") for number in range(3)]
    started = start(empty, siblings, slots=2)
    until(lambda: all((one.directory / "seen.json").exists() for one in siblings[:2]))
    os.kill(started.pid, signal.SIGKILL)
    assert started.end(30).status == 137
    pids, server = [seen(one)["pid"] for one in siblings[:2]], seen(siblings[0])["parent"]
    until(lambda: not alive(server))
    assert all(map(alive, pids))
    begun = [seen(one)["ended"] for one in siblings[:2]]
    (empty.outputs / "go").touch()
    until(lambda: not any(map(alive, pids)))
    assert [seen(one)["ended"] > before for one, before in zip(siblings, begun, strict=False)] == [True] * 2
    assert not (siblings[2].directory / "seen.json").exists()
