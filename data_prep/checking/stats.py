"""`umt-data stats`: what a set of shards holds, in numbers and plots, by its columns (`set_statistics.py`)."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.checking.item_statistics import ItemsOfShard, items_by_shard
from data_prep.checking.set_statistics import pages_of
from data_prep.state.statistics import WORDS, Columns
from umt_ds.data.order.views import ALL, views_of
from umt_ds.data.shards.fetch import read_whole
from umt_ds.data.shards.manifest import Manifest, load_manifest
from umt_ds.data.shards.records import write_json
from umt_ds.data.shards.storage import write_whole
from umt_ds.errors import shown, some

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATS = "stats.json"

# What is measured of each sample: eight bytes each, so ten million samples take half a gigabyte.
NUMBERS = ("duration_s", "fps", "source_short_side", "frames_stored", "captions", "caption_words")
# What is counted. Of kinds beyond _MOST_KINDS (a label of its own for each sample) only the sum is known.
KINDS = ("source_size", "stored_size", *WORDS, "label", "unusable")
_MOST_KINDS, _OTHERS = 100_000, "(others)"
_MOST_LETTERS = 100  # of a kind that a stranger named
_UNUSABLE = {
    "record_error": "json, txt or cls cannot be read",
    "caption_error": "caption is no text",
    "label_error": "label is no whole number",
}

_QUANTILES = {"min": 0, "p5": 5, "median": 50, "p95": 95, "max": 100}
_COLUMNS = (*_QUANTILES, "mean")
_BINS = 40


@dataclass
class _Counts:
    """Numbers and kinds of the samples seen so far."""

    numbers: dict[str, list[NDArray[np.float64]]] = field(default_factory=lambda: {name: [] for name in NUMBERS})
    kinds: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in KINDS})

    def add(self, samples: Columns, names: Container[str]) -> None:
        """Count what some samples say of the numbers and kinds of these names."""
        for name, values in _measured(samples).items():
            if name in names:
                self.numbers[name].append(values[~np.isnan(values)])
        for name, counter in _kinds(samples).items():
            if name in names:
                _merge(self.kinds[name], counter)

    def described(self) -> dict[str, Any]:
        """What `stats.json` says of them."""
        measured = {name: np.concatenate([*parts, np.empty(0)]) for name, parts in self.numbers.items()}
        seconds = measured["duration_s"]
        return {
            "hours": round(float(seconds.sum()) / 3600, 3) if len(seconds) else None,
            "with_caption": int(np.count_nonzero(measured["captions"])),
            "with_label": self.kinds["label"].total(),
            **{name: _distribution(values) for name, values in measured.items()},
            **{name: dict(sorted(_named(counter).items(), key=_most_first)) for name, counter in self.kinds.items()},
        }


def collect_stats(folder: Path, *, workers: int = 1) -> dict[str, Any]:
    """Counts and distributions over all samples; of a table over its items, and over the clips that they use. Where a
    set has no statistics in a file, its tars are read by `workers` processes.

    What training cannot use of a sample is counted as `unusable`. Raises DataError where a shard is missing or damaged.
    """
    manifest = load_manifest(folder)
    views = views_of(manifest.options)
    of_set = _of_table(folder, manifest, workers) if manifest.parts else _of_shards(folder, manifest, workers)
    return {**({"views": views} if views else {}), **of_set}


def _of_shards(folder: Path, manifest: Manifest, workers: int) -> dict[str, Any]:
    counts = _Counts()
    for _, page in pages_of(folder, manifest, workers=workers):
        counts.add(page, (*NUMBERS, *KINDS))
    return {
        "samples": manifest.num_samples,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        **counts.described(),
    }


def _of_table(folder: Path, manifest: Manifest, workers: int) -> dict[str, Any]:
    """A clip counts once for its seconds and pixels, however many items are over it."""
    counts, clips, spans, size = _Counts(), _Clips(), 0, 0
    fields = Counter[str]()
    for of in items_by_shard(folder, workers=workers):
        counts.add(of.columns(manifest.labels), _OF_ITEMS)
        new = of.samples.rows(clips.new(of))
        counts.add(new, [name for name in (*NUMBERS, *KINDS) if name not in _OF_ITEMS])
        size += int(np.nansum(new.numbers("bytes")))
        spans += sum(item.frames is not None for item in of.items)
        fields.update(name for item in of.items for name in item.fields)
    return {
        "samples": manifest.num_samples,
        "clips": clips.count,
        "shards": clips.shards,
        "bytes": size,
        "spans": spans,
        "fields": dict(fields.most_common()),
        **({"protocol": manifest.options["protocol"]} if "protocol" in manifest.options else {}),
        **counts.described(),
    }


# What belongs to an item; the rest to its clip
_OF_ITEMS = ("frames_stored", "captions", "caption_words", "label", "unusable")


class _Clips:
    """The samples that items have used so far."""

    def __init__(self) -> None:
        self._used: dict[tuple[Path, str], NDArray[np.bool_]] = {}  # which samples of a shard

    def new(self, items: ItemsOfShard) -> NDArray[np.int64]:
        """The samples of these items that no item has used before, each once."""
        used = self._used.setdefault(items.place, np.zeros(len(items.samples), np.bool_))
        fresh = np.unique(items.rows[~used[items.rows]])
        used[fresh] = True
        return fresh

    @property
    def count(self) -> int:
        return sum(int(np.count_nonzero(used)) for used in self._used.values())

    @property
    def shards(self) -> int:
        return sum(bool(used.any()) for used in self._used.values())


def write_stats(folder: Path) -> None:
    """Write `folder/stats.json`."""
    write_json(folder / STATS, collect_stats(folder))


def remarks(folder: Path) -> list[str]:
    """What stands in `folder/stats.json` of videos that were stored as they are and look odd so: a line for each."""
    stats = json.loads(read_whole(folder / STATS))
    interlaced = sum(stats["interlaced"].values())
    lines = [f"{count:,} HDR ({kind}), stored without tone mapping" for kind, count in stats["transfer"].items()]
    return [*([f"{interlaced:,} interlaced, stored with both fields in each frame"] if interlaced else []), *lines]


def table(stats: Mapping[str, Any], *, longest: int = 12) -> str:
    """The statistics as text for a terminal; of long counts only the `longest` most frequent."""
    samples = stats["samples"]
    held = f"{stats['shards']:,} shards, {stats['bytes'] / 1e6:,.1f} MB{_hours(stats)}"
    lines = [
        f"{samples:,} {_what_counts(stats)} in {held}",
        f"{stats['with_caption']:,} with a caption, {samples - stats['with_caption']:,} without; "
        f"{stats['with_label']:,} with a label, {samples - stats['with_label']:,} without",
        *_lines_of_table(stats),
        *([f"views: {stats['views']} ({_what_views_store(stats['views'])})"] if "views" in stats else []),
        "",
        f"{'':<18}" + "".join(f"{name:>10}" for name in (*_COLUMNS, "known of")),
    ]
    for name in NUMBERS:
        if numbers := stats[name]:
            columns = "".join(f"{numbers[column]:>10.2f}" for column in _COLUMNS)
            lines.append(f"{name:<18}{columns}{numbers['count']:>10,}")
    lines += [_counted(name, stats[name], longest) for name in KINDS if stats[name]]
    return "\n".join(lines)


def _what_counts(stats: Mapping[str, Any]) -> str:
    return f"items over {stats['clips']:,} clips" if "clips" in stats else "samples"


def _lines_of_table(stats: Mapping[str, Any]) -> Iterator[str]:
    """What is said of a table over other sets, and of the protocol that it was made by."""
    if stats.get("spans"):
        yield f"{stats['spans']:,} items are a part of their clip"
    if stats.get("fields"):
        yield "of their own: " + ", ".join(f"{shown(name)} {count:,}" for name, count in stats["fields"].items())
    if protocol := stats.get("protocol"):
        what = "boxes" if protocol.get("task") == "detection" else "texts"
        of_what = f"{protocol['videos']:,} videos and {protocol['texts']:,} {what} in its files"
        other = "" if protocol["as_published"] else ", which are NOT those of the protocol"
        yield f"protocol {protocol['name']}: {of_what}{other}"
        if protocol["num_missing"]:
            yield f"of these videos {protocol['num_missing']:,} are MISSING in the set: {some(protocol['missing'])}"
        if protocol.get("num_unanswered"):
            yield f"{protocol['num_unanswered']:,} of its questions have NO ANSWER"
        if protocol.get("num_too_long"):
            yield f"{protocol['num_too_long']:,} of these videos are stored BEYOND the seconds that count"


def _what_views_store(views: str) -> str:
    return "every frame of a clip" if views == ALL else "the frames that such an evaluation shows"


def _hours(stats: Mapping[str, Any]) -> str:
    """How much video it is, where anybody says so, and of how many samples that is known."""
    if stats["hours"] is None:
        return ""
    known: int = stats["duration_s"]["count"]
    of_which = f" in the {known:,} that say it" if known < stats.get("clips", stats["samples"]) else ""
    return f", {stats['hours']:,.2f} hours of video{of_which}"


def _counted(name: str, counts: Mapping[str, int], longest: int) -> str:
    """A kind of thing: how many different ones there are, and the most frequent."""
    named = {kind: count for kind, count in counts.items() if kind != _OTHERS}
    first = ", ".join(f"{kind} {count}" for kind, count in list(named.items())[:longest])
    more = f", … {len(named) - longest} more" if len(named) > longest else ""
    others = f", and {counts[_OTHERS]:,} samples with still others" if _OTHERS in counts else ""
    return f"{f'{name} ({len(named)})':<18}  {first}{more}{others}"


def write_plots(stats: Mapping[str, Any], png: Path) -> None:
    """Draw what `collect_stats` found: a histogram of each number, and how the samples spread over the labels."""
    file = io.BytesIO()
    draw_plots(stats).savefig(file, format="png", dpi=100, metadata={"Software": None})
    write_whole(png, file.getvalue())


def draw_plots(stats: Mapping[str, Any]) -> Figure:
    """The figure that `write_plots` writes. It is as high as the names of the labels need it."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    labels = {label: count for label, count in stats["label"].items() if label != _OTHERS}
    named = _rows_of_names(labels)
    figure = Figure(figsize=(18, max(8.0, 1.5 + _INCHES_A_NAME * len(named))), layout="constrained")
    columns = figure.add_gridspec(1, 2, width_ratios=(3, 1.2))
    left, right = (figure.add_subfigure(columns[number]) for number in range(2))
    axes = left.subplots(2, 3).ravel()
    for axis, (name, title) in zip(axes, _HISTOGRAMS.items(), strict=False):
        axis.set_title(title)
        _draw_histogram(axis, stats[name])
    _draw_frequencies(axes[-1], list(labels.values()))
    _draw_names(right.subplots(), named, len(labels))
    left.suptitle(f"{stats['samples']:,} {_what_counts(stats)}, {stats['bytes'] / 1e9:,.2f} GB{_hours(stats)}")
    return figure


_HISTOGRAMS = {
    "duration_s": "duration in s",
    "fps": "frame rate",
    "source_short_side": "short side of the source in pixels",
    "frames_stored": "frames stored",
    "caption_words": "words of the (first) caption",
}
_MOST_NAMED = 60  # labels that are all named on the plot
_FIRST_NAMED = 25  # else so many of the most frequent, and of the rarest
_INCHES_A_NAME, _POINTS_A_NAME = 0.16, 8


# --- some samples


def _measured(samples: Columns) -> dict[str, NDArray[np.float64]]:
    """The numbers of n samples, [n] each; NaN: not known."""
    short_side = np.minimum(samples.numbers("source_width"), samples.numbers("source_height"))
    stored = {name: samples.numbers(name) for name in NUMBERS if name != "source_short_side"}
    return {**stored, "source_short_side": short_side}


def _kinds(samples: Columns) -> dict[str, Counter[str]]:
    """How often each kind occurs among some samples."""
    unusable = {kind: int(np.count_nonzero(samples.is_known(name))) for name, kind in _UNUSABLE.items()}
    return {
        "source_size": _sizes(samples, "source_"),
        "stored_size": _sizes(samples, ""),
        **{name: samples.counts(name) for name in WORDS},
        "label": samples.counts("label_name", "label"),
        "unusable": Counter({kind: count for kind, count in unusable.items() if count}),
    }


def _sizes(samples: Columns, prefix: str) -> Counter[str]:
    sides = [samples.numbers(f"{prefix}{side}") for side in ("width", "height")]
    known = ~np.isnan(sides[0]) & ~np.isnan(sides[1])
    pairs = Counter(zip(*(side[known].tolist() for side in sides), strict=True))
    return Counter({f"{width:.10g}x{height:.10g}": count for (width, height), count in pairs.items()})


def _named(counts: Mapping[str, int]) -> Counter[str]:
    """Kinds as messages show them; two long ones can look alike."""
    named = Counter[str]()
    for kind, count in counts.items():
        named[shown(kind, _MOST_LETTERS)] += count
    return named


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


def _rows_of_names(labels: Mapping[str, int]) -> list[tuple[str, int]]:
    """The labels to name, the most frequent first: all where they are few, else both ends and what is between them."""
    rows = list(labels.items())
    if len(rows) <= _MOST_NAMED:
        return rows
    between = len(rows) - 2 * _FIRST_NAMED
    return [*rows[:_FIRST_NAMED], (f"… {between:,} labels more …", 0), *rows[-_FIRST_NAMED:]]


def _draw_frequencies(axis: Any, counts: Sequence[int]) -> None:
    """A curve from the most to the least frequent label."""
    axis.set_title(f"{len(counts):,} labels")
    if not counts:
        axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes)
        return
    axis.stairs(counts, fill=True)
    axis.set_ylim(bottom=0)
    axis.set_xlabel(f"labels by frequency: {counts[0]:,} … {counts[-1]:,} samples")
    axis.set_ylabel("samples")


def _draw_names(axis: Any, named: Sequence[tuple[str, int]], count: int) -> None:
    """A bar for each label with its name."""
    axis.set_title("labels" if count <= _MOST_NAMED else f"the {_FIRST_NAMED} most frequent and rarest labels")
    axis.barh(range(len(named)), [samples for _, samples in named])  # by place: two long labels can begin alike
    names = [_plain(label, 30) for label, _ in named]
    axis.set_yticks(range(len(named)), labels=names, fontsize=_POINTS_A_NAME)
    axis.set_ylim(len(named) - 0.4, -0.6)  # the most frequent on top, no empty rows
    axis.set_xlabel("samples")


def _plain(label: str, most: int) -> str:
    """A label as matplotlib draws it: between dollar signs it would look for a formula."""
    return shown(label, most).replace("$", r"\$")
