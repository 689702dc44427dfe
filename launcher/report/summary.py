"""What came of a run, in a few lines: parent, group, steps, metrics against the parent's, place."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from launcher.errors import LauncherError
from launcher.layout import RunDirectory
from launcher.lineage import Run, find_run
from launcher.trackers.metrics_file import read_metrics

HIDDEN = ("train/gradient_norm", "train/learning_rate")


def print_summary(run: Run, console: Console | None = None) -> None:
    """Print the summary of a run that is over."""
    console = console or Console(highlight=False)
    record = run.record
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("run", f"[bold]{run.id}[/] ({record.state})")
    if record.parent is not None:
        facts.add_row("parent", f"{record.parent.name} at step {record.parent.step}")
    facts.add_row("group", record.group)
    facts.add_row("steps", f"{record.start_step} → {record.step}")
    if record.differences:
        factors = [f"{key}: {left} → {right}" for key, (left, right) in record.differences.items()]
        facts.add_row("factors", "\n".join(factors))
    facts.add_row("directory", str(run.directory.path))
    for tracker, said in record.trackers.items():
        if not isinstance(said, dict):
            facts.add_row(tracker, str(said))
    console.print(facts)
    if record.metrics:
        console.print(metrics_table(run))


def metrics_table(run: Run) -> Table:
    """The run's last metrics, beside the parent's at the same step where it has them."""
    parents = parent_metrics(run)
    table = Table("metric", title=f"at step {run.record.step}", title_justify="left")
    table.add_column("this run", justify="right")
    if parents:
        table.add_column("parent", justify="right")
        table.add_column("difference", justify="right")
    for name, value in run.record.metrics.items():
        if name in HIDDEN:
            continue
        cells = [name, f"{value:.4f}"]
        if parents:
            theirs = parents.get(name)
            cells += ["", ""] if theirs is None else [f"{theirs:.4f}", f"{value - theirs:+.4f}"]
        table.add_row(*cells)
    return table


def parent_metrics(run: Run) -> dict[str, float]:
    """The parent's metrics at the step that the run has reached; empty where it has none."""
    record = run.record
    if record.parent is None or record.parent.run is None:
        return {}
    outputs = run.directory.path.parent.parent
    try:
        parent: RunDirectory = find_run(outputs, record.parent.run).directory
        lines = read_metrics(parent.metrics)
    except (LauncherError, OSError):
        return {}
    step = record.parent.step + record.step - record.start_step
    at_step = [line for line in lines if line.get("global_step") == step]
    return {
        name: value
        for name, value in (at_step[-1] if at_step else {}).items()
        if "/" in name and isinstance(value, int | float)
    }
