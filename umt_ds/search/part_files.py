"""The parts of an index while it is made: each is written whole, and a later start of the command finds it.

INDEX/parts/job.json               what the parts have in common (`Facts.decisive`), and how many there are
INDEX/parts/clips-00007.parquet    part 7; it is written last of its part, so that a part that has it is finished
INDEX/parts/captions-00007.parquet, INDEX/parts/left_out-00007.json
"""

from __future__ import annotations

import csv
import io
import json
import logging
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

log = logging.getLogger("umt_ds")

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
        there = _read_json(job)
        if not isinstance(there, dict):
            raise _unreadable(job, "it says nothing of an index")
        check_same(common, there, where=self.index, begun=True)
        return [part for part in range(self.count) if not self._is_whole(part)]

    def _is_whole(self, part: int) -> bool:
        """Whether it is finished and can be read. What is left of a damaged one is removed, as if it had not been."""
        clips = self.path(CLIPS, part)
        if not clips.exists():
            return False
        try:
            for kind in self.kinds:
                parquet.read_metadata(self.path(kind, part))
            _read_json(self._left_out(part))
        except (pa.ArrowException, OSError, DataError) as error:
            why = error.what if isinstance(error, DataError) else error
            log.warning("part %d of %s is damaged, and is made again: %s", part, self.index, why)
            with refusing(self.folder):
                clips.unlink()
            return False
        return True

    def clear(self) -> None:
        """Remove the parts of an index that is finished: a kill may have left them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, part: int, tables: Sequence[tuple[Kind, pa.Table]], left_out: Sequence[LeftOutRow]) -> None:
        """One part. Raises MachineError where the disk does not take it."""
        with refusing(self.folder):
            write_whole(self._left_out(part), json.dumps(left_out))
            for kind, table in sorted(tables, key=lambda one: _KINDS.index(one[0])):
                with writing_parquet(self.path(kind, part), kind, self.facts) as writer:
                    writer.write_table(table)

    def left_out(self) -> list[LeftOutRow]:
        """Of all parts."""
        files = [self._left_out(part) for part in range(self.count)]
        return [(str(one[0]), str(one[1]), str(one[2])) for file in files for one in _read_json(file)]

    def join(self, facts: Facts, file_format: FileFormat) -> list[Path]:
        """All parts as the files of the index, its clips last, as an index that has them is finished; then the parts
        are removed. facts: with what was `made`. Raises MachineError where the disk does not take them."""
        with refusing(self.index):
            if left_out := self.left_out():
                write_whole(self.index / LEFT_OUT, _as_csv(left_out))
            files = [self._join(kind, facts, file_format) for kind in self.kinds]
            shutil.rmtree(self.folder)
        return files

    def _left_out(self, part: int) -> Path:
        return self.folder / f"left_out-{part:05d}.json"

    def _join(self, kind: Kind, facts: Facts, file_format: FileFormat) -> Path:
        path = self.index / f"{kind}.{file_format}"
        tables = (_read_table(self.path(kind, part)) for part in range(self.count))
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
            what, was, now = _difference(name, there.get(name), value)
            raise ConfigError(
                f"{where} was {'begun' if begun else 'made'} with other clips, weights or settings: {what} was "
                f"{was!r:.200}, and is {now!r:.200}",
                hint=f"name another folder: -o INDEX; or remove {where}",
            )


def _difference(name: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """What differs, of sources that are as many: what of the first one that is another."""
    if name != "sources" or not isinstance(was, list) or len(was) != len(now):
        return name, was, now
    before, after = next((old, new) for old, new in zip(was, now, strict=True) if old != new)
    if not isinstance(before, dict):
        return name, was, now
    where, *_ = after.values()
    differing = [key for key in after if before.get(key) != after[key]]
    # a count says more than a fingerprint
    what = next((key for key in differing if key != "fingerprint"), "fingerprint")
    return f"{what} of {where}", before.get(what), after[what]


def _read_table(file: Path) -> pa.Table:
    try:
        return parquet.read_table(file)
    except (pa.ArrowException, OSError) as error:
        file.unlink(missing_ok=True)
        raise DataError(
            f"{file} is damaged: {error}", hint="give the same command again: it makes this part anew"
        ) from error


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, why: object) -> DataError:
    return DataError(f"{file} cannot be read: {why}", hint=f"remove {file.parent} and give the same command again")


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
