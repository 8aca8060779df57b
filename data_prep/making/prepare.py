"""The way every source takes: listing → plan → shards → manifest. Start reading here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.checking.samples import StoredSample, record_or_why_not, samples_of
from data_prep.checking.set_statistics import join_statistics
from data_prep.checking.stats import write_stats
from data_prep.clip import Cell, Clip, Listing, Outcome, Refusal, RunOptions, Sample, StoreOptions
from data_prep.decode import check_readable, make_sample
from data_prep.engines import WorkerFailure, map_ordered, side_by_side
from data_prep.making.cells import with_bytes
from data_prep.spool import bytes_on_disk, forget, member_sizes, source_file, spool_folder
from data_prep.state.claim import SetInUseError, forget_jobs, one_at_a_time
from data_prep.state.done import Done, replace_shard, with_index
from data_prep.state.manifest import Summary, finish
from data_prep.state.plan import Plan, begin, go_on, load_plan
from data_prep.state.statistics import STATISTICS, ShardStatistics, save_page
from data_prep.state.writer import new_shard
from umt_ds.data.shards.fetch import why_not
from umt_ds.data.shards.records import read_members
from umt_ds.data.shards.sample_record import is_of_record
from umt_ds.errors import DataError
from umt_ds.terminal import progress

Work = Callable[..., Outcome]  # (clip, *, root, media, store, spool): make_sample, or a test's stand-in


# A writer takes what 110 workers make of videos, but no more pictures than 14 make, or arrays than 16: `umt bench prep
# --writer`.
WORKERS_A_WRITER = 8


def prepare(
    listing: Listing,
    out: Path,
    *,
    name: str,
    store: StoreOptions,
    run: RunOptions,
    retry_failed: bool = False,
    before: Callable[[Plan, list[int]], None] | None = None,
    work: Work = make_sample,
) -> Summary:
    """Make the set of shards of `listing` (in order) in `out`, or finish one that was begun.

    With `retry_failed`, clips that an earlier run refused are tried again, and only they. `before` is told the plan
    and the shards to come before the work begins.
    Raises ConfigError if `out` was begun with other options, DataError if another command works there, MachineError if
    the disk is full or a store, disk or machine fails; finished shards stay.
    """
    with begin(out, name=name, listing=listing, store=store, retry_failed=retry_failed) as (plan, _):
        shards = plan.pending(retry_failed=retry_failed)
        if before:
            before(plan, shards)
        build_shards(plan, shards, run=run, work=work)
        return close_set(plan)


def close_set(plan: Plan) -> Summary:
    """Manifest, bad.csv and statistics of a set whose shards are all made."""
    summary = finish(plan, statistics_of=join_statistics)
    write_stats(plan.out)
    forget_jobs(plan.state)
    return summary


def close_if_last(out: Path) -> Summary | None:
    """`close_set` of the set in `out`, if all its shards are made and nobody else works in it; else None.

    Each process that makes a part calls it when it has let go of the set. Of several that end at once, one at least
    finds nobody else there: the last to let go, or one that is closing the set already. (But where the file system has
    no locks all may see each other.)
    """
    plan = load_plan(out)
    if plan.num_done() < plan.num_shards:
        return None
    with ExitStack() as stack:
        try:
            plan = stack.enter_context(go_on(out, alone=True))
        except SetInUseError:
            return None
        return close_set(plan)


def build_shards(plan: Plan, shards: Sequence[int], *, run: RunOptions, work: Work = make_sample) -> None:
    """Make some shards of a plan with the cores of this machine: each is whole, and recorded, when it is there.

    Of a shard that is done only the clips it refused are worked on; the rest of it is copied. This is the unit that
    a Slurm or Ray task takes. Where there are many workers, several processes write shards: writer i of n has the
    shards i, i + n, … and its part of the workers.
    """
    if not shards:
        return
    writers = min(-(-run.workers // WORKERS_A_WRITER), len(shards))
    parts = [shards[number::writers] for number in range(writers)]
    runs = [replace(run, workers=(run.workers + number) // writers) for number in range(writers)]
    jobs = [partial(_build_with_one_writer, plan, *each, work) for each in zip(parts, runs, strict=True)]
    with progress(total=sum(map(plan.num_clips_of, shards)), unit="clip", desc=plan.name) as bar:
        bad = 0

        def count(is_bad: bool) -> None:
            nonlocal bad
            bad += is_bad
            bar.set_postfix(bad=bad, refresh=False)
            bar.update()

        if writers == 1:
            jobs[0](count)
        else:
            side_by_side(jobs, told=count)


def _build_with_one_writer(
    plan: Plan,
    shards: Sequence[int],
    run: RunOptions,
    work: Work,
    count: Callable[[bool], None],
) -> None:
    """One shard after another. `count` is told of each clip whether it is refused."""
    begun = plan.done(shards)
    clips = (clip for shard in shards for clip in _clips_to_make(plan, shard, begun.get(shard)))
    with spool_folder() as spool:
        results = map_ordered(
            partial(_work_on, work=work, root=plan.root, media=plan.media, store=plan.store, spool=spool),
            with_bytes(clips, root=plan.root, spool=spool),
            workers=run.workers,
            timeout_s=run.timeout_s,
            memory_gb=run.memory_gb,
            disk_use=partial(_disk_use, spool=spool),
        )
        with closing(results):
            made = _Results(plan, results, spool, count)
            for shard in shards:
                _build_shard(plan, shard, begun.get(shard), made)


def _work_on(clip: Clip | Refusal, *, work: Work, **how: Any) -> Outcome:
    """In a worker. A clip whose bytes could not be had is refused already."""
    return clip if isinstance(clip, Refusal) else work(clip, **how)


def _disk_use(outcome: Outcome, *, spool: Path) -> int:
    if isinstance(outcome, Refusal):
        return 0
    source = source_file(spool, outcome.key)
    return bytes_on_disk(outcome.members) + (source.stat().st_size if source.exists() else 0)


@dataclass(frozen=True)
class _Results:
    """What becomes of clips, in the order in which they were given to the workers."""

    plan: Plan
    results: Iterator[Outcome | WorkerFailure]
    spool: Path
    told: Callable[[bool], None]

    def of(self, clip: Clip) -> Outcome:
        """That of the next clip, which is `clip`. What it has on disk stays until `forget`."""
        outcome = _outcome(self.plan, clip, next(self.results))
        self.count(outcome)
        return outcome

    def count(self, outcome: Outcome) -> None:
        """A clip is done."""
        self.told(isinstance(outcome, Refusal))

    def forget(self, clip: Clip) -> None:
        """Remove what there is on disk of a clip: of a sample that was written, or half of one, where a worker died."""
        forget(self.spool, clip.key)


def _clips_to_make(plan: Plan, shard: int, before: Done | None) -> tuple[Clip, ...]:
    clips = plan.clips_of(shard)
    if before is None:
        return clips
    refused = {refusal.key for refusal in before.refused}
    return tuple(clip for clip in clips if clip.key in refused)


def _build_shard(plan: Plan, shard: int, before: Done | None, results: _Results) -> None:
    with one_at_a_time(plan.state, shard):
        if plan.done_now(shard) == before:
            _write(plan, shard, _made(plan, shard, before, results))
            return
    for clip in _clips_to_make(plan, shard, before):  # another process was given the same shard, and was quicker
        results.of(clip)
        results.forget(clip)


def _write(plan: Plan, shard: int, outcomes: Iterator[Outcome]) -> None:
    """A shard of its clips' outcomes, in order; its samples are counted as they go by."""
    refused: list[Refusal] = []
    counted = ShardStatistics()

    def good() -> Iterator[Sample]:
        for outcome in outcomes:
            if isinstance(outcome, Refusal):
                refused.append(outcome)
                continue
            _count(outcome, counted)
            yield outcome

    with new_shard(plan.tar(shard), good(), scratch=plan.state) as new:
        made, entry = new or (None, None)
        if made and entry:
            save_page(made.with_name(STATISTICS), counted.page(entry.sha256))
        replace_shard(plan.files(shard), made, Done(entry, tuple(refused)))


def _count(sample: Sample, counted: ShardStatistics) -> None:
    members = sample.members
    record = record_or_why_not({suffix: members[suffix] for suffix in members if is_of_record(suffix)})
    counted.add(sample.key, member_sizes(members), record, lambda: members["npy"])


def _made(plan: Plan, shard: int, before: Done | None, results: _Results) -> Iterator[Outcome]:
    """What becomes of each clip of a shard: just made, or copied from the shard that there is."""
    to_make = {clip.key for clip in _clips_to_make(plan, shard, before)}
    stored = _stored_samples(plan, shard, before) if before and before.entry else {}
    for clip in plan.clips_of(shard):
        if clip.key in to_make:
            yield results.of(clip)
            results.forget(clip)  # it is written
            continue
        if clip.key not in stored:
            raise DataError(
                f"{clip.key!r} is neither in {plan.tar(shard)} nor refused in {plan.files(shard).record}",
                hint="delete that record and give the same command again: the shard is made anew",
            )
        copied = _copy(stored[clip.key])
        results.count(copied)
        yield copied


def _outcome(plan: Plan, clip: Clip, result: Outcome | WorkerFailure) -> Outcome:
    """The result, with that of a lost worker as a refusal. Every refusal gets the key by which it can be retried.

    Raises MachineError where the disk, and not the clip, held the worker up.
    """
    if isinstance(result, Sample):
        return result
    reason = result.reason
    if isinstance(result, WorkerFailure) and Cell.parse(clip.source) is None:
        try:
            check_readable(plan.root / clip.source, root=plan.root)
        except OSError as error:
            reason = why_not(error)
    return Refusal(clip.source, reason, clip.key)


def _stored_samples(plan: Plan, shard: int, done: Done) -> dict[str, StoredSample]:
    with_index(plan.files(shard), done)
    return {sample.key: sample for sample in samples_of(plan.tar(shard))}


def _copy(stored: StoredSample) -> Sample:
    return Sample(stored.key, read_members(stored.tar, stored.members))
