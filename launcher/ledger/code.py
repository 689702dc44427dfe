"""Which code a run is computed by: the git commit, and a digest of what was not committed."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

NO_CODE = (".yaml", ".yml", ".md", ".rst", ".ipynb")
"""Ends of files whose changes are no change of the code. Config files are held by what they resolve to."""
_NEW_CODE = (".py", ".pyx", ".so", ".c", ".cc", ".cpp", ".cu", ".h")
"""Ends of files that count although git does not track them; outputs lie there as well."""


@functools.cache
def code_of(directory: Path) -> str | None:
    """``COMMIT``, or ``COMMIT+DIGEST`` where files that git tracks were changed or Python files are new.

    Twelve hex digits each; None outside a git repository, or before its first commit. Looked up once a
    process: what it has imported does not change either.
    """
    listed = _git(directory, "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all")
    root = _git(directory, "rev-parse", "--show-toplevel")
    if listed is None or root is None:
        return None
    lines = listed.split("\0")
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    if not commit or commit == "(initial)":
        return None
    changed = sorted(_changed(lines))
    return commit[:12] + (f"+{_digest(Path(root.rstrip()), changed)}" if changed else "")


def _changed(lines: list[str]) -> Iterator[str]:
    """The changed files that are code, from git's porcelain format 2."""
    rest = iter(lines)
    for line in rest:
        kind, _, text = line.partition(" ")
        if kind == "?":
            if text.endswith(_NEW_CODE):
                yield text
            continue
        fields = {"1": 8, "2": 9, "u": 10}.get(kind)
        if fields is None:
            continue
        paths = [text.split(" ", fields - 1)[-1]]
        if kind == "2":  # A renamed file's earlier name follows.
            paths.append(next(rest))
        yield from (path for path in paths if not path.endswith(NO_CODE))


def _digest(root: Path, names: list[str]) -> str:
    hasher = blake3()
    for name in names:
        path = root / name
        content = path.read_bytes() if path.is_file() else b"gone"
        for part in (os.fsencode(name), content):
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part)
    return hasher.hexdigest()[:12]


def _git(directory: Path, *arguments: str) -> str | None:
    # Many runs may start at once: none of them takes the index's lock only to look.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True, text=True, errors="surrogateescape", check=False, env=environment,
        )  # fmt: skip
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
