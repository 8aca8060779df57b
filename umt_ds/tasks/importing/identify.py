"""What the tensors of a weight file are: which task trained them, and of which size the model is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from umt_ds.config.tasks.base import ClipShape
from umt_ds.errors import WeightsError
from umt_ds.models.positions import BASE_FRAMES, BASE_SIDE
from umt_ds.models.presets import BertSize, StudentPreset, VitSize, bert_size, vit_size
from umt_ds.tasks.importing.releases import FileKind
from umt_ds.tasks.recognition.weights import computed_clip
from umt_ds.weights.names import bare_names
from umt_ds.weights.published import (
    answering_state,
    encoder_parts,
    has_answer_decoder,
    is_video_text,
    student_state,
    teacher_state,
    text_teacher_state,
    video_text_state,
)

_PATCHES = "patch_embed.proj.weight"
_HINT = "a weight file of UMT, or a CLIP; a BERT is named in task.text.weights as its folder is"
_PIXELS = ("mask_token", "decoder.blocks.", "decoder_pos_embed")  # of VideoMAE, which learns pixels


@dataclass(frozen=True)
class Identity:
    """kind: what trained it. state: its tensors in the names of the model here. encoder: the size that the file should
    have: a preset's where its width is one's, with `heads` that no tensor shows (1 where unknown). frame_depth: how
    many frames deep a patch is. text, fusion_layers: of its BERT. decoder_layers: of the one that answers. classes:
    rows of its head. aligned, aligned_width: decoders towards a teacher. clip: for which a table of positions in it was
    computed, and whose table was stretched for that."""

    kind: FileKind
    state: Mapping[str, Tensor]
    encoder: VitSize
    preset: StudentPreset | None
    frame_depth: int = 1
    text: BertSize | None = None
    fusion_layers: int = 0
    decoder_layers: int = 0
    classes: int | None = None
    aligned: int = 0
    aligned_width: int = 0
    clip: tuple[ClipShape, ClipShape] | None = None


def identify(state: Mapping[str, Tensor], *, kind: FileKind | None = None) -> Identity:
    """What a file is; kind: what it is to be taken for, where it could be several.

    Raises WeightsError for tensors that are no model of UMT and no CLIP, or not of that kind.
    """
    seems = _kind_of(state)
    taken = kind or seems
    if taken != seems and (taken, seems) not in _MAY_BE_TAKEN:
        raise WeightsError(
            f"these are not weights of the kind that --as names: they seem to be of {seems.replace('_', ' ')}",
            hint=f"--as {seems}, or leave it out",
        )
    named = _READERS[taken](state)
    if taken == "clip":
        return Identity(taken, named, _tower_size(named), None)
    prefix = _ENCODERS.get(taken, "")
    kernel = named[f"{prefix}{_PATCHES}"]
    if kernel.dim() != 5:
        raise WeightsError(f"{prefix}{_PATCHES} {tuple(kernel.shape)} is not that of a video encoder", hint=_HINT)
    size, preset = _size(kernel, _count(named, rf"{re.escape(prefix)}blocks\.(\d+)\."))
    head = named.get("head.weight")
    decoders = f"{prefix.removesuffix('encoder.')}clip_decoder."
    of_first = named.get(f"{decoders}0.head.bias")
    return Identity(
        taken,
        named,
        size,
        preset,
        frame_depth=kernel.shape[2],
        text=_text_size(named),
        fusion_layers=_count_of(named, r"text_encoder\.bert\.encoder\.layer\.(\d+)\.crossattention\."),
        decoder_layers=_count(named, r"text_decoder\.bert\.encoder\.layer\.(\d+)\."),
        classes=len(head) if head is not None and head.dim() == 2 else None,
        aligned=_count(named, rf"{re.escape(decoders)}(\d+)\."),
        aligned_width=len(of_first) if of_first is not None and of_first.dim() == 1 else 0,
        clip=_clip(state, size),
    )


# What a file may be taken for besides what it seems: the first for the second.
_MAY_BE_TAKEN: frozenset[tuple[FileKind, FileKind]] = frozenset({
    ("retrieval", "stage2"), ("stage2", "retrieval"), ("encoder", "stage1"), ("encoder", "recognition"),
    ("encoder", "detection"), ("encoder", "stage2"), ("encoder", "retrieval"), ("encoder", "question_answering"),
    ("recognition", "detection"), ("detection", "recognition"), ("stage1", "encoder"),
})  # fmt: skip
_ENCODERS: dict[FileKind, str] = {
    "stage1": "encoder.",
    "stage2": "vision_encoder.encoder.",
    "retrieval": "vision_encoder.encoder.",
    "question_answering": "vision_encoder.encoder.",
}


def _kind_of(state: Mapping[str, Tensor]) -> FileKind:
    bare = bare_names(state)
    if any(name in key for key in bare for name in _PIXELS):
        raise WeightsError("weights of VideoMAE, which learns pixels: UMT starts from none of them", hint=_HINT)
    if has_answer_decoder(state):
        return "question_answering"
    if is_video_text(state):
        if not any(key.startswith("text_encoder.") for key in bare):
            return "encoder"
        trains_words = any(key.startswith("text_encoder.cls.") for key in bare)
        return "stage2" if trains_words else "retrieval"
    try:
        named = student_state(state)
    except WeightsError as error:
        try:
            teacher_state(state)
        except WeightsError:
            raise WeightsError(f"{error.what}; and no CLIP either", hint=_HINT) from error
        return "clip"
    if any(key.startswith("clip_decoder.") for key in named):
        return "stage1"
    if "encoder.head.weight" not in named:
        return "encoder"
    return "detection" if "encoder.norm.weight" in named and "encoder.fc_norm.weight" not in named else "recognition"


def _alone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The video encoder of any file, without what was trained on top of it."""
    encoder = encoder_parts(state)[0]
    return {key: value for key, value in encoder.items() if not key.startswith(("head.", "fc_norm.", "pos_embed"))}


def _with_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Encoder and head; the last norm is not that of a classifier, and positions are computed."""
    return {key: value for key, value in encoder_parts(state)[0].items() if not key.startswith(("norm.", "pos_embed"))}


def _with_last_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: value for key, value in encoder_parts(state)[0].items() if not key.startswith(("fc_norm.", "pos_embed"))
    }


def _clip_towers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower, and the text tower beside it, which alignment of projections asks for."""
    tower, text = teacher_state(state), text_teacher_state(state)
    if "token_embedding.weight" not in text or "conv1.weight" in text:
        return tower
    return {f"visual.{key}": value for key, value in tower.items()} | text


_READERS = {
    "stage1": student_state,
    "recognition": _with_head,
    "detection": _with_last_norm,
    "stage2": video_text_state,
    "retrieval": video_text_state,
    "question_answering": answering_state,
    "encoder": _alone,
    "clip": _clip_towers,
}


# ---------------------------------------------------------------- sizes


def _tower_size(named: Mapping[str, Tensor]) -> VitSize:
    """Of a CLIP's image tower; zeros where it is of a form whose sizes do not show."""
    norms = [value for key, value in named.items() if re.fullmatch(r"(visual\.)?(ln_post|trunk\.norm)\.weight", key)]
    depth = _count(named, r"(?:visual\.)?(?:transformer\.resblocks|trunk\.blocks)\.(\d+)\.")
    return VitSize(len(norms[0]) if norms else 0, depth, 1, 0)


def _size(kernel: Tensor, depth: int) -> tuple[VitSize, StudentPreset | None]:
    """The preset of this width and patch, though blocks may be missing; else the numbers of the file."""
    width, patch = kernel.shape[0], kernel.shape[-1]
    for name in get_args(StudentPreset):
        size = vit_size(name)
        if (size.width, size.patch) == (width, patch):
            return size, name
    return VitSize(width, depth, 1, patch), None


def _text_size(named: Mapping[str, Tensor]) -> BertSize | None:
    words = named.get("text_encoder.bert.embeddings.word_embeddings.weight")
    if words is None or words.dim() != 2:
        return None
    layers = _count(named, r"text_encoder\.bert\.encoder\.layer\.(\d+)\.")
    for name in ("bert_base", "bert_large"):
        size = bert_size(name)
        if (size.width, size.vocab_size) == (words.shape[1], words.shape[0]):
            return size
    hidden = named.get("text_encoder.bert.encoder.layer.0.intermediate.dense.bias", torch.empty(0))
    positions = named.get("text_encoder.bert.embeddings.position_embeddings.weight", torch.empty(0))
    return BertSize(
        words.shape[1], layers, 1, hidden.shape[0], vocab_size=words.shape[0], max_tokens=positions.shape[0]
    )


def _count(names: Iterable[str], pattern: str) -> int:
    """One more than the highest number of a layer."""
    found = (re.match(pattern, name) for name in names)
    return max((int(one[1]) for one in found if one and len(one[1]) < 5), default=-1) + 1


def _count_of(names: Iterable[str], pattern: str) -> int:
    """How many layers are of this kind."""
    return len({found[1] for name in names if (found := re.match(pattern, name))})


def _clip(state: Mapping[str, Tensor], size: VitSize) -> tuple[ClipShape, ClipShape] | None:
    table = next((value for key, value in bare_names(state).items() if key.rpartition(".")[2] == "pos_embed"), None)
    if table is None:
        return None
    return computed_clip(table, width=size.width, patch=size.patch, bases=[ClipShape(BASE_FRAMES, BASE_SIDE)])
