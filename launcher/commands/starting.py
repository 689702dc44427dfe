"""A project's first files: ``init``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from rich.markup import escape

from launcher.commands.verbs import Verbs, answer
from launcher.errors import ConfigError
from launcher.files import disk_error, write_text

PROJECT = files("launcher.commands") / "project"
"""What ``init`` writes. A script in there has one more suffix, so that nobody takes it for the launcher's."""


def add(verbs: Verbs) -> None:
    """Add the verbs of this subject."""
    one = verbs.add(
        "init", _init, "Put config files and a commented train.py into a project; never over a file."
    )
    one.add_argument(
        "directory", metavar="DIR", type=Path, nargs="?", default=Path(), help="the project (default: here)"
    )


def _init(options: argparse.Namespace) -> int:
    written, left = init(options.directory)
    told = [f"wrote  {path}" for path in written] + [f"left   {path}, which is there" for path in left]
    if any(path.name == "train.py" for path in left):
        told.append("To branch it, a script of your own changes in a few lines: python -m pydoc launcher.Run")
    answer(
        options,
        {"written": [str(path) for path in written], "left": [str(path) for path in left]},
        escape("\n".join(told)),
    )
    return 0


def init(directory: Path) -> tuple[list[Path], list[Path]]:
    """Write the files of a project that are not there; those that were written, and those that were left.

    Raises:
        ConfigError: the place is no directory.
        RunFailed: it cannot be written.
    """
    if directory.exists() and not directory.is_dir():
        raise ConfigError("That is no directory.", where=str(directory), do="launcher init DIR")
    written, left = [], []
    for name, source in _files(PROJECT, PurePosixPath()):
        path = directory / name
        # A link that leads nowhere is somebody's as well.
        if path.exists() or path.is_symlink():
            left.append(path)
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, source.read_text(encoding="utf-8"))
        except OSError as error:
            raise disk_error(error, path) from error
        written.append(path)
    return written, left


def _files(place: Traversable, name: PurePosixPath) -> Iterator[tuple[PurePosixPath, Traversable]]:
    for one in sorted(place.iterdir(), key=lambda each: each.name):
        if one.is_dir():
            yield from _files(one, name / one.name)
        else:
            yield name / one.name.removesuffix(".txt"), one
