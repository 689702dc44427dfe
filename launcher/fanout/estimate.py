"""What a sibling will take, told from its trunk's records: time and disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.files import readable_bytes

if TYPE_CHECKING:
    # Looking at runs uses this file too, and does without Hydra, which plans need.
    from launcher.branch.plan import Plan


def steps_left(planned: Plan, reached: int) -> int:
    """Steps that are still to be trained, by a run that has come so far."""
    return planned.end_step - max(planned.start.step, reached)


def estimated_seconds(planned: Plan, steps: int) -> float | None:
    """How long so many steps take at the speed that its trunk had; None where nobody knows that."""
    trunk = planned.point.run if planned.point is not None else None
    if trunk is None or not trunk.record.seconds:
        return None
    done = trunk.record.step - trunk.record.start_step
    return steps * trunk.record.seconds / done if done > 0 else None


def duration(seconds: float | None) -> str:
    """``3 min 20 s``."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def disk(count: int | None) -> str:
    """``2.0 GB``."""
    return "unknown" if count is None else readable_bytes(count)
