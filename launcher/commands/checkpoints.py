"""Checkpoints of any format: ``inspect``, ``convert``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.markup import escape

from launcher.checkpoint.formats.known import described, inspect, only_one
from launcher.commands.verbs import Verbs, answer, positive
from launcher.report import inspection


def add(verbs: Verbs) -> None:
    """Add the verbs of this subject."""
    one = verbs.add(
        "inspect", _inspect, "What is in a checkpoint of any format, and what an exact branch lacks."
    )
    _checkpoint(one)
    one.add_argument("--tensors", action="store_true", help="list every tensor")
    one.add_argument(
        "--digest", action="store_true", help="compute the content digest too, which reads every byte"
    )
    one = verbs.add(
        "convert", _convert, "Write a checkpoint of any format as the launcher's, or as safetensors."
    )
    _checkpoint(one)
    one.add_argument(
        "out", metavar="OUT", type=Path, help="NAME.safetensors (the model alone), NAME.pt, or a directory"
    )
    one.add_argument(
        "--step", type=positive, metavar="N", help="its step, where the checkpoint does not tell"
    )


def _checkpoint(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("path", metavar="PATH", type=Path, help="a checkpoint: a file or a directory")
    verb.add_argument(
        "--allow-globals",
        default="",
        metavar="NAME,…",
        help="classes that it may hold besides tensors and plain values",
    )


def _inspect(options: argparse.Namespace) -> int:
    path = only_one(options.path)
    told = inspection.facts(inspect(path))
    if options.digest:
        told["sha256"] = described(path, _allowed(options)).sha256
    answer(options, told, inspection.rendered(told, options.tensors))
    return 0


def _convert(options: argparse.Namespace) -> int:
    # It imports PyTorch.
    from launcher.checkpoint.formats.convert import convert

    path = only_one(options.path)
    written = convert(path, options.out, _allowed(options), options.step)
    told = {"written": [str(one) for one in written], "missing": list(inspect(path).missing)}
    answer(options, told, escape("\n".join(told["written"])))
    return 0


def _allowed(options: argparse.Namespace) -> list[str]:
    return [name for name in options.allow_globals.split(",") if name]
