"""No NaN gets far: every step is looked at by all ranks alike, and named with its draws."""

from __future__ import annotations

import math
from collections.abc import Callable

from umt_ds.engine.pulse import Heard
from umt_ds.errors import NonFiniteError

_MAX_SKIPPED_IN_A_ROW = 50  # fp16: the loss scale halves each time, 2^16 is used up long before


class FiniteGuard:
    """Looks at the steps in their order. All ranks hear the same, so all raise, or none."""

    def __init__(self, *, draws_per_step: int, overflow_is_normal: bool) -> None:
        self._draws_per_step = draws_per_step
        self._overflow_is_normal = overflow_is_normal  # fp16's dynamic loss scale makes and skips overflows
        self._skipped_in_a_row = 0

    def check(self, heard: Heard, *, before_raising: Callable[[], None] = lambda: None) -> None:
        """Raise NonFiniteError on every rank if any rank met a NaN or infinity. `before_raising` may be collective:
        what is still to be kept of the steps before."""
        finite = all(map(math.isfinite, heard.losses.values()))
        if not self._overflow_is_normal:
            finite = finite and math.isfinite(heard.grad_norm)
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if heard.skipped else 0
        if finite and self._skipped_in_a_row < _MAX_SKIPPED_IN_A_ROW:
            return
        before_raising()
        if finite:
            raise NonFiniteError(
                f"{self._skipped_in_a_row} steps in a row overflowed: the fp16 loss scale has nowhere left to go",
                hint="use a bf16 DeepSpeed JSON, or a smaller learning rate",
            )
        step = heard.step - 1  # steps are counted from 0
        a, b = step * self._draws_per_step, heard.step * self._draws_per_step
        raise NonFiniteError(
            f"loss or gradient became NaN or infinite in step {step} (draws {a} to {b - 1}); "
            "nothing was saved after it",
            hint="start again from the last checkpoint; if it comes back at the same step, look at these clips "
            f"or leave them out: 'data.skip_draws=[[{a},{b}]]' --allow-config-change",
        )
