"""Which patches of each frame the student sees, drawn in proportion to the teacher's attention.

Shapes: B clips, T frames, S patches per frame, v visible ones.
"""

from __future__ import annotations

from torch import Tensor

from umt_ds.kernels.backend import runs_triton
from umt_ds.kernels.keep_tokens import reference


def keep_tokens(attention: Tensor, *, seed: int, step: int, slots: Tensor, visible: int) -> Tensor:
    """`visible` patches of each frame without replacement: i64 [B,T·visible], t·S + s, ascending. No host sync.

    attention: any float [B,T,S], ≥ 0, unnormalised. slots: i64 [B], rows of the global batch. The draw is keyed by
    (seed, step, slot, patch): the same at any world size. Patches of zero, negative or NaN attention come last, among
    themselves uniformly: indices are always valid, and a NaN is left for the loss to report.

    Source: METHOD.md, "Masking".
    """
    if runs_triton(attention):
        from umt_ds.kernels.keep_tokens import triton

        return triton.keep_tokens(attention, seed=seed, step=step, slots=slots, visible=visible)
    return reference.keep_tokens(attention, seed=seed, step=step, slots=slots, visible=visible)
