"""Parquet files as Hugging Face's `datasets` writes them: pictures or videos as bytes and path, captions, classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

MEDIA = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_parquet(
    path: Path,
    columns: Mapping[str, Sequence[Any]],
    *,
    features: Mapping[str, Any] | None = None,
    group: int = 100,
    **types: pa.DataType,
) -> Path:
    """A file of these columns, of which `types` says the types that are not to be guessed. features: what `datasets`
    says of them; group: rows of a row group."""
    table = pa.table({name: pa.array(list(values), types.get(name)) for name, values in columns.items()})
    if features is not None:
        told = json.dumps({"info": {"features": dict(features)}})
        table = table.replace_schema_metadata({"huggingface": told})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=group)
    return path


def cell(file: Path, *, path: str | None = None) -> dict[str, Any]:
    """A picture or video as a row has it."""
    return {"bytes": file.read_bytes(), "path": file.name if path is None else path}


def classes(*names: str) -> dict[str, Any]:
    """What `datasets` says of a column of classes."""
    return {"names": list(names), "_type": "ClassLabel"}
