"""A script's own loop, live: what is restored for it, and what happens between two of its steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from launcher.branch.metadata import identity_of
from launcher.branch.plan import Plan
from launcher.branch.select import keeps_schedule
from launcher.canary import refuse_unrepeatable
from launcher.checkpoint.content import describe
from launcher.checkpoint.manifest import Content
from launcher.differences import plain
from launcher.errors import RunFailed
from launcher.lineage import Origin
from launcher.script.hyperparameters import Fresh, fresh, new_schedules, rate, settle
from launcher.script.loop import OwnLoop
from launcher.script.parts import FRESH, MODEL, SCHEDULER_STATE, Parts
from launcher.script.reading import noted
from launcher.script.run import Run, Stopped
from launcher.script.schedules import SCHEDULER, counts_steps, position, put_behind
from launcher.session.source import Source, facts_of, taken, weights_of
from launcher.session.unread import refuse_unread, tell_unread
from launcher.session.unregistered import watched
from launcher.trackers.wandb.theirs import their_run
from launcher.training.loop import Hooks, Trained, due
from launcher.training.progress import Progress
from launcher.training.rng import restore_rng, rng_digest, rng_state, seed_all
from launcher.training.signals import Interruption
from launcher.training.task import Direction

log = logging.getLogger("launcher.run")
_TRAIN, _VALIDATION = "train/", "val/"
_ENDED = "ended_early"
"""Of a checkpoint: the script has asked to end there, which nothing else in its state may say."""


class Session(Run):
    """A run under way. Also what is recorded of it: see :class:`launcher.training.loop.Trained`."""

    def __init__(
        self,
        plan: Plan,
        source: Source,
        hooks: Hooks,
        stop: Interruption,
        device: torch.device,
        started: Callable[[Trained, Origin], None],
    ) -> None:
        """``started`` is told once everything is restored and the first step is about to begin."""
        config = plan.config
        super().__init__(facts_of(plan, device))
        self.cfg, self._reads = noted(plain(config))
        self.progress = Progress(**vars(plan.start))
        self._plan, self._source, self._hooks, self._stop_asked = plan, source, hooks, stop
        self._started = started
        self._fresh: Fresh = {}
        self._drawn = ""
        self._line: dict[str, float | Tensor] = {}
        self._rate: float | None = None
        self._save_asked = self._begun = self.ended = self._left_early = False
        until = config.fanout.until
        self._until = None if until is None else plan.start.step + until
        self.proof: list[Content] = []
        """Of a canary: the state that was saved, and the one after a step more."""

    # What is recorded.

    @property
    def _live(self) -> Parts:
        if self._parts is None:
            raise RunFailed(
                "The script's loop begins before anything was registered.",
                expected="run.register(model=..., optimizer=...) before run.steps()",
            )
        return self._parts

    @property
    def schedule_step(self) -> int:
        """Steps taken in the schedule: the scheduler's own count, or the run's."""
        counts = [getattr(one, "last_epoch", None) for one in self._live.schedulers.values()]
        return next((int(count) for count in counts if count is not None), self.progress.step)

    @property
    def directions(self) -> Mapping[str, Direction]:
        """Which way metrics are better, where the script says so."""
        return self._live.directions

    def fingerprint(self) -> str:
        """Identifies the data."""
        return self._live.fingerprint

    def weights(self) -> dict[str, Tensor]:
        """The model's state."""
        return dict(self._live.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The whole state between two steps."""
        return {
            "step": self.progress.step,
            **self._live.state_dict(),
            FRESH: self._fresh,
            "progress": self.progress.state_dict(),
            "rng_state": rng_state(),
            **({_ENDED: True} if self.end_step < self._plan.end_step else {}),
        }

    # What the script calls.

    def steps(self) -> Iterator[int]:
        """The steps that are left. See :meth:`launcher.script.run.Run.steps`."""
        return watched(super().steps(), self._live, self._drawn)

    @property
    def step(self) -> int:
        """Steps done."""
        return self.progress.step

    @property
    def should_stop(self) -> bool:
        """Whether the loop is to end, as it was decided when the last step was over."""
        return self.ended or self._left_early

    @property
    def log_due(self) -> bool:
        """Whether ``train/`` metrics of the present step are written."""
        coming = self.progress.step + 1
        return due(coming, self._plan.config.training.log_every) or coming == self.end_step

    @property
    def evaluation_due(self) -> bool:
        """Whether the present step is to be followed by an evaluation."""
        every, coming = self._plan.config.training.validate_every, self.progress.step + 1
        return every > 0 and (due(coming, every) or coming == self.end_step)

    def log(self, metrics: Mapping[str, float | Tensor]) -> None:
        """Metrics of the present step.

        Raises:
            RunFailed: there is none: the loop has not begun, or is over.
        """
        if not self._begun or self.ended:
            raise RunFailed("run.log is for metrics of a step.", do="call it within a round of run.steps()")
        self._line.update(
            {key: value for key, value in metrics.items() if self.log_due or not key.startswith(_TRAIN)}
        )

    def save(self) -> None:
        """Save when the present step is over."""
        self._save_asked = True

    def stop(self) -> None:
        """End when the present step is over."""
        self.end_step = self.progress.step + 1

    def begin(self) -> None:
        """The first step is about to begin: the random streams are put where they were."""
        if self._begun:
            raise RunFailed("run.steps() was called twice.", do="take all steps in one loop")
        self._begun = True
        if "rng_state" in self._source.state:
            restore_rng(dict(self._source.state["rng_state"]))
        if self.progress.step >= self.end_step:
            self.ended = True
        self._started(self, self._source.origin)
        self._begin_step()

    def advance(self) -> None:
        """A step is over: count it, write its metrics, save if it is time."""
        if self.proof:
            self.progress.advance()
            self.proof.append(describe(self.state_dict()))
            raise Stopped
        line = self._measured()
        first = self.progress.step == self._plan.start.step
        coming = self.progress.step + 1
        self.progress.advance()
        last = coming == self.end_step
        if line:
            self._hooks.log(self.progress, line)
        pruned = self._pruned(line)
        asked = self._stop_asked.asked is not None
        # Asked once: a signal that comes later is obeyed, with its state saved, after the next step.
        self._left_early = (pruned or asked or coming == self._until) and not last
        due_now = last or due(coming, self._plan.config.checkpoint.every) or self._save_asked
        # Of a run that goes on, what was read before nobody knows any more.
        if due_now and self._source.origin != "own checkpoint":
            refuse_unread(self._plan, self._reads, self.progress.step)
        elif first:
            tell_unread(self._plan, self._reads)
        if due_now or self.should_stop:
            self._save_asked = False
            self._check_finite()
            self._hooks.save()
        self._hooks.after_step()
        self.ended = last
        if coming == self._until and not (asked or last):
            self._left_early = False
            self.proof.append(describe(self.state_dict()))
        if not self.should_stop:
            self._begin_step()

    def leave_if_interrupted(self) -> None:
        """Leave the script where it was asked to stop before its end."""
        if self.should_stop and not self.ended:
            raise Stopped

    def wandb_run(self) -> AbstractContextManager[None] | None:
        """This run, for a library that begins one of W&B by itself."""
        config = self._plan.config.tracker.wandb
        if config is not None and config.mode != "disabled":
            return None
        return their_run(identity_of(self._plan))

    # What is restored.

    def _registered(self, parts: Parts) -> None:
        self._fresh = fresh(parts)
        if self._source.state:
            self._restore(parts, self._source.state)
        self._drawn = rng_digest()

    def _restore(self, parts: Parts, state: Mapping[str, Any]) -> None:
        if self._source.origin == "own checkpoint":
            parts.load_weights(state[MODEL])
            parts.load(state)
            self.progress.load_state_dict(dict(state["progress"]))
            if state.get(_ENDED):
                self.end_step = self.progress.step
            return
        config = self._plan.config.branch
        parts.load_weights(weights_of(config, state[MODEL], parts))
        held, new = taken(config, state, parts), new_schedules(parts)
        placed = self._place_schedule(parts, held)
        # Some schedules move momentum as well as the rate.
        own = fresh(parts) if placed else self._fresh
        restored = parts.load(held) | placed
        whole = config.restore == "full"
        changed = settle(parts, own, state.get(FRESH) if whole else own, restored, new)
        if changed:
            log.info("On top of what was restored: %s.", ", ".join(dict.fromkeys(changed)))

    def _place_schedule(self, parts: Parts, held: dict[str, Any]) -> set[str]:
        """Of a foreign checkpoint a schedule takes its place only. The restored optimizer goes over it."""
        plan, scheduler = self._plan, parts.schedulers.get(SCHEDULER)
        foreign = plan.point is not None and plan.point.foreign
        if scheduler is None or not foreign or not keeps_schedule(plan.config.branch):
            return set()
        saved = held.get(SCHEDULER_STATE)
        if "lr_lambdas" in (saved or {}) and isinstance(scheduler, LambdaLR):
            return set()  # All of it is there.
        held.pop(SCHEDULER_STATE, None)
        if counts_steps(scheduler):
            put_behind(scheduler, position(saved, plan.schedule_start))
        # Of one that does not, the restored rate is all that there is.
        return {SCHEDULER}

    def _begin_step(self) -> None:
        self._line = {}
        # What a schedule says is asked before the step; a rate that is set by hand is set within it.
        scheduled = self.log_due and bool(self._live.schedulers)
        self._rate = rate(self._live) if scheduled else None

    def _measured(self) -> dict[str, float | str]:
        """The line of the step that was just taken; empty where there is none."""
        line: dict[str, float | str] = {
            name: value.item() if isinstance(value, Tensor) else float(value)
            for name, value in self._line.items()
        }
        if self.log_due:
            now = self._rate if self._rate is not None else rate(self._live)
            if now is not None:
                line.setdefault("train/learning_rate", now)
            line["digest/rng"] = rng_digest()
        return line

    def _pruned(self, line: Mapping[str, float | str]) -> bool:
        trial = self._plan.config.fanout.trial is not None and self._until is None
        told = trial and any(name.startswith(_VALIDATION) for name in line)
        return told and self._hooks.prune(self.progress, line)

    def _check_finite(self) -> None:
        """Refuse to save weights that nobody can go on from."""
        for name, parameter in self._live.model.named_parameters():
            if not torch.isfinite(parameter).all().item():
                raise RunFailed(
                    f"The weight {name} is not finite at step {self.progress.step}.",
                    expected="finite numbers",
                    do="branch from the last good checkpoint with a lower learning rate or clipped gradients",
                )

    # Whether a canary goes on as it would have.

    @property
    def proving(self) -> bool:
        """Whether this is a canary that has saved, and taken a step more."""
        return len(self.proof) == 2

    def compare(self, trained: Trained, _: Origin) -> None:
        """Another session has loaded what this one saved; it takes one step."""
        assert isinstance(trained, Session)
        trained.proof.append(describe(trained.state_dict()))

    def prove(self, task: OwnLoop, again: Callable[[], Session]) -> None:
        """Hold the last step against the same one taken by ``again``: what another process would go on with.

        Raises:
            RunFailed: the two differ.
        """
        second = again()
        drive(task, second)
        refuse_unrepeatable(*self.proof, *second.proof)


def drive(task: OwnLoop, session: Session) -> bool:
    """Let the script train; True if it reached its end, False if it was interrupted before.

    Raises:
        RunFailed: it ended its loop before the last step.
        Exception: whatever the script raises.
    """
    seed_all(session.seed)
    try:
        task.main(session.cfg, session)
    except Stopped:
        return False
    if not session.ended:
        raise RunFailed(
            "The script's main(cfg, run) ended before its last step.",
            found=f"step {session.step}",
            expected=f"step {session.end_step}",
            do="take every step of run.steps(); to end early on purpose: run.stop()",
        )
    return True
