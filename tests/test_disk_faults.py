"""A disk that fails under a run: it is said what and where, nothing is lost, and later the run goes on.

``tests/checkpoint/test_disk.py`` has the checkpoint's own calls one by one, ``tests/test_exit_status.py`` the
full disk. Here the calls of the C library fail beneath a whole run, which has no part in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from launcher.checkpoint.store import checkpoints
from launcher.checkpoint.verify import verify_file
from launcher.lineage import Run
from tests import tiny_faults
from tests.conftest import TrunkOf
from tests.failing_disk import Failing, FailingDisk, compiler
from tests.tiny_process import Ended, Tiny, digest, metrics


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingDisk]:
    if compiler() is None:
        pytest.skip("needs Linux and a C compiler")
    with FailingDisk(tmp_path_factory.mktemp("failing")) as disk:
        yield disk


def plainly(ended: Ended, *parts: str, status: int = 1) -> None:
    """One message, which says all this; no traceback."""
    assert ended.status == status, ended.said
    assert "Traceback" not in ended.err, ended.err
    for part in parts:
        assert part in ended.said


def whole(run: Run) -> list[str]:
    """The checkpoints, each of which is whole."""
    there = checkpoints(run.directory.checkpoints)
    for path in there:
        verify_file(path)
    return [path.name for path in there]


def as_if_nothing_had_been(run: Run, undisturbed: Run) -> None:
    assert digest(run) == digest(undisturbed)
    assert metrics(run) == metrics(undisturbed)
    assert not [path for path in run.directory.path.rglob("*") if path.name.endswith(".tmp")]


SECOND = "checkpoint_step_20"
IN_MID_RUN = [
    pytest.param(Failing("write", f"{SECOND}.pt"), f"{SECOND}.pt", id="state"),
    pytest.param(Failing("write", f"{SECOND}.pt", "EDQUOT", first=3), f"{SECOND}.pt", id="quota"),
    pytest.param(Failing("write", f"{SECOND}.json"), f"{SECOND}.pt", id="manifest"),
    pytest.param(Failing("fsync", f"{SECOND}.pt"), f"{SECOND}.pt", id="state-not-durable"),
    pytest.param(Failing("fsync", "checkpoints", first=6), ".pt", id="directory-not-durable"),
    pytest.param(Failing("rename", f"{SECOND}.pt"), f"{SECOND}.pt", id="state-not-renamed"),
    pytest.param(Failing("rename", f"{SECOND}.json", "EROFS"), f"{SECOND}.pt", id="read-only"),
    pytest.param(Failing("write", "metrics.jsonl", first=15), "metrics.jsonl", id="metrics"),
    pytest.param(Failing("fsync", "metrics.jsonl", first=2), "metrics.jsonl", id="metrics-not-durable"),
    pytest.param(Failing("write", "run.json", "EDQUOT", first=4), "run.json", id="record"),
    pytest.param(Failing("rename", "run.json", first=3), "run.json", id="record-not-renamed"),
    pytest.param(Failing("write", "config.yaml"), "outputs/trunks/trunk-", id="config"),
]


@pytest.mark.parametrize(("failing", "where"), IN_MID_RUN)
def test_a_write_that_fails_in_mid_run(
    disk: FailingDisk, empty: Tiny, trained: Tiny, failing: Failing, where: str
) -> None:
    ended = disk.launch(empty.outputs, failing=failing)
    plainly(ended, failing.message, where)
    saved = [name for run in empty.runs() for name in whole(run)]
    run = empty.train()
    assert set(saved) <= set(whole(run))
    as_if_nothing_had_been(run, trained.trunk)


READING = [
    pytest.param(Failing("open", "checkpoint_step_20.json"), "passing over", id="manifest"),
    pytest.param(Failing("open", "checkpoint_step_20.pt"), "passing over", id="state"),
    pytest.param(Failing("read", "checkpoint_step_20.json"), "passing over", id="manifest-read"),
]


@pytest.mark.parametrize(("failing", "said"), READING)
def test_a_checkpoint_that_cannot_be_read(
    disk: FailingDisk, empty: Tiny, trained: Tiny, failing: Failing, said: str
) -> None:
    stopped = empty.launch(prepare=[tiny_faults.Kill(25, "SIGKILL", saved=True)])
    assert stopped.status == 137
    ended = disk.launch(empty.outputs, failing=failing)
    print(ended.status, ended.out, ended.err)
    assert "Traceback" not in ended.err
    assert failing.message in ended.said


@pytest.mark.parametrize("path", ["launch.json", "fanout.json", "run.json"])
@pytest.mark.parametrize("kind", ["basic", "pool"])
def test_a_fan_out_that_cannot_be_written_down(
    disk: FailingDisk, tiny: Tiny, path: str, kind: str
) -> None:
    before = tiny.trunk.directory.record.read_bytes()
    typed = ("-m", "branch.from_step=20", "optimizer.lr=0.002,0.003", f"hydra/launcher={kind}")
    ended = disk.launch(tiny.outputs, *typed, failing=Failing("write", path, "EDQUOT", first=2))
    print(ended.status, ended.out, ended.err)
    plainly(ended, "Disk quota exceeded")
    assert 0
