"""What tests of `umt embed` and `umt search` have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.indexes import call, retriever_run
from tests.support.shards import write_shards
from tests.support.videos import write_video
from umt_ds.cli import embed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a set of 15 clips, three videos and a file that is none, and an index of the set."""
    folder = tmp_path_factory.mktemp("search")
    write_shards(folder / "shards")
    for number in range(3):
        write_video(folder / "videos" / "below" / f"v{number}.mp4", frames=20 + 10 * number, fps=10)
    (folder / "videos" / "bad.mp4").write_bytes(b"no video")
    retriever_run(folder)
    call(embed.command, folder / "run", folder / "shards", "-o", folder / "index", "--captions", "--dtype", "float32")
    return folder
