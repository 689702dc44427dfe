"""Training waits for the copy only; what fails beside it is told; no process ends with half a file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import files, layout
from launcher.checkpoint import writer as module
from launcher.checkpoint.content import describe
from launcher.checkpoint.manifest import read_manifest
from launcher.checkpoint.reader import read_state
from launcher.checkpoint.verify import newest_good, verify_file
from launcher.checkpoint.writer import CheckpointWriter
from launcher.config import CheckpointConfig
from launcher.errors import CheckpointError, RunFailed

from .states import about, saved, tiny_state

STATE, MANIFEST = "checkpoint_step_1.pt", "checkpoint_step_1.json"


class Gate:
    """Holds the background thread before it writes the file."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, state: dict[str, Any], path: Path) -> tuple[int, str]:
        self.reached.set()
        assert self.open.wait(20)
        return self.write(state, path)

    write = staticmethod(module.write_state)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(module, "write_state", gate)
    yield gate
    gate.open.set()


def test_save_returns_before_anything_is_written_and_saves_that_moment(tmp_path: Path, gate: Gate) -> None:
    state = tiny_state(1)
    with CheckpointWriter(tmp_path, CheckpointConfig()) as writer:
        writer.save(state, about(1))
        state["model_state_dict"]["head.weight"].zero_()
        state["rng_state"]["torch"].zero_()
        state["optimizer_state_dict"]["param_groups"][0]["lr"] = 9.0
        assert gate.reached.wait(20)
        writer.check()
        assert writer.saved is None
        assert newest_good(tmp_path) == (None, [])
        gate.open.set()
        writer.wait()
        assert writer.saved == 1
    assert describe(read_state(tmp_path / layout.checkpoint_file(1))) == describe(tiny_state(1))


def test_facts_are_those_of_the_moment_too(tmp_path: Path, gate: Gate) -> None:
    metrics = {"a": 1.0}
    with CheckpointWriter(tmp_path, CheckpointConfig()) as writer:
        writer.save(tiny_state(1), about(1, metrics=metrics))
        metrics["a"] = 2.0
        gate.open.set()
    assert read_manifest(tmp_path / layout.checkpoint_file(1)).about.metrics == {"a": 1.0}


def test_a_second_save_waits_for_the_first_and_both_are_whole(tmp_path: Path, gate: Gate) -> None:
    with CheckpointWriter(tmp_path, CheckpointConfig()) as writer:
        writer.save(tiny_state(1), about(1))
        assert gate.reached.wait(20)
        threading.Timer(0.2, gate.open.set).start()
        writer.save(tiny_state(2), about(2))
        assert writer.waits == 1
        assert 0.1 < writer.waited_seconds <= writer.stall_seconds
        assert writer.saved == 1
    for step in (1, 2):
        assert describe(read_state(tmp_path / layout.checkpoint_file(step))) == describe(tiny_state(step))


def test_check_costs_less_than_a_microsecond(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, CheckpointConfig()) as writer:
        assert min(timeit.repeat(writer.check, number=10_000, repeat=20)) / 10_000 < 1e-6


def test_equal_content_is_not_written_again(tmp_path: Path, gate: Gate) -> None:
    gate.open.set()
    path = saved(tmp_path, tiny_state(1))
    before = (path.stat(), layout.manifest_of(path).stat())
    gate.reached.clear()
    saved(tmp_path, tiny_state(1), config={"other": 1})
    assert not gate.reached.is_set()
    assert (path.stat(), layout.manifest_of(path).stat()) == before


def test_other_content_of_a_step_replaces_it(tmp_path: Path) -> None:
    saved(tmp_path, tiny_state(1))
    path = saved(tmp_path, tiny_state(2), step=1)
    assert describe(read_state(path)) == describe(tiny_state(2))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("which", ["state", "manifest"])
def test_a_damaged_checkpoint_of_equal_content_is_written_again(tmp_path: Path, which: str) -> None:
    path = saved(tmp_path, tiny_state(1))
    target = path if which == "state" else layout.manifest_of(path)
    raw = bytearray(target.read_bytes())
    raw[len(raw) // 2] ^= 1
    target.write_bytes(raw)
    saved(tmp_path, tiny_state(1))
    verify_file(path)


def test_nothing_is_published_before_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL cannot show this, a power cut would."""
    calls: list[str] = []
    replace, flush = os.replace, files.flush_to_disk

    def noted_replace(source: Path, target: Path) -> None:
        calls.append(f"rename {Path(target).name}")
        replace(source, target)

    def noted_flush(path: Path) -> None:
        name = "directory" if path == tmp_path else path.name.split(f".{os.getpid()}")[0].lstrip(".")
        there = [each.name for each in (path.iterdir() if path.is_dir() else ())]
        calls.append(
            f"flush {name}" + (" without manifest" if name == "directory" and MANIFEST not in there else "")
        )
        flush(path)

    saved(tmp_path, tiny_state(2), step=1)
    monkeypatch.setattr(os, "replace", noted_replace)
    monkeypatch.setattr(files, "flush_to_disk", noted_flush)
    saved(tmp_path, tiny_state(1))
    assert calls == [
        "flush directory without manifest",
        f"flush {STATE}",
        f"rename {STATE}",
        "flush directory without manifest",
        f"flush {MANIFEST}",
        f"rename {MANIFEST}",
        "flush directory",
    ]


def failing(state: dict[str, Any], path: Path) -> tuple[int, str]:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("how", ["check", "wait", "save", "close", "reserve"])
def test_a_failure_beside_training_is_raised_once_at_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(module, "write_state", failing)
    writer = CheckpointWriter(tmp_path, CheckpointConfig())
    writer.save(tiny_state(1), about(1))
    assert writer._thread is not None
    writer._thread.join()
    calls = {
        "check": writer.check,
        "wait": writer.wait,
        "close": writer.close,
        "save": lambda: writer.save(tiny_state(2), about(2)),
        "reserve": lambda: writer.reserve(tiny_state(2)),
    }
    with pytest.raises(RunFailed, match="Input/output error") as caught:
        calls[how]()
    assert caught.value.where == str(tmp_path / STATE)
    assert caught.value.exit_status == 1
    writer.close()
    assert writer.saved is None
    assert list(tmp_path.iterdir()) == []


def test_leaving_the_block_raises_the_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "write_state", failing)
    with pytest.raises(RunFailed), CheckpointWriter(tmp_path, CheckpointConfig()) as writer:
        writer.save(tiny_state(1), about(1))


def test_it_does_not_hide_the_error_that_ended_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "write_state", failing)
    writer = CheckpointWriter(tmp_path, CheckpointConfig())
    writer.save(tiny_state(1), about(1))
    with pytest.raises(ZeroDivisionError), writer:
        raise ZeroDivisionError
    assert "Input/output error" in caplog.text


def test_a_programming_error_beside_training_keeps_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(state: dict[str, Any], path: Path) -> tuple[int, str]:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "write_state", broken)
    writer = CheckpointWriter(tmp_path, CheckpointConfig())
    writer.save(tiny_state(1), about(1))
    with pytest.raises(ZeroDivisionError):
        writer.wait()


def test_a_refused_state_leaves_the_writer_usable(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, CheckpointConfig()) as writer:
        with pytest.raises(CheckpointError):
            writer.save({"a": object()}, about(1))
        writer.save(tiny_state(1), about(1))
    assert newest_good(tmp_path)[0] is not None


def test_many_saves_of_states_that_grow_and_shrink(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, CheckpointConfig()) as writer:
        for step in range(1, 30):
            writer.reserve(tiny_state(step, size=8 * (1 + step % 5)))
            writer.save(tiny_state(step, size=8 * (1 + step * 7 % 11)), about(step))
    for step in range(1, 30):
        again = read_state(tmp_path / layout.checkpoint_file(step))
        assert describe(again) == describe(tiny_state(step, size=8 * (1 + step * 7 % 11)))


PROGRAM = """
import sys, torch
from pathlib import Path
from launcher.checkpoint.manifest import About
from launcher.checkpoint import writer as module
from launcher.config import CheckpointConfig
write = module.write_state
def slowly(state, path):
    import time
    time.sleep(0.5)
    return write(state, path)
module.write_state = slowly
writer = module.CheckpointWriter(Path(sys.argv[1]), CheckpointConfig())
writer.save({"a": torch.zeros(1000)}, About(1, 1, "run"))
assert not Path(sys.argv[1], "checkpoint_step_1.json").exists()
"""


@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("sys.exit(3)", 3), ("raise KeyError", 1), ("raise KeyboardInterrupt", 130)]
)
def test_the_process_does_not_end_with_a_write_under_way(tmp_path: Path, end: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + end, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (status, -2 if status == 130 else status), done.stderr
    good, refused = newest_good(tmp_path)
    assert good is not None
    assert refused == []


MEMORY = """
import sys, torch
from pathlib import Path
from launcher.checkpoint.manifest import About
from launcher.checkpoint.writer import CheckpointWriter
from launcher.config import CheckpointConfig
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
state = {str(i): torch.full((5_000_000,), float(i)) for i in range(8)}
state["strided"] = torch.zeros(4000, 2000).t()
size = sum(t.numel() * 4 for t in state.values())
Path("/proc/self/clear_refs").write_text("5")
before = peak()
with CheckpointWriter(Path(sys.argv[1]), CheckpointConfig()) as writer:
    for step in (1, 2):
        state["0"][0] = step
        writer.save(state, About(step, step, "run"))
print((peak() - before) / size)
"""


def test_saving_takes_one_copy_of_the_state_in_memory_and_little_more(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert 0.9 < float(done.stdout) < 1.25
