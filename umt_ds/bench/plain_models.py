"""Student and teacher of stage 1 as published, in plain torch: see `plain.py`.

Source: METHOD.md, "Stage 1: student", "Teacher".

Shapes: B clips, T frames, S patches per frame, N = T·S tokens, V visible ones, K aligned layers, F = B·T frames in a
row, D student width, W teacher width, C width of the targets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from umt_ds.models.positions import sincos_table
from umt_ds.models.presets import VitSize
from umt_ds.models.vit import tap_layers

# ---------------------------------------------------------------- student


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """timm's: drop the branch [B,V,D] of some clips, scale the others'."""
    if rate == 0.0 or not training:
        return branch
    kept = branch.new_empty(len(branch), 1, 1).bernoulli_(1 - rate)
    return branch * kept.div_(1 - rate)


class PlainAttention(nn.Module):
    """softmax(q·kᵀ)·v with its matrix [B,heads,V,V] in memory; no bias for keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B,V,D] to [B,V,D]."""
        clips, tokens, _ = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).reshape(clips, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]  # [B,heads,V,D/heads] each
        weights = (query * self.scale @ key.transpose(-2, -1)).softmax(dim=-1)  # [B,heads,V,V]
        out: Tensor = self.proj((weights @ value).transpose(1, 2).reshape(clips, tokens, -1))
        return out


class PlainMlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B,V,D] to [B,V,D]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class PlainBlock(nn.Module):
    def __init__(self, size: VitSize, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.norm1 = nn.LayerNorm(size.width, eps=1e-6)
        self.attn = PlainAttention(size.width, size.heads)
        self.norm2 = nn.LayerNorm(size.width, eps=1e-6)
        self.mlp = PlainMlp(size.width, int(size.width * size.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """[B,V,D] to [B,V,D]."""
        x = x + drop_path(self.attn(self.norm1(x)), self.drop_rate, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_rate, self.training)


class PlainPatchEmbed(nn.Module):
    def __init__(self, size: VitSize) -> None:
        super().__init__()
        kernel = (1, size.patch, size.patch)
        self.proj = nn.Conv3d(3, size.width, kernel_size=kernel, stride=kernel)

    def forward(self, video: Tensor) -> Tensor:
        """[B,3,T,H,W] to all tokens [B,N,D]."""
        out: Tensor = self.proj(video).flatten(2).transpose(1, 2)
        return out


class PlainEncoder(nn.Module):
    def __init__(self, size: VitSize, *, taps: tuple[int, ...], drop_rate: float, checkpoint_blocks: int) -> None:
        super().__init__()
        self.width, self.taps, self.checkpoint_blocks = size.width, taps, checkpoint_blocks
        self.patch_embed = PlainPatchEmbed(size)
        rates = torch.linspace(0, drop_rate, size.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(PlainBlock(size, rate) for rate in rates)
        self.norm = nn.LayerNorm(size.width, eps=1e-6)

    def forward(self, video: Tensor, mask: Tensor, table: Tensor) -> Tensor:
        """[B,3,T,H,W], mask bool [B,N], table [1,N,D] to normed taps [K,B,V,D]."""
        x = self.patch_embed(video)
        x = x + table.type_as(x)
        x = x[~mask].reshape(len(x), -1, x.shape[-1])  # [B,V,D]
        tapped = []
        for index, block in enumerate(self.blocks):
            x = checkpoint(block, x, use_reentrant=False) if index < self.checkpoint_blocks else block(x)
            if index in self.taps:
                tapped.append(x)
        out: Tensor = self.norm(torch.stack(tapped))
        return out


class PlainDecoder(nn.Module):
    def __init__(self, width: int, out_width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.head = nn.Linear(width, out_width)
        self.norm = nn.LayerNorm(out_width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """[B,V,D] to unit vectors [B,V,C]."""
        out: Tensor = self.norm(self.head(x))
        unit: Tensor = out / out.norm(dim=-1, keepdim=True)
        return unit


class PlainStudent(nn.Module):
    """METHOD.md, "Stage 1: student": encoder, and a decoder for each aligned layer."""

    def __init__(
        self,
        size: VitSize,
        *,
        tokens: int,
        out_width: int,
        layers: int,
        interval: float = 1.0,
        drop_rate: float = 0.0,
        checkpoint_blocks: int = 0,
        decoder_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        taps = tap_layers(size.depth, layers, interval)
        self.encoder = PlainEncoder(size, taps=taps, drop_rate=drop_rate, checkpoint_blocks=checkpoint_blocks)
        self.clip_decoder = nn.ModuleList(PlainDecoder(size.width, out_width, decoder_eps) for _ in range(layers))
        self.table = sincos_table(tokens, size.width)[None]  # [1,N,D]; a buffer would be sent around by DDP

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        """f32 [B,3,T,H,W], mask bool [B,N], True where hidden, to unit vectors [K,B,V,C]."""
        return self.decode(self.encode(video, mask), mask)

    def encode(self, video: Tensor, mask: Tensor) -> Tensor:
        """To normed taps [K,B,V,D], the last output last."""
        self.table = self.table.to(video.device)  # once
        taps: Tensor = self.encoder(video, mask, self.table[:, : mask.shape[1]])
        return taps

    def decode(self, taps: Tensor, mask: Tensor) -> Tensor:
        """Normed taps [K,B,V,D] to unit vectors [K,B,V,C]."""
        layers, clips, _, width = taps.shape
        table = self.table[:, : mask.shape[1]]
        placed = table.repeat(clips, 1, 1).type_as(taps)[~mask].view(clips, -1, width)
        placed = taps + placed.unsqueeze(0).repeat(layers, 1, 1, 1)
        return torch.stack([decoder(placed[k]) for k, decoder in enumerate(self.clip_decoder)])


# ---------------------------------------------------------------- teacher


class WideNorm(nn.LayerNorm):
    """LayerNorm in fp32, whatever comes in."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).type(input.dtype)


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class PlainTeacherMlp(nn.Module):
    def __init__(self, size: VitSize, quick_gelu: bool) -> None:
        super().__init__()
        hidden = int(size.width * size.mlp_ratio)
        self.c_fc = nn.Linear(size.width, hidden)
        self.gelu = QuickGelu() if quick_gelu else nn.GELU()
        self.c_proj = nn.Linear(hidden, size.width)

    def forward(self, x: Tensor) -> Tensor:
        """[L,F,W] to [L,F,W]."""
        out: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return out


class PlainTeacherBlock(nn.Module):
    def __init__(self, size: VitSize, quick_gelu: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(size.width, size.heads)
        self.ln_1 = WideNorm(size.width)
        self.mlp = PlainTeacherMlp(size, quick_gelu)
        self.ln_2 = WideNorm(size.width)

    def forward(self, x: Tensor, *, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        """[L,F,W] to the same, and attention averaged over heads [F,L,L] if asked for."""
        normed = self.ln_1(x)
        mixed, weights = self.attn(normed, normed, normed, need_weights=need_weights)
        x = x + mixed
        return x + self.mlp(self.ln_2(x)), weights


class PlainTransformer(nn.Module):
    def __init__(self, size: VitSize, *, taps: tuple[int, ...], quick_gelu: bool) -> None:
        super().__init__()
        self.taps = taps
        self.resblocks = nn.ModuleList(PlainTeacherBlock(size, quick_gelu) for _ in range(size.depth))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[L,F,W] to tapped outputs [K,L,F,W] and the last block's attention [F,L,L]."""
        tapped, weights = [], None
        for index, block in enumerate(self.resblocks):
            x, weights = block(x, need_weights=index == len(self.resblocks) - 1)
            if index in self.taps:
                tapped.append(x)
        assert weights is not None
        return torch.stack(tapped), weights


class PlainTeacher(nn.Module):
    """METHOD.md, "Teacher": CLIP's image tower on all tokens of all frames, as published."""

    def __init__(
        self,
        size: VitSize,
        *,
        image_size: int,
        out_width: int,
        layers: int,
        interval: float = 1.0,
        quick_gelu: bool = True,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        kernel = (1, size.patch, size.patch)
        self.conv1 = nn.Conv3d(3, size.width, kernel_size=kernel, stride=kernel, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(size.width))
        self.positional_embedding = nn.Parameter(torch.zeros((image_size // size.patch) ** 2 + 1, size.width))
        self.ln_pre = WideNorm(size.width)
        taps = tap_layers(size.depth, layers, interval)
        self.transformer = PlainTransformer(size, taps=taps, quick_gelu=quick_gelu)
        self.ln_post = WideNorm(size.width)
        self.proj = nn.Parameter(torch.zeros(size.width, out_width))

    @torch.no_grad()
    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """f32 [B,3,T,H,W] to unit vectors of all tokens [K,B,N,C] and the class token's attention [B·T,S]."""
        x = self.conv1(self._resized(video))
        clips, width, frames, rows, cols = x.shape
        x = x.permute(0, 2, 3, 4, 1).reshape(clips * frames, rows * cols, width)
        class_token = self.class_embedding.to(x.dtype) + x.new_zeros(len(x), 1, width)
        x = self.ln_pre(torch.cat([class_token, x], dim=1) + self.positional_embedding.to(x.dtype))
        tapped, weights = self.transformer(x.permute(1, 0, 2))  # [K,1+S,B·T,W]
        tapped = self.ln_post(tapped[:, 1:])
        tapped = tapped.view(len(tapped), rows * cols, clips, frames, width).permute(0, 2, 3, 1, 4)
        features = tapped.reshape(len(tapped), clips, frames * rows * cols, width) @ self.proj
        return features / features.norm(dim=-1, keepdim=True), weights[:, 0, 1:]

    def _resized(self, video: Tensor) -> Tensor:
        """At the side that the tower sees: bicubic, no antialias."""
        if video.shape[-1] == self.image_size:
            return video
        clips, _, frames, height, width = video.shape
        flat = video.reshape(clips, 3 * frames, height, width)
        flat = F.interpolate(flat, size=(self.image_size, self.image_size), mode="bicubic", align_corners=False)
        return flat.view(clips, 3, frames, self.image_size, self.image_size)
