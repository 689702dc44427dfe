"""The W&B report of a group: what W&B is given, and what is written without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LauncherError
from launcher.trackers.wandb.group_report import GroupReport, online, publish, write
from tests.wandb_server.runs import StoredRun
from tests.wandb_server.server import WandbServer

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

METRICS = ["train/token_accuracy", "train/spectrum_loss", "train/total_loss", "val/token_accuracy"]
TOLD = GroupReport(
    group="checkpoint-15k-experiments",
    question="Does loss move val/token_accuracy from step 15 000?",
    sentence="fixed is better than control.",
    point="All runs branch from trunk-1 at step 15000 (sha256 0f0f).",
    factors="| arm | loss |\n| --- | --- |\n| control | buggy |\n| fixed | fixed |",
    metrics=METRICS,
)


def check(spec: dict[str, Any]) -> None:
    """What the issue of a report is: a run set of the group, panels, the table, the branch point."""
    paragraphs = [block["children"][0]["text"] for block in spec["blocks"] if block["type"] == "paragraph"]
    assert TOLD.point in paragraphs
    [table] = [block["content"] for block in spec["blocks"] if block["type"] == "markdown-block"]
    assert table == TOLD.factors
    [grid] = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    [runs] = grid["runSets"]
    [rule] = runs["filters"]["filters"]
    assert (rule["key"], rule["op"]) == ({"section": "run", "name": "group"}, "=")
    assert rule["value"] == TOLD.group
    panels = [panel["config"] for section in grid["panelBankSectionConfig"]["panels"] for panel in [section]]
    assert [(one["xAxis"], one["metrics"]) for one in panels] == [("global_step", [name]) for name in METRICS]


@pytest.fixture
def project(server: WandbServer) -> WandbServer:
    """A server that has the project, with one run in it."""
    server.runs.stored[("stand-in", TOLD.project, "a")] = StoredRun("a", TOLD.project, "stand-in")
    return server


def test_online(project: WandbServer) -> None:
    assert online()
    url = publish(TOLD)
    [view] = project.views.stored
    assert url.startswith(f"{project.url}/stand-in/checkpoint-branching/reports/")
    assert (view.entity, view.project) == ("stand-in", "checkpoint-branching")
    assert (view.title, view.description) == (TOLD.question, TOLD.sentence)
    check(view.spec)


def test_without_a_key(nobody_logged_in: None, tmp_path: Path) -> None:
    assert not online()
    write(TOLD, tmp_path / "report.json")
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["displayName"], told["projectName"]) == (TOLD.question, TOLD.project)
    check(told["spec"])


def test_a_server_that_refuses(project: WandbServer) -> None:
    project.misbehave("status", status=403, on="upsertView")
    with pytest.raises(LauncherError, match="did not take the report"):
        publish(TOLD)
