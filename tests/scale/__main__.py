"""What things cost at scale, in tables: `python -m tests.scale [PART …]`, or `make scale`. Minutes on two cores.

A part is a function that makes its input in a folder, measures, and gives the lines of its table. The one on the index
has options of its own: `python -m tests.scale.index_of_ten_million --help`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.scale import index_of_ten_million
from tests.scale.items_of_ten_million import tables_of_items
from tests.scale.long_videos import items_of_long_videos
from tests.scale.reranking import reranking
from tests.scale.search_of_a_million import search_of_a_million
from tests.scale.stores import preparing_from_a_store, training_from_a_store


def index_mapped(folder: Path) -> Iterator[str]:
    """Two ranks of a run over ten million clips."""
    index_of_ten_million.main(["--set", str(folder / "set")])
    yield ""


PARTS: dict[str, Callable[[Path], Iterator[str]]] = {
    "index": index_mapped,
    "tables": tables_of_items,
    "long": items_of_long_videos,
    "reranking": reranking,
    "search": search_of_a_million,
    "training": training_from_a_store,
    "preparing": preparing_from_a_store,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all")
    for name in parser.parse_args().parts or PARTS:
        with TemporaryDirectory() as folder:
            print(f"\n{name}\n")
            for line in PARTS[name](Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
