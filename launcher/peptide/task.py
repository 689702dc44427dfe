"""The reference task: de novo peptide sequencing, as :class:`launcher.training.task.Task` asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from launcher.config import Config
from launcher.peptide import dataset
from launcher.peptide.curriculum import Curriculum
from launcher.peptide.model import SequencingTransformer
from launcher.peptide.objective import Objective, weighted_mean
from launcher.peptide.residues import FIRST_RESIDUE, FIRST_TERMINAL
from launcher.peptide.validation import curriculum_config, data_config, loss_config, model_config
from launcher.training.task import Batch, Stateful

NOT_SETTINGS = frozenset({"label", "facts", "path", "strict"})
"""Keys of a node that do not decide by themselves what a step computes; a file counts by its content."""

VALIDATION_BATCH = 256
"""Held-out spectra in one forward pass: bounds the memory, does not change the result's meaning."""


class PeptideTask:
    """A transformer that sequences peptides, with a spectrum loss that a curriculum brings in.

    Args:
        config: the whole config; ``model``, ``data``, ``loss``, ``curriculum`` and ``seed`` are used.

    Raises:
        ConfigError: a value of one of these nodes cannot be meant.
    """

    def __init__(self, config: Config) -> None:
        self.model = model_config(config.model)
        self.data = data_config(config.data)
        self.loss_settings = loss_config(config.loss)
        self.seed = config.seed
        self.curriculum = Curriculum(curriculum_config(config.curriculum), self.data.max_length)
        self.objective = Objective(self.loss_settings)
        self._right_objective = Objective(self.loss_settings, always_right=True)
        self._on_device: dict[torch.device, dict[str, Tensor]] = {}

    @cached_property
    def dataset(self) -> dataset.Dataset:
        """The data, read or computed at the first use.

        Raises:
            DataError: the file cannot be read or has too few usable records.
        """
        return dataset.load(self.data)

    def build_model(self) -> nn.Module:
        """A new model, initialised from torch's global RNG."""
        return SequencingTransformer(self.model)

    def batch(self, step: int) -> Batch:
        """The training spectra of data step ``step``; the names and shapes are :class:`Dataset`'s.

        Peptides of every length: which of them count is the curriculum's, and so :meth:`loss`'s, concern.
        That keeps the data the same for siblings with different curricula.

        Raises:
            DataError: at the first call, if the data cannot be had.
        """
        return self.dataset.batch(self.seed, step, self.data.batch_size)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, plus the spectrum loss at the curriculum's weight, over short enough peptides.

        If no peptide of the batch is short enough, the loss is 0 and has gradient 0.
        """
        tokens = batch["tokens"]
        lengths = ((tokens >= FIRST_RESIDUE) & (tokens < FIRST_TERMINAL)).sum(dim=1)
        counted = lengths <= self.curriculum.length_limit(step)
        weight = self.spectrum_weight(step)
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            logits = _logits(model, batch)
        terms = self.objective(logits, batch, counted, train_on_spectrum=weight > 0)
        total = terms.cross_entropy + weight * terms.spectrum_loss if weight > 0 else terms.cross_entropy
        return total, {
            "total_loss": total.detach(),
            "cross_entropy": terms.cross_entropy.detach(),
            "spectrum_loss": terms.spectrum_loss.detach(),
            "token_accuracy": terms.token_accuracy.detach(),
        }

    def evaluate(self, model: nn.Module, step: int, device: torch.device) -> dict[str, float]:
        """Metrics on held-out spectra that mean the same for all siblings, whatever they train with.

        All lengths count. ``spectrum_loss`` is the right one, with water on y-ions; ``total_loss`` is
        ``cross_entropy + spectrum_loss``, both at weight 1. ``peptide_accuracy`` is the share of peptides
        with every token right. Each token is predicted from the true ones before it; since the first
        wrong token already makes a peptide wrong, this is also the accuracy of greedy decoding.
        """
        del step
        held_out = self._validation(device)
        size = len(held_out["tokens"])
        sums: dict[str, Tensor] = {}
        for start in range(0, size, VALIDATION_BATCH):
            part = {name: values[start : start + VALIDATION_BATCH] for name, values in held_out.items()}
            terms = self._right_objective(
                _logits(model, part), part, part["charge"] > 0, train_on_spectrum=False
            )
            ...
        return {}

    def settings(self, step: int) -> Mapping[str, object]:
        """What decides the computation of ``step``; the spectrum loss is left out while it is off."""
        share = self.curriculum.spectrum_share(step)
        active = {"curriculum.spectrum_share": share, **self._loss_keys} if self.spectrum_weight(step) > 0 else {}
        return {**self._fixed_keys, "curriculum.length_limit": self.curriculum.length_limit(step), **active}

    def spectrum_weight(self, step: int) -> float:
        """Weight of the spectrum loss in the total loss of task step ``step``."""
        return self.loss_settings.weight * self.curriculum.spectrum_share(step)
