"""A script with its own loop: what it begins with, its run, and the proof of a canary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from launcher.branch.plan import Plan
from launcher.checkpoint.formats.known import load
from launcher.checkpoint.reader import read_state
from launcher.lineage import Origin
from launcher.recording import Recording
from launcher.script.loop import OwnLoop
from launcher.session.session import Session, drive
from launcher.session.source import Source, without_rng
from launcher.training.loop import Trained, Unrecorded
from launcher.training.signals import Interruption


def own_loop(
    plan: Plan,
    task: OwnLoop,
    own: Path | None,
    hooks: Recording,
    stop: Interruption,
    device: torch.device,
    started: Callable[[Trained, Origin], None],
) -> bool:
    """The script trains itself; whether it reached the end.

    Args:
        plan: the run.
        task: its script.
        own: the run's own newest checkpoint, known to be whole.
        hooks: entered.
        stop: entered.
        device: where it computes.
        started: told once everything is restored.
    """
    if own is not None:
        source = Source("own checkpoint", read_state(own, digests=False))
    elif plan.point is not None:
        state = load(plan.point.checkpoint, plan.config.branch.allow_globals)
        source = without_rng(plan.config, Source("branch point", state))
    else:
        source = Source("nothing")
    session = Session(plan, source, hooks, stop, device, started)
    reached = drive(task, session)

    def again() -> Session:
        saved = Source("own checkpoint", read_state(hooks.saved()))
        return Session(plan, saved, Unrecorded(), stop, device, session.compare)

    if session.proving and stop.asked is None:
        session.prove(task, again)
    return reached
