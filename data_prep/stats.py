"""`umt-data stats`: what a set of shards holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.samples import caption_text, samples_of
from umt_ds.data.records import load_manifest, write_json

STATS = "stats.json"
_QUANTILES = {"min": 0, "p5": 5, "median": 50, "p95": 95, "max": 100}


def collect_stats(folder: Path) -> dict[str, Any]:
    """Counts and distributions over all samples: one pass over their json, no frame is decoded."""
    manifest = load_manifest(folder)
    numbers: dict[str, list[float]] = {"duration_s": [], "fps": [], "frames_stored": [], "caption_words": []}
    counts: dict[str, Counter[str]] = {"stored_size": Counter(), "codec": Counter(), "label": Counter()}
    for shard in manifest.shards:
        for sample in samples_of(folder / shard.file):
            record = sample.record()
            measured = {
                "frames_stored": len(sample.media_members),
                "caption_words": len(caption_text(record).split()),
            }
            for name, values in numbers.items():
                values.append(float(measured.get(name, record.get(name) or 0)))
            for name, value in _kinds(record).items():
                counts[name][value] += 1
    return {
        "samples": manifest.num_samples,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        **{name: _distribution(values) for name, values in numbers.items()},
        **{name: dict(counter.most_common()) for name, counter in counts.items()},
    }


def write_stats(folder: Path) -> None:
    """Write `folder/stats.json`."""
    write_json(folder / STATS, collect_stats(folder))


def table(stats: dict[str, Any], *, longest: int = 12) -> str:
    """The statistics as text for a terminal; of long counts only the `longest` most frequent."""
    lines = [
        f"{stats['samples']:,} samples in {stats['shards']:,} shards, {stats['bytes'] / 1e6:,.1f} MB",
        "",
    ]
    lines.append(f"{'':<16}" + "".join(f"{name:>10}" for name in (*_QUANTILES, "mean")))
    spreads = {name: value for name, value in stats.items() if isinstance(value, dict) and "median" in value}
    for name, spread in spreads.items():
        lines.append(f"{name:<16}" + "".join(f"{number:>10.2f}" for number in spread.values()))
    for name in ("stored_size", "codec", "label"):
        counts = stats[name]
        if counts:
            shown = ", ".join(f"{key} {count}" for key, count in list(counts.items())[:longest])
            more = f", … {len(counts) - longest} more" if len(counts) > longest else ""
            lines.append(f"{name + ' (' + str(len(counts)) + ')':<16}  {shown}{more}")
    return "\n".join(lines)


def _kinds(record: dict[str, Any]) -> dict[str, str]:
    kinds = {}
    if "width" in record and "height" in record:
        kinds["stored_size"] = f"{record['width']}x{record['height']}"
    if "codec" in record:
        kinds["codec"] = str(record["codec"])
    if "label" in record:
        kinds["label"] = str(record.get("label_name", record["label"]))
    return kinds


def _distribution(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    quantiles = np.percentile(values, list(_QUANTILES.values())).tolist()
    return {name: round(q, 3) for name, q in zip(_QUANTILES, quantiles, strict=True)} | {
        "mean": round(float(np.mean(values)), 3)
    }
