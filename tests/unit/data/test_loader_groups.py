"""What counts as the same in contrast and matching: rows of one `ids`, as tables of retrieval are made of items.

Source: METHOD.md, "Retrieval".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.support.loading import PLAN, spec
from tests.support.shards import noisy_frames, write_shards
from tests.support.video_text_runs import write_items
from umt_ds.batch import Tokens
from umt_ds.data.loader import Loader


class Numbers:
    """The number in a caption is its token."""

    clean = staticmethod(str.strip)

    def __call__(self, captions: list[str]) -> Tokens:
        ids = torch.tensor([[int("".join(filter(str.isdigit, caption)))] for caption in captions])
        return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))


def drawn(folder: Path, rows: Sequence[Mapping[str, Any]], *, seed: int = 3, steps: int = 2) -> list[tuple[int, int]]:
    """(id, number in the caption) of each row that two epochs of an items table show. rows: over three videos."""
    clips, items = folder / "clips", folder / "items"
    if not items.exists():
        write_items(items, write_shards(clips, (2, 1), members=noisy_frames), rows)
    loader = Loader([spec(items)], replace(PLAN, seed=seed, global_draws=12, micro=12), tokenize=Numbers())
    found = []
    for step in range(steps):
        for batch in loader.micro_batches(step):
            assert batch.text is not None
            assert batch.ids is not None
            found += list(zip(batch.ids.tolist(), batch.text.ids[:, 0].tolist(), strict=True))
    loader.close()
    return found


def ids_by(found: Sequence[tuple[int, int]]) -> dict[int, set[int]]:
    """The ids under which each caption was shown."""
    by: dict[int, set[int]] = defaultdict(set)
    for own, number in found:
        by[number].add(own)
    return by


def test_captions_of_one_video_in_several_items_belong_together(tmp_path: Path) -> None:
    rows = [{"key": f"clip-{n // 2:04d}", "caption": f"say {n}"} for n in range(6)]  # two items a video
    by = ids_by(drawn(tmp_path, rows))
    assert sorted(by) == list(range(6)), "each caption is shown"
    assert all(len(ids) == 1 for ids in by.values())
    assert by[0] == by[1]
    assert by[2] == by[3]
    assert len({next(iter(ids)) for ids in by.values()}) == 3


def test_videos_of_one_group_belong_together(tmp_path: Path) -> None:
    """As of Something-Something V2, where the caption is the group."""
    rows = [{"key": f"clip-{n:04d}", "caption": f"say {n}", "group": "a" if n < 2 else "b"} for n in range(3)]
    by = ids_by(drawn(tmp_path, rows))
    assert by[0] == by[1] != by[2]


def test_of_several_captions_an_item_shows_one_a_draw_by_key(tmp_path: Path) -> None:
    rows = [{"key": f"clip-{n:04d}", "caption": [f"say {10 * n + k}" for k in range(5)]} for n in range(3)]
    found = drawn(tmp_path, rows)
    assert found == drawn(tmp_path, rows), "the same draw shows the same caption"
    by = ids_by(found)
    assert all(len(ids) == 1 for ids in by.values())
    assert len(by) > 5, "others are drawn in other epochs"
    assert found != drawn(tmp_path, rows, seed=4)
