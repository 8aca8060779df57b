"""One rank of a trial: join the group as a training does, add one number over all ranks, tell how long it took.

`python -m umt_ds.bench.all_reduce` under any launcher. Exit code 0 and one line on rank 0 if the sum is right.
"""

from __future__ import annotations

import sys
import time

import torch
import torch.distributed as dist

from umt_ds.distributed.job import start_job
from umt_ds.errors import MachineError, UmtError

_ELEMENTS = 4 << 20  # 16 MB of fp32, about a layer of ViT-B's gradients
_ROUNDS = 5


def main() -> None:
    """Raises MachineError where the sum is wrong."""
    with start_job() as job:
        for _ in range(_ROUNDS):  # the last one is timed: the first connects
            numbers = torch.full((_ELEMENTS,), float(job.world.rank + 1), device=job.device)
            begin = time.perf_counter()
            dist.all_reduce(numbers)
            lowest, highest = numbers.min().item(), numbers.max().item()
            seconds = time.perf_counter() - begin
        wanted = job.world.size * (job.world.size + 1) / 2
        if (lowest, highest) != (wanted, wanted):
            raise MachineError(f"the sum over {job.world.size} ranks is {lowest} to {highest}, not {wanted}")
        if job.world.is_first:
            print(f"{job.world.size} ranks on {dist.get_backend()}, 16 MB added in {seconds * 1000:.0f} ms")


if __name__ == "__main__":
    try:
        main()
    except UmtError as error:
        sys.exit(f"error: {error}")
