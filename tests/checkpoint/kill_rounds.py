"""Kills writers and looks at what they leave; run by test_kill.py in a process of its own.

Forks from one process that has torch imported and has computed with one thread only, so that a round
costs milliseconds. Prints one JSON line: what was seen over all rounds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from launcher.checkpoint import store
from launcher.checkpoint.content import describe
from launcher.checkpoint.reader import read_state
from launcher.checkpoint.verify import newest_good
from launcher.checkpoint.writer import CheckpointWriter
from launcher.config import CheckpointConfig

from .states import about, tiny_state

CALLS = ("open", "write", "fsync", "replace", "unlink")


def state(step: int) -> dict[str, Any]:
    return tiny_state(step, size=4096)


def train(directory: Path, published: int) -> None:
    """Save step after step, telling each that is on disk; never returns."""
    newest, _ = newest_good(directory)
    step = store.step_of(newest) if newest else 0
    with CheckpointWriter(directory, CheckpointConfig(keep_last=3)) as writer:
        while True:
            step += 1
            writer.save(state(step), about(step))
            if step % 2:
                writer.wait()
                os.write(published, f"{step}\n".encode())


def rewrite(directory: Path, published: int) -> None:
    """Save a step that is there with other content, and remove an older one, then end."""
    with CheckpointWriter(directory, CheckpointConfig(keep_last=2)) as writer:
        writer.save(state(3), about(3))


def in_child(
    work: Callable[[Path, int], None], directory: Path, delay: float | None
) -> tuple[list[int], int]:
    """Run ``work`` in a child, killed after ``delay`` seconds; the steps it told, and its wait status."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # A child that hangs must not outlive a test that gave up.
            signal.alarm(60)
            os.close(reading)
            work(directory, writing)
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    os.close(writing)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    told = b""
    while data := os.read(reading, 1 << 16):
        told += data
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return [int(line) for line in told.split(b"\n")[:-1]], status


def inspect(directory: Path, at_least: int) -> int:
    """The step of the newest checkpoint, which must be good and hold what belongs to its step."""
    newest, refused = newest_good(directory)
    assert refused == [], refused[0]
    if newest is None:
        assert at_least == 0, f"step {at_least} was published and is lost"
        return 0
    step = store.step_of(newest)
    assert step >= at_least, f"step {at_least} was published, step {step} is the newest"
    assert describe(read_state(newest)).sha256 == describe(state(step)).sha256
    return step


def at_random_moments(directory: Path, rounds: int) -> dict[str, int]:
    """Kill at random moments; each child goes on where the last one got to."""
    source, newest, torn = random.Random(rounds), 0, 0
    for _ in range(rounds):
        told, status = in_child(train, directory, source.uniform(0.002, 0.07))
        assert os.WIFSIGNALED(status), "the writer ended by itself"
        torn += any(name.name.endswith(".tmp") for name in directory.iterdir()) if directory.exists() else 0
        newest = inspect(directory, max([newest, *told]))
    return {"rounds": rounds, "newest": newest, "torn": torn}


def dying(turn: int) -> Callable[[Path, int], None]:
    """``rewrite`` in which call number ``turn`` of all that change the disk is the last one."""

    def work(directory: Path, published: int) -> None:
        left = [turn]

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **more: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **more)

            return call

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        rewrite(directory, published)

    return work


def at_every_call(directory: Path) -> dict[str, int]:
    """Kill before each call that changes the disk, in a save that replaces and removes."""
    before = directory / "before"
    with CheckpointWriter(before, CheckpointConfig()) as writer:
        for step, content in ((1, 1), (2, 2), (3, 99)):
            writer.save(state(content), about(step))
    for turn in range(1, 1000):
        place = directory / str(turn)
        shutil.copytree(before, place)
        _, status = in_child(dying(turn), place, None)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            assert [store.step_of(each) for each in store.checkpoints(place)] == [2, 3]
            return {"calls": turn - 1}
        newest, refused = newest_good(place)
        assert newest is not None
        assert refused == []
        step = store.step_of(newest)
        expected = [describe(state(content)).sha256 for content in ((3, 99) if step == 3 else (step,))]
        assert describe(read_state(newest)).sha256 in expected
        CheckpointWriter(place, CheckpointConfig()).close()
        assert not list(place.glob(".*"))
    raise AssertionError("the save never came to an end")


if __name__ == "__main__":
    torch.set_num_threads(1)
    describe(state(1))
    kind, where = sys.argv[1], Path(sys.argv[2])
    print(json.dumps(at_every_call(where) if kind == "calls" else at_random_moments(where, int(kind))))
