"""How long the sequences are that stand in one row without padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lengths:
    """tokens: of each sequence, in order. The host knows them, so that nothing waits for the device."""

    tokens: tuple[int, ...]

    @property
    def total(self) -> int:
        """L, the length of the row."""
        return sum(self.tokens)

    @property
    def longest(self) -> int:
        return max(self.tokens, default=0)

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(length, how many) of neighbours of equal length: (320, 320, 40) → ((320, 2), (40, 1))."""
        return tuple((length, len(list(same))) for length, same in groupby(self.tokens))

    def offsets(self, device: torch.device) -> Tensor:
        """Where each sequence begins, and where the last one ends: i32 [sequences + 1]; kept, do not write to it."""
        offsets: Tensor = _offsets(self.tokens, device)
        return offsets


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _offsets(tokens: tuple[int, ...], device: torch.device) -> Tensor:
    return _kept_offsets(tokens, device)


@lru_cache(maxsize=256)
def _kept_offsets(tokens: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        offsets = torch.tensor([0, *accumulate(tokens)], dtype=torch.int32)
        if device.type == "cuda":
            return offsets.pin_memory().to(device, non_blocking=True)  # from other memory, the host would wait
        return offsets.to(device)
