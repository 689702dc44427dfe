"""Which part of a checkpoint a branch takes over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from launcher.config import BranchConfig
from launcher.errors import CheckpointError


class Kind(NamedTuple):
    """What a tensor is, apart from its values."""

    dtype: str
    """``float32``."""
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def selected_names(
    branch: BranchConfig, there: Iterable[str], expected: Iterable[str]
) -> dict[str, str | None]:
    """Each name that is restored or wrongly absent: name in the model → name in the checkpoint.

    With ``restore=full`` all names of both sides are in the result, so that an unknown or a missing
    one is seen. With ``restore=weights`` names that ``include`` and ``exclude`` leave out are not, and
    what the checkpoint has beyond the model does no harm.

    Raises:
        CheckpointError: a pattern or a renamed prefix fits nothing, or two names become one.
    """
    there, expected = list(there), list(expected)
    renamed = _renamed(branch.rename, there)
    if branch.restore == "full":
        return {name: renamed.get(name) for name in sorted({*renamed, *expected})}
    for key, patterns in (("branch.include", branch.include), ("branch.exclude", branch.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in expected):
                raise CheckpointError(
                    f"{key} fits no parameter of the model.",
                    where=key,
                    found=pattern,
                    expected=f"a pattern for names such as {', '.join(expected[:3])}",
                )
    return {name: renamed.get(name) for name in expected if _wanted(name, branch)}


def _wanted(name: str, branch: BranchConfig) -> bool:
    if branch.include and not any(fnmatchcase(name, pattern) for pattern in branch.include):
        return False
    return not any(fnmatchcase(name, pattern) for pattern in branch.exclude)


def _renamed(rename: Mapping[str, str], there: list[str]) -> dict[str, str]:
    """Name after renaming → name in the checkpoint; the longest prefix that fits counts."""
    for prefix in rename:
        if not any(name.startswith(prefix) for name in there):
            raise CheckpointError(
                "branch.rename names a prefix that the checkpoint does not have.",
                where="branch.rename",
                found=prefix,
                expected=f"a prefix of names such as {', '.join(there[:3])}",
            )
    result: dict[str, str] = {}
    for name in there:
        prefixes = [prefix for prefix in rename if name.startswith(prefix)]
        prefix = max(prefixes, key=len, default="")
        new = rename[prefix] + name.removeprefix(prefix) if prefixes else name
        if new in result:
            raise CheckpointError(
                "branch.rename gives two tensors one name.",
                where="branch.rename",
                found=f"{result[new]} and {name} → {new}",
            )
        result[new] = name
    return result


def keeps_schedule(branch: BranchConfig) -> bool:
    """Whether the learning-rate schedule goes on where the trunk's was."""
    return branch.restore == "full" and branch.schedule == "keep" and "scheduler" not in branch.reset


def selected_state(state: Mapping[str, Any], branch: BranchConfig) -> dict[str, Any]:
    """The parts of a whole state, other than the model, that a branch takes over."""
    if branch.restore == "weights":
        return {}
    parts = {
        "optimizer_state_dict": "optimizer",
        "scheduler_state_dict": "scheduler",
        "scaler_state_dict": "optimizer",
        "rng_state": "rng",
        "rng_state_of_ranks": "rng",
        "task": "task",
    }
    left_out = set(branch.reset)
    if branch.schedule == "restart":
        left_out.add("scheduler")
    taken = {name: state[name] for name, part in parts.items() if name in state and part not in left_out}
    if "lr_lambdas" not in taken.get("scheduler_state_dict", {}):
        # Another class's: the position in it is all that the launcher's own schedule can take over.
        taken.pop("scheduler_state_dict", None)
    return taken
