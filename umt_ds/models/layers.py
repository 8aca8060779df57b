"""The parts of the student: patch embedding of visible patches, attention, MLP, block.

Parameter names and arithmetic are those of the published checkpoints.
Source: METHOD.md, "Stage 1: student", "Names of weights".

Shapes: B clips, T frames, h x w patches per frame, N = T·h·w tokens, V visible tokens, p patch side, D width. Blocks
take [B,V,D], or with `lengths` the tokens of clips of any lengths in one row, [L,D].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_ds.errors import ConfigError
from umt_ds.kernels.attention import Lengths, attention, attention_packed
from umt_ds.kernels.embed_visible import embed_visible

NORM_EPS = 1e-6


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of the RGB channels, for values in 0 … 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = PixelStatistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CLIP = PixelStatistics(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)  # open_clip.constants


@lru_cache(maxsize=16)
def _scale_and_shift(statistics: PixelStatistics, device: torch.device) -> tuple[Tensor, Tensor]:
    """value·scale + shift = (value/255 - mean) / std; f32 [3] each. Kept: a copy each step would sync."""
    with torch.inference_mode(False):
        std = torch.tensor(statistics.std, dtype=torch.float64)
        shift = -torch.tensor(statistics.mean, dtype=torch.float64) / std
        return (1 / (255 * std)).float().to(device), shift.float().to(device)


def normalise(pixels: Tensor, statistics: PixelStatistics) -> Tensor:
    """Raw uint8 pixels [..., 3] to f32 of the same shape: /255, minus mean, by standard deviation."""
    scale, shift = _scale_and_shift(statistics, pixels.device)
    return torch.addcmul(shift, pixels.float(), scale)


def float_patches(pixels: Tensor, patch: int, keep: Tensor | None) -> Tensor:
    """The kept patches, or all, of normalised clips: float [B,3,T,H,W], keep i64 [B,V] → [B,V,3·p·p]."""
    cut = torch.unflatten(torch.unflatten(pixels, 4, (-1, patch)), 3, (-1, patch))  # [B,3,T,h,p,w,p]
    grid = cut.permute(0, 2, 3, 5, 1, 4, 6)  # [B,T,h,w,3,p,p]
    if keep is None:
        return grid.flatten(1, 3).flatten(2)
    rows, cols = grid.shape[2:4]
    clip = torch.arange(grid.shape[0], device=keep.device)[:, None]
    return grid[clip, keep // (rows * cols), keep // cols % rows, keep % cols].flatten(2)


class PatchProjection(nn.Conv3d):
    """A Conv3d whose stride is its kernel, applied to the kept patches alone: a gather and one matrix product."""

    def __init__(self, *, width: int, patch: int, statistics: PixelStatistics) -> None:
        kernel = (1, patch, patch)
        super().__init__(3, width, kernel_size=kernel, stride=kernel)
        self.patch, self.statistics = patch, statistics

    def forward(self, input: Tensor, keep: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """uint8 [B,T,H,W,3] or float [B,3,T,H,W], keep i64 [B,V] or None, positions f32 [N,D] → tokens [B,V,D]."""
        weight, bias = self.weight.flatten(1), self.bias
        assert bias is not None
        if input.dtype == torch.uint8:
            mean, std = self.statistics.mean, self.statistics.std
            return embed_visible(input, keep, weight, bias, positions, patch=self.patch, mean=mean, std=std)
        tokens = F.linear(float_patches(input, self.patch, keep).to(weight.dtype), weight, bias)
        if positions is None:
            return tokens
        return tokens + (positions if keep is None else positions[keep]).type_as(tokens)


class PatchEmbed(nn.Module):
    """Pixels to placed tokens, for the visible patches only: the others are neither normalised nor embedded."""

    def __init__(self, *, width: int, patch: int, statistics: PixelStatistics = IMAGENET) -> None:
        super().__init__()
        self.patch = patch
        self.proj = PatchProjection(width=width, patch=patch, statistics=statistics)

    def grid(self, pixels: Tensor) -> tuple[int, int, int]:
        """(T, h, w): frames and patches per side of a clip in either layout.

        Raises ConfigError where height or width is no multiple of the patch.
        """
        raw = pixels.dtype == torch.uint8
        frames = pixels.shape[1 if raw else 2]
        height, width = pixels.shape[2:4] if raw else pixels.shape[3:5]
        if height % self.patch or width % self.patch:
            raise ConfigError(
                f"frames of {height} x {width} pixels cannot be cut into patches of {self.patch} x {self.patch}",
                hint="choose a frame size that is a multiple of the patch size",
            )
        return frames, height // self.patch, width // self.patch

    def forward(self, pixels: Tensor, keep: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """uint8 [B,T,H,W,3] (normalised here) or float [B,3,T,H,W]; keep i64 [B,V]; positions f32 [N,D] → [B,V,D]."""
        tokens: Tensor = self.proj(pixels, keep, positions)
        return tokens


class BiasedLinear(nn.Linear):
    """A bias-free Linear that is handed its bias. Called as a module, so ZeRO-3 gathers the weight."""

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        """[..., D] to [..., out], plus bias [out]."""
        return F.linear(input, self.weight, bias)


class Attention(nn.Module):
    """Joint space-time self-attention with biases for queries and values; the key bias is fixed to zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = BiasedLinear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, lengths: Lengths | None = None) -> Tensor:
        """[B,V,D] to [B,V,D], or [L,D] to [L,D]."""
        query, key, value = self._projected(x)
        mixed = attention(query, key, value) if lengths is None else attention_packed(query, key, value, lengths)
        out: Tensor = self.proj(mixed.flatten(-2))
        return out

    def looked_at(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """How much each token is looked at: the softmax weights, the mean over the heads and over the tokens that look.
        [B,V,D] to f32 [B,V], which sums to 1. rows: i64 [n], of the tokens that look; None: all.

        A head at a time, so that one matrix of weights is in memory.
        """
        query, key, _ = self._projected(x)
        query = query if rows is None else query[:, rows]
        wide = torch.promote_types(x.dtype, torch.float32)
        total = torch.zeros(x.shape[:2], dtype=wide, device=x.device)
        for head in range(self.heads):
            logits = query[:, :, head].to(wide) @ key[:, :, head].to(wide).transpose(1, 2)  # [B,n,V]
            total += (logits / math.sqrt(query.shape[-1])).softmax(dim=-1).mean(dim=1)
        return (total / self.heads).float()

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [B,V,heads,D/heads] each (or [L,heads,D/heads])."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        query, key, value = self.qkv(x, bias).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return query, key, value


class Mlp(nn.Module):
    """Two Linears with exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B,V,D] to [B,V,D]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """One pre-norm transformer block. All blocks of a model run the same code: they differ in their tensors alone, so
    that `torch.compile` compiles one."""

    def __init__(self, *, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, scales: Tensor | None = None, lengths: Lengths | None = None) -> Tensor:
        """[B,V,D] to [B,V,D], or [L,D] to [L,D]. scales f32 [2,B,1,1], or [2,L,1]: of the branches of attention and
        MLP (drop path); None leaves them."""
        of_attention, of_mlp = (None, None) if scales is None else scales.type_as(x).unbind(0)
        x = _add(x, self.attn(self.norm1(x), lengths), of_attention)
        return _add(x, self.mlp(self.norm2(x)), of_mlp)


def _add(x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    """x + scale · branch, the scale broadcast or none."""
    return x + branch if scale is None else torch.addcmul(x, branch, scale)


def initialise_linear(module: nn.Module) -> None:
    """For `Module.apply`: xavier-uniform weights and zero biases of each Linear; all else stays as made.

    That is LayerNorm at 1 and 0, the patch projection at torch's Conv3d default, q_bias and v_bias at 0
    (METHOD.md, "Stage 1: student").
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
