"""A manifest reads back as it was written, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher import layout
from launcher.checkpoint import manifest as module
from launcher.checkpoint.content import describe
from launcher.checkpoint.difference import differing
from launcher.checkpoint.manifest import (
    Manifest,
    read_manifest,
    read_manifest_file,
    write_manifest,
)
from launcher.checkpoint.verify import complete_manifest, newest_good, verify_file
from launcher.errors import CheckpointError

from .states import about, saved, tiny_state


def test_it_reads_back_as_it_was_written(tmp_path: Path) -> None:
    facts = about(
        15000,
        parent={"run": "trunk", "step": 1000, "sha256": "ab"},
        config={"optimizer": {"lr": 1e-05, "betas": (0.9, 0.999)}, "name": 'Zürich \u2028 \\ "'},
        metrics={"val/token_accuracy": 0.48, "worst": float("inf")},
        data_fingerprint="f00",
        versions={"torch": "2.13.0"},
        environment={"threads": 2, "device": "cpu"},
        progress={"seconds": 1.5},
    )
    content = describe(tiny_state(15000))
    write_manifest(tmp_path / "restored.json", Manifest(facts, content))
    again = read_manifest_file(tmp_path / "restored.json")
    assert again == Manifest(facts.copied(), content, None, again.created)
    assert again.about.config["optimizer"]["betas"] == [0.9, 0.999]
    assert (again.step, again.sha256, again.tensors) == (15000, content.sha256, content.tensors)


def test_a_saved_manifest_tells_the_file_and_the_content(tmp_path: Path) -> None:
    path = saved(tmp_path, tiny_state(5), metrics={"a": 1})
    manifest = verify_file(path)
    assert manifest == read_manifest(path) == complete_manifest(path)
    assert manifest.content == describe(tiny_state(5))
    assert manifest.file is not None
    assert (manifest.file.name, manifest.file.bytes) == ("checkpoint_step_5.pt", path.stat().st_size)
    assert manifest.content.optimizer_groups[0].hyperparameters["lr"] == 1e-3


def test_the_content_is_the_same_whoever_saved_it(tmp_path: Path) -> None:
    """A control's checkpoint must be provably its trunk's, though run, parent and config differ."""
    trunk = saved(tmp_path / "trunk", tiny_state(7))
    control = saved(tmp_path / "control", tiny_state(7), parent={"run": "trunk"}, config={"branch": 1})
    assert read_manifest(trunk).content == read_manifest(control).content
    assert read_manifest(trunk) != read_manifest(control)


def resealed(text: str, change: Callable[[dict[str, Any]], None]) -> str:
    """A manifest with a change that its own digest was made to fit: a hostile one."""
    plain = json.loads(text)
    del plain["digest"]
    change(plain)
    return module._sealed(plain)


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "step is text": lambda m: m.update(step="5"),
    "step is true": lambda m: m.update(step=True),
    "step is negative": lambda m: m.update(step=-1),
    "step is a fraction": lambda m: m.update(step=5.0),
    "no absolute_step": lambda m: m.pop("absolute_step"),
    "run is a number": lambda m: m.update(run=5),
    "parent is text": lambda m: m.update(parent="trunk"),
    "config is a list": lambda m: m.update(config=[]),
    "metrics is null": lambda m: m.update(metrics=None),
    "sha256 is upper case": lambda m: m.update(sha256=m["sha256"].upper()),
    "sha256 of something else": lambda m: m.update(sha256="0" * 64),
    "a component is missing": lambda m: m["components"].pop("step"),
    "components is a list": lambda m: m.update(components=[]),
    "a component is short": lambda m: m["components"].update(step="ab"),
    "tensors is a dict": lambda m: m.update(tensors={}),
    "a tensor is text": lambda m: m["tensors"].append("x"),
    "a tensor without dtype": lambda m: m["tensors"][0].pop("dtype"),
    "a tensor digest is short": lambda m: m["tensors"][0].update(digest="ab"),
    "a shape is text": lambda m: m["tensors"][0].update(shape="8x8"),
    "a shape is negative": lambda m: m["tensors"][0].update(shape=[-1, 8]),
    "a shape has text": lambda m: m["tensors"][0].update(shape=["8"]),
    "a group is a number": lambda m: m.update(optimizer_groups=[3]),
    "a group counts text": lambda m: m["optimizer_groups"][0].update(parameters="1"),
    "file is text": lambda m: m.update(file="checkpoint_step_5.pt"),
    "file has no bytes": lambda m: m["file"].pop("bytes"),
    "file digest is null": lambda m: m["file"].update(digest=None),
    "created is a number": lambda m: m.update(created=1),
    "another format": lambda m: m.update(format=2),
    "no format": lambda m: m.pop("format"),
    "empty": lambda m: m.clear(),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_wrong_fields_are_refused_even_if_the_digest_fits(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    path = layout.manifest_of(saved(tmp_path, tiny_state(5)))
    path.write_text(resealed(path.read_text(), change))
    with pytest.raises(CheckpointError) as caught:
        read_manifest_file(path)
    assert caught.value.where == str(path)
    assert caught.value.found
    assert caught.value.expected
    assert caught.value.do


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"3",
        b"not json",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"[" * 200_000,
        b'{"format": 1, "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"format": 1, "step": ' + b"9" * 10_000 + b"}",
        b'{"format": 1}',
        b'{"format": ' + b'"x' * 100_000,
    ],
    ids=range(13),
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, raw: bytes) -> None:
    checkpoint = saved(tmp_path, tiny_state(5))
    layout.manifest_of(checkpoint).write_bytes(raw)
    with pytest.raises(CheckpointError, match="manifest"):
        read_manifest(checkpoint)
    assert newest_good(tmp_path)[0] is None


def test_a_huge_file_a_directory_and_a_pipe_are_no_manifests(tmp_path: Path) -> None:
    huge = tmp_path / "checkpoint_step_1.json"
    huge.touch()
    os.truncate(huge, module.LARGEST + 1)
    (tmp_path / "checkpoint_step_2.json").mkdir()
    os.mkfifo(tmp_path / "checkpoint_step_3.json")
    for step, expected in ((1, "at most 67.1 MB"), (2, "a JSON file"), (3, "a JSON file")):
        with pytest.raises(CheckpointError) as caught:
            read_manifest(tmp_path / layout.checkpoint_file(step))
        assert caught.value.expected == expected
    good, refused = newest_good(tmp_path)
    assert good is None
    assert len(refused) == 3


def test_a_reformatted_manifest_is_refused(tmp_path: Path) -> None:
    path = layout.manifest_of(saved(tmp_path, tiny_state(5)))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    with pytest.raises(CheckpointError, match="damaged"):
        read_manifest_file(path)


def test_no_manifest_no_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path, tiny_state(5))
    layout.manifest_of(path).unlink()
    with pytest.raises(CheckpointError, match="no manifest"):
        verify_file(path)
    assert newest_good(tmp_path) == (None, [])


def test_a_manifest_of_another_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, tiny_state(5))
    other = tmp_path / layout.checkpoint_file(6)
    path.rename(other)
    layout.manifest_of(path).rename(layout.manifest_of(other))
    with pytest.raises(CheckpointError, match="another file"):
        verify_file(other)


def test_the_seal_is_sha256_of_what_stands_before_it(tmp_path: Path) -> None:
    text = layout.manifest_of(saved(tmp_path, tiny_state(5))).read_text()
    body, _, end = text.removeprefix("{\n").rpartition(',\n  "digest": ')
    assert json.loads(end.removesuffix("\n}\n")) == hashlib.sha256(body.encode()).hexdigest()


def test_differences_are_named_in_order() -> None:
    state, changed = tiny_state(1), tiny_state(1)
    changed["model_state_dict"]["extra"] = changed["model_state_dict"].pop("tied").clone()
    changed["optimizer_state_dict"]["state"][0]["exp_avg"] += 1
    changed["optimizer_state_dict"]["param_groups"][0]["lr"] = 2e-3
    changed["step"] = 2
    changed["new"] = None
    found = differing(describe(state), describe(changed))
    assert found.components == ("model_state_dict", "optimizer_state_dict", "step", "new")
    assert [str(each) for each in found.tensors] == [
        "model_state_dict.tied: only in the first",
        "optimizer_state_dict.state.0.exp_avg: other values",
        "model_state_dict.extra: only in the second",
    ]
    assert found.plain == ("step", "new")
    assert not differing(describe(state), describe(tiny_state(1)))
    entry = describe(state).tensors[0]
    other = replace(describe(state), tensors=(replace(entry, shape=(64,)),))
    assert "float32[8, 8] and float32[64]" in str(differing(describe(state), other).tensors[0])
