"""Published caption files, made small, and the rows that a protocol reads from them."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from data_prep.clip import Refusal
from data_prep.protocols import known


def rows(name: str, *files: Path) -> list[dict[str, Any]]:
    """What protocol `name` asks, in its order."""
    return [one[1] for one in known.protocol(name).read(files) if isinstance(one, tuple)]


def reasons(name: str, *files: Path) -> dict[str, int]:
    """Why entries of the files are no rows, and how many are none for each."""
    return Counter(one.reason for one in known.protocol(name).read(files) if isinstance(one, Refusal))


def as_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def as_lines(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def as_sqlite(path: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
    """Table annos, as UMT and VindLU write it; a list is json in its cell."""
    columns = list(entries[0])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE annos (id INTEGER, {', '.join(columns)})")
        for number, entry in enumerate(entries):
            cells = [json.dumps(cell) if isinstance(cell, list) else cell for cell in entry.values()]
            database.execute(f"INSERT INTO annos VALUES (?{', ?' * len(columns)})", [number, *cells])
    return path
