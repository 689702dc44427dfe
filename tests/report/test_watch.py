"""``launcher report --watch``: the page follows real siblings, and comes to rest with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from launcher.lineage import state_now
from tests import tiny_faults
from tests.report.browser import DRAWN, browser, opened
from tests.tiny_process import Started, Tiny


def wait_until(what: Callable[[], bool], *alive: Started) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        assert all(one.process.is_alive() for one in alive)
        time.sleep(0.05)


def test_the_page_follows_its_runs_and_keeps_what_was_set(tiny: Tiny, tmp_path: Path) -> None:
    go = tmp_path / "go"
    pool = ("hydra/launcher=pool", "hydra.launcher.slots=2")
    typed = ("-m", *pool, "branch.from_step=20", "branch.steps=20", "loss=plain,heavy")
    siblings = tiny.start(*typed, prepare=[partial(tiny_faults.wait_at, 35, go)])
    wait_until(
        lambda: (
            sum(state_now(run) == "running" for run in tiny.runs()) == 2
            and all(
                run.directory.metrics.is_file() and run.directory.metrics.read_text().count("\n") >= 14
                for run in tiny.runs()
            )
        ),
        siblings,
    )
    watching = tiny.start(
        "report", "--watch", "--every", "1", f"--outputs={tiny.outputs}", module="launcher.cli"
    )
    place = next(run for run in tiny.runs() if run.record.parent).directory.path.parent / "report.html"
    wait_until(place.is_file, watching, siblings)
    with browser() as started, opened(started, place.as_uri(), offline=True) as one:
        one.page.wait_for_selector(DRAWN)
        assert "runs are under way" in one.page.inner_text("header")
        assert "There is no answer yet" in one.page.inner_text(".answer")
        assert not one.page.is_visible("#streams")  # There is one stream only.
        one.page.select_option("#metric", "train/error")
        one.page.click("#legend button[data-arm='heavy-loss']")
        assert [len(trace["x"]) for trace in one.traces() if trace["meta"] == "arm"] == [15]
        loaded = len(one.asked)
        go.touch()
        one.wait("!document.querySelector('header').innerText.includes('under way')")
        one.page.wait_for_selector(DRAWN)
        assert len(one.asked) > loaded
        arms = [trace for trace in one.traces() if trace["meta"] == "arm"]
        assert [(trace["name"], len(trace["x"])) for trace in arms] == [("control", 21)]
        assert one.measured("document.getElementById('metric').value") == "train/error"
        assert one.said == []
        assert set(one.asked) == {place.as_uri()}
    ended = watching.end()
    assert (ended.status, siblings.end().status) == (0, 0)
    assert "Traceback" not in ended.err
    assert "control exact" in ended.out
    assert list(place.parent.glob(".*report*")) == []
