"""What commands show on a terminal: tables and progress bars. The door to tqdm; torch-free."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS_A_LINE = 10.0  # in a log file


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines; the first cell of each row is its name, the others end below one another."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join(cell.rjust(width + 3) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """A tqdm bar on stderr with rate and ETA. Where stderr is no terminal but a log file, a line each ten seconds."""
    if sys.stderr.isatty():
        return tqdm(items, **options)
    return tqdm(items, file=_Lines(sys.stderr), mininterval=_SECONDS_A_LINE, **options)


def write_beside_bars(text: str) -> None:
    """A line on stderr that a bar makes room for."""
    tqdm.write(text, file=sys.stderr)


class _Lines:
    """A file in which each state of a bar is a line: tqdm would write all of them over one, which never ends."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._last = file, ""

    def write(self, text: str) -> None:
        line = text.strip()  # tqdm returns the carriage, and pads with blanks what was longer
        if line and line != self._last:
            self._file.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        self._file.flush()
