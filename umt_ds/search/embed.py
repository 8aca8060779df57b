"""`umt embed`: one rank of a job that turns clips into vectors.

The work is cut into parts, which do not depend on the number of ranks. The parts that are missing go to the ranks in
turns, and each is written whole. When all are there, the first rank puts them together. Given again after a kill, the
same command goes on with the parts that are missing; with other weights, settings or clips it is refused.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from umt_ds.config.show import as_tree
from umt_ds.data.evaluation import LeftOut
from umt_ds.data.pipeline import WorkerPool
from umt_ds.data.shards.storage import free_bytes
from umt_ds.data.video_clips import Windows
from umt_ds.distributed.alarm import ending_together
from umt_ds.distributed.collectives import barrier, broadcast_object, gather_objects, is_first_rank
from umt_ds.distributed.device import device_of
from umt_ds.distributed.job import Job, start_job
from umt_ds.distributed.world import World
from umt_ds.engine.manifest import versions
from umt_ds.errors import DataError, MachineError, shown
from umt_ds.jobs.eval_runs import EvalRun
from umt_ds.jobs.evaluate import log_to_stderr, name_of, verify_checkpoints
from umt_ds.search.index_files import CAPTIONS, CLIPS, LEFT_OUT, Facts, FileFormat, Kind, count_rows, table_of
from umt_ds.search.model import SearchModel, open_model
from umt_ds.search.part_files import LeftOutRow, PartFiles, finished
from umt_ds.search.sources import Made, Source, Unit, find_sources
from umt_ds.tasks.video_text.settings import objective_of
from umt_ds.terminal import progress

# of a set, the stored frames count; of a video file or a window, all
_FRAMES_RULE = "the middle frame of each of {} equal parts of the frames that the clip has"
_PREFETCH = 1  # units that a worker makes ahead
_NAN = "the model makes a vector of it that is not of numbers: its weights are broken, or too large for its precision"
_STALL_LIMIT_S = 900.0
_LOOK_S = 0.2  # how often a rank that is ready looks for the parts of the others


@dataclass(frozen=True)
class EmbedJob:
    """sources: sets, tables, videos, folders of videos. captions: the field of those that are embedded, too. dtype:
    float16 or float32."""

    run: EvalRun
    sources: Sequence[str]
    out: Path
    captions: str | None = None
    windows: Windows | None = None
    batch: int = 16
    dtype: str = "float16"
    file_format: FileFormat = "parquet"


@dataclass(frozen=True)
class _Part:
    """Units whose rows are written together."""

    number: int
    units: Sequence[Unit]


def run_embedding(job: EmbedJob) -> str | None:
    """Make the index; what was made on the first rank, None on the others.

    Every rank calls it. Raises SystemExit with the error's code after saying what is wrong.
    """
    with start_job() as group, ending_together(group.world):
        log_to_stderr(group.world)
        if group.world.is_first:
            verify_checkpoints([job.run])
        return _embed(job, group)


def plan_embedding(job: EmbedJob, ranks: int) -> str:
    """What `run_embedding` would do. Raises as it does."""
    log_to_stderr(World.alone())
    verify_checkpoints([job.run])
    model, sources, facts = _opened(job, device_of(World.alone()))
    parts = _parts(sources)
    units = sum(source.units for source in sources)
    lines = [
        f"{job.run.name}: {job.run.config.task.summary}",
        f"  weights {job.run.weights}, {model.precision}, fingerprint {model.fingerprint}",
        f"  a clip: {facts.frames} frames of {facts.side} px ({facts.frames_rule}), {facts.resize}; its embedding: "
        f"{facts.width} numbers, {facts.dtype}",
        *(f"  {', '.join(f'{name} {value}' for name, value in source.about.items())}" for source in sources),
        f"  {len(parts)} parts, {units} units of {'up to ' if job.windows else ''}{job.batch} clips, on {ranks} ranks",
    ]
    if finished(job.out, facts, job.file_format) is not None:
        return "\n".join([*lines, f"  {job.out} is finished"])
    _check_room(job, sources, facts)
    return "\n".join([*lines, f"  into {job.out}"])


def _embed(job: EmbedJob, group: Job) -> str | None:
    begun, world = time.monotonic(), group.world
    model, sources, facts = _opened(job, group.device)
    parts = _parts(sources)
    files = PartFiles(job.out, facts, len(parts))
    done = broadcast_object(_begin(job, sources, files) if world.is_first else None)
    if done is None:
        return f"{job.out} is finished, by the same weights, settings and clips" if world.is_first else None
    _require_one_disk(files)
    missing = [part for part in parts if part.number in done]
    _make(missing[world.rank :: world.size], files, sources, model, job)
    # not in a collective, whose patience is shorter than what a rank of long videos may have left to do
    while not all(files.path(CLIPS, part.number).exists() for part in missing):
        time.sleep(_LOOK_S)
    barrier()
    if not world.is_first:
        return None
    return _join(job, files, seconds=time.monotonic() - begun, device=name_of(group.device), ranks=world.size)


def _opened(job: EmbedJob, device: torch.device) -> tuple[SearchModel, list[Source], Facts]:
    run = job.run
    averaged = run.checkpoint is None and run.config.init.ema
    model = open_model(run.config, run.weights, averaged=averaged, device=device)
    request = model.request
    sources = find_sources(job.sources, request, batch=job.batch, captions=job.captions, windows=job.windows)
    retriever = model.retriever
    facts = Facts(
        run=run.name,
        config=as_tree(run.config),
        weights=str(run.weights.absolute()),
        averaged=averaged,
        fingerprint=model.fingerprint,
        precision=model.precision,
        vocabulary=retriever.tokenizer.fingerprint,
        max_tokens=objective_of(run.config).text.max_tokens,
        frames=request.frames.count,
        frames_rule=_FRAMES_RULE.format(request.frames.count),
        side=request.side,
        resize="the whole frame in a square, bicubic, " + ("with antialias" if request.antialias else "no antialias"),
        antialias=request.antialias,
        window_s=job.windows.length_s if job.windows else None,
        stride_s=job.windows.stride_s if job.windows else None,
        width=retriever.model.vision_proj.out_features,
        dtype=job.dtype,
        batch=job.batch,
        caption_field=job.captions,
        sources=[dict(source.about) for source in sources],
    )
    return model, sources, facts


def _parts(sources: Sequence[Source]) -> list[_Part]:
    runs = [
        [Unit(place, number) for number in range(start, min(start + source.units_of_a_part, source.units))]
        for place, source in enumerate(sources)
        for start in range(0, source.units, source.units_of_a_part)
    ]
    return [_Part(number, units) for number, units in enumerate(runs)]


def _begin(job: EmbedJob, sources: Sequence[Source], files: PartFiles) -> set[int] | None:
    """The parts that are missing; None where the index is finished."""
    if not files.count:
        raise DataError(f"there are no clips in {', '.join(job.sources)}", hint="look into it with `umt-data sheet`")
    if finished(job.out, files.facts, job.file_format) is not None:
        files.clear()
        return None
    _check_room(job, sources, files.facts)
    return set(files.begin())


def _check_room(job: EmbedJob, sources: Sequence[Source], facts: Facts) -> None:
    """Raises MachineError where the vectors do not fit on the disk. Windows are not known before they are made."""
    there = next(one for one in (job.out, *job.out.absolute().parents) if one.exists())
    clips = sum(source.units for source in sources) * job.batch
    needed, free = 2 * clips * facts.width * np.dtype(facts.dtype).itemsize, free_bytes(there)
    if job.windows is None and free is not None and needed > free:
        raise MachineError(
            f"the embeddings of {clips:,} clips, in parts and put together, are {needed / 1e9:,.3g} GB, and the disk "
            f"of {job.out} has {free / 1e9:,.3g} GB left",
            hint="choose another place: -o INDEX",
        )


def _require_one_disk(files: PartFiles) -> None:
    """Raises MachineError on all ranks where one of them does not see the folder of the first."""
    if not all(gather_objects((files.folder / "job.json").exists())):
        raise MachineError(
            f"{files.index} is not the same folder on all ranks",
            hint="name a folder of a disk that all nodes share: -o INDEX",
        ).by_all_ranks()


# ---------------------------------------------------------------- the parts of a rank


@dataclass(frozen=True)
class _Embedded:
    """vectors: f32 [N,C], of N rows. texts: f32 [M,C], of all their captions."""

    unit: Unit
    made: Made
    vectors: Tensor
    texts: Tensor


def _make(
    parts: Sequence[_Part], files: PartFiles, sources: Sequence[Source], model: SearchModel, job: EmbedJob
) -> None:
    units = [unit for part in parts for unit in part.units]
    workers = job.run.config.data.workers
    with (
        progress(total=len(units), unit="batch", desc=f"embed {job.run.name}", disable=not is_first_rank()) as bar,
        closing(_made(units, sources, workers)) as made,
    ):

        def embed(unit: Unit, of_unit: Made) -> _Embedded:
            bar.update()
            return _embedded(unit, of_unit, model)

        for part in parts:
            found = [embed(unit, next(made)) for unit in part.units]
            more = [unit for one in found for unit in one.made.more]
            bar.total = (bar.total or 0) + len(more)
            with closing(_made(more, sources, workers)) as following:
                found += [embed(unit, next(following)) for unit in more]
            found.sort(key=lambda one: (one.unit.source, one.unit.number, one.unit.first))
            files.write(part.number, _tables(found, files.facts), _left_out(found, sources))


def _made(units: Sequence[Unit], sources: Sequence[Source], workers: int) -> Generator[Made]:
    """What each unit shows, in their order; workers make them ahead."""
    nothing = Made((), torch.empty(0, dtype=torch.uint8))

    def make(number: int) -> Made:  # also asked for what lies behind the last
        return sources[units[number].source].make(units[number]) if number < len(units) else nothing

    if not units:
        return
    num_workers = min(workers, len(units))
    pool = WorkerPool(make, first=0, num_workers=num_workers, prefetch=_PREFETCH, stall_limit_s=_STALL_LIMIT_S)
    try:
        for _ in units:
            yield pool.take()
    finally:
        pool.close()
        for source in sources:
            source.close()


@torch.no_grad()
def _embedded(unit: Unit, made: Made, model: SearchModel) -> _Embedded:
    nothing = torch.empty(0, model.width)
    captions = [caption for row in made.rows for caption in row.captions]
    vectors = model.embed_clips(made.pixels) if made.rows else nothing
    texts = model.text.texts(captions) if captions else nothing
    return _without_nan(_Embedded(unit, replace(made, pixels=torch.empty(0)), vectors, texts))


def _without_nan(one: _Embedded) -> _Embedded:
    """Clips whose vector, or that of a caption, is not of numbers are left out: no text would ever find them."""
    rows = one.made.rows
    of_rows = torch.split(one.texts, [len(row.captions) for row in rows])
    good = [bool(v.isfinite().all() and t.isfinite().all()) for v, t in zip(one.vectors, of_rows, strict=True)]
    if all(good):
        return one
    left_out = [LeftOut(row.key, _NAN) for row, is_good in zip(rows, good, strict=True) if not is_good]
    made = replace(one.made, rows=tuple(compress(rows, good)), left_out=(*one.made.left_out, *left_out))
    return _Embedded(one.unit, made, one.vectors[good], torch.cat([one.texts[:0], *compress(of_rows, good)]))


def _tables(found: Sequence[_Embedded], facts: Facts) -> list[tuple[Kind, pa.Table]]:
    rows = [row for one in found for row in one.made.rows]
    tables: list[tuple[Kind, pa.Table]] = []
    clips = {name: [getattr(row, name) for row in rows] for name in ("key", "set", "item", "file", "start_s", "end_s")}
    tables.append((CLIPS, table_of(CLIPS, clips, _numbers([one.vectors for one in found], facts))))
    if facts.caption_field is not None:
        said = [(row, caption) for row in rows for caption in row.captions]
        captions: dict[str, list[Any]] = {name: [getattr(row, name) for row, _ in said] for name in _OF_A_CAPTION}
        captions["caption"] = [caption for _, caption in said]
        tables.append((CAPTIONS, table_of(CAPTIONS, captions, _numbers([one.texts for one in found], facts))))
    return tables


_OF_A_CAPTION = ("key", "set", "item")


def _numbers(vectors: Sequence[Tensor], facts: Facts) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = torch.cat(list(vectors)).numpy().astype(facts.dtype)
    return found


def _left_out(found: Sequence[_Embedded], sources: Sequence[Source]) -> list[LeftOutRow]:
    return [
        (next(iter(sources[one.unit.source].about.values())), left.key, left.reason)
        for one in found
        for left in one.made.left_out
    ]


# ---------------------------------------------------------------- the index


def _join(job: EmbedJob, files: PartFiles, *, seconds: float, device: str, ranks: int) -> str:
    left_out = files.left_out()
    made: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
    made |= {"device": device, "ranks": ranks, "left_out": len(left_out)}
    first = "; ".join(f"{shown(key)} ({shown(reason, 120)})" for _, key, reason in left_out[:3])
    clips = sum(count_rows(files.path(CLIPS, part)) for part in range(files.count))
    if not clips:
        raise DataError(f"none of the clips could be embedded: {first}", hint="`umt-data verify` looks into a set")
    paths = files.join(replace(files.facts, made=made), job.file_format)
    lines = [f"{clips:,} clips, {files.facts.width} numbers each, {job.dtype}: {', '.join(map(str, paths))}"]
    if left_out:
        lines.append(f"left out: {len(left_out)} ({job.out / LEFT_OUT}): {first}{'; …' if len(left_out) > 3 else ''}")
    return "\n".join([*lines, f'{seconds:.1f} s; search it: umt search {job.out} "a text"'])
