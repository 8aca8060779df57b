"""`umt-data stats`: what a set of shards holds, in numbers and plots. One pass over the json; no frame is decoded."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from data_prep.engines import Lost
from data_prep.samples import captions_of, each_shard, records_of
from umt_ds.data.places import write_whole
from umt_ds.data.records import load_manifest, write_json
from umt_ds.errors import DataError

STATS = "stats.json"

# What is measured of each sample: eight bytes each, so ten million samples take half a gigabyte.
NUMBERS = ("duration_s", "fps", "source_short_side", "frames_stored", "captions", "caption_words")
# What is counted. Of kinds beyond _MOST_KINDS (a label of its own for each sample) only the sum is known.
KINDS = ("source_size", "stored_size", "codec", "interlaced", "transfer", "label")
_MOST_KINDS, _OTHERS = 100_000, "(others)"

_QUANTILES = {"min": 0, "p5": 5, "median": 50, "p95": 95, "max": 100}
_COLUMNS = (*_QUANTILES, "mean")
_BINS = 40


@dataclass
class _Counts:
    """What is known of some samples. An absent number is missing from its list, not zero."""

    numbers: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NUMBERS})
    kinds: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in KINDS})

    def add(self, record: Mapping[str, Any], frames_stored: int) -> None:
        """One sample, by its json."""
        captions = captions_of(record)
        measured = {
            **_stated(record),
            "frames_stored": float(frames_stored),
            "captions": float(len(captions)),
            **({"caption_words": float(len(captions[0].split()))} if captions else {}),
        }
        for name, value in measured.items():
            self.numbers[name].append(value)
        for name, kind in _kinds(record).items():
            self.kinds[name][kind] += 1


def collect_stats(folder: Path, *, workers: int = 1) -> dict[str, Any]:
    """Counts and distributions over all samples, by `workers` processes.

    Raises DataError where a shard or the json of a sample is missing or damaged.
    """
    manifest = load_manifest(folder)
    numbers: dict[str, list[NDArray[np.float64]]] = {name: [] for name in NUMBERS}
    kinds: dict[str, Counter[str]] = {name: Counter() for name in KINDS}
    for shard, result in each_shard(_count_shard, folder, desc="stats", workers=workers):
        if isinstance(result, Lost):
            raise DataError(f"{shard.file} could not be read: {result.reason}", hint="run `umt-data verify`")
        for name, values in result.numbers.items():
            numbers[name].append(np.array(values))
        for name, counter in result.kinds.items():
            _merge(kinds[name], counter)
    measured = {name: np.concatenate([*parts, np.empty(0)]) for name, parts in numbers.items()}
    return {
        "samples": manifest.num_samples,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "hours": round(float(measured["duration_s"].sum()) / 3600, 3),
        "with_caption": int(np.count_nonzero(measured["captions"])),
        "with_label": kinds["label"].total(),
        **{name: _distribution(values) for name, values in measured.items()},
        **{name: dict(sorted(counter.items(), key=_most_first)) for name, counter in kinds.items()},
    }


def write_stats(folder: Path, *, workers: int = 1) -> None:
    """Write `folder/stats.json`."""
    write_json(folder / STATS, collect_stats(folder, workers=workers))


def remarks(folder: Path) -> list[str]:
    """What stands in `folder/stats.json` of videos that were stored as they are and look odd so: a line for each."""
    stats = json.loads((folder / STATS).read_bytes())
    interlaced = sum(stats["interlaced"].values())
    lines = [f"{count:,} HDR ({kind}), stored without tone mapping" for kind, count in stats["transfer"].items()]
    return [*([f"{interlaced:,} interlaced, stored with both fields in each frame"] if interlaced else []), *lines]


def table(stats: Mapping[str, Any], *, longest: int = 12) -> str:
    """The statistics as text for a terminal; of long counts only the `longest` most frequent."""
    samples = stats["samples"]
    lines = [
        f"{samples:,} samples in {stats['shards']:,} shards, {stats['bytes'] / 1e6:,.1f} MB, "
        f"{stats['hours']:,.2f} hours of video",
        f"{stats['with_caption']:,} with a caption, {samples - stats['with_caption']:,} without; "
        f"{stats['with_label']:,} with a label, {samples - stats['with_label']:,} without",
        "",
        f"{'':<18}" + "".join(f"{name:>10}" for name in _COLUMNS),
    ]
    for name in NUMBERS:
        if stats[name]:
            lines.append(f"{name:<18}" + "".join(f"{stats[name][column]:>10.2f}" for column in _COLUMNS))
    for name in KINDS:
        counts = stats[name]
        if counts:
            shown = ", ".join(f"{kind} {count}" for kind, count in list(counts.items())[:longest])
            more = f", … {len(counts) - longest} more" if len(counts) > longest else ""
            lines.append(f"{name + ' (' + str(len(counts)) + ')':<18}  {shown}{more}")
    return "\n".join(lines)


def write_plots(stats: Mapping[str, Any], png: Path) -> None:
    """Draw what `collect_stats` found: a histogram of each number, and how the samples spread over the labels."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(15, 8), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for axis, (name, title) in zip(axes, _HISTOGRAMS.items(), strict=False):
        axis.set_title(title)
        _draw_histogram(axis, stats[name])
    _draw_labels(axes[-1], stats["label"])
    figure.suptitle(f"{stats['samples']:,} samples, {stats['hours']:,.1f} hours, {stats['bytes'] / 1e9:,.2f} GB")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    write_whole(png, file.getvalue())


_HISTOGRAMS = {
    "duration_s": "duration in s",
    "fps": "frame rate",
    "source_short_side": "short side of the source in pixels",
    "frames_stored": "frames stored",
    "caption_words": "words of the (first) caption",
}
_MOST_BARS = 30  # labels that can be named on the plot


# --- one sample


def _count_shard(tar: Path) -> _Counts:
    counts = _Counts()
    for sample, record in records_of(tar):
        counts.add(record, len(sample.media_members))
    return counts


def _stated(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that the json states; 0 stands for unknown there."""
    fields = {name: record.get(name) for name in ("duration_s", "fps", "source_width", "source_height")}
    stated = {name: float(value) for name, value in fields.items() if _is_above_zero(value)}
    sides = [stated.pop(name) for name in ("source_width", "source_height") if name in stated]
    return {**stated, "source_short_side": min(sides)} if len(sides) == 2 else stated


def _is_above_zero(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and 0 < value < math.inf


def _kinds(record: Mapping[str, Any]) -> dict[str, str]:
    kinds = {}
    for name, prefix in (("source_size", "source_"), ("stored_size", "")):
        if f"{prefix}width" in record and f"{prefix}height" in record:
            kinds[name] = f"{record[prefix + 'width']}x{record[prefix + 'height']}"
    if "codec" in record:
        kinds["codec"] = str(record["codec"])
    if record.get("interlaced"):
        kinds["interlaced"] = "yes"
    if record.get("transfer"):
        kinds["transfer"] = str(record["transfer"])
    if "label" in record:
        kinds["label"] = str(record.get("label_name", record["label"]))
    return kinds


# --- many samples


def _merge(counts: Counter[str], more: Counter[str]) -> None:
    for kind, count in more.items():
        counts[kind if kind in counts or len(counts) < _MOST_KINDS else _OTHERS] += count


def _most_first(entry: tuple[str, int]) -> tuple[int, str]:
    kind, count = entry
    return -count, kind


def _distribution(values: NDArray[np.float64]) -> dict[str, Any]:
    """Quantiles, mean, number, and a histogram, whose last bin holds all above the 99th percentile too."""
    if not len(values):
        return {}
    quantiles = np.percentile(values, list(_QUANTILES.values())).tolist()
    shown = np.minimum(values, np.percentile(values, 99))
    counts, edges = np.histogram(shown, bins=_BINS)
    return {
        **{name: round(quantile, 3) for name, quantile in zip(_QUANTILES, quantiles, strict=True)},
        "mean": round(float(values.mean()), 3),
        "count": len(values),
        "histogram": {"edges": [round(edge, 4) for edge in edges.tolist()], "counts": counts.tolist()},
    }


# --- plots


def _draw_histogram(axis: Any, distribution: Mapping[str, Any]) -> None:
    if not distribution:
        axis.text(0.5, 0.5, "not stated", ha="center", va="center", transform=axis.transAxes)
        return
    axis.stairs(distribution["histogram"]["counts"], distribution["histogram"]["edges"], fill=True)
    axis.axvline(distribution["median"], color="black", linestyle=":", linewidth=1)
    axis.set_xlabel(f"median {distribution['median']:g}, 95 % below {distribution['p95']:g}")
    axis.set_ylabel("samples")


def _draw_labels(axis: Any, labels: Mapping[str, int]) -> None:
    """Few labels by name, many as a curve from the most to the least frequent."""
    axis.set_title(f"{len(labels):,} labels")
    counts = list(labels.values())
    if not labels:
        axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes)
    elif len(labels) <= _MOST_BARS:
        axis.barh([label[:30] for label in labels], counts)
        axis.invert_yaxis()
        axis.set_xlabel("samples")
    else:
        axis.stairs(counts, fill=True)
        axis.set_ylim(bottom=0)
        axis.set_xlabel(f"labels by frequency: {next(iter(labels))[:24]!r} {counts[0]:,} … {counts[-1]:,}")
        axis.set_ylabel("samples")
