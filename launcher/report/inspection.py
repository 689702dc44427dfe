"""What is in a checkpoint of any format, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from launcher.checkpoint.formats.known import Inspection
from launcher.checkpoint.formats.protocol import is_tensor
from launcher.errors import printable
from launcher.files import readable_bytes

_MODEL = "model_state_dict."


def facts(found: Inspection) -> dict[str, Any]:
    """The inspection as a JSON object."""
    model = [one for name, one in found.tensors.items() if name.startswith(_MODEL)]
    return {
        "path": str(found.path),
        "format": found.format,
        "step": found.step,
        "step_source": found.step_source or None,
        "epoch": found.epoch,
        "end_step": found.end_step,
        "bytes": found.bytes,
        "parameters": sum(one.numel for one in model),
        "dtypes": dict(Counter(one.dtype for one in model)),
        "optimizer": _optimizer(found.state.get("optimizer_state_dict")),
        "schedule_step": found.state.get("scheduler_state_dict", {}).get("last_epoch"),
        "generators": sorted({name.split(".")[1] for name in found.tensors if name.startswith("rng_state.")}),
        "missing": list(found.missing),
        "left_out": list(found.left_out),
        "unused": list(found.unused),
        "unknown_classes": list(found.unknown),
        "tensors": [
            {"name": name, "shape": list(one.shape), "dtype": one.dtype}
            for name, one in found.tensors.items()
        ],
    }


def _optimizer(optimizer: Any) -> dict[str, Any] | None:
    if not isinstance(optimizer, Mapping):
        return None
    keeps = {key: None for one in optimizer["state"].values() for key in one}
    return {
        "keeps": [str(key) for key in keeps],
        "groups": [
            {
                "parameters": len(group["params"]),
                **{key: _plain(value) for key, value in group.items() if key != "params"},
            }
            for group in optimizer["param_groups"]
        ],
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if is_tensor(value):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def rendered(told: dict[str, Any], tensors: bool) -> RenderableType:
    """The facts for a terminal; with ``tensors``, a line for each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(told):
        table.add_row(name, escape(printable(value)))
    if not tensors:
        return table
    listing = Table("tensor", "shape", "dtype")
    for one in told["tensors"]:
        listing.add_row(escape(printable(one["name"])), escape(str(one["shape"])), one["dtype"])
    return Group(table, listing)


def _lines(told: dict[str, Any]) -> list[tuple[str, str]]:
    of = f" of {told['end_step']}" if told["end_step"] else ""
    step = "not told" if told["step"] is None else f"{told['step']}{of} ({_SOURCES[told['step_source']]})"
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in told["dtypes"].items())
    lines = [
        ("checkpoint", told["path"]),
        ("format", told["format"]),
        ("step", step),
        ("epoch", "" if told["epoch"] is None else str(told["epoch"])),
        ("size", f"{readable_bytes(told['bytes'])} in {len(told['tensors'])} tensors"),
        ("model", f"{told['parameters']:,} parameters, buffers included; tensors: {dtypes}"),
        *(("optimizer", one) for one in _groups(told["optimizer"])),
        ("schedule", "" if told["schedule_step"] is None else f"at step {told['schedule_step']}"),
        ("RNG", ", ".join(one for one in told["generators"])),
        ("missing", ", ".join(told["missing"]) or "nothing: a branch can be exact"),
        ("left out", "; ".join(told["left_out"])),
        ("not used", ", ".join(told["unused"])),
        ("classes", ", ".join(told["unknown_classes"])),
    ]
    if told.get("sha256"):
        lines.append(("sha256", told["sha256"]))
    return [(name, value) for name, value in lines if value]


_SOURCES = {
    "inside": "told by the checkpoint",
    "name": "told by its name",
    "optimizer": "as the optimizer counted",
}


def _groups(optimizer: dict[str, Any] | None) -> list[str]:
    if optimizer is None:
        return []
    keeps = ", ".join(optimizer["keeps"])
    groups = [
        f"{group['parameters']} parameter tensors; "
        + ", ".join(
            f"{key} {value}" for key, value in group.items() if key != "parameters" and value is not None
        )
        for group in optimizer["groups"]
    ]
    return [f"keeps {keeps or 'nothing'}", *groups]
