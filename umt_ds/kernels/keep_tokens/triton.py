"""`keep_tokens` in one kernel: noise, keys, ranks and positions of a frame stay on the chip; indices come out sorted.

A program works on one frame. The rank of a patch is the number of patches with a greater key (of equal ones, those
before it), counted pair by pair in chunks: S² comparisons, nothing for a GPU at S = 196, and no sort or host. The
position of a kept patch in the output is the number of kept ones before it.

Random and tube masks have no kernel: they are drawn from a few numbers a clip, once a step.

Shapes: B clips, T frames, S patches per frame, v visible ones.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from umt_ds.kernels.keep_tokens.reference import LOG_OF_ZERO
from umt_ds.kernels.launch import Launch
from umt_ds.kernels.philox import Purpose

_CHUNK = 16  # compared with all patches of the frame at once
_LOG_OF_ZERO = tl.constexpr(LOG_OF_ZERO)
_PURPOSE = tl.constexpr(int(Purpose.MASK))


def keep_tokens(attention: Tensor, *, seed: int, step: int, slots: Tensor, visible: int) -> Tensor:
    """As `umt_ds.kernels.keep_tokens`, for fp32, bf16 and fp16 attention of any strides; keys in fp32."""
    clips, frames, _ = attention.shape
    out = torch.empty(clips, frames * visible, dtype=torch.int64, device=attention.device)
    launch(attention, out, seed=seed, step=step, slots=slots, visible=visible).run()
    return out


def launch(attention: Tensor, out: Tensor, *, seed: int, step: int, slots: Tensor, visible: int) -> Launch:
    """One program for each frame of attention [B,T,S]; out: i64 [B,T·v], contiguous."""
    clips, frames, patches = attention.shape
    arguments = {
        "attention": attention,
        "slots": slots,
        "out": out,
        "seed": seed % 2**64,
        "step": step,
        "frames": frames,
        "visible": visible,
        "clip_stride": attention.stride(0),
        "frame_stride": attention.stride(1),
        "patch_stride": attention.stride(2),
        "patches": patches,
        "block": max(16, triton.next_power_of_2(patches)),
        "chunk": _CHUNK,
    }
    return Launch(_keep, (clips * frames,), arguments, warps=4 if patches <= 256 else 8)


@triton.jit(do_not_specialize=["seed", "step"])  # a step that is 1 or a multiple of 16 must not compile anew
def _keep(
    attention,
    slots,
    out,
    seed: tl.uint64,
    step: tl.uint32,
    frames,
    visible,
    clip_stride,
    frame_stride,
    patch_stride,
    patches: tl.constexpr,
    block: tl.constexpr,
    chunk: tl.constexpr,
):
    clip = tl.program_id(0) // frames
    frame = tl.program_id(0) % frames
    row = attention + clip.to(tl.int64) * clip_stride + frame * frame_stride
    slot = tl.load(slots + clip).to(tl.uint32)

    patch = tl.arange(0, block)
    key = _keys(row, patch_stride, patch, frame, slot, seed, step, patches)
    rank = tl.zeros([block], tl.int32)
    for start in range(0, patches, chunk):
        other = start + tl.arange(0, chunk)
        other_key = _keys(row, patch_stride, other, frame, slot, seed, step, patches)
        is_before = (other_key[None, :] == key[:, None]) & (other[None, :] < patch[:, None])
        is_ahead = (other_key[None, :] > key[:, None]) | is_before
        rank += tl.sum(is_ahead.to(tl.int32), axis=1)

    kept = ((rank < visible) & (patch < patches)).to(tl.int32)
    position = tl.cumsum(kept) - kept
    first = (clip.to(tl.int64) * frames + frame) * visible
    tl.store(out + first + position, (frame * patches + patch).to(tl.int64), mask=kept == 1)


@triton.jit
def _keys(row, patch_stride, patch, frame, slot, seed, step, patches: tl.constexpr):
    """log(attention) - log(-log(noise)), noise as in `kernels.philox.uniform`; past the end -inf."""
    lane = frame * patches + patch
    zero = tl.zeros_like(lane).to(tl.uint32)
    c0, c1, c2, c3 = tl.philox(seed, (lane // 4).to(tl.uint32), slot + zero, step.to(tl.uint32) + zero, zero + _PURPOSE)
    word = lane % 4
    bits = tl.where(word == 0, c0, tl.where(word == 1, c1, tl.where(word == 2, c2, c3)))
    noise = ((bits >> 9).to(tl.float32) + 0.5) * (2.0**-23)
    weight = tl.load(row + patch * patch_stride, mask=patch < patches, other=0).to(tl.float32)
    log_weight = tl.where(weight > 0, tl.log(weight), _LOG_OF_ZERO)  # NaN > 0 is False
    return tl.where(patch < patches, log_weight - tl.log(-tl.log(noise)), -float("inf"))
