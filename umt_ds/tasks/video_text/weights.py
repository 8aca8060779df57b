"""What a model of video and text starts from: stage 2 or retrieval, published or our own; or a student of stage 1.

Each tensor of the file is loaded, or counted with what it belongs to; so is each of the model that begins anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from umt_ds.engine.protocol import InitialWeights
from umt_ds.errors import WeightsError
from umt_ds.models.bert import Bert
from umt_ds.models.presets import bert_size
from umt_ds.models.video_text import VideoTextModel
from umt_ds.tasks.encoders import check_size
from umt_ds.weights.load import about, load_strict
from umt_ds.weights.names import bare_names
from umt_ds.weights.published import has_answer_decoder, is_video_text, student_state, video_text_state

_ENCODER, _DECODERS = "vision_encoder.encoder.", "vision_encoder.clip_decoder."
_WORD_HEAD, _LAYERS = "text_encoder.cls.", "text_encoder.bert.encoder.layer."
_WORDS = "text_encoder.bert.embeddings.word_embeddings.weight"
_NEEDED = ("vision_encoder.pool_norm.", "text_encoder.", "vision_proj.", "text_proj.", "itm_head.", "temp")
_LEFT_OUT = ("clip_teacher.", _DECODERS, _WORD_HEAD, "text_encoder.pooler.", "text_encoder.bert.pooler.")
_NAMING = ("encoder.head.", "encoder.fc_norm.")  # of a classifier, as `student_state` names them
_COMPARING = "weights that stage 2 or retrieval has trained, published ones or a run of yours"


def load_stage2(module: VideoTextModel, weights: InitialWeights) -> str:
    """Weights of stage 2 or retrieval into all of the model of stage 2, or of stage 1 into its video encoder. A
    sentence about it.

    Raises one WeightsError where the file fits neither; then nothing has been copied. Decoders and the word head stay
    as they are where the file has none; the pooling norm is new after stage 1.
    """
    if is_video_text(weights.state):
        return _load_whole(module, weights, encoder="task.student")
    with about(weights.where):
        named = student_state(weights.state)
        check_size(_under("encoder.", named), module.vision_encoder.encoder.size, setting="task.student")
    naming = [key for key in named if key.startswith(_NAMING)]
    named = {key: value for key, value in named.items() if key not in naming}
    both = len(module.vision_encoder.clip_decoder) > 0 and any(key.startswith("clip_decoder.") for key in named)
    ignore = ["pool_norm.", *([] if both else ["clip_decoder."]), *(["encoder.norm."] if naming else [])]
    report = load_strict(module.vision_encoder, named, where=weights.where, ignore=ignore)
    left_out = f"; left out: {len(naming)} tensors that name classes, and the norm before them" if naming else ""
    return f"video encoder: {report}{left_out}"


def load_retrieval(module: VideoTextModel, weights: InitialWeights) -> str:
    """Weights of stage 2 or retrieval into the model that retrieval fine-tunes. A sentence about it.

    Raises one WeightsError for anything else, a student of stage 1 too: then nothing has been copied.
    """
    if not is_video_text(weights.state):
        with about(weights.where):
            student_state(weights.state)
            raise WeightsError(
                "a video encoder alone, as stage 1 or recognition trains it: it has read no text",
                hint=f"{_COMPARING} (umt train stage2/… starts from stage 1)",
            )
    return _load_whole(module, weights, encoder="task.encoder")


def _load_whole(module: VideoTextModel, weights: InitialWeights, *, encoder: str) -> str:
    with about(weights.where):
        _require_comparing(weights.state)
        named = video_text_state(weights.state)
        check_size(_under(_ENCODER, named), module.vision_encoder.encoder.size, setting=encoder)
        check_text(named, module.text_encoder)
        _check_space(named, module)
    own = module.state_dict()
    fresh = [part for part in (_DECODERS, _WORD_HEAD) if not _has(part, own) or not _has(part, named)]
    report = load_strict(module, named, where=weights.where, ignore=fresh)
    clauses = [f"{report.loaded} tensors loaded"]
    for part in fresh:
        if count := sum(key.startswith(part) for key in report.fresh):
            clauses.append(f"{part.strip('.')} ({count} tensors) is not in the file and begins as without it")
    left_out = {part: sum(key.startswith(part) for key in bare_names(weights.state)) for part in _LEFT_OUT}
    said = [
        f"{count} of {part.strip('.')}"
        for part, count in left_out.items()
        if count and (part in fresh or part not in (_DECODERS, _WORD_HEAD))
    ]
    return "; ".join([*clauses, *([f"left out: {', '.join(said)}"] if said else [])])


def _require_comparing(state: Mapping[str, Tensor]) -> None:
    """Raises WeightsError for a model that has a video encoder and does not compare videos with texts."""
    if has_answer_decoder(state):
        raise WeightsError(
            "weights of question answering: they have an answer decoder, and do not compare videos with texts",
            hint=f"{_COMPARING}; the authors' file b16_25m.pth was once one of question answering: download it again",
        )
    bare = bare_names(state)
    if missing := [part.strip(".") for part in _NEEDED if not _has(part, bare)]:
        raise WeightsError(
            f"it has no {', no '.join(missing)}, by which videos and texts are compared", hint=_COMPARING
        )


# ---------------------------------------------------------------- sizes


@dataclass(frozen=True)
class _TextSize:
    words: int
    width: int
    layers: int
    fusion: int

    def __str__(self) -> str:
        return f"{self.layers} layers of width {self.width} for {self.words} words, {self.fusion} of them for fusion"


def check_text(named: Mapping[str, Tensor], text: Bert) -> None:
    """Raises WeightsError for a BERT of another size, with the settings that it is. named: in the keys of
    `VideoTextModel`, which question answering shares."""
    words, width = (*named[_WORDS].shape, 0, 0)[:2]
    fusing = _numbers(named, r"(\d+)\.crossattention\.")
    found = _TextSize(words, width, len(_numbers(named, r"(\d+)\.")), len(fusing))
    own = _TextSize(text.size.vocab_size, text.size.width, text.size.layers, text.size.layers - text.text_layers)
    if found != own:
        sizes = {name: bert_size(name) for name in ("bert_base", "bert_large")}
        of = (found.words, found.width, found.layers)
        fits = next((name for name, size in sizes.items() if (size.vocab_size, size.width, size.layers) == of), None)
        raise WeightsError(
            f"its BERT has {found}; that of the run {own}",
            hint=f"task.text.preset={fits} task.text.fusion_layers={found.fusion}, or other weights"
            if fits
            else "weights of the size that the run has (task.text)",
        )


def _numbers(named: Mapping[str, Tensor], pattern: str) -> set[str]:
    """Of the layers of BERT whose names go on so."""
    matches = (re.match(pattern, key.removeprefix(_LAYERS)) for key in named if key.startswith(_LAYERS))
    return {match[1] for match in matches if match}


def _check_space(named: Mapping[str, Tensor], module: VideoTextModel) -> None:
    """Raises WeightsError where videos and texts are compared in a space of another width."""
    name = "vision_proj.weight"
    found, own = (*named[name].shape, 0)[0] if name in named else 0, module.vision_proj.out_features
    if found != own:
        raise WeightsError(
            f"it compares videos and texts by {found} numbers, the run by {own}",
            hint=f"task.embed_width={found}, or other weights",
        )


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _has(part: str, names: Mapping[str, Tensor] | Sequence[str]) -> bool:
    return any(key.startswith(part) for key in names)
