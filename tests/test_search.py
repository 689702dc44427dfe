"""A search from a checkpoint: Optuna chooses, siblings run, and a kill loses nothing and doubles nothing."""

from __future__ import annotations

import json
import math
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from launcher.checkpoint.store import checkpoints
from launcher.errors import ConfigError
from launcher.launchers.jobs import wait
from launcher.launchers.jobs.queries import JobState
from launcher.launchers.sibling import Sibling
from launcher.lineage import Run
from launcher.search.space import corners, distribution_of, grid, overrides_of
from launcher.search.study import NAME, storage
from launcher.search_sweep.sweeper import SearchSweeper, refuse_metric
from launcher.sweep import BranchSweeper
from tests import tiny_faults
from tests.tiny_process import Ended, Tiny, digest
from tests.tiny_records import put, record

BEST = 3e-3
PLANTED = partial(tiny_faults.plant_best_rate, BEST)
RATE = "optimizer.lr=tag(log,interval(1e-5,1e-1))"
SEARCH = (
    "-m", "hydra/sweeper=optuna", "branch.from_step=20", "branch.steps=20", "training.validate_every=5", RATE,
    "hydra.sweeper.metric=val/error", "+hydra.sweeper.sampler_options.n_startup_trials=4",
)  # fmt: skip
GROUP = "checkpoint-20-experiments"


def search(tiny: Tiny, *overrides: str, prepare: tuple[Any, ...] = (), **options: Any) -> Ended:
    return tiny.launch(*SEARCH, *overrides, prepare=[PLANTED, *prepare], **options)


def trials(tiny: Tiny) -> list[FrozenTrial]:
    [journal] = (tiny.outputs / GROUP).glob("*.journal")
    return optuna.load_study(study_name=NAME, storage=storage(journal)).trials


def told(tiny: Tiny) -> list[tuple[str, dict[str, Any], float | None, dict[int, float], str]]:
    """Everything of a study that does not tell the time."""
    return [
        (one.state.name, one.params, one.value, one.intermediate_values, one.user_attrs["run"])
        for one in trials(tiny)
    ]


def branches(tiny: Tiny) -> dict[str, Run]:
    return {run.id: run for run in tiny.runs() if run.record.kind == "branch"}


@pytest.fixture(scope="module")
def searched(trained: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, Ended]:
    """A search of eight trials, one after another, that nothing disturbed."""
    tiny = Tiny(tmp_path_factory.mktemp("searched") / "outputs")
    shutil.copytree(trained.outputs, tiny.outputs)
    return tiny, search(tiny, "hydra.sweeper.trials=8")


def test_finds_the_best_rate_among_siblings(searched: tuple[Tiny, Ended]) -> None:
    tiny, ended = searched
    assert ended.status == 0, ended.err
    best = min(trials(tiny), key=lambda one: one.value or math.inf)
    assert abs(math.log10(best.params["optimizer.lr"] / BEST)) < 0.25
    runs = branches(tiny)
    assert {one.user_attrs["run"] for one in trials(tiny)} == set(runs)
    assert {run.record.group for run in runs.values()} == {GROUP}
    assert len({run.record.parent.sha256 for run in runs.values() if run.record.parent}) == 1
    [fanout] = json.loads((tiny.outputs / GROUP / "fanout.json").read_text())["fanouts"]
    assert {each["run"] for each in fanout["siblings"]} == set(runs)
    own = runs[best.user_attrs["run"]]
    assert own.record.metrics["val/error"] == best.value
    command = next(one for one in ended.commands() if "-m" not in one)
    assert set(overrides_of(best.params)) <= set(command)
    # What the printed command means is that very run.
    assert own.id in tiny.launch(*command, prepare=[PLANTED]).said
    assert set(branches(tiny)) == set(runs)


def test_killed_anywhere_ends_as_if_nothing_had_happened(searched: tuple[Tiny, Ended], tiny: Tiny) -> None:
    kills = (
        ("launcher.search.space:suggest", 3),
        ("launcher.fanout.launch:write_launches", 2),
        ("launcher.recording:Recording.save", 3),
        ("launcher.recording:Recording.finish", 1),
        ("launcher.search.study:Study.tell", 2),
    )
    for where, call in kills:
        ended = search(
            tiny, "hydra.sweeper.trials=8", prepare=(partial(tiny_faults.kill_in, where, "SIGKILL", call),)
        )
        assert ended.status == 137, (where, ended.err)
    ended = search(tiny, "hydra.sweeper.trials=8")
    assert ended.status == 0, ended.err
    undisturbed, _ = searched
    assert told(tiny) == told(undisturbed)
    for name, run in branches(undisturbed).items():
        assert digest(branches(tiny)[name]) == digest(run)
    # And a search that is over is over.
    before = set(branches(tiny))
    assert search(tiny, "hydra.sweeper.trials=8").status == 0
    assert set(branches(tiny)) == before
    assert len(trials(tiny)) == 8


def test_side_by_side_and_pruned_at_equal_steps(tiny: Tiny) -> None:
    method = ("hydra.sweeper.sampler=random", "~hydra.sweeper.sampler_options.n_startup_trials")
    ended = search(
        tiny, *method, "hydra.sweeper.trials=6", "hydra.sweeper.parallel=2", "hydra/launcher=pool",
        "hydra.launcher.slots=2", "hydra.sweeper.pruner=median", "fanout.control=true",
        "+hydra.sweeper.pruner_options.n_startup_trials=2",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    first = re.findall(r": (started|finished|pruned)\b", ended.err)
    assert first[:2] == ["started", "started"]
    kinds = [one.state.name for one in trials(tiny)]
    assert kinds[:2] == ["COMPLETE", "COMPLETE"]
    assert "PRUNED" in kinds
    runs = branches(tiny)
    assert [run.record.branch_type for run in runs.values()].count("control") == 1
    pruned = [runs[one.user_attrs["run"]] for one in trials(tiny) if one.state.name == "PRUNED"]
    for run in pruned:
        assert run.record.state == "pruned"
        assert run.record.error is None
        assert run.record.step == run.record.start_step + 5
        assert [path.name for path in checkpoints(run.directory.checkpoints)] == ["checkpoint_step_25.pt"]
    compared = tiny.launcher("compare", GROUP)
    assert f"left out: {', '.join(sorted(run.id for run in pruned))}" in compared.said
    assert "pruned" in tiny.launcher("status", GROUP).said
    # Nobody takes a pruned one up by the way, but its own command does.
    assert tiny.launcher("retry", GROUP).said.count("running") == 0
    typed = ("branch.from_step=20", "branch.steps=20", "training.validate_every=5")
    rate = f"optimizer.lr={pruned[0].record.differences['optimizer.lr'][1]!r}"
    again = tiny.train(*typed, rate, prepare=[PLANTED])
    assert again.id == pruned[0].id
    alone = Tiny(tiny.outputs.parent / "alone")
    shutil.copytree(tiny.outputs / "trunks", alone.outputs / "trunks")
    assert digest(alone.train(*typed, rate, prepare=[PLANTED])) == digest(again)


def test_on_slurm_the_search_waits_and_a_pruned_job_ended_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = OmegaConf.create({"hydra": {"launcher": {"wait": False}}})
    monkeypatch.setattr(BranchSweeper, "setup", lambda *_, **__: None)
    # Hydra's look for plugins in an earlier test may have made Hydra's classes anew: nothing is constructed.
    object.__new__(SearchSweeper).setup(hydra_context=None, task_function=None, config=config)  # type: ignore[arg-type]
    assert config.hydra.launcher.wait is True
    monkeypatch.setattr(wait, "CERTAIN_SECONDS", 0.0)
    monkeypatch.setattr(
        wait, "states", lambda jobs: {job: JobState(job, "COMPLETED", listed=False) for job in jobs}
    )
    siblings = []
    for state in ("pruned", "interrupted"):
        place = put(tmp_path, record(state, "trunk", 20, state=state)).parent
        siblings.append(Sibling(state, place, 40))
    ended = wait.wait_for(siblings, {"pruned": "1_0", "interrupted": "1_1"}, stop_on_failure=False)
    assert {name: one.status for name, one in ended.items()} == {"pruned": 0, "interrupted": 1}


def test_a_trial_that_fails_is_counted_and_the_others_go_on(tiny: Tiny) -> None:
    ended = tiny.launch(
        "-m", "hydra/sweeper=optuna", "branch.from_step=20", "hydra.sweeper.metric=val/error",
        "hydra.sweeper.sampler=grid", "loss.nan_at_step=0,30", "optimizer.lr=0.001,0.002",
    )  # fmt: skip
    assert ended.status == 1
    found = {tuple(one.params.values()): one.state.name for one in trials(tiny)}
    assert found == {
        ("0", "0.001"): "COMPLETE", ("0", "0.002"): "COMPLETE",
        ("30", "0.001"): "FAIL", ("30", "0.002"): "FAIL",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["hydra.sweeper.metric=null"], "A search needs a metric."),
        (["hydra.sweeper.metric=val/accuracy"], "The trunk does not log val/accuracy."),
        (["hydra.sweeper.metric=train/learning_rate"], "which way train/learning_rate is better"),
        (["fanout.repeats=2"], "fanout.repeats is not for a search."),
        (["loss=plain,hevy"], "hevy"),
        (["hydra.sweeper.sampler=grid"], "A grid has listed values only."),
        (["hydra.sweeper.pruner=mode"], "expected: none median asha"),
        (["+hydra.sweeper.pruner_options.patience=3"], "NopPruner"),
    ],
)
def test_refuses_before_the_first_trial(tiny: Tiny, typed: list[str], complaint: str) -> None:
    assert complaint in tiny.refuse(*SEARCH, *typed, prepare=[PLANTED]).said


def test_what_was_not_validated_before_the_branch_point_may_be_searched_for() -> None:
    refuse_metric("val/error", ["train/loss", "train/error"])
    refuse_metric("val/error", ["train/loss", "val/error"])
    for metric, logged in (("val/eror", "val/error"), ("train/eror", "train/error"), ("eror", "train/error")):
        with pytest.raises(ConfigError, match="does not log"):
            refuse_metric(metric, ["train/loss", logged])


def test_needs_optuna_only_here(tiny: Tiny) -> None:
    without = tiny_faults.WithoutPackage("optuna")
    assert "[search]" in tiny.refuse(*SEARCH, prepare=[without]).said
    assert tiny.launch("-m", "branch.from_step=20", "optimizer.lr=0.002", prepare=[without]).status == 0


def test_sweeps_are_distributions() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    def of(text: str) -> Any:
        return distribution_of(OverridesParser.create().parse_override(text))

    assert of("a=int(interval(1,8))") == IntDistribution(1, 8)
    assert of("a=tag(log,interval(1e-5,1e-2))") == FloatDistribution(1e-5, 1e-2, log=True)
    assert of("a=range(1,10,3)") == IntDistribution(1, 7, step=3)
    assert of("a=range(0.5,2.0,0.5)") == FloatDistribution(0.5, 1.5, step=0.5)
    assert of("a=x,y,x") == CategoricalDistribution(["x", "y"])
    assert of("a=choice(1,b)") == CategoricalDistribution(["1", "b"])
    space = {"a": of("a=interval(0.0,1.0)"), "b": of("b=x,y,z")}
    assert [overrides_of(one) for one in corners(space)] == [
        ["a=0.0", "b=x"], ["a=1.0", "b=y"], ["a=0.0", "b=z"],
    ]  # fmt: skip
    assert overrides_of({"a": 0.1 + 0.2, "b": 1.0, "c": 7, "d": 1 / 3e5}) == [
        "a=0.3", "b=1.0", "c=7", "d=3.33333e-06",
    ]  # fmt: skip
    assert grid({"a": of("a=range(0.5,2.0,0.5)")}) == {"a": [0.5, 1.0, 1.5]}
