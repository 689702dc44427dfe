"""The real wandb client, offline, and online against a port where nobody listens."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config import WandbConfig
from launcher.errors import ConfigError
from launcher.trackers import worker as module
from launcher.trackers.metrics_file import MetricsFile, read_metrics
from launcher.trackers.trackers import Trackers
from launcher.trackers.wandb import log_file
from launcher.trackers.wandb.names import LONGEST_NAME, LONGEST_TAG, legal_id, shortened
from launcher.trackers.wandb.tracker import WandbTracker
from tests.trackers.wandb_runs import history, identity, records, run, segments, warnings_in
from tests.wandb_server.server import WandbServer

ROOT = Path(__file__).parents[2]
KEY = "0123456789" * 4
pytestmark = pytest.mark.usefixtures("nobody_logged_in")


def test_a_run_has_its_identity_and_its_axis(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    trackers = run(identity(tmp_path / "a"), range(15_001, 15_004))
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")
    assert warnings_in(caplog) == []
    [segment] = segments(tmp_path / "a")
    assert trackers.links == {"wandb": str(segment)}
    found = records(segment)
    [about] = found["run"]
    assert about["run_id"] == "fixed-1a2b3c4d"
    assert about["display_name"] == "fixed"
    assert about["run_group"] == "checkpoint-15k-experiments"
    assert about["job_type"] == "fixed-spectrum"
    assert about["tags"] == ["from-checkpoint", "fixed-spectrum"]
    assert about["notes"] == "why"
    assert about["project"] == "checkpoint-branching"
    assert about["config"]["update"]["optimizer"] == {"lr": 5e-5}
    assert about["config"]["update"]["branched_from_step"] == 15_000
    axes = [(each.get("name"), each.get("glob_name"), each.get("step_metric")) for each in found["metric"]]
    assert axes == [("global_step", None, None), (None, "*", "global_step")]
    assert history(found) == [(step, step, step / 7) for step in range(15_001, 15_004)]
    assert not any("digest/rng" in entry["item"] for entry in found["history"])
    assert {"best": 0.5} in [entry["update"] for entry in found["summary"]]
    assert [one["exit_code"] for one in found["exit"]] == [0]


def test_two_runs_in_one_process_are_two_runs(tmp_path: Path) -> None:
    run(identity(tmp_path / "a", id="a", config={"loss": "fixed"}), range(1, 3))
    # The second begins while the first was never finished, as after a failure.
    unfinished = WandbTracker(WandbConfig(mode="offline"))
    unfinished.start(identity(tmp_path / "b", id="b", config={"loss": "buggy"}))
    run(identity(tmp_path / "c", id="c", config={"loss": "none"}), range(1, 4))
    found = {name: records(*segments(tmp_path / name)) for name in "abc"}
    assert [found[name]["run"][0]["run_id"] for name in "abc"] == ["a", "b", "c"]
    assert [found[name]["run"][0]["config"]["update"]["loss"] for name in "abc"] == ["fixed", "buggy", "none"]
    assert [len(found[name].get("history", [])) for name in "abc"] == [2, 0, 3]


def test_a_resumed_run_keeps_its_id_and_logs_no_step_twice(tmp_path: Path) -> None:
    run(identity(tmp_path / "a"), range(1, 6), state="interrupted")
    path = tmp_path / "a" / "metrics.jsonl"
    resumed = identity(tmp_path / "a", resumed=True, last_logged_step=5, config={"threads": 4})
    run(resumed, range(3, 9))
    first, second = map(records, segments(tmp_path / "a"))
    assert first["run"][0]["run_id"] == second["run"][0]["run_id"] == "fixed-1a2b3c4d"
    assert second["run"][0]["resume"] is True
    assert [step for found in (first, second) for step, _, _ in history(found)] == list(range(1, 9))
    assert [line["global_step"] for line in read_metrics(path)] == list(range(1, 9))
    assert [one["exit_code"] for one in first["exit"]] == [1]
    assert "preempting" in first
    assert "preempting" not in second


def test_the_tracker_itself_starts_after_the_last_logged_step(tmp_path: Path) -> None:
    tracker = WandbTracker(WandbConfig(mode="offline"))
    tracker.start(identity(tmp_path / "a", last_logged_step=5))
    for step in (4, 5, 6, 6, 7):
        tracker.log(step, {"train/x": step / 7})
    tracker.finish("finished", {})
    [segment] = segments(tmp_path / "a")
    assert [step for step, _, _ in history(records(segment))] == [6, 7]


def test_project_and_entity_fall_back_to_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    run(identity(tmp_path / "a"), range(1, 2))
    run(identity(tmp_path / "b", id="b", project="ours", entity="me"), range(1, 2))
    found = [records(*segments(tmp_path / name))["run"][0] for name in "ab"]
    assert [(about["project"], about["entity"]) for about in found] == [("theirs", "team"), ("ours", "me")]


def test_no_child_is_handed_the_clients_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Left behind by a launching process that is long gone.
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-nowhere")
    tracker = WandbTracker(WandbConfig(mode="offline"))
    tracker.start(identity(tmp_path / "a"))
    assert "WANDB_SERVICE" not in os.environ
    tracker.finish("finished", {})
    assert "WANDB_SERVICE" not in os.environ


@pytest.mark.parametrize(
    ("configured", "environment", "key", "expected"),
    [
        ("auto", None, False, "offline"),
        ("auto", None, True, "online"),
        ("auto", "offline", True, "offline"),
        ("auto", "dryrun", True, "offline"),
        ("auto", "online", True, "online"),
        ("auto", "disabled", True, "disabled"),
        ("offline", "online", True, "offline"),
        ("online", "offline", True, "online"),
        ("disabled", "online", True, "disabled"),
        ("online", None, False, "no API key"),
        ("auto", "online", False, "no API key"),
        ("auto", "sideways", True, "WANDB_MODE"),
    ],
)
def test_the_mode(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch,
    configured: str, environment: str | None, key: bool, expected: str,
) -> None:  # fmt: skip
    monkeypatch.delenv("WANDB_API_KEY")
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    tracker = WandbTracker(WandbConfig(mode=configured))
    if expected in ("online", "offline"):
        link = tracker.start(identity(tmp_path / "a"))
        tracker.finish("finished", {})
        assert tracker.facts["mode"] == expected
        assert str(link).startswith(server.url) is (expected == "online")
        assert len(server.all()) == (expected == "online")
    elif expected == "disabled":
        assert tracker.start(identity(tmp_path / "a")) is None
        tracker.log(1, {"x": 1.0})
        tracker.finish("finished", {})
        assert server.requests == []
    else:
        with pytest.raises(ConfigError, match=expected):
            tracker.start(identity(tmp_path / "a"))


def test_a_key_in_the_netrc_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from launcher.trackers.wandb.mode import possible_mode

    host = "https://api.wandb.ai"
    assert possible_mode("auto", host) == "offline"
    (tmp_path / "home" / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (tmp_path / "home" / ".netrc").chmod(0o600)
    assert possible_mode("auto", host) == "online"
    assert possible_mode("auto", "https://wandb.example.org") == "offline"


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("key", "complaint"),
    [(KEY, "connection refused"), ("short", "WANDB_API_KEY invalid"), (None, "no API key")],
)
def test_without_a_server_or_a_key_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str], key: str | None, complaint: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed_port()}")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    begun = time.monotonic()
    trackers = run(identity(tmp_path / "a"), range(1, 6), mode="online", init_seconds=1.0)
    assert time.monotonic() - begun < 60
    [warning] = warnings_in(caplog)
    assert complaint in warning
    assert "Training goes on" in warning
    assert "\n" not in warning
    assert trackers.dropped == {"wandb": 5}
    assert len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 5
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")
    run(identity(tmp_path / "b", id="b"), range(1, 3))
    assert len(warnings_in(caplog)) == 1
    assert len(records(*segments(tmp_path / "b"))["history"]) == 2


def test_a_client_that_hangs_is_killed_and_the_next_run_has_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FINISH_SECONDS", dict.fromkeys(module.FINISH_SECONDS, 0.5))
    metrics = MetricsFile(tmp_path / "a" / "metrics.jsonl")
    trackers = Trackers(metrics, [WandbTracker(WandbConfig(mode="offline"))])
    trackers.start(identity(tmp_path / "a"))
    while not trackers.links:
        time.sleep(0.01)
    service, own = service_pid(), os.getpriority(os.PRIO_PROCESS, 0)
    # It yields to training, and training does not.
    assert os.getpriority(os.PRIO_PROCESS, service) > own
    os.kill(service, signal.SIGSTOP)
    trackers.log({"global_step": 1, "train/x": 1.0})
    begun = time.monotonic()
    trackers.finish("finished")
    assert time.monotonic() - begun < 6
    try:
        assert len(warnings_in(caplog)) == 1
        with pytest.raises(ProcessLookupError):
            os.kill(service, 0)
    finally:
        # Not left behind stopped for ever, should this test fail.
        with contextlib.suppress(ProcessLookupError):
            os.kill(service, signal.SIGKILL)
    run(identity(tmp_path / "b", id="b"), range(1, 3))
    assert len(warnings_in(caplog)) == 1
    assert len(records(*segments(tmp_path / "b"))["history"]) == 2


def service_pid() -> int:
    from wandb.sdk import wandb_setup

    connection = wandb_setup.singleton()._connection
    assert connection is not None
    assert connection._proc is not None
    return connection._proc._process.pid


def test_wandb_is_imported_when_a_run_starts_and_not_before() -> None:
    code = (
        "import sys\n"
        "from launcher.config import TrackerConfig, WandbConfig\n"
        "from launcher.trackers.trackers import trackers_of\n"
        "trackers_of(TrackerConfig(wandb=WandbConfig()))\n"
        "print(sorted({'wandb', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_names_that_the_client_refuses_are_made_legal_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="launcher.trackers")
    long = "curriculum-" * 10
    run(identity(tmp_path / "a", id="trunk/15:1", tags=(long, "short", "", long)), range(1, 3))
    [message] = [record.getMessage() for record in caplog.records if "every name" in record.getMessage()]
    assert message.count(long) == 1
    assert "'trunk/15:1' is 'trunk-15-1-" in message
    [about] = records(*segments(tmp_path / "a"))["run"]
    assert about["tags"] == [shortened(long, LONGEST_TAG), "short"]
    assert about["run_id"] == legal_id("trunk/15:1")


short_text = st.text(max_size=200)
# Long ones differ where they are cut off.
tag_text = st.builds(str.__add__, st.sampled_from(["", "x" * 60, "x" * 70]), short_text)


@given(tags=st.lists(tag_text.filter(bool), unique=True))
def test_tags_are_legal_stable_and_still_different(tags: list[str]) -> None:
    import wandb

    legal = [shortened(tag, LONGEST_TAG) for tag in tags]
    wandb.Settings(run_tags=tuple(legal))
    assert legal == [shortened(tag, LONGEST_TAG) for tag in tags]
    assert len(set(legal)) == len(tags)
    assert all(made == tag for made, tag in zip(legal, tags, strict=True) if len(tag) <= LONGEST_TAG)


@given(first=short_text, second=short_text)
def test_ids_are_legal_stable_and_still_different(first: str, second: str) -> None:
    import wandb

    ids = [legal_id(first), legal_id(second)]
    for made in ids:
        wandb.Settings(run_id=made)
        assert 0 < len(made) <= LONGEST_NAME
        assert legal_id(made) == made
    assert (ids[0] == ids[1]) == (first == second)


@given(text=st.from_regex(r"[A-Za-z0-9._+-]{1,128}", fullmatch=True))
def test_a_legal_id_is_left_as_it_is(text: str) -> None:
    assert legal_id(text) == text


def test_a_full_disk_is_noticed_offline_though_the_client_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.sdk import wandb_setup

    monkeypatch.setattr(log_file, "_FLUSH_SECONDS", 0.2)
    metrics = MetricsFile(identity(tmp_path).directory / "metrics.jsonl")
    trackers = Trackers(metrics, [WandbTracker(WandbConfig(mode="offline"))])
    trackers.start(identity(tmp_path))
    while not trackers.links:
        time.sleep(0.01)
    connection: Any = wandb_setup.singleton()._connection
    # No file of the client's service may become larger than that: to it, the disk is full.
    resource.prlimit(connection._proc._process.pid, resource.RLIMIT_FSIZE, (40_000, 40_000))
    for step in range(1, 1001):
        trackers.log({"global_step": step, "train/x": step / 7})
    trackers.finish("finished")
    [warning] = warnings_in(caplog)
    assert "wandb failed (finish): OSError: the client's file is cut off" in warning
    assert trackers.dropped == {"wandb": 1000}


def test_a_cut_off_file_is_told_from_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "_FLUSH_SECONDS", 0.0)
    run(identity(tmp_path / "a"), range(1, 401))
    [segment] = segments(tmp_path / "a")
    [file] = segment.glob("*.wandb")
    data, cut = file.read_bytes(), tmp_path / "cut.wandb"
    assert len(data) > 2 * 32_768
    log_file.require_whole(file)
    ends = [*range(200), *range(65_400, 65_700), *range(len(data) - 300, len(data))]
    for end in ends:
        cut.write_bytes(data[:end])
        with pytest.raises(OSError, match="is cut off"):
            log_file.require_whole(cut)
