"""The parts of an index while it is made: each is written whole, and a later start of the command finds it.

INDEX/parts/job.json               what the parts have in common (`Facts.decisive`), and how many there are
INDEX/parts/clips-00007.parquet    part 7; it is written last of its part, so that a part that has it is finished
INDEX/parts/captions-00007.parquet, INDEX/parts/left_out-00007.json
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from umt_ds.errors import ConfigError, DataError, MachineError
from umt_ds.search.index_files import (
    CAPTIONS,
    CLIPS,
    FORMATS,
    LEFT_OUT,
    PARTS,
    Facts,
    FileFormat,
    Kind,
    read_facts,
    write_npz,
    writing_parquet,
)
from umt_ds.whole_file import write_whole

_KINDS: tuple[Kind, ...] = (CAPTIONS, CLIPS)
LeftOutRow = tuple[str, str, str]  # source, key, reason


@dataclass(frozen=True)
class PartFiles:
    """The parts of the index in the folder `index`, `count` of them. kinds: those of its tables."""

    index: Path
    facts: Facts
    count: int

    @property
    def folder(self) -> Path:
        return self.index / PARTS

    @property
    def kinds(self) -> Sequence[Kind]:
        return [kind for kind in _KINDS if kind == CLIPS or self.facts.caption_field is not None]

    def path(self, kind: Kind, part: int) -> Path:
        return self.folder / f"{kind}-{part:05d}.parquet"

    def begin(self) -> list[int]:
        """The parts that are missing. Raises ConfigError where those that are there are of another job, MachineError
        where nothing can be written."""
        common = {"parts": self.count, **json.loads(json.dumps(self.facts.decisive))}
        job = self.folder / "job.json"
        with refusing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            if not job.exists():
                write_whole(job, json.dumps(common, indent=1) + "\n")
        check_same(common, _read_json(job), where=self.index, begun=True)
        return [part for part in range(self.count) if not self.path(CLIPS, part).exists()]

    def write(self, part: int, tables: Sequence[tuple[Kind, pa.Table]], left_out: Sequence[LeftOutRow]) -> None:
        """One part. Raises MachineError where the disk does not take it."""
        with refusing(self.folder):
            write_whole(self.folder / f"left_out-{part:05d}.json", json.dumps(left_out))
            for kind, table in sorted(tables, key=lambda one: _KINDS.index(one[0])):
                with writing_parquet(self.path(kind, part), kind, self.facts) as writer:
                    writer.write_table(table)

    def left_out(self) -> list[LeftOutRow]:
        """Of all parts."""
        files = [self.folder / f"left_out-{part:05d}.json" for part in range(self.count)]
        return [(str(one[0]), str(one[1]), str(one[2])) for file in files for one in _read_json(file)]

    def join(self, facts: Facts, file_format: FileFormat) -> list[Path]:
        """All parts as the files of the index; then the parts are removed. facts: with what was `made`. Raises
        MachineError where the disk does not take them."""
        with refusing(self.index):
            files = [self._join(kind, facts, file_format) for kind in self.kinds]
            if left_out := self.left_out():
                write_whole(self.index / LEFT_OUT, _as_csv(left_out))
            shutil.rmtree(self.folder)
        return files

    def _join(self, kind: Kind, facts: Facts, file_format: FileFormat) -> Path:
        path = self.index / f"{kind}.{file_format}"
        tables = (parquet.read_table(self.path(kind, part)) for part in range(self.count))
        if file_format == "npz":
            write_npz(path, kind, pa.concat_tables([table.replace_schema_metadata() for table in tables]), facts)
            return path
        with writing_parquet(path, kind, facts) as writer:
            for table in tables:
                writer.write_table(table)
        return path


def finished(index: Path, facts: Facts, file_format: FileFormat) -> Path | None:
    """The clips of an index that is there already. Raises ConfigError where it is another one."""
    for ending in FORMATS:
        path = index / f"{CLIPS}.{ending}"
        if not path.is_file():
            continue
        if ending != file_format:
            raise ConfigError(f"{index} is finished, as {ending}", hint="name another folder: -o INDEX")
        check_same(json.loads(json.dumps(facts.decisive)), read_facts(path).decisive, where=index, begun=False)
        return path
    return None


def check_same(asked: dict[str, Any], there: dict[str, Any], *, where: Path, begun: bool) -> None:
    """Raises ConfigError with the first thing that differs."""
    for name, value in asked.items():
        if there.get(name) != value:
            raise ConfigError(
                f"{where} was {'begun' if begun else 'made'} with other clips, weights or settings: {name} was "
                f"{there.get(name)!r:.200}, and is {value!r:.200}",
                hint=f"name another folder: -o INDEX; or remove {where}",
            )


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read: {error}", hint=f"remove {file.parent} and give the same command again"
        ) from error


def _as_csv(rows: Sequence[LeftOutRow]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([("source", "key", "reason"), *rows])
    return file.getvalue()


@contextmanager
def refusing(place: Path) -> Iterator[None]:
    """What the disk refuses is a MachineError."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{place} cannot be written: {error}",
            hint="free some space, or choose another place: -o INDEX; parts that are finished stay, and the same "
            "command goes on with the others",
        ) from error
