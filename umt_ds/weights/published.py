"""Translate published weights into the names of this project: CLIP teachers and UMT students.

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
