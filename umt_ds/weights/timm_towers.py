"""Weights of image towers in the names of timm, or in those of their authors, which timm itself translates.

Only names and layouts change here, never a number; positions and sizes are the loader's business
(`models.timm_tower.load_timm`). Hugging Face's layouts of SigLIP, DINOv2, DINOv3 and AIMv2 are translated here: its
hub's files have older names than its version 5 gives, and both are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from umt_ds.errors import WeightsError
from umt_ds.weights.names import bare_names, before, renamed, under

_PATCHES = "patch_embed.proj.weight"
_OF_OPEN_CLIP = "trunk."  # the tower of timm inside a CLIP of open_clip
_QKV = re.compile(r"(blocks\.\d+\.attn\.)([qkv])\.(weight|bias)")
_GATED = re.compile(r"(blocks\.\d+\.mlp\.)(gate|up)\.(weight|bias)")
# Queries, keys, values and the layers around them, in both generations of Hugging Face's names.
_ATTENTION = (
    (r"attention\.attention\.(q|k|v)(uery|ey|alue)\.", r"attn.\1."),
    (r"(self_attn|attention)\.(q|k|v)_proj\.", r"attn.\2."),
    (r"attention\.output\.dense\.|(self_attn|attention)\.(out|o)_proj\.", "attn.proj."),
    (r"layer_scale(1|2)\.lambda1", r"ls\1.gamma"),
)


@dataclass(frozen=True)
class _Layout:
    """A layout of Hugging Face's. marker: a tensor that only it has. rules: patterns and what they become, in order."""

    marker: str
    rules: tuple[tuple[str, str], ...]


_SIGLIP = _Layout(
    "embeddings.patch_embedding.bias",
    (
        (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^embeddings\.position_embedding\.weight", "pos_embed"),
        (r"^encoder\.layers\.", "blocks."),
        (r"layer_norm(1|2)\.", r"norm\1."),
        (r"^post_layernorm\.", "norm."),
        (r"^head\.probe", "attn_pool.latent"),
        (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
        (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
        (r"^head\.layernorm\.", "attn_pool.norm."),
        (r"^head\.mlp\.", "attn_pool.mlp."),
        *_ATTENTION,
    ),
)
_DINOV2 = _Layout(
    "embeddings.patch_embeddings.projection.weight",
    (
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings", "pos_embed"),
        (r"^embeddings\.", ""),
        (r"^encoder\.layer\.", "blocks."),
        (r"mlp\.weights_in\.", "mlp.fc1."),
        (r"mlp\.(weights_out|down_proj)\.", "mlp.fc2."),
        (r"mlp\.(gate|up)_proj\.", r"mlp.\1."),
        (r"^layernorm\.", "norm."),
        *_ATTENTION,
    ),
)
_DINOV3 = _Layout(
    "embeddings.patch_embeddings.weight",
    (
        (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
        (r"^embeddings\.register_tokens", "storage_tokens"),
        (r"^embeddings\.", ""),
        (r"^(model\.)?layer\.", "blocks."),
        (r"mlp\.(gate|up)_proj\.", r"mlp.\1."),
        (r"mlp\.down_proj\.", "mlp.fc2."),
        *_ATTENTION,
    ),
)
_AIMV2 = _Layout(
    "embeddings.patch_embed.weight",
    (
        (r"^embeddings\.patch_embed\.", "patch_embed.proj."),
        (r"^embeddings\.rms_norm\.", "patch_embed.norm."),
        (r"^embeddings\.position_embedding\.weight", "pos_embed"),
        (r"^encoder\.layers\.", "blocks."),
        (r"^rms_norm\.", "norm."),
        (r"rms_norm(1|2)\.", r"norm\1."),
        (r"ffn\.gate_proj\.", "mlp.fc1_g."),
        (r"ffn\.up_proj\.", "mlp.fc1_x."),
        (r"ffn\.down_proj\.", "mlp.fc2."),
        *_ATTENTION,
    ),
)


def timm_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An image tower's weights in timm's names (`blocks.0.attn.qkv.weight`), or as their authors published them.

    Takes timm's own files, open_clip's of a CLIP whose tower is timm's (the text tower beside it is dropped), and
    Hugging Face's SigLIP, DINOv2 (with registers too), DINOv3 and AIMv2. All may lie under one more prefix. Raises
    WeightsError where the file holds several towers, or parts of a layer.
    """
    bare = bare_names(state)
    for layout in (_SIGLIP, _DINOV2, _DINOV3, _AIMV2):
        if (prefix := before(layout.marker, bare)) is not None:
            return _translated(under(prefix, bare), layout)
    if (prefix := before(_OF_OPEN_CLIP + _PATCHES, bare)) is not None:
        return under(prefix + _OF_OPEN_CLIP, bare)
    prefix = before(_PATCHES, bare)
    return dict(bare) if prefix is None else under(prefix, bare)


def _translated(state: Mapping[str, Tensor], layout: _Layout) -> dict[str, Tensor]:
    def ours(name: str) -> str:
        for pattern, replacement in layout.rules:
            name = re.sub(pattern, replacement, name)
        return name

    beside = ("text_model.", "logit_", "vision_model.") if layout is _SIGLIP else ()
    named = renamed({name: value for name, value in state.items() if not name.startswith(beside)}, ours)
    named = _joined(_mlp(_pool(named), gate_apart=layout is _DINOV3))
    if "pos_embed" in named and named["pos_embed"].dim() == 2:
        named["pos_embed"] = named["pos_embed"][None]
    return named


def _pool(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SigLIP's pooling head: one product for query, key and value, of which timm has the query's apart."""
    out = dict(state)
    for kind in ("weight", "bias"):
        if (both := out.pop(f"attn_pool.qkv.{kind}", None)) is not None:
            width = len(both) // 3
            out[f"attn_pool.q.{kind}"], out[f"attn_pool.kv.{kind}"] = both[:width], both[width:]
    return out


def _mlp(state: Mapping[str, Tensor], *, gate_apart: bool) -> dict[str, Tensor]:
    """The MLP's first product. A gated one (SwiGLU) is one product of gate and value, or two (gate_apart)."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        match = _GATED.fullmatch(name)
        if match is None:
            out[name] = value
            continue
        layer, part, kind = match.groups()
        other = state.get(f"{layer}{'up' if part == 'gate' else 'gate'}.{kind}")
        if other is None:
            out[f"{layer}fc1.{kind}"] = value
        elif gate_apart:
            out[f"{layer}{'fc1_g' if part == 'gate' else 'fc1_x'}.{kind}"] = value
        elif part == "gate":
            out[f"{layer}fc1.{kind}"] = torch.cat([value, other])
    return out


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values as one product. A key without bias gets zeros, as DINOv3's authors store it."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        match = _QKV.fullmatch(name)
        if match is None:
            out[name] = value
        elif match[2] == "q":
            parts = [state.get(f"{match[1]}{part}.{match[3]}") for part in "qkv"]
            out[f"{match[1]}qkv.{match[3]}"] = _one(parts, name)
    return out


def _one(parts: list[Tensor | None], name: str) -> Tensor:
    query, key, value = parts
    if query is None or value is None or (key is None and query.dim() > 1):
        raise WeightsError(f"{name} has no key or value beside it", hint="weights of one whole image tower")
    return torch.cat([query, torch.zeros_like(query) if key is None else key, value])
