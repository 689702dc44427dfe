"""A comparison for people: on a terminal, in a paper, in a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from launcher.findings import Finding, commands_of, without_commands
from launcher.ledger.factors import Factor
from launcher.ledger.no_effect import NO_EFFECT
from launcher.report.compare.comparison import Comparison
from launcher.report.compare.verdict import BASELINE, BETTER, WORSE, Row

FIELDS = (
    "arm", "metric", "direction", "step", "branch_step", "streams", "value", "baseline", "difference",
    "low", "high", "p", "level", "weaker", "steps", "verdict", "note",
)  # fmt: skip
"""Columns of the CSV file: :class:`launcher.report.compare.verdict.Row`, and the step as the trunk counts."""
_COLUMNS = ("arm", "metric", "step", "streams", "value", "difference", "interval", "verdict")
MOST_LEVELS = 6
"""Levels of a factor that are shown at the head."""
MOST_ROWS = 500
"""Above this, a terminal gets plain columns."""
EFFECTS = "main effects and interactions"
"""Title of the table that a full factorial has below."""
_NUMERIC = frozenset({"step", "value", "difference", "interval"})
_COLOUR = {BETTER: "green", WORSE: "red", BASELINE: "dim", NO_EFFECT: "bold red"}
_PROOF = {True: "exact", False: "NOT exact", None: "not proven"}
_HEAD_COLOUR = {"exact": "green", "NOT exact": "bold red", "not proven": "yellow", NO_EFFECT: "bold red"}


def rendered(comparison: Comparison) -> RenderableType:
    """The comparison for a terminal."""
    head = Table.grid(padding=(0, 2))
    head.add_column(no_wrap=True)
    head.add_column(overflow="fold")
    for name, text in _head(comparison):
        colour = _HEAD_COLOUR.get(text.partition(":")[0], "yellow" if name == "finding" else "default")
        hint = "; --metric asks fewer questions" if name == "intervals" and comparison.corrected else ""
        head.add_row(name, f"[{colour}]{escape(without_commands(text) + hint)}[/]")
    columns = _columns(comparison)
    notes = [Text(note) for note in _notes(comparison)]
    answers = [Text(text, style="green" if holds else "bold red") for holds, text in _answers(comparison)]
    body = _table if len(comparison.rows) <= MOST_ROWS else _lines
    more: list[RenderableType] = []
    if comparison.effects:
        more = [_table(_of_effects(comparison), _effect_columns(comparison), EFFECTS)]
    commands = commands_of(comparison.findings)
    return Group(head, body(comparison, columns), *more, *notes, *commands, *answers)


def _of_effects(comparison: Comparison) -> Comparison:
    """The comparison with its effects in the place of its rows."""
    return replace(comparison, rows=comparison.effects)


def _effect_columns(comparison: Comparison) -> list[str]:
    """An effect is a difference, and has no value of its own."""
    return [name for name in _columns(comparison) if name != "value"]


def _table(comparison: Comparison, columns: list[str], title: str | None = None) -> RenderableType:
    table = Table(title=title, title_justify="left")
    for name in columns:
        heading = "effect" if title == EFFECTS and name == "arm" else name
        table.add_column(heading, justify="right" if name in _NUMERIC else "left", overflow="fold")
    last = ""
    for row in comparison.rows:
        if last and row.arm != last:
            table.add_section()
        cells = {name: escape(cell) for name, cell in _cells(row, comparison).items()}
        cells["verdict"] = f"[{_COLOUR.get(row.verdict, 'default')}]{cells['verdict']}[/]"
        if row.arm == last:
            cells["arm"] = ""
        table.add_row(*(cells[name] for name in columns))
        last = row.arm
    return table


def _lines(comparison: Comparison, columns: list[str]) -> RenderableType:
    """The same without a frame: laying out thousands of cells takes rich many seconds."""
    rows = [dict(zip(columns, columns, strict=True)), *(_cells(row, comparison) for row in comparison.rows)]
    widths = {name: max(len(row[name]) for row in rows) for name in columns}
    told = (
        "  ".join(
            row[name].rjust(widths[name]) if name in _NUMERIC else row[name].ljust(widths[name])
            for name in columns
        ).rstrip()
        for row in rows
    )
    return Text("\n".join(told), no_wrap=True, overflow="ignore")


def markdown(comparison: Comparison) -> str:
    """The comparison as GitHub-flavoured Markdown."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    columns = _columns(comparison)
    cells = [_cells(row, comparison) for row in comparison.rows]
    rows = [line(columns), line("---:" if name in _NUMERIC else "---" for name in columns)]
    rows += [line(each[name] for name in columns) for each in cells]
    if comparison.effects:
        columns = _effect_columns(comparison)
        rows += ["", f"{EFFECTS}:", "", line(columns)]
        rows += [line("---:" if name in _NUMERIC else "---" for name in columns)]
        cells = [_cells(row, comparison) for row in comparison.effects]
        rows += [line(each[name] for name in columns) for each in cells]
    said = [f"- {name}: {text}" for name, text in _head(comparison)]
    below = [f"- {one}" for one in (*_notes(comparison), *(text for _, text in _answers(comparison)))]
    return "\n".join([*said, "", *rows, *(["", *below] if below else [])])


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}  # fmt: skip


def latex(comparison: Comparison) -> str:
    """The comparison as a LaTeX table, with booktabs; what stands at the head elsewhere is its caption."""

    def text(cell: str) -> str:
        return "".join(_LATEX.get(each, each) for each in cell)

    columns = _columns(comparison)
    said = [f"{name}: {one}" for name, one in _head(comparison)]
    rows = [_cells(row, comparison) for row in comparison.rows]
    lines = [
        r"\begin{table}",
        rf"  \caption{{{text('. '.join([*said, *_notes(comparison)]))}.}}",
        rf"  \begin{{tabular}}{{{''.join('r' if name in _NUMERIC else 'l' for name in columns)}}}",
        r"    \toprule",
        "    " + " & ".join(columns) + r" \\",
        r"    \midrule",
        *("    " + " & ".join(text(each[name]) for name in columns) + r" \\" for each in rows),
        *(
            [
                r"    \midrule",
                rf"    \multicolumn{{{len(columns)}}}{{l}}{{{EFFECTS}}} \\",
                r"    \midrule",
                *(
                    "    " + " & ".join(text(each[name]) for name in columns) + r" \\"
                    for each in (_cells(row, comparison) for row in comparison.effects)
                ),
            ]
            if comparison.effects
            else ()
        ),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def comma_separated(comparison: Comparison) -> str:
    """Every row with every digit, as CSV (RFC 4180)."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(FIELDS)
    for row in [*comparison.rows, *comparison.effects]:
        known = {**vars(row), "step": step_of(row, comparison), "streams": " ".join(map(str, row.streams))}
        writer.writerow(["" if known[name] is None else known[name] for name in FIELDS])
    return out.getvalue().rstrip("\r\n")


FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "csv": comma_separated,
    "markdown": markdown,
    "latex": latex,
}
"""Option to what it prints."""


def step_of(row: Row, comparison: Comparison) -> int | None:
    """Where a row is compared, as the trunk counts; steps since the branch where there is no one trunk."""
    if row.branch_step is None:
        return None
    return row.branch_step + (comparison.branch_point["step"] if comparison.branch_point else 0)


@dataclass(frozen=True)
class Laid:
    """A comparison as cells, for whoever lays out tables elsewhere."""

    head: list[tuple[str, str]]
    columns: list[str]
    rows: list[tuple[Row, list[str]]]
    notes: list[str]
    answers: list[tuple[bool, str]]
    """What was expected: whether it holds, and in words."""
    effect_columns: list[str]
    effects: list[tuple[Row, list[str]]]
    """Main effects and interactions of a full factorial; the effect's name is in the place of the arm's."""


def laid(comparison: Comparison) -> Laid:
    """What the table for a terminal is made of."""

    def cells(rows: Iterable[Row], columns: Sequence[str]) -> list[tuple[Row, list[str]]]:
        told = ((row, _cells(row, comparison)) for row in rows)
        return [(row, [each[name] for name in columns]) for row, each in told]

    columns, of_effects = _columns(comparison), _effect_columns(comparison)
    return Laid(
        head=_head(comparison),
        columns=columns,
        rows=cells(comparison.rows, columns),
        notes=_notes(comparison),
        answers=_answers(comparison),
        effect_columns=of_effects,
        effects=cells(comparison.effects, of_effects),
    )


def _head(comparison: Comparison) -> list[tuple[str, str]]:
    """What has to be known before a row is read."""
    proof, point = comparison.proof, comparison.branch_point
    told = [("control", f"{_PROOF[proof.exact]}: {proof.text}")]
    told += [("finding", _told(one)) for one in comparison.findings if one.level != "note"]
    told += [(one.name, one.no_effect) for one in comparison.arms if one.no_effect]
    told += [("factors", "; ".join(map(_levels, comparison.factors)))] if len(comparison.factors) > 1 else []
    if point is not None:
        told.append(("branch point", f"{point['name']} at step {point['step']}"))
    steps, streams = _shared(comparison)
    if steps is not None:
        told.append(("at step", steps))
    if streams is not None:
        told.append(("streams", streams))
    if comparison.smooth > 1:
        told.append(("smoothed", f"a value is the mean of the last {comparison.smooth} logged ones"))
    told.append(("baseline", comparison.baseline))
    if comparison.missing:
        told.append(("set", f"INCOMPLETE, so nothing is better or worse: {'; '.join(comparison.missing)}"))
    share = f"{100 * (1 - comparison.level):g} %"
    if comparison.corrected:
        together = f"{share} for all {comparison.comparisons} comparisons together (Holm)"
        told.append(("intervals", together))
    else:
        told.append(("intervals", f"{share}, each by itself"))
    if any(row.weaker and row.low is not None for row in comparison.rows):
        told.append(("*", "one stream: weaker, an interval over the last logged steps and not over streams"))
    if comparison.effects_corrected:
        told.append(("effects", f"{share} for all {len(comparison.effects)} together (Holm)"))
    told += [("note", _told(one)) for one in comparison.findings if one.level == "note"]
    return [*told, *(("note", one) for one in comparison.notes)]


def _told(finding: Finding) -> str:
    parts = (
        f"{finding.what}: {finding.found}",
        finding.expected and f"expected: {finding.expected}",
        finding.do,
    )
    return "; ".join(filter(None, parts))


def _levels(factor: Factor) -> str:
    levels = list(factor.levels)
    rest = f", … ({len(levels)} levels)" if len(levels) > MOST_LEVELS else ""
    return f"{factor.name}: {', '.join(levels[:MOST_LEVELS])}{rest}"


def _shared(comparison: Comparison) -> tuple[str | None, str | None]:
    """The step and the streams of all rows, where they are the same."""
    steps = {step_of(row, comparison) for row in comparison.rows}
    streams = {",".join(map(str, row.streams)) for row in comparison.rows}
    return str(steps.pop()) if len(steps) == 1 else None, streams.pop() if len(streams) == 1 else None


def _columns(comparison: Comparison) -> list[str]:
    """What all rows share stands at the head and in no column."""
    steps, streams = _shared(comparison)
    left_out = {name for name, shared in (("step", steps), ("streams", streams)) if shared is not None}
    return [name for name in _COLUMNS if name not in left_out]


def _cells(row: Row, comparison: Comparison) -> dict[str, str]:
    step = step_of(row, comparison)
    return {
        "arm": row.arm,
        "metric": row.metric + {"up": " ↑", "down": " ↓"}.get(row.direction or "", ""),
        "step": "" if step is None else str(step),
        "streams": ",".join(map(str, row.streams)),
        "value": number(row.value),
        "difference": signed(row.difference),
        "interval": "" if row.low is None else f"{signed(row.low)} to {signed(row.high)}",
        "verdict": row.verdict + ("*" if row.weaker and row.low is not None else ""),
    }


def _notes(comparison: Comparison) -> list[str]:
    """What is to be said of single rows, each thing once."""
    rows: dict[str, list[str]] = {}
    for row in [*comparison.rows, *comparison.effects]:
        if row.note:
            rows.setdefault(row.note, []).append(f"{row.arm} {row.metric}")
    return [
        f"{', '.join(where[:3])}{f' and {len(where) - 3} more' if len(where) > 3 else ''}: {note}"
        for note, where in rows.items()
    ]


def _answers(comparison: Comparison) -> list[tuple[bool, str]]:
    told = []
    for one in comparison.expectations:
        found = f"; found: {one.why}" if one.why else ""
        said = f"{'holds' if one.holds else 'DOES NOT HOLD'}: {one.expected}{found}"
        told.append((one.holds, said + _looked_at(one.row, len(comparison.expectations), comparison)))
    return told


def _looked_at(row: Row, asked: int, comparison: Comparison) -> str:
    """What an answer was taken from, where it may be other than what the table shows."""
    if row.low is None or row.level is None:
        return ""
    told = (
        f"{signed(row.difference)}, {signed(row.low)} to {signed(row.high)} at {100 * (1 - row.level):.4g} %"
    )
    if not comparison.corrected:
        return f" ({told})"
    # The table's own interval of the same two arms is wider, and may say something else.
    own = f"level kept for the {asked} expectation{'s' * (asked != 1)}, settled beforehand"
    return f" ({told}; {own}, and not for the table's {comparison.comparisons} comparisons)"


def number(value: float | None) -> str:
    """A value as tables print it: four decimals, or an exponent where these would say nothing."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value) or 1e-2 <= abs(value) < 1e5:
        return f"{value:.4f}"
    return f"{value:.3e}"


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    text = number(value)
    return text if value is None or value < 0 or math.isnan(value) else f"+{text}"
