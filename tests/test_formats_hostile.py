"""Checkpoints that were made to do harm, or that came to harm: one message, and nothing is executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.checkpoint.formats import known
from launcher.checkpoint.formats.distributed import read_metadata
from launcher.checkpoint.formats.known import described, inspect
from launcher.cli import main
from launcher.errors import CheckpointError, ConfigError, LauncherError
from launcher.training.rng import restore_rng, rng_state
from tests.tiny_process import Tiny


class Payload:
    """A pickle that makes a file when it is read as pickles are."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


class Evaluated(Payload):
    def __reduce__(self) -> Any:
        return eval, (f"__import__('os').mkdir({str(self.mark)!r})",)


class Wrapped(Payload):
    def __reduce__(self) -> Any:
        return getattr(torch.storage, "_load_from_bytes"), (pickle.dumps(Payload(self.mark)),)  # noqa: B009


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What a payload would make; it must not be there at the end."""
    yield tmp_path / "executed"
    assert not (tmp_path / "executed").exists()


WEIGHTS = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.ones(2)}
OPTIMIZER = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}


def safetensors(path: Path, header: Any, data: bytes = b"\0" * 32) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = {"0.weight": tensor([2, 3], 0, 24), "0.bias": tensor([2], 24, 32)}


def huggingface(path: Path, part: str = "", content: Any = None) -> Path:
    path.mkdir()
    safetensors(path / "model.safetensors", GOOD)
    (path / "trainer_state.json").write_text('{"global_step": 7}')
    if part:
        torch.save(content, path / part)
    return path


def accelerate(path: Path, part: str = "", content: Any = None) -> Path:
    path.mkdir()
    safetensors(path / "model.safetensors", GOOD)
    torch.save(OPTIMIZER, path / "optimizer.bin")
    if part:
        torch.save(content, path / part)
    return path


def distributed(path: Path, **more: Any) -> Path:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": WEIGHTS, "step": 7, **more}, checkpoint_id=path, no_dist=True)
    return path


def torch_file(path: Path, content: Any, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def metadata_with(path: Path, mark: Path) -> Path:
    distributed(path)
    (path / ".metadata").write_bytes(pickle.dumps(Payload(mark)))
    return path


CARRIERS: dict[str, Callable[[Path, Any], Path]] = {
    "plain": lambda to, payload: torch_file(to / "a.pt", {"model": WEIGHTS, "step": 1, "note": payload}),
    "instructions of a later pickle": lambda to, payload: torch_file(
        to / "a.pt", {"model": WEIGHTS, "note": payload}, pickle_protocol=4
    ),
    "bare": lambda to, payload: torch_file(to / "a.pt", payload),
    "lightning": lambda to, payload: torch_file(
        to / "a.ckpt",
        {"pytorch-lightning_version": "2", "state_dict": WEIGHTS, "hyper_parameters": {"x": payload}},
    ),
    "trainer's optimizer": lambda to, payload: huggingface(to / "c", "optimizer.pt", payload),
    "trainer's generators": lambda to, payload: huggingface(to / "c", "rng_state.pth", {"python": payload}),
    "trainer's weights": lambda to, payload: bin_weights(to / "c", payload),
    "accelerate's generators": lambda to, payload: accelerate(to / "c", "random_states_0.pkl", payload),
    "a value that dcp saved": lambda to, payload: distributed(to / "c", note=payload),
}


def bin_weights(path: Path, payload: Any) -> Path:
    huggingface(path, "pytorch_model.bin", {"a": payload})
    (path / "model.safetensors").unlink()
    return path


class TestNothingIsExecuted:
    @pytest.mark.parametrize("kind", [Payload, Evaluated])
    @pytest.mark.parametrize("carrier", CARRIERS)
    def test_of_what_a_pickle_names(
        self, carrier: str, kind: type[Payload], tmp_path: Path, mark: Path
    ) -> None:
        path = CARRIERS[carrier](tmp_path, kind(mark))
        name = "mkdir" if kind is Payload else "eval"
        with pytest.raises(CheckpointError, match="Nothing in it was executed") as caught:
            described(path)
        assert name in str(caught.value.found)
        assert "do not load it" in caught.value.do[0]

    def test_of_what_metadata_name(self, tmp_path: Path, mark: Path) -> None:
        """PyTorch itself would."""
        path = metadata_with(tmp_path / "c", mark)
        for look in (inspect, described, read_metadata):
            with pytest.raises(CheckpointError, match="Nothing in it was executed"):
                look(path)

    def test_and_a_launch_from_it_is_refused(self, empty: Tiny, tmp_path: Path, mark: Path) -> None:
        path = CARRIERS["plain"](tmp_path, Payload(mark))
        ended = empty.refuse(f"branch.from_checkpoint={path}", "branch.allow_globals=[posix.mkdir]")
        assert "no checkpoint needs" in ended.err
        assert "posix.mkdir" in empty.refuse(f"branch.from_checkpoint={path}").err

    def test_what_loads_a_pickle_by_itself_cannot_be_allowed(self, tmp_path: Path, mark: Path) -> None:
        """PyTorch's function for the bytes of a tensor reads them as pickles are read."""
        path = torch_file(tmp_path / "a.pt", {"model": WEIGHTS, "step": 1, "note": Wrapped(mark)})
        name = "torch.storage._load_from_bytes"
        with pytest.raises(CheckpointError) as caught:
            described(path)
        assert caught.value.do == (f"do not load it: no checkpoint needs {name}",)
        with pytest.raises(ConfigError, match="no checkpoint needs"):
            described(path, [name])
        with pytest.raises(ConfigError, match=r"random\._urandom, which is posix\.urandom"):
            described(path, ["random._urandom"])

    def test_training_arguments_are_not_even_read(self, tmp_path: Path, mark: Path) -> None:
        path = huggingface(tmp_path / "c", "training_args.bin", Payload(mark))
        assert described(path).about.step == 7
        assert inspect(path).unused == ("training_args.bin",)

    @pytest.mark.parametrize(
        "code",
        [
            b"\x80\x04\x82\x01.",  # An extension of copyreg.
            b"(ios\nmkdir\n.",
            b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93\x8c\x01x\x85}\x92.",
            b"\x80\x02}q\x00X\x01\x00\x00\x00as\x81.",
        ],
    )
    def test_nor_by_instructions_that_no_checkpoint_has(self, code: bytes, tmp_path: Path) -> None:
        path = distributed(tmp_path / "c")
        (path / ".metadata").write_bytes(code)
        with pytest.raises(CheckpointError):
            inspect(path)


INDEX = {"metadata": {}, "weight_map": {"0.weight": "a.safetensors", "0.bias": "a.safetensors"}}
LIES: dict[str, Any] = {
    "a header longer than the file": struct.pack("<Q", 1 << 62) + b"{}",
    "a header of gigabytes": struct.pack("<Q", (1 << 31) - 1) + b"{" * 64,
    "shorter than its length": b"\x01",
    "a list": b"[]",
    "nested for ever": b'{"a":' + b"[" * 100_000,
    "not text": b"\xff" * 40,
    "an end beyond the file": {"0.weight": tensor([1 << 20], 0, 4 << 20)},
    "a size that the shape does not have": {"0.weight": tensor([1 << 40], 0, 32)},
    "overlapping": {"a": tensor([8], 0, 32), "b": tensor([8], 0, 32)},
    "a hole": {"a": tensor([2], 24, 32)},
    "a negative size": {"a": tensor([-8], 0, 32)},
    "a negative place": {"a": tensor([8], -32, 0)},
    "an unknown dtype": {"a": tensor([8], 0, 32, "F33")},
    "no tensor": {"a": 7},
}


class TestSafetensors:
    @pytest.mark.parametrize("lie", LIES)
    def test_a_header_that_lies(self, lie: str, tmp_path: Path) -> None:
        held = LIES[lie]
        path = tmp_path / "a_step_7.safetensors"
        if isinstance(held, dict) or held.startswith((b"{", b"[", b"\xff")):
            safetensors(path, held)
        else:
            path.write_bytes(held)
        for look in (inspect, described):
            with pytest.raises(CheckpointError):
                look(path)

    def test_the_good_one_is_read(self, tmp_path: Path) -> None:
        assert described(safetensors(tmp_path / "a_step_7.safetensors", GOOD)).step == 7

    @pytest.mark.parametrize(
        "name", ["../a.safetensors", "{directory}/../a.safetensors", "b/a.safetensors", "a\0"]
    )
    def test_an_index_that_leads_elsewhere(self, name: str, tmp_path: Path) -> None:
        directory = tmp_path / "c"
        directory.mkdir()
        safetensors(tmp_path / "a.safetensors", GOOD)
        named = dict.fromkeys(GOOD, name.format(directory=directory))
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
        with pytest.raises(CheckpointError, match="another place") as caught:
            inspect(directory)
        assert str(caught.value.found)

    def test_an_index_that_the_files_do_not_bear_out(self, tmp_path: Path) -> None:
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps(INDEX))
        with pytest.raises(CheckpointError, match="No such file"):
            inspect(tmp_path)
        safetensors(tmp_path / "a.safetensors", {**GOOD, "more": tensor([0], 32, 32)})
        with pytest.raises(CheckpointError, match="disagree about more"):
            inspect(tmp_path)
        for text in ("[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "{", '{"a":' * 100_000):
            index.write_text(text)
            with pytest.raises(CheckpointError):
                inspect(tmp_path)


class TestLinks:
    def test_to_a_file_elsewhere(self, tmp_path: Path) -> None:
        path = huggingface(tmp_path / "c")
        elsewhere = safetensors(tmp_path / "elsewhere.safetensors", GOOD)
        (path / "model.safetensors").unlink()
        (path / "model.safetensors").symlink_to(elsewhere)
        with pytest.raises(CheckpointError, match="a link to"):
            inspect(path)

    def test_into_the_cache_of_the_hub_they_are_followed(self, tmp_path: Path) -> None:
        path = tmp_path / "models--x" / "snapshots" / "1"
        path.mkdir(parents=True)
        (tmp_path / "models--x" / "blobs").mkdir()
        safetensors(tmp_path / "models--x" / "blobs" / "3f", GOOD)
        (path / "model.safetensors").symlink_to("../../blobs/3f")
        assert len(inspect(path).tensors) == 2

    def test_to_themselves(self, tmp_path: Path) -> None:
        path = huggingface(tmp_path / "c")
        (path / "optimizer.pt").symlink_to("optimizer.pt")
        (path / "rng_state.pth").symlink_to("nowhere")
        assert "optimizer" in inspect(path).missing
        (path / "model.safetensors").unlink()
        (path / "model.safetensors").symlink_to("nowhere")
        with pytest.raises(CheckpointError):
            inspect(path)

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        path = accelerate(tmp_path / "c")
        os.mkfifo(path / "scheduler.bin")
        with pytest.raises(CheckpointError, match="not a regular file"):
            inspect(path)


def records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path: Path, entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


class TestTorchFiles:
    def pickled(self, tmp_path: Path, code: bytes, **storages: bytes) -> Path:
        entries = {"a/data.pkl": code, **{f"a/data/{name}": data for name, data in storages.items()}}
        return zipped(tmp_path / "a.pt", entries)

    def test_a_zip_bomb(self, tmp_path: Path) -> None:
        entries = records(torch_file(tmp_path / "a.pt", WEIGHTS))
        name = next(name for name in entries if name.endswith("/data/0"))
        bomb = zipped(tmp_path / "b.pt", {**entries, name: bytes(100 << 20)}, zipfile.ZIP_DEFLATED)
        assert bomb.stat().st_size < 1 << 20
        with pytest.raises(CheckpointError, match="compressed"):
            inspect(bomb)

    @pytest.mark.parametrize("count", [7, 1 << 40])
    def test_a_storage_that_is_not_there(self, count: int, tmp_path: Path) -> None:
        """The pickle says how long a storage is; the file has it or it has not."""
        path = torch_file(tmp_path / "a.pt", {"w": torch.arange(6.0)})
        entries = records(path)
        name = next(name for name in entries if name.endswith("data.pkl"))
        code = entries[name]
        entries[name] = code.replace(b"cpuq\x06K\x06", b"cpuq\x06" + pickle.dumps(count, 2)[2:-1])
        assert entries[name] != code
        with pytest.raises(CheckpointError, match="not in the file"):
            described(zipped(tmp_path / "b.pt", entries))

    def test_views_that_are_larger_than_the_file(self, tmp_path: Path) -> None:
        small = torch.zeros(1).expand(1 << 40)
        path = torch_file(tmp_path / "a.pt", {"w": small})
        for look in (inspect, described):
            with pytest.raises(CheckpointError, match="tensors that are in the file"):
                look(path)

    def test_values_that_hold_themselves(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A few bytes a level, and twice as many values: no walk through them would end."""
        monkeypatch.setattr(known, "_MOST_VALUES", 100_000)
        layers: Any = [1]
        for _ in range(60):
            layers = [layers, layers]
        state = {"model": WEIGHTS, "optimizer": {"state": {}, "param_groups": [{"x": layers, "params": []}]}}
        with pytest.raises(CheckpointError, match="far too many"):
            inspect(torch_file(tmp_path / "a.pt", state))
        deep: Any = 1
        for _ in range(300):
            deep = {"a": deep}
        with pytest.raises(CheckpointError, match="hold themselves"):
            inspect(torch_file(tmp_path / "b.pt", {"model": WEIGHTS, "task": deep}))

    def test_an_index_of_the_memo_costs_no_memory(self, tmp_path: Path) -> None:
        """Python's reader in C would take sixteen gigabytes for this."""
        code = b"\x80\x02}r\xff\xff\xff\x7f."
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CheckpointError):
            inspect(self.pickled(tmp_path, code))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20

    @pytest.mark.parametrize(
        "entries",
        [
            {"x": b"1"},
            {"a/data.pkl": b".", "b/data.pkl": b"."},
            {"a/data.pkl": b"N.", "a/constants.pkl": b"."},
            {"a/data.pkl": b""},
            {"a/data.pkl": b"\x80\x02K\x01."},
        ],
    )
    def test_zips_of_something_else(self, entries: dict[str, bytes], tmp_path: Path) -> None:
        with pytest.raises(CheckpointError):
            described(zipped(tmp_path / "a.pt", entries))

    def test_a_flipped_bit_is_found(self, tmp_path: Path) -> None:
        """torch.load itself reads most of these without a word, and with other values."""
        path = torch_file(tmp_path / "a.pt", {"model": {"w": torch.randn(64, 64)}, "step": 7})
        whole, expected = path.read_bytes(), described(path).sha256
        draw, silent = random.Random(7), 0
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            try:
                # Some bits are padding.
                assert described(path).sha256 == expected
                silent += 1
            except LauncherError:
                pass
        assert silent < 15


class TestDistributed:
    def rewritten(self, path: Path, change: Callable[[Any], None]) -> Path:
        metadata = pickle.loads((path / ".metadata").read_bytes())
        change(metadata)
        (path / ".metadata").write_bytes(pickle.dumps(metadata))
        return path

    @pytest.mark.parametrize("name", ["../x.distcp", "{elsewhere}", "x/../__0_0.distcp"])
    def test_parts_in_another_place(self, name: str, tmp_path: Path) -> None:
        def lead(metadata: Any) -> None:
            for info in metadata.storage_data.values():
                info.relative_path = name.format(elsewhere=tmp_path / "x.distcp")

        path = distributed(tmp_path / "c")
        shutil.copy(path / "__0_0.distcp", tmp_path / "x.distcp")
        with pytest.raises(CheckpointError, match="another place"):
            inspect(self.rewritten(path, lead))

    def test_a_part_that_is_missing(self, tmp_path: Path) -> None:
        path = distributed(tmp_path / "c")
        (path / "__0_0.distcp").unlink()
        with pytest.raises(CheckpointError, match="No such file"):
            inspect(path)

    def test_a_part_that_is_cut_off(self, tmp_path: Path) -> None:
        path = distributed(tmp_path / "c")
        part = path / "__0_0.distcp"
        part.write_bytes(part.read_bytes()[:-1])
        with pytest.raises(CheckpointError):
            inspect(path)
        metadata = pickle.loads((path / ".metadata").read_bytes())
        last = max(one.offset for one in metadata.storage_data.values())
        part.write_bytes(part.read_bytes()[: last - 1])
        with pytest.raises(CheckpointError, match="ends before"):
            inspect(path)

    def test_a_part_with_another_byte(self, tmp_path: Path) -> None:
        """PyTorch would read it, and train with another weight."""
        path = distributed(tmp_path / "c")
        part = path / "__0_0.distcp"
        whole = part.read_bytes()
        at = whole.index(WEIGHTS["0.weight"].numpy().tobytes()) + 7
        part.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="damaged"):
            described(path)

    @pytest.mark.parametrize("lie", ["size", "chunks", "offset", "length", "path"])
    def test_metadata_that_lie(self, lie: str, tmp_path: Path) -> None:
        def change(metadata: Any) -> None:
            entry = metadata.state_dict_metadata["model.0.weight"]
            if lie == "size":
                entry.size = torch.Size([1 << 30, 1 << 10])
            elif lie == "chunks":
                entry.chunks = []
            elif lie == "path":
                metadata.planner_data = dict.fromkeys(metadata.planner_data, ("a", 1 << 40))
            for info in metadata.storage_data.values() if lie in ("offset", "length") else ():
                setattr(info, lie, 1 << 40)

        path = self.rewritten(distributed(tmp_path / "c"), change)
        for look in (inspect, described):
            with pytest.raises(CheckpointError):
                look(path)


MADE: dict[str, Callable[[Path], Path]] = {
    "torch": lambda to: torch_file(to / "a.pt", {"model": WEIGHTS, "optimizer": OPTIMIZER, "step": 7}),
    "lightning": lambda to: torch_file(
        to / "a.ckpt", {"pytorch-lightning_version": "2", "state_dict": WEIGHTS, "global_step": 7}
    ),
    "safetensors": lambda to: safetensors(to / "a_step_7.safetensors", GOOD),
    "huggingface": lambda to: huggingface(to / "c", "optimizer.pt", OPTIMIZER),
    "accelerate": lambda to: accelerate(
        to / "c", "random_states_0.pkl", {"torch_manual_seed": torch.ones(3)}
    ),
    "distributed": lambda to: distributed(to / "c"),
}


@pytest.mark.parametrize("form", MADE)
def test_whatever_happens_to_a_file_there_is_one_message(form: str, tmp_path: Path) -> None:
    """Cut, overwritten, emptied, doubled: read as it is told it can be, or refused as input that is wrong."""
    path = MADE[form](tmp_path)
    described(path)
    files = [path] if path.is_file() else sorted(one for one in path.iterdir() if one.is_file())
    draw, refused = random.Random(form), 0
    for file in files:
        whole = file.read_bytes()
        for spoil in spoiled(whole, draw):
            file.write_bytes(spoil)
            try:
                inspect(path)
                described(path)
            except LauncherError:
                refused += 1
        file.write_bytes(whole)
    assert refused >= 4 * len(files)
    described(path)


def spoiled(whole: bytes, draw: random.Random) -> Iterator[bytes]:
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        yield whole[:cut]
    for _ in range(12):
        at = draw.randrange(len(whole))
        yield whole[:at] + draw.randbytes(draw.randrange(1, 9)) + whole[at + 4 :]
    yield draw.randbytes(len(whole))


@pytest.mark.parametrize("lines", ["[1, 2]", "5", '{"loss": 1}'])
def test_a_log_that_is_none(lines: str, tmp_path: Path) -> None:
    path = huggingface(tmp_path / "c")
    (path / "trainer_state.json").write_text(f'{{"global_step": 7, "log_history": {lines}}}')
    assert described(path).about.step == 7


def test_a_count_that_is_no_number(tmp_path: Path) -> None:
    counted = {**OPTIMIZER, "state": {0: {"step": torch.tensor(float("nan"))}, 1: {"step": torch.ones(2)}}}
    assert inspect(torch_file(tmp_path / "a.pt", {"model": WEIGHTS, "optimizer": counted})).step is None


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        inspect(tmp_path / "a.pt")
    assert caught.value.found == "not a regular file"


def test_names_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = torch_file(tmp_path / "a.pt", {"model": {"\x1b[2Jw": torch.ones(1)}, "\x1b]0;x\x07": 1})
    assert main(["inspect", str(path), "--tensors"]) == 0
    with pytest.raises(CheckpointError) as caught:
        inspect(tmp_path / "\x1b[2J.pt")
    said = capsys.readouterr().out + str(caught.value)
    assert "\x1b" not in said
    assert "\\x1b[2Jw" in said


@pytest.mark.parametrize("name", ["python", "numpy", "torch"])
def test_generators_states_that_are_none(name: str) -> None:
    state = rng_state()
    state[name] = {
        "python": {**state["python"], "internal": torch.ones(3, dtype=torch.int64)},
        "numpy": {**state["numpy"], "key": torch.ones(3, dtype=torch.int64)},
        "torch": torch.ones(3, dtype=torch.uint8),
    }[name]
    with pytest.raises(CheckpointError, match="RNG state"):
        restore_rng(state)


def test_a_checkpoint_of_before_pytorch_1_6_is_told_what_to_do(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(WEIGHTS, buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "old.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError) as caught:
        described(tmp_path / "old.pt")
    assert "saved again with torch.save" in str(caught.value)


@pytest.mark.parametrize("name", ["model_1.safetensors", "optimizer_1.bin"])
def test_several_models_are_told_from_damage(name: str, tmp_path: Path) -> None:
    path = accelerate(tmp_path / "c")
    (path / name).touch()
    with pytest.raises(CheckpointError, match="several models or optimizers") as caught:
        inspect(path)
    assert caught.value.found == name
    assert "torch.save" in caught.value.do[0]


def test_adapters_alone_are_told_from_damage(tmp_path: Path) -> None:
    path = huggingface(tmp_path / "c")
    (path / "model.safetensors").unlink()
    (path / "expert0").mkdir()
    safetensors(path / "expert0" / "adapter_model.safetensors", GOOD)
    with pytest.raises(CheckpointError, match="only adapters, without the model") as caught:
        inspect(path)
    assert "branch.from_step" in caught.value.do[0]


def test_a_position_beyond_numpys_state_is_refused() -> None:
    """NumPy itself would go there, and read whatever lies behind."""
    state = rng_state()
    for pos in (625, -1):
        state["numpy"]["pos"] = pos
        with pytest.raises(CheckpointError) as caught:
            restore_rng(state)
        assert f"position {pos} in 624 words" in str(caught.value.found)
