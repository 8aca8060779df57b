"""Stage 2 and retrieval take weights of any names and shapes, or refuse them in one error and keep their own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.stage2 import BERT, VIT
from umt_ds.engine.protocol import InitialWeights
from umt_ds.errors import WeightsError
from umt_ds.models.bert import Bert
from umt_ds.models.video_text import VideoEncoder, VideoTextModel
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.video_text.weights import load_retrieval, load_stage2


def model(*, word_head: bool) -> VideoTextModel:
    text = Bert(BERT, fusion_layers=2, video_width=VIT.width, word_head=word_head)
    vision = VideoEncoder(VideoViT(VIT), out_width=4, layers=0, interval=1.0, norm="none")
    return VideoTextModel(vision, text, embed_width=8)


OF_STAGE2, OF_RETRIEVAL = model(word_head=True), model(word_head=False)
STATE = dict(OF_STAGE2.state_dict())
SHAPE = st.lists(st.integers(0, 9), max_size=4).map(tuple)
BERT_NAME = "text_encoder.bert.encoder.layer"
KEY = st.sampled_from([
    *STATE, "clip_teacher.proj", "vision_encoder.clip_decoder.0.head.weight", "text_decoder.cls", "text_encoder.",
    "text_encoder.bert", f"{BERT_NAME}.", f"{BERT_NAME}.9.crossattention.self.key.weight", f"{BERT_NAME}.x.output",
    "text_encoder.embeddings.word_embeddings.weight", "vision_encoder.", "vision_encoder.encoder.blocks.", "", "module",
    "text_encoder.cls.predictions.decoder.weight", "vision_encoder.encoder.blocks.9.norm1.weight", "itm_head.",
])  # fmt: skip
PREFIX = st.sampled_from(["", "module.", "model.", "encoder.", "vision_encoder.encoder."])
PARTS = st.sampled_from(["vision_encoder.", "text_encoder.", "text_encoder.bert.", "text_encoder.cls.", "itm", "none"])


@given(st.dictionaries(KEY, SHAPE.map(torch.ones) | st.none(), max_size=3), PREFIX, PARTS)
def test_any_weights_are_loaded_or_refused(changes: dict[str, Tensor | None], prefix: str, without: str) -> None:
    changed = {name: value for name, value in {**STATE, **changes}.items() if not name.startswith(without)}
    weights = InitialWeights({prefix + name: value for name, value in changed.items() if value is not None}, "a file")
    for module, load in ((OF_STAGE2, load_stage2), (OF_RETRIEVAL, load_retrieval)):
        before = {name: value.clone() for name, value in module.state_dict().items()}
        try:
            assert "tensors loaded" in load(module, weights)
        except WeightsError:
            assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("name", ["vision_proj.weight", "temp", "vision_encoder.encoder.patch_embed.proj.weight"])
def test_a_tensor_of_no_entries_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="a file"):
        load_retrieval(OF_RETRIEVAL, InitialWeights({**STATE, name: torch.ones(0)}, "a file"))
