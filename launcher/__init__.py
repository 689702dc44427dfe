"""A Hydra launcher for checkpoint branching.

For scripts that keep their own loop: :func:`main` decorates their ``main(cfg, run)``, and :class:`Run` is
what it is given. Everything else is imported from its own module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.decorator import main
    from launcher.script.run import Run

__all__ = ["Run", "main"]


def __getattr__(name: str) -> Any:
    """The public names, imported at their first use: looking at runs needs neither PyTorch nor Hydra."""
    if name == "main":
        from launcher import decorator

        return decorator.main
    if name == "Run":
        from launcher.script import run

        return run.Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
