"""The spectrum loss: how much of the intensity that a peptide's fragments could explain is missed.

A model that predicts a residue predicts where the spectrum has a peak: at the b-ion that ends with the
residue and at the y-ion that begins after it. For the residue ``a`` in place ``t``, after residues that
weigh ``M(t)``, of a peptide that weighs ``P``:

    b(t, a) = M(t) + m(a) + proton
    y(t, a) = P - water - M(t) - m(a) + water + proton

and the observed spectrum, peaks j of relative intensity I(j) at x(j), supports it by

    E(t, a) = min(1, sum_j I(j) [K(b(t, a) - x(j)) + K(y(t, a) - x(j))]),   K(d) = exp(-d^2 / 2 s^2)

for residues, and 0 for what is none: the end token weighs nothing, and would be supported by the b-ion of
the residue before it. The loss of a bond is 1 less the support expected under the predicted probabilities,

    loss(t) = 1 - sum_a p(t, a) E(t, a)

from 0 (all of the probability is on residues whose fragments the spectrum shows) to 1. It needs no
annotation but M(t), the residues so far, which training gives to the model anyway (teacher forcing), so
it goes on telling right from wrong where an annotation is wrong.

Matched fragment intensity is the oldest score of a peptide against a spectrum (SEQUEST's preliminary
score: Eng, McCormack and Yates, 1994); support of each candidate residue by b- and y-ions, given the mass
so far, is DeepNovo's and PointNovo's (Tran et al., PNAS 2017; Qiao et al., 2021). Its expectation under the
model makes it differentiable: the gradient with respect to the logits is p(a) (sum_c p(c) E(c) - E(a)).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from launcher.peptide.residues import (
    FIRST_RESIDUE,
    FIRST_TERMINAL,
    TOKEN_MASSES,
    WATER,
    ion_offset,
    is_residue,
)

SMALLEST_EXPONENT = -30.0
"""exp() of less is a denormal number or 0: no support, and many times as slow on a CPU."""


@dataclass(frozen=True)
class SpectrumLoss:
    """The loss with its two settings."""

    water_on_y_ions: bool
    """False: the bug, y-ions that lack the mass of water."""
    peak_width: float
    """Standard deviation s of the kernel, in Da."""

    def fragments(self, prefix_mass: Tensor, precursor_mass: Tensor) -> tuple[Tensor, Tensor]:
        """m/z of the b- and the y-ion that each token in each place predicts, both (B, T, vocabulary).

        Args:
            prefix_mass: (B, T) mass of the residues before each place, in Da.
            precursor_mass: (B,) neutral monoisotopic mass of the peptide, in Da.
        """
        masses = torch.as_tensor(TOKEN_MASSES, dtype=prefix_mass.dtype, device=prefix_mass.device)
        through = prefix_mass.unsqueeze(-1) + masses
        behind = precursor_mass[:, None, None] - WATER - through
        y_offset = ion_offset("y") - (0.0 if self.water_on_y_ions else WATER)
        return through + ion_offset("b"), behind + y_offset

    def support(self, batch: Mapping[str, Tensor]) -> Tensor:
        """E (B, T, vocabulary): how much the observed peaks support each token in each place, 0 to 1."""
        ions = self.fragments(batch["prefix_mass"], batch["precursor_mass"])
        mz, intensity = (batch[name][:, None, None, :] for name in ("mz", "intensity"))
        supported = torch.zeros_like(ions[0])
        residues = supported[..., FIRST_RESIDUE:FIRST_TERMINAL]
        for ion in ions:
            # In place: an element for each place, residue and peak makes this the largest tensor of a step.
            deviation = (ion[..., FIRST_RESIDUE:FIRST_TERMINAL, None] - mz).div_(self.peak_width)
            kernel = deviation.square_().mul_(-0.5).clamp_min_(SMALLEST_EXPONENT).exp_()
            residues += kernel.mul_(intensity).sum(dim=-1)
        return supported.clamp_max_(1.0)

    def __call__(self, logits: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss of each bond, (B, T - 1), and where there is one (only between two residues).

        Args:
            logits: (B, T, vocabulary), float32 or float64.
            batch: ``mz``, ``intensity`` (B, P), ``prefix_mass``, ``tokens`` (B, T), ``precursor_mass`` (B,).
        """
        with torch.no_grad():
            support = self.support(batch)[:, :-1]
        residue = is_residue(batch["tokens"])
        expected = (logits[:, :-1].softmax(dim=-1) * support).sum(dim=-1)
        return 1.0 - expected, residue[:, :-1] & residue[:, 1:]
