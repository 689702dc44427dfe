"""A group as W&B's own report: at W&B, or, without an API key, its definition in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.errors import ConfigError
from launcher.files import disk_error
from launcher.report import facts
from launcher.report.answer import answer
from launcher.report.compare.comparison import HIDDEN
from launcher.report.group import Group
from launcher.trackers.wandb import group_report
from launcher.trackers.wandb.group_report import GroupReport
from launcher.trackers.wandb.names import DEFAULT_PROJECT, LONGEST_NAME, shortened

DEFINITION = "wandb-report.json"


@dataclass(frozen=True)
class Published:
    """Where the report is."""

    url: str | None
    """None: it was not published."""
    definition: str | None
    """The file that has it instead."""

    def to_json(self) -> dict[str, Any]:
        """The facts as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        if self.url is not None:
            return self.url
        return f"{self.definition}\nNot published, for want of an API key: `wandb login`, then this again."


def publish(group: Group, place: Path) -> Published:
    """Make the report; ``place`` is the file for its definition where there is no API key.

    Raises:
        ConfigError: a package is missing, or no run of the group was tracked by W&B.
        LauncherError: W&B refused, or the file cannot be written.
    """
    told = group_told(group)
    if group_report.online():
        return Published(group_report.publish(told), None)
    try:
        group_report.write(told, place)
    except OSError as error:
        raise disk_error(error, place) from error
    return Published(None, str(place))


def group_told(group: Group) -> GroupReport:
    """What is said about the group.

    Raises:
        ConfigError: no run of the group was tracked by W&B.
    """
    tracked = [
        run.record.trackers["wandb_settings"] for run in group.runs if "wandb_settings" in run.record.trackers
    ]
    if not tracked:
        raise ConfigError(
            "No run of the group was tracked by W&B, so a report there would be empty.",
            where=str(group.outputs / group.name),
            do="launch with tracker=wandb, or write the page: launcher report GROUP",
        )
    found, point = answer(group), group.point
    told = "The runs have no common branch point."
    if point is not None:
        told = f"All runs branch from {point.name} at step {point.step} (content digest {point.sha256})."
    return GroupReport(
        group=shortened(group.name, LONGEST_NAME),
        question=found.question,
        sentence=found.sentence,
        point=told,
        factors=_markdown(facts.factors(group.comparison, group.runs)),
        metrics=[name for name in group.metrics if name not in HIDDEN],
        project=tracked[0].get("project") or DEFAULT_PROJECT,
        entity=tracked[0].get("entity"),
    )


def _markdown(factors: facts.Factors) -> str:
    if not factors.rows:
        return "Nothing differs."
    rows = [["arm", *factors.keys], ["---"] * (len(factors.keys) + 1)]
    rows += [[name, *values] for name, values, _ in factors.rows]
    return "\n".join(_row(cells) for cells in rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
