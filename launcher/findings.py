"""A finding is one result of a check: level, what, found, expected, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from launcher.errors import LauncherError, printable

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One result of a check. An ``error`` stops the launch; the others are shown and recorded."""

    level: Level
    what: str
    """What the finding is about: a dotted config key where one is known, else a short subject."""
    found: str
    expected: str = ""
    do: str = ""
    """The command or override that settles it."""

    def to_json(self) -> dict[str, str]:
        """The finding as a JSON object."""
        return asdict(self)


def finding_of(error: LauncherError) -> Finding:
    """An error as one finding among others."""
    found = ": ".join(text for text in (error.where, error.found) if text)
    return Finding("error", error.what, found, error.expected or "", "; ".join(error.do))


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those findings that stop a launch."""
    return [finding for finding in findings if finding.level == "error"]


_COMMAND = "python train.py "
_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def findings_table(findings: Iterable[Finding], title: str = "") -> RenderableType:
    """All findings at once, in one table, and below it the commands that settle them."""
    listed = list(findings)
    table = Table(title=title or None, title_justify="left", show_lines=True, expand=False)
    for column in ("", "what", "found", "expected", "to do"):
        table.add_column(column, overflow="fold")
    for finding in listed:
        cells = (finding.what, finding.found, finding.expected, without_commands(finding.do))
        table.add_row(f"[{_STYLE[finding.level]}]{finding.level}[/]", *(_literal(text) for text in cells))
    return Group(table, *commands_of(listed))


def without_commands(text: str) -> str:
    """What stands in a narrow place: a command that is folded there could not be copied."""
    before, found, _ = text.partition(_COMMAND)
    return f"{before}see below" if found else text


def commands_of(findings: Iterable[Finding]) -> list[Text]:
    """What to do, whole, of the findings that are settled by commands: each command on a line of its own."""
    told = {f"{one.what}: {one.do}" for one in findings if _COMMAND in one.do}
    lines = (re.sub(rf"(?:;|(:)) (?={_COMMAND})", r"\1\n  ", text) for text in sorted(told))
    return [Text(text, no_wrap=True, overflow="ignore") for text in lines]


def render_findings(findings: Iterable[Finding], title: str = "", width: int | None = None) -> str:
    """The table of findings as text, for an error message or a log (``width`` in characters)."""
    console = Console(width=width or max(Console(stderr=True).width, 120), no_color=True)
    with console.capture() as capture:
        console.print(findings_table(findings, title), crop=False)
    return capture.get().rstrip()


def _literal(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))
