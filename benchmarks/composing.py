"""Composing and checking many siblings, against Hydra composing as many jobs, which it does twice each.

Ours is the dry run: every sibling is composed, planned and checked whole, and shown. Hydra's is what its
basic sweeper and launcher do before a job starts: composing all, and each again. Both in processes of their
own, imports left out. Run: python -m benchmarks.composing [--quick] [--siblings 1000]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.fanning import LOG_EVERY, TRUNK, Setting
from benchmarks.paired import child
from benchmarks.report import command_line, median, save
from benchmarks.setting import ROOT

BAR = 1.0


def overrides(setting_checkpoint: str, outputs: str) -> list[str]:
    """What every sibling has."""
    return [
        *TRUNK[1:], LOG_EVERY, f"branch.from_checkpoint={setting_checkpoint}",
        "branch.steps=100", f"paths.outputs={outputs}",
    ]  # fmt: skip


def prepared(fixed: list[str]) -> tuple[object, object, list[list[str]]]:
    """Hydra's loader and base config, as ``train.py -m`` has them when the sweeper begins."""
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.types import RunMode

    from launcher.entry import register
    from launcher.peptide import config as peptide_config

    register()
    peptide_config.register()
    hydra = Hydra.create_main_hydra2(
        task_name="train", config_search_path=create_config_search_path(str(ROOT / "conf"))
    )
    base = hydra.compose_config(config_name="config", overrides=fixed, run_mode=RunMode.MULTIRUN)
    return hydra, base, []


def ours(fixed: list[str], count: int) -> dict[str, float]:
    """Seconds of composing and of checking."""
    import launcher.fanout.launch  # noqa: F401  # Imports are not what is measured.
    from launcher.composition import Composer
    from launcher.fanout.check import Candidate, check

    hydra, base, _ = prepared(fixed)
    started = time.perf_counter()
    composer = Composer(hydra.config_loader, base)  # type: ignore[attr-defined, arg-type]
    candidates = []
    for index in range(count):
        swept = f"optimizer.lr={(index + 1) * 1e-6:.6f}"
        made = composer.compose([*fixed, swept])
        candidates.append(Candidate(made.overrides, (swept,), made.config, made.declared))
    composed = time.perf_counter()
    check(candidates, remote=False)
    checked = time.perf_counter()
    bad = [one for one in candidates if not one.good]
    assert not bad, bad[0].findings
    return {"compose_s": composed - started, "check_s": checked - composed}


def hydras(fixed: list[str], count: int) -> dict[str, float]:
    """Seconds of composing every job twice."""
    hydra, base, _ = prepared(fixed)
    started = time.perf_counter()
    for _ in range(2):
        for index in range(count):
            jobs = [*fixed, f"optimizer.lr={(index + 1) * 1e-6:.6f}"]
            hydra.config_loader.load_sweep_config(base, jobs)  # type: ignore[attr-defined]
    return {"compose_s": time.perf_counter() - started}


def main() -> None:
    parser = command_line(__doc__, rounds=3)
    parser.add_argument("--siblings", type=int, default=1000)
    parser.add_argument("--part", choices=("ours", "hydras"))
    parser.add_argument("--fixed", default="[]")
    options = parser.parse_args()
    if options.part:
        way = ours if options.part == "ours" else hydras
        print(json.dumps(way(json.loads(options.fixed), options.siblings)))
        return
    count = 10 if options.quick else options.siblings
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as directory:
        setting = Setting(Path(directory))
        fixed = json.dumps(overrides(str(setting.checkpoint), f"{directory}/outputs"))
        for _ in range(1 if options.quick else options.rounds):
            arguments = ["--siblings", str(count), "--fixed", fixed]
            parts = ("ours", "hydras")
            rounds.append({part: child("benchmarks.composing", "--part", part, *arguments) for part in parts})
    ratios = [sum(one["ours"].values()) / sum(one["hydras"].values()) for one in rounds]
    spent = {name: median(one["ours"][name] for one in rounds) for name in rounds[0]["ours"]}
    save(
        "composing",
        {"siblings": count, "ratio": median(ratios), "bar": BAR, "parts_s": spent, "rounds": rounds},
        f"composing and checking {count} siblings: {median(ratios):.2f} of Hydra's composing (bar: at most "
        f"{BAR}); composing {spent['compose_s']:.1f} s, checking {spent['check_s']:.1f} s",
        quick=options.quick,
    )


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    main()
