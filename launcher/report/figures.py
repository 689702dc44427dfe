"""Figures for papers: one PNG a metric, as wide as a column, with the curves of the page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.files import written_aside
from launcher.layout import legal_name
from launcher.report.compare.comparison import HIDDEN
from launcher.report.curves import Band
from launcher.report.group import Drawn, Group
from launcher.report.html.library import missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 300
CM_PER_INCH = 2.54
HEIGHT = 0.72
"""Of the width."""
POINTS = 7.5
"""Size of text, in points: what journals ask for at a column's width."""
WIDE_INCHES = 5.0
"""Width from which the legend has four columns and not two."""
ROWS = 3
"""Rows of the legend that the height has room for; for each more the figure is a line higher."""
LINE = 1.25
"""Height of a line of the legend, of the size of text."""
POINTS_PER_INCH = 72
MARKED = 40
"""Points of a curve up to which each is marked."""
_DASHES: dict[str, Any] = {
    "solid": "-", "dash": (0, (4, 2)), "dot": (0, (1, 1.5)), "dashdot": (0, (4, 1.5, 1, 1.5)),
    "longdash": (0, (7, 2.5)), "longdashdot": (0, (7, 2, 1, 2)),
}  # fmt: skip
_LOOK = {
    "font.size": POINTS, "axes.labelsize": POINTS, "legend.fontsize": POINTS - 0.5,
    "xtick.labelsize": POINTS - 0.5, "ytick.labelsize": POINTS - 0.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "axes.formatter.useoffset": False,
}  # fmt: skip


def write_figures(group: Group, drawn: Drawn, directory: Path, width_cm: float) -> list[Path]:
    """Write a PNG for each metric that tells how good a run is.

    Args:
        group: what is drawn.
        drawn: its curves.
        directory: where the files go; made if it is not there.
        width_cm: width of a figure in centimetres.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as NewFigure
    except ImportError as error:
        raise missing("matplotlib") from error
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    inches = width_cm / CM_PER_INCH
    for metric in (name for name in drawn.metrics if name not in HIDDEN):
        path = directory / f"{legal_name(metric)}.png"
        with matplotlib.rc_context(_LOOK):
            figure = NewFigure(figsize=(inches, HEIGHT * inches), layout="constrained")
            FigureCanvasAgg(figure)
            _draw(figure.add_subplot(), group, drawn, metric)
            _add_legend(figure, most_columns=2 if inches < WIDE_INCHES else 4)
            with written_aside(path) as temporary:
                figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH)
        written.append(path)
    return written


def _add_legend(figure: Figure, most_columns: int) -> None:
    """Above, where it hides no curve, in as many columns as the names have room for."""
    count = len(figure.axes[0].get_legend_handles_labels()[1])
    for columns in range(min(most_columns, count), 0, -1):
        legend = figure.legend(
            loc="outside upper left", ncols=columns, frameon=False, handlelength=2.6, labelspacing=0.25
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    width, height = figure.get_size_inches()
    more = max(0, math.ceil(count / columns) - ROWS)
    figure.set_size_inches(width, height + more * LINE * POINTS / POINTS_PER_INCH)


def _draw(axes: Axes, group: Group, drawn: Drawn, metric: str) -> None:
    point = group.point.step if group.point is not None else None
    trunk = drawn.trunk_bands.get(metric)
    leave = _leave(trunk, point)
    if trunk is not None:
        axes.plot(trunk.steps, trunk.mean, color="#8C8C8C", linewidth=0.8, label="trunk", zorder=1)
    for arm, band in zip(drawn.arms, drawn.bands[metric], strict=True):
        if band is None:
            continue
        colour = arm.style.colour
        if not band.plain:
            axes.fill_between(
                band.steps, band.low, band.high, color=colour, alpha=0.16, linewidth=0, zorder=2
            )
        steps, mean = [*(leave[:1]), *band.steps], [*(leave[1:]), *band.mean]
        marker = "." if len(band.steps) <= MARKED else ""
        axes.plot(
            steps, mean, color=colour, linestyle=_DASHES[arm.style.dash], linewidth=1.1, marker=marker,
            markersize=2.5, label=_literal(arm.name), zorder=4 if arm.baseline else 3,
        )  # fmt: skip
    if point is not None:
        axes.axvline(point, color="#606060", linewidth=0.6, linestyle=(0, (1, 2)), zorder=0)
        _look_at_the_branches(axes, drawn, metric, point)
    axes.set_xlabel("steps since the branch point" if point is None else "step")
    axes.set_ylabel(_literal(metric))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}".replace(",", "\N{THIN SPACE}"))
    axes.xaxis.set_major_locator(_few())


def _leave(trunk: Band | None, point: int | None) -> list[float]:
    """Step and value at which branches leave the trunk; nothing where it has none."""
    if trunk is None or point is None:
        return []
    before = [(step, value) for step, value in zip(trunk.steps, trunk.mean, strict=True) if step <= point]
    return list(before[-1]) if before else []


def _look_at_the_branches(axes: Axes, drawn: Drawn, metric: str, point: int) -> None:
    """The part of the trunk that leads there is shown, and not its whole way."""
    bands = [one for one in [*drawn.bands[metric], drawn.trunk_bands.get(metric)] if one is not None]
    end = max(one.steps[-1] for one in drawn.bands[metric] if one is not None)
    length = max(1, end - point)
    left, right = point - 0.35 * length, end + 0.03 * length
    seen = [
        value
        for one in bands
        for step, low, high in zip(one.steps, one.low, one.high, strict=True)
        if left <= step <= right
        for value in (low, high)
    ]
    room = 0.06 * (max(seen) - min(seen)) or 1.0
    axes.set_xlim(left, right)
    axes.set_ylim(min(seen) - room, max(seen) + room)


def _few() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=5, integer=True)


def _literal(text: str) -> str:
    """Text that is not read as mathematics; a label that begins with _ would be left out of the legend."""
    return ("\N{ZERO WIDTH SPACE}" if text.startswith("_") else "") + text.replace("$", r"\$")
