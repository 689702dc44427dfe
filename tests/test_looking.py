"""Looking at runs: ``launcher tree`` and ``show``, complete, at the speed of a shell command."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from launcher.lineage import RunRecord
from tests.tiny_process import ROOT, Tiny, in_a_new_interpreter, manifests
from tests.tiny_records import family, put, record

HEAVY = {"torch", "numpy", "wandb", "hydra", "pyteomics", "launcher.training.trainer"}

WATCHED = """
import json, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from launcher.cli import main
status = main(sys.argv[1:])
print(json.dumps({
    "status": status,
    "records": sum(name.endswith("run.json") for name in opened),
    "metrics": sum(name.endswith("metrics.jsonl") for name in opened),
    "modules": sorted(sys.modules),
}), file=sys.stderr)
"""


def strict(text: str) -> Any:
    """JSON as any other program reads it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def looked(empty: Tiny, *arguments: str) -> Any:
    ended = empty.launcher(*arguments, "--json")
    assert (ended.status, ended.err) == (0, "")
    return strict(ended.out)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    outputs = tmp_path_factory.mktemp("thousand")
    family(outputs, 1000)
    return Tiny(outputs)


@pytest.mark.parametrize("verb", [["tree"], ["show", "run-0123"]], ids=["tree", "show"])
def test_a_thousand_runs_are_read_once_and_nothing_heavy_is_imported(thousand: Tiny, verb: list[str]) -> None:
    arguments = ["-c", WATCHED, *verb, "--json", f"--outputs={thousand.outputs}"]
    ended = in_a_new_interpreter(*arguments)
    seen = json.loads(ended.err)
    assert seen["status"] == 0
    assert HEAVY & set(seen["modules"]) == set()
    assert len(seen["modules"]) < 450
    assert seen["records"] <= 1002
    assert seen["metrics"] <= 2
    strict(ended.out)


def count(nodes: list[dict[str, Any]]) -> int:
    return len(nodes) + sum(count(node["branches"]) for node in nodes)


def test_a_thousand_runs_are_all_there(thousand: Tiny) -> None:
    nodes = looked(thousand, "tree")
    assert len(nodes) == 10
    assert count(nodes) == 1000
    shown = looked(thousand, "show", "run-0003")
    assert shown["branches"] == [f"run-{number:04}" for number in range(40, 50)]
    assert thousand.launcher("tree").out.count("finished") == 1000


def test_the_family_of_real_runs(tiny: Tiny) -> None:
    first = tiny.train("branch.from_step=20", "loss=heavy")
    second = tiny.train(f"branch.from_run={first.id}", "branch.from_step=30", "loss=heavy")
    [trunk] = looked(tiny, "tree")
    assert trunk["id"] == tiny.trunk.id
    assert (trunk["kind"], trunk["state"], trunk["step"], trunk["end_step"]) == ("trunk", "finished", 40, 40)
    [branch] = trunk["branches"]
    assert (branch["id"], branch["parent"], branch["branched_from_step"]) == (first.id, tiny.trunk.id, 20)
    [below] = branch["branches"]
    assert (below["id"], below["branched_from_step"], below["branch_type"]) == (second.id, 30, "control")
    assert below["metrics"] == second.record.metrics
    text = tiny.launcher("tree").out
    lines = [line.strip("│├└─ ") for line in text.splitlines()]
    assert lines[1].startswith(f"{tiny.trunk.id}  finished  40/40  val/error")
    assert lines[2] == "at step 20"
    assert lines[4] == "at step 30"


def test_everything_about_one_run(tiny: Tiny) -> None:
    branch = tiny.train("branch.from_step=20", "loss=heavy", "branch.notes=why not", "branch.tags=[a,b]")
    shown = looked(tiny, "show", branch.id)
    assert {one.name for one in fields(RunRecord)} <= shown.keys()
    assert shown["directory"] == str(branch.directory.path)
    assert shown["checkpoints"] == [
        {
            "step": step,
            "pinned": False,
            "sha256": one.sha256,
            "bytes": one.file.bytes if one.file else None,
        }
        for step, one in manifests(branch).items()
    ]
    assert looked(tiny, "show", tiny.trunk.id)["branches"] == [branch.id]
    text = tiny.launcher("show", branch.id).out
    for part in (branch.id, tiny.trunk.id, "loss.weight", "why not", "a, b", manifests(branch)[30].sha256):
        assert part in text


def test_a_run_is_found_by_prefix_signature_or_directory(tiny: Tiny) -> None:
    trunk = tiny.trunk
    for name in ("trunk", trunk.record.signature, str(trunk.directory.path)):
        assert looked(tiny, "show", name)["id"] == trunk.id


@pytest.mark.parametrize("name", ["nobody", "x" * 5000, "", "a/b", "*", "[", "\N{SNOWMAN}"])
def test_a_run_that_is_not_there(tiny: Tiny, name: str) -> None:
    ended = tiny.launcher("show", name)
    assert ended.status == 2
    assert "Traceback" not in ended.err
    assert tiny.trunk.id in ended.err


def test_several_of_one_prefix_are_listed(thousand: Tiny) -> None:
    ended = thousand.launcher("show", "run-00")
    assert ended.status == 2
    assert "run-0010, run-0011" in ended.err
    assert "and 88 more" in ended.err


def test_without_any_run(empty: Tiny) -> None:
    assert looked(empty, "tree") == []
    assert empty.launcher("tree").status == 0
    assert empty.launcher("show", "x").status == 2


def test_numbers_that_json_does_not_have(empty: Tiny) -> None:
    put(empty.outputs, record("run-a", metrics={"val/error": math.nan, "train/error": -math.inf}))
    assert looked(empty, "tree")[0]["metrics"] == {"val/error": None, "train/error": None}
    assert looked(empty, "show", "run-a")["metrics"] == {"val/error": None, "train/error": None}
    assert "nan" in empty.launcher("tree").out


FOREIGN = [
    "", "null", "[]", "{}", "{", "\ufeff{}", '"run"', '{"id": "x"}', "[" * 100_000, '{"id": NaN}', "\0",
]  # fmt: skip


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_record_is_told_and_passed_over(empty: Tiny, text: str) -> None:
    put(empty.outputs, record("run-a"))
    path = put(empty.outputs, record("run-b"))
    path.write_text(text, encoding="utf-8")
    ended = empty.launcher("tree", "--json")
    assert ended.status == 0
    assert [node["id"] for node in strict(ended.out)] == ["run-a"]
    assert str(path) in ended.err
    assert "Traceback" not in ended.err
    assert empty.launcher("show", "run-a").status == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"metrics": {"val/error": "low"}},
        {"metrics": [1]},
        {"step": "40"},
        {"step": True},
        {"starts": 3},
        {"starts": [{"pid": "x"}]},
        {"parent": "trunk"},
        {"parent": {"run": 3}},
        {"state": "sleeping"},
        {"differences": {"a": 1}},
        {"findings": [{"level": "error"}]},
        {"environment": 3},
        {"tags": "x"},
        {"trackers": None},
        {"overrides": [1]},
    ],
    ids=str,
)
def test_a_record_with_a_value_of_another_kind_is_a_foreign_one(empty: Tiny, changed: dict[str, Any]) -> None:
    put(empty.outputs, record("run-a"))
    path = put(empty.outputs, record("run-b", "run-a", 20))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    for arguments in (["tree"], ["show", "run-a"], ["show", str(path.parent)]):
        ended = empty.launcher(*arguments)
        assert "Traceback" not in ended.err, ended.err
        assert ended.status == (2 if arguments[-1] == str(path.parent) else 0)


def test_keys_of_a_later_version_are_ignored(empty: Tiny) -> None:
    path = put(empty.outputs, record("run-a"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": {"x": 1}}))
    assert looked(empty, "show", "run-a")["id"] == "run-a"


def test_a_run_whose_parent_is_gone_stands_at_the_top(empty: Tiny) -> None:
    put(empty.outputs, record("run-a", "nobody", 20))
    [node] = looked(empty, "tree")
    assert (node["id"], node["parent"]) == ("run-a", "nobody")


def test_runs_that_are_each_others_parents_are_shown_once(empty: Tiny) -> None:
    for name, parent in (("run-a", "run-b"), ("run-b", "run-a"), ("run-c", "run-c"), ("run-d", "run-a")):
        put(empty.outputs, record(name, parent, 20))
    assert count(looked(empty, "tree")) == 4


def test_a_long_line_of_descent(empty: Tiny) -> None:
    for number in range(100):
        put(empty.outputs, record(f"run-{number:04}", f"run-{number - 1:04}" if number else None, 20))
    ended = empty.launcher("tree", "--json")
    assert ended.status == 0, ended.err[-300:]
    assert ended.out.count('"id"') == 100


def test_a_copied_directory_of_runs_is_complete(tiny: Tiny) -> None:
    """``cp -r`` is a backup: nothing in it points back to where it was."""
    branch = tiny.train("branch.from_step=20")
    copy = Tiny(tiny.outputs.parent / "copy")
    shutil.move(tiny.outputs, copy.outputs)
    assert looked(copy, "tree")[0]["branches"][0]["id"] == branch.id
    assert copy.launcher("verify", branch.id).status == 0
    assert copy.train("branch.from_step=20", "loss=heavy").record.parent is not None


def test_a_reader_that_leaves_is_no_error(thousand: Tiny) -> None:
    command = [sys.executable, "-m", "launcher.cli", "tree", f"--outputs={thousand.outputs}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--help"], 0), (["show", "--help"], 0), ([], 2), (["no-such"], 2), (["show"], 2)],
)
def test_the_command_line_itself(empty: Tiny, arguments: list[str], status: int) -> None:
    ended = empty.launch(*arguments, module="launcher.cli")
    assert ended.status == status
    assert "Traceback" not in ended.err
    if arguments == ["--help"]:
        assert all(verb in ended.out for verb in ("tree", "show", "verify", "pin"))


def test_a_path_with_brackets_is_a_path(tmp_path: Path) -> None:
    """Brackets mean markup to the library that prints."""
    tiny = Tiny(tmp_path / "[red]outputs[/]")
    put(tiny.outputs, record("run-a"))
    assert "[red]outputs[/]" in tiny.launcher("tree").out
    assert "[red]outputs[/]" in tiny.launcher("show", "run-a").out
