"""proto"""

from dataclasses import dataclass


@dataclass
class ModelConfig:
    width: int = 64
    heads: int = 4
    encoder_layers: int = 1
    decoder_layers: int = 2
    feed_forward: int = 128
    dropout: float = 0.1
    mass_features: int = 24
    shortest_wavelength: float = 0.5
    longest_wavelength: float = 4000.0
    rot_short: float = 2.0
    rot_long: float = 2000.0
    rot_inter: int = 0


@dataclass
class SimulatedData:
    peaks: int = 32
    missing_fragments: float = 0.15
    intensity_spread: float = 0.5
    b_intensity: float = 0.6
    noise_peaks: int = 6
    noise_intensity: float = 0.2
    mass_error: float = 0.01
