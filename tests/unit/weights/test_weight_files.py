"""What a weight file is, told by its content: read, or refused by what it really is. Nothing in it is ever run."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from umt_ds.errors import WeightsError
from umt_ds.weights.load import read_state
from umt_ds.weights.names import bare_names

STATE = {"w": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.float16)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 571000000\n"


def torch_bytes(content: Any = STATE, **settings: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **settings)
    return file.getvalue()


def torch_file(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "w.pt")
    return folder / "w.pt"


def zipped(**parts: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))
    return file.getvalue()


def edited(change: Callable[[str, bytes], bytes], content: Any = STATE, pack: int = zipfile.ZIP_STORED) -> bytes:
    """A torch file with parts changed, its checksums right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_bytes(content))) as old, zipfile.ZipFile(file, "w", pack) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file.getvalue()


def safetensors_bytes(header: Any, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    said = str(caught.value)
    assert str(path) in said
    assert "weights_only" not in said, "no hint may lead a user to run what a file holds"
    return said


# ---------------------------------------------------------------- what a file is


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.bin", "w.ckpt", "w.safetensors.part", "w"])
@pytest.mark.parametrize("content", [save(STATE), torch_bytes(), torch_bytes(_use_new_zipfile_serialization=False)])
def test_a_file_is_read_by_its_content_whatever_it_is_called(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    state = read_state(tmp_path / name)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], value) for key, value in STATE.items())


OTHERS: dict[str, tuple[bytes, str]] = {
    "a pointer of Git LFS": (POINTER, "git lfs pull"),
    "a web page": (b"\n <!DOCTYPE html><html><title>Sign in", "resolve"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "download"),
    "a JSON file": (b'{"error": "Repository not found"}', "safetensors"),
    "empty": (b"", "again"),
    "nothing but zeros": (bytes(4096), "again"),
    "compressed with gzip": (gzip.compress(torch_bytes()), "unpack"),
    "compressed with xz": (b"\xfd7zXZ\x00" + bytes(99), "unpack"),
    "compressed with zstd": (b"\x28\xb5\x2f\xfd" + bytes(99), "unpack"),
    "a tar archive": (tarred(), "unpack"),
    "a zip archive of other files": (zipped(**{"a/model.safetensors": save(STATE)}), "unpack"),
    "arrays of NumPy": (zipped(**{"w.npy": b"\x93NUMPY"}), "safetensors"),
    "an array of NumPy": (b"\x93NUMPY\x01\x00" + bytes(99), "safetensors"),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(99), "safetensors"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "safetensors"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0" + bytes(99), "safetensors"),
    "a pickle": (pickle.dumps({"w": np.ones(2)}), "state_dict"),
    "text": (b"see the other folder for the weights\n", "begins"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "path"),
    "a web page (HTML)": (b"<!-- saved from --><body>", "resolve"),
    "text that begins 'Entry not found'": (b"Entry not found", "download"),
    "MessagePack": (b"\x82\xa6params\x81\xa7encoder\xc7" + bytes(99), "safetensors"),
    "none of the kinds": (b"\xde\xad\xbe\xef" * 9, "de ad be ef"),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_a_file_of_another_kind_is_called_by_its_name_with_the_way_out(tmp_path: Path, what: str, name: str) -> None:
    content, way_out = OTHERS[what]
    said = refusal(tmp_path / name, content)
    assert what in said
    assert way_out in said


def test_a_number_array_of_numpy_and_its_archive_are_what_numpy_writes(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.ones(2))
    np.save(tmp_path / "w.npy", np.ones(2))
    for name in ("w.npz", "w.npy"):
        with pytest.raises(WeightsError, match="NumPy"):
            read_state(tmp_path / name)


def test_a_part_of_a_tensorflow_checkpoint_is_known_by_its_name(tmp_path: Path) -> None:
    said = refusal(tmp_path / "bert_model.ckpt.data-00000-of-00001", b"\x17\xb7\xd1\x38" * 40)
    assert "part of a TensorFlow checkpoint" in said


def test_an_unfinished_download_is_called_so(tmp_path: Path) -> None:
    for content in (save(STATE)[:-3], torch_bytes()[:-30], b""):
        assert "unfinished download" in refusal(tmp_path / "w.safetensors.part", content)


@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "pytorch_model-00001-of-00002.bin"])
def test_one_part_of_several_is_refused_with_what_to_name(tmp_path: Path, name: str) -> None:
    assert "index" in refusal(tmp_path / name, save(STATE))


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="pipe is not a file"):
        read_state(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(WeightsError, match="link to"):
        read_state(tmp_path / "link")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state(tmp_path / ("long" * 99))


# ---------------------------------------------------------------- damage


def test_an_altered_byte_of_a_torch_file_is_noticed(tmp_path: Path) -> None:
    content = bytearray(torch_bytes())
    content[content.index(STATE["w"].numpy().tobytes()) + 7] ^= 0x10
    assert "damaged" in refusal(tmp_path / "w.pt", bytes(content))


def one(shape: list[int], end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


@pytest.mark.parametrize(
    "content",
    [
        safetensors_bytes(one([10**12], 4 * 10**12)),
        safetensors_bytes(one([2**62, 2**62], 8), bytes(8)),
        safetensors_bytes(one([3], 8), bytes(8)),
        safetensors_bytes(one([-1], 4), bytes(4)),
        safetensors_bytes(one([1], 4, "F99"), bytes(4)),
        safetensors_bytes({"w": [1, 2]}),
        safetensors_bytes({"w": None}),
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 4) + b"{}",
        safetensors_bytes(one([1], 4), bytes(400)),
    ],
)
def test_a_safetensors_header_that_claims_what_is_not_there_is_damage(tmp_path: Path, content: bytes) -> None:
    assert "damaged" in refusal(tmp_path / "w.safetensors", content)


def test_a_torch_file_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    expanded = torch.zeros(1).expand(10**12)
    assert "claims" in refusal(tmp_path / "w.pt", torch_bytes({"w": expanded}))
    bomb = edited(lambda name, part: bytes(10**7) if name.endswith("/data/0") else part, pack=zipfile.ZIP_DEFLATED)
    assert "claims" in refusal(tmp_path / "w.pt", bomb)


# ---------------------------------------------------------------- more than tensors


class Evil:
    """A pickle of this makes a folder when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new", [True, False])
def test_what_a_file_wants_to_run_is_named_and_not_run(tmp_path: Path, new: bool) -> None:
    content = {"model": STATE, "best": np.float64(0.7), "extra": Evil(tmp_path / "harm")}
    said = refusal(tmp_path / "w.pt", torch_bytes(content, _use_new_zipfile_serialization=new))
    assert "more than tensors" in said
    assert "posix.mkdir" in said or "numpy" in said
    assert "state_dict" in said
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("beside", [Fraction(1, 3), np.ones(2), nn.Linear(2, 2)])
def test_an_object_beside_the_weights_is_left_where_it_is(tmp_path: Path, beside: Any, new: bool) -> None:
    content = torch_bytes({"model": STATE, "rate": beside}, _use_new_zipfile_serialization=new)
    (tmp_path / "w.pt").write_bytes(content)
    assert read_state(tmp_path / "w.pt").keys() == STATE.keys()


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_all_protocols_are_read(tmp_path: Path, protocol: int, new: bool) -> None:
    (tmp_path / "w.pt").write_bytes(torch_bytes(pickle_protocol=protocol, _use_new_zipfile_serialization=new))
    assert torch.equal(read_state(tmp_path / "w.pt")["w"], STATE["w"])


def test_arrays_of_numpy_are_no_tensors_and_named(tmp_path: Path) -> None:
    assert "w (numpy" in refusal(tmp_path / "w.pt", torch_bytes({"w": np.ones(2)}))


class Tower(nn.Module):
    """With all that a module can hold: parameters, one of them tied, buffers that are saved or not, children."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Parameter(torch.randn(3, 2))
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.head = nn.Linear(2, 2)
        self.head.weight = self.layers[0].weight
        self.register_buffer("table", torch.arange(4.0))
        self.register_buffer("scratch", torch.ones(5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers(x @ self.proj))
        return out


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"model": model, "epoch": 3}, nn.DataParallel])
def test_a_whole_pickled_model_is_its_state_dict(tmp_path: Path, wrap: Callable[[nn.Module], Any], new: bool) -> None:
    model = Tower()
    (tmp_path / "w.pt").write_bytes(torch_bytes(wrap(model), _use_new_zipfile_serialization=new))
    state = bare_names(read_state(tmp_path / "w.pt"))
    expected = bare_names(model.state_dict())
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("half", [False, True])
def test_the_tensors_of_a_torchscript_archive_are_those_of_its_state_dict(tmp_path: Path, half: bool) -> None:
    model = torch.jit.script(Tower().half() if half else Tower())
    torch.jit.save(model, tmp_path / "clip.pt")
    state, expected = read_state(tmp_path / "clip.pt"), bare_names(model.state_dict())
    assert bare_names(state).keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_a_pickle_that_contains_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    assert "no named tensors: model" in refusal(tmp_path / "w.pt", torch_bytes(content))


# ---------------------------------------------------------------- what is no number


NO_NUMBERS: dict[str, Tensor] = {
    "NaN": torch.tensor([1.0, float("nan")]),
    "infin": torch.tensor([1.0, float("-inf")]),
    "int64": torch.arange(3),
    "int8": torch.ones(3, dtype=torch.int8),
    "bool": torch.tensor([True]),
    "complex64": torch.ones(2, dtype=torch.complex64),
    "float8_e4m3fn": torch.ones(2).to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("what", NO_NUMBERS)
@pytest.mark.parametrize("write", [save, torch_bytes])
def test_weights_that_are_no_finite_real_numbers_are_refused_by_name(
    tmp_path: Path, what: str, write: Callable[..., bytes]
) -> None:
    said = refusal(tmp_path / "w", write({"fine": torch.ones(2), "block.3.weight": NO_NUMBERS[what]}))
    assert "block.3.weight" in said
    assert what in said
    assert "fine" not in said


def test_a_double_that_float_cannot_hold_is_infinite(tmp_path: Path) -> None:
    assert "infin" in refusal(tmp_path / "w.pt", torch_bytes({"w": torch.tensor([1e300], dtype=torch.float64)}))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.empty(3, device="meta"), "meta"),
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values_are_refused(tmp_path: Path, make: Callable[[], Tensor], what: str) -> None:
    assert what in refusal(tmp_path / "w.pt", torch_bytes({"w": make()}))


def test_counters_and_tables_of_positions_may_be_whole_numbers(tmp_path: Path) -> None:
    beside = {
        "bert.embeddings.position_ids": torch.arange(4)[None],
        "bn.num_batches_tracked": torch.tensor(7),
        "context_length": torch.tensor(77),
        "attn_mask": torch.full((2, 2), float("-inf")),
    }
    (tmp_path / "w").write_bytes(torch_bytes(STATE | beside))
    assert read_state(tmp_path / "w").keys() == STATE.keys() | beside.keys()


def test_parameters_tied_views_doubles_and_empty_tensors_are_fine(tmp_path: Path) -> None:
    table = nn.Parameter(torch.randn(4, 3))
    content = {
        "a": table, "b": table, "view": table.data.t(), "double": torch.ones(2, dtype=torch.float64),
        "none": torch.zeros(0, 5),
    }  # fmt: skip
    (tmp_path / "w").write_bytes(torch_bytes(content))
    state = read_state(tmp_path / "w")
    assert torch.equal(state["view"], table.data.t())
    assert state["none"].shape == (0, 5)
    assert not any(value.requires_grad for value in state.values())


def test_tensors_of_a_gpu_come_to_the_cpu(tmp_path: Path) -> None:
    def on_gpu(name: str, part: bytes) -> bytes:
        return part.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0") if name.endswith("data.pkl") else part

    content = edited(on_gpu)
    assert b"cuda:0" in content
    (tmp_path / "w.pt").write_bytes(content)
    assert read_state(tmp_path / "w.pt")["w"].device.type == "cpu"


def test_weights_under_more_wrappers_are_found(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    for content in (
        {"state_dict": {"module": STATE}},
        {"module": {"state_dict": STATE}},
        {"model_state_dict": STATE, "epoch": 1},
    ):
        (tmp_path / "w.pt").write_bytes(torch_bytes(content))
        assert read_state(tmp_path / "w.pt").keys() == STATE.keys()


class EasyDict(dict[str, Any]):
    """As the authors' repository has it: a mapping whose items are attributes too."""

    model: Any
    embed_dim: int

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self[name] = value


def test_options_scores_and_paths_beside_the_weights_are_not_read(tmp_path: Path) -> None:
    """A file of the authors' stage 2 (METHOD.md, "Files of weights"), and what others write beside weights."""
    model = EasyDict()
    model.embed_dim = 512
    config = EasyDict()
    config.model = model
    score, folder = np.float64(71.5), PurePosixPath("/data")
    content = {"model": STATE, "config": config, "best": score, "args": argparse.Namespace(out=folder), "epoch": 9}
    state = read_state(torch_file(tmp_path, content))
    assert state.keys() == STATE.keys()
    assert torch.equal(state["w"], STATE["w"])


def test_options_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds"):
        read_state(torch_file(tmp_path, EasyDict(a=1)))


def test_a_torch_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = torch_file(tmp_path, STATE)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_state(path).keys() == STATE.keys()
