"""A finding is one result of a check: level, what, found, expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

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


_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def findings_table(findings: Iterable[Finding], title: str = "") -> Table:
    """All findings at once, in one table."""
    table = Table(title=title or None, title_justify="left", show_lines=True, expand=False)
    for column in ("", "what", "found", "expected", "to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(
            f"[{_STYLE[finding.level]}]{finding.level}[/]",
            *(_literal(text) for text in (finding.what, finding.found, finding.expected, finding.do)),
        )
    return table


def render_findings(findings: Iterable[Finding], title: str = "", width: int | None = None) -> str:
    """The table of findings as text, for an error message or a log (``width`` in characters)."""
    console = Console(width=width or max(Console(stderr=True).width, 120), no_color=True)
    with console.capture() as capture:
        console.print(findings_table(findings, title))
    return capture.get().rstrip()


def _literal(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))
