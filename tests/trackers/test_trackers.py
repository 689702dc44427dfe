"""Tracking can fail, training cannot."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config import TrackerConfig, WandbConfig
from launcher.errors import LauncherError
from launcher.trackers import trackers as tracking
from launcher.trackers import worker as module
from launcher.trackers.base import KeptCheckpoint, RunIdentity, State, Tracker
from launcher.trackers.metrics_file import MetricsFile, read_metrics
from launcher.trackers.trackers import Trackers, trackers_of


class Fake:
    """Takes everything down; ``fails`` says where it raises, ``hangs`` where it never returns."""

    def __init__(self, name: str = "fake", fails: str = "", hangs: str = "", at: int = 1) -> None:
        self.name = name
        self.calls: list[tuple[str, Any]] = []
        self._fails = fails
        self._hangs = hangs
        self._at = at
        self.released = threading.Event()

    def _called(self, what: str, value: Any) -> None:
        self.calls.append((what, value))
        if what == self._hangs:
            self.released.wait(20)
        if what == self._fails and len(self.of(what)) >= self._at:
            raise ConnectionError("no route\n  to host.")

    def start(self, identity: RunIdentity) -> str | None:
        self._called("start", identity)
        return f"see://{identity.id}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._called("log", (step, dict(metrics)))

    def finish(self, state: State, summary: Mapping[str, Any]) -> None:
        self._called("finish", (state, dict(summary)))

    def abandon(self) -> None:
        self._called("abandon", None)
        raise OSError("it cannot even let go")

    def of(self, what: str) -> list[Any]:
        return [value for called, value in self.calls if called == what]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs at its start costs no test ten seconds."""
    monkeypatch.setattr(tracking, "BEGIN_SECONDS", 0.1)


@pytest.fixture
def identity(tmp_path: Path) -> RunIdentity:
    return RunIdentity(id="run-1", name="run", group="g", job_type="j", directory=tmp_path)


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[MetricsFile]:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    yield metrics
    metrics.close()


def train(trackers: Trackers, identity: RunIdentity, steps: int = 5) -> None:
    trackers.start(identity)
    for step in range(1, steps + 1):
        trackers.log({"global_step": step, "branch_step": step, "train/x": step / 7, "digest/rng": "ab"})
    trackers.finish("finished", {"best": 1.0})


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "launcher.trackers" and record.levelno >= logging.WARNING
    ]


def test_every_tracker_is_told_everything(metrics: MetricsFile, identity: RunIdentity) -> None:
    fakes = [Fake("a"), Fake("b")]
    trackers = Trackers(metrics, fakes)
    train(trackers, identity, 2)
    for fake in fakes:
        assert fake.calls == [
            ("start", identity),
            ("log", (1, {"branch_step": 1, "train/x": 1 / 7})),
            ("log", (2, {"branch_step": 2, "train/x": 2 / 7})),
            ("finish", ("finished", {"best": 1.0})),
        ]
    assert trackers.links == {"a": "see://run-1", "b": "see://run-1"}
    assert trackers.dropped == {}
    assert [line["digest/rng"] for line in read_metrics(metrics.path)] == ["ab", "ab"]


@pytest.mark.parametrize(
    ("where", "at", "dropped", "logged"),
    [("start", 1, 5, 0), ("log", 1, 5, 1), ("log", 3, 3, 3), ("finish", 1, 0, 5)],
)
def test_a_tracker_that_raises_is_warned_about_once_and_left(
    metrics: MetricsFile, identity: RunIdentity, caplog: pytest.LogCaptureFixture,
    where: str, at: int, dropped: int, logged: int,
) -> None:  # fmt: skip
    failing, sound = Fake("failing", fails=where, at=at), Fake("sound")
    trackers = Trackers(metrics, [failing, sound])
    train(trackers, identity)
    told = "The run is complete" if where == "finish" else "Training goes on"
    assert warnings_in(caplog) == [
        f"failing failed ({where}): ConnectionError: no route to host. "
        f"{told} without it; metrics.jsonl has everything."
    ]
    assert trackers.dropped == {"failing": dropped}
    assert len(failing.of("log")) == logged
    assert failing.calls[-1] == ("abandon", None)
    assert len(failing.of("abandon")) == 1
    assert len(sound.of("log")) == len(read_metrics(metrics.path)) == 5
    assert sound.of("finish")


@pytest.mark.parametrize(("where", "at"), [("log", 3), ("finish", 1)])
def test_what_a_tracker_held_when_it_failed_is_counted_too(
    metrics: MetricsFile, identity: RunIdentity, caplog: pytest.LogCaptureFixture, where: str, at: int
) -> None:
    class Holding(Fake):
        remedy = "Ask it again."

        @property
        def held(self) -> int:
            return len(self.of("log"))

    trackers = Trackers(metrics, [Holding("holding", fails=where, at=at)])
    train(trackers, identity)
    assert trackers.dropped == {"holding": 5}
    assert warnings_in(caplog)[0].endswith("metrics.jsonl has everything. Ask it again.")


@given(plan=st.lists(st.tuples(st.sampled_from(["", "start", "log", "finish"]), st.integers(1, 6))))
def test_nothing_that_a_tracker_raises_reaches_training(
    plan: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("run")
    fakes: list[Tracker] = [Fake(str(number), where, at=at) for number, (where, at) in enumerate(plan)]
    trackers = Trackers(MetricsFile(directory / "metrics.jsonl"), fakes)
    train(trackers, RunIdentity(id="r", name="r", group=None, job_type=None, directory=directory))
    assert len(read_metrics(directory / "metrics.jsonl")) == 5
    assert len(trackers.links) + sum(where == "start" and at == 1 for where, at in plan) == len(plan)


@pytest.mark.parametrize("where", ["start", "finish"])
def test_a_tracker_that_hangs_is_left_behind(
    metrics: MetricsFile, identity: RunIdentity, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, where: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "START_SECONDS", 0.1)
    monkeypatch.setattr(module, "FINISH_SECONDS", dict.fromkeys(module.FINISH_SECONDS, 0.1))
    hanging, sound = Fake("hanging", hangs=where), Fake("sound")
    begun = time.monotonic()
    train(Trackers(metrics, [hanging, sound]), identity)
    hanging.released.set()
    assert time.monotonic() - begun < 5
    assert len(warnings_in(caplog)) == 1
    assert f"hanging failed ({where}): TimeoutError: no answer within 0.1 s" in warnings_in(caplog)[0]
    assert len(sound.of("log")) == 5
    assert sound.of("finish") == [("finished", {"best": 1.0})]


@pytest.mark.parametrize("where", ["start", "log"])
def test_a_slow_tracker_holds_no_step_up(
    metrics: MetricsFile, identity: RunIdentity, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, where: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "QUEUED_STEPS", 4)
    slow = Fake("slow", hangs=where)
    trackers = Trackers(metrics, [slow])
    trackers.start(identity)
    # Were a step to wait for the tracker, it would wait until the test is over.
    for step in range(1, 41):
        trackers.log({"global_step": step})
    assert not slow.released.is_set()
    slow.released.set()
    trackers.finish("finished")
    [warning] = warnings_in(caplog)
    assert "slow is slower than training" in warning
    got = [step for step, _ in slow.of("log")]
    assert got == sorted(set(got))
    assert len(got) + trackers.dropped["slow"] == 40
    assert len(got) in (3, 4, 5)
    assert slow.calls[-1][0] == "finish"
    assert trackers.facts() == {"slow": "see://run-1", "slow_dropped": 40 - len(got)}
    assert len(read_metrics(metrics.path)) == 40


def test_the_first_step_waits_until_every_tracker_has_begun_or_failed(
    metrics: MetricsFile, identity: RunIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "BEGIN_SECONDS", 1000.0)
    trackers = Trackers(metrics, [Fake("failing", fails="start"), slow := Fake("slow", hangs="start")])
    starting = threading.Thread(target=trackers.start, args=(identity,))
    starting.start()
    starting.join(0.2)
    assert starting.is_alive()
    slow.released.set()
    starting.join(60)
    assert not starting.is_alive()
    assert trackers.links == {"slow": "see://run-1"}
    trackers.finish("finished")
    assert trackers.dropped == {"failing": 0}


def test_what_gathers_is_handed_over_at_once_where_somebody_waits_for_it(
    metrics: MetricsFile, identity: RunIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Keeper(Fake):
        def keep(self, kept: KeptCheckpoint) -> None:
            self._called("keep", kept.step)
            kept.done()

    monkeypatch.setattr(module, "GATHER_SECONDS", 1000.0)
    fake, kept = Keeper(), threading.Event()
    trackers = Trackers(metrics, [fake])
    trackers.start(identity)
    trackers.log({"global_step": 1})
    trackers.keep(KeptCheckpoint(identity.directory, 1, (), "copy", kept.set))
    assert kept.wait(60)
    trackers.log({"global_step": 2})
    trackers.finish("finished")
    assert [called for called, _ in fake.calls] == ["start", "log", "keep", "log", "finish"]
    assert trackers.dropped == {}


def test_a_tracker_that_never_returns_from_a_step_is_given_up_while_training_goes_on(
    metrics: MetricsFile, identity: RunIdentity, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "LOG_SECONDS", 0.05)
    hanging = Fake("hanging", hangs="log")
    trackers = Trackers(metrics, [hanging])
    trackers.start(identity)
    step = 0
    while not warnings_in(caplog):
        trackers.log({"global_step": (step := step + 1)})
        time.sleep(0.001)
    trackers.finish("finished")
    hanging.released.set()
    assert "hanging failed (log): TimeoutError: no answer within 0.05 s" in warnings_in(caplog)[0]
    assert trackers.dropped == {"hanging": step}
    assert hanging.of("finish") == []


def test_what_a_tracker_imports_makes_no_full_collection_stop_training(
    metrics: MetricsFile, identity: RunIdentity
) -> None:
    class Large(Fake):
        def start(self, identity: RunIdentity) -> str | None:
            self.made: list[list[int]] = [[number] for number in range(400_000)]
            return super().start(identity)

    fell: list[str] = []

    def collected(phase: str, about: dict[str, int]) -> None:
        if phase == "stop" and about["generation"] == 2:
            fell.append(threading.current_thread().name)

    large, before = Large("large"), gc.get_threshold()
    trackers = Trackers(metrics, [large])
    gc.collect()
    gc.callbacks.append(collected)
    try:
        trackers.start(identity)
        while gc.get_threshold() != before:
            time.sleep(0.001)
        younger = [
            [number] for number in range(20_000)
        ]  # Enough for all to be collected, had it been put off.
    finally:
        gc.callbacks.remove(collected)
    assert (fell, len(younger)) == ([], 20_000)
    assert gc.get_freeze_count() > len(large.made)
    trackers.finish("finished")
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() < len(large.made)


@pytest.mark.parametrize("where", ["start", "nowhere"])
def test_garbage_is_collected_as_before_once_a_tracker_was_given_up(
    metrics: MetricsFile, identity: RunIdentity, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.05)
    before = gc.get_threshold()
    hanging = Fake("hanging", hangs=where)
    trackers = Trackers(metrics, [hanging])
    trackers.start(identity)
    step = 0
    while not trackers.dropped and not trackers.links:
        trackers.log({"global_step": (step := step + 1)})
        time.sleep(0.001)
    while gc.get_threshold() != before:
        time.sleep(0.001)
    hanging.released.set()
    trackers.leave()
    assert gc.get_threshold() == before


def test_a_tracker_that_leaves_the_process_does_not(
    metrics: MetricsFile, identity: RunIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    class Leaving(Fake):
        def finish(self, state: State, summary: Mapping[str, Any]) -> None:
            raise SystemExit(3)

    train(Trackers(metrics, [Leaving()]), identity)
    assert "it asked to leave: SystemExit(3)" in warnings_in(caplog)[0]


def test_a_step_that_is_logged_goes_to_nobody_again(tmp_path: Path, identity: RunIdentity) -> None:
    path = tmp_path / "metrics.jsonl"
    train(Trackers(MetricsFile(path), [Fake()]), identity, 5)
    resumed = Fake()
    train(Trackers(MetricsFile(path), [resumed]), identity, 7)
    assert [step for step, _ in resumed.of("log")] == [6, 7]
    assert [line["global_step"] for line in read_metrics(path)] == list(range(1, 8))


def test_metrics_that_cannot_be_written_stop_the_run(identity: RunIdentity) -> None:
    fake = Fake()
    trackers = Trackers(MetricsFile(Path("/dev/full")), [fake])
    trackers.start(identity)
    with pytest.raises(LauncherError, match="No space left"):
        trackers.log({"global_step": 1})
    assert fake.of("log") == []
    trackers.metrics.close()


@pytest.mark.parametrize(
    ("error", "state"), [(None, "finished"), (ValueError, "failed"), (KeyboardInterrupt, "failed")]
)
def test_leaving_the_block_finishes_the_run(
    metrics: MetricsFile, identity: RunIdentity, error: type[BaseException] | None, state: State
) -> None:
    fake = Fake()

    def body() -> None:
        with Trackers(metrics, [fake]) as trackers:
            trackers.start(identity)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            body()
    else:
        body()
    assert fake.of("finish") == [(state, {})]


def test_finishing_twice_finishes_once(metrics: MetricsFile, identity: RunIdentity) -> None:
    fake = Fake()
    with Trackers(metrics, [fake]) as trackers:
        trackers.start(identity)
        trackers.finish("interrupted")
    assert fake.of("finish") == [("interrupted", {})]


def test_the_config_names_the_trackers() -> None:
    assert trackers_of(TrackerConfig()) == []
    assert trackers_of(TrackerConfig(wandb=WandbConfig(mode="disabled"))) == []
    assert [tracker.name for tracker in trackers_of(TrackerConfig(wandb=WandbConfig()))] == ["wandb"]
