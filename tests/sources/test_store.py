"""One process fetches, whoever else wants the same; and nobody writes who was taken to be dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launcher import lease
from launcher.errors import BranchPointUnavailable
from launcher.layout import RunDirectory
from launcher.lease import Holder, Lease, Superseded, newest_token
from launcher.lineage import utc_now
from launcher.sources import store
from launcher.sources.remote import RemoteFile
from launcher.sources.store import Store, key_of
from launcher.sources.transfer import digest_of

FILES = [RemoteFile("model.pt", 5, "md5:1"), RemoteFile("deep/config.json", 2, "md5:2")]


def write(file: RemoteFile, part: Path, check: Callable[[], object]) -> None:
    part.write_bytes(b"x" * (file.size or 0))


def test_of_two_that_find_the_same_holder_dead_one_takes_its_place(tmp_path: Path) -> None:
    place = RunDirectory(tmp_path)
    Lease(place, utc_now(), only_after=0).release()
    seen = newest_token(place)
    second = Lease(place, utc_now(), only_after=seen)
    with pytest.raises(Superseded):
        Lease(place, utc_now(), only_after=seen)
    second.aside()
    second.release()


def test_what_is_complete_is_not_fetched_again_and_what_is_not_is(tmp_path: Path) -> None:
    place = Store(tmp_path).fetched(FILES, write)
    assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} == {
        "model.pt", "deep/config.json",
    }  # fmt: skip

    def never(*_: object) -> None:
        raise AssertionError

    assert Store(tmp_path).fetched(FILES, never) == place
    (place / "model.pt").unlink()
    assert Store(tmp_path).fetched(FILES, write) == place
    assert (place / "model.pt").read_bytes() == b"xxxxx"
    left = [path for path in (tmp_path / "fetching").rglob("*") if path.is_file()]
    assert {path.parent.parent.name for path in left} == {".lease"}


def test_one_that_was_taken_over_does_not_publish(tmp_path: Path) -> None:
    """It stood still so long that another one took its place; its file is not the one that stays."""
    work = RunDirectory(tmp_path / "fetching" / key_of(FILES))
    others: list[Lease] = []

    def late(file: RemoteFile, part: Path, check: Callable[[], object]) -> None:
        if not others:
            others.append(Lease(work, utc_now()))
            with pytest.raises(Superseded):
                check()
            others[0].release()
            check()
        write(file, part, check)

    assert Store(tmp_path).fetched(FILES, late) == tmp_path / "objects" / key_of(FILES)
    assert len(others) == 1


def test_no_file_leaves_its_directory(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="leads out of its directory"):
        Store(tmp_path / "store").fetched([RemoteFile("../../x", 1)], write)
    assert not (tmp_path / "x").exists()


def test_what_always_means_the_same_is_asked_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def find(_asking: Callable[[], object]) -> tuple[str, Path]:
        asked.append("")
        return "wandb://a/b/c:v1", Store(tmp_path).fetched(FILES, write) / "model.pt"

    first = Store(tmp_path).known("c:v1", find)
    assert Store(tmp_path).known("c:v1", find) == first == ("wandb://a/b/c:v1", first[1])
    assert len(asked) == 1
    first[1].unlink()
    assert Store(tmp_path).known("c:v1", find) == first
    assert len(asked) == 2


@pytest.fixture
def all_in_line(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Waits until three threads want something of a store, one of them having its turn."""
    looked: set[int] = set()

    def holder(work: RunDirectory) -> Holder | None:
        looked.add(threading.get_ident())
        return lease.holder(work)

    def wait() -> None:
        while len(looked) < 3:
            time.sleep(0.01)

    monkeypatch.setattr(store, "holder", holder)
    return wait


def test_what_moves_is_asked_again_by_whoever_wants_it_after_the_question_was_put(
    tmp_path: Path, all_in_line: Callable[[], None]
) -> None:
    asked: list[str] = []

    def find(asking: Callable[[], object]) -> tuple[str, Path]:
        asked.append("")
        all_in_line()
        asking()
        return f"v{len(asked)}", Store(tmp_path).fetched(FILES, write) / "model.pt"

    def want(_: int) -> str:
        return Store(tmp_path).known("c:latest", find, moves=True)[0]

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(want, range(3))) == ["v1"] * 3
    assert want(0) == "v2"


def test_who_comes_while_another_ends_is_not_disturbed(tmp_path: Path) -> None:
    def find(asking: Callable[[], None]) -> tuple[str, Path]:
        asking()
        return "v1", tmp_path / "elsewhere"

    def many(_: int) -> set[str]:
        return {Store(tmp_path).known("c:latest", find, moves=True)[0] for _ in range(20)}

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(many, range(8))) == [{"v1"}] * 8


def test_a_question_that_failed_is_put_by_all_others_at_once(
    tmp_path: Path, all_in_line: Callable[[], None]
) -> None:
    first, together = threading.Lock(), threading.Barrier(2)

    def find(asking: Callable[[], object]) -> tuple[str, Path]:
        if first.acquire(blocking=False):
            all_in_line()
            asking()
        else:
            together.wait(60)
        raise BranchPointUnavailable("It is gone.")

    def want(_: int) -> None:
        with pytest.raises(BranchPointUnavailable, match="gone"):
            Store(tmp_path).known("c:latest", find, moves=True)

    with ThreadPoolExecutor() as pool:
        list(pool.map(want, range(3)))


@pytest.mark.parametrize(("algorithm", "expected"), [
    ("md5", "900150983cd24fb0d6963f7d28e17f72"),
    ("blake3", "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
    ("xxh128", "06b05ab6733a618578af5f94892f3950"),
])  # fmt: skip
def test_digests_are_those_that_others_compute(tmp_path: Path, algorithm: str, expected: str) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert digest_of(path, algorithm) == f"{algorithm}:{expected}"
