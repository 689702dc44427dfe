"""What the task trains on as its steps go by: how long the peptides, how much of the spectrum loss."""

from __future__ import annotations

from launcher.peptide.config import CurriculumConfig


class Curriculum:
    """Two linear ramps over the task step, from easy to everything (Bengio et al., ICML 2009)."""

    def __init__(self, config: CurriculumConfig, longest: int) -> None:
        self.config = config
        self.longest = longest

    def length_limit(self, step: int) -> int:
        """Longest peptide that counts in the training loss of ``step``, in residues."""
        first = min(self.config.initial_length, self.longest)
        grown = _ramp(step, self.config.length_start, self.config.length_full) * (self.longest - first)
        return first + int(grown)

    def spectrum_share(self, step: int) -> float:
        """Share of the spectrum loss's weight that applies at ``step``, 0 to 1."""
        return _ramp(step, self.config.spectrum_start, self.config.spectrum_full)


def _ramp(step: int, start: int, full: int) -> float:
    """0 up to ``start``, 1 from ``full`` on, linear between them; at a step where both meet, 1."""
    if step >= full:
        return 1.0
    return max(0.0, (step - start) / (full - start)) if full > start else 0.0
