"""The reference task: de novo peptide sequencing, as :class:`launcher.training.task.Task` asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from launcher.config import Config
from launcher.files import canonical_json
from launcher.peptide import dataset
from launcher.peptide.curriculum import Curriculum
from launcher.peptide.model import SequencingTransformer
from launcher.peptide.objective import judged
from launcher.peptide.residues import is_residue
from launcher.peptide.spectrum_loss import SpectrumLoss
from launcher.peptide.validation import curriculum_config, data_config, loss_config, model_config
from launcher.training.task import Batch, Stateful

VALIDATION_PEAK_WIDTH = 0.2
"""Standard deviation of the kernel in ``val/spectrum_loss``, in Da: the yardstick of all siblings."""

NOT_SETTINGS = frozenset({"label", "facts", "path", "strict"})
"""Keys of a node that do not decide by themselves what a step computes: a file counts by its content."""

_shared: dict[bytes, dataset.Dataset] = {}
"""Data that :meth:`PeptideTask.share_data` has read, by what it is."""


class PeptideTask:
    """A transformer that sequences peptides, with a spectrum loss that a curriculum brings in.

    Args:
        config: the whole config; ``model``, ``data``, ``loss``, ``curriculum`` and ``seed`` are used.

    Raises:
        ConfigError: a value of one of these nodes cannot be meant.
    """

    def __init__(self, config: Config) -> None:
        self._seed = config.seed
        self._model = model_config(config.model)
        self._data = data_config(config.data)
        self._loss = loss_config(config.loss)
        self._curriculum = Curriculum(curriculum_config(config.curriculum), self._data.max_length)
        width = self._loss.peak_width
        self._spectrum_loss = SpectrumLoss(self._loss.water_on_y_ions, width)
        self._right_spectrum_loss = SpectrumLoss(True, VALIDATION_PEAK_WIDTH)
        self._loss_settings = _settings("loss", self._loss)

    @cached_property
    def _dataset(self) -> dataset.Dataset:
        shared = _shared.get(self._data_key())
        if shared is None:
            return dataset.load(self._data)
        if shared.records is not None:
            shared.records.report()
        return shared

    def share_data(self) -> None:
        """Read the data and keep it for every task of this process that has the same."""
        _shared[self._data_key()] = self._dataset

    def _data_key(self) -> bytes:
        # With the fingerprint, a file that was edited since is read again.
        return canonical_json([type(self._data).__name__, vars(self._data), self.fingerprint()])

    @cached_property
    def _lasting_settings(self) -> dict[str, object]:
        settings = {"seed": self._seed, **_settings("model", self._model), **_settings("data", self._data)}
        return {**settings, "data.fingerprint": self.fingerprint()}

    def build_model(self) -> nn.Module:
        """A new model, initialised from torch's global RNG."""
        return SequencingTransformer(self._model)

    def batch(self, step: int) -> Batch:
        """The training spectra of data step ``step``; names and shapes are those of :class:`dataset.Dataset`.

        Peptides of every length: which of them count is decided in :meth:`loss`, by the task step, so that
        siblings with different curricula see the same data.

        Raises:
            DataError: at the first call, if the data cannot be had.
        """
        return self._dataset.batch(self._seed, step, self._data.batch_size)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, plus the spectrum loss at the curriculum's weight, over short enough peptides.

        ``spectrum_loss`` is the configured one, measured also while its weight is 0. If no peptide of the
        batch is short enough, all terms are 0 and so is the gradient.
        """
        counted = is_residue(batch["tokens"]).sum(dim=1) <= self._curriculum.length_limit(step)
        weight = self._spectrum_weight(step)
        terms = judged(_logits(model, batch), batch, counted, self._spectrum_loss, train=weight > 0)
        total = terms.cross_entropy + weight * terms.spectrum_loss if weight > 0 else terms.cross_entropy
        return total, {
            "total_loss": total.detach(),
            "cross_entropy": terms.cross_entropy.detach(),
            "spectrum_loss": terms.spectrum_loss.detach(),
            "token_accuracy": terms.token_accuracy.detach(),
        }

    def evaluate(self, model: nn.Module, step: int, device: torch.device) -> dict[str, float]:
        """Metrics on held-out spectra that mean the same for all siblings, whatever they train with.

        Peptides of all lengths count. ``spectrum_loss`` has its water and a fixed peak width, and
        ``total_loss`` is ``cross_entropy + spectrum_loss``, both at weight 1. ``peptide_accuracy`` is the
        share of peptides with every token right. A token is predicted from the true ones before it; as one
        wrong token already makes a peptide wrong, greedy decoding would find the same share.

        Raises:
            DataError: at the first use of the data, if it cannot be had.
        """
        del step
        held_out = {name: values.to(device) for name, values in self._dataset.validation.items()}
        every = torch.ones(len(held_out["tokens"]), dtype=torch.bool, device=device)
        terms = judged(_logits(model, held_out), held_out, every, self._right_spectrum_loss, train=False)
        cross_entropy, spectrum_loss = float(terms.cross_entropy), float(terms.spectrum_loss)
        return {
            "total_loss": cross_entropy + spectrum_loss,
            "cross_entropy": cross_entropy,
            "spectrum_loss": spectrum_loss,
            "token_accuracy": float(terms.token_accuracy),
            "peptide_accuracy": float(terms.peptide_accuracy),
        }

    def settings(self, step: int) -> Mapping[str, object]:
        """What decides the computation of ``step``; all of the spectrum loss is left out while it is off.

        Raises:
            DataError: a data file is missing or cannot be read (its content is one of the settings).
        """
        settings = dict(self._lasting_settings)
        settings["curriculum.length_limit"] = self._curriculum.length_limit(step)
        if self._spectrum_weight(step) > 0:
            settings["curriculum.spectrum_share"] = self._curriculum.spectrum_share(step)
            settings.update(self._loss_settings)
        return settings

    def fingerprint(self) -> str:
        """Identifies the data, without loading it: 64 hex digits.

        Raises:
            DataError: a data file is missing or cannot be read.
        """
        return dataset.fingerprint(self._data)

    def stateful(self) -> Mapping[str, Stateful]:
        """Nothing: batches and curricula are functions of the step."""
        return {}

    def _spectrum_weight(self, step: int) -> float:
        return self._loss.weight * self._curriculum.spectrum_share(step)


def _settings(node: str, config: object) -> dict[str, object]:
    return {f"{node}.{key}": value for key, value in vars(config).items() if key not in NOT_SETTINGS}


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = model(
        batch["mz"],
        batch["intensity"],
        batch["precursor_mass"],
        batch["charge"],
        batch["previous"],
        batch["prefix_mass"],
    )
    return logits
