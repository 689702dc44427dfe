"""What a batch is judged by: cross-entropy, the spectrum loss, and token accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from launcher.peptide.residues import PADDING_TOKEN, is_residue
from launcher.peptide.spectrum_loss import SpectrumLoss


@dataclass(frozen=True)
class Terms:
    """Scalars over the examples that count; 0 if none does."""

    cross_entropy: Tensor
    """Mean over tokens, the end token included, in nats."""
    spectrum_loss: Tensor
    """Mean over bonds, 0 to 1."""
    token_accuracy: Tensor
    """Share of residues predicted right, the end token not included."""
    peptide_accuracy: Tensor
    """Share of peptides with every token right, the end token included."""


def judged(
    logits: Tensor, batch: Mapping[str, Tensor], counted: Tensor, spectrum_loss: SpectrumLoss, train: bool
) -> Terms:
    """Terms of logits (B, T, vocabulary) over the examples where ``counted`` (B,) is true.

    The spectrum loss gets a gradient only with ``train``. Everything is computed in float32: in bfloat16
    a mass of 1000 Da is off by up to 2 Da, in float16 by up to 0.25 Da.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        tokens = batch["tokens"]
        token = (tokens != PADDING_TOKEN) & counted.unsqueeze(1)
        residue = is_residue(tokens) & counted.unsqueeze(1)
        entropy = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
        right = logits.detach().argmax(dim=-1) == tokens
        with torch.set_grad_enabled(train and torch.is_grad_enabled()):
            spectrum, bond = spectrum_loss(logits, batch)
        return Terms(
            cross_entropy=masked_mean(entropy.view(tokens.shape), token),
            spectrum_loss=masked_mean(spectrum, bond & counted.unsqueeze(1)),
            token_accuracy=masked_mean(right.float(), residue),
            peptide_accuracy=masked_mean((right | ~token).all(dim=1).float(), counted),
        )


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` is true; 0 where it nowhere is."""
    return (values * mask).sum() / mask.sum().clamp_min(1)
