"""What goes on under a run's feet: other data, a second process, a record that cannot be read."""

from __future__ import annotations

import json
import os

import pytest

from launcher.errors import LauncherError
from launcher.lease import Lease
from launcher.lineage import branched_steps, utc_now
from tests.tiny_process import Tiny
from tests.tiny_task import TinyTask

POINT = "branch.from_step=20"


def other_data() -> None:
    """The file behind the same words has changed."""
    TinyTask.fingerprint = lambda _: "another file"  # type: ignore[method-assign]


class TestOtherData:
    @pytest.mark.parametrize("typed", [(), ("data.shift=0.0",), ("data=tiny",), ("seed=3",)])
    def test_a_branch_is_refused_whatever_was_typed_with_it(self, tiny: Tiny, typed: tuple[str, ...]) -> None:
        ended = tiny.refuse(POINT, *typed, prepare=[other_data])
        assert "fingerprint another file" in ended.said

    def test_data_that_the_config_names_is_a_factor(self, tiny: Tiny) -> None:
        run = tiny.train(POINT, "data.shift=0.5")
        assert run.record.branch_type == "factor"

    def test_a_finished_run_is_not_passed_off_as_one_of_the_new_data(self, tiny: Tiny) -> None:
        assert "finished already" in tiny.launch().said
        assert "fingerprint another file" in tiny.refuse(prepare=[other_data]).said


class TestASecondProcess:
    def test_is_refused_and_touches_nothing(self, tiny: Tiny) -> None:
        run = tiny.train(POINT)
        record = json.loads(run.directory.record.read_text())
        run.directory.record.write_text(json.dumps({**record, "state": "running"}))
        lease = Lease(run.directory, utc_now())
        said = tiny.refuse(POINT).said
        assert "Another process is training" in said
        assert f"process {os.getpid()} on" in said
        lease.release()
        assert tiny.launch(POINT).status == 0


class TestARecordThatCannotBeRead:
    @pytest.fixture
    def damaged(self, tiny: Tiny) -> Tiny:
        place = tiny.outputs / "trunks" / "trunk-00000000"
        place.mkdir()
        (place / "run.json").write_text("{")
        return tiny

    def test_no_other_run_is_taken_in_its_place(self, damaged: Tiny) -> None:
        assert "trunk-00000000/run.json" in damaged.refuse(POINT).said

    def test_a_run_that_is_named_is_not_concerned(self, damaged: Tiny) -> None:
        trunk = next((damaged.outputs / "trunks").glob("trunk-c*"))
        assert damaged.launch(POINT, f"branch.from_run={trunk.name}").status == 0

    def test_retention_does_not_guess_what_it_branched_from(self, damaged: Tiny) -> None:
        with pytest.raises(LauncherError, match="cannot be read"):
            branched_steps(damaged.outputs, "anything")


class TestGroups:
    @pytest.mark.parametrize("name", ["trunks", "scratch", "''", ".."])
    def test_a_reserved_or_empty_name_is_refused(self, tiny: Tiny, name: str) -> None:
        assert "group" in tiny.refuse(POINT, f"tracking.group={name}").said

    def test_the_same_branch_in_two_groups_is_two_runs_with_two_ids(self, tiny: Tiny) -> None:
        one, other = tiny.train(POINT), tiny.train(POINT, "tracking.group=mine")
        assert one.id != other.id
        assert {one.record.group, other.record.group} == {"checkpoint-20-experiments", "mine"}
