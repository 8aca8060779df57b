"""The last block of a timm tower, begun: what masks are drawn from is computed first, and the rest for kept tokens.

All of timm's image transformers here differ in how queries, keys and values are made (one product or three, biases,
norms, rotary positions, relative positions) and in what is done to a branch (scale, norm, gate). `OpenBlock` says those
once, for any rows; everything but the attention works on each token alone, so a block of kept rows is the same sum.

Seen: timm 1.0.31 (`timm.models.vision_transformer`, `eva`, `beit`).

Shapes: F frames, S patches per frame, P prefix tokens (class, registers), N = P + S tokens, n rows of them, W width,
h heads, d = width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionPoolLatent, AttentionRope, apply_rot_embed_cat
from timm.models import beit, eva, vision_transformer
from torch import Tensor

from umt_ds.kernels.attention import attention

_BLOCKS = (vision_transformer.Block, eva.EvaBlock, eva.EvaBlockPostNorm, beit.Block)
_ATTENTIONS = (Attention, AttentionRope, eva.EvaAttention, beit.Attention)


def can_open(block: Any) -> bool:
    """Whether the sums of a timm block are known here; a subclass may compute others."""
    return type(block) in _BLOCKS and type(block.attn) in _ATTENTIONS


@dataclass(frozen=True)
class OpenBlock:
    """A block whose queries may be fewer than its keys: the same sums as timm's own forward."""

    block: Any

    def source(self, x: Tensor) -> Tensor:
        """What queries, keys and values are made of: x [F,N,W], normed unless the norm stands behind the branch."""
        normed: Tensor = x if self._norm_is_behind else self.block.norm1(x)
        return normed

    def query(self, source: Tensor, rope: Tensor | None) -> Tensor:
        """[F,n,W] with the rotations of these rows, [n,2d] or [F,n,2d], to [F,n,h,d]."""
        attn = self.block.attn
        query = torch.unflatten(self._product(source, 0, 1), -1, (attn.num_heads, -1))
        return self._turned(self._head_norm("q_norm", query), rope)

    def key_value(self, source: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor]:
        """[F,N,W] to keys and values [F,N,h,d]."""
        attn = self.block.attn
        heads = attn.num_kv_heads if isinstance(attn, AttentionRope) else attn.num_heads
        key, value = torch.unflatten(self._product(source, 1, 3), -1, (2, heads, -1)).unbind(2)
        key = self._turned(self._head_norm("k_norm", key), rope)
        shared = attn.num_heads // heads  # grouped queries: several heads share a key
        if shared > 1:
            key, value = key.repeat_interleave(shared, dim=2), value.repeat_interleave(shared, dim=2)
        return key, value

    def finish(self, x: Tensor, source: Tensor, heads: Tensor) -> Tensor:
        """The rest of the block for tokens x [F,n,W] with the mixed values of their heads [F,n,h,d]: [F,n,W]."""
        block, attn = self.block, self.block.attn
        mixed = heads.flatten(2)
        if not isinstance(attn, beit.Attention):
            mixed = attn.norm(mixed)
            if attn.gate is not None:
                mixed = mixed * attn.gate(source).sigmoid()
        branch = attn.proj(mixed)
        if self._norm_is_behind:
            x = x + block.norm1(branch)
            out: Tensor = x + block.norm2(block.mlp(x))
            return out
        x = x + self._scaled(1, branch)
        return x + self._scaled(2, block.mlp(block.norm2(x)))

    def bias(self, shared: Tensor | None) -> Tensor | None:
        """What is added to the logits for the places of query and key (BEiT): [h,N,N], or None."""
        attn = self.block.attn
        if not isinstance(attn, beit.Attention) or attn.relative_position_bias_table is None:
            return shared
        own: Tensor = attn._get_rel_pos_bias()[0]
        return own if shared is None else own + shared

    @property
    def _norm_is_behind(self) -> bool:
        return isinstance(self.block, eva.EvaBlockPostNorm)

    def _product(self, x: Tensor, first: int, last: int) -> Tensor:
        """Parts first to last of queries, keys and values, side by side: [F,n,W] to [F,n,(last - first)·h·d]."""
        attn = self.block.attn
        if attn.qkv is None:
            return torch.cat([part(x) for part in (attn.q_proj, attn.k_proj, attn.v_proj)[first:last]], dim=-1)
        width = attn.qkv.out_features // 3
        rows = slice(first * width, last * width)
        if isinstance(attn, eva.EvaAttention | beit.Attention):
            bias = None if attn.q_bias is None else torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        else:
            bias = attn.qkv.bias
        return F.linear(x, attn.qkv.weight[rows], None if bias is None else bias[rows])

    def _head_norm(self, name: str, heads: Tensor) -> Tensor:
        """The norm of queries or keys; BEiT has none."""
        attn = self.block.attn
        if isinstance(attn, beit.Attention):
            return heads
        out: Tensor = (attn.q_norm if name == "q_norm" else attn.k_norm)(heads)
        return out

    def _turned(self, heads: Tensor, rope: Tensor | None) -> Tensor:
        """Rotary positions, [F,n,h,d] to the same; in fp32 where the table is."""
        if rope is None:
            return heads
        half = bool(self.block.attn.rotate_half)
        turned: Tensor = apply_rot_embed_cat(heads, rope.unsqueeze(-2), half=half)
        return turned.type_as(heads)

    def _scaled(self, branch: int, x: Tensor) -> Tensor:
        """LayerScale of a branch, however the block calls it."""
        block = self.block
        if isinstance(block, vision_transformer.Block):
            out: Tensor = (block.ls1 if branch == 1 else block.ls2)(x)
            return out
        gamma = block.gamma_1 if branch == 1 else block.gamma_2
        return x if gamma is None else gamma * x


@dataclass(frozen=True)
class OpenLastBlock:
    """A last block of known sums, begun: x and source [F,N,W], keys and values [F,N,h,d], rotations [N,2d], bias."""

    block: OpenBlock
    prefix_tokens: int
    x: Tensor
    source: Tensor
    key: Tensor
    value: Tensor
    rope: Tensor | None
    bias: Tensor | None

    @staticmethod
    def begun(
        block: OpenBlock, x: Tensor, *, prefix_tokens: int, rope: Tensor | None, bias: Tensor | None
    ) -> OpenLastBlock:
        """Keys and values of all tokens x [F,N,W]."""
        source = block.source(x)
        key, value = block.key_value(source, rope)
        return OpenLastBlock(block, prefix_tokens, x, source, key, value, rope, bias)

    def attention(self) -> Tensor:
        """The class token's (token 0): softmax over all tokens, mean over heads, prefix columns dropped: f32 [F,S].

        Logits and softmax are fp32 (fp64 for fp64 weights) under any autocast: product and sum, no matmul.
        """
        query = self.block.query(self.source[:, :1], None if self.rope is None else self.rope[:1])
        wide = torch.promote_types(query.dtype, torch.float32)
        logits = (query.to(wide) * self.key).sum(dim=-1) / math.sqrt(query.shape[-1])  # [F,N,h]
        if self.bias is not None:
            logits = logits + self.bias[:, 0].to(wide).T
        return logits.softmax(dim=1).mean(dim=-1)[:, self.prefix_tokens :]

    def output(self, rows: Tensor | None) -> Tensor:
        """As `LastBlock.output`."""
        x, source, rope = self.x, self.source, self.rope
        if rows is not None:
            frame = torch.arange(len(x), device=x.device)[:, None]
            x, source = x[frame, rows], source[frame, rows]
            rope = None if rope is None else rope[rows]
        query = self.block.query(source, rope)
        if self.bias is None:
            return self.block.finish(x, source, attention(query, self.key, self.value))
        bias = self.bias if rows is None else self.bias[:, rows].transpose(0, 1)  # [h,N,N] or [F,h,n,N]
        q, k, v = (part.transpose(1, 2) for part in (query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.type_as(q))
        return self.block.finish(x, source, mixed.transpose(1, 2))


@dataclass(frozen=True)
class WholeLastBlock:
    """A last block that has run on all tokens: its output [F,N,W], and the map [F,S] of a pooling head behind it."""

    tokens: Tensor
    pooled: Tensor | None

    def attention(self) -> Tensor:
        """The pooling head's: f32 [F,S]."""
        assert self.pooled is not None, "asked a tower that has no map for one"
        return self.pooled

    def output(self, rows: Tensor | None) -> Tensor:
        """As `LastBlock.output`."""
        if rows is None:
            return self.tokens
        return self.tokens[torch.arange(len(rows), device=rows.device)[:, None], rows]


def pooling_attention(pool: AttentionPoolLatent, tokens: Tensor) -> Tensor:
    """How much of each token a pooling head takes: softmax over tokens [F,n,W], mean over queries and heads: f32 [F,n].

    Logits and softmax in fp32 (fp64 for fp64 weights) under any autocast.
    """
    if pool.pos_embed is not None:
        tokens = tokens + pool.pos_embed.to(tokens.dtype)
    width = pool.num_heads * pool.head_dim
    key = F.linear(tokens, pool.kv.weight[:width], None if pool.kv.bias is None else pool.kv.bias[:width])
    key = pool.k_norm(torch.unflatten(key, -1, (pool.num_heads, -1)))  # [F,n,h,d]
    query = pool.q_norm(torch.unflatten(pool.q(pool.latent), -1, (pool.num_heads, -1)))  # [1,queries,h,d]
    wide = torch.promote_types(key.dtype, torch.float32)
    logits = (query.to(wide)[:, :, None] * key[:, None]).sum(dim=-1) * pool.scale  # [F,queries,n,h]
    taken: Tensor = logits.softmax(dim=2).mean(dim=(1, 3))
    return taken
