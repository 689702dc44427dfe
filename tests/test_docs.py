"""The pages: each is in the navigation, every link leads somewhere, and the site can be built."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.version import Version
from pymdownx.slugs import slugify

from docs.pages import COMMANDS, COPIED
from tests.tiny_process import ROOT

PAGES = [*(ROOT / name for name in COPIED), *sorted((ROOT / "docs").rglob("*.md"))]
_FENCED = re.compile(r"^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`+[^`]*`+")
_LINK = re.compile(r"\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)


class Loader(yaml.SafeLoader):
    """Knows nothing of what MkDocs calls by name."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def navigation(entry: object) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        yield from navigation(list(entry.values()))
    elif isinstance(entry, list):
        for one in entry:
            yield from navigation(one)


def test_every_page_is_in_the_navigation_once() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(navigation(settings["nav"])) == sorted({*pages, *COPIED.values(), COMMANDS})


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    make = slugify(case="lower")
    plain = (
        re.sub(r"[`*]|\]\([^)]*\)|\[", "", one["text"]) for one in _HEADING.finditer(_FENCED.sub("", text))
    )
    return {make(one, "-") for one in plain}


def broken(page: Path, text: str) -> list[str]:
    """Links of a page that lead nowhere on this disk."""
    wrong = []
    for match in _LINK.finditer(_CODE.sub("", _FENCED.sub("", text))):
        target, anchor = match["target"], (match["anchor"] or "")[1:]
        if "://" in target:
            continue
        path = page.parent / target if target else page
        if not path.exists():
            wrong.append(f"{page.name}: {match[0]}")
        # What begins with a module is an anchor that the site makes of a docstring; the build checks it.
        elif anchor and path.suffix == ".md" and not anchor.startswith("launcher."):
            there = text if path == page else path.read_text()
            if anchor not in anchors(there):
                wrong.append(f"{page.name}: {match[0]}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


@pytest.mark.parametrize("link", ["[x](gone.md)", "[x](exactness.md#gone)", "[x](#gone)", "![x](gone.png)"])
def test_a_link_to_nowhere_is_found(link: str) -> None:
    page = ROOT / "docs" / "fanout.md"
    assert len(broken(page, f"# Here\n\n{link}\n")) == 1
    assert broken(page, f"# Here\n\n`{link}`, [x](exactness.md#several-processes), [x](#here)\n") == []


def knobs() -> Iterator[tuple[str, str]]:
    """Each key of the config with the first words of what is said of it."""
    tree = ast.parse((ROOT / "launcher" / "config.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for field, said in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(said, ast.Expr):
                    assert isinstance(said.value, ast.Constant)
                    words = re.split(r"[`<>&:'\"\n]", str(said.value.value).lstrip("`"))[0]
                    yield f"launcher.config.{node.name}.{ast.unparse(field.target)}", words


def test_the_site_is_built_without_a_warning_and_has_every_knob(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "config.html").read_text()
    found = list(knobs())
    assert found
    missing = [key for key, words in found if f'id="{key}"' not in page or words not in page]
    assert missing == []
    asked = re.findall(r'(?:src|href)="(?:https?:)?//(?!keepachangelog|semver|optuna)[^"]*"', page)
    assert asked == []


def test_what_the_guides_import_is_in_the_reference() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    shown = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    named = set(re.findall(r"^from (launcher[\w.]*) import (.+)$", text, re.MULTILINE))
    wanted = {(module, name.strip()) for module, names in named for name in names.split(",")}
    assert ("launcher.integrations.lightning", "fit") in wanted
    entries = set(re.findall(r"^::: (\S+)$", shown, re.MULTILINE))
    assert [one for one in sorted(wanted) if not entries & {one[0], ".".join(one)}] == []


SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_changelog_has_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})", one) for one in versions[1:]]
    assert all(released)
    order = [Version(one[1]) for one in released if one]
    assert order == sorted(order, reverse=True)
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= SECTIONS
    [own] = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert all(version <= Version(own) for version in order)
