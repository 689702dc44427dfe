"""A disk that is full, read-only or failing: told plainly, nothing half-written left, nothing older lost."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.checkpoint.store import checkpoints
from launcher.checkpoint.verify import newest_good
from launcher.checkpoint.writer import CheckpointWriter
from launcher.config import CheckpointConfig
from launcher.errors import RunFailed

from .states import about, saved, tiny_state


def big_state(step: int) -> dict[str, Any]:
    return {**tiny_state(step), "big": torch.zeros(1_000_000)}


def expect_failure(directory: Path, state: dict[str, Any], reason: int) -> RunFailed:
    """Saving ``state`` fails for ``reason``, and the directory is as it was."""
    before = sorted(path.name for path in directory.iterdir())
    good = newest_good(directory)
    with pytest.raises(RunFailed, match=os.strerror(reason)) as caught:
        saved(directory, state)
    assert sorted(path.name for path in directory.iterdir()) == before
    assert newest_good(directory) == good
    assert f"checkpoint_step_{state['step']}.pt" in str(caught.value.where)
    assert caught.value.do
    return caught.value


@contextlib.contextmanager
def file_size_limit(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """A real refusal by the kernel in the middle of a write, without any privilege."""
    saved(tmp_path, tiny_state(1))
    with file_size_limit(1_500_000):
        error = expect_failure(tmp_path, big_state(2), errno.EFBIG)
    assert "4.0 MB" in str(error.expected)
    assert "free" in str(error.found)
    saved(tmp_path, big_state(2))
    assert len(checkpoints(tmp_path)) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB; where mounting is not permitted, one whose writes fail after 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        yield disk
        subprocess.run(["umount", str(disk)], check=True)
        return
    room, write = [2_000_000], os.write

    def limited(descriptor: int, data: bytes) -> int:
        count = min(len(data), room[0])
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= count
        return write(descriptor, data[:count])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", limited)
        yield disk


def test_a_full_disk(small_disk: Path) -> None:
    saved(small_disk, tiny_state(1))
    expect_failure(small_disk, big_state(2), errno.ENOSPC)


FAULTS: dict[str, Callable[..., Any]] = {
    name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "unlink")
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_every_call_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: int) -> None:
    """Each call that writes fails in turn, at its first, second, ... use, until a save needs no more."""
    failures = 0
    for turn in range(1, 50):
        directory = tmp_path / str(turn)
        saved(directory, tiny_state(1))
        saved(directory, tiny_state(3), step=2)
        countdown = [turn]

        def faulty(*args: Any, countdown: list[int] = countdown, **more: Any) -> Any:
            target = args[0]
            writes = name != "open" or args[1] & os.O_CREAT
            countdown[0] -= bool(writes)
            if countdown[0] == 0 and writes:
                raise OSError(reason, os.strerror(reason), str(target))
            return FAULTS[name](*args, **more)

        writer = CheckpointWriter(directory, CheckpointConfig())
        with monkeypatch.context() as patch:
            patch.setattr(os, name, faulty)
            # Step 2 is there with other content: its manifest goes first.
            writer.save(tiny_state(2), about(2))
            assert writer._thread is not None
            writer._thread.join()
        if countdown[0] > 0:
            writer.close()
            break
        failures += 1
        with pytest.raises(RunFailed, match=os.strerror(reason)):
            writer.close()
        assert not list(directory.glob(".*"))
        good, refused = newest_good(directory)
        assert good is not None
        assert refused == []
        saved(directory, tiny_state(2))
        assert newest_good(directory)[0] == directory / "checkpoint_step_2.pt"
    assert failures


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFailed) as caught:
        CheckpointWriter(tmp_path / "file" / "checkpoints", CheckpointConfig())
    assert caught.value.where == str(tmp_path / "file" / "checkpoints")
    assert caught.value.found
