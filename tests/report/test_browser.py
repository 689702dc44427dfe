"""The page of a real fan-out in a real browser: drawn, without errors, readable, and asking nobody."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import partial

import pytest
from playwright.sync_api import Browser, Page

from launcher.trackers.metrics_file import read_metrics
from tests.conftest import TrunkOf
from tests.report.browser import DRAWN, Looked, browser, opened
from tests.tiny_process import Tiny

WIDTHS = (400, 1600)


@pytest.fixture(scope="module")
def reported(trunks: TrunkOf, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A control and another loss, each in two streams, and their page."""
    tiny = Tiny(tmp_path_factory.mktemp("reported") / "outputs")
    shutil.copytree(trunks().outputs, tiny.outputs)
    typed = ("branch.from_step=20", "branch.steps=20", "loss=plain,heavy", "fanout.repeats=2")
    ended = tiny.launch("-m", *typed)
    assert ended.status == 0, ended.err
    written = tiny.launcher("report")
    assert written.status == 0, written.err
    return tiny


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with browser() as one:
        yield one


def page_of(tiny: Tiny) -> str:
    [path] = tiny.outputs.glob("*/report.html")
    return path.as_uri()


@pytest.fixture
def looked(reported: Tiny, started: Browser) -> Iterator[Looked]:
    with opened(started, page_of(reported), offline=True) as one:
        one.page.wait_for_selector(DRAWN)
        yield one
        assert one.said == []
        assert one.asked == [page_of(reported)]


def test_the_curves_are_those_that_were_logged(looked: Looked, reported: Tiny) -> None:
    assert looked.page.locator("#figure .scatterlayer .trace path.js-line").count() >= 3
    arms = {trace["name"]: trace for trace in looked.traces() if trace["meta"] in ("arm", "trunk")}
    assert arms.keys() == {"control", "heavy-loss", reported.trunk.id}
    logged = {line["global_step"]: line for line in read_metrics(reported.trunk.directory.metrics)}
    trunk = arms[reported.trunk.id]
    assert trunk["x"] == [10, 20, 30, 40]
    assert trunk["y"] == pytest.approx([logged[step]["val/error"] for step in trunk["x"]], rel=1e-4)
    runs = [run for run in reported.runs() if run.record.job_type.startswith("heavy-loss")]
    curves = [{line["global_step"]: line for line in read_metrics(run.directory.metrics)} for run in runs]
    heavy = arms["heavy-loss"]
    # The branch begins where it leaves its trunk.
    assert (heavy["x"], heavy["y"][0]) == ([20, 30, 40], trunk["y"][1])
    means = [sum(curve[step]["val/error"] for curve in curves) / 2 for step in (30, 40)]
    assert heavy["y"][1:] == pytest.approx(means, rel=1e-4)


def test_arms_differ_in_colour_and_in_dash(looked: Looked) -> None:
    lines = [trace for trace in looked.traces() if trace["meta"] == "arm"]
    assert len({(line["color"], line["dash"]) for line in lines}) == len(lines)
    assert len({line["dash"] for line in lines}) == len(lines)


def test_what_can_be_set_changes_the_figure(looked: Looked) -> None:
    page, figure = looked.page, "document.getElementById('figure')"
    assert page.is_visible("#streams")
    kinds = lambda: [trace["meta"] for trace in looked.traces()]  # noqa: E731
    assert kinds().count("band") == 2
    page.uncheck("#band")
    assert "band" not in kinds()
    page.check("#streams")
    assert kinds().count("stream") == 4
    page.click("#legend button[data-arm='heavy-loss']")
    assert [trace["name"] for trace in looked.traces() if trace["meta"] == "arm"] == ["control"]
    assert page.get_attribute("#legend button[data-arm='heavy-loss']", "aria-pressed") == "false"
    page.click("#legend button[data-arm='heavy-loss']")
    page.check("#log")
    assert looked.measured(f"{figure}.layout.yaxis.type") == "log"
    before = looked.traces()
    page.fill("#smooth", "30")
    assert "steps" in page.inner_text("#smoothed")
    after = looked.traces()
    assert [trace["x"] for trace in after] == [trace["x"] for trace in before]
    assert [trace["y"] for trace in after] != [trace["y"] for trace in before]
    # What hovering tells of a smoothed line is the range of smoothed ones.
    arms = f"{figure}.data.filter((one) => one.meta === 'arm')"
    for values, texts in looked.measured(f"{arms}.map((one) => [one.y, one.customdata])"):
        for value, [text] in list(zip(values, texts, strict=True))[1:]:
            [edges] = re.findall(r"[(]([-.e0-9]+) to ([-.e0-9]+)", text)
            low, high = map(float, edges)
            assert low * (1 - 1e-4) <= value <= high * (1 + 1e-4)
    page.select_option("#metric", "train/error")
    assert len(next(one for one in looked.traces() if one["name"] == "control")["x"]) == 21
    page.select_option("#view", "all")
    assert looked.measured(f"{figure}.layout.xaxis.autorange") is True


def test_zoom_and_hover(looked: Looked) -> None:
    page, figure = looked.page, "document.getElementById('figure')"
    at = partial(place_in_figure, page)
    whole = looked.measured(f"{figure}.layout.xaxis.range")
    page.mouse.move(*at(0.7, 0.5))
    page.wait_for_selector("#figure .hoverlayer text")
    assert "control" in (page.text_content("#figure .hoverlayer") or "")
    page.mouse.down()
    page.mouse.move(*at(0.9, 0.8), steps=4)
    page.mouse.up()
    looked.wait(f"{figure}.layout.xaxis.range[0] > {whole[0]}")
    # What was zoomed to outlives a reload, as a page that follows its runs reloads itself.
    zoomed = looked.measured(f"{figure}.layout.xaxis.range")
    page.reload()
    page.wait_for_selector(DRAWN)
    assert looked.measured(f"{figure}.layout.xaxis.range") == pytest.approx(zoomed)
    del looked.asked[1:]
    page.mouse.dblclick(*at(0.5, 0.5))
    looked.wait(f"Math.abs({figure}.layout.xaxis.range[0] - {whole[0]}) < 1e-6")


def place_in_figure(page: Page, right: float, down: float) -> tuple[float, float]:
    page.locator("#figure").scroll_into_view_if_needed()
    box = page.locator("#figure .nsewdrag").bounding_box()
    assert box is not None
    return box["x"] + box["width"] * right, box["y"] + box["height"] * down


def test_light_and_dark(reported: Tiny, started: Browser) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        with opened(started, page_of(reported), color_scheme=scheme) as one:
            one.page.wait_for_selector(DRAWN)
            seen[scheme] = luminance(one)
            one.page.click("#theme")  # auto → light
            assert luminance(one) == seen["light"] if scheme == "light" else luminance(one) != seen["dark"]
            one.page.click("#theme")  # → dark
            assert luminance(one)[0] < 60 < luminance(one)[1]
    assert seen["light"][0] > 240 > 60 > seen["light"][1]
    assert seen["dark"][0] < 60 < 200 < seen["dark"][1]


def luminance(one: Looked) -> tuple[int, int]:
    """Of the background and of the figure's text."""
    numbers = "(text) => text.match(/\\d+/g).slice(0, 3).reduce((a, b) => Math.min(a, Number(b)), 255)"
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('#figure .ytitle')).fill"
    found: tuple[int, int] = tuple(one.measured(f"[{paper}, {ink}].map({numbers})"))
    return found


SMALLEST = """() => {
  const small = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const one = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(one.tagName)) continue;
    const seen = one.getClientRects().length;
    if (seen && parseFloat(getComputedStyle(one).fontSize) < 12) small.push(walk.currentNode.data);
  }
  return small;
}"""
CUT = """() => [...document.querySelectorAll("td, th, dd, dt, p, code, h1, h2, button, select, label")]
  .filter((one) => one.getClientRects().length)
  .map((one) => [one, one.getBoundingClientRect()])
  .filter(([, box]) => box.right > innerWidth + 1 || box.left < -1)
  .map(([one]) => one.textContent)"""


@pytest.mark.parametrize("width", WIDTHS)
def test_readable_on_a_telephone_and_on_a_wide_screen(reported: Tiny, started: Browser, width: int) -> None:
    with opened(started, page_of(reported), width=width) as one:
        one.page.wait_for_selector(DRAWN)
        assert one.measured("document.documentElement.scrollWidth") == width
        assert one.measured(SMALLEST) == []
        assert one.measured(CUT) == []
        lines = one.measured(
            "[...document.querySelectorAll('header p, .caption')].map((p) => p.getBoundingClientRect().width)"
        )
        assert max(lines) < 900  # A line of more than some 100 letters is hard to read.


def test_a_command_on_the_page_is_the_same_run_again(looked: Looked, reported: Tiny) -> None:
    before = {run.id for run in reported.runs()}
    name = next(one for one in before if one.startswith("heavy-loss-stream-1"))
    command = looked.page.inner_text(f"dl.commands dt:text-is('{name}') + dd")
    program, script, *overrides = shlex.split(command)
    assert (program, script) == ("python", "train.py")
    assert reported.train(*overrides).id == name
    assert {run.id for run in reported.runs()} == before


def test_everything_that_was_promised_stands_there(looked: Looked, reported: Tiny) -> None:
    text = looked.page.inner_text("body")
    told = json.loads(reported.launcher("compare", "--json").out)
    order = [looked.page.inner_text("h1"), "Control exact.", "Runs", "Curves", "Factors", "Comparison",
             "Findings", "Commands", "Versions"]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert told["proof"]["text"] in text
    for run in reported.runs():
        assert run.id in text
        if run.record.parent is not None:
            assert f"python train.py {' '.join(run.record.overrides[:2])}" in text
    assert "loss.weight" in looked.page.inner_text("#factors")
    rows = looked.page.locator("#comparison tbody tr").count()
    assert rows == len(told["rows"])
    assert "torch" in looked.page.inner_text("#versions")
