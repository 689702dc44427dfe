"""The storm over the pool, short: `make storm` has the long one."""

from __future__ import annotations

from pathlib import Path

from tests.pool_storm import KINDS, storm
from tests.storm import forecast

SEED = 138
"""One in which all kinds come within seven seconds, and most find somebody."""


def test_siblings_in_a_storm_end_as_in_fair_weather(tmp_path: Path) -> None:
    assert storm(tmp_path, seed=SEED, seconds=7).startswith(f"seed {SEED}: ")


def test_a_forecast_is_a_function_of_its_seed() -> None:
    faults = forecast(5, 30, KINDS, 10)
    assert faults == forecast(5, 30, KINDS, 10)
    assert faults != forecast(6, 30, KINDS, 10)
    assert [one.at for one in faults] == sorted(one.at for one in faults)
    assert {one.kind for one in faults[: len(KINDS)]} == set(KINDS)
    assert 20 < len(faults) < 40
