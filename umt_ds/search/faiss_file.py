"""An index for faiss: the same vectors in the same order, as `faiss.read_index` reads them. The door to faiss.

An `IndexFlatIP` compares every vector by their product, as `umt search` does; the number that faiss gives of a hit is
its row in the index file. Who wants an approximate index makes it of this one (`reconstruct_n`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from umt_ds.errors import ConfigError, MachineError
from umt_ds.search.index_files import Kind, read_index
from umt_ds.terminal import progress
from umt_ds.whole_file import appearing

_ROWS = 65_536  # that are made float32 together: faiss knows no other


def export_faiss(index: Path, kind: Kind, file: Path) -> int:
    """Write the vectors of an index; how many these are. Raises ConfigError without faiss, DataError for what is no
    index, MachineError where the file cannot be written."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("--export-faiss needs faiss, which is not installed", hint="pip install faiss-cpu") from error
    opened = read_index(index, kind)
    flat = faiss.IndexFlatIP(opened.facts.width)
    with progress(total=len(opened), unit="clip", desc="to faiss") as bar:
        for start in range(0, len(opened), _ROWS):
            rows = np.ascontiguousarray(opened.vectors[start : start + _ROWS], np.float32)
            flat.add(rows)
            bar.update(len(rows))
    try:
        with appearing(file) as partial_file:
            faiss.write_index(flat, str(partial_file))
    except (OSError, RuntimeError) as error:  # faiss raises RuntimeError where it cannot open a file
        raise MachineError(f"{file} cannot be written: {error}", hint="another place: --export-faiss FILE") from error
    return len(opened)
