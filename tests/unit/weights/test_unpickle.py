"""The machine that reads pickles: it knows data, and whatever a file asks for besides is refused and not run."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import time
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from umt_ds.errors import WeightsError
from umt_ds.weights.load import read_state
from umt_ds.weights.pickle_values import Named, RefusedPickleError, Standin, Storage, StoredTensor
from umt_ds.weights.unpickle import unpickle

STATE = {"w": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.float16)}
DAMAGE = (ValueError, TypeError, IndexError, KeyError, RefusedPickleError)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


def read(content: bytes) -> Any:
    return unpickle(io.BytesIO(content))


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL))
@settings(max_examples=150, deadline=None)
def test_plain_data_comes_back_as_pickle_reads_it(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == pickle.loads(pickle.dumps(value, protocol))


def test_containers_of_the_standard_library_are_plain_ones() -> None:
    assert read(pickle.dumps({3, 4})) == [3, 4]
    assert read(pickle.dumps(OrderedDict(a=1))) == {"a": 1}
    assert read(pickle.dumps(defaultdict(list, a=[1]))) == {"a": [1]}
    assert read(pickle.dumps(bytearray(b"abc"), 5)) == b"abc"


def test_what_contains_itself_does() -> None:
    value: list[Any] = []
    value.append({"me": value})
    found = read(pickle.dumps(value))
    assert found[0]["me"] is found


def test_an_object_of_an_unknown_class_is_a_standin_that_keeps_what_it_is_given() -> None:
    found = read(b"cutils.easydict\nEasyDict\n)\x81X\x01\x00\x00\x00aK\x01s}X\x01\x00\x00\x00bK\x02sb.")
    assert isinstance(found, Standin)
    assert (found.name, found.items, found.state) == ("utils.easydict.EasyDict", {"a": 1}, {"b": 2})


def test_a_deep_pickle_needs_no_deep_stack() -> None:
    depth = 200_000
    found = read(b"]" * depth + b"a" * (depth - 1) + b".")
    assert found != []


def test_a_key_of_tuples_in_tuples_is_not_hashed() -> None:
    """Each level doubles the time that its hash takes: 60 of them are longer than the world is old."""
    twice = b"K\x01" + b"2\x86" * 60  # DUP, TUPLE2
    begun = time.perf_counter()
    found = read(b"}" + twice + b"K\x05s.")
    assert time.perf_counter() - begun < 1
    assert list(found.values()) == [5]


# ---------------------------------------------------------------- what wants to run


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def stack_global(module: str, name: str) -> bytes:
    return short(module) + short(name) + b"\x93"


HARM = "HARM"  # in the place of which a test puts the path of a folder that must not appear
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a call by reduce": (b"cos\nmkdir\n(X\x04\x00\x00\x00HARMtR.", "os.mkdir"),
    "a name of the system's module": (b"cposix\nsystem\n(Vmkdir HARM\ntR.", "posix.system"),
    "a name of Python 2": (b"c__builtin__\neval\n(V__import__('os').mkdir('HARM')\ntR.", "builtins.eval"),
    "a name from the stack": (stack_global("os", "mkdir") + short(HARM) + b"\x85R.", "os.mkdir"),
    "a name with dots": (stack_global("pathlib", "os.mkdir") + short(HARM) + b"\x85R.", "pathlib.os.mkdir"),
    "a path within a harmless class": (
        stack_global("collections", "OrderedDict.fromkeys.__globals__") + b")R.",
        "collections.OrderedDict.fromkeys.__globals__",
    ),
    "getattr of getattr": (b"c__builtin__\ngetattr\n(cos\nsystem\nVmkdir\ntR.", "builtins.getattr"),
    "importing": (b"cimportlib\nimport_module\n(Vos\ntR.", "importlib.import_module"),
    "a class that acts": (b"csubprocess\nPopen\n(Vmkdir HARM\ntR.", "subprocess.Popen"),
    "an object by its class": (b"csubprocess\nPopen\n(Vmkdir HARM\nt\x81.", "subprocess.Popen"),
    "an old-style instance": (b"(Vmkdir HARM\nios\nsystem\n.", "os.system"),
    "an old-style object": (b"(cos\nsystem\nVmkdir HARM\no.", "os.system"),
    "a function of torch": (b"ctorch\nload\n(VHARM\ntR.", "torch.load"),
    "bytes that are a pickle again": (b"ctorch.storage\n_load_from_bytes\n(C\x04HARMtR.", "_load_from_bytes"),
    "a function of numpy": (b"cnumpy\nload\n(VHARM\nI01\ntR.", "numpy.load"),
    "a function of somebody's program": (b"cutils\nmake\n(VHARM\ntR.", "utils.make"),
    "a constructor behind torch's own": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cutils\nmake\ncutils\nMade\n(VHARM\ntNtR.",
        "utils.make",
    ),
    "a constructor behind itself": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(" * 9 + b"cutils\nmake\nN(VHARM\ntNt" + b"R" * 9 + b".",
        "utils.make",
    ),
    "an object remade": (b"ccopyreg\n_reconstructor\n(csubprocess\nPopen\nc__builtin__\nobject\nNtR.", "Popen"),
    "changing a class": (b"ccollections\nOrderedDict\n}V__init__\ncutils\nMine\nsb.", "changing"),
    "changing a class by slots": (b"ccollections\nOrderedDict\n(N}V__new__\nK\x01stb.", "changing"),
    "changing a number": (b"K\x01}V__class__\nK\x02sb.", "changing"),
    "calling what was made": (b"cutils\nMine\n)R)R.", "without a name"),
    "calling a text": (b"Vos.system\n(VHARM\ntR.", "without a name"),
    "an extension": (b"\x82\x01.", "EXT1"),
    "a buffer from outside": (b"\x97.", "NEXT_BUFFER"),
    "a reference by a line": (b"P0\n.", "PERSID"),
    "a memo swapped after the check": (
        b"cutils\nMine\nq\x00cos\nsystem\nq\x000h\x00(Vmkdir HARM\ntR.",
        "os.system",
    ),
}


def zip_with(pickled: bytes, **parts: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in parts.items():
            archive.writestr(f"archive/{name.replace('__', '/')}", content)
    return file.getvalue()


def legacy_with(pickled: bytes) -> bytes:
    file = io.BytesIO()
    torch.save({}, file, _use_new_zipfile_serialization=False)
    head = file.getvalue()
    ends = [place + 1 for op, _, place in pickles_of(head) if op == "STOP"]
    return head[: ends[2]] + pickled + head[ends[3] :]


def pickles_of(content: bytes) -> list[tuple[str, Any, int]]:
    """The instructions of pickles that stand one behind the other."""
    file, found = io.BytesIO(content), []
    while file.tell() < len(content):
        found += [(op.name, argument, place or 0) for op, argument, place in pickletools.genops(file)]
    return found


@pytest.mark.parametrize("form", [zip_with, legacy_with])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pickle_is_refused_in_one_line_and_nothing_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, form: Callable[[bytes], bytes]
) -> None:
    monkeypatch.chdir(tmp_path)  # HARM would be a folder here
    content, wanted = HOSTILE[what]
    (tmp_path / "w.pt").write_bytes(form(content))
    with pytest.raises(WeightsError) as caught:
        read_state(tmp_path / "w.pt")
    assert wanted in caught.value.what
    assert "\n" not in caught.value.what
    assert os.listdir(tmp_path) == ["w.pt"]


def test_the_pickles_above_would_run_if_they_were_read_carelessly(tmp_path: Path) -> None:
    pickle.loads(b"cos\nmkdir\n(V" + str(tmp_path / "harm").encode() + b"\ntR.")
    assert (tmp_path / "harm").exists()


# ---------------------------------------------------------------- what cannot be


def stored(key: str = "0", count: int = 6, kind: str = "FloatStorage") -> bytes:
    """A reference to a storage."""
    number = b"\x8a\x0a" + count.to_bytes(10, "little", signed=True)
    return b"(Vstorage\nctorch\n" + kind.encode() + b"\nV" + key.encode() + b"\nVcpu\n" + number + b"tQ"


def tensor(*, offset: int = 0, size: tuple[int, ...] = (6,), stride: tuple[int, ...] = (1,), **kept: Any) -> bytes:
    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x0a" + n.to_bytes(10, "little", signed=True) for n in values) + b"t"

    (start,) = (b"\x8a\x0a" + offset.to_bytes(10, "little", signed=True),)
    given = stored(**kept) + start + numbers(size) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)Rt"
    return b"}Vw\nctorch._utils\n_rebuild_tensor_v2\n(" + given + b"Rs."


NUMBERS = {"data__0": struct.pack("<6f", *range(6))}
BROKEN: dict[str, bytes] = {
    "a length beyond the file": zip_with(b"}X\xff\xff\xff\x7fab."),
    "a length beyond all memory": zip_with(b"}\x8d" + (2**62).to_bytes(8, "little") + b"ab."),
    "a frame beyond all memory": zip_with(b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"}.")[:-9],
    "no end": zip_with(b"}" * 9),
    "nothing to end with": zip_with(b"."),
    "an empty pickle": zip_with(b""),
    "a place in the memo that is empty": zip_with(b"h\x07."),
    "more taken than put": zip_with(b"}a."),
    "a mark that is not there": zip_with(b"t."),
    "keys without values": zip_with(b"}(K\x01u."),
    "an instruction that is none": zip_with(b"\xff."),
    "items in a number": zip_with(b"K\x01K\x02a."),
    "a number of many digits": zip_with(b"L" + b"9" * 100_000 + b"L\n."),
    "a storage that is nowhere": zip_with(tensor(key="7"), **NUMBERS),
    "a path for a storage": zip_with(tensor(key="../../../etc/passwd"), **NUMBERS),
    "a storage shorter than it says": zip_with(tensor(count=7, size=(7,)), **NUMBERS),
    "a storage of a negative count": zip_with(tensor(count=-1), **NUMBERS),
    "a storage of another kind": zip_with(tensor(kind="TextStorage"), **NUMBERS),
    "a tensor beyond its storage": zip_with(tensor(size=(7,)), **NUMBERS),
    "a tensor beyond its storage by its strides": zip_with(tensor(size=(2, 3), stride=(4, 1)), **NUMBERS),
    "a tensor beyond its storage by its offset": zip_with(tensor(offset=1), **NUMBERS),
    "a negative stride": zip_with(tensor(stride=(-1,), offset=5), **NUMBERS),
    "a negative offset": zip_with(tensor(offset=-1), **NUMBERS),
    "a negative size": zip_with(tensor(size=(-6,)), **NUMBERS),
    "a size that overflows": zip_with(tensor(size=(2**40, 2**40), stride=(0, 0)), **NUMBERS),
    "a size beyond 64 bits": zip_with(tensor(size=(2**70,), stride=(0,)), **NUMBERS),
    "more sizes than strides": zip_with(tensor(size=(2, 3)), **NUMBERS),
    "a thousand dimensions": zip_with(tensor(size=(1,) * 1000, stride=(1,) * 1000), **NUMBERS),
    "a reference that is a number": zip_with(b"K\x01Q."),
    "a reference to something else": zip_with(b"(Vnetwork\nVhost\ntQ."),
    "a tensor over a text": zip_with(b"}Vw\nctorch._utils\n_rebuild_tensor_v2\n(Vtext\nK\x00))\x89NtRs."),
    "too few arguments": zip_with(b"}Vw\nctorch._utils\n_rebuild_tensor_v2\n)Rs."),
    "two parts of one name": zip_with(b"}.", data__0=b"ab", data__1=b"cd").replace(b"data/1", b"data/0"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_is_one_error(tmp_path: Path, what: str) -> None:
    (tmp_path / "w.pt").write_bytes(BROKEN[what])
    with pytest.raises(WeightsError) as caught:
        read_state(tmp_path / "w.pt")
    assert "\n" not in caught.value.what


def test_a_tensor_made_by_hand_is_read(tmp_path: Path) -> None:
    """The builders of the broken ones above make a whole one, too."""
    (tmp_path / "w.pt").write_bytes(zip_with(tensor(size=(2, 2), stride=(3, 1), offset=1), **NUMBERS))
    assert read_state(tmp_path / "w.pt")["w"].tolist() == [[1.0, 2.0], [4.0, 5.0]]


def test_a_file_of_a_big_endian_machine_is_read(tmp_path: Path) -> None:
    swapped = {"data__0": struct.pack(">6f", *range(6)), "byteorder": b"big"}
    (tmp_path / "w.pt").write_bytes(zip_with(tensor(), **swapped))
    assert read_state(tmp_path / "w.pt")["w"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_module_that_is_its_own_grandchild_is_refused(tmp_path: Path) -> None:
    one, other = nn.Sequential(), nn.Sequential()
    one._modules["0"], other._modules["0"] = other, one  # add_module would go on for ever in `repr` only
    torch.save(one, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="holds itself"):
        read_state(tmp_path / "w.pt")


def test_a_pickle_longer_than_any_model_needs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umt_ds.weights.torch_file._MOST_PICKLE", 100)
    torch.save(STATE, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="list of tensors"):
        read_state(tmp_path / "w.pt")


class Writer(nn.Module):
    """Scripted, it writes a file when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.path = "harm.pt"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.ones(2), state[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_program_in_a_torchscript_archive_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(Writer()), tmp_path / "w.pt")
    with pytest.raises(WeightsError):
        read_state(tmp_path / "w.pt")
    assert os.listdir(tmp_path) == ["w.pt"]
    torch.jit.load("w.pt")
    assert (tmp_path / "harm.pt").exists(), "it does write, where it is run"


WHOLE = io.BytesIO()
torch.save({"model": STATE, "epoch": 3, "name": "b16"}, WHOLE)
with zipfile.ZipFile(WHOLE) as whole:
    PICKLE = next(whole.read(name) for name in whole.namelist() if name.endswith("/data.pkl"))


@given(st.integers(0, len(PICKLE) - 1), st.binary(min_size=1, max_size=6), st.booleans())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_in_the_place_of_some_are_data_or_refused(place: int, altered: bytes, inserted: bool) -> None:
    content = PICKLE[:place] + altered + PICKLE[place + (0 if inserted else len(altered)) :]
    try:
        found = read(content)
    except DAMAGE:
        return
    seen: set[int] = set()
    waiting: list[object] = [found]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one
        else:
            kinds = (str, bytes, int, float, Standin, Named, Storage, StoredTensor, torch.dtype)
            assert one is None or isinstance(one, kinds), type(one)


@given(st.integers(0, len(WHOLE.getvalue()) - 1), st.binary(min_size=1, max_size=6))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_altered_file_is_whole_or_refused(tmp_path: Path, place: int, altered: bytes) -> None:
    content = WHOLE.getvalue()
    (tmp_path / "w.pt").write_bytes(content[:place] + altered + content[place + len(altered) :])
    try:
        state = read_state(tmp_path / "w.pt")
    except WeightsError:
        return
    assert all(torch.equal(state[name], value) for name, value in STATE.items() if name in state)
