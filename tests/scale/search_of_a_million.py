"""What an index of a million clips takes: to write, to open, and to search, with the memory of that process.

The vectors are drawn, 512 numbers each, as those of a B/16. `umt search` adds the time of loading torch and the model.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from umt_ds.search.index_files import Facts, FileFormat, index_file, read_index, table_of, write_npz, writing_parquet
from umt_ds.search.nearest import nearest

T = TypeVar("T")
CLIPS, WIDTH, _PAGE = 1_000_000, 512, 20_000
FACTS = Facts(
    run="scale", config={}, weights="none", averaged=False, fingerprint="none", precision="fp32", vocabulary="none",
    max_tokens=32, frames=4, frames_rule="none", side=224, resize="none", antialias=False, window_s=None,
    stride_s=None, width=WIDTH, dtype="float16", batch=16, caption_field=None, sources=[],
)  # fmt: skip


def search_of_a_million(folder: Path) -> Iterator[str]:
    """A line a format: seconds to open and to answer 1 and 16 texts, and the most memory."""
    path = folder / "clips.parquet"
    write_parquet(path)
    yield f"{CLIPS:,} clips of {WIDTH} numbers, f16, {path.stat().st_size / 1e9:.2f} GB; seconds (of cores)"
    yield "| file | opened | 1 text, first | 1 text | 16 texts | their rows | peak memory |"
    yield "|---|---|---|---|---|---|---|"
    yield _measured_alone(folder, "parquet")
    from pyarrow import parquet

    write_npz(folder / "clips.npz", "clips", parquet.read_table(path).replace_schema_metadata(), FACTS)
    path.unlink()
    yield _measured_alone(folder, "npz")


def write_parquet(path: Path) -> None:
    draw = np.random.default_rng(0)
    with writing_parquet(path, "clips", FACTS) as writer:
        for start in range(0, CLIPS, _PAGE):
            vectors = draw.standard_normal((_PAGE, WIDTH), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            rows = range(start, start + _PAGE)
            columns = {
                "key": [f"video-{row // 100:06d}" for row in rows],
                "set": [None] * _PAGE,
                "item": [None] * _PAGE,
                "file": [f"/data/films/video-{row // 100:06d}.mp4" for row in rows],
                "start_s": [row % 100 * 5.0 for row in rows],
                "end_s": [row % 100 * 5.0 + 10 for row in rows],
            }
            writer.write_table(table_of("clips", columns, vectors.astype(np.float16)))


def _measured_alone(folder: Path, file_format: FileFormat) -> str:
    """In a process of its own, whose memory counts."""
    command = [sys.executable, "-m", "tests.scale.search_of_a_million", str(folder)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return f"| {file_format} | {told} |"


def measure(folder: Path) -> str:
    """Cells of a line."""
    queries = torch.nn.functional.normalize(torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    index, opened = _timed(lambda: read_index(index_file(folder)))
    cells = [opened]
    for count in (1, 1, 16):
        found, took = _timed(lambda count=count: nearest(queries[:count], index.vectors, top=10))
        cells.append(took)
    _, took = _timed(lambda: index.rows(found.rows[0].tolist()))
    return " | ".join([*cells, took, f"{_peak_bytes() / 2**30:.2f} GiB"])


def _timed(work: Callable[[], T]) -> tuple[T, str]:
    """What it gives, its seconds, and those of all cores that it used, which other work on the machine does not
    change."""
    wall, cores = time.monotonic(), time.process_time()
    done = work()
    return done, f"{time.monotonic() - wall:.2f} s ({time.process_time() - cores:.2f})"


def _peak_bytes() -> int:
    """Of this program: `ru_maxrss` begins with what its parent had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    print(measure(Path(sys.argv[1])))
