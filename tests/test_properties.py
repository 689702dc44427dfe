"""What holds for any name, any value and any record, not only for those that someone thought of."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import string
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st

from launcher.branch.command import NODES, command, own_settings, said_again
from launcher.branch.declared import Declared
from launcher.branch.select import selected_names
from launcher.config import BranchConfig
from launcher.differences import NOT_COMPARED, compared, differences, override
from launcher.errors import CheckpointError, LauncherError
from launcher.files import flatten
from launcher.layout import checkpoint_file, checkpoint_step, group_name, legal_name, run_id, short_step
from launcher.lineage import Run, RunRecord, children, find_run, read_run, read_runs, state_now
from launcher.report.show import rendered as rendered_run
from launcher.report.show import show
from launcher.report.tree import rendered, tree
from tests.tiny_records import put, record

SAFE = set(string.ascii_letters + string.digits + "._+-")
STEPS = st.integers(0, 10**9)


class TestLayout:
    @given(st.text(), STEPS | st.none())
    def test_a_groups_name_is_always_a_name(self, checkpoint: str, step: int | None) -> None:
        name = group_name(checkpoint, step)
        assert name.endswith("-experiments")
        assert set(name) <= SAFE
        assert not name.startswith(("-", "."))
        assert group_name(checkpoint, step) == name

    @given(STEPS)
    def test_a_checkpoints_group_says_its_step(self, step: int) -> None:
        expected = f"checkpoint-{short_step(step)}-experiments"
        names = [
            checkpoint_file(step),
            f"checkpoint-{step}/",
            f"runs/a/checkpoint_step_{step}.pt",
            f"step={step}.ckpt",
        ]
        assert {group_name(name) for name in names} == {expected}
        if step and step % 1000 == 0:
            assert group_name(f"checkpoint_{step // 1000}k.pt") == expected
        assert group_name("last.ckpt", step) == f"last-{short_step(step)}-experiments"

    @given(st.lists(STEPS, unique=True, min_size=2, max_size=2))
    def test_two_steps_have_two_groups(self, steps: list[int]) -> None:
        one, other = (group_name(checkpoint_file(step)) for step in steps)
        assert one != other

    @pytest.mark.parametrize(
        ("checkpoint", "step", "group"),
        [
            ("checkpoint_step_15000.pt", None, "checkpoint-15k-experiments"),
            ("checkpoint_15k.pt", None, "checkpoint-15k-experiments"),
            ("checkpoint-15000/", None, "checkpoint-15k-experiments"),
            ("checkpoint_step_15500.pt", None, "checkpoint-15500-experiments"),
            ("entity/project/best-dylora-model-full:v3", 7, "best-dylora-model-full-v3-experiments"),
            ("last.ckpt", 15000, "last-15k-experiments"),
            ("best.pt", 15000, "best-15k-experiments"),
            ("checkpoint_step_0.pt", None, "checkpoint-0-experiments"),
        ],
    )
    def test_the_names_of_the_design(self, checkpoint: str, step: int | None, group: str) -> None:
        assert group_name(checkpoint, step) == group

    @given(st.text())
    def test_a_legal_name_is_one_and_stays_it(self, text: str) -> None:
        name = legal_name(text)
        assert name
        assert set(name) <= SAFE
        assert not set(name) & set(":;,#?/'\\ ")
        assert legal_name(name) == name
        assert name not in (".", "..")

    @given(st.text(), st.text("0123456789abcdef", min_size=8, max_size=8), st.integers(20, 120))
    def test_a_runs_id_fits_and_keeps_its_signature(
        self, job_type: str, signature: str, longest: int
    ) -> None:
        name = run_id(job_type, signature, longest)
        assert len(name) <= longest
        assert name.endswith(f"-{signature}")
        assert set(name) <= SAFE

    @given(STEPS)
    def test_a_checkpoints_name_gives_its_step_back(self, step: int) -> None:
        assert checkpoint_step(checkpoint_file(step)) == step

    @given(st.text())
    def test_no_other_name_does(self, name: str) -> None:
        step = checkpoint_step(name)
        assert step is None or int(name.removeprefix("checkpoint_step_").removesuffix(".pt")) == step


WORDS = st.text(string.ascii_lowercase + "_", min_size=1, max_size=6)
KEYS = WORDS.filter(lambda word: word not in ("null", "true", "false", "nan", "inf"))
"""Hydra's grammar has no quotes for keys."""
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
CONFIGS = st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=4) | LEAVES, max_size=4)


class TestDifferences:
    @given(CONFIGS)
    def test_equal_configs_have_none(self, config: dict[str, Any]) -> None:
        assert differences(config, json.loads(json.dumps(config))) == {}

    @given(CONFIGS, CONFIGS)
    def test_they_are_symmetric(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        there, back = differences(one, other), differences(other, one)
        assert {key: (right, left) for key, (left, right) in there.items()} == back

    @given(CONFIGS, KEYS, LEAVES, LEAVES)
    def test_a_changed_leaf_is_found(self, config: dict[str, Any], key: str, old: Any, new: Any) -> None:
        assume(repr(old) != repr(new) and key not in ("label", "facts"))
        # null and absent are the same: neither says anything; 1 and 1.0 are the same number.
        assume(old != new or type(old) is bool or type(new) is bool)
        one, other = ({**config, "model": {key: value}} for value in (old, new))
        assert differences(one, other) == {f"model.{key}": (old, new)}

    @given(st.integers(-(2**53), 2**53))
    def test_one_number_spelled_twice_is_one_number(self, number: int) -> None:
        assert differences({"a": {"b": number}}, {"a": {"b": float(number)}}) == {}

    def test_yes_is_not_one(self) -> None:
        assert differences({"a": {"b": True}}, {"a": {"b": 1}}) == {"a.b": (True, 1)}

    @given(CONFIGS, st.sampled_from(NOT_COMPARED), KEYS, LEAVES)
    def test_what_changes_no_result_is_none(
        self, config: dict[str, Any], pattern: str, key: str, value: Any
    ) -> None:
        parts = pattern.replace("*", key).split(".")
        changed: dict[str, Any] = {"loss": {}, **config}
        inner = changed
        for part in parts[:-1]:
            inner[part] = dict(inner.get(part) or {}) if isinstance(inner.get(part), dict) else {}
            inner = inner[part]
        inner[parts[-1]] = value
        assert ".".join(parts) not in compared(changed)

    @given(CONFIGS)
    def test_flattened_keys_are_those_that_lead_to_the_values(self, config: dict[str, Any]) -> None:
        for key, value in flatten(config).items():
            inner: Any = config
            for part in key.split("."):
                inner = inner[part]
            assert inner is value


def parsed(text: str) -> Any:
    [one] = OverridesParser.create().parse_overrides([text])
    return one.value()


LIKE_OTHER_KINDS = (
    "null", "NULL", "true", "False", "nan", "-inf", "1e3", "1_000", "0x10", "~", "-5", "+1", ".5", "a,b", "",
)  # fmt: skip


class TestOverride:
    @given(VALUES)
    def test_it_parses_back_to_the_same_value(self, value: Any) -> None:
        text = override("model.key", value)
        back = parsed(text)
        assert (type(back), back) == (type(value), value)

    @given(st.text())
    def test_any_text_stays_text(self, text: str) -> None:
        assert parsed(override("a.b", text)) == text

    @given(st.text("'\"\\ ,:=[]{}()$~#|&%", max_size=8))
    def test_also_text_of_nothing_but_signs(self, text: str) -> None:
        assert parsed(override("a.b", text)) == text

    @pytest.mark.parametrize("text", LIKE_OTHER_KINDS)
    def test_text_that_looks_like_something_else(self, text: str) -> None:
        assert parsed(override("a.b", text)) == text

    @given(st.floats(allow_nan=True))
    def test_every_number_comes_back_bit_for_bit(self, number: float) -> None:
        assert repr(parsed(override("a.b", number))) == repr(number)


DOTTED = st.lists(KEYS, min_size=1, max_size=4).map(".".join)


class TestDeclared:
    @given(DOTTED, st.sets(DOTTED, max_size=5), st.sets(DOTTED, max_size=5))
    def test_a_unit_covers_its_key_and_was_said(self, key: str, keys: set[str], nodes: set[str]) -> None:
        said = Declared(dict.fromkeys(keys, "command line"), dict.fromkeys(nodes, "command line"))
        unit = said.unit_of(key)
        covering = {one for one in keys | nodes if f"{key}.".startswith(f"{one}.")}
        assert (unit is None) == (not covering)
        if unit is not None:
            assert unit in covering
            single = covering & keys
            assert (unit in single) == bool(single)
            assert len(unit) == max(map(len, single or covering))

    @given(st.dictionaries(DOTTED, LEAVES, max_size=5))
    def test_what_is_said_again_is_what_was_said(self, said: dict[str, Any]) -> None:
        overrides = [override(key, value) for key, value in said.items()]
        again = said_again(overrides, said)
        assert again == [override(key, value) for key, value in own_settings(said).items()]
        assert said_again([], said) == [
            one if one.partition("=")[0] in NODES else f"++{one}" for one in again
        ]

    @given(st.lists(st.tuples(DOTTED, LEAVES), max_size=4), DOTTED)
    def test_a_printed_command_is_read_by_a_shell_as_it_is_meant(
        self, pairs: list[tuple[str, Any]], more: str
    ) -> None:
        overrides = [override(key, value) for key, value in pairs]
        words = shlex.split(command(overrides, f"{more}=1"))
        assert words[:2] == ["python", "train.py"]
        kept = [one for one in overrides if one.partition("=")[0] != more]
        assert words[2:] == [*kept, f"{more}=1"]


PARTS = st.sampled_from(["encoder", "head", "0", "weight", "bias"])
NAMES = st.lists(st.lists(PARTS, min_size=1, max_size=3).map(".".join), unique=True, min_size=1, max_size=6)
PATTERNS = st.sampled_from(["*", "encoder*", "*.weight", "head.*", "?", "0.*"])


class TestSelect:
    @given(NAMES, NAMES)
    def test_a_full_restore_shows_every_name_of_both_sides(self, there: list[str], model: list[str]) -> None:
        chosen = selected_names(BranchConfig(from_step=1), there, model)
        assert set(chosen) == {*there, *model}
        assert all(source == (name if name in there else None) for name, source in chosen.items())

    @given(NAMES, NAMES, st.lists(PATTERNS, max_size=2), st.lists(PATTERNS, max_size=2))
    def test_a_part_is_what_the_patterns_say(
        self, there: list[str], model: list[str], include: list[str], exclude: list[str]
    ) -> None:
        branch = BranchConfig(from_step=1, restore="weights", include=include, exclude=exclude)
        odd = [one for one in (*include, *exclude) if not any(fnmatchcase(name, one) for name in model)]
        if odd:
            with pytest.raises(CheckpointError, match=re.escape(odd[0])):
                selected_names(branch, there, model)
            return
        chosen = selected_names(branch, there, model)
        assert set(chosen) <= set(model)
        for name in model:
            wanted = not include or any(fnmatchcase(name, one) for one in include)
            wanted = wanted and not any(fnmatchcase(name, one) for one in exclude)
            assert (name in chosen) == wanted

    @given(NAMES, st.sampled_from(["encoder", "head", "0"]), st.sampled_from(["body", "tail.0", "head"]))
    def test_renamed_there_and_asked_for_by_the_new_name(self, there: list[str], old: str, new: str) -> None:
        model = [new + name.removeprefix(old) if name.startswith(old) else name for name in there]
        branch = BranchConfig(from_step=1, restore="weights", rename={old: new})
        if not any(name.startswith(old) for name in there) or len(set(model)) < len(model):
            with pytest.raises(CheckpointError, match=r"branch\.rename"):
                selected_names(branch, there, model)
            return
        chosen = selected_names(branch, there, model)
        assert chosen == dict(zip(model, there, strict=True))


JSON: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.lists(JSON, max_size=3)
        | st.dictionaries(st.text(max_size=8), JSON, max_size=3)
    )
)
A_RECORD = asdict(record("run-b", "run-a", 20, findings=[{"level": "note", "what": "x", "found": "y"}]))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("records")
    put(place, record("run-a"))
    put(place, record("run-b", "run-a", 20))
    return place


def look_at_everything(outputs: Path) -> None:
    """Nothing but a LauncherError comes out of any record, and those that can be read are usable."""
    runs, problems = read_runs(outputs)
    assert len(runs) + len(problems) == 2
    assert all(isinstance(problem, LauncherError) for problem in problems)
    nodes, _ = tree(outputs)
    str(rendered(nodes, outputs).label)
    for run in runs:
        state_now(run)
        children(runs, run.id)
        rendered_run(run, show(run))
    for name in ("run-a", "run-b", "run-"):
        with contextlib.suppress(LauncherError):
            find_run(outputs, name)


class TestRecord:
    @given(
        st.builds(
            record, st.just("run-b"), st.just("run-a"), STEPS,
            metrics=st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=3),
            declared=st.dictionaries(DOTTED, VALUES, max_size=3),
            differences=st.dictionaries(DOTTED, st.lists(VALUES, min_size=2, max_size=2), max_size=3),
            notes=st.none() | st.text(max_size=8),
            tags=st.lists(st.text(max_size=8), max_size=3),
            error=st.none() | st.text(max_size=8),
        )
    )  # fmt: skip
    def test_it_survives_the_disk(self, outputs: Path, one: RunRecord) -> None:
        place = outputs / one.group / one.id
        one.write(place)
        back: Run = read_run(place)
        assert back.record == one
        assert back.record.updated == one.updated != ""
        look_at_everything(outputs)

    @given(JSON)
    def test_any_json_is_a_record_or_a_plain_error(self, outputs: Path, value: Any) -> None:
        (outputs / "checkpoint-20-experiments" / "run-b" / "run.json").write_text(json.dumps(value))
        look_at_everything(outputs)

    @given(st.sampled_from(sorted(A_RECORD)), JSON)
    def test_any_value_in_place_of_one(self, outputs: Path, key: str, value: Any) -> None:
        changed = {**A_RECORD, key: value}
        (outputs / "checkpoint-20-experiments" / "run-b" / "run.json").write_text(json.dumps(changed))
        look_at_everything(outputs)

    @given(st.sampled_from(["parent", "starts"]), st.data())
    def test_any_value_inside_one(self, outputs: Path, key: str, data: st.DataObject) -> None:
        changed = json.loads(json.dumps(A_RECORD))
        inner = changed[key] if key == "parent" else changed[key][0]
        inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(JSON)
        (outputs / "checkpoint-20-experiments" / "run-b" / "run.json").write_text(json.dumps(changed))
        look_at_everything(outputs)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, outputs: Path, text: bytes) -> None:
        (outputs / "checkpoint-20-experiments" / "run-b" / "run.json").write_bytes(text)
        look_at_everything(outputs)
