"""The towers a teacher can be, opened up so that only what is needed is computed.

`ClipBlock` keeps the parameters of open_clip's block under their names and does the same sum with less work. The
last block is special: its keys and values are computed for all tokens, then it is left *begun* (`LastBlock`), because
the class token's attention decides for which tokens the rest is needed.

Shapes: F frames, S patches per frame, P prefix tokens (a class token: 1), N = P + S tokens, W width, C output width,
v kept tokens per frame, d = W / heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_ds.kernels.attention import attention
from umt_ds.kernels.embed_visible import embed_visible
from umt_ds.kernels.fp8 import Fp8Weight, fp8_linear, quantise
from umt_ds.models.layers import PixelStatistics
from umt_ds.models.presets import VitSize

_QUICK = 1.702  # QuickGELU: x·sigmoid(1.702 x)


class LastBlock(Protocol):
    """The last block of a tower, begun on all frames."""

    def class_attention(self) -> Tensor:
        """The class token's attention to each patch: f32 [F,S]."""

    def output(self, rows: Tensor | None) -> Tensor:
        """What the block makes of all tokens [F,N,W], or of `rows` i64 [F,v] (prefix tokens counted) only: [F,v,W]."""


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

    def class_attention(self) -> Tensor:
        """Softmax over the patches and the class token, mean over the heads, class column dropped: f32 [F,S].

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

    def __init__(self, visual: Any, *, quick_gelu: bool) -> None:
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
        self.out_width: int = visual.proj.shape[1]
        # Towers that average the patches never read their class token: its attention means nothing.
        self.has_class_token: bool = visual.pool_type == "tok"
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

    def last_block(self, x: Tensor) -> ClipLastBlock:
        """Begin the last block on x [F,N,W]."""
        block: ClipBlock = self.blocks[-1]
        normed = block.ln_1(x)
        return ClipLastBlock(block, x, normed, *block.key_value(normed))

    def project(self, x: Tensor) -> Tensor:
        """Block outputs [..., W] into the space shared with text [..., C]."""
        out: Tensor = self.visual.ln_post(x) @ self.visual.proj
        return out


@dataclass(frozen=True)
class SiglipLastBlock:
    """The last block of a tower without class token, not yet run: no mask is drawn from its attention."""

    block: nn.Module
    x: Tensor

    def class_attention(self) -> Tensor:
        raise AssertionError("asked a tower without class token for its attention")

    def output(self, rows: Tensor | None) -> Tensor:
        """As `LastBlock.output`."""
        out: Tensor = self.block(self.x)
        return out if rows is None else out[torch.arange(len(out), device=out.device)[:, None], rows]


class SiglipTower(nn.Module):
    """A timm VisionTransformer without class token or projection (SigLIP): normed block outputs."""

    prefix_tokens = 0
    has_class_token = False

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual
        trunk = visual.trunk
        self.size = VitSize(
            width=trunk.embed_dim,
            depth=len(trunk.blocks),
            heads=trunk.blocks[0].attn.num_heads,
            patch=trunk.patch_embed.patch_size[0],
            mlp_ratio=trunk.blocks[0].mlp.fc1.out_features / trunk.embed_dim,
        )
        self.image_size: tuple[int, int] = trunk.patch_embed.img_size
        self.grid: tuple[int, int] = trunk.patch_embed.grid_size
        self.patches = self.grid[0] * self.grid[1]
        self.out_width: int = trunk.embed_dim
        self.blocks: Any = trunk.blocks

    def embed_images(self, images: Tensor) -> Tensor:
        """Normalised images [F,3,H,W] to the input of the first block [F,S,W]."""
        trunk = self.visual.trunk
        out: Tensor = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(images)))
        return out

    def last_block(self, x: Tensor) -> SiglipLastBlock:
        """The last block on x [F,S,W]."""
        return SiglipLastBlock(self.blocks[-1], x)

    def project(self, x: Tensor) -> Tensor:
        """Block outputs [..., W], normed."""
        out: Tensor = self.visual.trunk.norm(x)
        return out
