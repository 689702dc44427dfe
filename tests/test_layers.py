"""Imports point down only, and looking at runs stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("findings",),
    ("handlers", "interpreter", "layout", "messages", "process", "validation"),
    ("config", "files"),
    ("differences", "lease", "schema"),
    ("training", "checkpoint", "trackers", "lineage"),
    ("sources", "ledger", "script"),
    ("branch", "report", "launchers"),
    ("publishing", "search", "taking"),
    ("shards",),
    ("recording", "canary"),
    ("session",),
    ("run", "fanout"),
    ("job",),
    ("composition",),
    ("sweep", "commands"),
    ("search_sweep",),
    ("cli", "entry"),
    ("decorator", "integrations"),
)
"""Bottom to top. A part may import itself and every part of the layers below, and none beside it."""

PUBLIC = ("decorator", "script.run")
"""Where the names of ``launcher`` itself come from."""

TASKS: Mapping[str, tuple[str, ...]] = {"peptide": ("errors", "files", "config", "training.task")}
"""What a task may import: public interfaces. Nothing imports a task but ``train.py`` and the tests."""

ONLY_IN: Mapping[str, tuple[str, ...]] = {
    "wandb": ("launcher.trackers.wandb", "launcher.sources.wandb"),
    "mlflow": ("launcher.trackers.mlflow", "launcher.sources.mlflow"),
    "tensorboard": ("launcher.trackers.tensorboard",),
    "trackio": ("launcher.trackers.trackio",),
    "wandb_workspaces": ("launcher.trackers.wandb",),
    "fsspec": ("launcher.sources.filesystem",),
    "requests": ("launcher.sources.http", "launcher.launchers.custom_jobs.client"),
    "pyteomics": ("launcher.peptide",),
    "jinja2": ("launcher.report.html.page",),
    "matplotlib": ("launcher.report.figures",),
    "plotly": ("launcher.report.html.library",),
    "safetensors": ("launcher.checkpoint.formats",),
    "google": ("launcher.launchers.custom_jobs.client",),
    "optuna": ("launcher.search",),
    "lightning": ("launcher.integrations.lightning", "launcher.integrations.lightning_state"),
    "transformers": ("launcher.integrations.transformers",),
}

HEAVY = (
    "torch", "wandb", "wandb_workspaces", "tensorboard", "mlflow", "trackio", "pyteomics", "jinja2",
    "matplotlib", "plotly", "safetensors", "fsspec", "requests", "google.cloud.aiplatform_v1", "optuna",
    "lightning", "transformers",
)  # fmt: skip
LIGHT = (
    "errors.py", "findings.py", "layout.py", "config.py", "files.py", "differences.py", "lease.py",
    "lineage.py", "ledger/*.py", "checkpoint/formats/known.py", "checkpoint/manifest.py",
    "checkpoint/store.py", "trackers/*.py", "trackers/*/*.py", "sources/*.py", "report/*.py", "report/*/*.py",
    "launchers/pool.py", "launchers/vertex.py", "launchers/custom_jobs/s*.py", "fanout/jobs.py", "cli.py",
    "decorator.py", "entry.py",
    "commands/*.py",
)  # fmt: skip
"""Files of launcher/ that are used where a run is only looked at, at the speed of a shell command."""


def modules(root: Path) -> dict[str, str]:
    """Source by module name: the package and the door."""
    found = {"train": root / "train.py"} if (root / "train.py").exists() else {}
    for path in sorted((root / "launcher").rglob("*.py")):
        found[module_name(path, root)] = path
    return {name: path.read_text(encoding="utf-8") for name, path in found.items()}


def module_name(path: Path, root: Path) -> str:
    # A package keeps its __init__, so that relative imports count from the right place.
    return ".".join(path.relative_to(root).with_suffix("").parts)


def imports(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            package = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{package}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            literals = [each.value for each in node.args if isinstance(each, ast.Constant)]
            yield from ((node.lineno, str(name)) for name in literals)


def part_of(name: str) -> str:
    """``checkpoint`` for ``launcher.checkpoint.store``."""
    return name.split(".")[1] if "." in name else ""


def allowed(part: str) -> tuple[str, ...]:
    if part in TASKS:
        return (*TASKS[part], part)
    below: list[str] = []
    for layer in LAYERS:
        if part in layer:
            return (*below, part)
        below.extend(layer)
    raise AssertionError(f"{part} is not in the map")


def is_in(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def violations(sources: Mapping[str, str]) -> list[str]:
    placed = {part for layer in LAYERS for part in layer} | set(TASKS) | {"__init__"}
    wrong = []
    for module, source in sources.items():
        part = part_of(module)
        if module != "train" and part not in placed:
            wrong.append(f"{module} has no place in the map of {Path(__file__).name}")
            continue
        for line, name in imports(source, module):
            where = f"{module}:{line} imports {name}"
            homes = ONLY_IN.get(name.split(".")[0], ())
            if homes and not any(is_in(module, home) for home in homes):
                wrong.append(f"{where}; only {' or '.join(homes)} does")
            if not is_in(name, "launcher") or module == "train":
                continue
            permitted = PUBLIC if part == "__init__" else allowed(part)
            if not any(is_in(name, f"launcher.{each}") for each in permitted):
                wrong.append(f"{where}; {part} may import only {', '.join(permitted)}")
    return wrong


def test_imports_point_down_only() -> None:
    assert violations(modules(ROOT)) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("launcher.errors", "from launcher.files import write_json", "launcher.errors:1 imports"),
        ("launcher.findings", "import launcher.layout", "findings may import only errors, findings"),
        ("launcher.config", "from launcher import files", "imports launcher.files"),
        ("launcher.files", "def f():\n    from launcher.config import Config\n", "launcher.files:2"),
        ("launcher.checkpoint.store", "from ..training import loop", "imports launcher.training.loop"),
        ("launcher.checkpoint.store", "from .. import lineage", "imports launcher.lineage"),
        ("launcher.checkpoint.__init__", "from ..training import loop", "imports launcher.training.loop"),
        ("launcher.trackers.base", "import importlib\nimportlib.import_module('launcher.run')", ":2 imports"),
        ("launcher.branch.ledger", "from launcher.report.compare import x", "imports launcher.report"),
        ("launcher.report.html", "import launcher.branch", "imports launcher.branch"),
        ("launcher.run", "import launcher.cli", "imports launcher.cli"),
        ("launcher.run", "from launcher.peptide import masses", "imports launcher.peptide.masses"),
        ("launcher.run", "import launcher", "imports launcher;"),
        ("launcher.peptide.model", "from launcher.training.loop import x", "imports launcher.training.loop"),
        ("launcher.peptide.model", "from launcher.layout import x", "imports launcher.layout"),
        ("launcher.helpers", "", "launcher.helpers has no place"),
        (
            "launcher.trackers.base",
            "import wandb",
            "only launcher.trackers.wandb or launcher.sources.wandb does",
        ),
        (
            "launcher.trackers.wandb",
            "import mlflow.tracking",
            "only launcher.trackers.mlflow or launcher.sources.mlflow does",
        ),
        ("launcher.training.loop", "from pyteomics.mass import x", "only launcher.peptide does"),
        ("launcher.report.tree", "from matplotlib.figure import Figure", "only launcher.report.figures does"),
        ("train", "import wandb", "only launcher.trackers.wandb or launcher.sources.wandb does"),
        ("launcher.__init__", "from launcher import errors", "imports launcher.errors"),
        ("launcher.__init__", "from launcher.run import run", "imports launcher.run.run"),
        ("launcher.entry", "from launcher.decorator import main", "imports launcher.decorator.main"),
        ("launcher.branch.plan", "import launcher.session.source", "imports launcher.session.source"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, complaint: str) -> None:
    found = violations({module: source})
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("launcher.peptide.task", "from launcher.training.task import Task\nfrom .model import Model"),
        ("launcher.peptide.masses", "import pyteomics.mass"),
        ("launcher.peptide.task", "from launcher.training import task"),
        ("launcher.trackers.wandb", "def f():\n    import wandb.sdk\n"),
        ("launcher.run", "import launcher.trackers.base, torch\nfrom launcher import lineage, files"),
        ("train", "import launcher.peptide.task"),
        ("launcher.__init__", "from launcher.decorator import main"),
    ],
)
def test_what_is_permitted_is_not_complained_about(module: str, source: str) -> None:
    assert violations({module: source}) == []


def light_modules() -> list[str]:
    paths = [path for pattern in LIGHT for path in sorted((ROOT / "launcher").glob(pattern))]
    return [module_name(path, ROOT).removesuffix(".__init__") for path in paths]


def heavy_after(*statements: str) -> list[list[str]]:
    """What is imported of what is heavy after each of some statements, in one new interpreter."""
    code = "\n".join(f"{one}\nprint(*({{*{HEAVY!r}}} & {{*sys.modules}}))" for one in statements)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_looking_at_runs_imports_nothing_heavy() -> None:
    light = light_modules()
    found = heavy_after(*(f"import {module}" for module in light))
    assert next((one for one in zip(light, found, strict=True) if one[1]), None) is None


def test_the_public_names_are_imported_at_their_first_use() -> None:
    nothing, at_first_use = heavy_after(
        "import launcher; launcher.__all__; assert not hasattr(launcher, 'run_job')",
        "assert callable(launcher.main) and launcher.Run.steps",
    )
    assert nothing == []
    assert "torch" in at_first_use


def test_a_heavy_import_is_seen() -> None:
    assert heavy_after("import json", "import pyteomics.mass") == [[], ["pyteomics"]]
