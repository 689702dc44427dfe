"""What is searched: Hydra's sweeps as Optuna's distributions, and values as overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from launcher.errors import ConfigError

Value = str | float | int
Space = Mapping[str, BaseDistribution]
"""Distributions by key as it was typed, with its ``+``."""
_LOG = "log"


def distribution_of(one: Override) -> BaseDistribution:
    """The distribution that a sweep means.

    ``interval(a,b)`` is a number in between, ``int(interval(a,b))`` a whole one, ``tag(log,...)`` on a
    logarithmic scale; ``range(a,b)`` is ordered; lists, ``choice(...)`` and ``glob(...)`` are values without
    an order.

    Raises:
        ConfigError: it is empty, or no number can be drawn so.
    """
    sweep = one.value()
    try:
        if isinstance(sweep, IntervalSweep):
            return _between(sweep)
        if isinstance(sweep, RangeSweep) and not sweep.shuffle:
            return _along(sweep, [float(value) for value in sweep.range()])
        return CategoricalDistribution(list(dict.fromkeys(one.sweep_string_iterator())))
    except (ValueError, IndexError) as error:
        raise ConfigError(
            f"{one.input_line} cannot be searched.",
            where=one.key_or_group,
            found=str(error),
            expected="interval(LOW,HIGH), tag(log,interval(LOW,HIGH)), range(...), choice(...) or A,B,C",
        ) from error


def _between(sweep: IntervalSweep) -> BaseDistribution:
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    log = _LOG in sweep.tags
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _along(sweep: RangeSweep, values: Sequence[float]) -> BaseDistribution:
    low, high = min(values[0], values[-1]), max(values[0], values[-1])
    step, log = abs(sweep.step), _LOG in sweep.tags
    if all(isinstance(one, int) for one in (sweep.start, sweep.stop, sweep.step)):
        return IntDistribution(int(low), int(high), log=log, step=int(step))
    return FloatDistribution(low, high, log=log, step=float(step))


def overrides_of(values: Mapping[str, Value]) -> list[str]:
    """Values as overrides: numbers to six digits, which nobody can tell from more and anybody can read."""
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _text(value: Value) -> str:
    # A whole number stays a number with a point: 1 and 1.0 are not the same config.
    return repr(float(f"{value:.6g}")) if isinstance(value, float) else str(value)


def corners(space: Space) -> list[dict[str, Value]]:
    """A few points that together have every listed value and both ends of every interval."""
    axes = {key: _ends(one) for key, one in space.items()}
    count = max(len(values) for values in axes.values())
    return [{key: values[at % len(values)] for key, values in axes.items()} for at in range(count)]


def grid(space: Space) -> dict[str, list[Value]]:
    """Every value of every key.

    Raises:
        ConfigError: there are endlessly many.
    """
    endless = [key for key, one in space.items() if isinstance(one, FloatDistribution) and one.step is None]
    if endless:
        raise ConfigError(
            "A grid has listed values only.",
            where=endless[0],
            found="an interval",
            expected="A,B,C, choice(...) or range(...)",
            do="list the values, or hydra.sweeper.sampler=random",
        )
    return {key: _all(one) for key, one in space.items()}


def suggest(trial: Trial, key: str, one: BaseDistribution) -> Value:
    """A value for a key: the one that the trial has already, or a new one."""
    if isinstance(one, FloatDistribution):
        return trial.suggest_float(key, one.low, one.high, step=one.step, log=one.log)
    if isinstance(one, IntDistribution):
        return trial.suggest_int(key, one.low, one.high, step=one.step, log=one.log)
    assert isinstance(one, CategoricalDistribution)
    return str(trial.suggest_categorical(key, one.choices))


def _ends(one: BaseDistribution) -> list[Value]:
    if isinstance(one, FloatDistribution | IntDistribution):
        return list(dict.fromkeys((one.low, one.high)))
    return _all(one)


def _all(one: BaseDistribution) -> list[Value]:
    if isinstance(one, IntDistribution):
        return list(range(one.low, one.high + 1, one.step))
    if isinstance(one, FloatDistribution):
        assert one.step is not None
        return [one.low + at * one.step for at in range(round((one.high - one.low) / one.step) + 1)]
    assert isinstance(one, CategoricalDistribution)
    return [str(choice) for choice in one.choices]
