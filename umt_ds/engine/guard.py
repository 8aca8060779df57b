"""No NaN gets far: watched on the device at every step, agreed by all ranks, named by step and draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from umt_ds.distributed.collectives import reduce_max
from umt_ds.errors import NonFiniteError

_NEVER = 1 << 62
_MAX_SKIPPED_IN_A_ROW = 50  # fp16: the loss scale halves each time, 2^16 is used up long before


class FiniteGuard:
    """Remembers the first step whose loss or gradient was not finite; no host sync until `check`."""

    def __init__(self, device: torch.device, *, draws_per_step: int, overflow_is_normal: bool) -> None:
        self._first_bad = torch.full((), _NEVER, dtype=torch.int64, device=device)
        self._draws_per_step = draws_per_step
        self._overflow_is_normal = overflow_is_normal  # fp16's dynamic loss scale makes and skips overflows
        self._skipped_in_a_row = 0

    def watch(self, step: int, loss: Tensor, grad_norm: Tensor, applied: bool) -> None:
        """Look at 0-based step `step`: loss and gradient norm are fp32 scalars on the device."""
        finite = torch.isfinite(loss)
        if not self._overflow_is_normal:
            finite = finite & torch.isfinite(grad_norm)
        this_step = torch.where(finite, _NEVER, step)
        self._first_bad = torch.minimum(self._first_bad, this_step)
        self._skipped_in_a_row = 0 if applied else self._skipped_in_a_row + 1

    def check(self, *, before_raising: Callable[[], None] = lambda: None) -> None:
        """Raise NonFiniteError on every rank if any rank met a NaN or infinity. By then all ranks have agreed, so
        `before_raising` may be collective: what is still to be kept of the steps before."""
        first_bad = -reduce_max([-int(self._first_bad)], self._first_bad.device)[0]
        if first_bad < _NEVER or self._skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
            before_raising()
        if first_bad < _NEVER:
            a, b = first_bad * self._draws_per_step, (first_bad + 1) * self._draws_per_step
            raise NonFiniteError(
                f"loss or gradient became NaN or infinite in step {first_bad} (draws {a} to {b - 1}); "
                "nothing was saved after it",
                hint="start again from the last checkpoint; if it comes back at the same step, look at these clips "
                f"or leave them out: 'data.skip_draws=[[{a},{b}]]' --allow-config-change",
            )
        if self._skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
            raise NonFiniteError(
                f"{self._skipped_in_a_row} steps in a row overflowed: the fp16 loss scale has nowhere left to go",
                hint="use a bf16 DeepSpeed JSON, or a smaller learning rate",
            )
