"""Hooks of MkDocs: pages that are made of other files of the repository, and the links to them.

Pages link to files as they lie in the repository. On the site a link to a file that is no page leads to the
reference page of that module if there is one, else to a page with the file's text.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from launcher import cli

ROOT = Path(__file__).parent.parent
COPIED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the root that are pages as well."""
COMMANDS = "reference/commands.md"
SOURCE = "source/"
"""Where the pages with the text of a file lie."""
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s:]+)(?=#[^)\s]*\)|\))")
_DOCUMENTED = re.compile(r"^::: (?P<name>[\w.]+)", re.MULTILINE)
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for name, page in COPIED.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    files.append(File.generated(config, COMMANDS, content=commands()))
    linked = {target for page in files.documentation_pages() for target in _targets(page)}
    for name in sorted(linked - {None}):
        if not _page_of(name, files):
            files.append(
                File.generated(
                    config, _source(name), content=_text(name), inclusion=InclusionLevel.NOT_IN_NAV
                )
            )
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Turn the links to files of the repository into links to pages."""
    origin = _origin(page.file)

    def moved(match: re.Match[str]) -> str:
        name = _in_repository(origin, match["target"])
        if name is None:
            return match["target"]
        to = _page_of(name, files) or _source(name)
        return posixpath.relpath(to, posixpath.dirname(page.file.src_uri) or ".")

    return markdown if page.file.src_uri.startswith(SOURCE) else _LINK.sub(moved, markdown)


def _targets(page: File) -> Iterator[str | None]:
    origin = _origin(page)
    for match in _LINK.finditer(page.content_string):
        yield _in_repository(origin, match["target"])


def _origin(page: File) -> str:
    """The file of the repository that a page is made of."""
    copied = {to: name for name, to in COPIED.items()}
    return copied.get(page.src_uri, f"docs/{page.src_uri}")


def _in_repository(origin: str, target: str) -> str | None:
    """What a link means, from the root; None where nothing is there, which MkDocs then complains of."""
    name = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    return name if (ROOT / name).exists() and not name.startswith("..") else None


def _page_of(name: str, files: Files) -> str | None:
    """The page or picture of the site that shows a file of the repository."""
    if name in COPIED:
        return COPIED[name]
    inside = name.removeprefix("docs/")
    shown = files.get_file_from_path(inside) if inside != name else None
    if shown is not None and shown.inclusion.is_included():
        return inside
    return _reference_pages().get(name)


def _reference_pages() -> dict[str, str]:
    """Module file to the first reference page that documents something of it."""
    pages: dict[str, str] = {}
    for page in sorted((ROOT / "docs" / "reference").glob("*.md")):
        for match in _DOCUMENTED.finditer(page.read_text(encoding="utf-8")):
            module = Path(*match["name"].split("."))
            while module.parts and not (ROOT / module).with_suffix(".py").is_file():
                module = module.parent
            if module.parts:
                pages.setdefault(module.with_suffix(".py").as_posix(), f"reference/{page.name}")
    return pages


def _source(name: str) -> str:
    return f"{SOURCE}{name}.md"


def _text(name: str) -> str:
    """A page with the text of a file, or of all files below a directory."""
    place = ROOT / name
    kinds = {".py", ".yaml"}
    inside = sorted(path for path in place.rglob("*") if path.suffix in kinds) if place.is_dir() else [place]
    parts = [f"---\ntitle: {name}\nsearch:\n  exclude: true\n---\n\n# `{name}`\n"]
    for path in inside:
        if path != place:
            parts.append(f"## `{path.relative_to(place).as_posix()}`\n")
        language = _LANGUAGES.get(path.suffix, "text")
        parts.append(f"````` {language}\n{path.read_text(encoding='utf-8').rstrip()}\n`````\n")
    return "\n".join(parts)


def commands() -> str:
    """What ``launcher COMMAND --help`` says, of every command."""
    os.environ["COLUMNS"] = "86"  # As wide as the page.
    [verbs] = [one for one in cli._parser()._actions if isinstance(one, argparse._SubParsersAction)]
    parts = ["# Commands\n", f"{cli.__doc__}\n"]
    for name, verb in verbs.choices.items():
        parts.append(f"## launcher {name}\n\n````` text\n{verb.format_help().rstrip()}\n`````\n")
    return "\n".join(parts)
