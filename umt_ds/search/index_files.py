"""An index on disk: vectors of clips (or of their captions) with keys and times, and what made them. The door to
parquet; torch-free.

    INDEX/clips.parquet       a row a clip: key, set, item, file, start_s, end_s, embedding
    INDEX/captions.parquet    a row a caption: key, set, item, caption, embedding (`umt embed --captions`)
    INDEX/left_out.csv        what could not be read, and why
    INDEX/parts/              while it is made: finished parts, and what they are parts of

With --format npz the files end in .npz, and their arrays have the names of the columns. What made them (`Facts`) is
JSON, under `umt_ds` in the metadata of a parquet file and in the array `umt_ds` of an npz file.

Shapes: N rows, C width of an embedding.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray
from pyarrow import parquet

from umt_ds.errors import DataError
from umt_ds.whole_file import appearing

FORMAT = 1
CLIPS: Final = "clips"
CAPTIONS: Final = "captions"
LEFT_OUT, PARTS = "left_out.csv", "parts"
Kind = Literal["clips", "captions"]
FileFormat = Literal["parquet", "npz"]
FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)
Vectors = NDArray[Any]  # f16 or f32 [N,C]
Columns = Mapping[str, Sequence[Any]]

_ABOUT = "umt_ds"  # where `Facts` lie
_COLUMNS: Mapping[Kind, Mapping[str, pa.DataType]] = {
    "clips": {
        "key": pa.string(),
        "set": pa.string(),  # folder of the set; null for a video file
        "item": pa.int64(),  # its number there; null for a video file
        "file": pa.string(),  # the video file, or the shard of the set
        "start_s": pa.float64(),
        "end_s": pa.float64(),
    },
    "captions": {"key": pa.string(), "set": pa.string(), "item": pa.int64(), "caption": pa.string()},
}
_PAGE = 1 << 30  # bytes that a page of vectors may have
_PLAIN = {"PLAIN", "RLE", "BIT_PACKED"}  # encodings: of vectors, and of the levels that tell lists apart
_DTYPES = ("float16", "float32")
_DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError)


@dataclass(frozen=True)
class Facts:
    """What made an index. All but `made` decides its vectors: parts of another one do not go with them."""

    run: str  # as it was called
    config: Mapping[str, Any]  # its settings
    weights: str  # file or folder
    averaged: bool  # whether the moving average of the weights was read
    fingerprint: str  # of the weights
    precision: str  # of the model
    vocabulary: str  # its fingerprint
    max_tokens: int
    frames: int
    frames_rule: str
    side: int
    resize: str
    antialias: bool
    window_s: float | None
    stride_s: float | None
    width: int  # C
    dtype: str  # of the embeddings
    batch: int
    caption_field: str | None
    sources: Sequence[Mapping[str, Any]]
    embedding: str = (
        "of a clip the mean of its frames' unit vectors, so that its product with a caption's unit vector is the "
        "published similarity at temperature 1; of a caption its unit vector"
    )
    format: int = FORMAT
    made: Mapping[str, Any] = field(default_factory=dict)  # date, versions, device, what was left out

    @property
    def decisive(self) -> dict[str, Any]:
        """All that a part has in common with the index that it is a part of. Where weights lie does not count."""
        said = asdict(self)
        return {name: said[name] for name in said if name not in ("made", "run", "weights", "config")}

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def facts_of(text: str, *, where: Path) -> Facts:
    """Raises DataError for what this version did not write."""
    try:
        said = json.loads(text)
        found = Facts(**{name: said[name] for name in (each.name for each in fields(Facts)) if name in said})
        if found.format != FORMAT:
            raise ValueError(f"it is of format {found.format}")
        if not (isinstance(found.config, dict) and isinstance(found.weights, str) and found.dtype in _DTYPES):
            raise ValueError("what it says of its settings, weights or numbers is nothing that is written there")
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{where} is an index of another version of umt_ds ({error})", hint="make it again with `umt embed`"
        ) from error
    return found


# ---------------------------------------------------------------- writing


@contextmanager
def writing_parquet(path: Path, kind: Kind, facts: Facts) -> Iterator[parquet.ParquetWriter]:
    """A file that appears whole when the block ends without an error; `write_table` takes tables of `table_of`."""
    schema = _schema(kind, facts.width, np.dtype(facts.dtype)).with_metadata({_ABOUT: facts.to_json()})
    # vectors do not compress, and are read as they lie: plain, in one page a row group (`_copied_as_they_lie`)
    plain = {"compression": "none", "write_statistics": False, "use_dictionary": list(_COLUMNS[kind])}
    plain["data_page_size"] = _PAGE
    with appearing(path) as partial_file, parquet.ParquetWriter(partial_file, schema, **plain) as writer:
        yield writer


def table_of(kind: Kind, columns: Columns, vectors: Vectors) -> pa.Table:
    """Rows for a file. columns: all of the kind but `embedding`; vectors: of the dtype of the file."""
    arrays = [pa.array(columns[name], kinds) for name, kinds in _COLUMNS[kind].items()]
    schema = _schema(kind, vectors.shape[1], vectors.dtype)
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    embedding = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type)
    return pa.Table.from_arrays([*arrays, embedding], schema=schema)


def _schema(kind: Kind, width: int, dtype: np.dtype[Any]) -> pa.Schema:
    number = pa.field("item", pa.from_numpy_dtype(dtype), nullable=False)
    embedding = pa.field("embedding", pa.list_(number, width), nullable=False)
    return pa.schema([*(pa.field(name, kinds) for name, kinds in _COLUMNS[kind].items()), embedding])


def write_npz(path: Path, kind: Kind, table: pa.Table, facts: Facts) -> None:
    """The same rows as arrays, not compressed: the vectors are mapped, not read. Numbers that a row does not have are
    NaN or -1, texts are empty."""
    missing = {pa.string(): "", pa.int64(): -1, pa.float64(): float("nan")}
    arrays = {name: table[name].fill_null(missing[kinds]).to_numpy() for name, kinds in _COLUMNS[kind].items()}
    texts = {name: array.astype(str) for name, array in arrays.items() if array.dtype == object}  # none are pickled
    arrays |= {**texts, "embedding": _vectors_in(table), _ABOUT: np.array(facts.to_json())}
    with appearing(path) as partial_file, zipfile.ZipFile(partial_file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():  # numpy.savez has no room for an array called `file`
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)


def count_rows(path: Path) -> int:
    """Of a parquet file."""
    return int(parquet.read_metadata(path).num_rows)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class IndexFile:
    """An opened index file. vectors: f16 or f32 [N,C]."""

    path: Path
    kind: Kind
    facts: Facts
    vectors: Vectors

    def __len__(self) -> int:
        return len(self.vectors)

    def rows(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Some rows without their vectors, in the order asked for. What a row does not have is None."""
        try:
            read = _npz_rows if self.path.suffix == ".npz" else _parquet_rows
            return read(self.path, self.kind, numbers)
        except _DAMAGED as error:
            raise _damaged(self.path, error) from error


def index_file(index: Path, kind: Kind = "clips") -> Path:
    """The file of an index: of the folder that `umt embed -o` names, or the file itself. Raises DataError."""
    if index.is_file():
        return index
    found = [file for ending in FORMATS if (file := index / f"{kind}.{ending}").is_file()]
    if found:
        return found[0]
    if not index.is_dir():
        raise DataError(f"{index} is not there", hint="make an index: umt embed RUN SET -o INDEX")
    if (index / PARTS).is_dir():
        raise DataError(f"{index} is not finished", hint="give the `umt embed` command that makes it once more")
    others = [file.name for ending in FORMATS for file in index.glob(f"*.{ending}")]
    if kind == "captions" and others:
        raise DataError(f"{index} has no captions", hint="make it again with `umt embed … --captions`")
    raise DataError(f"{index} is no index: it has no {kind}.parquet", hint="name the folder of `umt embed -o`")


def read_index(index: Path, kind: Kind = "clips") -> IndexFile:
    """Open an index: an npz file is mapped, a parquet file read with all cores. Raises DataError for what is none, or
    of the other kind."""
    path = index_file(index, kind)
    try:
        text, found, vectors = (_open_npz if path.suffix == ".npz" else _open_parquet)(path)
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    if found != kind:
        hint = "name the folder of `umt embed -o`; --captions searches among captions"
        raise DataError(f"{path} holds {found}, and {kind} are searched", hint=hint)
    facts = facts_of(text, where=path)
    if vectors.ndim != 2 or vectors.shape[1] != facts.width or vectors.dtype != np.dtype(facts.dtype):
        raise DataError(f"{path} is damaged: its embeddings are {vectors.dtype} {vectors.shape}", hint=_AGAIN)
    return IndexFile(path, kind, facts, vectors)


def read_facts(path: Path) -> Facts:
    """What made an index file, without its vectors. Raises DataError."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return facts_of(str(arrays[_ABOUT]), where=path)
        return facts_of(_about(parquet.read_schema(path)), where=path)
    except _DAMAGED as error:
        raise _damaged(path, error) from error


_AGAIN = "make it again with `umt embed`"


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is no index of `umt embed`, or is damaged: {error}", hint=_AGAIN)


def _about(schema: pa.Schema) -> str:
    said = (schema.metadata or {}).get(_ABOUT.encode())
    if said is None:
        raise ValueError(f"it does not say under {_ABOUT} what made it")
    return str(said, "utf-8")


def _open_parquet(path: Path) -> tuple[str, Kind, Vectors]:
    """Vectors are copied from where they lie in the file, without a look at the lengths of lists, which all are C. Of
    groups that others have written, pyarrow makes them, a thread some groups: it rebuilds a list a row."""
    with parquet.ParquetFile(path, memory_map=True) as file:
        schema, metadata = file.schema_arrow, file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        embedding = schema.field("embedding").type
        vectors = np.empty((sum(counts), embedding.list_size), embedding.value_type.to_pandas_dtype())
        ends = np.cumsum([0, *counts])
        others = []
        with path.open("rb") as content:
            for group, (begin, end) in enumerate(pairwise(ends)):
                if not _copied_as_they_lie(content, metadata.row_group(group), vectors[begin:end]):
                    others.append(group)
    some = np.array_split(others, min(len(others), 4 * _cores())) if others else []
    with ThreadPoolExecutor(_cores()) as threads:
        list(threads.map(partial(_read_groups, path, vectors, ends), [list(map(int, each)) for each in some]))
    return _about(schema), "captions" if "caption" in schema.names else "clips", vectors


def _copied_as_they_lie(content: BufferedReader, group: parquet.RowGroupMetaData, vectors: Vectors) -> bool:
    """Whether the vectors of a row group lie together in the file; then they are copied into `vectors`.

    They are plain and not compressed, so they are as many in all pages together. A page that is as large as that holds
    them all, behind the levels (which tell lists apart), and ends with its column.
    """
    column = next(
        chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema.startswith("embedding.")
    )
    if column.compression != "UNCOMPRESSED" or column.has_dictionary_page or not set(column.encodings) <= _PLAIN:
        return False
    content.seek(column.data_page_offset)
    if not 0 < vectors.nbytes <= _page_size(content.read(16)):
        return False
    content.seek(column.data_page_offset + column.total_compressed_size - vectors.nbytes)
    return content.readinto(vectors.data.cast("B")) == vectors.nbytes


def _page_size(header: bytes) -> int:
    """Bytes of a page of data behind its header: its third number, after its kind, which is 0, and what it would have
    if it were not compressed. 0 where the header does not begin so. (Parquet's PageHeader in Thrift's compact protocol:
    before each number 0x15; numbers doubled, in bytes of seven bits, the lowest first.)"""
    numbers: list[int] = []
    place = 0
    while len(numbers) < 3 and header[place : place + 1] == b"\x15":
        number, shift, place = 0, 0, place + 1
        while place < len(header):
            number |= (header[place] & 0x7F) << shift
            shift, place = shift + 7, place + 1
            if header[place - 1] < 0x80:
                break
        numbers.append(number >> 1)
    return numbers[2] if len(numbers) == 3 and numbers[0] == 0 else 0


def _read_groups(path: Path, vectors: Vectors, ends: NDArray[np.int64], groups: list[int]) -> None:
    for group in groups:
        with parquet.ParquetFile(path, memory_map=True) as file:
            read = file.read_row_group(group, columns=["embedding"], use_threads=False)
            vectors[ends[group] : ends[group + 1]] = _vectors_in(read)


def _cores() -> int:
    return max(1, int(pa.cpu_count()))


def _vectors_in(table: pa.Table) -> Vectors:
    column = table["embedding"].combine_chunks()
    flat: Vectors = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(table), column.type.list_size)


def _parquet_rows(path: Path, kind: Kind, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Of the row groups that hold them alone."""
    with parquet.ParquetFile(path, memory_map=True) as file:
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        ends = np.cumsum(counts)
        groups = np.searchsorted(ends, numbers, side="right")
        tables = {group: file.read_row_group(int(group), columns=list(_COLUMNS[kind])) for group in set(groups)}
    places = [number - (int(ends[group]) - counts[group]) for number, group in zip(numbers, groups, strict=True)]
    return [tables[group].slice(place, 1).to_pylist()[0] for place, group in zip(places, groups, strict=True)]


def _open_npz(path: Path) -> tuple[str, Kind, Vectors]:
    with np.load(path, allow_pickle=False) as arrays:
        about, kind = str(arrays[_ABOUT]), "captions" if "caption" in arrays.files else "clips"
    return about, kind, _mapped(path, "embedding.npy")  # type: ignore[return-value]


def _mapped(path: Path, member: str) -> Vectors:
    """An array of an npz file that is not compressed, where it lies."""
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        info = archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{member} is compressed")
        read_header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        within = file.tell()
    with path.open("rb") as whole:  # the header of a member: 30 bytes, its name, and what zip64 adds
        whole.seek(info.header_offset + 26)
        name_size, extra_size = np.frombuffer(whole.read(4), "<u2").tolist()
    begin = info.header_offset + 30 + name_size + extra_size + within
    # copy on write, as torch wants memory that it may write; nothing is written
    return np.memmap(path, dtype, "c", begin, shape, order="F" if fortran else "C")


def _npz_rows(path: Path, kind: Kind, numbers: Sequence[int]) -> list[dict[str, Any]]:
    columns = {name: _mapped(path, f"{name}.npy")[list(numbers)].tolist() for name in _COLUMNS[kind]}
    return [
        {name: _said(columns[name][row], kinds) for name, kinds in _COLUMNS[kind].items()}
        for row in range(len(numbers))
    ]


def _said(value: Any, kinds: pa.DataType) -> Any:
    """None for what stands for nothing in an npz file."""
    is_nothing = value == -1 if kinds == pa.int64() else value != value or (value == "" and kinds == pa.string())
    return None if is_nothing else value
