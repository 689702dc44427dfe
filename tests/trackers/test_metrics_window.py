"""The last values of a metrics file, held against reading all of it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import LauncherError
from launcher.trackers.metrics_file import MetricsFile, read_metrics
from launcher.trackers.metrics_window import BRANCH_STEPS, Numbering, last_values

NAMES = ["train/loss", "val/loss", "val/acc", "digest/rng"]


def written(path: Path, steps: int, every: int = 7, wide: int = 10, begin: int = 0) -> Path:
    """Lines of changing length; validation at some steps only."""
    file = MetricsFile(path)
    for step in range(1, steps + 1):
        line: dict[str, int | float | str] = {"global_step": begin + step, "branch_step": step}
        line |= {"train/loss": 1 / step, "digest/rng": "x" * (step * 31 % wide)}
        if step % every == 0:
            line |= {"val/loss": math.nan if step % 5 == 0 else 1 / step, "val/acc": float(step)}
        file.append(line)
    file.close()
    return path


def by_reading_all(
    path: Path, count: int, up_to: int | None, numbering: Numbering
) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {name: {} for name in NAMES}
    for line in reversed(read_metrics(path)):
        step = numbering.of(line)
        for name in NAMES:
            fits = step > 0 and (up_to is None or step <= up_to) and len(found[name]) < count
            if fits and isinstance(line.get(name), int | float):
                found[name][step] = line[name]
    return found


@given(
    st.integers(0, 400), st.integers(1, 50), st.sampled_from([1, 10, 500, 9000]), st.integers(1, 120),
    st.one_of(st.none(), st.integers(1, 450)), st.sampled_from([b"", b'{"global_step": 9', b"x" * 9000]),
    st.sampled_from([BRANCH_STEPS, Numbering("global_step", 130)]),
)  # fmt: skip
def test_is_what_reading_all_gives(
    tmp_path_factory: pytest.TempPathFactory,
    steps: int, every: int, wide: int, count: int, up_to: int | None, torn: bytes, numbering: Numbering,
) -> None:  # fmt: skip
    path = written(tmp_path_factory.mktemp("metrics") / "metrics.jsonl", steps, every, wide, begin=100)
    with path.open("ab") as file:
        file.write(torn)
    found = last_values(path, NAMES, count, up_to, numbering)
    expected = by_reading_all(path, count, up_to, numbering)
    assert repr(found) == repr(expected)
    assert list(found["train/loss"]) == sorted(found["train/loss"], reverse=True)


def test_only_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "metrics.jsonl", 20_000, wide=300)
    size, taken = path.stat().st_size, 0
    pread = os.pread

    def counted(descriptor: int, length: int, place: int) -> bytes:
        nonlocal taken
        data = pread(descriptor, length, place)
        taken += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    assert last_values(path, ["train/loss"], 1) == {"train/loss": {20_000: 1 / 20_000}}
    assert taken < 5000 < size / 100
    taken = 0
    assert list(last_values(path, ["val/acc"], 2, up_to=9_000)["val/acc"]) == [8995, 8988]
    assert taken < 200_000 < size / 10


def test_no_file_and_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_values(path, ["a"], 1) == {"a": {}}
    path.write_text('{"global_step": 1, "a": 1}\n{"a" 2}\n')
    with pytest.raises(LauncherError, match="damaged"):
        last_values(path, ["a"], 2)
    with pytest.raises(LauncherError, match="Cannot read"):
        last_values(tmp_path, ["a"], 2)
