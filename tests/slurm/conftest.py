"""One SLURM for all tests of a session, left as it was found: up or down."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import TextIO

import pytest

from tests.slurm.launched import SLOW_UNTIL, Launched
from tests.slurm.slurm_cluster import Cluster, NotInstalled
from tests.tiny_process import Tiny

LONGEST_WAIT = 240
"""Seconds that a session waits for another one to be done with the cluster."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, up, and nobody else's for the session."""
    cluster = Cluster()
    home = cluster.home()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "session.lock").open("w") as lock:
        wait_for_lock(lock)
        was_up = (home / "run" / "slurmctld.pid").exists()
        try:
            cluster.up()
        except NotInstalled as error:
            if os.environ.get("LAUNCHER_REQUIRE_SLURM") == "1":
                pytest.fail(f"LAUNCHER_REQUIRE_SLURM=1, but: {error}")
            pytest.skip(str(error))
        yield cluster
        if was_up:
            cluster.reset()
        else:
            cluster.down()


def wait_for_lock(lock: TextIO) -> None:
    end = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                pytest.fail(f"another session has held {lock.name} for {LONGEST_WAIT} s")
            time.sleep(0.5)


@pytest.fixture
def slurm(cluster: Cluster) -> Cluster:
    """The cluster at rest: no jobs, all nodes idle, all daemons alive, and no options of an earlier test."""
    cluster.up()
    cluster.reset()
    return cluster


@pytest.fixture
def on_slurm(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launched:
    """The tiny project, its runs slow until told to hurry; this process talks to the cluster."""
    # What is forked from it gets the environment of its start; nothing of a test's own belongs there.
    ensure_running()
    launched = Launched(Tiny(tmp_path / "outputs"), slurm, tmp_path / "hurried")
    for name, value in slurm.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(SLOW_UNTIL, str(launched.hurried))
    return launched
