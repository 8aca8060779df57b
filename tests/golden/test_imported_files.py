"""`umt import` on published forms: the golden states of every task in every wrapper, and the key lists of B and L."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

from umt_ds.cli import umt
from umt_ds.errors import WeightsError
from umt_ds.tasks.importing.fit import fit
from umt_ds.tasks.importing.identify import identify
from umt_ds.tasks.importing.releases import FileKind, named_as
from umt_ds.tasks.importing.report import look_at
from umt_ds.tasks.importing.traps import likely, traps
from umt_ds.tasks.initial import read_weights
from umt_ds.weights.file import WeightFile

State = dict[str, Tensor]
GOLDEN: dict[str, tuple[str, tuple[str, ...], FileKind]] = {
    "stage 1": ("stage1_student.pt", ("state",), "stage1"),
    "recognition, 8 frames": ("finetune_T8.pt", ("state",), "recognition"),
    "recognition, 16 frames": ("finetune_T16.pt", ("state",), "recognition"),
    "detection": ("detection.pt", ("model", "state"), "detection"),
    "stage 2": ("stage2_umt.pt", ("state",), "stage2"),
    "retrieval": ("retrieval_eval.pt", ("state",), "retrieval"),
    "multiple choice": ("multiple_choice.pt", ("model", "state"), "retrieval"),
    "question answering": ("qa.pt", ("state",), "question_answering"),
    "teacher": ("stage1_teacher.pt", ("state",), "clip"),
}


class EasyDict(dict[str, Any]):
    """The config that the authors' stage 2 saves beside its weights."""


class Config:
    """mmcv's, which keeps what it holds in an attribute."""

    def __init__(self) -> None:
        self._cfg_dict = EasyDict(model="vit")


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "flat": lambda state: state,
    "the authors' stage 1": lambda state: {"model": state, "epoch": 3, "args": argparse.Namespace(lr=1.5e-4)},
    "the authors' stage 2": lambda state: {"model": state, "config": EasyDict(a=EasyDict()), "scaler": {}},
    "of mmcv": lambda state: {"state_dict": state, "meta": {"config": Config(), "env": Path("/data")}},
    "DeepSpeed": lambda state: {"module": state, "ds_version": "0.9", "optimizer": None, "param_shapes": None},
    "DDP": prefixed("module."),
    "Lightning": lambda state: {"state_dict": prefixed("model.")(state), "callbacks": {}},
    "half": lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
}


@pytest.fixture(scope="module")
def state_of(request: pytest.FixtureRequest) -> Callable[[str], State]:
    golden: Callable[[str], Any] = request.getfixturevalue("golden")
    known: dict[str, State] = {}

    def read(what: str) -> State:
        if what not in known:
            file, path, _ = GOLDEN[what]
            found = golden(file)
            for part in path:
                found = found[part]
            known[what] = found
        return known[what]

    return read


def quick(what: str, form: str) -> bool:
    """All forms of one task and all tasks in one form: the rest adds little, and takes long."""
    return what == "stage 1" or form == "the authors' stage 2"


@pytest.mark.parametrize(
    ("what", "form"),
    [
        pytest.param(what, form, marks=[] if quick(what, form) else [pytest.mark.slow])
        for what in GOLDEN
        for form in FORMS
    ],
)
def test_each_form_of_each_task_is_known_and_fits_its_model(
    tmp_path: Path, state_of: Callable[[str], State], what: str, form: str
) -> None:
    state = state_of(what)
    torch.save(FORMS[form](state), tmp_path / "w.pth")
    found = look_at(tmp_path / "w.pth")
    assert found.identity.kind == GOLDEN[what][2]
    assert found.fit.is_whole, found.fit
    assert len(found.fit.used) + sum(found.fit.unused.values()) == len(state)
    for name, value in found.fit.used.items():
        same = [other for key, other in state.items() if key.endswith(name.replace("text_encoder.bert.", ""))]
        expected = same[0].half() if form == "half" else same[0]
        assert any(torch.equal(value.reshape(one.shape), expected.to(value.dtype)) for one in same[:1]), name


@pytest.mark.parametrize("what", GOLDEN)
def test_the_folder_that_is_written_is_read_as_the_file_is(
    tmp_path: Path, state_of: Callable[[str], State], what: str
) -> None:
    torch.save({"model": state_of(what), "config": EasyDict()}, tmp_path / "w.pth")
    done = CliRunner().invoke(umt, ["import", str(tmp_path / "w.pth"), "--to", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "umt_weights.json").read_text())
    assert (told["kind"], told["source"]["name"]) == (GOLDEN[what][2], "w.pth")
    again = look_at(tmp_path / "out")
    assert again.identity.kind == GOLDEN[what][2], "what is written is what it was"
    first = look_at(tmp_path / "w.pth").fit.used
    assert again.fit.used.keys() == first.keys()
    assert all(torch.equal(again.fit.used[name], value) for name, value in first.items())


def test_weights_that_were_altered_in_the_folder_are_refused(tmp_path: Path, state_of: Callable[[str], State]) -> None:
    torch.save(state_of("stage 1"), tmp_path / "w.pth")
    CliRunner().invoke(umt, ["import", str(tmp_path / "w.pth"), "--to", str(tmp_path / "out")])
    save_file({"w": torch.ones(2)}, tmp_path / "out" / "model.safetensors")
    with pytest.raises(WeightsError, match="altered"):
        read_weights(tmp_path / "out")


def test_a_file_that_lacks_something_is_said_and_not_written(tmp_path: Path, state_of: Callable[[str], State]) -> None:
    lacking = {key: value for key, value in state_of("stage 2").items() if not key.startswith("itm_head.")}
    lacking["vision_proj.weight"] = torch.zeros(3, 3)
    torch.save(lacking, tmp_path / "w.pth")
    done = CliRunner().invoke(umt, ["import", str(tmp_path / "w.pth")])
    assert done.exit_code == 0
    assert "missing   2: itm_head.bias, itm_head.weight" in done.output
    assert "reshaped  1: vision_proj.weight (3, 3), not" in done.output
    refused = CliRunner().invoke(umt, ["import", str(tmp_path / "w.pth"), "--to", str(tmp_path / "out")])
    assert isinstance(refused.exception, WeightsError)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the published sizes


def published(keys: Mapping[str, tuple[int, ...]]) -> State:
    """A state of these shapes, without memory for it. Tied tensors are equal, as all are zero."""
    zero = torch.zeros(())
    return {key: zero.expand(shape) for key, shape in keys.items()}


LISTS = [
    ("keys_stage1_base.txt", "student", "stage1", "b16_ptk710_f8_res224.pth"),
    ("keys_stage1_large.txt", "student", "stage1", "l16_ptk710_f8_res224.pth"),
    ("keys_finetune_base.txt", "", "recognition", "b16_ptk710_ftk710_ftk400_f8_res224.pth"),
    ("keys_stage2_base.txt", "", "stage2", "b16_25m.pth"),
    ("keys_stage2_large.txt", "", "stage2", "l16_17m.pth"),
    ("keys_qa_base.txt", "", "question_answering", "qa_msrvtt_b16_25m.pth"),
    ("keys_qa_large.txt", "", "question_answering", "qa_msvd_l16_25m.pth"),
]


@pytest.mark.parametrize(("listing", "part", "kind", "name"), LISTS)
def test_the_published_key_lists_are_whole_models_of_b_and_l(
    published_keys: Callable[..., dict[str, tuple[int, ...]]], listing: str, part: str, kind: str, name: str
) -> None:
    state = published(published_keys(listing, part=part))
    identity = identify(state)
    found = fit(state, identity)
    assert (identity.kind, identity.preset) == (kind, "vit_b16" if "base" in listing else "vit_l16")
    assert found.is_whole
    assert len(found.used) + sum(found.unused.values()) == len(state)
    claim = named_as(name)
    assert claim is not None
    assert likely(identity, claim) == (name.removesuffix(".pth"),)
    assert traps(identity, claim, WeightFile(state, ""), found) == []
    assert name.removesuffix(".pth") in likely(identity, None)


def test_traps_of_published_files_are_told(published_keys: Callable[..., dict[str, tuple[int, ...]]]) -> None:
    def told(listing: str, name: str, part: str = "") -> str:
        state = published(published_keys(listing, part=part))
        identity = identify(state)
        return "\n".join(traps(identity, named_as(name), WeightFile(state, ""), fit(state, identity)))

    assert "was once a file of question answering" in told("keys_qa_base.txt", "b16_25m.pth")
    assert "leads to a B file" in told("keys_qa_base.txt", "qa_msvd_l16_25m.pth")
    assert "by its tensors UMT-B" in told("keys_stage1_base.txt", "l16_ptk710_f8_res224.pth", "student")
    head = told("keys_finetune_base.txt", "b16_ptk710_ftk710_f8_res224.pth")
    assert "its head has 710 rows (Kinetics-710), and it has 400" in head
    assert "no table of positions" in told("keys_finetune_base.txt", "l16_ptk710_ftk710_ftk400_f16_res224.pth")
    assert told("keys_finetune_base.txt", "b16_ptk710_ftk710_ftk400_f8_res224.pth") == ""
