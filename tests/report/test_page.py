"""The page as text: hostile names, what a browser may do with it, how long curves are put together."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from launcher.findings import Finding
from launcher.lineage import find_run
from launcher.report.compare.comparison import Asked
from launcher.report.curves import Bucket, Scale, band, read_curves
from launcher.report.group import MOST_DRAWN, draw, read_group
from launcher.report.html.contents import Contents, contents
from launcher.report.html.page import page
from tests.compared_runs import GROUP, changed, sibling, trunk
from tests.report.browser import DRAWN, browser, opened
from tests.test_looking import looked
from tests.tiny_process import Tiny, in_a_new_interpreter

ERROR = "val/error"
HOSTILE = (
    "</script><script>window.broken=1</script><img src=x onerror='window.broken=1'>%{y}&amp;<a href='//x'>"
)


def put_together(outputs: Path, **asked: Any) -> Contents:
    group = read_group(outputs, GROUP, Asked(**asked))
    return contents(group, draw(group), live=False, every=0)


def small(outputs: Path, **more: Any) -> None:
    trunk(outputs, ERROR, lambda step: 1 / step)
    for name, offset in (("control", 0.0), ("treated", -0.01)):
        for stream in range(2):
            curve = {
                ERROR: lambda stream, step, k=offset: (
                    1 / (20 + step) + k * (1 + 0.1 * stream) + 0.001 * stream
                )
            }
            sibling(outputs, name, stream, curve, **more)


def test_what_a_record_says_is_text_and_nothing_else(tmp_path: Path) -> None:
    """Names, notes, settings, findings and errors come from files that anybody may have written."""
    small(tmp_path)
    treated = find_run(tmp_path, "treated-id").record
    finding = Finding("warning", HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    changed(
        tmp_path, treated, job_type=HOSTILE, notes=HOSTILE, overrides=[HOSTILE], error=HOSTILE,
        differences={f"loss.{HOSTILE}": ["plain", HOSTILE]}, environment={HOSTILE: HOSTILE},
        findings=[finding.to_json()], metrics={**treated.metrics, f"val/{HOSTILE}": 1.0},
    )  # fmt: skip
    text = page(put_together(tmp_path))
    assert text.count("<script") == 3 + text.count(
        "<script>window.broken"
    )  # In the library's own strings: none.
    assert "<img" not in text
    file = tmp_path / "page.html"
    file.write_text(text)
    with browser() as started, opened(started, file.as_uri(), offline=True) as one:
        one.page.wait_for_selector(DRAWN)
        assert one.measured("window.broken") is None
        assert one.page.is_visible("#view")
        assert HOSTILE in one.page.inner_text("#legend")
        assert HOSTILE in one.page.inner_text("#factors")
        names = [trace["name"] for trace in one.traces()]
        assert HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in names
        assert one.measured("document.querySelectorAll('#figure a, #figure img').length") == 0
        assert (one.said, one.asked) == ([], [file.as_uri()])


def test_a_table_of_many_factors_presses_no_name_to_single_letters(tmp_path: Path) -> None:
    small(tmp_path)
    keys = [f"curriculum.a_rather_long_key_{number}" for number in range(8)]
    changed(tmp_path, find_run(tmp_path, "treated-id").record, differences={key: [1, 2] for key in keys})
    file = tmp_path / "page.html"
    file.write_text(page(put_together(tmp_path)))
    with browser() as started, opened(started, file.as_uri()) as one:
        names = "[...document.querySelectorAll('#factors tbody th')]"
        heights = f"{names}.map((one) => one.getBoundingClientRect().height)"
        one.page.wait_for_selector(DRAWN)
        assert max(one.measured(heights)) < 60  # Two lines.
        assert one.measured("document.documentElement.scrollWidth") == 1200


def test_the_page_runs_what_it_was_written_with_and_asks_nobody(tmp_path: Path) -> None:
    small(tmp_path)
    text = page(put_together(tmp_path))
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    policy = policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    assert [f"'sha256-{one}'" for one in digests] == re.findall(r"'sha256-[^']*'", policy)
    head = text.partition("<style>")[0] + text.partition("</style>")[2].partition("<script")[0]
    assert re.findall(r"(?:src|href)=\"(?!data:,)[^\"]*", head) == []
    # A planted script does not run, and of what a planted link asks for nothing arrives.
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        planted = f"<script>window.broken=1</script><img src='{place}'><link rel=stylesheet href='{place}'>"
        file = tmp_path / "page.html"
        file.write_text(text.replace("<header>", f"<header>{planted}"))
        with browser() as started, opened(started, file.as_uri()) as one:
            one.page.wait_for_selector(DRAWN)
            assert one.measured("window.broken") is None
            assert one.measured(f"fetch('{place}').then(() => 'sent', () => 'refused')") == "refused"
            assert any("Content Security Policy" in said for said in one.said)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_spike_stays_visible_however_long_the_curve_is(tmp_path: Path) -> None:
    """One value in twenty thousand is out of line, and it is on the page."""
    trunk(tmp_path, ERROR, lambda step: 1.0)
    for name in ("control", "treated"):
        spike = 17_001 if name == "treated" else 0
        curve = {ERROR: lambda stream, step, spike=spike: 9.0 if step == spike else 0.5}
        sibling(tmp_path, name, 0, curve, end=20_020)
    found = put_together(tmp_path)
    [control, treated] = found.data["curves"][ERROR]
    [steps, *_] = found.data["steps"]
    assert len(steps) <= 400
    assert max(treated["high"]) == 9.0
    assert control == {"x": treated["x"], "y": [0.5] * len(steps)} == {"x": 0, "y": [0.5] * len(steps)}
    assert any("Long curves are put together" in note and "up to 50 steps" in note for note in found.notes)
    assert steps[-1] == 20_020


@given(
    span=st.integers(1, 3000), origin=st.integers(0, 5000), curves=st.integers(1, 2000),
    at=st.lists(st.integers(-5000, 3000), unique=True, min_size=2, max_size=60),
)  # fmt: skip
def test_buckets_keep_order_and_never_mix_what_lies_on_both_sides_of_the_branch_point(
    span: int, origin: int, curves: int, at: list[int]
) -> None:
    scale = Scale.of(origin, span, curves)
    numbers = [scale.bucket(since) for since in sorted(at)]
    assert numbers == sorted(numbers)
    assert all((scale.bucket(since) > 0) == (since > 0) for since in at)
    assert all(scale.bucket(since) <= max(1, math.ceil(span / scale.width)) for since in at if since <= span)


def test_a_band_is_what_its_streams_logged() -> None:
    one, two = ({number: Bucket(number) for number in numbers} for numbers in ((1, 2), (1, 2, 3)))
    for stream, curve in enumerate((one, two)):
        for number, bucket in curve.items():
            bucket.add(number, 10.0 * number + stream)
    found = band({0: one, 1: two})
    assert found is not None
    assert (found.steps, found.mean) == ([1, 2, 3], [10.5, 20.5, 31.0])
    assert (found.low, found.high, found.count) == ([10.0, 20.0, 31.0], [11.0, 21.0, 31.0], [2, 2, 1])
    assert found.streams == {0: [10.0, 20.0, None], 1: [11.0, 21.0, 31.0]}


def test_numbers_that_are_none_and_a_torn_line_are_left_out_and_told(tmp_path: Path) -> None:
    small(tmp_path)
    run = find_run(tmp_path, "treated-id")
    with run.directory.metrics.open("a") as file:
        file.write(
            '{"global_step": 41, "branch_step": 21, "val/error": null, "nonfinite/val/error": "NaN"}\n'
        )
        file.write('{"global_step": 42, "branch_step": 22, "val/err')
    assert read_curves(run, Scale.of(20, 20, 1)).curves[ERROR].keys() == set(range(1, 21))
    assert (
        "treated-id: 1 logged values are no finite numbers and are left out." in put_together(tmp_path).notes
    )


def test_where_the_trunk_is_the_baseline_it_is_counted_as_the_trunk_counts(tmp_path: Path) -> None:
    trunk(tmp_path, ERROR, float)
    sibling(tmp_path, "treated", 0, {ERROR: lambda stream, step: 20.0 - step})
    found = put_together(tmp_path)
    assert [(arm["name"], arm["baseline"]) for arm in found.data["arms"]] == [
        ("trunk", True),
        ("treated", False),
    ]
    [baseline, treated] = found.data["curves"][ERROR]
    assert baseline == {"x": treated["x"], "y": [float(step) for step in range(21, 41)]}
    assert found.data["steps"][baseline["x"]] == list(range(21, 41))
    assert found.data["trunkCurves"][ERROR]["y"] == [float(step) for step in range(1, 41)]


def test_damaged_metrics_are_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    small(tmp_path)
    run = find_run(tmp_path, "treated-id")
    run.directory.metrics.write_text("damaged\n" + run.directory.metrics.read_text())
    found = put_together(tmp_path)
    assert any("treated-id: Line 1 of the metrics file is damaged" in note for note in found.notes)
    assert len(found.data["curves"][ERROR]) == 2


def test_a_large_group_stays_a_small_file(tmp_path: Path) -> None:
    """Curves of those that are furthest off; every run in the tree, every arm in the table."""
    trunk(tmp_path, ERROR, lambda step: 1.0)
    metrics = ("val/error", "val/loss", "train/loss", "train/error")
    for number in range(150):
        name = f"arm-{number:03}" if number else "control"
        curve = {one: lambda stream, step, k=number: 0.5 + k * math.sin(step) / 1e4 for one in metrics}
        sibling(tmp_path, name, 0, curve)
    found = put_together(tmp_path)
    assert len(found.data["arms"]) == MOST_DRAWN
    assert found.data["arms"][0]["baseline"]
    assert f"Curves are drawn of {MOST_DRAWN} of 150 arms" in found.notes[0]
    looks = [(one["colour"], one["dash"]) for one in found.data["arms"][:36]]
    assert len(set(looks)) == 36
    text = page(found)
    assert len(text.encode()) < 6_000_000
    assert all(f"arm-{number:03}-id" in text for number in range(1, 150))


def test_a_group_whose_trunk_is_gone_or_whose_runs_have_not_begun(tmp_path: Path) -> None:
    """Early looks are looks too."""
    sibling(tmp_path, "control", 0, {}, state="queued", metrics={})
    found = put_together(tmp_path)
    assert (found.drawn, found.answer.tone) == (False, "open")
    assert "Nothing has been logged yet." in page(found)
    sibling(tmp_path, "treated", 0, {ERROR: lambda stream, step: 1.0})
    assert "The trunk trunk is not there, so its curve is not drawn." in put_together(tmp_path).notes


class TestCommand:
    def test_writes_the_page_and_the_figures(self, empty: Tiny) -> None:
        small(empty.outputs)
        told = looked(empty, "report", "--png", "--width-cm", "12")
        group = empty.outputs / GROUP
        assert told["page"] == str(group / "report.html")
        assert told["bytes"] == (group / "report.html").stat().st_size < 6_000_000
        assert told["proof"] == "exact"
        [figure] = [Path(path) for path in told["figures"]]
        assert figure == group / "figures" / "val-error.png"
        with Image.open(figure) as image:
            assert abs(image.width - 12 / 2.54 * 300) <= 1
            assert round(image.info["dpi"][0]) == 300
            shades = image.convert("RGB").getcolors(1 << 20)
        assert shades is not None
        assert {(0, 0, 0), (0, 114, 178)} <= {shade for _, shade in shades}  # Baseline and first arm.

    def test_a_long_name_is_whole_in_the_legend(self, empty: Tiny) -> None:
        small(empty.outputs)
        sibling(empty.outputs, "delayed-curriculum-and-" + "x" * 20, 0, {ERROR: lambda stream, step: 1.0})
        [figure] = looked(empty, "report", "--png")["figures"]
        with Image.open(figure) as image:
            edge = image.convert("L").crop((image.width - 4, 0, image.width, image.height // 3))
            assert edge.getextrema() == (255, 255)

    def test_where_it_is_told_to(self, empty: Tiny, tmp_path: Path) -> None:
        small(empty.outputs)
        ended = empty.launcher("report", GROUP, "--to", str(tmp_path / "there" / "x.html"))
        assert ended.status == 0
        assert (tmp_path / "there" / "x.html").is_file()
        assert not (empty.outputs / GROUP / "report.html").exists()
        assert "better than control" in ended.out or "inside the noise" in ended.out

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (["nobody"], "There is no group 'nobody'"), (["../x"], "There is no group '../x'"),
            (["--metric", "val/nothing"], "No run has the metric"), (["--width-cm", "8.5"], "add --png"),
            (["--png", "--width-cm", "0"], "is not between"),
            (["--expect", "nonsense"], "That is no expectation"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_meant(self, empty: Tiny, arguments: list[str], part: str) -> None:
        small(empty.outputs)
        ended = empty.launcher("report", *arguments)
        assert ended.status == 2
        assert part in ended.said
        assert "Traceback" not in ended.err

    def test_an_expectation_decides_on_the_exit_status(self, empty: Tiny) -> None:
        small(empty.outputs)
        for relation, status in (("better", 0), ("worse", 3)):
            expected = f"treated {relation} control on {ERROR}"
            ended = empty.launcher("report", "--expect", expected)
            assert ended.status == status, ended.said
            assert f"{'DOES NOT HOLD' if status else 'holds'}: {expected}" in ended.out

    def test_without_its_packages_it_says_what_to_install(self, empty: Tiny) -> None:
        small(empty.outputs)
        start = "from launcher.cli import main; sys.exit(main(sys.argv[1:]))"
        for package in ("plotly", "jinja2"):
            code = f"import sys; sys.modules['{package}'] = None; {start}"
            ended = in_a_new_interpreter("-c", code, "report", f"--outputs={empty.outputs}")
            assert ended.status == 2
            assert f"needs the package {package}" in ended.err
            assert "checkpoint-launcher[report]" in ended.err

    def test_json_has_no_number_that_json_lacks(self, empty: Tiny) -> None:
        small(empty.outputs)
        run = find_run(empty.outputs, "treated-id").record
        changed(empty.outputs, run, metrics={ERROR: math.nan}, differences={"x": [math.nan, math.inf]})
        text = (Path(looked(empty, "report")["page"])).read_text()
        [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
        json.loads(data, parse_constant=pytest.fail)
