"""The way every source takes: listing → plan → shards → manifest. Start reading here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from data_prep.clip import Clip, Listing, Outcome, Refusal, RunOptions, Sample, StoreOptions
from data_prep.decode import check_readable, make_sample
from data_prep.engines import Lost, in_order
from data_prep.manifest import Done, Plan, Summary, finish, only_one_run, open_plan
from data_prep.progress import progress
from data_prep.samples import StoredSample, samples_of
from data_prep.stats import write_stats
from data_prep.writer import disk_full_is_an_error, write_shard
from umt_ds.data.fetch import why_not
from umt_ds.data.records import read_members

Work = Callable[..., Outcome]  # (clip, *, root, media, store): make_sample, or a test's stand-in


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
    Raises ConfigError if `out` was begun with other options, MachineError if the disk is full or a store, disk or
    machine fails; finished shards stay.
    """
    with disk_full_is_an_error(out):
        plan = open_plan(out, name=name, listing=listing, store=store)
        with only_one_run(out):
            shards = plan.pending(retry_failed=retry_failed)
            if before:
                before(plan, shards)
            build_shards(plan, shards, run=run, work=work)
            return close_set(plan, workers=run.workers)


def close_set(plan: Plan, *, workers: int = 1) -> Summary:
    """Manifest, bad.csv and statistics of a set whose shards are all made."""
    summary = finish(plan)
    write_stats(plan.out, workers=workers)
    return summary


def build_shards(plan: Plan, shards: Sequence[int], *, run: RunOptions, work: Work = make_sample) -> None:
    """Make some shards of a plan with the cores of this machine: each is whole, and recorded, before the next begins.

    Of a shard that is done only the clips it refused are worked on; the rest of it is copied. This is the unit that
    a Slurm or Ray task takes.
    """
    begun = plan.done(shards)
    if not shards:
        return
    clips = (clip for shard in shards for clip in _clips_to_make(plan, shard, begun.get(shard)))
    work_on = partial(work, root=plan.root, media=plan.media, store=plan.store)
    results = in_order(work_on, clips, workers=run.workers, timeout_s=run.timeout_s, memory_gb=run.memory_gb)
    total = sum(plan.num_clips_of(shard) for shard in shards)
    with closing(results), progress(total=total, unit="clip", desc=plan.name) as bar:
        bad = 0

        def count(outcome: Outcome) -> None:
            nonlocal bad
            bad += isinstance(outcome, Refusal)
            bar.set_postfix(bad=bad, refresh=False)
            bar.update()

        for shard in shards:
            _build_shard(plan, shard, begun.get(shard), results, count)


def _clips_to_make(plan: Plan, shard: int, before: Done | None) -> tuple[Clip, ...]:
    clips = plan.clips_of(shard)
    if before is None:
        return clips
    refused = {refusal.key for refusal in before.refused}
    return tuple(clip for clip in clips if clip.key in refused)


def _build_shard(
    plan: Plan, shard: int, before: Done | None, results: Iterator[Outcome | Lost], count: Callable[[Outcome], None]
) -> None:
    to_make = {clip.key for clip in _clips_to_make(plan, shard, before)}
    stored = _stored_samples(plan, shard) if before and before.entry else {}
    refused: list[Refusal] = []

    def good() -> Iterator[Sample]:
        for clip in plan.clips_of(shard):
            outcome = _outcome(plan, clip, next(results)) if clip.key in to_make else _copy(stored[clip.key])
            count(outcome)
            if isinstance(outcome, Sample):
                yield outcome
            else:
                refused.append(outcome)

    entry = write_shard(plan.tar(shard), good(), scratch=plan.state)
    plan.mark_done(shard, Done(entry, tuple(refused)))


def _outcome(plan: Plan, clip: Clip, result: Outcome | Lost) -> Outcome:
    """The result, with that of a lost worker as a refusal. Every refusal gets the key by which it can be retried.

    Raises MachineError where the disk, and not the clip, held the worker up.
    """
    if isinstance(result, Sample):
        return result
    reason = result.reason
    if isinstance(result, Lost):
        try:
            check_readable(plan.root / clip.source, root=plan.root)
        except OSError as error:
            reason = why_not(error)
    return Refusal(clip.source, reason, clip.key)


def _stored_samples(plan: Plan, shard: int) -> dict[str, StoredSample]:
    return {sample.key: sample for sample in samples_of(plan.tar(shard))}


def _copy(stored: StoredSample) -> Sample:
    return Sample(stored.key, read_members(stored.tar, stored.members))
