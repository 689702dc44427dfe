"""What of a state that others saved nobody can go on from, although it can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from launcher.checkpoint.formats.canonical import count_of

_MEASURED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def unsound(state: Mapping[str, Any]) -> tuple[str, ...]:
    """What is wrong with the values of the optimizer in ``state``; each is looked at once, without a copy."""
    optimizer = state.get("optimizer_state_dict", {}).get("state", {})
    found = Counter(
        wrong
        for kept in optimizer.values()
        for key, value in kept.items()
        if (wrong := _wrong(str(key), value)) is not None
    )
    return tuple(
        f"{what}, of {count} parameter{'s' if count > 1 else ''}" for what, count in sorted(found.items())
    )


def _wrong(key: str, value: Any) -> str | None:
    if key == "step" and count_of(value) is None:
        told = value.tolist() if isinstance(value, Tensor) and value.numel() < 4 else value
        return f"step {told}, which is no count" if not isinstance(told, Tensor) else "step is no count"
    # A number may be infinite on purpose, as a bound is; moments are not.
    if isinstance(value, Tensor) and value.dim() and value.numel() and value.dtype in _MEASURED:
        least, most = torch.aminmax(value)
        if not bool(torch.isfinite(least) & torch.isfinite(most)):
            return f"{key} is not finite"
    return None
