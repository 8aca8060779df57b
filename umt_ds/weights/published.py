"""Translate published weights into the names of this project: CLIP teachers, UMT students, BERT, UMT's stage 2 and
question answering.

Only names and layouts change here, never a number. What wrappers add to names is off first (`names.bare_names`). Sizes
that do not fit are the loader's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from umt_ds.errors import WeightsError
from umt_ds.weights.names import bare_names, before, renamed, some, under

# open_clip's name in a CLIP layer → Hugging Face's (q, k and v apart: they become one in_proj).
_HF_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_HF_TOP = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",  # sic
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
_VISUAL_PATCHES = ("visual.conv1.weight", "visual.trunk.patch_embed.proj.weight")
_HF_PATCHES = "embeddings.patch_embedding.weight"
_HF_BESIDE = ("visual_projection.", "text_projection.", "text_model.", "logit_")  # beside the vision tower
_HF_HINT = "CLIPModel or CLIPVisionModelWithProjection, saved whole; adapters (LoRA) merged first"
_PATCHES = "patch_embed.proj.weight"  # which every video encoder has
_STAGE2_ENCODER = "vision_encoder.encoder."
# What old BERT files call the two tensors of a norm.
_OLD_NORM = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# What stage 2 has beside the parts that answer questions.
_NOT_ANSWERING = (
    "clip_teacher.", "vision_encoder.clip_decoder.", "vision_encoder.pool_norm.", "vision_proj.", "text_proj.",
    "itm_head.", "temp",
)  # fmt: skip
_TEXT, _DECODER = "text_encoder.", "text_decoder."
_BERT_LAYER = re.compile(r"bert\.encoder\.layer\.(0|[1-9][0-9]{0,3})\.(.*)", re.DOTALL)
# Heads and buffers of BERT that nothing here uses; the decoder is the word embeddings once more.
_BERT_UNUSED = ("pooler.", "cls.seq_relationship.", "cls.predictions.decoder.")


def teacher_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP file's vision tower in open_clip's keys (`conv1.weight`, `transformer.resblocks.0.…`, `proj`).

    Takes OpenAI's and open_clip's layout, under `visual.` (the text tower beside it is dropped) or bare, as
    the UMT authors extract it, and Hugging Face's CLIPModel or CLIPVisionModelWithProjection. A patch
    embedding inflated to 5-D gives its middle slice. All may lie under one more prefix (Lightning's `model.`, beside
    a loss). Raises WeightsError for anything else.
    """
    bare = bare_names(state)
    if (prefix := before(_HF_PATCHES, bare)) is not None:
        return _from_hugging_face(bare, prefix)
    clip = _of_clip(bare)
    visual = {key.removeprefix("visual."): value for key, value in clip.items() if key.startswith("visual.")}
    visual = visual or dict(clip)
    if not any(key in visual for key in ("conv1.weight", "trunk.patch_embed.proj.weight")):
        raise WeightsError(
            f"no CLIP vision tower among {len(bare)} tensors, the first is {next(iter(bare), 'none')!r}",
            hint="expected OpenAI's, open_clip's or Hugging Face's names",
        )
    kernel = visual.get("conv1.weight")
    if kernel is not None and kernel.dim() == 5 and kernel.shape[2] > 0:
        visual["conv1.weight"] = kernel[:, :, kernel.shape[2] // 2]
    return visual


def text_teacher_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP file's text tower in open_clip's keys; OpenAI's and open_clip's layout, where it lies beside `visual.`."""
    clip = _of_clip(bare_names(state))
    named = {key: value for key, value in clip.items() if not key.startswith(("visual.", "logit_"))}
    return renamed(named, lambda key: key.removeprefix("text."))


def _of_clip(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Of a file that holds a CLIP beside other things, the CLIP."""
    for patches in _VISUAL_PATCHES:
        if prefix := before(patches, state):
            return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def _from_hugging_face(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Hugging Face's CLIP vision tower, whose names begin with `prefix`; transformers 5 has it with and without
    `vision_model.`."""
    projection = next((value for key, value in state.items() if key.endswith("visual_projection.weight")), None)
    if projection is None:
        raise WeightsError(
            "the Hugging Face file has no visual_projection: a bare CLIPVisionModel",
            hint="save CLIPModel or CLIPVisionModelWithProjection instead",
        )
    source = {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and (prefix or not key.startswith(_HF_BESIDE))
    }
    sources = {ours: [theirs] for ours, theirs in _HF_TOP.items()} | _hf_layers(source)
    _require_all(source, {theirs for parts in sources.values() for theirs in parts})
    try:
        tower = {ours: _joined([source[theirs] for theirs in parts]) for ours, parts in sources.items()}
        tower["proj"] = torch.einsum("cw->wc", projection)
    except RuntimeError as error:
        raise WeightsError(
            f"shapes in the Hugging Face file do not go together: {' '.join(str(error).split())[:300]}", hint=_HF_HINT
        ) from error
    return tower


def _hf_layers(source: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """open_clip's names of all layers → the tensors of Hugging Face's that they are made of."""
    found = {match[1] for key in source if (match := re.match(r"encoder\.layers\.(0|[1-9][0-9]{0,3})\.", key))}
    names: dict[str, list[str]] = {}
    for index in range(max(map(int, found), default=-1) + 1):
        theirs, ours = f"encoder.layers.{index}", f"transformer.resblocks.{index}"
        for kind in ("weight", "bias"):
            names[f"{ours}.attn.in_proj_{kind}"] = [f"{theirs}.self_attn.{part}_proj.{kind}" for part in "qkv"]
            for our_name, their_name in _HF_LAYER.items():
                names[f"{ours}.{our_name}.{kind}"] = [f"{theirs}.{their_name}.{kind}"]
    return names


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _require_all(source: Mapping[str, Tensor], wanted: set[str]) -> None:
    """Raises WeightsError that names what a Hugging Face tower lacks, and what nobody would read."""
    misfits = {"missing": sorted(wanted - source.keys()), "unknown": sorted(source.keys() - wanted)}
    if any(misfits.values()):
        raise WeightsError(
            "the Hugging Face file does not hold one whole CLIP vision tower: "
            + "; ".join(f"{len(names)} {what}: {some(names)}" for what, names in misfits.items() if names),
            hint=_HF_HINT,
        )


def student_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published stage-1 student in the keys of `AlignmentModel`: `encoder.…` and `clip_decoder.k.…`.

    Takes the pretraining file, the same under `backbone.`, or a bare encoder (`blocks.…`).
    Raises WeightsError where there is no video transformer.
    """
    bare = renamed(bare_names(state), lambda key: key.removeprefix("backbone."))
    named = renamed(bare, lambda key: key if key.startswith(("encoder.", "clip_decoder.")) else f"encoder.{key}")
    if f"encoder.{_PATCHES}" not in named:
        raise WeightsError(
            f"no UMT student among {len(state)} tensors, the first is {next(iter(state), 'none')!r}",
            hint=f"expected {_PATCHES}, bare or under encoder. or backbone.",
        )
    return named


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder of a published student in the keys of `VideoViT`; what lies beside it is left out."""
    return encoder_parts(state)[0]


def encoder_parts(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The video encoder of any file that UMT published, or of a run of ours, in the keys of `VideoViT` and
    `VideoClassifier`; and what lies beside it (decoders, text, teacher) under its own names.

    Takes what `student_state` takes, with or without a head, and stage 2 (`vision_encoder.encoder.…`).
    Raises WeightsError where there is no video transformer.
    """
    prefix = _STAGE2_ENCODER if is_video_text(state) else "encoder."
    named = bare_names(state) if prefix == _STAGE2_ENCODER else student_state(state)
    if f"{prefix}{_PATCHES}" not in named:
        raise WeightsError(f"no video encoder among {len(state)} tensors", hint=f"expected {prefix}{_PATCHES}")
    encoder = {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
    return encoder, {key: value for key, value in named.items() if not key.startswith(prefix)}


def bert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A BERT file of Hugging Face in the keys of `models.bert.Bert`: `bert.…`, and `cls.…` where it has a word head.

    Takes BertForPreTraining, BertForMaskedLM and the bare BertModel; pooler and next-sentence head are left out.
    Raises WeightsError where there is no BERT.
    """

    def ours(key: str) -> str:
        for old, new in _OLD_NORM.items():
            key = key.replace(old, new)
        return key if key.startswith("cls.") else f"bert.{key.removeprefix('bert.')}"

    used = {
        key: value for key, value in bare_names(state).items() if not key.removeprefix("bert.").startswith(_BERT_UNUSED)
    }
    named = renamed(used, ours)
    _require_tied(state, named)
    if "bert.embeddings.word_embeddings.weight" not in named:
        raise WeightsError(
            f"no BERT among {len(state)} tensors, the first is {next(iter(state), 'none')!r}",
            hint="expected the names of Hugging Face's BertModel or BertForMaskedLM",
        )
    return named


def _require_tied(state: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> None:
    """Raises WeightsError for a word head with a table of its own: here it is that of the word embeddings."""
    words = named.get("bert.embeddings.word_embeddings.weight")
    for key, decoder in state.items():
        if key.endswith("cls.predictions.decoder.weight") and words is not None and not torch.equal(decoder, words):
            raise WeightsError(
                f"{key} is not the table of word embeddings: this BERT's word head is not tied to them",
                hint="a BERT as published, whose tie_word_embeddings is true",
            )


def is_video_text(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of stage 2, published or our own, and not of a student alone."""
    return any(key.startswith("vision_encoder.") for key in bare_names(state))


def video_text_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of stage 2 or retrieval, published or our own, in the keys of `models.video_text.VideoTextModel`.

    Published files of fine-tuned models hold the text encoder without `bert.`, and no word head. The teacher that those
    of stage 2 hold is left out, and the tied decoder; the temperature gets its dimension. Raises WeightsError where the
    word head is not tied.
    """
    bare = {key: value for key, value in bare_names(state).items() if not key.startswith("clip_teacher.")}
    text = under(_TEXT, bare)
    kept = {key: value for key, value in bare.items() if not key.startswith(_TEXT)}
    if "temp" in kept and kept["temp"].numel() == 1:
        kept["temp"] = kept["temp"].reshape(1)
    return kept | (_below(_TEXT, bert_state(text)) if text else {})


def has_answer_decoder(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of question answering, published or our own."""
    return any(key.startswith(_DECODER) for key in bare_names(state))


def answering_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of question answering, published or our own, in the keys of `models.answer_decoder.AnsweringModel`.

    Published files hold the text encoder without `bert.`. The decoder's tied matrix is left out. Raises WeightsError
    where there is no decoder, or where its word head is not tied.
    """
    bare = bare_names(state)
    decoder = under(_DECODER, bare)
    if not decoder:
        raise WeightsError(
            f"no answer decoder among {len(state)} tensors: these are not weights of question answering",
            hint="weights that question answering has trained; it can start from those of stage 2",
        )
    others = {key: value for key, value in bare.items() if not key.startswith((_TEXT, _DECODER))}
    text, decoder = bert_state(under(_TEXT, bare)), bert_state(decoder)
    return others | _below(_TEXT, text) | _below(_DECODER, decoder)


def answering_start(state: Mapping[str, Tensor], *, text_layers: int) -> dict[str, Tensor]:
    """Weights of stage 2, published or our own, as those from which question answering starts.

    In the keys of `models.answer_decoder.AnsweringModel`, none missing: decoder layer j is layer text_layers + j of the
    text encoder (text_layers: 9 of BERT-base, 19 of BERT-large), and embeddings and word head are copied. The encoders
    stay as they are; what compares videos with texts is left out. Source: METHOD.md, "Question answering".

    Raises WeightsError where there is no text encoder, where there is a decoder already, or where the video is of
    another width than the text: keys and values of the fusion layers are made of the video, those of the decoder of the
    question.
    """
    if has_answer_decoder(state):
        raise WeightsError("these weights have an answer decoder already", hint="weights of stage 2, which has none")
    kept = {key: value for key, value in video_text_state(state).items() if not key.startswith(_NOT_ANSWERING)}
    text = bert_state(under(_TEXT, kept))
    decoder = {}
    for key, value in text.items():
        layer = _BERT_LAYER.fullmatch(key)
        if layer is None:
            decoder[key] = value
        elif int(layer[1]) >= text_layers:
            decoder[f"bert.encoder.layer.{int(layer[1]) - text_layers}.{layer[2]}"] = value
    _require_equal_widths(decoder)
    others = {key: value for key, value in kept.items() if not key.startswith(_TEXT)}
    encoder = {key: value for key, value in text.items() if not key.startswith("cls.")}
    return others | _below(_TEXT, encoder) | _below(_DECODER, decoder)


def _require_equal_widths(decoder: Mapping[str, Tensor]) -> None:
    text = _width(decoder["bert.embeddings.word_embeddings.weight"])
    for key, value in decoder.items():
        if key.endswith("crossattention.self.key.weight") and _width(value) != text:
            raise WeightsError(
                f"fusion layers that look at videos of width {_width(value)} cannot become an answer decoder, which "
                f"looks at text of width {text}",
                hint="a text encoder as wide as the video encoder, as published",
            )


def _width(weight: Tensor) -> int:
    return weight.shape[-1] if weight.dim() else 0


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}
