"""What a run is, as tables for a reader: its key numbers, its difference from the shipped recipe, its checkpoints."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import get_args

from umt_ds.batch import Media
from umt_ds.config.load import load_run, run_names
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, diff_lines
from umt_ds.engine.manifest import checkpoint_folders, read_checkpoint_manifest
from umt_ds.engine.metrics_file import Record, number_in
from umt_ds.errors import UmtError
from umt_ds.report.history import History

Rows = list[tuple[str, ...]]


def key_numbers(config: RunConfig, history: History) -> Rows:
    """What was trained on what, and how it went: (name, value)."""
    last, optim = history.last, config.optim
    schedule = {name: value for name, value in config.schedule if value is not None}
    lengths = [f"{name.replace('_', ' ')} {value:g}" for name, value in schedule.items() if name != "curve"]
    return [
        ("task", config.task.summary),
        ("data", ", ".join(f"{name}: {source.shards}" for name, source in config.data.sources.items())),
        ("batch", f"{config.batch.global_} clips a step, {config.batch.micro} at a time, "
                  f"{config.data.num_sample} view(s) of each"),
        ("optimiser", f"AdamW, lr {optim.lr:g} ({optim.lr_rule}), weight decay {optim.weight_decay:g}, "
                      f"clipping {optim.clip_grad if optim.clip_grad is not None else 'off'}"),
        ("schedule", ", ".join([config.schedule.curve, *lengths])),
        ("seed", str(config.seed)),
        ("progress", f"step {last['step']}, epoch {number_in(last, 'epoch'):g}, {_logged(last, 'draws')} clips drawn, "
                     f"{len(history.resumed_at) + 1} attempt(s)"),
        *_losses(history),
        ("speed", f"{_median(history, 'clips_per_s'):.1f} views/s (median), "
                  f"{number_in(last, 'gflops_per_clip'):g} GFLOP a view, waiting for data "
                  f"{_median(history, 'data_stall_percent'):.1f} % (median)"),
        *_slowest_rank(history),
        ("faults", f"{_logged(last, 'bad_samples')} draws showed a substitute, "
                   f"{_logged(last, 'skipped_steps')} steps skipped"),
        ("digest of all clips", _logged(last, "digest_total")),
        ("digest of all masks", _logged(last, "mask_digest_total")),
    ]  # fmt: skip


def _logged(record: Record, name: str) -> str:
    return str(record.get(name, "(not logged)"))


def _median(history: History, name: str) -> float:
    """Over the steps that logged it; NaN where none did."""
    return median([value for value in history.values(name) if math.isfinite(value)] or [math.nan])


def _slowest_rank(history: History) -> Rows:
    """Which rank the others waited for most often; nothing where there were no others, or nobody looked."""
    told = [record for record in history.records if number_in(record, "slowest_rank_ms") > 0]  # alone: 0
    if not told:
        return []
    rank, times = Counter(_logged(record, "slowest_rank") for record in told).most_common(1)[0]
    late_ms = median(number_in(record, "slowest_rank_ms") for record in told)
    return [
        (
            "slowest rank",
            f"rank {rank} in {100 * times / len(told):.0f} % of the logged steps; the last one came {late_ms:.1f} ms a "
            "step after the others (median)",
        )
    ]


def _losses(history: History) -> Rows:
    """The loss of the first and the last logged step; by medium where steps show one only, since a clip's
    loss is no image's."""
    by_media: dict[str, list[Record]] = {}
    for record in history.records:
        shown = [medium for medium in get_args(Media) if any(name.startswith(f"{medium}_") for name in record)]
        by_media.setdefault(" and ".join(shown), []).append(record)
    return [
        (
            f"loss, {media}" if media else "loss",
            " → ".join(f"{number_in(r, 'loss'):.4f} at step {r['step']}" for r in (some[0], some[-1])),
        )
        for media, some in by_media.items()
    ]


def recipe_difference(config: RunConfig) -> tuple[str, list[str]] | None:
    """The shipped recipe with the run's name, and `key: recipe → run` for what differs; None if there is none."""
    for name in run_names():
        recipe = load_run(name, keep_unset=True)
        if recipe.name == config.name:
            return name, diff_lines(as_tree(recipe), as_tree(config))
    return None


def checkpoint_rows(run: Path) -> Rows:
    """Step, how it ran, size, when: one row a checkpoint, newest first. One that cannot be read says why."""
    rows: Rows = []
    for folder in checkpoint_folders(run):
        try:
            manifest = read_checkpoint_manifest(folder)
        except UmtError as error:
            rows.append((folder.name, error.what))
            continue
        size = sum(entry["bytes"] for entry in manifest.files.values()) / 2**20
        how = f"{manifest.world} rank(s), ZeRO {manifest.zero_stage}, {manifest.precision}"
        rows.append((folder.name, how, f"{size:.1f} MiB", manifest.written, manifest.numbers_hash))
    return rows


def origin_rows(run: Path) -> Rows:
    """Versions, and content hashes of data and teacher, as the newest checkpoint states them: (name, value)."""
    for folder in checkpoint_folders(run):
        with suppress(UmtError):
            manifest = read_checkpoint_manifest(folder)
            hashes = [(f"content of {name}", value) for name, value in manifest.fingerprints.items()]
            streams = [(f"content of data.{name}", "streamed: this run is inexact") for name in manifest.inexact]
            return [*hashes, *streams, *manifest.versions.items()]
    return []
