"""Whether what was typed was read: the one thing that can be seen of what a script does with its config."""

from __future__ import annotations

import logging

from launcher.branch.plan import Plan
from launcher.errors import OverrideHadNoEffect
from launcher.script.reading import leaves, unread

log = logging.getLogger("launcher.run")
_ACTING = frozenset(
    {"branch", "checkpoint", "deterministic", "device", "fanout", "hydra", "launch", "paths", "seed", "task"}
    | {"threads", "tracker", "tracking", "training.steps", "training.log_every", "training.validate_every"}
)
"""What the launcher itself acts on, whatever the script reads."""
_TOLD = frozenset({"label", "facts"})
"""Keys of any node that only name it."""


def tell_unread(plan: Plan, reads: set[str]) -> None:
    """Warn of what was typed and not read in the first step: it may be read later, by an evaluation."""
    if keys := _unread(plan, reads):
        log.warning("%s: typed, but the script has not read it in its first step.", ", ".join(keys))


def refuse_unread(plan: Plan, reads: set[str], step: int) -> None:
    """Stop before anything is saved that an override should have changed and cannot have.

    Raises:
        OverrideHadNoEffect: names each key that was typed and never read.
    """
    if keys := _unread(plan, reads):
        raise OverrideHadNoEffect(
            f"{', '.join(keys)} had no effect: the script never read it.",
            where=keys[0],
            found=f"typed, and not read up to step {step}",
            expected="a key of the config that main(cfg, run) reads",
            do="drop the override, or read the key before the loop",
        )


def _unread(plan: Plan, reads: set[str]) -> list[str]:
    said = plan.declared
    keys = [leaf for key in said.keys for leaf in leaves(said.values.get(key), key.lstrip("~+"))]
    nodes = [node for node in said.nodes if plan.config.node(node) is not None]
    return [key for key in [*keys, *nodes] if not _acting(key) and unread(key, reads)]


def _acting(key: str) -> bool:
    parts = key.split(".")
    return parts[-1] in _TOLD or any(".".join(parts[:n]) in _ACTING for n in range(1, len(parts) + 1))
