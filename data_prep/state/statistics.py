"""The statistics of a set as columns: what each sample says of itself, counted while its shard is written.

    OUT/statistics.arrow                      an Arrow file that pandas, polars and duckdb read; a page a shard, in the
                                              order of the manifest; a row a sample (`SCHEMA`)
    OUT/.umt-data/statistics/000123.arrow     the page of one shard of a set in the making

A page says of which tar it is. One that is missing, or of another tar (a kill can come before the tar is there), is
counted from the tar.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from umt_ds.data.pixels.decode import array_shape
from umt_ds.data.shards.arrow_files import ArrowFile, writing
from umt_ds.data.shards.sample_record import Record, captions_of, has_label, label_of, number_in
from umt_ds.data.shards.suffixes import pixels_of
from umt_ds.errors import DataError, DecodeError

STATISTICS = "statistics.arrow"

# What is not known of a sample is null.
_COLUMNS = {
    "key": pa.string(),
    "video": pa.string(),  # which video it is of: the json's youtube_id, else source, else url
    "media": pa.string(),  # frames, npy, video, image; none
    "bytes": pa.int64(),  # of all its members
    "frames_stored": pa.int64(),
    "duration_s": pa.float64(),  # of the clip
    "fps": pa.float64(),  # of its source
    "width": pa.float64(),  # pixels, as stored
    "height": pa.float64(),
    "source_width": pa.float64(),  # as shown
    "source_height": pa.float64(),
    "captions": pa.int64(),
    "caption_words": pa.int64(),  # of the first
    "label": pa.int64(),
    "label_name": pa.string(),  # also a label that is no whole number, as text
    "codec": pa.string(),
    "interlaced": pa.string(),
    "transfer": pa.string(),
    "record_error": pa.string(),  # why its json, txt or cls cannot be read
    "caption_error": pa.string(),  # why its caption cannot be used
    "label_error": pa.string(),
}
_PAGE = pa.schema(list(_COLUMNS.items()))
SCHEMA = pa.schema([("shard", pa.int32()), ("row", pa.int32()), *_COLUMNS.items()])

WORDS = ("codec", "interlaced", "transfer")  # what the json says in a word
# What names the video of a sample in its json: that of Kinetics, ours, img2dataset's and video2dataset's
VIDEO_FIELDS = ("youtube_id", "source", "url")
_MEASURED = ("duration_s", "fps", "width", "height", "source_width", "source_height")
HEADER_BYTES = 4096  # bytes that hold the header of an array: NumPy writes 128
_TAR = "tar_sha256"


class Columns:
    """Statistics of n samples, in their order."""

    def __init__(self, table: pa.RecordBatch) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """[n] A column of numbers; NaN: not known."""
        return np.asarray(pc.cast(self._table.column(name), pa.float64()).to_numpy(zero_copy_only=False))

    def texts(self, name: str) -> list[str | None]:
        """n texts, or numbers as text; None: not known."""
        return [None if value is None else str(value) for value in self._table.column(name).to_pylist()]

    def is_known(self, name: str) -> NDArray[np.bool_]:
        """[n] Whether a column says something of a sample."""
        return np.asarray(pc.is_valid(self._table.column(name)).to_numpy(zero_copy_only=False))

    def counts(self, *names: str) -> Counter[str]:
        """How often each text, or number as text, of a column occurs, in the order in which they come. Of several
        columns the first counts that says something of a sample."""
        said = pc.coalesce(*(pc.cast(self._table.column(name), pa.string()) for name in names))
        found = pc.value_counts(said).to_pylist()
        return Counter({one["values"]: one["counts"] for one in found if one["values"] is not None})

    def rows(self, chosen: NDArray[np.int64]) -> Columns:
        """Those of some samples, in the order of `chosen`."""
        return Columns(self._table.take(pa.array(chosen)))

    def changed(self, rows: Sequence[Mapping[str, Any]]) -> Columns:
        """The same samples, where `rows` has other values for some columns of each."""
        table = self._table
        for name in dict.fromkeys(name for row in rows for name in row):
            before = table.column(name).to_pylist()
            values = [row.get(name, old) for row, old in zip(rows, before, strict=True)]
            column = table.schema.field(name)
            table = table.set_column(table.schema.get_field_index(name), column, pa.array(values, column.type))
        return Columns(table)


class Page(Columns):
    """Statistics of one shard. tar_sha256: of its tar."""

    def __init__(self, table: pa.RecordBatch, tar_sha256: str) -> None:
        super().__init__(table)
        self.tar_sha256 = tar_sha256

    @property
    def columns(self) -> dict[str, pa.Array]:
        return {name: self._table.column(name) for name in _COLUMNS}


class ShardStatistics:
    """Counts the samples of one shard, in their order."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def add(
        self, key: str, sizes: Mapping[str, int], record: Record | DecodeError, array_start: Callable[[], bytes]
    ) -> None:
        """A sample with members of these sizes by suffix. record: or why it cannot be read. array_start: the first
        bytes of its array, asked for where it is one and its record does not say how many frames it has."""
        self._rows.append({"key": key, "bytes": sum(sizes.values()), **_of_sample(tuple(sizes), record, array_start)})

    def page(self, tar_sha256: str) -> Page:
        """What was counted, of the tar with this hash."""
        columns = [pa.array([row.get(name) for row in self._rows], kind) for name, kind in _COLUMNS.items()]
        return Page(pa.RecordBatch.from_arrays(columns, schema=_PAGE), tar_sha256)


def of_record(record: Record | DecodeError) -> dict[str, Any]:
    """The columns that a record decides; those of which it says nothing are left out."""
    if isinstance(record, DecodeError):
        return {"record_error": _text(record.what)}
    video = next((record[name] for name in VIDEO_FIELDS if record.get(name)), None)
    said = {"video": video, **{name: "yes" if record.get(name) is True else record.get(name) for name in WORDS}}
    return {
        **{name: number for name in _MEASURED if (number := number_in(record, name))},
        **{name: _text(str(value)) for name, value in said.items() if value is not None},
        **of_captions(record),
        **of_label(record),
    }


def of_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that the fields of an item decide, in the place of those of its sample; None: not known."""
    said: dict[str, Any] = {name: number_in(fields, name) for name in _MEASURED if name in fields}
    if "caption" in fields:
        said |= {"captions": None, "caption_words": None, "caption_error": None, **of_captions(fields)}
    if "label" in fields:
        said |= {"label": None, "label_name": None, "label_error": None, **of_label(fields)}
    return said


def of_captions(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that the caption of a record decides."""
    try:
        captions = captions_of(record)
    except DecodeError as error:
        return {"caption_error": _text(error.what)}
    return {"captions": len(captions), **({"caption_words": len(captions[0].split())} if captions else {})}


def of_label(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that the label of a record decides."""
    if not has_label(record):
        return {}
    name = record.get("label_name")
    named = {} if name is None else {"label_name": _text(str(name))}
    try:
        return {"label": label_of(record), **named}
    except DecodeError as error:
        return {"label_name": _text(str(record["label"])), "label_error": _text(error.what), **named}


def frames_stored(suffixes: tuple[str, ...], record: Mapping[str, Any], array_start: Callable[[], bytes]) -> int | None:
    """How many frames a sample with these members stores, without decoding one; None where that is not said: in a
    video of others. `record` is its own."""
    stated = record.get("source_frames")
    media, places = pixels_of(suffixes)
    match media:
        case "frames" | "image":
            return len(places)
        case "npy":
            return len(stated) if isinstance(stated, list) else _length_of_array(array_start())
        case "video":  # `stored_fps`: the video is ours, and a frame of it stands for each of these
            return len(stated) if isinstance(stated, list) and "stored_fps" in record else None
        case "none":
            return None


def _of_sample(
    suffixes: tuple[str, ...], record: Record | DecodeError, array_start: Callable[[], bytes]
) -> dict[str, Any]:
    frames = frames_stored(suffixes, {} if isinstance(record, DecodeError) else record, array_start)
    return {"media": pixels_of(suffixes)[0], "frames_stored": frames, **of_record(record)}


def _length_of_array(start: bytes) -> int | None:
    """T of an array [T,H,W,3], by its header; None where that is none of a clip: `verify` says so."""
    try:
        return array_shape(start[:HEADER_BYTES])[0][0]
    except DecodeError:
        return None


def _text(said: str) -> str:
    """JSON can hold half a character; a column cannot."""
    return said.encode(errors="backslashreplace").decode()


# --- files


def save_page(path: Path, page: Page) -> None:
    """Write the page of one shard to a disk."""
    with writing(path, _PAGE) as writer:
        writer.add(page.columns, {_TAR: page.tar_sha256})


def parse_page(data: bytes, path: Path) -> Page | None:
    """The page whose file `path` holds `data`; None where that is damaged, or of another version: it can be counted."""
    try:
        return _page(ArrowFile(path, _PAGE, hint="", data=data), 0)
    except DataError:
        return None


def write_statistics(path: Path, pages: Iterable[Page]) -> None:
    """Write the file of a set; the same pages give the same bytes."""
    with writing(path, SCHEMA) as writer:
        for shard, page in enumerate(pages):
            place = {"shard": pa.array([shard] * len(page), pa.int32()), "row": pa.array(range(len(page)), pa.int32())}
            writer.add({**place, **page.columns}, {_TAR: page.tar_sha256})


class Statistics:
    """A finished file on a disk of this machine, mapped. Raises DataError where it is none, or has other columns."""

    def __init__(self, path: Path, *, hint: str) -> None:
        self._path, self._hint = path, hint
        self._file = ArrowFile(path, SCHEMA, hint=hint)

    def __len__(self) -> int:
        """Pages."""
        return len(self._file)

    def page(self, shard: int) -> Page:
        """Those of one shard. Raises DataError where the file is damaged."""
        return _page(self._file, shard)


def _page(file: ArrowFile, number: int) -> Page:
    batch, notes = file.page(number, whole=True)
    return Page(batch, notes.get(_TAR, ""))
