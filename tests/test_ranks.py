"""Several processes train one run: exactly, as one run, and ending as one."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from launcher.checkpoint.reader import read_state
from launcher.errors import ConfigError
from launcher.layout import checkpoint_file
from launcher.lineage import state_now
from launcher.training.rendezvous import Place, place_from
from tests import tiny_faults, tiny_ranks
from tests.conftest import TrunkOf
from tests.test_resume import logged, wait_until
from tests.tiny_process import Tiny, digest, in_a_new_interpreter, manifests, metrics

PAIR = "launch.nproc=2"
THREE = ("launch.nproc=3", "data.batch_size=12")


@pytest.fixture(scope="session")
def paired(trunks: TrunkOf) -> Tiny:
    """A trunk of two processes. To be looked at, not used."""
    return trunks(PAIR)


def as_if_undisturbed(tiny: Tiny, undisturbed: Tiny) -> None:
    assert tiny.trunk.record.state == "finished"
    assert metrics(tiny.trunk) == metrics(undisturbed.trunk)
    assert digest(tiny.trunk) == digest(undisturbed.trunk)


def test_it_repeats_and_is_not_the_run_of_one_process(empty: Tiny, paired: Tiny, trained: Tiny) -> None:
    empty.train(PAIR, "paths.outputs=" + str(empty.outputs))
    as_if_undisturbed(empty, paired)
    assert sorted(metrics(paired.trunk)) == list(range(1, 41))
    assert digest(paired.trunk) != digest(trained.trunk)
    components = manifests(paired.trunk)[40].content.components
    assert components.keys() - manifests(trained.trunk)[40].content.components.keys() == {
        "rng_state_of_ranks"
    }


def test_the_batch_of_a_step_does_not_depend_on_how_many_share_it(paired: Tiny, trained: Tiny) -> None:
    ours, theirs = metrics(paired.trunk), metrics(trained.trunk)
    assert [ours[step]["digest/batch"] for step in ours] == [theirs[step]["digest/batch"] for step in theirs]
    assert [ours[step]["digest/rng"] for step in ours] != [theirs[step]["digest/rng"] for step in theirs]


def test_each_rank_draws_its_own_dropout(paired: Tiny, trained: Tiny) -> None:
    state = read_state(paired.trunk.directory.checkpoints / checkpoint_file(40))
    alone = read_state(trained.trunk.directory.checkpoints / checkpoint_file(10))
    [other] = state["rng_state_of_ranks"]
    assert other.keys() == state["rng_state"].keys() == alone["rng_state"].keys()
    assert not torch.equal(other["torch"], state["rng_state"]["torch"])


def test_without_randomness_they_compute_what_one_process_does(empty: Tiny) -> None:
    """The gradient and the metrics are means over the whole batch; only the last bits differ."""
    plain = "task._target_=tests.tiny_variants.MaskedTask"
    one, two = metrics(empty.train(plain)), metrics(empty.train(plain, PAIR))
    for step in one:
        assert two[step]["train/error"] == pytest.approx(one[step]["train/error"], rel=1e-4)
    assert two[40]["val/error"] == pytest.approx(one[40]["val/error"], rel=1e-4)


def test_a_control_is_exact(trunk_of: TrunkOf) -> None:
    tiny = trunk_of(PAIR)
    control = tiny.train("branch.from_step=20", PAIR)
    assert control.record.branch_type == "control"
    ended = tiny.launcher("verify", control.id, "--json")
    assert ended.status == 0, ended.said
    assert json.loads(ended.out)["exact"] is True
    assert digest(control) == digest(tiny.trunk)


def test_another_number_of_processes_is_a_factor(tiny: Tiny) -> None:
    branch = tiny.train("branch.from_step=20", PAIR)
    assert branch.record.job_type == "nproc-2"
    assert branch.record.differences == branch.record.resharded == {"launch.nproc": [1, 2]}
    assert any("the state is resharded" in one["found"] for one in branch.record.findings)
    refused = tiny.refuse(f"branch.from_run={branch.id}", "branch.from_step=30")
    assert "launch.nproc=2" in refused.err


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR2", 140)])
def test_asked_to_stop_all_save_at_one_step(empty: Tiny, paired: Tiny, name: str, status: int) -> None:
    ended = empty.launch(PAIR, prepare=[partial(tiny_ranks.kill_starter, 17, name)])
    assert ended.status == status
    assert ended.err.count("the same command goes on") == 1
    assert "Traceback" not in ended.err
    assert empty.trunk.record.state == "interrupted"
    assert sorted(manifests(empty.trunk)) == [10, 17]
    assert max(metrics(empty.trunk)) == 17
    empty.train(PAIR)
    as_if_undisturbed(empty, paired)


def test_a_signal_to_one_rank_stops_all(empty: Tiny) -> None:
    ended = empty.launch(PAIR, prepare=[partial(tiny_ranks.kill_rank, 1, 17, "SIGTERM")])
    assert ended.status == 143
    assert sorted(manifests(empty.trunk)) == [10, 17]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_takes_the_others_down(empty: Tiny, paired: Tiny, rank: int) -> None:
    ended = empty.launch(PAIR, prepare=[partial(tiny_ranks.kill_rank, rank, 25, "SIGKILL")])
    assert ended.status == 1
    assert "Traceback" not in ended.err
    assert ended.err.count("error:") == 1
    assert f"rank {rank} (process" in ended.err
    assert "was ended by SIGKILL" in ended.err
    assert state_now(empty.trunk) == ("interrupted" if rank == 0 else "failed")
    if rank == 1:
        assert "rank 1 (process" in (error := empty.trunk.record.error or "")
        assert error.endswith("was ended by SIGKILL.")
    empty.train(PAIR)
    as_if_undisturbed(empty, paired)


def test_killed_with_all_its_ranks(empty: Tiny, paired: Tiny) -> None:
    """They do not outlive the process that started them."""
    assert empty.launch(PAIR, prepare=[partial(tiny_ranks.kill_starter, 25, "SIGKILL")]).status == 137
    empty.train(PAIR)
    as_if_undisturbed(empty, paired)


def test_asked_before_it_began_it_leaves_nothing(empty: Tiny) -> None:
    ended = empty.launch(PAIR, prepare=[partial(tiny_ranks.kill_starter_in_preflight, "SIGTERM")])
    assert (ended.status, ended.err) == (143, "")
    assert not list(empty.outputs.rglob("*"))


def test_trained_elsewhere_is_said_once(empty: Tiny) -> None:
    """Rank 0 finds it out when the others are under way already."""
    go = empty.outputs.parent / "go"
    first = empty.start(PAIR, prepare=[partial(tiny_faults.wait_at, 25, go)])
    wait_until(lambda: logged(empty) >= 24, first.process.is_alive)
    try:
        second = empty.launch(PAIR)
        assert second.status == 2
        assert second.err.count("error:") == 1
        assert "Another process is training" in second.err
    finally:
        go.touch()
        ended = first.end()
    assert ended.status == 0, ended.err


def test_with_three_the_place_of_a_gradient_in_a_bucket_counts(empty: Tiny, trunks: TrunkOf) -> None:
    kill = partial(tiny_ranks.kill_rank, 1, 17, "SIGTERM")
    assert empty.launch(*THREE, prepare=[kill]).status == 143
    empty.train(*THREE)
    as_if_undisturbed(empty, trunks(*THREE))


def test_what_fails_at_one_rank_is_said_once_by_the_run(empty: Tiny) -> None:
    ended = empty.launch(PAIR, prepare=[partial(tiny_ranks.nan_at_rank, 1, 17)])
    assert ended.status == 1
    assert ended.err.count("error:") == 1
    assert "error: The loss is nan at step 17." in ended.err
    assert "Traceback" not in ended.err
    assert empty.trunk.record.state == "failed"
    assert sorted(metrics(empty.trunk)) == list(range(1, 17))


def test_an_exception_at_one_rank_is_the_runs(empty: Tiny) -> None:
    ended = empty.launch(PAIR, prepare=[partial(tiny_ranks.raise_at_rank, 1, 17)])
    assert ended.status == 1
    assert ended.err.count("error:") == 1
    assert ended.err.count("Traceback") == 1
    assert empty.trunk.record.error == "Rank 1 failed: ZeroDivisionError: on purpose"


def test_an_exception_of_rank_0_keeps_its_traceback(empty: Tiny) -> None:
    ended = empty.launch(PAIR, prepare=[partial(tiny_ranks.raise_at_rank, 0, 17)])
    assert ended.status == 1
    assert 'raise ZeroDivisionError("on purpose")' in ended.err
    assert empty.trunk.record.error == "ZeroDivisionError: on purpose"


@pytest.mark.parametrize(("rank", "status"), [(0, 99), (1, 0)])
def test_only_rank_0_writes(empty: Tiny, rank: int, status: int) -> None:
    forbid = partial(tiny_ranks.no_writing, rank, empty.outputs)
    assert empty.launch(PAIR, prepare=[forbid]).status == status


def test_a_batch_that_cannot_be_shared_equally_is_refused(empty: Tiny) -> None:
    ended = empty.refuse("launch.nproc=3")
    assert ended.err.count("error:") == 1
    assert "launch.nproc=3" in ended.err
    assert "[16, 8]" in ended.err


def test_what_is_wrong_is_said_once(empty: Tiny) -> None:
    ended = empty.refuse(PAIR, "optimizer.lr=-1")
    assert ended.err.count("error:") == 1
    assert "optimizer cannot be built" in ended.err


def test_awkward_models_are_exact_too(empty: Tiny) -> None:
    """Tied and frozen weights, unused ones, buffers of every kind."""
    awkward = (PAIR, "task._target_=tests.tiny_variants.StridedTask")
    trunk = empty.train(*awkward)
    control = empty.train(*awkward, "branch.from_step=20")
    assert digest(control) == digest(trunk)


def test_finished_it_is_not_run_again(trunk_of: TrunkOf) -> None:
    tiny = trunk_of(PAIR)
    before = tiny.files()
    ended = tiny.launch(PAIR)
    assert (ended.status, ended.err.count("is finished already")) == (0, 1)
    assert ended.out.count("directory ") == 1
    assert tiny.files() == before


def test_beside_siblings_of_one_process(empty: Tiny, paired: Tiny, trained: Tiny) -> None:
    """The first has computed when the second starts, so that the ranks cannot be forked."""
    assert empty.launch("-m", "launch.nproc=1,2").status == 0
    ends = {run.id: digest(run) for run in empty.runs()}
    assert ends == {run.id: digest(run) for run in (trained.trunk, paired.trunk)}


def test_started_by_torchrun(empty: Tiny, paired: Tiny) -> None:
    ended = in_a_new_interpreter(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "tests.tiny_train", f"paths.outputs={empty.outputs}", PAIR),
    )
    assert ended.status == 0, ended.err
    assert ended.out.count("directory ") == 1
    as_if_undisturbed(empty, paired)


def slurm(rank: int, tasks: int = 2) -> dict[str, str]:
    return {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(tasks), "SLURM_JOB_ID": "7", "SLURM_LOCALID": "0"}


def test_started_by_slurm(empty: Tiny, paired: Tiny) -> None:
    """No name of a node is used: rank 0 leaves its address in the outputs, and nothing stays."""
    tasks = [empty.start(PAIR, environment=slurm(rank)) for rank in (1, 0)]
    other, first = [one.end() for one in tasks]
    assert (first.status, other.status) == (0, 0), first.err + other.err
    assert (other.out, other.err) == ("", "")
    as_if_undisturbed(empty, paired)
    assert [path.name for path in empty.outputs.iterdir()] == ["trunks"]


def test_refused_under_slurm_it_leaves_nothing(empty: Tiny) -> None:
    wrong = (PAIR, "optimizer.lr=-1")
    tasks = [empty.start(*wrong, environment=slurm(rank)) for rank in (0, 1)]
    first, other = [one.end() for one in tasks]
    assert (first.status, other.status, other.err) == (2, 2, "")
    assert first.err.count("error:") == 1
    assert not empty.outputs.exists()


def test_another_number_than_was_started_is_refused(empty: Tiny) -> None:
    ended = empty.refuse(PAIR, environment=slurm(0, tasks=4))
    assert "launch.nproc=2; 4 processes were started" in ended.err


class TestPlace:
    def test_nobody_has_started_them(self) -> None:
        assert place_from(2, {}) is None
        assert place_from(2, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "7"}) is None

    def test_one_process_asks_nobody(self) -> None:
        assert place_from(1, {"RANK": "3", "WORLD_SIZE": "8", **slurm(1)}) == Place()

    def test_of_torchrun(self) -> None:
        environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
        assert place_from(8, environment) == Place(rank=5, size=8, local_rank=1, local_size=4)

    def test_each_start_of_a_job_meets_elsewhere(self) -> None:
        first, requeued = place_from(2, slurm(1)), place_from(2, {**slurm(1), "SLURM_RESTART_COUNT": "1"})
        assert first is not None
        assert requeued is not None
        assert (first.rank, first.size) == (1, 2)
        assert first.meeting != requeued.meeting

    def test_another_number(self) -> None:
        with pytest.raises(ConfigError, match="another number"):
            place_from(2, {"RANK": "0", "WORLD_SIZE": "3"})

    def test_of_torchrun_one_process_is_a_number_too(self) -> None:
        """Otherwise each of two would train the run by itself, one after the other."""
        two = {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
        with pytest.raises(ConfigError, match="another number") as caught:
            place_from(1, two)
        assert caught.value.do == ("launch.nproc=2, or start 1 process",)
        assert place_from(1, {**two, "RANK": "0", "WORLD_SIZE": "1"}) == Place()
