"""How far a run is, in each of the counts that something depends on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """Counts of optimizer steps done. They differ only after a branch reset one of them."""

    step: int = 0
    """In the run's own numbering: ``global_step``."""
    absolute_step: int = 0
    """Since training began from nothing, over all ancestors."""
    task_step: int = 0
    """What curricula follow."""
    data_step: int = 0
    """Position in the data order."""

    def advance(self) -> None:
        """One optimizer step was done."""
        self.step += 1
        self.absolute_step += 1
        self.task_step += 1
        self.data_step += 1

    def state_dict(self) -> dict[str, Any]:
        """The four counts."""
        return asdict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the four counts."""
        loaded = Progress(**state_dict)
        vars(self).update(vars(loaded))
