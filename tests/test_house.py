"""The rules of the house that a machine can hold. Each is shown to fail on a planted case."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LONGEST_FILE = 350
LONGEST_FUNCTION = 60
NOT_OURS = re.compile(
    r"(^|/)(\.(?!ci/|github/|gitignore$|pre-commit)|__pycache__/|[^/]+\.egg-info/)|^(build|dist|site)/"
)
RUNS = re.compile(r"^(multirun_outputs/.+/|outputs/|multirun/|wandb/)")

MACHINE_PATH = re.compile(r"(?<![\w.~}-])/(?:home|root|work|Users)/\w")
REGISTRY = re.compile(r"index[-]url|pypi\.org|pythonhosted\.org|download\.pytorch\.org")


@cache
def house_files() -> tuple[Path, ...]:
    """Every file that is, or would be, tracked; without git, every file that is not a tool's or a run's."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        names = listed.stdout.split("\0")[:-1]
    else:
        every = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
        names = [name for name in every if not NOT_OURS.search(name) and not RUNS.search(name)]
    return tuple(ROOT / name for name in sorted(names) if (ROOT / name).is_file())


def texts(pattern: str) -> Iterator[tuple[str, str]]:
    for path in house_files():
        name = path.relative_to(ROOT).as_posix()
        if re.search(pattern, name):
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def misnamed(name: str, _: str) -> list[str]:
    return [f"{name}: name the subject"] if Path(name).name in ("utils.py", "helpers.py", "misc.py") else []


def logic_in_init(name: str, text: str) -> list[str]:
    if Path(name).name != "__init__.py":
        return []
    body = ast.parse(text).body
    if name == PUBLIC_NAMES:
        body = [node for node in body if not gives_names(node)]
    only_docstring = len(body) == 1 and ast.get_docstring(ast.parse(text)) is not None
    return [] if only_docstring else [f"{name}: more or less than a docstring"]


PUBLIC_NAMES = "launcher/__init__.py"
"""The one package that gives names: those of the public API, imported at their first use."""


def gives_names(node: ast.stmt) -> bool:
    """Whether a statement only says which names there are, for type checkers or for Python."""
    match node:
        case ast.ImportFrom(module="__future__" | "typing"):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=[]):
            return all(isinstance(each, ast.ImportFrom) for each in body)
        case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List()):
            return True
        case ast.FunctionDef(name="__getattr__"):
            return True
    return False


def long_file(name: str, text: str) -> list[str]:
    count = len(text.splitlines())
    return [f"{name}: {count} lines"] if count > LONGEST_FILE else []


def long_functions(name: str, text: str) -> list[str]:
    return [
        f"{name}:{node.lineno}: {node.name} has {length} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    ]


def places_of_one_machine(name: str, text: str) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for number, line in enumerate(text.splitlines(), start=1)
        if MACHINE_PATH.search(line) or REGISTRY.search(line)
    ]


Check = Callable[[str, str], list[str]]
RULES: tuple[tuple[Check, str], ...] = (
    (misnamed, r"\.py$"),
    (logic_in_init, r"^launcher/.*\.py$"),
    (long_file, r"^launcher/.*\.py$"),
    (long_functions, r"^launcher/.*\.py$"),
    (places_of_one_machine, r""),
)


@pytest.mark.parametrize(("check", "pattern"), RULES, ids=lambda value: getattr(value, "__name__", ""))
def test_the_house_keeps_its_rules(check: Check, pattern: str) -> None:
    examined = list(texts(pattern))
    assert examined
    assert [complaint for name, text in examined for complaint in check(name, text)] == []


@pytest.mark.parametrize(
    ("check", "name", "text"),
    [
        (misnamed, "launcher/branch/utils.py", ""),
        (logic_in_init, "launcher/branch/__init__.py", '"""Doc."""\nfrom launcher import x\n'),
        (logic_in_init, "launcher/branch/__init__.py", ""),
        (logic_in_init, "launcher/branch/__init__.py", '"""Doc."""\ndef __getattr__(name): ...\n'),
        (logic_in_init, "launcher/__init__.py", '"""Doc."""\nfrom launcher.decorator import main\n'),
        (logic_in_init, "launcher/__init__.py", '"""Doc."""\nimport torch\n'),
        (long_file, "launcher/x.py", "\n" * (LONGEST_FILE + 1)),
        (long_functions, "launcher/x.py", "class A:\n  def f():\n" + "    x = 1\n" * LONGEST_FUNCTION),
        (places_of_one_machine, "docs/x.md", "see /" + "home/me/data"),
        (places_of_one_machine, ".ci/run", "cd /" + "work/main"),
        (places_of_one_machine, "Makefile", "pip install --index" + "-url x"),
    ],
)
def test_a_planted_fault_is_found(check: Check, name: str, text: str) -> None:
    assert len(check(name, text)) == 1


@pytest.mark.parametrize("text", ["docs/home/x", "~/work/x", "https://example.org/home/x", "$HOME/work/x"])
def test_other_paths_are_left_alone(text: str) -> None:
    assert places_of_one_machine("docs/x.md", text) == []


CONF_FILES = sorted((ROOT / "conf").rglob("*.y*ml"))


@pytest.mark.parametrize("path", CONF_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_conf_file_parses(path: Path) -> None:
    assert path.suffix == ".yaml"
    OmegaConf.load(path)


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins)
    return {canonicalize_name(name): version for name, version in pins}


def test_every_dependency_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    pins = constraints()
    for text in [*project["dependencies"], *(each for extra in extras for each in extra)]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            continue  # An extra made of others.
        assert canonicalize_name(requirement.name) in pins, f"{text} has no line in constraints.txt"
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text


def test_no_pin_asks_for_one_build() -> None:
    assert [f"{name}=={version}" for name, version in constraints().items() if "+" in version] == []


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_of_the_runs_only_the_page_about_them_is_tracked(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("README.md", "group/run-1/run.json", "group/README.md"):
        path = tmp_path / "multirun_outputs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert listed.stdout.split() == [".gitignore", "multirun_outputs/README.md"]
