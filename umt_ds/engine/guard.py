"""No NaN gets far: every step is looked at by all ranks alike, and named with its draws."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection

from umt_ds.distributed.collectives import is_first_rank
from umt_ds.engine.step_stats import GlobalStepStats
from umt_ds.errors import NonFiniteError

log = logging.getLogger("umt_ds")

_MAX_SKIPPED_IN_A_ROW = 50  # fp16: the loss scale halves each time, 2^16 is used up long before


class FiniteGuard:
    """Looks at the steps in their order. All ranks hear the same, so all raise, or none.

    A gradient with a NaN or infinity is kept out of the weights (`engine.clipping`). `max_skipped` such steps of a run
    may be passed over; one more ends the job with 75, to go on from its last checkpoint, because a bit that flipped in
    a GPU does not flip twice. In a step of `failed_before` the fault is in the clips or in the weights, and the job
    ends with 1.
    """

    def __init__(
        self,
        *,
        draws_per_step: int,
        overflow_is_normal: bool,
        max_skipped: int = 0,
        failed_before: Collection[int] = (),
    ) -> None:
        self._draws_per_step = draws_per_step
        self._overflow_is_normal = overflow_is_normal  # fp16's dynamic loss scale makes and skips overflows
        self._max_skipped = max_skipped
        self._failed_before = failed_before
        self._skipped_in_a_row = 0

    def check(
        self, heard: GlobalStepStats, *, skipped_before: int = 0, before_raising: Callable[[], None] = lambda: None
    ) -> None:
        """Raise NonFiniteError on every rank if any rank met a NaN or infinity that may not be passed over.

        skipped_before: steps of the run that were skipped before this one. `before_raising` may be collective: what is
        still to be kept of the steps before.
        """
        finite = all(map(math.isfinite, heard.losses.values()))
        if not self._overflow_is_normal:
            finite = finite and math.isfinite(heard.grad_norm)
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if heard.skipped else 0
        if finite and self._skipped_in_a_row < _MAX_SKIPPED_IN_A_ROW:
            return
        if not self._overflow_is_normal and heard.skipped and skipped_before < self._max_skipped:
            if is_first_rank():
                told = f"{skipped_before + 1} of {self._max_skipped} (cadence.max_skipped)"
                log.warning("%s: the step is left out, %s", self._what(heard), told)
            return
        before_raising()
        if finite:
            raise NonFiniteError(
                f"{self._skipped_in_a_row} steps in a row overflowed: the fp16 loss scale has nowhere left to go",
                hint="use a bf16 DeepSpeed JSON, or a smaller learning rate",
                again=True,
            ).by_all_ranks()
        raise self._error(heard).by_all_ranks()

    def _error(self, heard: GlobalStepStats) -> NonFiniteError:
        step, what = heard.step - 1, f"{self._what(heard)}; nothing was saved after it"
        if step not in self._failed_before:
            return NonFiniteError(
                what,
                hint="start the same command again (exit code 75; a job of umt-launch does so by itself): it goes on "
                "from the last checkpoint, and ends with 1 if this step fails again",
                step=step,
                again=False,
            )
        a, b = self._draws(step)
        return NonFiniteError(
            f"{what}; the second time in this step",
            hint=f"look at these clips or leave them out: 'data.skip_draws=[[{a},{b}]]' --allow-config-change; if "
            "other steps fail then, the weights are at their limit: a smaller optim.lr, or optim.clip_grad",
            step=step,
            again=True,
        )

    def _what(self, heard: GlobalStepStats) -> str:
        a, b = self._draws(heard.step - 1)
        return f"loss or gradient became NaN or infinite in step {heard.step - 1} (draws {a} to {b - 1})"

    def _draws(self, step: int) -> tuple[int, int]:
        """Of a step, counted from 0: [a, b)."""
        return step * self._draws_per_step, (step + 1) * self._draws_per_step
