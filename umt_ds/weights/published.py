"""Translate published weights into the names of this project: CLIP teachers, UMT students, BERT, UMT's stage 2.

Only names and layouts change here, never a number. Sizes that do not fit are the loader's business.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from umt_ds.errors import WeightsError

# Hugging Face's name in a CLIP layer → open_clip's (q, k and v apart: they become one in_proj).
_HF_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_HF_TOP = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",  # sic
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
# What old BERT files call the two tensors of a norm.
_OLD_NORM = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Heads and buffers of BERT that nothing here uses; the decoder is the word embeddings once more.
_BERT_UNUSED = ("pooler.", "cls.seq_relationship.", "cls.predictions.decoder.")
_STUDENT_PREFIXES = ("module.", "backbone.")


def teacher_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP file's vision tower in open_clip's keys (`conv1.weight`, `transformer.resblocks.0.…`, `proj`).

    Takes OpenAI's and open_clip's layout, under `visual.` (the text tower beside it is dropped) or bare, as
    the UMT authors extract it, and Hugging Face's CLIPModel or CLIPVisionModelWithProjection. A patch
    embedding inflated to 5-D gives its middle slice. Raises WeightsError for anything else.
    """
    if any("embeddings.patch_embedding." in key for key in state):
        return _from_hugging_face(state)
    visual = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    visual = visual or dict(state)
    if not any(key in visual for key in ("conv1.weight", "trunk.patch_embed.proj.weight")):
        raise WeightsError(
            f"no CLIP vision tower among {len(state)} tensors, the first is {next(iter(state), 'none')!r}",
            hint="expected OpenAI's, open_clip's or Hugging Face's names",
        )
    kernel = visual.get("conv1.weight")
    if kernel is not None and kernel.dim() == 5:
        visual["conv1.weight"] = kernel[:, :, kernel.shape[2] // 2]
    return visual


def text_teacher_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP file's text tower in open_clip's keys; OpenAI's and open_clip's layout, where it lies beside `visual.`."""
    other = ("visual.", "logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size")
    return {key.removeprefix("text."): value for key, value in state.items() if not key.startswith(other)}


def _from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's CLIP vision tower; transformers 5 names it with and without `vision_model.`."""
    named = any(key.startswith("vision_model.") for key in state)
    source = {
        key.removeprefix("vision_model."): value
        for key, value in state.items()
        if key.startswith("vision_model.") or not named
    }
    if "visual_projection.weight" not in state:
        raise WeightsError(
            "the Hugging Face file has no visual_projection: a bare CLIPVisionModel",
            hint="save CLIPModel or CLIPVisionModelWithProjection instead",
        )
    tower = {ours: source[theirs] for theirs, ours in _HF_TOP.items()}
    tower["proj"] = state["visual_projection.weight"].T
    layers = {key.split(".")[2] for key in source if key.startswith("encoder.layers.")}
    for index in sorted(layers, key=int):
        theirs, ours = f"encoder.layers.{index}", f"transformer.resblocks.{index}"
        for kind in ("weight", "bias"):
            parts = [source[f"{theirs}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            tower[f"{ours}.attn.in_proj_{kind}"] = torch.cat(parts)
            for their_name, our_name in _HF_LAYER.items():
                tower[f"{ours}.{our_name}.{kind}"] = source[f"{theirs}.{their_name}.{kind}"]
    return tower


def student_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published stage-1 student in the keys of `AlignmentModel`: `encoder.…` and `clip_decoder.k.…`.

    Takes the pretraining file, the same under `module.` or `backbone.`, or a bare encoder (`blocks.…`).
    Raises WeightsError where there is no video transformer.
    """
    for prefix in _STUDENT_PREFIXES:
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    named = {
        key if key.startswith(("encoder.", "clip_decoder.")) else f"encoder.{key}": value
        for key, value in state.items()
    }
    if "encoder.patch_embed.proj.weight" not in named:
        raise WeightsError(
            f"no UMT student among {len(state)} tensors, the first is {next(iter(state), 'none')!r}",
            hint="expected patch_embed.proj.weight, bare or under encoder. or backbone.",
        )
    return named


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder of a published student in the keys of `VideoViT`; its decoders are left out."""
    return {
        key.removeprefix("encoder."): value for key, value in student_state(state).items() if key.startswith("encoder.")
    }


def bert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A BERT file of Hugging Face in the keys of `models.bert.Bert`: `bert.…`, and `cls.…` where it has a word head.

    Takes BertForPreTraining, BertForMaskedLM and the bare BertModel; pooler and next-sentence head are left out.
    Raises WeightsError where there is no BERT.
    """
    named = {}
    for key, value in state.items():
        for old, new in _OLD_NORM.items():
            key = key.replace(old, new)
        bare = key.removeprefix("bert.")
        if bare.startswith(_BERT_UNUSED) or key.endswith("position_ids"):
            continue
        named[key if key.startswith("cls.") else f"bert.{bare}"] = value
    if "bert.embeddings.word_embeddings.weight" not in named:
        raise WeightsError(
            f"no BERT among {len(state)} tensors, the first is {next(iter(state), 'none')!r}",
            hint="expected the names of Hugging Face's BertModel or BertForMaskedLM",
        )
    return named


def is_video_text(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of stage 2, published or our own, and not of a student alone."""
    return any(key.removeprefix("module.").startswith("vision_encoder.") for key in state)


def video_text_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of stage 2, published or our own, in the keys of `models.video_text.VideoTextModel`.

    The teacher that published files hold is left out, and the tied decoder; the temperature gets its dimension.
    """
    named = {key.removeprefix("module."): value for key, value in state.items()}
    kept = {
        key: value
        for key, value in named.items()
        if not key.startswith(("clip_teacher.", "text_encoder.cls.predictions.decoder."))
        and not key.endswith("position_ids")
    }
    if "temp" in kept:
        kept["temp"] = kept["temp"].reshape(1)
    return kept
