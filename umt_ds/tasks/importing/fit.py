"""How much of a weight file the model of its kind uses, and what that model lacks: counted tensor by tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from umt_ds.errors import ConfigError, WeightsError
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.answer_decoder import AnswerDecoder, AnsweringModel
from umt_ds.models.bert import Bert
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.video_text import VideoEncoder, VideoTextModel
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.importing.identify import Identity
from umt_ds.weights.names import bare_names, is_bookkeeping

_FRESH = ("clip_decoder.", "vision_encoder.clip_decoder.", "text_encoder.cls.")  # may be absent: they begin anew


@dataclass(frozen=True)
class Fit:
    """used: tensors that the model takes, in its names. unused: of the file, by the reason why not. missing: of the
    model. reshaped: name → (in the file, in the model). dtypes: how many of the used ones are of which type; the model
    is float32."""

    used: Mapping[str, Tensor]
    unused: Mapping[str, int]
    missing: tuple[str, ...]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    dtypes: Mapping[str, int]

    @property
    def is_whole(self) -> bool:
        """Whether the model has all that it needs."""
        return not self.missing and not self.reshaped


def fit(state: Mapping[str, Tensor], identity: Identity) -> Fit:
    """state: of the file, as it is read. Raises WeightsError where no model has such sizes."""
    named = dict(identity.state)
    wanted = _shapes(identity)
    if wanted is None:  # a CLIP is held against its own library's model when it is a teacher
        wanted = {key: tuple(value.shape) for key, value in named.items()}
    used = {key: value for key, value in named.items() if key in wanted}
    return Fit(
        used,
        _unused(state, used, is_clip=identity.kind == "clip"),
        tuple(sorted(key for key in wanted.keys() - used.keys())),
        {key: (tuple(value.shape), wanted[key]) for key, value in used.items() if tuple(value.shape) != wanted[key]},
        dict(Counter(str(value.dtype).removeprefix("torch.") for value in used.values())),
    )


def _shapes(identity: Identity) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of the model, made without memory."""
    if identity.kind == "clip":
        return None
    try:
        with torch.device("meta"):
            module = _module(identity)
    except (ConfigError, RuntimeError, TypeError) as error:
        raise WeightsError(
            f"no model has the sizes of this file: {' '.join(str(error).split())[:200]}",
            hint="a file of UMT, or of a run of yours",
        ) from error
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    if identity.kind == "detection":
        width = identity.encoder.width
        shapes |= {"head.weight": (identity.classes or 0, width), "head.bias": (identity.classes or 0,)}
    return {key: shape for key, shape in shapes.items() if not _may_be_absent(key, identity)}


def _may_be_absent(key: str, identity: Identity) -> bool:
    """What a task begins anew where the file has none of it."""
    if identity.kind in ("encoder", "detection") and key.startswith("norm."):
        return "norm.weight" not in identity.state  # after a classifier, which has fc_norm in its place
    return key.startswith(_FRESH) and not any(
        key.startswith(part) and any(own.startswith(part) for own in identity.state) for part in _FRESH
    )


def _module(identity: Identity) -> nn.Module:
    size = identity.encoder
    match identity.kind:
        case "recognition":
            return VideoClassifier(size, classes=identity.classes or 0)
        case "encoder" | "detection":
            return VideoViT(size)
        case "stage1":
            out_width = identity.aligned_width or size.width
            return AlignmentModel(VideoViT(size), out_width=out_width, layers=identity.aligned)
        case "stage2" | "retrieval":
            vision = VideoEncoder(
                VideoViT(size),
                out_width=identity.aligned_width or size.width,
                layers=identity.aligned,
                interval=1.0,
                norm="l2",
            )
            embedding = identity.state.get("vision_proj.bias", torch.empty(0))
            return VideoTextModel(vision, _bert(identity), embed_width=embedding.shape[0] if embedding.dim() else 0)
        case "question_answering":
            text = _bert(identity)
            text.drop_word_head()
            return AnsweringModel(VideoViT(size), text, AnswerDecoder(text.size, layers=identity.decoder_layers))
        case "clip":
            raise AssertionError("asked before")


def _bert(identity: Identity) -> Bert:
    if identity.text is None:
        raise ConfigError("it has no text encoder")
    return Bert(identity.text, fusion_layers=identity.fusion_layers, video_width=identity.encoder.width)


# ---------------------------------------------------------------- what is left out


def _unused(state: Mapping[str, Tensor], used: Mapping[str, Tensor], *, is_clip: bool) -> dict[str, int]:
    """Hugging Face's CLIP has queries, keys and values apart: there, what belongs to no image tower is not used."""
    taken = {id(value) for value in used.values()}
    new_names = {id(value): key for key, value in bare_names(state).items()}
    reasons: Counter[str] = Counter()
    for name, value in state.items():
        if id(value) in taken or new_names.get(id(value)) in used or (is_clip and "vision_model." in name):
            continue
        reasons[_reason(name, new_names.get(id(value), name))] += 1
    return dict(reasons)


def _reason(name: str, bare: str) -> str:
    if is_bookkeeping(name):
        return "counters and numbers of positions, which are computed"
    for part, reason in _REASONS.items():
        if part in f".{bare}":
            return reason
    return f"{bare.partition('.')[0]}, which this model does not have"


_REASONS = {
    ".clip_teacher.": "the teacher, which is no part of the model: a run reads it from its own file",
    ".clip_decoder.": "decoders towards the teacher, which only stages 1 and 2 have",
    ".predictions.decoder.": "the word head's matrix, which is the table of the word embeddings once more",
    ".pooler.": "BERT's pooler, which nothing uses",
    ".seq_relationship.": "BERT's head for next sentences, which nothing uses",
    ".pos_embed": "a table of positions, which are computed",
    ".fc_norm.": "the norm of a classifier",
    ".norm.": "the last norm of the encoder, in whose place a classifier has fc_norm",
    ".head.": "a head of classes",
    ".text_encoder.cls.": "the word head, which fine-tuned models do not have",
}
