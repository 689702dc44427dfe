"""The code as it is at submission: a copy that jobs run, whatever is edited afterwards.

The copy lies in ``.code/DIGEST`` below the outputs and is named by what is in it: the siblings of a fan-out
share one, and so do later fan-outs of the same code. In a git repository it has what git tracks and what git
does not ignore; elsewhere the ``*.py`` and ``*.yaml`` files below the script's directory. Files above
``LARGEST_FILE`` are left out: data is read where it is, relative to the working directory of the submission.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from launcher.errors import ConfigError
from launcher.files import readable_bytes

CODE = ".code"
"""Directory of all snapshots, in the outputs."""
LARGEST_FILE = 10_000_000
"""Bytes; a larger file is no code."""
LARGEST_SNAPSHOT = 500_000_000
"""Bytes of all files together."""
MOST_FILES = 50_000
_OUTSIDE_GIT = (".py", ".yaml", ".yml")
_PROGRAMS = Path(sys.executable).absolute().parent


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code, and what it is a copy of."""

    root: Path
    """Where the code was: the repository, or the script's directory."""
    directory: Path
    """Where the copy is."""
    left_out: tuple[str, ...] = ()
    """Files that are too large, relative to the root."""

    def place_of(self, path: Path) -> Path:
        """Where a path within the root is in the copy; any other path as it is."""
        real = path.resolve()
        return self.directory / real.relative_to(self.root) if real.is_relative_to(self.root) else path


def take(script_directory: Path, outputs: Path) -> Snapshot:
    """Copy the code, unless the same code has been copied before.

    Raises:
        ConfigError: there is far too much to copy.
        OSError: the outputs cannot be written.
    """
    root, every = _files(script_directory.resolve(), outputs.resolve())
    files, left_out = _small(root, every)
    snapshot = outputs / CODE / _digest(root, files)
    if not snapshot.is_dir():
        aside = outputs / CODE / f"new-{uuid.uuid4().hex}"
        try:
            _copy(root, files, aside)
            # Named by what was copied, not by what was there a moment before.
            snapshot = outputs / CODE / _digest(aside, files)
            aside.rename(snapshot)
        except OSError:
            if not snapshot.is_dir():
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return Snapshot(root, snapshot.resolve(), tuple(left_out))


def script_directory() -> Path:
    """Directory of the script that this process runs; of an installed program, the working directory."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None or _installed(path := Path(script).resolve()) or path.parent == _PROGRAMS:
        return Path.cwd()
    return path.parent


def import_path(snapshot: Snapshot | None, entries: Sequence[str] | None = None) -> list[str]:
    """``PYTHONPATH`` of a job that is to import what this process imports, from the snapshot where it has it.

    Args:
        snapshot: None: the code as it is.
        entries: by default this process's ``sys.path``.
    """
    found: list[Path] = []
    for entry in sys.path if entries is None else entries:
        path = Path(entry or ".").absolute()
        if path.exists() and not _installed(path.resolve()):
            found.append(path if snapshot is None else snapshot.place_of(path))
    if snapshot is not None:
        # An editable installation finds the root without an entry; it comes after everything in PYTHONPATH.
        found.append(snapshot.directory)
    return [str(path) for path in dict.fromkeys(found)]


def _installed(path: Path) -> bool:
    """Whether every interpreter of this environment finds it there by itself."""
    libraries = (Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(installed) or any(path.is_relative_to(library) for library in libraries)


def _files(directory: Path, outputs: Path) -> tuple[Path, list[str]]:
    """The root, and every file of the code relative to it."""
    top = _git(directory, "rev-parse", "--show-toplevel")
    if top is not None:
        root = Path(top.rstrip("\n"))
        names = list(_tracked(root))
    else:
        root = directory
        names = list(_python_files(root))
    if outputs != root and outputs.is_relative_to(root):
        inside = outputs.relative_to(root).as_posix() + "/"
        names = [name for name in names if not name.startswith(inside)]
    return root, sorted(set(names))


def _tracked(root: Path, prefix: str = "") -> Iterator[str]:
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or ""
    for name in listed.split("\0")[:-1]:
        path = root / name
        if path.is_dir() and not path.is_symlink():  # A repository within this one.
            if (path / ".git").exists():
                yield from _tracked(path, f"{prefix}{name.rstrip('/')}/")
        elif os.path.lexists(path):
            yield prefix + name


def _python_files(root: Path) -> Iterator[str]:
    for place, directories, names in os.walk(root):
        # Hidden ones and virtual environments hold nobody's own code.
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".")
            and name != "__pycache__"
            and not Path(place, name, "pyvenv.cfg").exists()
        ]
        for name in names:
            if name.endswith(_OUTSIDE_GIT):
                yield Path(place, name).relative_to(root).as_posix()


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _small(root: Path, names: list[str]) -> tuple[list[str], list[str]]:
    files, left_out, total = [], [], 0
    for name in names:
        facts = (root / name).lstat()
        if not (stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode)):
            continue
        if facts.st_size > LARGEST_FILE:
            left_out.append(name)
            continue
        files.append(name)
        total += facts.st_size
    if total > LARGEST_SNAPSHOT or len(files) > MOST_FILES:
        raise ConfigError(
            "The code is too much to copy for a launch.",
            where=str(root),
            found=f"{len(files)} files, {readable_bytes(total)}, each below {readable_bytes(LARGEST_FILE)}",
            expected=f"at most {MOST_FILES} files and {readable_bytes(LARGEST_SNAPSHOT)}",
            do=["name what is no code in .gitignore", "or run the code as it is: launch.snapshot=false"],
        )
    return files, left_out


def _digest(root: Path, names: list[str]) -> str:
    hasher = blake3()
    for name in names:
        path = root / name
        if path.is_symlink():
            kind, content = b"link", os.fsencode(path.readlink())
        else:
            kind = b"program" if path.stat().st_mode & stat.S_IXUSR else b"file"
            content = path.read_bytes()
        for part in (os.fsencode(name), kind, content):
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part)
    return hasher.hexdigest()[:16]


def _copy(root: Path, names: list[str], to: Path) -> None:
    to.mkdir(parents=True)
    for name in names:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, target, follow_symlinks=False)
        if not target.is_symlink():
            # An editor that follows a traceback into the copy shall not change it.
            target.chmod(target.stat().st_mode & ~0o222)
