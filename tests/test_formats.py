"""One contract for checkpoints of every format, each made by its own library; and branches from each."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from launcher.branch.resolve import resolve
from launcher.checkpoint.formats.convert import convert
from launcher.checkpoint.formats.known import described, inspect, load, only_one
from launcher.checkpoint.manifest import Manifest, read_manifest
from launcher.checkpoint.verify import verify_file
from launcher.config import BranchConfig, Config
from launcher.differences import request_digest
from launcher.errors import BranchPointUnavailable, CheckpointError, ConfigError
from launcher.layout import checkpoint_file
from tests.conftest import TrunkOf
from tests.tiny_process import Tiny, digest, in_a_new_interpreter, manifests

STATELESS = "task._target_=tests.tiny_variants.StatelessTask"
RENAMED = "+branch.rename={net.: ''}"


class Case(NamedTuple):
    """One checkpoint, and what there is to say of it."""

    place: str
    format: str
    group: str
    source: str = "inside"
    missing: tuple[str, ...] = ()
    end: int | None = None
    prefix: str = ""


ALL = ("optimizer", "RNG state")
CASES = (
    Case("full.pt", "torch", "full-20"),
    Case("bare_step_20.pt", "torch", "bare_step_20-20", "name", ALL),
    Case("ckpt.pt", "torch", "ckpt-20", missing=("RNG state",), end=40),
    Case("weights_step_20.safetensors", "safetensors", "weights_step_20-20", "name", ALL),
    Case("sharded_step_20", "safetensors", "sharded_step_20-20", "name", ALL),
    Case("hf/checkpoint-20", "huggingface-trainer", "checkpoint-20", end=40),
    Case("epoch=1-step=20.ckpt", "lightning", "checkpoint-20", missing=("RNG state",), prefix="net."),
    Case("last.ckpt", "lightning", "last-20", prefix="net."),
    Case("dcp_step_20", "torch-distributed", "dcp_step_20-20"),
    Case("checkpoint_0", "accelerate", "checkpoint_0-at-20", "optimizer"),
)
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.place)


class Foreign(NamedTuple):
    """A trunk of the launcher, and its checkpoint at step 20 as every library saves it."""

    tiny: Tiny
    directory: Path
    trunk: Manifest


@pytest.fixture(scope="module")
def foreign(trunks: TrunkOf, tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    tiny = trunks(STATELESS)
    checkpoint = tiny.trunk.directory.checkpoints / checkpoint_file(20)
    directory = tmp_path_factory.mktemp("foreign")
    made = in_a_new_interpreter("-m", "tests.foreign_checkpoints", str(checkpoint), str(directory))
    assert made.status == 0, made.err
    return Foreign(tiny, directory, read_manifest(checkpoint))


@pytest.fixture
def unchanged(foreign: Foreign) -> Iterator[None]:
    """Whatever is done with the files, they are only read."""

    def facts() -> dict[str, tuple[str, int]]:
        return {
            str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in sorted(foreign.directory.rglob("*"))
            if path.is_file()
        }

    before = facts()
    yield
    assert facts() == before


@pytest.fixture(scope="module")
def branched(foreign: Foreign, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One directory of runs for all controls."""
    tiny = Tiny(tmp_path_factory.mktemp("branches") / "outputs")
    shutil.copytree(foreign.tiny.outputs, tiny.outputs)
    return tiny


def shared(foreign: Foreign, case: Case, manifest: Manifest) -> dict[str, str]:
    """The trunk's digests of the parts that a checkpoint has."""
    parts = ["model_state_dict"] if not case.prefix else []
    if "optimizer" not in case.missing:
        parts.append("optimizer_state_dict")
    if "RNG state" not in case.missing:
        parts.append("rng_state")
    return {part: foreign.trunk.content.components[part] for part in parts}


@pytest.mark.usefixtures("unchanged")
class TestContract:
    @every
    def test_what_is_in_it_is_told_without_loading(self, foreign: Foreign, case: Case) -> None:
        path = foreign.directory / case.place
        found = inspect(path)
        told = (found.format, found.step, found.step_source, found.missing, found.end_step)
        assert told == (case.format, 20, case.source, case.missing, case.end)
        assert found.unknown == ()
        assert found.left_out == ()
        files = (
            [path] if path.is_file() else [one for one in path.iterdir() if one.name != "training_args.bin"]
        )
        assert found.bytes == sum(one.stat().st_size for one in files)
        point = resolve(BranchConfig(from_checkpoint=str(path)), Path())
        assert (point.group, point.format) == (f"{case.group}-experiments", case.format)

    @every
    def test_what_is_told_is_what_is_loaded(self, foreign: Foreign, case: Case) -> None:
        path = foreign.directory / case.place
        told = {(name, one.shape, one.dtype) for name, one in inspect(path).tensors.items()}
        manifest = described(path)
        assert told == {(entry.name, entry.shape, entry.dtype) for entry in manifest.tensors}
        weights = {entry.name.removeprefix("model_state_dict.") for entry in manifest.tensors} & {
            f"{case.prefix}0.weight", f"{case.prefix}1.running_mean", f"{case.prefix}4.bias"
        }  # fmt: skip
        assert len(weights) == 3

    @every
    def test_equal_content_has_an_equal_digest(self, foreign: Foreign, case: Case) -> None:
        """Every part is bit for bit what the launcher itself saved, whatever it went through."""
        manifest = described(foreign.directory / case.place)
        expected = shared(foreign, case, manifest)
        assert {part: manifest.content.components.get(part) for part in expected} == expected
        absent = {"optimizer_state_dict", "rng_state"} - set(expected)
        assert not absent & set(manifest.content.components)
        assert manifest.about.progress["data_step"] == 20

    @every
    def test_converted_it_is_the_same(self, foreign: Foreign, case: Case, tmp_path: Path) -> None:
        path = foreign.directory / case.place
        original = described(path)
        ours, _ = convert(path, tmp_path / "ours")
        assert ours == tmp_path / "ours" / checkpoint_file(20)
        assert verify_file(ours).content == original.content
        assert torch.load(ours, weights_only=True).keys() == original.content.components.keys()
        [weights] = convert(path, tmp_path / "weights.safetensors")
        component = "model_state_dict"
        assert described(weights).content.components[component] == original.content.components[component]
        for again in (tmp_path / "ours", tmp_path / "weights.safetensors"):
            with pytest.raises(ConfigError, match="a file already"):
                convert(path, again)


@pytest.mark.usefixtures("unchanged")
class TestBranching:
    def branch(self, foreign: Foreign, tiny: Tiny, case: Case, *more: str) -> Any:
        renamed = [RENAMED] if case.prefix else []
        place = f"branch.from_checkpoint='{foreign.directory / case.place}'"
        return tiny.launch(
            "+branch=foreign", place, f"tracking.group=of-{CASES.index(case)}", *renamed, *more
        )

    @every
    def test_the_control_is_exact_where_the_checkpoint_has_what_that_needs(
        self, foreign: Foreign, branched: Tiny, case: Case
    ) -> None:
        ended = self.branch(foreign, branched, case)
        if case.missing:
            level = "weights" if "optimizer" in case.missing else "state"
            assert ended.status == 2
            assert f"has no {', no '.join(case.missing)}" in ended.said
            assert f"branch.require={level}" in ended.said
            ended = self.branch(foreign, branched, case, f"branch.require={level}")
        assert ended.status == 0, ended.err
        run = branched.summarised(ended)
        assert run.record.branch_type == "control"
        assert run.record.parent is not None
        assert run.record.parent.run is None
        assert run.record.parent.format == case.format
        assert run.record.parent.missing == list(case.missing)
        assert (digest(run) == digest(branched.trunk)) is (not case.missing)
        # The position in the schedule follows from the step, whatever else is missing.
        own, trunks = (manifests(one)[40].content.components for one in (run, branched.trunk))
        assert own["scheduler_state_dict"] == trunks["scheduler_state_dict"]
        told = [one["found"] for one in run.record.findings if one["level"] == "warning"]
        for part in case.missing:
            assert f"no {part} in the checkpoint" in told

    def test_weights_alone_need_nothing_else(self, foreign: Foreign, branched: Tiny) -> None:
        ended = self.branch(foreign, branched, CASES[4], "branch.restore=weights", "optimizer.lr=2e-3")
        assert ended.status == 0, ended.err
        assert branched.summarised(ended).record.branch_type == "weights"

    def test_siblings_from_a_directory_of_parts(self, foreign: Foreign, empty: Tiny) -> None:
        """What was typed takes effect, and one control stands beside it."""
        place = f"branch.from_checkpoint={foreign.directory / 'dcp_step_20'}"
        ended = empty.launch("-m", "+branch=foreign", place, "optimizer.lr=1e-3,4e-4")
        assert ended.status == 0, ended.err
        names = sorted(run.id.rpartition("-")[0] for run in empty.runs())
        assert names == ["control", "lr-0.0004"]
        first = manifests(empty.run("lr-"))[30]
        [group] = first.content.optimizer_groups
        assert group.hyperparameters["initial_lr"] == 4e-4
        assert digest(empty.run("control")) == digest(foreign.tiny.trunk)

    def test_the_control_of_a_trunk_that_nobody_knows_is_one_run(self, foreign: Foreign, empty: Tiny) -> None:
        """What was swept and is what the files say would be that very run under another name."""
        place = f"branch.from_checkpoint={foreign.directory / 'bare_step_20.pt'}"
        typed = ("-m", "+branch=foreign", place, "branch.restore=weights", "branch.steps=2")
        ended = empty.launch(*typed, "loss=plain,heavy", "fanout.control=true")
        assert ended.status == 0, ended.err
        assert sorted(run.record.job_type for run in empty.runs()) == ["heavy-loss-weights", "weights"]
        assert "loss=plain" in ended.err
        heavy = empty.run("heavy-loss").record.differences
        assert heavy["loss.weight"] == ["unknown", 0.5]
        compared = empty.launcher("compare", "--json")
        assert compared.status == 0, compared.err
        told = json.loads(compared.out)
        assert told["baseline"] == "weights"
        assert "takes over less than all of its trunk" in told["proof"]["text"]

    def test_streams_need_the_seed_that_nobody_knows(self, foreign: Foreign, empty: Tiny) -> None:
        place = f"branch.from_checkpoint={foreign.directory / 'full.pt'}"
        ended = empty.refuse("-m", "+branch=foreign", place, "fanout.repeats=2", "optimizer.lr=1e-3,4e-4")
        assert "fanout.repeats counts seeds from the trunk's" in ended.said

    def test_a_step_is_told_once(self, foreign: Foreign, tmp_path: Path) -> None:
        """By whoever converts, or by whoever branches, and by nobody otherwise than the checkpoint."""
        bare = tmp_path / "bare.pt"
        shutil.copy(foreign.directory / "bare_step_20.pt", bare)
        with pytest.raises(ConfigError, match="Nobody says how many steps"):
            convert(bare, tmp_path / "named by its step")
        [unknown, _] = convert(bare, tmp_path / "unknown.pt")
        [told, _] = convert(bare, tmp_path / "told" / "it.pt", said=20)
        assert (inspect(unknown).step, inspect(told).step) == (None, 20)
        point = resolve(BranchConfig(from_checkpoint=str(unknown)), Path())
        assert "step" in point.missing
        point = resolve(BranchConfig(from_checkpoint=str(unknown), from_step=20), Path())
        assert "step" not in point.missing
        assert (point.manifest.step, point.manifest.about.progress["step"]) == (20, 20)
        with pytest.raises(BranchPointUnavailable, match="name different steps"):
            resolve(BranchConfig(from_checkpoint=str(told), from_step=10), Path())

    def test_a_directory_with_one_checkpoint_is_that_one(self, foreign: Foreign, tmp_path: Path) -> None:
        [one, _] = convert(foreign.directory / "full.pt", tmp_path)
        assert only_one(tmp_path) == only_one(one) == one
        assert only_one(foreign.directory / "hf" / "checkpoint-20").name == "checkpoint-20"
        with pytest.raises(CheckpointError, match="several checkpoints"):
            only_one(foreign.tiny.trunk.directory.path)

    def test_a_converted_checkpoint_is_the_branch_point_that_it_was(
        self, foreign: Foreign, empty: Tiny, tmp_path: Path
    ) -> None:
        said = empty.launcher("convert", str(foreign.directory / "checkpoint_0"), str(tmp_path / "c"))
        assert said.status == 0, said.err
        run = empty.train("+branch=foreign", f"branch.from_checkpoint={tmp_path / 'c'}")
        assert digest(run) == digest(foreign.tiny.trunk)


class TestBeforeTheStart:
    def changed(self, foreign: Foreign, tmp_path: Path, **changes: Any) -> Path:
        """``full.pt`` with other entries."""
        state = torch.load(foreign.directory / "ckpt.pt", weights_only=True)
        state.update(changes)
        path = tmp_path / "changed.pt"
        torch.save({key: value for key, value in state.items() if value is not None}, path)
        return path

    def typed(self, path: Path) -> list[str]:
        return ["+branch=foreign", f"branch.from_checkpoint={path}", "branch.require=state"]

    def test_another_optimizer_than_the_config_says_is_not_silently_taken(
        self, foreign: Foreign, empty: Tiny, tmp_path: Path
    ) -> None:
        optimizer = torch.load(foreign.directory / "ckpt.pt", weights_only=True)["optimizer"]
        optimizer["param_groups"][0]["weight_decay"] = 0.25
        typed = self.typed(self.changed(foreign, tmp_path, optimizer=optimizer))
        ended = empty.refuse(*typed)
        assert "optimizer.weight_decay: trunk 0.25, here 0.01" in ended.err
        assert "as the trunk: optimizer.weight_decay=0.25" in ended.err
        run = empty.train(*typed, "optimizer.weight_decay=0.25")
        assert run.record.branch_type == "control"

    def test_an_optimizer_that_cannot_be_used_is_told(
        self, foreign: Foreign, empty: Tiny, tmp_path: Path
    ) -> None:
        typed = self.typed(self.changed(foreign, tmp_path, optimizer={"lr": 1}))
        assert "no optimizer" in empty.refuse(*typed).said
        run = empty.train(*typed, "branch.require=weights")
        assert "left out: optimizer" in str(run.record.findings)

    def test_a_class_is_named_with_the_setting_that_allows_it(
        self, foreign: Foreign, empty: Tiny, tmp_path: Path
    ) -> None:
        path = self.changed(foreign, tmp_path, args=argparse.Namespace(lr=1e-3))
        assert inspect(path).unknown == ("argparse.Namespace",)
        ended = empty.refuse(*self.typed(path))
        allowed = "branch.allow_globals=[argparse.Namespace]"
        assert f"if you know who wrote it: {allowed}" in ended.err
        run = empty.train(*self.typed(path), allowed)
        assert run.record.branch_type == "control"
        with pytest.raises(ConfigError, match="cannot be imported"):
            load(path, ["argparse.Nothing"])
        with pytest.raises(ConfigError, match="no checkpoint needs"):
            load(path, ["os.system"])

    def test_a_task_with_parts_of_its_own_needs_their_state(self, foreign: Foreign, empty: Tiny) -> None:
        place = f"branch.from_checkpoint={foreign.directory / 'hf/checkpoint-20'}"
        ended = empty.refuse(place)
        assert "no state of the task's own parts" in ended.said
        assert "branch.require=state" in ended.said

    def test_the_step_is_asked_for_where_nothing_tells_it(
        self, foreign: Foreign, empty: Tiny, tmp_path: Path
    ) -> None:
        path = self.changed(foreign, tmp_path, iter_num=None, optimizer=None)
        typed = [*self.typed(path), "branch.require=weights"]
        assert empty.train(*typed).record.parent_step == 0
        run = empty.train(*typed, "branch.from_step=30", "branch.name=said")
        assert (run.record.parent_step, run.record.end_step) == (30, 40)
        stepped = self.changed(foreign, tmp_path)
        assert "different steps" in empty.refuse(*self.typed(stepped), "branch.from_step=30").err

    def test_the_digest_that_inspect_prints_pins_it(self, foreign: Foreign, empty: Tiny) -> None:
        path = foreign.directory / "full.pt"
        told = json.loads(empty.launcher("inspect", str(path), "--digest", "--json").out)
        typed = ["+branch=foreign", f"branch.from_checkpoint={path}"]
        other = told["sha256"][::-1]
        assert told["sha256"] in empty.refuse(*typed, f"branch.sha256={other}").err
        # What was typed is what a config may hold anyway: nobody knows what the trunk had instead.
        empty.train(*typed, f"branch.sha256={told['sha256']}", "training.gradient_clip=1.0")


@pytest.mark.parametrize("how", ["restore", "require"])
def test_tied_weights_that_are_saved_once_are_tied_again(empty: Tiny, tmp_path: Path, how: str) -> None:
    """safetensors keeps one of two names; which one, is its choice."""
    from safetensors.torch import save_model

    from tests.tiny_variants import Awkward

    torch.manual_seed(5)
    model = Awkward()
    path = tmp_path / "tied_step_20.safetensors"
    save_model(model, str(path))
    names = inspect(path).tensors
    assert ("model_state_dict.inward.weight" in names) != ("model_state_dict.tied.weight" in names)
    run = empty.train(
        "task._target_=tests.tiny_variants.AwkwardTask", f"branch.{how}=weights", "branch.steps=1",
        f"branch.from_checkpoint={path}", "optimizer.lr=1e-12",
    )  # fmt: skip
    [last] = manifests(run)
    trained = torch.load(run.directory.checkpoints / checkpoint_file(last), weights_only=True)
    weights = trained["model_state_dict"]
    assert torch.allclose(weights["inward.weight"], model.inward.weight)
    assert torch.equal(weights["inward.weight"], weights["tied.weight"])


def test_gigabytes_are_looked_into_without_being_read(tmp_path: Path) -> None:
    """Files with holes in place of four gigabytes, and what a process read of them, by the kernel's count."""
    big = torch.empty(1 << 30)  # No page of it is ever touched.
    sizes = {"model": {"weight": big}, "step": 7}
    with torch.serialization.skip_data():
        torch.save(sizes, tmp_path / "big.pt")
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 4 << 30]}})
    with (tmp_path / "big.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + (4 << 30))
    code = (
        "import sys; from pathlib import Path; from launcher.cli import main\n"
        "def read(): return int(Path('/proc/self/io').read_text().split()[1])\n"
        "before = read(); main(['inspect', '--json', sys.argv[1]]); print(read() - before, file=sys.stderr)\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    for name in ("big.pt", "big.safetensors"):
        assert (tmp_path / name).stat().st_size > 4 << 30
        looked = in_a_new_interpreter("-c", code, str(tmp_path / name))
        assert looked.status == 0, looked.err
        assert json.loads(looked.out)["parameters"] == 1 << 30
        count, imported = looked.err.split()
        assert (int(count) < 10 << 20, imported) == (True, "False")


def test_in_a_directory_of_several_the_step_is_found_by_name(tmp_path: Path) -> None:
    for step in (500, 1000, 1500):
        (tmp_path / f"checkpoint-{step}").mkdir()
        torch.save({"0.weight": torch.ones(step)}, tmp_path / f"checkpoint-{step}" / "pytorch_model.bin")
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    (tmp_path / "logs").mkdir()
    place = str(tmp_path)
    found = {
        step: resolve(BranchConfig(from_checkpoint=place, from_step=step), Path()) for step in (None, 1000)
    }
    assert {step: point.manifest.step for step, point in found.items()} == {None: 1500, 1000: 1000}
    with pytest.raises(BranchPointUnavailable, match="at step 700"):
        resolve(BranchConfig(from_checkpoint=place, from_step=700), Path())


def test_siblings_can_be_forked_from_who_described_it(tmp_path: Path) -> None:
    """Putting parts together is computing, and copies of a process that computed with two threads hang."""
    code = """
import os, signal, sys, warnings
import torch
import torch.distributed.checkpoint as dcp
from pathlib import Path
from launcher.checkpoint.formats.known import described
warnings.simplefilter("ignore")
if sys.argv[2] == "make":
    dcp.save({"model": {"w": torch.zeros(1 << 21)}}, checkpoint_id=sys.argv[1], no_dist=True)
    sys.exit()
torch.set_num_threads(2)
described(Path(sys.argv[1]))
assert torch.get_num_threads() == 2
if os.fork() == 0:
    signal.alarm(60)
    torch.zeros(1 << 21).add_(1).sum()
    os._exit(0)
sys.exit(os.wait()[1])
"""
    for what in ("make", "describe"):
        assert in_a_new_interpreter("-c", code, str(tmp_path / "c"), what).status == 0


def test_what_is_no_checkpoint_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("<html>nothing of the kind")
    (tmp_path / "page.safetensors").write_text("<html>nothing of the kind")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").touch()
    (tmp_path / "cut.safetensors").touch()
    (tmp_path / "old.pt").write_bytes(bytes(range(128, 200)))
    (tmp_path / "link.pt").symlink_to(tmp_path / "gone")
    for name, said in {
        "note.txt": "This is a text file, and no checkpoint",
        "page.safetensors": "This is a text file, and no checkpoint",
        "empty": "This directory is empty",
        "full": "This directory is no checkpoint of a known format",
        "cut.safetensors": "This file is empty",
        "old.pt": "This is no checkpoint of a known format",
        "link.pt": "There is no such file or directory",
        "nothing": "There is no such file or directory",
    }.items():
        with pytest.raises(CheckpointError, match=said) as caught:
            inspect(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)


def test_a_request_from_before_there_were_foreign_checkpoints_is_the_same() -> None:
    """By it a run is found whose branch point is gone."""
    config = Config.from_plain({"task": {"_target_": "a.B"}, "branch": {"from_step": 20}})
    asked = "50256260c8a650d4b3c41d9ad2623f9be84dc5d60b504c2927d3d05b7b2b57f6"
    assert request_digest(config) == asked
    assert request_digest(replace(config, branch=replace(config.branch, require="state"))) != asked


def test_the_libraries_that_write_are_not_needed_to_read(foreign: Foreign) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from launcher.checkpoint.formats.known import inspect, load\n"
        "for place in map(Path, sys.argv[1:]):\n"
        "    inspect(place), load(place)\n"
        "print(*{'transformers', 'accelerate', 'lightning'} & set(sys.modules))\n"
    )
    ended = in_a_new_interpreter("-c", code, *(str(foreign.directory / case.place) for case in CASES))
    assert (ended.status, ended.out.strip()) == (0, ""), ended.err


@pytest.mark.parametrize(
    "paths", [("ckpt.pt", "w.safetensors"), ("weights_step_20.safetensors", "ours")], ids=["write", "read"]
)
def test_without_safetensors_its_extra_is_named(
    foreign: Foreign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: tuple[str, str]
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ConfigError) as caught:
        convert(foreign.directory / paths[0], tmp_path / paths[1])
    assert caught.value.do == ("pip install 'checkpoint-launcher[safetensors]'",)
    assert list(tmp_path.iterdir()) == []
