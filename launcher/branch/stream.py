"""Streams: the same branch with other random numbers, so that noise can be told from effect.

Stream 0 is the trunk's own continuation: its data order and its random numbers go on, exactly. Stream r
takes over the same state, but orders the data and draws everything by the trunk's seed plus r; that is
``seed=SEED branch.reset=[rng]``, and typing these words gives the same run. Siblings of one stream see
the same batches and begin with the same random numbers, so they are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from launcher.config import Config
from launcher.differences import override
from launcher.errors import ConfigError

SEEDS = 2**32
"""How many seeds there are."""


def stream_of(config: Config, changed: Mapping[str, tuple[Any, Any]]) -> int:
    """Which stream a branch is in, by how far its seed is from its trunk's.

    Another seed is a stream only where every random number comes from it: with the trunk's RNG restored it
    changes the order of the data alone, and is a factor like any other.
    """
    anew = "rng" in config.branch.reset or config.branch.restore == "weights"
    if "seed" not in changed or not anew or type(changed["seed"][0]) is not int:
        return 0
    return int((config.seed - changed["seed"][0]) % SEEDS)


def in_stream_0(config: Config, stream: int) -> Config:
    """The config of the same sibling in stream 0."""
    if stream == 0:
        return config
    kept = [part for part in config.branch.reset if part != "rng"]
    return replace(config, seed=(config.seed - stream) % SEEDS, branch=replace(config.branch, reset=kept))


def overrides_in(stream: int, overrides: Sequence[str], config: Config) -> list[str]:
    """The overrides of a sibling in another stream.

    Args:
        stream: 1 or more.
        overrides: the sibling's in stream 0.
        config: what they are composed to.
    """
    seed = override("seed", (config.seed + stream) % SEEDS)
    if config.branch.restore == "weights":
        return [*(one for one in overrides if _key(one) != "seed"), seed]
    kept = [one for one in overrides if _key(one) not in {"seed", "branch.reset"}]
    return [*kept, seed, override("branch.reset", [*config.branch.reset, "rng"])]


def refuse_unrepeatable(config: Config, swept: Sequence[str]) -> None:
    """Stop a fan-out whose siblings cannot be in several streams.

    Raises:
        ConfigError: they are trunks, or something else already decides their random numbers.
    """
    contradictions = [
        (
            not config.branch.asked,
            "fanout.repeats repeats branches, and no branch point is named.",
            "name one: branch.from_step=N; of trunks, sweep the seed: seed=1,2,3",
        ),
        (
            any(_key(one) == "seed" for one in swept),
            "fanout.repeats and a swept seed both decide the random numbers.",
            "drop one of the two",
        ),
        (
            "rng" in config.branch.reset,
            "fanout.repeats keeps stream 0 exact, and branch.reset=[rng] does not.",
            "drop rng from branch.reset: the other streams start their random numbers anew by themselves",
        ),
    ]
    for wrong, what, do in contradictions:
        if wrong:
            raise ConfigError(what, where="fanout.repeats", do=do)


def _key(override_text: str) -> str:
    return override_text.partition("=")[0].lstrip("+~")
