"""Run the README's commands and put their real output below them: python -m docs.refresh DIRECTORY

Also shows, in docs/own-script.md, in what its two scripts differ.

A fenced ``console`` block starts with ``$ command``; what follows is its output. The commands run in
order, in DIRECTORY: a clone of the project in which no run lies yet.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "demo.svg"
GUIDE = ROOT / "docs" / "own-script.md"
WIDTH = 112
"""Columns of the terminal that the commands think they write to."""
_DIFF = re.compile(r"<!-- count -->.*?```diff\n.*?```", re.DOTALL)
_BLOCK = re.compile(r"```console\n\$ (?P<command>[^\n]*)\n(?P<output>.*?)```", re.DOTALL)
PICTURED = ("launcher tree", "launcher verify control")


@dataclass(frozen=True)
class Shown:
    """A command in the README and the output below it."""

    command: str
    output: str


def shown(text: str) -> list[Shown]:
    """The commands of a Markdown page with their outputs, in order."""
    return [Shown(match["command"], match["output"]) for match in _BLOCK.finditer(text)]


def guide(text: str) -> str:
    """The guide's page with the difference between its scripts, and its lines counted."""
    place = ROOT / "docs" / "own-script"
    bare, own = ((place / name).read_text().splitlines() for name in ("bare.py", "train.py"))
    lines = list(difflib.unified_diff(bare, own, "bare.py", "train.py", n=1, lineterm=""))
    come, gone = (sum(line.startswith(sign) for line in lines[2:]) for sign in "+-")
    block = "\n".join(line.rstrip() for line in lines)
    counted = f"<!-- count -->{come} lines come, {gone} go, of {len(bare)}."
    return _DIFF.sub(lambda _: f"{counted}\n\n```diff\n{block}\n```", text)


def run(command: str, directory: Path, color: bool = False) -> tuple[int, str]:
    """Exit status and output (stdout, then stderr) of a command, as a person's shell would show it."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(directory),
        "COLUMNS": str(WIDTH),
        "WANDB_MODE": "offline",
    }
    environment |= {"FORCE_COLOR": "1"} if color else {"NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    lines = (done.stderr + done.stdout if done.returncode else done.stdout).splitlines()
    return done.returncode, "".join(f"{line.rstrip()}\n" for line in lines)


def refresh(directory: Path) -> None:
    """Rewrite the README's outputs, and the pictures."""
    from docs.screenshot import screenshot

    def again(match: re.Match[str]) -> str:
        command = match["command"]
        print(f"$ {command}", flush=True)
        _, output = run(command, directory)
        if command == PICTURED[-1]:
            picture(directory)  # What the README runs after that is no part of the demo.
        return f"```console\n$ {command}\n{output}```"

    README.write_text(_BLOCK.sub(again, README.read_text()))
    GUIDE.write_text(guide(GUIDE.read_text()))
    screenshot(directory)


def picture(directory: Path) -> None:
    """The end of the demo, as a terminal shows it; its runs are there and no others."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        for command in PICTURED:
            console.print(Text(f"$ {command}", style="bold"))
            console.print(Text.from_ansi(run(command, directory, color=True)[1]))
    PICTURE.write_text(console.export_svg(title="make demo"))


if __name__ == "__main__":
    refresh(Path(sys.argv[1]).resolve())
