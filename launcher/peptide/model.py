"""The sequencing model: a transformer that reads a spectrum's peaks and writes a peptide's residues.

A decoder with joint attention to all peaks and to the residues so far (Vaswani et al., "Attention is all
you need", 2017). Places are masses: a peak is at its m/z, a residue at the mass of those before it, and
attention sees differences of masses, by rotation of queries, keys and values (Su et al., "RoFormer",
2021; rotated values: Miyato et al., "GTA", ICLR 2024). A difference between two fragments is a residue's
mass, which is what de novo sequencing looks for. Nothing here limits a peptide's length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from launcher.peptide.config import ModelConfig
from launcher.peptide.residues import VOCABULARY

HIGHEST_CHARGE = 10
"""Precursors of this charge and above are not told apart."""


class Masses(nn.Module):
    """Masses in Da as phases: of every wavelength, how far into it a mass lies.

    Wavelengths are spaced evenly in their logarithm. They come in rows, one for each pair of heads, dealt
    out so that every row has short and long ones.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        rows = config.heads // 2
        logarithms = torch.linspace(
            math.log(config.shortest_wavelength), math.log(config.longest_wavelength), config.width // 4
        )
        self.angular: Tensor
        self.register_buffer("angular", (2 * math.pi / logarithms.exp()).view(-1, rows).T.contiguous())

    def forward(self, from_start: Tensor, from_end: Tensor) -> Tensor:
        """Unit complex numbers (B, S, heads, pairs) for S masses (B, S) from each end of the peptide.

        The first half of the heads counts from the N-terminus, the second from the C-terminus.
        """
        both = torch.stack([from_start, from_end], dim=2)
        angle = (both[..., None, None] * self.angular).flatten(2, 3)
        return torch.complex(angle.cos(), angle.sin())


def channels(phases: Tensor) -> Tensor:
    """Complex (..., heads, pairs) as cosines and sines (..., 2 * heads * pairs)."""
    return torch.view_as_real(phases).flatten(-3)


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Channels (..., 2 * pairs), pair by pair as complex numbers, times rotations (..., pairs)."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).type_as(x)


class ExampleDropout(nn.Module):
    """Drops the same channels at every place of an example (Gal and Ghahramani, NeurIPS 2016).

    Here one random number a channel replaces one a channel and place, a tenth of a step's time.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to the same shape."""
        if not self.training or self.probability == 0:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.probability)


class Layer(nn.Module):
    """Residues look at all peaks and at the residues up to their own; layer norms come first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.attended = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.feed_forward), nn.GELU(), nn.Linear(config.feed_forward, width)
        )
        self.dropout = ExampleDropout(config.dropout)

    def forward(self, residues: Tensor, peaks: Tensor, rotation: Tensor, blocked: Tensor) -> Tensor:
        """Residues (B, T, width) after one layer.

        Args:
            residues: (B, T, width).
            peaks: (B, P, width).
            rotation: (B, P + T, heads, pairs), of the peaks and then of the residues.
            blocked: (B, 1, T, P + T), -inf where a residue may not look and 0 elsewhere.
        """
        normed = self.attention_norm(residues)
        attended = self._attend(normed, torch.cat([peaks, normed], dim=1), rotation, blocked)
        residues = residues + self.dropout(attended)
        result: Tensor = residues + self.dropout(self.feed_forward(self.feed_forward_norm(residues)))
        return result

    def _attend(self, residues: Tensor, seen: Tensor, rotation: Tensor, blocked: Tensor) -> Tensor:
        """Written out, and not scaled_dot_product_attention, whose CUDA backward is not deterministic."""
        own = rotation[:, -residues.shape[1] :]
        q = rotated(self.query(residues).unflatten(-1, (self.heads, -1)), own).transpose(1, 2)
        pairs = self.key_value(seen).unflatten(-1, (2, self.heads, -1))
        k, v = rotated(pairs, rotation.unsqueeze(2)).transpose(1, 3).unbind(2)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + blocked
        found = (scores.softmax(dim=-1).type_as(v) @ v).transpose(1, 2)
        output: Tensor = self.attended(rotated(found, own.conj()).flatten(2))
        return output


class SequencingTransformer(nn.Module):
    """Logits of the next residue, given a spectrum and the residues so far."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.masses = Masses(config)
        self.peak = nn.Sequential(
            nn.Linear(width + 1, config.feed_forward), nn.GELU(), nn.Linear(config.feed_forward, width)
        )
        self.place = nn.Linear(width, width)
        self.residue = nn.Embedding(len(VOCABULARY), width)
        self.charge = nn.Embedding(HIGHEST_CHARGE + 1, width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.output_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, len(VOCABULARY))

    def forward(
        self,
        mz: Tensor,
        intensity: Tensor,
        precursor_mass: Tensor,
        charge: Tensor,
        previous: Tensor,
        prefix_mass: Tensor,
    ) -> Tensor:
        """Logits (B, T, vocabulary) of the token at each place.

        Args:
            mz: (B, P) m/z of the peaks, in Da per charge; 0 at padding.
            intensity: (B, P) relative intensity, 0 to 1; 0 at padding.
            precursor_mass: (B,) neutral monoisotopic mass of the peptide, in Da.
            charge: (B,) charge of the precursor.
            previous: (B, T) tokens before each place, the first being the start token.
            prefix_mass: (B, T) mass of the residues before each place, in Da.
        """
        suffix_mass = precursor_mass.unsqueeze(1) - prefix_mass
        places = self.masses(prefix_mass, suffix_mass)
        rotation = torch.cat([self.masses(mz, mz), places], dim=1)
        complement = precursor_mass.unsqueeze(1) - mz
        seen = torch.cat([channels(self.masses(mz, complement)), intensity.unsqueeze(-1)], dim=-1)
        peaks = self.peak(seen)
        residues = self.residue(previous) + self.place(channels(places))
        residues = residues + self.charge(charge.clamp(0, HIGHEST_CHARGE)).unsqueeze(1)
        blocked = _blocked(intensity, previous.shape[1])
        for layer in self.layers:
            residues = layer(residues, peaks, rotation, blocked)
        logits: Tensor = self.output(self.output_norm(residues))
        return logits


def _blocked(intensity: Tensor, places: int) -> Tensor:
    """(B, 1, T, P + T): -inf at padded peaks and at later residues, 0 elsewhere."""
    no_peak = (intensity <= 0).unsqueeze(1).expand(-1, places, -1)
    later = torch.ones(places, places, dtype=torch.bool, device=intensity.device).triu(1)
    blocked = torch.cat([no_peak, later.expand(len(intensity), -1, -1)], dim=2)
    return torch.zeros_like(blocked, dtype=intensity.dtype).masked_fill(blocked, -math.inf).unsqueeze(1)
