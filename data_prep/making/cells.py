"""Bytes of clips that lie in parquet files, on their way to the workers.

The media of a row group can be gigabytes, and clips go to workers one by one. So the process that writes the shards
reads the rows, once and in their order, and puts the bytes of each clip into a file of the spool, where a worker finds
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from data_prep.clip import Cell, Clip, Refusal
from data_prep.spool import room_for, source_file
from data_prep.tables.parquet_files import CellReader
from umt_ds.data.shards.fetch import why_not
from umt_ds.errors import DataError


def with_bytes(clips: Iterable[Clip], *, root: Path, spool: Path) -> Iterator[Clip | Refusal]:
    """The clips in their order, each when the bytes of its cell are in the spool; a refusal for one whose are damaged
    or not there. Clips that are files pass as they are.

    Raises MachineError where that is the fault of a store, disk or machine.
    """
    with closing(CellReader(root)) as reader:
        for clip in clips:
            cell = Cell.parse(clip.source)
            yield clip if cell is None else _fetched(clip, cell, reader, root=root, spool=spool)


def _fetched(clip: Clip, cell: Cell, reader: CellReader, *, root: Path, spool: Path) -> Clip | Refusal:
    try:
        data = reader.read(*cell)
    except DataError as error:
        reason = error.what.removeprefix(f"{root / cell.file} ")  # the source says which file, and not where it lies
        return Refusal(clip.source, reason, clip.key)
    except OSError as error:  # the file's own: what was not became a MachineError where it was read
        return Refusal(clip.source, why_not(error), clip.key)
    if data is None:
        return Refusal(clip.source, "no bytes", clip.key)
    file = source_file(spool, clip.key)
    with room_for(file):
        file.write_bytes(data)
    return clip
