"""Every knob of the peptide task: meaning, unit, default.

The nodes ``model``, ``data``, ``loss`` and ``curriculum`` of :class:`launcher.config.Config`. Their YAML
files under ``conf/`` pull these schemas in as ``/schema/model@_here_: transformer`` and so on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class NodeConfig:
    """What every node has beside its settings; neither changes what is computed."""

    label: str | None = None
    """The node's part of a run's name; ``null``: none."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Metadata for the trackers, by key."""


@dataclass
class ModelConfig(NodeConfig):
    """The sequencing transformer."""

    width: int = 32
    """Channels of every token; a multiple of 4 times ``heads``."""
    heads: int = 4
    """Attention heads; even: half of them measure from the N-terminus, half from the C-terminus."""
    layers: int = 1
    """Transformer layers."""
    feed_forward: int = 64
    """Channels between the two linear layers of a feed-forward block."""
    dropout: float = 0.1
    """Probability with which a channel of an example is dropped; 0 to below 1."""
    shortest_wavelength: float = 2.0
    """Shortest wavelength of the mass features, in Da: about twice the difference still told apart."""
    longest_wavelength: float = 2_000.0
    """Longest wavelength of the mass features, in Da."""


@dataclass
class DataConfig(NodeConfig):
    """What all sources of data have in common."""

    source: str = MISSING
    """``synthetic``, ``fasta`` or ``mgf``."""
    batch_size: int = 16
    """Peptides in a training batch."""
    peaks: int = 28
    """Most peaks of a spectrum that the model sees; the highest are kept."""
    min_length: int = 6
    """Shortest peptide, in residues."""
    max_length: int = 12
    """Longest peptide, in residues; the curriculum ends here."""
    validation_share: float = 0.1
    """Share of the distinct peptides that is held out, chosen by a hash of the sequence; above 0, below 1."""
    validation_size: int = 512
    """Most held-out spectra that an evaluation uses."""


@dataclass
class SimulatedData(DataConfig):
    """Spectra computed from peptides, made as imperfect as an instrument's."""

    simulation_seed: int = 0
    """Seed of the spectra and peptides themselves, 0 to 2**32 - 1; the run's ``seed`` only orders them."""
    missing_fragments: float = 0.55
    """Probability that a fragment leaves no peak; 0 to below 1."""
    noise_peaks: int = 10
    """Peaks of noise in each spectrum."""
    noise_intensity: float = 0.2
    """Mean height of a noise peak; a y-ion's median is 1."""
    b_intensity: float = 0.4
    """Median height of a b-ion; a y-ion's is 1."""
    intensity_spread: float = 0.5
    """Standard deviation of the logarithm of a fragment's height."""
    mass_error: float = 0.02
    """Standard deviation of a peak's m/z, in Da."""
    annotation_errors: float = 0.7
    """Share of the training annotations that are wrong: the right residues in another order."""


@dataclass
class SyntheticData(SimulatedData):
    """Peptides drawn at random, shaped like products of trypsin."""

    source: str = "synthetic"
    """``synthetic``."""
    peptides: int = 32_768
    """Peptides drawn; the few that are drawn twice count once."""


@dataclass
class FastaData(SimulatedData):
    """Peptides of the proteins in a FASTA file, digested with trypsin."""

    source: str = "fasta"
    """``fasta``."""
    path: str = MISSING
    """FASTA file, plain or gzipped, relative to the working directory."""
    missed_cleavages: int = 1
    """Most cleavage sites inside a peptide that trypsin left uncut."""
    strict: bool = False
    """Refuse the file for a malformed record, instead of skipping and naming it."""


@dataclass
class MgfData(DataConfig):
    """Real annotated spectra: a Mascot Generic Format file with ``SEQ=`` in each record."""

    source: str = "mgf"
    """``mgf``."""
    path: str = MISSING
    """MGF file, plain or gzipped, relative to the working directory."""
    max_length: int = 20
    """Longest peptide, in residues; the curriculum ends here."""
    peaks: int = 60
    """Most peaks of a spectrum that the model sees; the highest are kept."""
    precursor_tolerance: float = 50.0
    """Largest difference of the precursor's mass from the annotation's, in ppm; one 13C may be counted."""
    strict: bool = False
    """Refuse the file for a malformed record, instead of skipping and naming it."""


@dataclass
class LossConfig(NodeConfig):
    """Cross-entropy plus, times the curriculum's share, the spectrum loss."""

    weight: float = 8.0
    """Weight of the spectrum loss against the cross-entropy, at the curriculum's full share; 0: off."""
    water_on_y_ions: bool = True
    """Count the water of y-ions, as is right; ``false`` is the bug: y-ions 18.0106 Da too light."""
    peak_width: float = 0.2
    """Standard deviation of the Gaussian around a fragment within which a peak supports it, in Da."""


@dataclass
class CurriculumConfig(NodeConfig):
    """What changes over the task steps: peptide length and the share of the spectrum loss.

    Both grow linearly between two steps. Examples longer than the limit do not count in the training loss.
    """

    initial_length: int = 8
    """Longest peptide trained on at first, in residues."""
    length_start: int = 500
    """Last step at which the limit is ``initial_length``."""
    length_full: int = 3_000
    """First step at which peptides of every length (``data.max_length``) are trained on."""
    spectrum_start: int = 1_000
    """Last step without the spectrum loss."""
    spectrum_full: int = 3_000
    """First step at which the spectrum loss has its full weight."""


SOURCES: dict[str, type[DataConfig]] = {
    "synthetic": SyntheticData,
    "fasta": FastaData,
    "mgf": MgfData,
}


def register() -> None:
    """Make the schemas known to Hydra, under groups that do not show in ``--help``."""
    store = ConfigStore.instance()
    store.store(group="schema/model", name="transformer", node=ModelConfig)
    for source, schema in SOURCES.items():
        store.store(group="schema/data", name=source, node=schema)
    store.store(group="schema/loss", name="spectrum", node=LossConfig)
    store.store(group="schema/curriculum", name="ramps", node=CurriculumConfig)
