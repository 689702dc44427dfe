"""What a canary has to show before its siblings start: load, step, save, load again, go on exactly."""

from __future__ import annotations

from collections.abc import Callable

from launcher.checkpoint.difference import differing
from launcher.checkpoint.manifest import Content
from launcher.errors import RunFailed
from launcher.shards import described
from launcher.training.distributed import Ranks
from launcher.training.trainer import Trainer

STEPS = 2
"""Steps that a canary takes before it saves: the first makes the optimizer's state, the second uses it."""
_RESTORED = ("model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "task")
"""Components that a control takes over whatever it runs on."""


def refuse_unlike(point: Content, restored: Content) -> None:
    """Stop a control that was not restored to its branch point.

    Raises:
        RunFailed: names the first component that differs.
    """
    wrong = [name for name in differing(point, restored).components if name in _RESTORED]
    if wrong:
        raise _failed("what was restored is not what the checkpoint holds", wrong[0])


def prove_resumable(live: Trainer, load_again: Callable[[], Trainer], ranks: Ranks) -> None:
    """Take one more step with what is in memory, and the same one with what was saved. Collective.

    Args:
        live: has just been saved; it is not to be used afterwards.
        load_again: what another process would go on with.
        ranks: of the run.

    Raises:
        RunFailed: the two differ; names the first component.
    """
    saved = described(live.state_dict(), ranks)
    in_memory = _one_step_more(live, ranks)
    again = load_again()
    again.gather_streams()
    loaded = described(again.state_dict(), ranks)
    from_disk = _one_step_more(again, ranks)
    if ranks.first:
        refuse_unrepeatable(saved, in_memory, loaded, from_disk)


def refuse_unrepeatable(saved: Content, in_memory: Content, loaded: Content, from_disk: Content) -> None:
    """Stop a canary that does not go on as it would have.

    Args:
        saved: what was saved.
        in_memory: what was in memory a step later.
        loaded: what was loaded again.
        from_disk: what that was a step later.

    Raises:
        RunFailed: names the first component that differs.
    """
    for what, expected, found in (
        ("what was saved is not what is loaded again", saved, loaded),
        ("a step after loading again is not the step that would have come", in_memory, from_disk),
    ):
        if wrong := differing(expected, found).components:
            raise _failed(what, wrong[0])


def _one_step_more(trainer: Trainer, ranks: Ranks) -> Content:
    trainer.step(measure=False)
    trainer.gather_streams()
    return described(trainer.state_dict(), ranks)


def _failed(what: str, component: str) -> RunFailed:
    return RunFailed(
        f"The canary did not pass: {what}.",
        found=f"other values in {component}",
        expected="the same bits",
        do="look for what is not restored or not repeatable; or launch without fanout.canary",
    )
