"""A disk that fails under a run: it is said what and where, nothing is lost, and later the run goes on.

``tests/checkpoint/test_disk.py`` has the checkpoint's own calls one by one, ``tests/test_exit_status.py`` the
full disk. Here the calls of the C library fail beneath a whole run, which has no part in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial

import pytest

from launcher.checkpoint.store import checkpoints
from launcher.checkpoint.verify import verify_file
from launcher.lease import holder
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
    pytest.param(Failing("rename", f"{SECOND}.json", "EROFS"), f"{SECOND}.pt", id="read-only"),
    pytest.param(Failing("write", "metrics.jsonl", first=15), "metrics.jsonl", id="metrics"),
    pytest.param(Failing("write", "run.json", "EDQUOT", first=4), "run.json", id="record"),
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
    pytest.param(Failing("open", "checkpoint_step_20.json", times=1), id="manifest-open"),
    pytest.param(Failing("read", "checkpoint_step_20.json", times=1), id="manifest-read"),
    pytest.param(Failing("open", "checkpoint_step_20.pt", times=1), id="state-open"),
]


@pytest.mark.parametrize("failing", READING)
def test_a_checkpoint_that_cannot_be_read_is_passed_over(
    disk: FailingDisk, empty: Tiny, trained: Tiny, failing: Failing
) -> None:
    assert empty.launch(prepare=[tiny_faults.Kill(25, "SIGKILL", saved=True)]).status == 137
    ended = disk.launch(empty.outputs, failing=failing)
    plainly(ended, "Passing over a damaged checkpoint", SECOND, failing.message, status=0)
    run = empty.trunk
    assert [(one.origin, one.step) for one in run.record.starts][1:] == [("own checkpoint", 10)]
    whole(run)
    as_if_nothing_had_been(run, trained.trunk)


@pytest.mark.parametrize("path", ["checkpoint_step_20.pt", "checkpoint_step_20.json"])
def test_a_branch_point_that_cannot_be_read_is_none(disk: FailingDisk, tiny: Tiny, path: str) -> None:
    before = tiny.files()
    ended = disk.launch(tiny.outputs, "branch.from_step=20", failing=Failing("open", path))
    plainly(ended, path, "Input/output error", status=2)
    assert tiny.files() == before


def test_a_record_that_cannot_be_read_is_not_written_over(
    disk: FailingDisk, empty: Tiny, trained: Tiny
) -> None:
    assert empty.launch(prepare=[tiny_faults.Kill(25, "SIGKILL", saved=True)]).status == 137
    before = empty.trunk.directory.record.read_bytes()
    ended = disk.launch(empty.outputs, failing=Failing("open", "run.json"))
    plainly(ended, "run.json", "Input/output error", status=ended.status)
    assert ended.status in (1, 2)
    assert empty.trunk.directory.record.read_bytes() == before
    as_if_nothing_had_been(empty.train(), trained.trunk)


def test_a_directory_that_becomes_read_only_in_mid_run(empty: Tiny, trained: Tiny) -> None:
    places = f"{empty.outputs}/trunks/*/checkpoints"
    faults = [tiny_faults.no_privilege, partial(tiny_faults.forbid_at, 25, places)]
    ended = empty.launch(prepare=faults)
    plainly(ended, "Permission denied", "checkpoint_step_30.pt")
    run = empty.trunk
    assert whole(run) == ["checkpoint_step_10.pt", "checkpoint_step_20.pt"]
    plainly(empty.launch(prepare=faults[:1]), "Permission denied", "checkpoints")
    run.directory.checkpoints.chmod(0o755)
    as_if_nothing_had_been(empty.train(), trained.trunk)


RENEW_OFTEN = "import launcher.lease; launcher.lease.RENEW_SECONDS = 0.01"


def test_no_room_for_a_sign_of_life(disk: FailingDisk, empty: Tiny, trained: Tiny) -> None:
    """Whether the process lives can still be told; the run needs the sign for nothing else."""
    failing = Failing("write", "lease.json.new", "ENOSPC")
    ended = disk.launch(empty.outputs, failing=failing, prepare=[RENEW_OFTEN])
    assert ended.status == 0, ended.said
    as_if_nothing_had_been(empty.trunk, trained.trunk)
    last = holder(empty.trunk.directory)
    assert last is not None
    assert (last.released, last.alive) == (False, False)


@pytest.mark.parametrize(
    "failing",
    [
        Failing("write", "new-*/lease.json", "ENOSPC"),
        Failing("mkdir", ".lease/new-", "EDQUOT"),
        Failing("rename", ".lease/1", "EROFS"),
    ],
    ids=["sign", "directory", "token"],
)
def test_no_room_for_a_token(disk: FailingDisk, empty: Tiny, trained: Tiny, failing: Failing) -> None:
    plainly(disk.launch(empty.outputs, failing=failing), failing.message, "outputs/trunks/trunk-")
    assert empty.runs() == []
    as_if_nothing_had_been(empty.train(), trained.trunk)


POINT = ("-m", "branch.from_step=20")
RATES = "optimizer.lr=0.002,0.003"


def branches(tiny: Tiny) -> dict[str, Run]:
    return {run.id: run for run in tiny.runs() if run.record.kind == "branch"}


@pytest.fixture(scope="module")
def siblings(trunks: TrunkOf, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The siblings, undisturbed."""
    alone = Tiny(tmp_path_factory.mktemp("siblings") / "outputs")
    shutil.copytree(trunks().outputs, alone.outputs)
    assert alone.launch(*POINT, RATES).status == 0
    return branches(alone)


def all_as_if_nothing_had_been(tiny: Tiny, siblings: dict[str, Run]) -> None:
    found = branches(tiny)
    assert list(found) == list(siblings)
    for name, run in found.items():
        as_if_nothing_had_been(run, siblings[name])


@pytest.mark.parametrize(
    ("path", "first", "kind"),
    [("launch.json", 2, "pool"), ("run.json", 2, "basic"), ("fanout.json", 1, "pool")],
)
def test_a_fan_out_that_cannot_be_written_down_does_not_begin(
    disk: FailingDisk, tiny: Tiny, siblings: dict[str, Run], path: str, first: int, kind: str
) -> None:
    typed = (*POINT, RATES, f"hydra/launcher={kind}")
    ended = disk.launch(tiny.outputs, *typed, failing=Failing("write", path, "EDQUOT", first=first))
    where = "fanout.json" if path == "fanout.json" else "lr-0.003-"
    plainly(ended, "Cannot write: Disk quota exceeded.", where)
    assert {run.record.state for run in branches(tiny).values()} <= {"queued", "interrupted"}
    assert not any(run.record.starts for run in branches(tiny).values())
    assert tiny.launch(*typed).status == 0
    all_as_if_nothing_had_been(tiny, siblings)


@pytest.mark.parametrize("kind", ["pool", "basic"])
def test_a_sibling_whose_disk_fails_does_not_take_the_others_along(
    disk: FailingDisk, tiny: Tiny, siblings: dict[str, Run], kind: str
) -> None:
    typed = (*POINT, RATES, f"hydra/launcher={kind}")
    ended = disk.launch(
        tiny.outputs, *typed, failing=Failing("create", "lr-0.002-*checkpoint_step_30.pt", "EROFS")
    )
    plainly(ended, "The checkpoint could not be written: Read-only file system.")
    log = next(run.directory.log for run in branches(tiny).values() if run.id.startswith("lr-0.002-"))
    assert "checkpoint_step_30.pt" in (log.read_text() if kind == "pool" else ended.said)
    assert [run.record.state for run in branches(tiny).values()] == ["failed", "finished"]
    assert tiny.launch(*typed).status == 0
    all_as_if_nothing_had_been(tiny, siblings)


def test_what_not_even_the_log_can_take_is_told(
    disk: FailingDisk, tiny: Tiny, siblings: dict[str, Run]
) -> None:
    typed = (*POINT, RATES, "hydra/launcher=pool")
    metrics_and_log = Failing("write", "lr-0.002-*/[lm][oe][gt]", "EROFS")
    ended = disk.launch(tiny.outputs, *typed, failing=metrics_and_log)
    plainly(ended, "error: Cannot write: Read-only file system.", "metrics.jsonl")
    assert [run.record.state for run in branches(tiny).values()] == ["failed", "finished"]
    assert tiny.launch(*typed).status == 0
    all_as_if_nothing_had_been(tiny, siblings)


def test_a_sibling_whose_directory_is_read_only_is_found_before(tiny: Tiny, siblings: dict[str, Run]) -> None:
    [name] = [name for name in siblings if name.startswith("lr-0.002-")]
    place = tiny.outputs / siblings[name].directory.path.parent.name / name
    place.mkdir(parents=True)
    place.chmod(0o555)
    ended = tiny.launch(*POINT, RATES, "fanout.skip_bad=true", prepare=[tiny_faults.no_privilege])
    plainly(ended, "cannot be written to")
    assert [run.id for run in branches(tiny).values()] == [one for one in siblings if one != name]
    place.chmod(0o755)
    assert tiny.launch(*POINT, RATES).status == 0
    all_as_if_nothing_had_been(tiny, siblings)
