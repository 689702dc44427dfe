"""``fanout.repeats``: each sibling under several streams of data order and random numbers."""

from __future__ import annotations

import pytest

from launcher.lineage import Run
from tests import tiny_faults
from tests.tiny_process import Tiny, digest, metrics

POINT = "branch.from_step=20"
TYPED = ("-m", POINT, "loss=plain,heavy", "fanout.repeats=3")


def by_stream(tiny: Tiny) -> dict[tuple[bool, int], Run]:
    """Each branch by whether its loss is the heavy one, and its stream."""
    return {
        ("loss.weight" in run.record.differences, run.record.stream): run
        for run in tiny.runs()
        if run.record.kind == "branch"
    }


def batches(run: Run) -> list[str]:
    return [line["digest/batch"] for line in metrics(run).values()]


def test_streams_are_paired_and_stream_0_is_exact(tiny: Tiny) -> None:
    assert tiny.launch(*TYPED).status == 0
    runs = by_stream(tiny)
    assert set(runs) == {(heavy, stream) for heavy in (False, True) for stream in (0, 1, 2)}
    assert tiny.launcher("verify", runs[False, 0].id).status == 0
    assert digest(runs[False, 0]) == digest(tiny.trunk)
    for stream in (0, 1, 2):
        assert batches(runs[False, stream]) == batches(runs[True, stream])
        first = [metrics(runs[heavy, stream])[21] for heavy in (False, True)]
        assert first[0]["digest/rng"] == first[1]["digest/rng"]
        assert first[0]["train/error"] == first[1]["train/error"]
    assert len({tuple(batches(runs[True, stream])) for stream in (0, 1, 2)}) == 3
    assert len({metrics(runs[True, stream])[21]["digest/rng"] for stream in (0, 1, 2)}) == 3
    assert len({digest(run) for run in runs.values()}) == 6


def test_a_run_knows_its_stream_and_its_arm(tiny: Tiny) -> None:
    assert tiny.launch(*TYPED).status == 0
    runs = by_stream(tiny)
    for (heavy, stream), run in runs.items():
        assert run.record.arm == runs[heavy, 0].record.signature
        kind = "factor" if heavy else "stream" if stream else "control"
        assert run.record.branch_type == kind
        name = "heavy-loss" if heavy else "control"
        assert run.record.job_type == (f"{name}-stream-{stream}" if stream else name)
    assert len({run.record.arm for run in runs.values()}) == 2


def test_only_the_control_of_stream_0_is_held_to_the_trunk(tiny: Tiny) -> None:
    assert tiny.launch(*TYPED).status == 0
    ended = tiny.launcher("verify", by_stream(tiny)[False, 1].id)
    assert ended.status == 2
    assert "is not a control" in ended.err


def test_a_stream_is_what_its_words_typed_by_hand_are(tiny: Tiny) -> None:
    run = tiny.train(POINT, "loss=heavy", "seed=2", "branch.reset=[rng]")
    assert run.record.stream == 2
    assert tiny.launch(*TYPED).status == 0
    assert len(by_stream(tiny)) == 6
    assert by_stream(tiny)[True, 2].id == run.id


def test_more_streams_later_run_only_what_is_missing(tiny: Tiny) -> None:
    assert tiny.launch("-m", POINT, "loss=plain,heavy").status == 0
    before = {key: run.record.updated for key, run in by_stream(tiny).items()}
    assert tiny.launch(*TYPED).status == 0
    after = by_stream(tiny)
    assert {key: after[key].record.updated for key in before} == before
    assert len(after) == 6


def test_the_control_that_joins_in_is_there_in_every_stream(tiny: Tiny) -> None:
    ended = tiny.launch("-m", POINT, "loss=heavy,plain", "fanout.control=true", "fanout.repeats=2")
    assert ended.status == 0, ended.err
    assert len(by_stream(tiny)) == 4
    assert len(tiny.runs()) == 5


def test_commands_of_the_dry_run_are_the_streams(tiny: Tiny) -> None:
    ended = tiny.launch(*TYPED, "fanout.dry_run=true")
    assert ended.status == 0
    for typed in ended.commands():
        assert tiny.launch(*typed).status == 0
    assert len(by_stream(tiny)) == 6


def test_of_weights_alone_the_seed_is_the_stream(tiny: Tiny) -> None:
    typed = ("-m", POINT, "branch.restore=weights", "branch.steps=5", "loss=plain,heavy", "fanout.repeats=2")
    assert tiny.launch(*typed).status == 0
    runs = by_stream(tiny)
    assert len(runs) == 4
    assert batches(runs[False, 1]) == batches(runs[True, 1]) != batches(runs[True, 0])


def test_another_part_that_is_reset_stays_reset(tiny: Tiny) -> None:
    assert tiny.launch("-m", POINT, "branch.reset=[optimizer]", "fanout.repeats=2").status == 0
    names = {run.record.job_type for run in tiny.runs() if run.record.parent}
    assert names == {"reset-optimizer", "reset-optimizer-stream-1"}


def test_another_seed_alone_is_a_factor_and_no_stream(tiny: Tiny) -> None:
    run = tiny.train(POINT, "seed=2")
    assert (run.record.stream, run.record.branch_type, run.record.job_type) == (0, "factor", "seed-2")


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ((POINT, "seed=1,2", "fanout.repeats=2"), "swept seed"),
        ((POINT, "branch.reset=[rng]", "fanout.repeats=2"), "keeps stream 0 exact"),
        (("training.steps=5", "fanout.repeats=2"), "no branch point is named"),
        ((POINT, "fanout.repeats=0"), "fanout.repeats is out of range"),
    ],
)
def test_repeats_that_cannot_be_meant(tiny: Tiny, typed: tuple[str, ...], complaint: str) -> None:
    assert complaint in tiny.refuse("-m", *typed).said


def test_a_direction_that_there_is_not_is_refused(tiny: Tiny) -> None:
    ended = tiny.refuse(POINT, "loss=heavy", prepare=[tiny_faults.odd_direction])
    assert "'higher'" in ended.said
    assert "'up' or 'down'" in ended.said


def test_directions_are_in_the_record(tiny: Tiny) -> None:
    assert tiny.trunk.record.directions == {"error": "down", "total_loss": "down"}
