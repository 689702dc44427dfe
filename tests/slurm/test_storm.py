"""The storm, short: `make storm` has the long one."""

from __future__ import annotations

from multiprocessing.forkserver import ensure_running
from pathlib import Path

import pytest

from tests.slurm.slurm_cluster import Cluster
from tests.slurm.storm import KINDS, storm

SECONDS = 9
SIBLINGS = 4
SHORT = {kind: weight for kind, weight in KINDS.items() if kind != "controller killed"}
"""A controller that was down believes for a minute in jobs that a lost node had; it has its own tests."""


@pytest.mark.timeout(600)
def test_siblings_in_a_storm_end_as_in_fair_weather(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_running()  # What is forked from it gets the environment of its start.
    for name, value in slurm.environment().items():
        monkeypatch.setenv(name, value)
    said = storm(tmp_path, slurm, seed=3, seconds=SECONDS, weights=SHORT, siblings=SIBLINGS)
    assert said.startswith("seed 3: ")
