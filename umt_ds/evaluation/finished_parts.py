"""Finished parts of a long evaluation, on the disk of the first rank, so that the same command goes on after a kill.

    FOLDER/KEY/00012    part 12: a hash of all that follows and of what it is a part of, 8 bytes; then its numbers, f32

KEY is a hash of all that decides the numbers, so that another evaluation never takes them for its own. A file that is
damaged, or of another evaluation, is as good as none: its part is made again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from umt_ds.distributed.collectives import broadcast_object, is_first_rank
from umt_ds.keyed import digest64
from umt_ds.whole_file import write_whole

log = logging.getLogger("umt_ds")


@dataclass
class FinishedParts:
    """Every rank calls `read`; only the first one reads and writes. key: of what decides the numbers."""

    folder: Path
    key: str
    _writes: bool = field(default=True, init=False)

    def read(self, sizes: Sequence[int]) -> dict[int, Tensor]:
        """The parts that are there, by number, the same on all ranks. sizes: the count of numbers of each part."""
        found = {}
        if is_first_rank():
            parts = {number: self._read(number, size) for number, size in enumerate(sizes)}
            found = {number: part for number, part in parts.items() if part is not None}
            if found:
                log.warning("%d of %d parts are taken from %s", len(found), len(sizes), self._own)
        return {number: torch.from_numpy(part) for number, part in broadcast_object(found).items()}

    def write(self, number: int, numbers: Tensor) -> None:
        """Keep a part. Where the disk takes none, that is said once, and the evaluation goes on without."""
        if not self._writes or not is_first_rank():
            return
        content = numbers.numpy().astype("<f4").tobytes()
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            write_whole(self._place(number), self._hash(number, content) + content)
        except OSError as error:
            self._writes = False
            log.warning("what is finished cannot be kept in %s (%s): after a kill all is done again", self._own, error)

    @property
    def _own(self) -> Path:
        return self.folder / self.key

    def _place(self, number: int) -> Path:
        return self._own / f"{number:05d}"

    def _read(self, number: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.float32]] | None:
        try:
            data = self._place(number).read_bytes()
        except OSError:
            return None
        content = data[8:]
        if data[:8] != self._hash(number, content) or len(content) != 4 * size:
            log.warning("%s is damaged: this part is made again", self._place(number))
            return None
        return np.frombuffer(content, "<f4").astype(np.float32)

    def _hash(self, number: int, content: bytes) -> bytes:
        return digest64(self.key, number, content).to_bytes(8, "little")
