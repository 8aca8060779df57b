"""What filter, split and merge take over ten million clips, as tables, and what stats and verify of these: seconds,
memory, kilobytes written.

The set is one small tar under as many names as asked for, with an index and statistics in which each clip has a key and
a video of its own. Each command is a process.

    python -m tests.scale.items_of_ten_million --shards 20000 --samples 500
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.state.statistics import SCHEMA, STATISTICS, Page, write_statistics
from umt_ds.data.shards.manifest import Manifest, SetFile, ShardEntry, shard_entries
from umt_ds.data.shards.records import ShardIndex, index_path, sha256_of
from umt_ds.data.shards.set_index import INDEX, write_index
from umt_ds.data.shards.tars import index_tar

SHARDS, SAMPLES = 20_000, 500
_A_VIDEO = 3  # clips


def write_set(folder: Path, *, shards: int, samples: int, first: int = 0) -> Path:
    """A set of `shards` links to one tar, whose clips are numbered from `first`."""
    folder.mkdir(parents=True)
    tar = folder / "scale-000000.tar"
    with tarfile.open(tar, "w") as archive:
        for number in range(samples):
            archive.addfile(tarfile.TarInfo(f"{number}.jpg"))
    index_tar(tar).save(index_path(tar))
    one = shard_entries([tar])[0]
    entries = [one, *(replace(one, file=f"scale-{number:06d}.tar") for number in range(1, shards))]
    for entry in entries[1:]:
        os.link(tar, folder / entry.file)
    numbers = [range(first + shard * samples, first + (shard + 1) * samples) for shard in range(shards)]
    write_index(folder / INDEX, (_index(each) for each in numbers))
    write_statistics(folder / STATISTICS, (_page(each, one) for each in numbers))
    files = {name: folder / f"{name}.arrow" for name in ("index", "statistics")}
    told = {name: SetFile(path.stat().st_size, sha256_of(path)) for name, path in files.items()}
    Manifest(
        name="scale", media="image", shards=tuple(entries), index=told["index"], statistics=told["statistics"]
    ).save(folder)
    return folder


def key_of(number: int) -> str:
    return f"web/{number:09d}"


def _index(numbers: range) -> ShardIndex:
    """One member a clip."""
    count = len(numbers)
    places = np.arange(count, dtype=np.int64)
    keys = np.array([key_of(number).encode() for number in numbers])
    crcs = np.zeros(count, np.uint32)
    return ShardIndex(0, keys, np.arange(count + 1), np.full(count, b"jpg"), places * 1024 + 512, places * 0, crcs)


def _page(numbers: range, entry: ShardEntry) -> Page:
    known = {
        "key": [key_of(number) for number in numbers],
        "video": [f"video{number // _A_VIDEO}" for number in numbers],
        "duration_s": [float(number % 20) for number in numbers],
    }
    fields = [one for one in SCHEMA if one.name not in ("shard", "row")]
    columns = [pa.array(known.get(one.name, [None] * len(numbers)), one.type) for one in fields]
    return Page(pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields)), entry.sha256)


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Seconds, and the most megabytes that the process had to itself: mapped files are not among them."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    most = 0.0

    def watch() -> None:
        nonlocal most
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            most = max([most, *(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))])
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, said = process.communicate()
    watcher.join()
    if process.returncode:
        raise RuntimeError(said[-2000:])
    return time.perf_counter() - began, most


def tables_of_items(folder: Path, *, shards: int = SHARDS, samples: int = SAMPLES) -> Iterator[str]:
    """The lines of the table."""
    whole = write_set(folder / "set", shards=shards, samples=samples)
    other = write_set(folder / "other", shards=max(1, shards // 10), samples=samples, first=shards * samples)
    total = shards * samples
    keys = folder / "keys.txt"
    keys.write_text("".join(f"{key_of(number)}\n" for number in range(0, total, 1000)))
    commands = {
        f"filter --exclude {total // 1000:,} keys": ["filter", whole, folder / "fewer", "--exclude", keys],
        "filter --min-seconds 2": ["filter", whole, folder / "long", "--min-seconds", "2"],
        "split": ["split", whole, folder / "sides"],
        "merge with a tenth more": ["merge", folder / "all", whole, other],
        "stats": ["stats", whole],
        "stats of the second table": ["stats", folder / "long"],
        "its verify --items-only": ["verify", folder / "long", "--items-only"],
    }
    yield f"{total:,} clips in {shards:,} shards"
    yield f"{'':<32}{'seconds':>9}{'own memory, MB':>16}{'written, kB':>13}"
    for name, words in commands.items():
        seconds, memory = measured([sys.executable, "-m", "data_prep", *map(str, words)])
        if words[0] in ("stats", "verify"):
            yield f"{name:<32}{seconds:>9.0f}{memory:>16,.0f}"
            continue
        out = Path(words[1] if words[0] == "merge" else words[2])
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file() and path.name != "bad.csv")
        yield f"{name:<32}{seconds:>9.0f}{memory:>16,.0f}{size / 1e3:>13,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for line in tables_of_items(Path(folder), shards=args.shards, samples=args.samples):
            print(line, flush=True)


if __name__ == "__main__":
    main()
