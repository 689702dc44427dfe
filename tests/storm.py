"""Storms: faults at random moments, the same ones for the same seed, and what has to be left after them."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.checkpoint.store import checkpoints
from launcher.checkpoint.verify import verify_file
from launcher.layout import checkpoint_file
from launcher.lease import holder
from launcher.lineage import Run
from tests.tiny_process import Tiny, digest, metrics

SIBLINGS = 8
POINT_STEP = 25
GROUP = f"checkpoint-{POINT_STEP}-experiments"
SLOW_UNTIL = "TINY_SLOW_UNTIL"
RATES = tuple(f"0.00{1 + number}" for number in range(SIBLINGS))


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    at: float
    """Seconds after the storm began."""
    kind: str
    target: int
    """A number from 0 to 999; what it means is the kind's."""
    seconds: float
    """How long it lasts, where it lasts."""

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.kind}  {self.target}  {self.seconds:.1f} s"


def forecast(
    seed: int, seconds: float, weights: Mapping[str, int], longest: float, every: float = 1.0
) -> list[Fault]:
    """The faults of a storm, about one ``every`` so many seconds: a pure function of the arguments.

    The first faults are one of each kind, in random order.
    """
    drawn = random.Random(seed)
    kinds = list(weights)
    first = drawn.sample(kinds, len(kinds))
    faults, now = [], 0.0
    while (now := now + every * drawn.uniform(0.3, 1.7)) < seconds:
        [kind] = [first.pop()] if first else drawn.choices(kinds, list(weights.values()))
        faults.append(Fault(round(now, 3), kind, drawn.randrange(1000), round(drawn.uniform(1, longest), 3)))
    return faults


@dataclass(frozen=True)
class Family:
    """Siblings of the tiny task from step 25 of one trunk, and the same ones in fair weather."""

    tiny: Tiny
    alone: Tiny
    steps: int
    rates: tuple[str, ...] = RATES
    """One for each sibling."""

    @classmethod
    def begun(cls, place: Path, steps: int, siblings: int = SIBLINGS) -> Family:
        """A trunk of so many steps, twice."""
        family = cls(Tiny(place / "outputs"), Tiny(place / "alone"), steps, RATES[:siblings])
        family.tiny.train(*family.length, environment={SLOW_UNTIL: ""})
        shutil.copytree(family.tiny.outputs, family.alone.outputs)
        return family

    @property
    def length(self) -> tuple[str, ...]:
        """The overrides of trunk and siblings."""
        return f"training.steps={self.steps}", f"checkpoint.every={POINT_STEP}", "training.validate_every=50"

    def typed(self, rates: Sequence[str] = ()) -> tuple[str, ...]:
        """The command for these siblings, or for all."""
        point, swept = f"branch.from_step={POINT_STEP}", f"optimizer.lr={','.join(rates or self.rates)}"
        return "-m", point, *self.length, "checkpoint.keep_last=3", "checkpoint.keep_every=100", swept

    def siblings(self) -> list[Run]:
        """In the order of their rates."""
        return sorted(
            (run for run in self.tiny.runs() if run.record.kind == "branch"), key=lambda run: run.id
        )

    def check(self, ids: Sequence[str], beside: Sequence[str] = ()) -> None:
        """Everything is as if there had been no storm.

        Args:
            ids: of the siblings, before the storm.
            beside: what else a launcher leaves in the group's directory.
        """
        undisturbed = self.alone.launch(
            *self.typed(), "hydra/launcher=pool", "hydra.launcher.slots=2", environment={SLOW_UNTIL: ""}
        )
        assert undisturbed.status == 0, undisturbed.said
        expected = {run.id: run for run in self.alone.runs() if run.record.kind == "branch"}
        found = {run.id: run for run in self.siblings()}
        assert list(found) == list(ids) == sorted(expected)
        there = {path.name for path in (self.tiny.outputs / GROUP).iterdir()}
        assert there == {*ids, "fanout.json", *beside}
        for name, run in found.items():
            self._check_one(run, expected[name])

    def _check_one(self, run: Run, undisturbed: Run) -> None:
        record = run.record
        assert (record.state, record.step, record.error) == ("finished", self.steps, None), run.id
        assert record.id == run.directory.path.name
        assert digest(run, self.steps) == digest(undisturbed, self.steps), f"{run.id} ended elsewhere"
        lines = metrics(run)
        assert list(lines) == list(range(POINT_STEP + 1, self.steps + 1)), f"{run.id}: steps are missing"
        assert plain(lines) == plain(metrics(undisturbed)), f"{run.id}: other metrics"
        assert names(run) == names(undisturbed), f"{run.id}: stray files"
        self._check_checkpoints(run)
        last = holder(run.directory)
        assert last is not None
        assert last.released
        tokens = [start.token for start in record.starts]
        assert tokens == sorted(set(tokens))

    def _check_checkpoints(self, run: Run) -> None:
        place = run.directory.checkpoints
        kept = [path.name for path in checkpoints(place)]
        assert kept[-1] == checkpoint_file(self.steps)
        files = [name for each in kept for name in (each, each.replace(".pt", ".json"))]
        assert sorted(path.name for path in place.iterdir()) == sorted(files), f"{run.id}: half a checkpoint"
        for name in kept:
            verify_file(place / name)


def plain(lines: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Metrics without what is measured with a clock."""
    return [
        {key: value for key, value in line.items() if "second" not in key and "time" not in key}
        for line in lines.values()
    ]


def names(run: Run) -> set[str]:
    """Everything in a run's directory but its checkpoints, whatever its token is."""
    paths = (path.relative_to(run.directory.path).as_posix() for path in run.directory.path.rglob("*"))
    # What a process left that died in the moment of taking a token is removed by a start a minute later.
    return {
        re.sub(r"^\.lease/\d+", ".lease/TOKEN", path)
        for path in paths
        if not re.match(r"checkpoints/|\.lease/(new|now)-", path)
    }


@dataclass
class Log:
    """What a storm did, in order."""

    tell: Callable[[str], object] = print

    def __post_init__(self) -> None:
        self.done: Counter[str] = Counter()
        """Faults that found somebody, by kind."""

    def note(self, fault: Fault, what: str | None) -> None:
        """What became of a fault; None: nobody was there to be hit."""
        self.done[fault.kind] += what is not None
        self.tell(f"{fault}: {what or 'hit nobody'}")

    def summary(self) -> str:
        """One line."""
        return f"{self.done.total()} faults: " + ", ".join(
            f"{kind} {count}" for kind, count in sorted(self.done.items())
        )
