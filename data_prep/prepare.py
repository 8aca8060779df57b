"""The way every source takes: listing → plan → shards → manifest. Start reading here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.clip import Clip, Listing, Outcome, Refusal, RunOptions, Sample, StoreOptions
from data_prep.decode import decode_clip
from data_prep.engines import Lost, in_order
from data_prep.manifest import Done, Plan, Summary, finish, only_one_run, open_plan
from data_prep.progress import progress
from data_prep.stats import write_stats
from data_prep.writer import disk_full_is_an_error, write_shard

Work = Callable[..., Outcome]  # (clip, *, root, store): decode_clip, or a test's stand-in


def prepare(
    listing: Listing, out: Path, *, name: str, store: StoreOptions, run: RunOptions, work: Work = decode_clip
) -> Summary:
    """Make the set of shards of `listing` (in order) in `out`, or finish one that was begun.

    Raises ConfigError if `out` was begun with other options, MachineError if the disk is full; finished
    shards stay.
    """
    with disk_full_is_an_error(out):
        plan = open_plan(out, name=name, listing=listing, store=store)
        with only_one_run(out):
            build_shards(plan, plan.pending(), run=run, work=work)
            summary = finish(plan)
            write_stats(out)
    return summary


def build_shards(plan: Plan, shards: Sequence[int], *, run: RunOptions, work: Work = decode_clip) -> None:
    """Make some shards of a plan. Each is whole and recorded as done before the next is begun."""
    clips = [clip for shard in shards for clip in plan.clips_of(shard)]
    if not clips:
        return
    work_on = partial(work, root=plan.listing.root, store=plan.store)
    results = in_order(work_on, clips, workers=run.workers, timeout_s=run.timeout_s)
    before = len(plan.listing.clips) - len(clips)
    with (
        closing(results),
        progress(total=before + len(clips), initial=before, unit="clip", desc=plan.name) as bar,
    ):
        outcomes = _outcomes(clips, results, bar)
        for shard in shards:
            _build_shard(plan, shard, islice(outcomes, len(plan.clips_of(shard))))


def _outcomes(clips: Iterable[Clip], results: Iterable[Outcome | Lost], bar: tqdm[Any]) -> Iterator[Outcome]:
    """The results, with those of lost workers as refusals, and the progress bar moved."""
    bad = 0
    for clip, result in zip(clips, results, strict=True):
        outcome = Refusal(clip.source, result.reason) if isinstance(result, Lost) else result
        bad += isinstance(outcome, Refusal)
        bar.set_postfix(bad=bad, refresh=False)
        bar.update()
        yield outcome


def _build_shard(plan: Plan, shard: int, outcomes: Iterable[Outcome]) -> None:
    refused: list[Refusal] = []

    def good() -> Iterator[Sample]:
        for outcome in outcomes:
            if isinstance(outcome, Sample):
                yield outcome
            else:
                refused.append(outcome)

    entry = write_shard(plan.tar(shard), good())
    plan.mark_done(shard, Done(entry, tuple(refused)))
