"""State of a loop that nobody registered: what can be seen of it is said."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from launcher.script.parts import Parts
from launcher.training.rng import rng_digest

log = logging.getLogger("launcher.run")


def watched(steps: Iterable[int], parts: Parts, drawn: str) -> Iterator[int]:
    """The steps, with a warning of what the first one shows.

    Args:
        steps: of the loop.
        parts: what is registered.
        drawn: ``rng_digest`` when it was.
    """
    if rng_digest() != drawn:
        log.warning(
            "Random numbers were drawn between run.register and run.steps(). A batch that is fetched there "
            "is another one in a branch or a resumed run: draw within the round."
        )
    known = {id(one) for part in parts.stateful.values() for one in _held(part)}
    strangers: dict[str, None] = {}

    def stepped(optimizer: Optimizer, *_: Any) -> None:
        if id(optimizer) not in known:
            strangers[type(optimizer).__name__] = None

    hook = register_optimizer_step_post_hook(stepped)
    try:
        for step in steps:
            yield step
            hook.remove()
            if strangers:
                log.warning(
                    "%s: takes steps and is not registered, so that no checkpoint has its state: "
                    "run.register(NAME=optimizer).",
                    ", ".join(strangers),
                )
                strangers.clear()
    finally:
        hook.remove()


def _held(part: Any) -> Iterator[Any]:
    """A part, and what it holds itself: several optimizers may be registered as one."""
    yield part
    for value in vars(part).values() if hasattr(part, "__dict__") else ():
        if isinstance(value, list | tuple):
            yield from value
        elif isinstance(value, dict):
            yield from value.values()
        else:
            yield value
