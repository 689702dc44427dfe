"""The ledger of a group for a terminal: what its siblings share, what they differ in."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from launcher.findings import findings_table
from launcher.ledger.ledger import Ledger


def rendered(book: Ledger) -> RenderableType:
    """Arms and their levels, facts, findings."""
    shared = Table.grid(padding=(0, 2))
    shared.add_column(no_wrap=True)
    shared.add_column(overflow="fold")
    for name in dict.fromkeys(name for one in book.entries for name in one.facts):
        values = {one.facts[name] for one in book.entries if name in one.facts}
        shared.add_row(name, escape(values.pop()) if len(values) == 1 else "[yellow]differs, see below[/]")
    arms = Table("arm", *(escape(factor.name) for factor in book.factors), "streams")
    by_run = [factor.by_run() for factor in book.factors]
    for arm in book.arms:
        streams = sorted(one.stream for one in book.entries if one.arm == arm.arm)
        levels = (escape(each[arm.run]) for each in by_run)
        arms.add_row(escape(arm.run), *levels, ",".join(map(str, dict.fromkeys(streams))))
    findings = [findings_table(book.findings)] if book.findings else []
    return Group(shared, arms, *findings)
