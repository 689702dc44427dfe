"""metrics.jsonl: every step once, exact, readable by anything, whatever happens to the writer."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import LauncherError
from launcher.trackers.metrics_file import MetricsFile, last_metrics, read_metrics

ROOT = Path(__file__).parents[2]
LINE: dict[str, int | float | str] = {
    "global_step": 1,
    "branch_step": 1,
    "train/token_accuracy": 0.48,
    "digest/rng": "ab12",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.jsonl"


def write(path: Path, steps: range) -> None:
    metrics = MetricsFile(path)
    for step in steps:
        metrics.append({**LINE, "global_step": step, "train/total_loss": 1 / step})
    metrics.close()


def steps(path: Path) -> list[int]:
    return [line["global_step"] for line in read_metrics(path)]


def strict(text: str) -> object:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def bits(value: object) -> object:
    return struct.pack("<d", value) if isinstance(value, float) and not math.isnan(value) else repr(value)


names = st.text(min_size=1).filter(lambda name: name != "global_step" and not name.startswith("nonfinite/"))
lines = st.dictionaries(names, st.floats() | st.integers() | st.text())


@given(given_lines=st.lists(lines, max_size=5))
def test_what_is_read_is_bit_for_bit_what_was_logged(
    given_lines: list[dict[str, float | int | str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("m") / "metrics.jsonl"
    logged = [{"global_step": step, **line} for step, line in enumerate(given_lines)]
    metrics = MetricsFile(path)
    assert all(metrics.append(line) for line in logged)
    metrics.close()
    read = read_metrics(path)
    assert [{k: bits(v) for k, v in line.items()} for line in read] == [
        {k: bits(v) for k, v in line.items()} for line in logged
    ]
    assert read == read_metrics(path)
    assert last_metrics(path) == (read[-1] if read else None)
    for text in path.read_text(encoding="utf-8").split("\n")[:-1]:
        strict(text)


def test_values_without_a_json_number_are_null_and_named(path: Path) -> None:
    metrics = MetricsFile(path)
    metrics.append({"global_step": 1, "a": math.nan, "b": -math.inf, "c": math.inf, "d": 1.5})
    metrics.close()
    assert strict(path.read_text()) == {
        "global_step": 1, "a": None, "nonfinite/a": "NaN", "b": None, "nonfinite/b": "-Infinity",
        "c": None, "nonfinite/c": "Infinity", "d": 1.5,
    }  # fmt: skip


def test_each_line_goes_out_in_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = os.write

    def recorded(descriptor: int, data: bytes) -> int:
        written.append(data)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", recorded)
    write(path, range(1, 4))
    assert [data.count(b"\n") for data in written] == [1, 1, 1]
    assert b"".join(written) == path.read_bytes()


def test_a_step_that_is_there_is_not_added_again(path: Path) -> None:
    write(path, range(1, 8))
    before = path.read_bytes()
    metrics = MetricsFile(path)
    assert metrics.last_step == 7
    assert [metrics.append({"global_step": step, "x": 0.0}) for step in range(5, 10)] == [
        False, False, False, True, True,
    ]  # fmt: skip
    metrics.close()
    assert path.read_bytes().startswith(before)
    assert steps(path) == list(range(1, 10))


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(path: Path) -> None:
    write(path, range(1, 4))
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        assert steps(path) == [1, 2]
        assert (last_metrics(path) or {})["global_step"] == 2
        write(path, range(1, 4))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("torn", [b"{", b'{"global_step": 1, "x', b"\0" * 9000])
def test_a_file_that_is_one_torn_line_is_empty(path: Path, torn: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(torn)
    assert read_metrics(path) == []
    assert last_metrics(path) is None
    metrics = MetricsFile(path)
    assert metrics.last_step is None
    metrics.close()
    assert path.read_bytes() == b""


def test_no_file_has_no_lines(path: Path) -> None:
    assert read_metrics(path) == []
    assert last_metrics(path) is None


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\0\0\0", b"\xff\xfe", b"[" * 100_000, b'{"global_step": 2', b"[1]", b'{"x": 1}',
     b'{"global_step": "2"}', b'{"global_step": true}', b'{"global_step": 2, "x": null, "nonfinite/x": "?"}'],
)  # fmt: skip
def test_a_damaged_line_is_named(path: Path, garbage: bytes) -> None:
    write(path, range(1, 4))
    first, _, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + garbage + b"\n" + third)
    with pytest.raises(LauncherError) as caught:
        read_metrics(path)
    assert caught.value.where == f"{path}:2"
    path.write_bytes(first + garbage + b"\n")
    for reading in (last_metrics, MetricsFile):
        with pytest.raises(LauncherError, match="last line"):
            reading(path)
    assert path.read_bytes() == first + garbage + b"\n"


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, b"x", 1j])
def test_what_is_no_number_and_no_text_is_a_programming_error(path: Path, value: object) -> None:
    metrics = MetricsFile(path)
    with pytest.raises(TypeError, match="metric x"):
        metrics.append({"global_step": 1, "x": value})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="global_step"):
        metrics.append({"global_step": 1.0})
    assert metrics.last_step is None
    metrics.close()
    assert path.read_bytes() == b""


def test_the_last_line_is_found_in_the_tail(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, range(1, 3_000))
    amount = []
    real = os.pread

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        amount.append(length)
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    assert (last_metrics(path) or {})["global_step"] == 2_999
    assert path.stat().st_size > 300_000
    assert sum(amount) <= 4096


@pytest.mark.parametrize("length", [1, 4000, 4090, 4096, 5000, 100_000])
def test_a_line_longer_than_the_tail_is_found(path: Path, length: int) -> None:
    metrics = MetricsFile(path)
    for step in (1, 2):
        metrics.append({"global_step": step, "digest/x": "x" * length})
    metrics.close()
    assert last_metrics(path) == {"global_step": 2, "digest/x": "x" * length}
    assert MetricsFile(path).last_step == 2


def test_the_last_lines_of_a_thousand_runs_are_there_at_once(tmp_path: Path) -> None:
    write(tmp_path / "0.jsonl", range(1, 2_000))
    for number in range(1, 1_000):
        os.link(tmp_path / "0.jsonl", tmp_path / f"{number}.jsonl")
    begun = time.process_time()
    found = [last_metrics(tmp_path / f"{number}.jsonl") for number in range(1_000)]
    assert time.process_time() - begun < 0.5
    assert all(line and line["global_step"] == 1_999 for line in found)


WRITER = """
import sys
from pathlib import Path
from launcher.trackers.metrics_file import MetricsFile

metrics = MetricsFile(Path(sys.argv[1]))
checkpoint = (metrics.last_step or 0) // 50 * 50
print("open", flush=True)
for step in range(checkpoint + 1, 1_000_000):
    metrics.append({"global_step": step, "train/total_loss": 1 / step, "digest/rng": "ab" * (step % 400)})
"""


def test_killed_anywhere_every_step_is_there_once(path: Path) -> None:
    seeded = random.Random(20_261_121)
    sizes = [0]
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"open\n"
            time.sleep(seeded.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
        # A kill seldom falls into a write; a power cut tears the line that a kill leaves whole.
        if seeded.random() < 0.5:
            with path.open("r+b") as file:
                file.truncate(max(0, path.stat().st_size - seeded.randrange(1, 40)))
        sizes.append(path.stat().st_size)
    write(path, range(1, 1_000_000)[: MetricsFile(path).last_step])
    found = read_metrics(path)
    assert [line["global_step"] for line in found] == list(range(1, len(found) + 1))
    assert all(line["train/total_loss"] == 1 / line["global_step"] for line in found)
    assert len({*sizes}) > 6, "the kills fell before anything was written"


FILLER = """
import resource, signal, sys
from pathlib import Path
from launcher.errors import LauncherError
from launcher.trackers.metrics_file import MetricsFile

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
metrics = MetricsFile(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
failures = 0
for step in range(1, 200):
    try:
        metrics.append({"global_step": step, "digest/rng": "ab" * 50})
    except LauncherError as error:
        failures += 1
        assert "File too large" in error.what, error
        if failures == 3:
            break
print(metrics.last_step, failures)
"""


def test_on_a_full_disk_it_says_so_and_ends_with_a_whole_line(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    last, failures = map(int, done.stdout.split())
    assert failures == 3
    assert path.read_bytes().endswith(b"\n")
    assert steps(path) == list(range(1, last + 1))
    write(path, range(1, last + 5))
    assert steps(path) == list(range(1, last + 5))


def test_a_half_written_line_that_cannot_be_taken_back_is_dropped_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, range(1, 3))
    metrics = MetricsFile(path)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", partly_then(OSError(28, "No space left on device"), real))
        patch.setattr(os, "ftruncate", failing)
        with pytest.raises(LauncherError, match="No space left"):
            metrics.append({**LINE, "global_step": 3})
    metrics.close()
    assert not path.read_bytes().endswith(b"\n")
    assert steps(path) == [1, 2]
    write(path, range(1, 4))
    assert steps(path) == [1, 2, 3]


def partly_then(error: OSError, real: Callable[[int, bytes], int]) -> Callable[[int, bytes], int]:
    calls = iter((True, False))

    def partly(descriptor: int, data: bytes) -> int:
        if next(calls):
            return real(descriptor, data[:20])
        raise error

    return partly


def failing(*_: object) -> None:
    raise OSError(5, "Input/output error")


def test_a_full_device_is_a_launcher_error() -> None:
    metrics = MetricsFile(Path("/dev/full"))
    with pytest.raises(LauncherError, match="No space left"):
        metrics.append(LINE)
    assert metrics.last_step is None
    metrics.close()


def test_a_place_that_cannot_be_written_is_a_launcher_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LauncherError, match="Cannot write"):
        MetricsFile(tmp_path / "file" / "metrics.jsonl")


def test_sync_reaches_the_disk_and_close_can_be_repeated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    real = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    metrics = MetricsFile(path)
    metrics.append(LINE)
    metrics.sync()
    metrics.sync()
    metrics.close()
    metrics.close()
    file, directory = path.stat().st_ino, path.parent.stat().st_ino
    assert synced == [file, directory, file]
