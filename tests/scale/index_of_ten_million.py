"""How soon a run over ten million clips shows its first batch, and what its workers keep of the index in memory.

The set is one real shard under as many names as asked for; each process is a rank with its loader's workers.

    python -m tests.scale.index_of_ten_million --shards 20000 --samples 500 --ranks 2 --workers 4
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.shards.manifest import Manifest, load_manifest, shard_entries
from umt_ds.data.shards.records import index_path
from umt_ds.data.shards.tars import index_tar

FRAMES = 8


def write_set(folder: Path, *, shards: int, samples: int) -> Path:
    """A set of `shards` links to one shard of `samples` clips."""
    folder.mkdir(parents=True)
    first = folder / "scale-000000.tar"
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(picture, "JPEG")
    with tarfile.open(first, "w") as archive:
        for number in range(samples):
            files = {"json": json.dumps({"label": number % 400}).encode()}
            files |= {f"{frame:03d}.jpg": picture.getvalue() for frame in range(FRAMES)}
            for suffix, data in files.items():
                info = tarfile.TarInfo(f"k/{number:06d}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    index_tar(first).save(index_path(first))
    entry = shard_entries([first])[0]
    entries = [entry]
    for number in range(1, shards):
        tar = folder / f"scale-{number:06d}.tar"
        os.link(first, tar)
        os.link(index_path(first), index_path(tar))
        entries.append(replace(entry, file=tar.name))
    Manifest(name="scale", media="frames", shards=tuple(entries)).save(folder)
    try:
        from data_prep.making.upgrade import upgrade
    except ImportError:  # before there was an index of the whole set
        return folder
    began = time.perf_counter()
    upgrade(folder)
    size, took_s = (folder / "index.arrow").stat().st_size, time.perf_counter() - began
    print(f"index.arrow of {shards * samples:,} clips: {size / 1e9:.2f} GB, written in {took_s:.0f} s")
    return folder


def own_megabytes(process: int) -> float:
    """Memory that no other process shares."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def one_rank(rank: int, folder: Path, args: argparse.Namespace, told: Any) -> None:
    """Loads `args.batches` batches a worker and tells what it took."""
    began = time.perf_counter()
    micro = 16
    plan = LoaderPlan(
        seed=0,
        global_draws=micro * args.world,
        image_side=32,
        micro=micro,
        rank=rank,
        world=args.world,
        num_workers=args.workers,
    )
    loader = Loader([SourceSpec("scale", folder, FramePolicy("sparse", 4, 4))], plan)
    loader.start(0)
    next(iter(loader.micro_batches(0)))
    first_s = time.perf_counter() - began
    steps = args.batches * args.workers
    cpu = time.process_time()
    for step in range(1, steps):
        list(loader.micro_batches(step))
    workers = [worker.pid for worker in loader._pipeline._workers]  # type: ignore[union-attr]
    memory = [own_megabytes(pid) for pid in workers if pid]
    told.put((rank, first_s, max(memory), time.process_time() - cpu))
    loader.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--ranks", type=int, default=2, help="processes on this machine")
    parser.add_argument("--world", type=int, default=64, help="ranks of the run that they are of")
    parser.add_argument("--workers", type=int, default=4, help="of each rank")
    parser.add_argument("--batches", type=int, default=20, help="that each worker builds")
    parser.add_argument("--set", type=Path, help="use this set, or write it there; default: a temporary one")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.set or Path(temporary) / "set"
        if not folder.is_dir():
            write_set(folder, shards=args.shards, samples=args.samples)
        clips = load_manifest(folder).num_samples
        context = get_context("spawn")
        told = context.Queue()
        ranks = [context.Process(target=one_rank, args=(rank, folder, args, told)) for rank in range(args.ranks)]
        for rank in ranks:
            rank.start()
        results = sorted(told.get() for _ in ranks)
        for rank in ranks:
            rank.join()
    print(f"{clips:,} clips, {args.ranks} of {args.world} ranks x {args.workers} workers")
    print("rank   first batch after   own memory of its largest worker")
    for rank, first_s, memory, _ in results:
        print(f"{rank:4d}   {first_s:13.2f} s   {memory:20.0f} MB")


if __name__ == "__main__":
    main()
