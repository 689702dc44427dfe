"""A W&B report of a group, made with W&B's own package; without a server, its definition in a file."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import ConfigError, LauncherError
from launcher.files import write_text
from launcher.trackers.wandb.mode import asked_mode, has_key
from launcher.trackers.wandb.names import DEFAULT_PROJECT
from launcher.trackers.wandb.tracker import clients_environment

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report

LONGEST_TITLE = 128
PANEL_WIDTH, PANEL_HEIGHT, PANELS_A_ROW = 8, 6, 3
"""In units of W&B's grid, which is 24 wide."""


@dataclass(frozen=True)
class GroupReport:
    """What is said about a group, in W&B's report."""

    group: str
    """As W&B has it."""
    question: str
    """The title."""
    sentence: str
    """The verdict, below the title."""
    point: str
    """The branch point, in a paragraph."""
    factors: str
    """What differs between the arms: a table in Markdown."""
    metrics: Sequence[str]
    """One panel each, over ``global_step``."""
    project: str = DEFAULT_PROJECT
    entity: str | None = None
    """None: the account of the API key."""


def publish(told: GroupReport) -> str:
    """Make the report at W&B; returns its page.

    Raises:
        ConfigError: the package is not installed, or there is no API key.
        LauncherError: W&B refused.
    """
    reports = _package()
    with clients_environment():
        import wandb

        wandb.setup(settings=wandb.Settings(silent=True))
        try:
            api = wandb.Api()
            report = _report(reports, told, told.entity or str(api.default_entity))
            report.save()
        except Exception as error:
            raise LauncherError(
                "W&B did not take the report.",
                where=f"{told.entity or 'the default account'}/{told.project}",
                found=" ".join(str(error).split()),
                do="launcher report GROUP writes the whole answer into one HTML file, without W&B",
            ) from error
        return str(report.url)


def write(told: GroupReport, path: Path) -> None:
    """Write what :func:`publish` would send.

    Raises:
        ConfigError: the package is not installed.
    """
    model = _report(_package(), told, told.entity or "")._to_model()
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    about = {"displayName": told.question, "description": told.sentence, "projectName": told.project}
    write_text(path, json.dumps({**about, "entityName": told.entity, "spec": spec}, indent=2) + "\n")


def online() -> bool:
    """Whether there is an API key for the server that is set."""
    import wandb

    return asked_mode("auto") != "offline" and has_key(wandb.Settings().base_url)


def _package() -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError as error:
        raise ConfigError(
            "A W&B report is made with the package wandb-workspaces, which is not installed.",
            found=str(error),
            do="pip install 'checkpoint-launcher[wandb-reports]'",
        ) from error
    return reports


def _report(reports: Any, told: GroupReport, entity: str) -> Report:
    from wandb_workspaces import expr

    # A run set without a project is the report's own.
    runs = reports.Runset(name=told.group, filters=expr.And(expr.Metric("Group") == told.group))
    panels = [
        reports.LinePlot(title=name, x="global_step", y=[name], layout=_layout(reports, number))
        for number, name in enumerate(told.metrics)
    ]
    blocks = [
        reports.P(told.point),
        reports.PanelGrid(runsets=[runs], panels=panels),
        reports.H2("What differs"),
        reports.MarkdownBlock(told.factors),
    ]
    report: Report = reports.Report(
        project=told.project,
        entity=entity,
        title=textwrap.shorten(told.question, LONGEST_TITLE, placeholder=" …"),
        description=told.sentence,
        blocks=blocks,
        width="fluid",
    )
    return report


def _layout(reports: Any, number: int) -> Any:
    row, column = divmod(number, PANELS_A_ROW)
    return reports.Layout(x=column * PANEL_WIDTH, y=row * PANEL_HEIGHT, w=PANEL_WIDTH, h=PANEL_HEIGHT)
