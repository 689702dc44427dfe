"""Two ramps over the task step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.peptide.config import CurriculumConfig
from launcher.peptide.curriculum import Curriculum

RAMPS = Curriculum(
    CurriculumConfig(
        initial_length=8, length_start=100, length_full=200, spectrum_start=10, spectrum_full=20
    ),
    longest=12,
)


@pytest.mark.parametrize(
    ("step", "length", "share"),
    [
        *[(0, 8, 0.0), (10, 8, 0.0), (11, 8, 0.1), (19, 8, 0.9), (20, 8, 1.0), (124, 8, 1.0)],
        *[(125, 9, 1.0), (175, 11, 1.0), (199, 11, 1.0), (200, 12, 1.0), (10**9, 12, 1.0)],
    ],
)
def test_linear_between_two_steps(step: int, length: int, share: float) -> None:
    assert RAMPS.length_limit(step) == length
    assert RAMPS.spectrum_share(step) == pytest.approx(share)


def test_a_ramp_without_a_length_is_a_step() -> None:
    sudden = Curriculum(
        CurriculumConfig(length_start=50, length_full=50, spectrum_start=50, spectrum_full=50), longest=12
    )
    assert [sudden.spectrum_share(step) for step in (49, 50, 51)] == [0.0, 1.0, 1.0]
    assert [sudden.length_limit(step) for step in (49, 50, 51)] == [8, 12, 12]


def test_the_data_may_be_shorter_than_the_first_limit() -> None:
    assert Curriculum(CurriculumConfig(initial_length=8), longest=7).length_limit(0) == 7


@given(step=st.integers(0, 10**6))
def test_nothing_ever_shrinks(step: int) -> None:
    assert RAMPS.length_limit(step) <= RAMPS.length_limit(step + 1)
    assert RAMPS.spectrum_share(step) <= RAMPS.spectrum_share(step + 1)
