"""Searching from a checkpoint: ``sweep-config``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from rich.markup import escape

from launcher.commands.verbs import Verbs, answer
from launcher.errors import ConfigError
from launcher.files import write_text
from launcher.trackers.wandb.sweep_config import METHODS, sweep_config, written


def add(verbs: Verbs) -> None:
    """Add the verbs of this subject."""
    one = verbs.add("sweep-config", _sweep_config, "Write a W&B sweep file from Hydra's overrides.")
    one.add_argument("overrides", metavar="OVERRIDE", nargs="+", help="for example optimizer.lr=1e-4,5e-5")
    one.add_argument("--method", choices=METHODS, default="grid", help="default: %(default)s")
    goal = one.add_mutually_exclusive_group()
    for name in ("maximize", "minimize"):
        goal.add_argument(f"--{name}", metavar="METRIC", help=f"have W&B {name} it")
    one.add_argument("--program", default="train.py", help="what an agent starts (default: %(default)s)")
    one.add_argument("--write", type=Path, metavar="FILE", help="a new file, instead of printing")


def _sweep_config(options: argparse.Namespace) -> int:
    config = sweep_config(
        options.overrides,
        method=options.method,
        metric=options.maximize or options.minimize,
        goal="minimize" if options.minimize else "maximize",
        program=options.program,
    )
    text = written(config, _command(options))
    if options.write is None:
        answer(options, config, escape(text.rstrip()))
        return 0
    if options.write.exists():
        raise ConfigError(
            "The file is there already.", where=str(options.write), do="take another name, or remove it"
        )
    write_text(options.write, text)
    answer(options, config, escape(f"{options.write}\nwandb sweep {options.write}"))
    return 0


def _command(options: argparse.Namespace) -> str:
    said = ["launcher", "sweep-config", *options.overrides]
    for name, usual in (("method", "grid"), ("maximize", None), ("minimize", None), ("program", "train.py")):
        if getattr(options, name) != usual:
            said += [f"--{name}", getattr(options, name)]
    return shlex.join(said)
