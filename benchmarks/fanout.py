"""Siblings on this machine: all of a fan-out, and one sibling more, against Hydra's launchers and a shell.

Run: python -m benchmarks.fanout [--quick] [--siblings 8] [--steps 1000] [--rounds 3]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.fanning import Setting, rates
from benchmarks.fanout_parts import parts, table_of
from benchmarks.paired import in_turn, ratio
from benchmarks.report import command_line, median, save
from launcher.files import cores

WHOLE_BAR, OF_BASIC, OF_SUBMITIT = 1.10, 0.6, 0.2
PEERS = ("basic", "joblib", "submitit_local")
FEW, MANY = 8, 64


def whole(setting: Setting, siblings: int, steps: int, rounds: int) -> dict[str, object]:
    """The whole fan-out from the command to the last exit, against the physical limit and every peer."""
    chosen = rates(siblings)
    at_once = cores()
    more = {"joblib": (f"hydra.launcher.n_jobs={at_once}",)}
    seconds = in_turn(
        rounds,
        pool=setting.siblings("pool", chosen, steps),
        **{name: setting.siblings(name, chosen, steps, *more.get(name, ())) for name in PEERS},
        shell=setting.shell(chosen, steps, at_once),
        start=setting.bare_start,
        step=lambda: setting.bare_steps(steps),
        busy_step=lambda: setting.bare_steps(steps, at_once),
    )

    def limits(step: str) -> list[float]:
        both = zip(seconds["start"], seconds[step], strict=True)
        return [start + siblings * each / at_once for start, each in both]

    return {
        "seconds": {name: median(values) for name, values in seconds.items()},
        "limit_s": median(limits("step")),
        "limit_busy_s": median(limits("busy_step")),
        "ratio_to_limit": ratio(seconds["pool"], limits("step")),
        "ratio_to_busy_limit": ratio(seconds["pool"], limits("busy_step")),
        "bar": WHOLE_BAR,
        "rounds": seconds,
    }


def further(setting: Setting, few: int, many: int, rounds: int) -> dict[str, object]:
    """Seconds that one sibling more costs, with one step each."""
    at_once = cores()
    ways = {
        **{name: name for name in ("pool", *PEERS)},
        "shell": "shell",
    }

    def run(name: str, count: int) -> float:
        if name == "shell":
            return setting.shell(rates(count), 1, at_once)()
        more = (f"hydra.launcher.n_jobs={at_once}",) if name == "joblib" else ()
        return setting.siblings(name, rates(count), 1, *more)()

    seconds = in_turn(
        rounds,
        **{name: (lambda name=name: (run(name, many) - run(name, few)) / (many - few)) for name in ways},
    )
    each = {name: median(values) for name, values in seconds.items()}
    return {
        "seconds_each": each,
        "of_basic": each["pool"] / each["basic"],
        "of_submitit_local": each["pool"] / each["submitit_local"],
        "bars": [OF_BASIC, OF_SUBMITIT],
        "rounds": seconds,
    }


def main() -> None:
    parser = command_line(__doc__, rounds=3)
    parser.add_argument("--siblings", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--many", type=int, default=MANY, help="a further sibling is told from 8 and so many")
    options = parser.parse_args()
    if options.quick:
        options.siblings, options.steps, options.rounds = 2, 20, 1
    few, many = (2, 4) if options.quick else (FEW, options.many)
    with tempfile.TemporaryDirectory() as directory:
        setting = Setting(Path(directory))
        one = whole(setting, options.siblings, options.steps, options.rounds)
        other = further(setting, few, many, 1)
        spent = parts(
            setting.command("pool", rates(options.siblings), options.steps, setting.place / "parts")
        )
    table = Table("way", f"{options.siblings} x {options.steps} steps, s", "a further sibling, s")
    for name in ("pool", *PEERS, "shell"):
        table.add_row(name, f"{one['seconds'][name]:.1f}", f"{other['seconds_each'][name]:.3f}")  # type: ignore[index]
    table.add_row("limit, by steps of one script alone", f"{one['limit_s']:.1f}", "")
    table.add_row("limit, by steps with every core busy", f"{one['limit_busy_s']:.1f}", "")
    Console().print(table)
    Console().print(table_of(spent))
    save(
        "fanout",
        {
            "siblings": options.siblings,
            "steps": options.steps,
            "whole": one,
            "further": other,
            "parts_s": spent,
        },
        f"fanout: {one['ratio_to_limit']:.2f} of the limit (bar: at most {WHOLE_BAR}), "
        f"{one['ratio_to_busy_limit']:.2f} of it with every core busy; a further sibling "
        f"{other['of_basic']:.2f} of basic's ({OF_BASIC}), {other['of_submitit_local']:.2f} of "
        f"submitit_local's ({OF_SUBMITIT})",
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
