"""From a checkpoint to live objects: whatever a model is made of, and without a second copy in memory."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from launcher.checkpoint.reader import read_state
from launcher.checkpoint.verify import verify_file
from launcher.config import Config
from launcher.errors import CheckpointError
from launcher.layout import checkpoint_file
from launcher.training.restore import load_weights, model_from
from tests.tiny_faults import Kill
from tests.tiny_process import Tiny, digest, metrics
from tests.tiny_task import TinyTask
from tests.tiny_variants import Awkward, AwkwardTask, Masked, MaskedTask

AWKWARD = "task._target_=tests.tiny_variants.AwkwardTask"
CPU = torch.device("cpu")
CONFIG = Config.from_plain(
    {
        "task": {"_target_": "tests.tiny_task.TinyTask"},
        "model": {"width": 16, "dropout": 0.1},
        "data": {"batch_size": 16, "shift": 0.0},
        "loss": {"weight": 0.1, "nan_at_step": 0},
        "curriculum": {"l1_from_step": 0},
    }
)


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    tiny = Tiny(tmp_path_factory.mktemp("awkward"))
    tiny.train(AWKWARD)
    return tiny


def weights(tiny: Tiny, step: int = 20) -> dict[str, Tensor]:
    state = read_state(tiny.trunk.directory.checkpoints / checkpoint_file(step))
    found: dict[str, Tensor] = state["model_state_dict"]
    return found


class TestAwkwardModel:
    def test_its_control_is_exact(self, awkward: Tiny) -> None:
        assert digest(awkward.train("branch.from_step=20", AWKWARD)) == digest(awkward.trunk)
        assert awkward.launcher("verify", "control-").status == 0

    def test_it_resumes_exactly(self, awkward: Tiny, empty: Tiny) -> None:
        assert empty.launch(AWKWARD, prepare=[Kill(23, "SIGTERM")]).status == 143
        run = empty.train(AWKWARD)
        assert digest(run) == digest(awkward.trunk)
        assert metrics(run) == metrics(awkward.trunk)

    def test_tied_weights_stay_one_parameter(self, awkward: Tiny) -> None:
        model = model_from(AwkwardTask(CONFIG), weights(awkward), CPU)
        assert isinstance(model, Awkward)
        assert model.tied.weight is model.inward.weight
        assert [name for name, _ in model.named_parameters()] == [
            name for name, _ in Awkward().named_parameters()
        ]

    def test_frozen_parameters_stay_frozen(self, awkward: Tiny) -> None:
        model = model_from(AwkwardTask(CONFIG), weights(awkward), CPU)
        wants = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        assert wants == {name: parameter.requires_grad for name, parameter in Awkward().named_parameters()}
        assert not all(wants.values())

    def test_tensors_outside_the_state_have_their_values(self, awkward: Tiny) -> None:
        model = model_from(AwkwardTask(CONFIG), weights(awkward), CPU)
        assert isinstance(model, Awkward)
        assert torch.equal(model.ramp, torch.linspace(0.5, 1.5, 8))
        assert torch.equal(model.mask, torch.arange(8) % 2)
        assert model.calls.item() == 20


def test_a_tensor_that_is_only_an_attribute_has_its_values(tiny: Tiny) -> None:
    fresh = Masked()
    model = model_from(MaskedTask(CONFIG), fresh.state_dict(), CPU)
    assert isinstance(model, Masked)
    assert torch.equal(model.mask, fresh.mask)


class TestMemory:
    def test_parameters_and_buffers_are_the_tensors_that_were_read(self, tiny: Tiny) -> None:
        read = weights(tiny)
        model = model_from(TinyTask(CONFIG), read, CPU)
        live = model.state_dict()
        assert {name: one.data_ptr() for name, one in live.items()} == {
            name: one.data_ptr() for name, one in read.items()
        }

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped where")
    def test_they_are_pages_of_the_file(self, tiny: Tiny) -> None:
        path = tiny.trunk.directory.checkpoints / checkpoint_file(20)
        model = model_from(TinyTask(CONFIG), weights(tiny), CPU)
        spans = []
        for line in Path("/proc/self/maps").read_text().splitlines():
            if line.endswith(str(path)):
                spans.append(tuple(int(end, 16) for end in line.split()[0].split("-")))
        for name, tensor in model.state_dict().items():
            assert any(start <= tensor.data_ptr() < stop for start, stop in spans), name

    def test_training_on_them_leaves_the_file_alone(self, tiny: Tiny) -> None:
        path = tiny.trunk.directory.checkpoints / checkpoint_file(20)
        model = model_from(TinyTask(CONFIG), weights(tiny), CPU)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.0)
        verify_file(path)
        assert all(not torch.equal(one, torch.full_like(one, 7.0)) for one in weights(tiny).values())


class TestMisfit:
    @pytest.fixture
    def read(self, tiny: Tiny) -> dict[str, Tensor]:
        return weights(tiny)

    def refused(self, read: dict[str, Tensor]) -> str:
        model = TinyTask(CONFIG).build_model()
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(CheckpointError) as caught:
            load_weights(model, read)
        assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
        return str(caught.value)

    def test_a_missing_name(self, read: dict[str, Tensor]) -> None:
        del read["4.bias"]
        assert "4.bias: checkpoint absent, model float32[4]" in self.refused(read)

    def test_an_unknown_name(self, read: dict[str, Tensor]) -> None:
        read["5.weight"] = torch.zeros(2)
        assert "5.weight: checkpoint float32[2], model absent" in self.refused(read)

    def test_another_shape(self, read: dict[str, Tensor]) -> None:
        read["4.bias"] = torch.zeros(5)
        assert "4.bias: checkpoint float32[5], model float32[4]" in self.refused(read)

    def test_another_dtype(self, read: dict[str, Tensor]) -> None:
        """PyTorch itself would assign it, and train in another precision."""
        read["4.bias"] = read["4.bias"].double()
        assert "4.bias: checkpoint float64[4], model float32[4]" in self.refused(read)

    def test_many_are_counted(self, read: dict[str, Tensor]) -> None:
        more = {f"x{number}": torch.zeros(1) for number in range(20)}
        assert "and 12 more" in self.refused({**read, **more})
