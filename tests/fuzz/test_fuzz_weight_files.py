"""Weight files of strangers: the tensors that were saved, or a WeightsError; nothing else, and never other numbers."""

from __future__ import annotations

import io
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from umt_ds.errors import WeightsError
from umt_ds.weights.load import read_state
from umt_ds.weights.published import (
    answering_start,
    answering_state,
    bert_state,
    student_state,
    teacher_state,
    text_teacher_state,
    video_text_state,
)

STATE = {"visual.conv1.weight": torch.arange(6.0).view(2, 3), "visual.proj": torch.ones(4, dtype=torch.float16)}


def torch_file(**settings: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"model": STATE, "epoch": 3}, file, **settings)
    return file.getvalue()


ZIPPED, OLD, SAFE = torch_file(), torch_file(_use_new_zipfile_serialization=False), save(STATE)


def read(content: bytes, name: str = "w.pt") -> dict[str, Tensor] | None:
    """The tensors, or None where the file is refused; anything else is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return read_state(path)
        except WeightsError as error:
            refusal = str(error)
    assert str(path) in refusal
    assert "weights_only" not in refusal
    return None


@st.composite
def damaged(draw: st.DrawFn, content: bytes, end: int | None = None) -> bytes:
    """`content` with bytes changed (before `end`), and cut off, or with more behind it."""
    changed = bytearray(content)
    for place in draw(st.lists(st.integers(0, (end or len(content)) - 1), max_size=4)):
        changed[place] = draw(st.integers(0, 255))
    return bytes(changed)[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else bytes(changed)


@given(st.binary(max_size=300), st.sampled_from(["w.pt", "w.safetensors", "w.bin", "w.safetensors.index.json"]))
def test_any_bytes_are_refused(content: bytes, name: str) -> None:
    assert read(content, name) is None


HEADS = [
    b"PK\x03\x04", b"\x80\x02", OLD[:40], b"{", b"<html", b"GGUF", struct.pack("<Q", 64) + b"{", b"\x08\x07\x12",
    b"\x93NUMPY",
]  # fmt: skip


@given(st.sampled_from(HEADS), st.binary(max_size=300))
def test_any_bytes_behind_a_known_beginning_are_refused(head: bytes, rest: bytes) -> None:
    assert read(head + rest) is None


@given(damaged(ZIPPED))
def test_a_damaged_torch_file_gives_what_was_saved_or_nothing(content: bytes) -> None:
    assert_is_saved(read(content))


@given(damaged(OLD))
def test_a_damaged_old_torch_file_gives_finite_numbers_or_nothing(content: bytes) -> None:
    """It has no checksum, so that other numbers cannot be told from those that were saved."""
    state = read(content)
    assert state is None or all(bool(value.float().isfinite().all()) for value in state.values())


@given(damaged(SAFE, end=len(SAFE) - 32))  # its numbers, at the end, have no checksum
def test_a_damaged_safetensors_header_gives_nothing_that_was_not_there(content: bytes) -> None:
    state = read(content)
    if state is not None:
        assert sum(value.numel() * value.element_size() for value in state.values()) <= 32


def assert_is_saved(state: dict[str, Tensor] | None) -> None:
    if state is not None:
        assert state.keys() == STATE.keys()
        assert all(torch.equal(state[name], value) for name, value in STATE.items())


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "C64", "U4"]) | ANY_JSON,
        "shape": st.lists(st.integers(-1, 2**63), max_size=3) | ANY_JSON,
        "data_offsets": st.lists(st.integers(-1, 2**40), min_size=2, max_size=2) | ANY_JSON,
    }
)


@given(st.dictionaries(st.text(max_size=5), ENTRY | ANY_JSON, max_size=3), st.binary(max_size=64))
def test_any_safetensors_header_is_believed_only_where_it_is_true(header: dict[str, Any], body: bytes) -> None:
    text = json.dumps(header).encode()
    state = read(struct.pack("<Q", len(text)) + text + body, "w.safetensors")
    assert state is None or sum(value.numel() * value.element_size() for value in state.values()) == len(body)


@given(ANY_JSON | st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=9), ANY_JSON)}))
def test_any_index_is_refused_where_its_files_are_not(content: Any) -> None:
    assert read(json.dumps(content).encode(), "model.safetensors.index.json") is None


PARTS = st.sampled_from([
    "module", "_orig_mod", "model", "visual", "vision_model", "encoder", "layers", "0", "1", "conv1", "weight", "bias",
    "embeddings", "patch_embedding", "visual_projection", "self_attn", "q_proj", "bert", "cls", "predictions",
    "decoder", "word_embeddings", "patch_embed", "proj", "backbone", "vision_encoder", "temp", "text", "LayerNorm",
    "gamma", "transformer", "", "position_ids", "trunk",
])  # fmt: skip
NAME = st.lists(PARTS, min_size=1, max_size=6).map(".".join)
KNOWN = st.sampled_from([
    "embeddings.patch_embedding.weight", "visual_projection.weight", "conv1.weight", "patch_embed.proj.weight",
    "bert.embeddings.word_embeddings.weight", "temp",
])  # fmt: skip
TENSOR = st.lists(st.integers(0, 3), max_size=5).map(torch.ones)


@given(
    st.dictionaries(NAME | KNOWN, TENSOR, max_size=6),
    st.sampled_from([teacher_state, text_teacher_state, student_state, bert_state, video_text_state]),
)
def test_any_names_and_shapes_are_translated_or_refused(state: dict[str, Tensor], translate: Any) -> None:
    try:
        named = translate(state)
    except WeightsError:
        return
    given_numbers = sum(value.numel() for value in state.values())
    assert sum(value.numel() for value in named.values()) <= given_numbers


WORDS = "bert.embeddings.word_embeddings.weight"
LAYERS = st.sampled_from(["0", "1", "2", "01", "-1", "1.1", "²", "x", "", "9" * 5000])
CROSS = LAYERS.map(lambda layer: f"bert.encoder.layer.{layer}.crossattention.self.key.weight")
TEXT_KEY = st.sampled_from([WORDS, WORDS.removeprefix("bert."), "cls.predictions.decoder.weight"]) | CROSS | NAME
HALF = st.sampled_from(["text_encoder.", "text_decoder.", "module.text_encoder.", "vision_encoder.encoder.", ""])
ENCODER, DECODER = ({f"{half}.{WORDS}": torch.ones(3, 2)} for half in ("text_encoder", "text_decoder"))


@given(st.dictionaries(st.tuples(HALF, TEXT_KEY).map("".join), TENSOR, max_size=6), st.booleans(), st.integers(0, 3))
def test_any_text_encoder_and_decoder_answer_or_are_refused(
    changes: dict[str, Tensor], is_start: bool, text_layers: int
) -> None:
    state = ENCODER | changes if is_start else ENCODER | DECODER | changes
    try:
        named = answering_start(state, text_layers=text_layers) if is_start else answering_state(state)
    except WeightsError:
        return
    assert all(any(value is original for original in state.values()) for value in named.values())
