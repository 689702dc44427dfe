"""The statistics of comparisons, against SciPy's own and against what theory promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from launcher.report.compare.statistics import (
    BATCHES,
    LEAST_STEPS,
    LEVEL,
    Estimate,
    holm,
    over_steps,
    over_streams,
    without_spread,
)

NUMBERS = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


@given(st.lists(NUMBERS, min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1))
def test_paired_is_the_t_test_of_scipy(differences: list[float]) -> None:
    ours = over_streams(differences)
    assert ours is not None
    theirs = stats.ttest_1samp(differences, 0.0)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    for level in (0.05, 0.01, 0.0005):
        interval = theirs.confidence_interval(1 - level)
        assert ours.interval(level) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-6)


def test_known_values() -> None:
    """Student's own example (1908): hours of sleep gained with one drug over another, ten patients."""
    gained = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    estimate = over_streams(gained)
    assert estimate is not None
    assert estimate.mean == pytest.approx(1.58)
    assert estimate.p == pytest.approx(0.002833, abs=1e-6)
    assert estimate.interval() == pytest.approx((0.7001, 2.4599), abs=1e-4)


@pytest.mark.parametrize("differences", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_what_no_interval_can_be_made_of(differences: list[float]) -> None:
    assert over_streams(differences) is None


def test_steps_too_few_or_not_finite() -> None:
    assert over_steps([0.1 * (k % 3) for k in range(LEAST_STEPS - 1)]) is None
    assert over_steps([math.nan, *([1.0] * LEAST_STEPS)]) is not None  # The oldest is in no batch.
    assert over_steps([*([1.0] * LEAST_STEPS), math.nan]) is None


def test_steps_are_taken_in_batches() -> None:
    series = [math.sin(k) + k / 10 for k in range(53)]
    estimate = over_steps(series)
    means = np.array(series[3:]).reshape(BATCHES, 10).mean(axis=1)
    assert estimate is not None
    assert estimate.p == pytest.approx(stats.ttest_1samp(means, 0.0).pvalue)


def test_no_spread_is_seen_through_rounding() -> None:
    assert without_spread([0.3 - 0.1, 0.2, 0.4 - 0.2], 0.4)
    assert not without_spread([0.2, 0.2 + 1e-9], 0.4)
    assert Estimate(0.0, 0.0, 2).p == 1.0


@given(st.lists(st.floats(0, 1), max_size=30))
def test_holm_rejects_as_its_definition_says(chances: list[float]) -> None:
    levels = holm(chances)
    # Holm's step-down by adjusted p: the largest m - rank times p among those no larger, held to the level.
    order = sorted(range(len(chances)), key=lambda one: chances[one])
    most = 0.0
    for rank, index in enumerate(order):
        most = max(most, (len(chances) - rank) * chances[index])
        close = math.isclose(most, LEVEL, rel_tol=1e-9)
        assert close or (chances[index] <= levels[index]) == (most <= LEVEL)


def test_holm_of_a_known_family() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])


def found(differences: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    """The share of rows whose interval leaves out 0."""
    estimates = [over_streams(list(row)) for row in differences]
    return float(np.mean([one is not None and one.p < LEVEL for one in estimates]))


@pytest.mark.parametrize("streams", [2, 3, 5, 10])
def test_noise_is_called_an_effect_no_more_often_than_promised(streams: int) -> None:
    """4 000 sets of differences between two arms that are the same."""
    random = np.random.default_rng(streams)
    rate = found(random.normal(size=(4000, streams)) - random.normal(size=(4000, streams)))
    # Three standard errors of a share of 4 000 trials.
    assert abs(rate - LEVEL) < 3 * math.sqrt(LEVEL * (1 - LEVEL) / 4000)


@pytest.mark.parametrize("streams", [3, 5])
def test_heavy_tails_do_not_break_the_promise(streams: int) -> None:
    random = np.random.default_rng(streams)
    rate = found(random.standard_t(3, size=(4000, streams)) - random.standard_t(3, size=(4000, streams)))
    assert rate < LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / 4000)


@pytest.mark.parametrize(("streams", "effect"), [(3, 3.0), (3, 6.0), (5, 1.5), (10, 1.0)])
def test_an_effect_is_found_as_often_as_theory_says(streams: int, effect: float) -> None:
    """The power of the paired t-test, from the noncentral t distribution."""
    random = np.random.default_rng(streams)
    rate = found(effect + random.normal(size=(4000, streams)))
    limit, shift = stats.t.ppf(1 - LEVEL / 2, streams - 1), effect * math.sqrt(streams)
    power = stats.nct.sf(limit, streams - 1, shift) + stats.nct.cdf(-limit, streams - 1, shift)
    assert abs(rate - power) < 3 * math.sqrt(power * (1 - power) / 4000) + 0.002


def test_pairing_finds_what_unpaired_runs_hide() -> None:
    """Streams that move both arms alike: the difference has a tenth of their noise."""
    random = np.random.default_rng(0)
    shared = random.normal(size=(1000, 3))
    own = 0.1 * random.normal(size=(2, 1000, 3))
    control, treated = shared + own[0], 1.0 + shared + own[1]
    unpaired = np.mean(stats.ttest_ind(treated, control, axis=1).pvalue < LEVEL)
    assert found(treated - control) > 0.95
    assert unpaired < 0.3


def test_pairing_does_not_help_where_streams_share_nothing() -> None:
    random = np.random.default_rng(0)
    control, treated = random.normal(size=(2000, 5)), 2.0 + random.normal(size=(2000, 5))
    unpaired = np.mean(stats.ttest_ind(treated, control, axis=1).pvalue < LEVEL)
    assert found(treated - control) < unpaired


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_a_bootstrap_over_few_streams_would_break_the_promise(method: str) -> None:
    """Why intervals over streams are Student's: resampling three differences knows only these three."""
    random = np.random.default_rng(0)
    wrong = 0
    for row in random.normal(size=(300, 3)):
        done = stats.bootstrap((row,), np.mean, n_resamples=500, method=method, rng=random)
        wrong += not done.confidence_interval.low <= 0 <= done.confidence_interval.high
    assert wrong / 300 > 3 * LEVEL


def wandering(random: np.random.Generator, memory: float, count: int, trials: int) -> list[list[float]]:
    """Series of steps in which each value remembers the one before."""
    values = [random.normal(size=trials) / math.sqrt(1 - memory**2)]
    for _ in range(count - 1):
        values.append(memory * values[-1] + random.normal(size=trials))
    return np.array(values).T.tolist()


def found_over_steps(series: list[list[float]]) -> float:
    estimates = [over_steps(one) for one in series]
    return float(np.mean([one is not None and one.p < LEVEL for one in estimates]))


@pytest.mark.parametrize(("memory", "most"), [(0.0, 0.06), (0.5, 0.07), (0.8, 0.10)])
def test_neighbouring_steps_that_are_alike_are_allowed_for(memory: float, most: float) -> None:
    random = np.random.default_rng(0)
    series = wandering(random, memory, 100, 2000)
    assert found_over_steps(series) < most
    if memory:
        as_if_independent = np.mean([stats.ttest_1samp(one, 0.0).pvalue < LEVEL for one in series])
        assert as_if_independent > 2 * most


def test_one_stream_cannot_tell_a_lasting_offset_from_an_effect() -> None:
    """What "weaker" means: a run that noise has put elsewhere for good looks like an effect over steps."""
    random = np.random.default_rng(0)
    offset = random.normal(size=(500, 1))
    series = (offset + 0.1 * random.normal(size=(500, 100))).tolist()
    assert found_over_steps(series) > 0.9
