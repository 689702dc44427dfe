"""Several processes divide a run's state (FSDP2): saved by each its shards, resumed exactly, resharded."""

from __future__ import annotations

import itertools
import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from launcher import files, layout
from launcher.checkpoint.content import describe
from launcher.checkpoint.formats.values import Values
from launcher.checkpoint.manifest import read_manifest, write_manifest
from launcher.checkpoint.reader import read_state
from launcher.checkpoint.store import checkpoints
from launcher.checkpoint.verify import newest_good, verify_file
from launcher.errors import CheckpointError
from launcher.lineage import Run
from tests import tiny_ranks
from tests.conftest import TrunkOf
from tests.test_ranks import as_if_undisturbed
from tests.tiny_process import Tiny, digest, in_a_new_interpreter, manifests, metrics

DEEP = "task._target_=tests.tiny_variants.DeepTask"
SHARDED = ("launch.nproc=2", "launch.shard=true", DEEP)
SMOOTH = "task._target_=tests.tiny_variants.SmoothTask"


@pytest.fixture(scope="session")
def sharded(trunks: TrunkOf) -> Tiny:
    """A trunk of two processes that each hold, and save, half of it. To be looked at, not used."""
    return trunks(*SHARDED)


def at(run: Run, step: int) -> Path:
    """The checkpoint of a step, which is a directory."""
    return run.directory.checkpoints / layout.checkpoint_directory(step)


def test_each_rank_writes_its_shards(sharded: Tiny) -> None:
    checkpoint = at(sharded.trunk, 20)
    manifest = verify_file(checkpoint)
    assert [part.name for part in manifest.parts] == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    assert {path.name: path.stat().st_size for path in checkpoint.iterdir()} == {
        part.name: part.bytes for part in manifest.parts
    }
    of_other = manifest.parts[2].bytes / manifest.parts[1].bytes
    assert 0.1 < of_other < 1  # Generators, buffers and plain values are written by rank 0.
    assert newest_good(checkpoint.parent) == (at(sharded.trunk, 40), [])


def test_its_digests_are_those_of_one_process(sharded: Tiny, tmp_path: Path) -> None:
    """What two ranks digested together, this process digests alone; also once it is one file."""
    checkpoint = at(sharded.trunk, 20)
    manifest = read_manifest(checkpoint)
    assert describe(read_state(checkpoint)) == manifest.content
    ended = sharded.launcher("convert", str(checkpoint), str(tmp_path / "one.pt"))
    assert ended.status == 0, ended.err
    state = torch.load(tmp_path / "one.pt", weights_only=True)
    assert describe(state) == manifest.content == verify_file(tmp_path / "one.pt").content
    assert state["model_state_dict"]["blocks.0.inner.weight"].shape == (5, 8)


def test_of_the_moments_a_rank_reads_its_rows_only(sharded: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = at(sharded.trunk, 20)
    whole = read_state(checkpoint)["optimizer_state_dict"]["state"]
    by_rows = read_state(checkpoint, by_rows=True)["optimizer_state_dict"]["state"]
    opened: list[Path] = []
    original = Values.torch_bytes

    def noted(values: Values, path: Path, start: int, length: int) -> object:
        opened.append(path)
        return original(values, path, start, length)

    monkeypatch.setattr(Values, "torch_bytes", noted)
    held = [(whole[one][name], by_rows[one][name]) for one in whole for name in ("exp_avg", "exp_avg_sq")]
    for tensor, scattered in held:
        count = len(tensor)
        for start, stop in itertools.combinations(range(count + 1), 2):
            assert torch.equal(scattered.rows(start, stop), tensor[start:stop])
        opened.clear()
        scattered.rows(0, (count + 1) // 2)
        assert {path.name for path in opened} == {"__0_0.distcp"}


def test_it_is_a_checkpoint_for_pytorch_and_for_every_verb(sharded: Tiny, tmp_path: Path) -> None:
    checkpoint = at(sharded.trunk, 20)
    dcp_to_torch_save(checkpoint, tmp_path / "theirs.pt")
    theirs, ours = torch.load(tmp_path / "theirs.pt", weights_only=True), read_state(checkpoint)
    assert theirs.keys() - ours.keys() == {"structure"}
    for name, tensor in ours["model_state_dict"].items():
        assert torch.equal(theirs["model_state_dict"][name], tensor)
    found = json.loads(sharded.launcher("inspect", str(checkpoint), "--json").out)
    assert (found["format"], found["step"], found["missing"]) == ("launcher", 20, [])
    shown = json.loads(sharded.launcher("show", sharded.trunk.id, "--json").out)
    assert [one["sha256"] for one in shown["checkpoints"]] == [
        one.sha256 for one in manifests(sharded.trunk).values()
    ]


def test_a_control_is_exact(trunk_of: TrunkOf) -> None:
    tiny = trunk_of(*SHARDED)
    control = tiny.train(*SHARDED, "branch.from_step=20", "checkpoint.keep_last=1")
    ended = tiny.launcher("verify", control.id, "--json")
    assert json.loads(ended.out)["exact"] is True, ended.said
    assert digest(control) == digest(tiny.trunk)
    assert control.record.resharded == {}
    assert checkpoints(control.directory.checkpoints) == [at(control, 40)]
    assert not at(control, 30).exists()


def test_a_canary_passes_and_its_siblings_follow(trunk_of: TrunkOf) -> None:
    tiny = trunk_of(*SHARDED)
    swept = ("-m", *SHARDED, "branch.from_step=20", "branch.steps=4", "loss=heavy")
    ended = tiny.launch(*swept, "fanout.control=true", "fanout.canary=true", "hydra/launcher=pool")
    assert ended.status == 0, ended.said
    assert [start.step for start in tiny.run("control").record.starts] == [20, 22]
    # The weights were digested soon after what was changed should show, and at the end.
    assert list(tiny.run("heavy").record.states) == ["2", "4"]


@pytest.mark.parametrize("nproc", [1, 2])
def test_resharded_it_is_equal_within_tolerance_and_says_so(trunk_of: TrunkOf, nproc: int) -> None:
    """From two processes to one and back, through both forms of a checkpoint."""
    here = ("launch.nproc=2", "launch.shard=true")
    there, keys = ((), here) if nproc == 2 else (here, ("launch.nproc=1", "launch.shard=false"))
    tiny = trunk_of(SMOOTH, *there)
    branch = tiny.train(SMOOTH, *keys, "branch.from_step=20")
    expected = {"launch.nproc": [3 - nproc, nproc], "launch.shard": [nproc == 1, nproc == 2]}
    assert branch.record.resharded == expected
    assert branch.record.branch_type == "factor"
    trunk, own = metrics(tiny.trunk), metrics(branch)
    for step in range(21, 41):
        assert own[step]["digest/batch"] == trunk[step]["digest/batch"]
        assert own[step]["train/learning_rate"] == trunk[step]["train/learning_rate"]
        assert own[step]["train/error"] == pytest.approx(trunk[step]["train/error"], rel=1e-4)
    ends = [read_state(layout.checkpoint_at(one.directory.checkpoints, 40)) for one in (branch, tiny.trunk)]
    torch.testing.assert_close(*(one["model_state_dict"] for one in ends), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*(one["optimizer_state_dict"]["state"] for one in ends), rtol=1e-3, atol=1e-5)
    assert digest(branch) != digest(tiny.trunk)
    shown = tiny.launcher("show", branch.id)
    assert f"launch.nproc {3 - nproc} → {nproc}" in shown.out
    assert "equal to its trunk within tolerance, not exactly" in shown.out
    refused = tiny.launcher("verify", branch.id)
    assert refused.status == 2
    assert "launch.nproc" in refused.err


def test_what_nobody_declared_is_refused(trunk_of: TrunkOf) -> None:
    refused = trunk_of(*SHARDED).refuse(DEEP, "branch.from_step=20")
    assert "launch.nproc=2 launch.shard=true" in refused.said


def test_asked_to_stop_all_save_at_one_step(empty: Tiny, sharded: Tiny) -> None:
    ended = empty.launch(*SHARDED, prepare=[partial(tiny_ranks.kill_starter, 17, "SIGTERM")])
    assert ended.status == 143, ended.err
    assert sorted(manifests(empty.trunk)) == [10, 17]
    empty.train(*SHARDED)
    as_if_undisturbed(empty, sharded)


@pytest.mark.parametrize(
    ("rank", "function"),
    [
        (1, "launcher.checkpoint.shards:_Disk.create_stream"),
        (0, "launcher.checkpoint.shard_writer:ShardWriter._put"),
        (0, "launcher.checkpoint.shard_writer:write_manifest"),
    ],
)
def test_killed_in_the_middle_of_a_save(empty: Tiny, sharded: Tiny, rank: int, function: str) -> None:
    ended = empty.launch(*SHARDED, prepare=[partial(tiny_ranks.kill_rank_in, rank, function, 2)])
    assert ended.status == 1
    assert ended.err.count("error:") == 1
    assert "Traceback" not in ended.err
    assert sorted(manifests(empty.trunk)) == [10]
    assert at(empty.trunk, 20).exists() == function.endswith("write_manifest")
    empty.train(*SHARDED)
    as_if_undisturbed(empty, sharded)
    left = [path.name for path in empty.trunk.directory.path.rglob("*") if "tmp" in path.name]
    assert left == []


def test_a_full_disk_at_one_rank_is_said_once(empty: Tiny, sharded: Tiny) -> None:
    ended = empty.launch(*SHARDED, prepare=[partial(tiny_ranks.full_disk_at_rank, 1, 2)])
    assert ended.status == 1
    assert ended.err.count("error:") == 1, ended.err
    assert "The checkpoint could not be written: No space left on device" in ended.err
    assert sorted(manifests(empty.trunk)) == [10]
    assert sorted(path.name for path in empty.trunk.directory.checkpoints.iterdir()) == [
        "checkpoint_step_10",
        "checkpoint_step_10.json",
    ]
    empty.train(*SHARDED)
    as_if_undisturbed(empty, sharded)


def test_started_by_torchrun(empty: Tiny, sharded: Tiny) -> None:
    ended = in_a_new_interpreter(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "tests.tiny_train", f"paths.outputs={empty.outputs}", *SHARDED),
    )
    assert ended.status == 0, ended.err
    as_if_undisturbed(empty, sharded)


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


def test_damaged_or_made_to_do_harm_it_is_not_read(
    trunk_of: TrunkOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = trunk_of(*SHARDED).trunk
    shard = at(run, 40) / "__1_0.distcp"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    good, [problem] = newest_good(run.directory.checkpoints)
    assert good == at(run, 30)
    assert problem.where == str(shard)
    (at(run, 30) / "__0_0.distcp").unlink()
    assert newest_good(run.directory.checkpoints)[0] == at(run, 20)

    manifest = read_manifest(at(run, 20))
    metadata = at(run, 20) / ".metadata"
    metadata.write_bytes(pickle.dumps([pickle.loads(metadata.read_bytes()), Payload()]))
    new = replace(manifest.parts[0], bytes=metadata.stat().st_size, digest=files.file_digest(metadata))
    forged = replace(manifest, parts=(new, *manifest.parts[1:]))
    write_manifest(layout.manifest_of(at(run, 20)), forged)
    verify_file(at(run, 20))
    with pytest.raises(CheckpointError, match="Nothing in it was executed"):
        read_state(at(run, 20))
    assert not Path("executed").exists()
    outside = replace(new, name="../checkpoint_step_10/.metadata")
    write_manifest(layout.manifest_of(at(run, 20)), replace(manifest, parts=(outside,)))
    with pytest.raises(CheckpointError, match="manifest is damaged"):
        verify_file(at(run, 20))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("launch.shard=true",), "there is only one"),
        ((*SHARDED, "checkpoint.artifact=all"), "`launcher convert` makes one file"),
        (
            (*SHARDED[:2], "task._target_=tests.tiny_variants.ScalarTask"),
            "parameters without a dimension: scale",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(empty: Tiny, overrides: tuple[str, ...], said: str) -> None:
    assert said in empty.refuse(*overrides).said
