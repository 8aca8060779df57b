"""What every command that makes a set does with its listing."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

from data_prep.cli.options import (
    FILE,
    POSITIVE,
    Command,
    dry_run,
    given,
    run_options,
    say_unused,
    store_options,
    where_options,
)
from data_prep.clip import ExecutionOptions, Listing, RunOptions, StoreOptions
from umt_ds.errors import EXIT_FAILED, ConfigError, printable, shown

if TYPE_CHECKING:
    from data_prep.leaks.exclusion import KeyList
    from data_prep.sources.set_items import SetItems
    from data_prep.state.manifest import Summary
    from data_prep.state.plan import Plan


_OF_THE_WORK = ("workers", "timeout", "memory", "max_bad")  # options that a plan does not hold


@dataclass(frozen=True)
class BuildJob:
    """The options that all such commands share."""

    name: str | None
    limit: int | None
    exclude: Sequence[Path]
    retry_failed: bool
    dry_run: bool
    where: ExecutionOptions
    run: RunOptions
    store: StoreOptions = field(default_factory=StoreOptions)
    plan_only: bool = False

    def key_lists(self) -> list[KeyList]:
        """The --exclude lists."""
        from data_prep.leaks.exclusion import read_keys

        return [read_keys(path) for path in self.exclude]

    def without_excluded(self, listing: Listing) -> Listing:
        """The listing without the keys of the --exclude lists."""
        from data_prep.leaks.exclusion import exclude

        return exclude(listing, self.key_lists())

    def make(self, listing: Listing, out: Path) -> None:
        """Make the set, or send it to where it is made, and say what came out.

        Ends the program with exit code 1 if more than --max-bad of the clips were refused.
        """
        check_store(listing.media, self.store)
        listing = self.without_excluded(listing).first_in_order(self.limit)
        for note in listing.notes:
            click.echo(printable(note), err=True)
        say_unused([*unused_options(listing.media, self.store), *self.where.unused()])
        name = self.name or out.name or out.resolve().name
        habits = self._habits()  # refused before anything is written
        if self.dry_run:
            click.echo("\n".join([*self._dry(listing, out, name), *habits]))
            return
        if self.plan_only:
            self._plan(listing, out, name)
            return
        match self.where.engine:
            case "local":
                self._locally(listing, out, name)
            case "slurm":
                self._with_slurm(listing, out, name)
            case "ray":
                self._with_ray(listing, out, name)

    def _plan(self, listing: Listing, out: Path, name: str) -> None:
        from data_prep.state.plan import begin

        if unused := given(*_OF_THE_WORK):
            click.echo(f"not in the plan: {', '.join(unused)}; give that to `umt-data work`", err=True)
        begun = begin(out, name=name, listing=listing, store=self.store, retry_failed=self.retry_failed)
        with begun as (plan, _):
            _say_growth(plan)
            shards = plan.pending(retry_failed=self.retry_failed)
        retry = " --retry-failed" if self.retry_failed else ""
        place = shlex.quote(str(out))
        parts = min(max(1, len(shards)), ExecutionOptions.tasks)
        click.echo(f"{plan.name}: {plan.num_clips:,} clips in {plan.num_shards:,} shards, {len(shards):,} to be made")
        click.echo(f"umt-data work {place} --part 0/{parts}{retry}   … to {parts - 1}/{parts}, of any number, anywhere")
        click.echo(
            f"umt-data finish {place}   when all of them have ended"
            if retry
            else "the part that ends last writes the manifest; `umt-data finish` says which shards are missing"
        )

    def make_table(self, items: SetItems, out: Path) -> None:
        """Write a table of items, and say what came out. `refuse_what_copies` comes before."""
        from data_prep.making.selection import write_selection

        items = items.first_in_order(self.limit)
        for note in items.notes:
            click.echo(printable(note), err=True)
        say_unused([*unused_options(None, self.store), *self.where.unused()])
        if self.dry_run:
            click.echo(f"would write a table of {len(items):,} items to {out}; nothing is copied")
            click.echo(f"  {len(items.left_out):,} items left out")
            return
        click.echo(write_selection(items, out, name=self.name or out.name or out.resolve().name).text())

    def refuse_what_copies(self) -> None:
        """Raises ConfigError for options of making tars."""
        asked = ["--retry-failed"] if self.retry_failed else []
        asked += ["--plan-only"] if self.plan_only else []
        asked += [] if self.where == ExecutionOptions() else [f"--engine {self.where.engine}"]
        if asked:
            raise ConfigError(f"{', '.join(asked)}: a table is written in a moment", hint="--copy makes tars")

    def _locally(self, listing: Listing, out: Path, name: str) -> None:
        from data_prep.making.prepare import prepare

        def say(plan: Plan, shards: list[int]) -> None:
            _say_growth(plan)
            _say_estimate(plan, shards, self.run, processes=self.run.workers)

        summary = prepare(
            listing, out, name=name, store=self.store, run=self.run, retry_failed=self.retry_failed, before=say
        )
        print_summary(summary, self.run.max_bad)

    def _with_slurm(self, listing: Listing, out: Path, name: str) -> None:
        from data_prep.making.cluster import SlurmOptions, array_of, habits_not_used, start_array, wait_for
        from data_prep.making.prepare import close_set
        from data_prep.state.manifest import summary_of
        from data_prep.state.plan import begin

        begun = begin(out, name=name, listing=listing, store=self.store, retry_failed=self.retry_failed)
        with begun as (plan, claim):
            _say_growth(plan)
            shards = plan.pending(retry_failed=self.retry_failed)
            if not shards:
                print_summary(close_set(plan), self.run.max_bad)
                return
            slurm = SlurmOptions(self.where.tasks, self.where.sbatch, self.where.logs)
            job = array_of(plan, self.run, slurm, retry_failed=self.retry_failed)
            if unused := habits_not_used(job):
                click.echo(f"of cluster.yaml not used here, as they are for training: {', '.join(unused)}", err=True)
            _say_estimate(plan, shards, self.run, processes=job.tasks * self.run.workers)
            claim.share()  # with the tasks, which may begin before this ends
            array, last = start_array(plan, job)
        click.echo(f"job {array}: {len(shards)} shards by {job.tasks} tasks; job {last} then writes the manifest")
        click.echo(f"watch: squeue -j {array},{last}; tail -F {shlex.quote(str(job.folder))}/*.log")
        click.echo(f"stop:  scancel {array} {last}   (the same command continues)")
        if self.where.wait:
            try:
                wait_for(plan, (array, last))
            except KeyboardInterrupt:
                click.echo("\nthe jobs go on without this command", err=True)
                raise
            print_summary(summary_of(plan), self.run.max_bad)

    def _with_ray(self, listing: Listing, out: Path, name: str) -> None:
        from data_prep.making.cluster import ray_cluster
        from data_prep.making.prepare import close_set
        from data_prep.state.plan import begin

        begun = begin(out, name=name, listing=listing, store=self.store, retry_failed=self.retry_failed)
        with begun as (plan, _):
            _say_growth(plan)
            if shards := plan.pending(retry_failed=self.retry_failed):
                with ray_cluster(self.where.ray_address, workers=self.run.workers) as cluster:
                    _say_estimate(plan, shards, self.run, processes=cluster.cores)
                    cluster.build(plan, shards, run=self.run)
            print_summary(close_set(plan), self.run.max_bad)

    def _habits(self) -> list[str]:
        from data_prep.making.cluster import habits_for

        return [f"  {line}" for line in habits_for(self.where.sbatch)] if self.where.engine == "slurm" else []

    def _dry(self, listing: Listing, out: Path, name: str) -> list[str]:
        from data_prep.state.plan import plan_for

        plan, new = plan_for(out, name=name, listing=listing, store=self.store)
        is_begun = plan.growth is not None
        shards = plan.pending(retry_failed=self.retry_failed) if is_begun else list(range(plan.num_shards))
        clips = sum(map(plan.num_clips_of, shards))
        if self.where.engine == "slurm":
            where = f"by a Slurm array of at most {self.where.tasks} tasks with {self.run.workers} cores each"
        else:
            where = f"by {self.run.workers} processes here" if self.where.engine == "local" else "by Ray"
        with_text = sum(bool(clip.captions) for clip in listing.clips)
        told = [f"  {len(listing.labels)} classes, {with_text:,} clips with a caption"]
        if listing.media == "sample":  # whose captions and labels are copied and not looked at
            told = []
        first = f"{plan.tar(shards[0])} … " if shards else ""
        return [
            *([plan.growth.text()] if plan.growth else []),
            f"would make {len(shards)} shards {first}of {clips:,} clips, {where}",
            f"  {_what_is_stored(listing, self.store)}",
            *told,
            f"  {len(listing.left_out):,} entries left out before decoding",
            *(printable(f"  {clip.source} → {clip.key}") for clip in new[:5]),
        ]


def _what_is_stored(listing: Listing, store: StoreOptions) -> str:
    if listing.media == "sample":
        return "samples copied as they are"
    if listing.media == "image":
        return f"one picture a clip, short side {store.short_side}, JPEG quality {store.quality}"
    rate = _which_frames(store)
    match store.store:
        case "frames":
            return f"{rate}, short side {store.short_side}, JPEG quality {store.quality}"
        case "npy":
            return f"{rate}, short side {store.short_side}, uncompressed"
        case "mp4":
            how = ", each frame once" if store.views else f" at {rate}" if store.fps else ""
            return f"whole clips, short side {store.short_side}, H.264{how}"


def _which_frames(store: StoreOptions) -> str:
    if store.views:
        from umt_ds.data.order.views import frames_of

        of_300 = len(frames_of(store.views, 300))
        return f"the frames of {store.views} ({of_300} of a clip of 300 frames)"
    return f"{store.fps:g} frames a second" if store.fps else f"{store.frames} frames a clip"


def check_store(media: str, store: StoreOptions) -> None:
    """Raises ConfigError for what cannot be stored."""
    if media == "image" and store.store == "mp4":
        raise ConfigError("--store mp4 is for videos", hint="leave --store away: pictures are stored as JPEG")


def unused_options(media: str | None, store: StoreOptions) -> list[str]:
    """The options, as they were given, that have no effect on what is stored of such `media`; None: nothing is."""
    match media, store.store:
        case "sample", _:  # copied as they are
            unused = {"frames", "short_side", "quality", "store", "fps", "views"}
        case None, _:
            unused = set(vars(store))
        case "image", stored:
            unused = {"frames", "fps", "views"} | ({"quality"} if stored == "npy" else set())
        case _, "mp4":
            unused = {"frames", "quality"}
        case _, stored:
            unused = ({"frames"} if store.fps else set()) | ({"quality"} if stored == "npy" else set())
    given = {name: value for name, value in vars(store).items() if value != getattr(StoreOptions(), name)}
    return [f"--{name.replace('_', '-')} {value}" for name, value in given.items() if name in unused]


def _say_growth(plan: Plan) -> None:
    """What a listing has besides the clips of the set that was begun; nothing where there was none, or it has not."""
    if plan.growth and plan.growth.is_one:
        click.echo(plan.growth.text(), err=True)


def _say_estimate(plan: Plan, shards: list[int], run: RunOptions, *, processes: int) -> None:
    from data_prep.making.estimate import estimate
    from umt_ds.data.shards.storage import free_bytes

    found = estimate(plan, shards, run=run)
    if found:
        click.echo(found.text(processes=processes, free=free_bytes(plan.out)), err=True)


def print_summary(summary: Summary, max_bad: float) -> None:
    """Print what came out; exit code 1 if more than `max_bad` of the clips were refused."""
    from data_prep.checking.stats import remarks

    click.echo(summary_text(summary))
    for remark in remarks(summary.out):
        click.echo(f"of these samples {remark}")
    if summary.bad_share > max_bad:
        click.echo(f"failed: {summary.bad_share:.1%} of the clips were refused, more than --max-bad", err=True)
        sys.exit(EXIT_FAILED)


def summary_text(summary: Summary) -> str:
    """samples + refused + left out = all, and the most frequent reasons."""
    from collections import Counter

    total = summary.samples + len(summary.refused) + summary.left_out
    parts = [f"{summary.samples:,} samples", f"{len(summary.refused):,} refused"]
    if summary.left_out:
        parts.append(f"{summary.left_out:,} left out before decoding")
    size = f"{summary.bytes / 1e6:,.1f} MB in {summary.shards} shard{'s' * (summary.shards != 1)}"
    lines = [f"{summary.name}: {' + '.join(parts)} = {total:,} in all; {size}, {summary.out}"]
    if summary.refused:
        reasons = Counter(refusal.reason for refusal in summary.refused).most_common(8)
        lines += [f"{count:>8,}  {shown(reason, 200)}" for reason, count in reasons]
    if summary.refused or summary.left_out:
        lines.append(f"see {summary.out}/bad.csv")
    return "\n".join(lines)


def set_options(command: Command) -> Command:
    """Options of every command that makes a set, given to `command` as `making`, a BuildJob."""

    @click.option("--name", help="Name of the set, first part of its file names.  [default: the folder's]")
    @click.option("--limit", type=POSITIVE, help="Only this many clips, a fair sample of them.")
    @click.option("--exclude", multiple=True, type=FILE, help="Leave out the sample keys of this list; repeat.")
    @click.option("--retry-failed", is_flag=True, help="Try again the clips, and only they, that bad.csv lists.")
    @click.option("--plan-only", is_flag=True, help="Start no work: `umt-data work OUT --part 0/64` does it, anywhere.")
    @dry_run
    @where_options
    @run_options
    @store_options
    @wraps(command)
    def wrapped(
        name: str | None,
        limit: int | None,
        exclude: tuple[Path, ...],
        retry_failed: bool,
        dry_run: bool,
        plan_only: bool,
        where: ExecutionOptions,
        run: RunOptions,
        store: StoreOptions,
        **others: object,
    ) -> None:
        if plan_only and where.engine != "local":
            raise ConfigError(f"--plan-only starts no work, and --engine {where.engine} does", hint="give one of them")
        making = BuildJob(name, limit, exclude, retry_failed, dry_run, where, run, store, plan_only)
        command(making=making, **others)

    return wrapped
