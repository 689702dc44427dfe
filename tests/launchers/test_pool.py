"""The pool's siblings: what each runs on, in which order, and what becomes of one that crashes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from launcher.files import cores
from launcher.launchers.forking.slots import find_gpus
from launcher.launchers.sibling import Sibling
from tests.launchers.siblings import acting, alive, log, outcomes, queued, record, seen, start, until
from tests.tiny_process import Tiny, digest


def ended_well(siblings: list[Sibling]) -> list[tuple[str, int | None, str]]:
    return [(one.id, 0, "") for one in siblings]


def at_once(siblings: list[Sibling]) -> int:
    """The largest number of processes that ran at the same moment."""
    moments = [(seen(one)["begun"], 1) for one in siblings] + [(seen(one)["ended"], -1) for one in siblings]
    running = [0]
    for _, change in sorted(moments):
        running.append(running[-1] + change)
    return max(running)


def test_siblings_are_bit_for_bit_the_runs_that_they_would_be_alone(tiny: Tiny, tmp_path: Path) -> None:
    typed = [["loss=heavy"], ["optimizer.lr=0.02"], []]
    siblings = [queued(tiny, "branch.from_step=20", *one) for one in typed]
    ended = start(tiny, siblings, "launcher.job:run_sibling", slots=2).end()
    assert ended.status == 0, ended.err
    assert outcomes(ended.out) == ended_well(siblings)
    inside = [digest(tiny.run(one.id)) for one in siblings]
    assert [record(one).state for one in siblings] == ["finished"] * 3
    for one in siblings:
        one.directory.rename(tmp_path / one.id)
    alone = [digest(tiny.train("branch.from_step=20", *one)) for one in typed]
    assert inside == alone
    assert len(set(inside)) == 3


def test_there_are_never_more_at_a_time_than_slots(empty: Tiny) -> None:
    siblings = [acting(empty.outputs, number, "linger 0.05") for number in range(20)]
    ended = start(empty, siblings, slots=3).end()
    assert outcomes(ended.out) == ended_well(siblings)
    assert at_once(siblings) <= 3


@pytest.mark.parametrize(("slots", "parallel", "most"), [(3, None, 3), (None, 1, 1), (3, 2, 2)])
def test_max_parallel_and_slots_both_hold(empty: Tiny, slots: int, parallel: int, most: int) -> None:
    # They end only if so many do run side by side.
    siblings = [acting(empty.outputs, number, f"meet {most if number < most else 0}") for number in range(5)]
    ended = start(empty, siblings, slots=slots, fanout={"max_parallel": parallel}).end(30)
    assert outcomes(ended.out) == ended_well(siblings)
    assert at_once(siblings) == most


def test_each_is_a_session_of_its_own_that_cannot_reach_the_terminal(empty: Tiny) -> None:
    siblings = [acting(empty.outputs, number, "nothing") for number in range(2)]
    ended = start(empty, siblings, environment={"WANDB_SERVICE": "2-1234-tcp", "MINE": "kept"}).end()
    for one in siblings:
        facts = seen(one)
        assert facts["session"] == facts["pid"]
        assert facts["streams"] == ["/dev/null", *[str(one.directory / "log.txt")] * 2]
        assert "WANDB_SERVICE" not in facts["environment"]
        assert facts["environment"]["MINE"] == "kept"
        assert log(one) == f"{one.id} says hello\n"
    assert "hello" not in ended.out + ended.err
    first, second = map(seen, siblings)
    assert (first["torch"], first["parent"]) == (second["torch"], second["parent"])


def test_a_start_and_an_end_are_a_line_each_away_from_a_terminal(empty: Tiny) -> None:
    sibling = acting(empty.outputs, 0, "nothing")
    ended = start(empty, [sibling]).end()
    assert ended.err.splitlines() == [
        f"sibling-0: started, process {seen(sibling)['pid']}, log {sibling.directory / 'log.txt'}",
        "sibling-0: finished at step 0",
    ]


@pytest.mark.parametrize(("own", "count"), [(1, 2), (2, 2), (3, 1)])
def test_a_siblings_own_number_of_threads_holds(empty: Tiny, own: int, count: int) -> None:
    siblings = [acting(empty.outputs, number, "compute", threads=own) for number in range(count)]
    ended = start(empty, siblings, slots=2, compute_first=True).end(30)
    assert outcomes(ended.out) == ended_well(siblings)
    assert {seen(one)["threads"] for one in siblings} == {own}
    assert {seen(one)["environment"]["OMP_NUM_THREADS"] for one in siblings} == {str(own)}


@pytest.mark.parametrize(
    ("slots", "count", "parallel"), [(1, 2, None), (2, 2, None), (None, 1, None), (None, 3, 1)]
)
def test_without_one_the_cores_are_shared_out(empty: Tiny, slots: int, count: int, parallel: int) -> None:
    siblings = [acting(empty.outputs, number, "compute") for number in range(count)]
    ended = start(empty, siblings, slots=slots, compute_first=True, fanout={"max_parallel": parallel}).end(30)
    assert outcomes(ended.out) == ended_well(siblings)
    assert {seen(one)["threads"] for one in siblings} == {max(1, cores() // (slots or 1))}


def test_a_sibling_of_two_processes_takes_two_slots(empty: Tiny) -> None:
    siblings = [acting(empty.outputs, number, "nothing", nproc=2, threads=1) for number in range(4)]
    ended = start(empty, siblings, slots=3).end()
    assert outcomes(ended.out) == ended_well(siblings)
    assert at_once(siblings) == 1


CRASHES = [
    ("segfault", 139, "killed by SIGSEGV"),
    ("kill SIGABRT", 134, "killed by SIGABRT"),
    ("kill SIGKILL", 137, "killed by SIGKILL: by the kernel's out-of-memory killer, or by hand"),
    ("vanish 7", 7, "exit status 7"),
    ("vanish 0", 1, "exit status 0 before its end"),
    ("fail", 1, "exit status 1"),
]


def test_a_crash_is_its_own_and_recorded(empty: Tiny) -> None:
    siblings = [queued(empty, f"seed={number}") for number in range(len(CRASHES) + 1)]
    for sibling, (act, _, _) in zip(siblings, CRASHES, strict=False):
        (sibling.directory / "act").write_text(act)
    (siblings[-1].directory / "act").write_text("leave 0")
    ended = start(empty, siblings, slots=2).end()
    expected = [(one.id, status, reason) for one, (_, status, reason) in zip(siblings, CRASHES, strict=False)]
    assert outcomes(ended.out)[:-1] == expected
    for sibling, (_, _, reason) in zip(siblings, CRASHES, strict=False):
        assert (record(sibling).state, record(sibling).error) == ("failed", reason)
    assert "Fatal Python error: Segmentation fault" in ended.err
    assert f"    {siblings[2].directory.name} says hello" in ended.err
    assert "ValueError: the task has a bug" in log(siblings[5])


def test_what_a_crashed_process_leaves_behind_is_stopped(empty: Tiny) -> None:
    sibling = acting(empty.outputs, 0, "crash_beside_a_helper")
    ended = start(empty, [sibling]).end()
    assert outcomes(ended.out)[0][1] == 137
    until(lambda: not alive(int((sibling.directory / "helper").read_text())))


def test_a_run_that_was_taken_up_meanwhile_is_not_marked(empty: Tiny) -> None:
    sibling = queued(empty)
    (sibling.directory / "act").write_text("hand_over")
    ended = start(empty, [sibling]).end()
    assert outcomes(ended.out)[0][1] == 137
    assert (record(sibling).state, record(sibling).error) == ("queued", None)
    (sibling.directory.parent / "go").touch()


def test_a_refusal_is_told_in_its_own_words(empty: Tiny) -> None:
    sibling = queued(empty)
    launch = json.loads((sibling.directory / "launch.json").read_text())
    launch["config"]["optimizer"]["_target_"] = "nowhere.Optimizer"
    (sibling.directory / "launch.json").write_text(json.dumps(launch))
    ended = start(empty, [sibling], "launcher.job:run_sibling").end()
    [(_, status, reason)] = outcomes(ended.out)
    assert (status, reason) == (2, "exit status 2; error: optimizer cannot be built.")
    assert "nowhere.Optimizer" in ended.err
    assert record(sibling).state == "failed"


def test_after_a_failure_no_further_one_starts_if_that_was_asked_for(empty: Tiny) -> None:
    acts = ["nothing", "leave 3", "nothing", "nothing"]
    siblings = [acting(empty.outputs, number, act) for number, act in enumerate(acts)]
    ended = start(empty, siblings, slots=1, fanout={"stop_on_failure": True}).end()
    unstarted = "not started: sibling-1 failed"
    assert outcomes(ended.out) == [
        ("sibling-0", 0, ""),
        ("sibling-1", 3, "exit status 3"),
        ("sibling-2", None, unstarted),
        ("sibling-3", None, unstarted),
    ]
    assert not (siblings[2].directory / "seen.json").exists()


def test_without_a_server_the_command_ends_and_says_so(empty: Tiny) -> None:
    siblings = [acting(empty.outputs, number, "wait_for_go") for number in range(2)]
    started = start(empty, siblings, slots=1)
    until((siblings[0].directory / "seen.json").exists)
    pid, server = seen(siblings[0])["pid"], seen(siblings[0])["parent"]
    os.kill(server, signal.SIGKILL)
    ended = started.end(30)
    first, second = outcomes(ended.out)
    assert first == (
        "sibling-0", None, f"process {pid} goes on unwatched: the fork server is gone: it was killed",
    )  # fmt: skip
    assert second == ("sibling-1", None, "not started: the fork server is gone: it was killed")
    (empty.outputs / "go").touch()
    until(lambda: not alive(pid))


NVIDIA_SMI = """#!/bin/sh
test "$1" = -L || exit 1
cat <<'END'
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb)
  MIG 1g.10gb     Device  0: (UUID: MIG-cccc)
  MIG 1g.10gb     Device  1: (UUID: MIG-dddd)
END
"""


@pytest.fixture
def gpus(tmp_path: Path) -> dict[str, str]:
    """An environment in which nvidia-smi finds a GPU and two parts of another."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(NVIDIA_SMI)
    smi.chmod(0o755)
    return {"PATH": f"{smi.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("visible", "per_gpu", "expected"),
    [
        (None, 1, ["GPU-aaaa", "MIG-cccc", "MIG-dddd"]),
        (None, 2, ["GPU-aaaa", "MIG-cccc", "MIG-dddd"] * 2),
        ("3,1", 1, ["1", "3"]),
        ("0,-1,2", 2, ["0", "0"]),
    ],
)
def test_each_gpu_has_its_siblings(
    empty: Tiny, gpus: dict[str, str], visible: str | None, per_gpu: int, expected: list[str]
) -> None:
    count = len(expected)
    # Each goes on only once all are there, so no GPU is used a second time.
    siblings = [acting(empty.outputs, number, f"meet {count}") for number in range(count)]
    environment = gpus | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    ended = start(empty, siblings, device="cuda", slots_per_gpu=per_gpu, environment=environment).end(30)
    assert outcomes(ended.out) == ended_well(siblings)
    given = [seen(one)["environment"]["CUDA_VISIBLE_DEVICES"] for one in siblings]
    assert sorted(given) == sorted(expected)


def test_the_processes_of_one_sibling_have_a_gpu_each(empty: Tiny, gpus: dict[str, str]) -> None:
    siblings = [acting(empty.outputs, number, "nothing", nproc=2) for number in range(3)]
    ended = start(empty, siblings, device="cuda", slots_per_gpu=2, environment=gpus).end()
    assert outcomes(ended.out) == ended_well(siblings)
    for one in siblings:
        assert len(set(seen(one)["environment"]["CUDA_VISIBLE_DEVICES"].split(","))) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": 0}, "hydra.launcher.slots=0 leaves no room"),
        ({"slots_per_gpu": 0}, "hydra.launcher.slots_per_gpu=0 leaves no room"),
        ({"device": "cuda"}, "A sibling of 4 processes does not fit on 3 GPUs."),
        ({"device": "cuda", "slots": 2}, "A sibling of 4 processes does not fit on 2 GPUs."),
    ],
)
def test_settings_that_cannot_work_are_refused(
    empty: Tiny, gpus: dict[str, str], settings: dict[str, Any], message: str
) -> None:
    ended = start(empty, [acting(empty.outputs, 0, "nothing", nproc=4)], environment=gpus, **settings).end()
    assert ended.status == 2
    assert message in ended.err


def test_without_gpus_the_cores_are_used(empty: Tiny, tmp_path: Path) -> None:
    assert find_gpus({"PATH": str(tmp_path)}) == []
    assert find_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
