"""The sequencing model: a transformer that reads a spectrum's peaks and writes a peptide's residues.

Encoder over peaks, decoder over residues with causal self-attention and cross-attention (Vaswani et al.,
"Attention is all you need", 2017), m/z and masses as sinusoidal features, as in Casanovo (Yilmaz et al.,
"De novo mass spectrometry peptide sequencing with a transformer model", ICML 2022). Where in the peptide
the decoder stands is told by the masses on both sides of it, as in PointNovo (Qiao et al., Nature Machine
Intelligence 2021), which also replaces positional encodings: nothing here limits a peptide's length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from launcher.peptide.config import ModelConfig
from launcher.peptide.residues import VOCABULARY

HIGHEST_CHARGE = 10
"""Precursors with a higher charge are told apart no more."""


class MassFeatures(nn.Module):
    """Masses or m/z in Da as sines and cosines of ``count`` wavelengths, shortest to longest, in Da."""

    def __init__(self, count: int, shortest: float, longest: float) -> None:
        super().__init__()
        wavelengths = torch.logspace(math.log10(shortest), math.log10(longest), count)
        self.angular: Tensor
        self.register_buffer("angular", 2 * math.pi / wavelengths)

    def forward(self, mass: Tensor) -> Tensor:
        """(...) masses in Da to (..., 2 * count) features in [-1, 1]."""
        phase = mass.unsqueeze(-1) * self.angular
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class SharedDropout(nn.Module):
    """Dropout of the same channels at every place of an example (Gal and Ghahramani, 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return (
            x * nn.functional.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.p, self.training)
            if self.training
            else x
        )


class Layer(nn.Module):
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
        self.dropout = SharedDropout(config.dropout)

    def forward(self, residues: Tensor, peaks: Tensor, blocked: Tensor, rq, rk) -> Tensor:
        normed = self.attention_norm(residues)
        residues = residues + self.dropout(
            self._attend(normed, torch.cat([peaks, normed], dim=1), blocked, rq, rk)
        )
        result: Tensor = residues + self.dropout(self.feed_forward(self.feed_forward_norm(residues)))
        return result

    def _attend(self, queries: Tensor, keys: Tensor, blocked: Tensor, rq, rk) -> Tensor:
        q = self._rot(self.query(queries).unflatten(-1, (self.heads, -1)), rq).transpose(1, 2)
        kv = self._rot(self.key_value(keys).unflatten(-1, (2, self.heads, -1)), rk.unsqueeze(2))
        k, v = kv.transpose(1, 3).unbind(2)
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5) + blocked
        weights = scores.softmax(dim=-1)
        out = self._rot((weights @ v).transpose(1, 2), rq.conj())
        return self.attended(out.flatten(2))

    def _rot(self, x, r):
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * r).flatten(-2)


class SequencingTransformer(nn.Module):
    """Logits of the next residue, given a spectrum and the residues so far."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, features = config.width, 4 * config.mass_features
        self.mass_features = MassFeatures(
            config.mass_features, config.shortest_wavelength, config.longest_wavelength
        )
        self.config = config
        half = config.heads // 2
        w = torch.logspace(
            math.log10(config.rot_short), math.log10(config.rot_long), half * (width // config.heads // 2)
        )
        self.register_buffer(
            "rot",
            (2 * math.pi / w).view(half, -1)
            if not config.rot_inter
            else (2 * math.pi / w).view(-1, half).T.contiguous(),
        )
        self.peak = nn.Sequential(
            nn.Linear(features + 1, config.feed_forward), nn.GELU(), nn.Linear(config.feed_forward, width)
        )
        self.place = nn.Linear(features, width)
        self.charge = nn.Embedding(HIGHEST_CHARGE + 1, width)
        self.residue = nn.Embedding(len(VOCABULARY), width)
        self.peaks_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(Layer(config) for _ in range(config.decoder_layers))
        self.residues_norm = nn.LayerNorm(width)
        self.next_residue = nn.Linear(width, len(VOCABULARY))

    def forward(self, mz, intensity, precursor_mass, charge, previous, prefix_mass) -> Tensor:
        length = previous.shape[1]
        peaks = self.peaks_norm(
            self.peak(torch.cat([self._both_ends(mz, precursor_mass), intensity.unsqueeze(-1)], dim=-1))
        )
        residues = self.residue(previous) + self.place(self._both_ends(prefix_mass, precursor_mass))
        residues = residues + self.charge(charge).unsqueeze(1)
        no_peak = (intensity <= 0).unsqueeze(1).expand(-1, length, -1)
        future = (
            torch.ones(length, length, dtype=torch.bool, device=previous.device)
            .triu(1)
            .expand(len(mz), -1, -1)
        )
        blocked = (
            torch.zeros(1, device=mz.device)
            .masked_fill(torch.cat([no_peak, future], -1), -math.inf)
            .unsqueeze(1)
        )
        # keys: coordinates
        n = torch.cat([mz, prefix_mass], 1)
        c = torch.cat([mz, precursor_mass.unsqueeze(1) - prefix_mass], 1)
        ang = torch.cat([n[..., None, None] * self.rot, c[..., None, None] * self.rot], 2)  # B,S,heads,D/2
        rk = torch.polar(torch.ones(1, device=mz.device).expand_as(ang), ang)
        rq = rk[:, mz.shape[1] :]
        for layer in self.decoder:
            residues = layer(residues, peaks, blocked, rq, rk)
        return self.next_residue(self.residues_norm(residues))

    def _both_ends(self, mass: Tensor, precursor_mass: Tensor) -> Tensor:
        """Features of a mass counted from the N-terminus and from the C-terminus."""
        from_end = precursor_mass.unsqueeze(1) - mass
        return torch.cat([self.mass_features(mass), self.mass_features(from_end)], dim=-1)
