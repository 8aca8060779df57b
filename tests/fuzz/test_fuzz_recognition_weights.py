"""Fine-tuning takes weights of any names and shapes, with any class names, or refuses them in one error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from umt_ds.config.load import load_run
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.engine.protocol import InitialWeights
from umt_ds.errors import WeightsError
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.positions import finetune_table
from umt_ds.models.presets import VitSize
from umt_ds.tasks.recognition.classes import HeadClasses
from umt_ds.tasks.recognition.head_rows import NEW, choose_rows
from umt_ds.tasks.recognition.weights import load_initial

SIZE = VitSize(width=8, depth=1, heads=1, patch=16)
STATE = dict(VideoClassifier(SIZE, classes=3).state_dict())
TASK = load_run("demo/recognition").task
SHAPE = st.lists(st.integers(0, 9), max_size=5).map(tuple)
KEY = st.sampled_from([
    *STATE, "pos_embed", "norm.weight", "clip_decoder.0.head.weight", "blocks.1.norm1.weight", "blocks", "blocks.",
    "head", "temp", "position_ids", "vision_encoder.encoder.patch_embed.proj.weight", "", "encoder.", "module.module",
])  # fmt: skip
PREFIX = st.sampled_from(["", "encoder.", "backbone.", "module.", "vision_encoder.encoder.", "model.encoder."])
NAMES = st.lists(st.sampled_from(["archery", "biking", "tying tie", "tying necktie", "0", "1", "2", ""]), max_size=5)
COMMON_SIZES = st.sampled_from([1, 2, 3, 400, 600, 700, 710])


@given(
    st.dictionaries(KEY, SHAPE.map(torch.ones) | st.none() | st.just(finetune_table(2, 32, 16, 8)[None]), max_size=3),
    PREFIX,
    NAMES.map(tuple),
)
def test_any_weights_are_loaded_or_refused(
    changes: dict[str, Tensor | None], prefix: str, names: tuple[str, ...]
) -> None:
    changed = {**STATE, **changes}
    state = {prefix + name: value for name, value in changed.items() if value is not None}
    assert isinstance(TASK, RecognitionConfig)
    module = VideoClassifier(SIZE, classes=3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    try:
        load_initial(module, InitialWeights(state, "a file", names), TASK, HeadClasses(3, ("biking", "a", "archery")))
    except WeightsError:
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@given(NAMES.map(tuple), COMMON_SIZES, NAMES.map(tuple), COMMON_SIZES)
def test_any_heads_give_a_row_or_none_for_each_class(
    there: tuple[str, ...], rows_there: int, here: tuple[str, ...], rows_here: int
) -> None:
    trained = HeadClasses(len(there) or rows_there, there)
    head = HeadClasses(len(here) or rows_here, here)
    found = choose_rows(trained, head)
    assert len(found.rows) == head.count
    assert all(row == NEW or 0 <= row < trained.count for row in found.rows)
    assert found.doubt or NEW not in found.rows


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "head.weight", "head.bias", "pos_embed"])
def test_a_tensor_of_no_dimensions_is_refused(name: str) -> None:
    assert isinstance(TASK, RecognitionConfig)
    weights = InitialWeights({**STATE, name: torch.ones(())}, "a file")
    with pytest.raises(WeightsError, match="a file"):
        load_initial(VideoClassifier(SIZE, classes=3), weights, TASK, HeadClasses(3))
