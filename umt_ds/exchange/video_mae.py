"""The video transformer as transformers' `VideoMAEModel`: the same blocks under other names.

`VideoMAEModel` computes its sinusoid for the tokens of `num_frames` frames of `image_size`, as pretraining does; it has
no room for a stretched table. Biases are written as `q_bias` and `v_bias`, the names of its first checkpoints: every
version of transformers reads them, while those before 5.6 would leave the newer names at zero.

Shapes: B clips, T frames, N tokens of a clip, V of them kept, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from umt_ds.models.layers import NORM_EPS
from umt_ds.models.positions import sincos_table
from umt_ds.models.vit import VideoViT

# our names in a block → theirs in a layer
_PARTS = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def video_mae_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a `VideoViT` with its last norm, in the keys of `VideoMAEModel`."""
    named = {
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
    }
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    for index in range(depth):
        ours, theirs = f"blocks.{index}", f"encoder.layer.{index}"
        for our_part, their_part in _PARTS.items():
            for kind in ("weight", "bias"):
                named[f"{theirs}.{their_part}.{kind}"] = state[f"{ours}.{our_part}.{kind}"]
        attention = f"{theirs}.attention.attention"
        joined = state[f"{ours}.attn.qkv.weight"].chunk(3)
        for part, weight in zip(("query", "key", "value"), joined, strict=True):
            named[f"{attention}.{part}.weight"] = weight
        for old, new in (("q_bias", "query.bias"), ("v_bias", "value.bias")):
            named[f"{attention}.{old}"] = state[f"{ours}.attn.{old}"]
            named[f"{attention}.{new}"] = state[f"{ours}.attn.{old}"].clone()  # safetensors shares no memory
    return {name: value.contiguous() for name, value in named.items()}


def video_mae_config(encoder: VideoViT, *, frames: int, side: int) -> Mapping[str, Any]:
    """Its `config.json`."""
    size = encoder.size
    return {
        "architectures": ["VideoMAEModel"],
        "model_type": "videomae",
        "image_size": side,
        "patch_size": size.patch,
        "num_channels": 3,
        "num_frames": frames,
        "tubelet_size": 1,
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "intermediate_size": int(size.width * size.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": NORM_EPS,
        "qkv_bias": True,
        "use_mean_pooling": False,  # then it has a last norm
        "torch_dtype": "float32",
    }


def masked(keep: Tensor, tokens: int) -> Tensor:
    """`bool_masked_pos`: kept tokens i64 [B,V] → bool [B,N], True where a token is hidden."""
    hidden = torch.ones(len(keep), tokens, dtype=torch.bool)
    return hidden.scatter(1, keep, False)


def has_room_for(encoder: VideoViT, *, frames: int, side: int) -> bool:
    """Whether the class computes the positions of such clips as this encoder has them."""
    own = encoder.position_table(torch.empty(1, frames, side, side, 3, dtype=torch.uint8))
    return torch.equal(own, sincos_table(*own.shape))
