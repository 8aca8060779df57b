"""CLIP's tower, opened up so that only what is needed is computed, and what all towers of teachers have in common.

`ClipBlock` keeps the parameters of open_clip's block under their names and does the same sum with less work. The
last block is special: its keys and values are computed for all tokens, then it is left *begun* (`LastBlock`), because
the class token's attention decides for which tokens the rest is needed.

Shapes: F frames, S patches per frame, P prefix tokens (a class token: 1), N = P + S tokens, W width, C output width,
v kept tokens per frame, d = W / heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_ds.errors import ConfigError
from umt_ds.kernels.attention import attention
from umt_ds.kernels.embed_visible import embed_visible
from umt_ds.kernels.fp8 import Fp8Weight, fp8_linear, quantise
from umt_ds.models.layers import CLIP, PixelStatistics
from umt_ds.models.presets import VitSize

_QUICK = 1.702  # QuickGELU: x·sigmoid(1.702 x)


Features = Literal["projected", "tokens"]
"""What a tower says of a token: behind its projection into the space shared with text, or before it (normed)."""
MapSource = Literal["class token", "pooling head"]
"""Whose attention to the patches semantic masks are drawn from."""


class LastBlock(Protocol):
    """The last block of a tower, begun on all frames."""

    def attention(self) -> Tensor:
        """The map that masks are drawn from, of towers that have one: f32 [F,S]."""

    def output(self, rows: Tensor | None) -> Tensor:
        """What the block makes of all tokens [F,N,W], or of `rows` i64 [F,v] (prefix tokens counted) only: [F,v,W]."""


@dataclass(frozen=True)
class TimmModel:
    """A model of timm as open_clip or a user names it.

    outputs: width of a projection behind the pooling, 0 for none. global_pool: how it pools, None for its own way.
    image_size: the side it looks at, None for its own.
    """

    name: str
    outputs: int = 0
    global_pool: str | None = None
    image_size: int | None = None


def cannot_teach(name: str, size: str = "") -> ConfigError:
    """What is said of models whose tokens cannot be read."""
    return ConfigError(
        f"teacher {name!r}{size} does not give one feature per patch that this project can read",
        hint="an open_clip ViT without attention pooling, or a VisionTransformer, Eva or Beit of timm "
        "(METHOD.md, Teachers of other families)",
    )


def choose_features(wanted: Features | None, *, name: str, has_projection: bool, why: str) -> Features:
    """The features of a tower: as wanted, or else projected where it can. Raises ConfigError for a projection that it
    has not; why: the reason."""
    if wanted == "projected" and not has_projection:
        raise ConfigError(
            f"features=projected, but {name} has no projection of a token: {why}",
            hint="features=tokens, its outputs before any projection",
        )
    return wanted or ("projected" if has_projection else "tokens")


class ClipBlock(nn.Module):
    """A block of open_clip's VisionTransformer: pre-norm attention and MLP, frozen.

    The same sums as open_clip's own, in fewer passes over memory: query, key and value are strided views of one
    product, and QuickGELU is SiLU between two products that carry its factors: x·sigmoid(a·x) = silu(a·x) / a.
    """

    def __init__(self, block: Any, *, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ls_1 = block.ln_1, block.attn, block.ls_1
        self.ln_2, self.mlp, self.ls_2 = block.ln_2, block.mlp, block.ls_2
        self.heads: int = block.attn.num_heads
        self.quick_gelu = quick_gelu
        self._fp8: dict[str, Fp8Weight] = {}

    def forward(self, x: Tensor) -> Tensor:
        """[F,N,W] to [F,N,W]."""
        weight, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
        query, key, value = self._heads(self._product("qkv", self.ln_1(x), weight, bias), 3)
        return self.finish(x, query, key, value)

    def query(self, normed: Tensor) -> Tensor:
        """Normed tokens [F,n,W] to queries [F,n,heads,d]."""
        width = normed.shape[-1]
        weight, bias = self.attn.in_proj_weight[:width], self.attn.in_proj_bias[:width]
        return self._heads(F.linear(normed, weight, bias), 1)[0]

    def key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Normed tokens [F,N,W] to keys and values [F,N,heads,d]."""
        width = normed.shape[-1]
        weight, bias = self.attn.in_proj_weight[width:], self.attn.in_proj_bias[width:]
        key, value = self._heads(F.linear(normed, weight, bias), 2)
        return key, value

    def finish(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The rest of the block for tokens x [F,n,W] with their queries, over all keys and values: [F,n,W]."""
        mixed = attention(query, key, value).flatten(2)
        x = x + self.ls_1(self._product("out", mixed, self.attn.out_proj.weight, self.attn.out_proj.bias))
        up, down = self.mlp.c_fc, self.mlp.c_proj
        normed = self.ln_2(x)
        if self.quick_gelu:
            hidden = F.silu(self._product("up", normed, up.weight, up.bias, scale=_QUICK), inplace=True)
            branch = self._product("down", hidden, down.weight, down.bias, input_scale=1 / _QUICK)
        else:
            hidden = self.mlp.gelu(self._product("up", normed, up.weight, up.bias))
            branch = self._product("down", hidden, down.weight, down.bias)
        out: Tensor = x + self.ls_2(branch)
        return out

    def quantise(self) -> None:
        """From now on multiply in FP8 (`kernels.fp8`); the weights stay as they are beside it."""
        self._fp8 = {
            "qkv": quantise(self.attn.in_proj_weight),
            "out": quantise(self.attn.out_proj.weight),
            "up": quantise(self.mlp.c_fc.weight),
            "down": quantise(self.mlp.c_proj.weight),
        }

    def _product(
        self, name: str, x: Tensor, weight: Tensor, bias: Tensor, *, scale: float = 1.0, input_scale: float = 1.0
    ) -> Tensor:
        """scale · (input_scale · x · weightᵀ + bias): [F,n,in] to [F,n,out]. The factors cost the product nothing."""
        bias = bias if scale == 1.0 else bias * scale
        if name in self._fp8:
            return fp8_linear(x, self._fp8[name], bias, scale=scale * input_scale)
        out = torch.addmm(bias, x.flatten(0, 1), weight.t(), alpha=scale * input_scale)
        return out.view(*x.shape[:2], -1)

    def _heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[F,n,parts·W] as `parts` views [F,n,heads,d]."""
        return torch.unflatten(projected, -1, (parts, self.heads, -1)).unbind(2)


@dataclass(frozen=True)
class ClipLastBlock:
    """A CLIP tower's last block, begun: x and its norm [F,N,W], keys and values [F,N,heads,d]."""

    block: ClipBlock
    x: Tensor
    normed: Tensor
    key: Tensor
    value: Tensor

    def attention(self) -> Tensor:
        """The class token's: softmax over patches and class token, mean over heads, class column dropped: f32 [F,S].

        Rows sum to less than 1, as published. Logits and softmax are fp32 (fp64 for fp64 weights) under any
        autocast: product and sum, no matmul.
        """
        query = self.block.query(self.normed[:, :1])
        wide = torch.promote_types(query.dtype, torch.float32)
        logits = (query.to(wide) * self.key).sum(dim=-1) / math.sqrt(query.shape[-1])  # [F,N,heads]
        return logits.softmax(dim=1).mean(dim=-1)[:, 1:]

    def output(self, rows: Tensor | None) -> Tensor:
        """As `LastBlock.output`."""
        x, normed = self.x, self.normed
        if rows is not None:
            frame = torch.arange(len(x), device=x.device)[:, None]
            x, normed = x[frame, rows], normed[frame, rows]
        return self.block.finish(x, self.block.query(normed), self.key, self.value)


class ClipTower(nn.Module):
    """open_clip's VisionTransformer (OpenAI CLIP, LAION, DataComp, DFN, MetaCLIP, CLIPA, …)."""

    prefix_tokens = 1
    is_lean = True
    embeds_pixels = True
    left_out: tuple[str, ...] = ()

    def __init__(
        self,
        visual: Any,
        *,
        quick_gelu: bool,
        name: str = "CLIP",
        features: Features | None = None,
        statistics: PixelStatistics | None = CLIP,
    ) -> None:
        super().__init__()
        blocks = visual.transformer.resblocks
        for index, block in enumerate(blocks):
            blocks[index] = ClipBlock(block, quick_gelu=quick_gelu)
        self.visual = visual
        mlp_ratio = blocks[0].mlp.c_fc.out_features / visual.transformer.width
        self.size = VitSize(
            width=visual.transformer.width,
            depth=len(blocks),
            heads=blocks[0].heads,
            patch=visual.patch_size[0],
            mlp_ratio=mlp_ratio,
        )
        self.image_size: tuple[int, int] = visual.image_size
        self.grid: tuple[int, int] = visual.grid_size
        self.patches = self.grid[0] * self.grid[1]
        self.name, self.own_pixels = name, statistics
        self.features: Features = choose_features(features, name=name, has_projection=True, why="")
        self.embed_width: int = visual.proj.shape[1]
        self.projected_width: int = visual.proj.shape[1] if self.features == "projected" else 0
        self.out_width: int = self.projected_width or self.size.width
        # Towers that average the patches never read their class token: its attention means nothing.
        self.map_source: MapSource | None = "class token" if visual.pool_type == "tok" else None
        self.blocks: Any = blocks

    def embed_pixels(self, pixels: Tensor, statistics: PixelStatistics) -> Tensor:
        """uint8 clips [B,T,H,W,3] of the tower's size to the input of the first block [F,N,W]."""
        weight = self.visual.conv1.weight
        patches = embed_visible(
            pixels, None, weight.flatten(1), weight.new_zeros(len(weight)), None,
            patch=self.size.patch, mean=statistics.mean, std=statistics.std,
        )  # fmt: skip
        return self._with_class_token(patches.reshape(-1, self.patches, self.size.width))

    def embed_images(self, images: Tensor) -> Tensor:
        """Normalised images [F,3,H,W] to the input of the first block [F,N,W]."""
        return self._with_class_token(self.visual.conv1(images).flatten(2).transpose(1, 2))

    def _with_class_token(self, patches: Tensor) -> Tensor:
        visual = self.visual
        class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([class_token, patches], dim=1)
        out: Tensor = visual.ln_pre(tokens + visual.positional_embedding.to(tokens.dtype))
        return out

    def contexts(self) -> dict[str, Tensor | None]:
        """What each block wants beside its input: nothing."""
        return {}

    def last_block(self, x: Tensor) -> ClipLastBlock:
        """Begin the last block on x [F,N,W]."""
        block: ClipBlock = self.blocks[-1]
        normed = block.ln_1(x)
        return ClipLastBlock(block, x, normed, *block.key_value(normed))

    def project(self, x: Tensor) -> Tensor:
        """Block outputs [..., W], normed, and where asked for projected into the space shared with text: [..., C]."""
        normed: Tensor = self.visual.ln_post(x)
        return normed @ self.visual.proj if self.features == "projected" else normed

    def frame_embedding(self, last: LastBlock, frames: int) -> Tensor:
        """What CLIP compares with captions: the projection of the class token, or the mean of all projected patches in
        towers that do not read theirs. [F,C]."""
        visual = self.visual
        if self.map_source is None:
            tokens = last.output(None)[:, self.prefix_tokens :]  # [F,S,W]
        else:
            tokens = last.output(torch.zeros(frames, 1, dtype=torch.int64, device=visual.proj.device))  # [F,1,W]
        embedded: Tensor = visual.ln_post(tokens) @ visual.proj
        return embedded.float().mean(dim=1)
