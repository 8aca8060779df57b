"""Which caption of a set is right for which of its videos: several for a video, and one for several videos.

    a video     items of the same frames, as a table has them that gives each caption an item
    a query     a caption of an item. Of items that a table puts in one `group` equal captions are one query
    right       a caption is right for all videos that have an item of its group; without a group, for its own video

Shapes: V videos, T captions that are queries.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from umt_ds.data.evaluation import ItemInfo


@dataclass(frozen=True)
class Gallery:
    """videos: of each of the V the place of its first item. captions: the T queries. right: bool [V,T]."""

    videos: tuple[int, ...]
    captions: tuple[str, ...]
    right: Tensor


def gallery_of(items: Sequence[ItemInfo]) -> Gallery:
    """Of at least one item with captions. Videos and captions are in the order of the items.

    Source: METHOD.md, "Retrieval".
    """
    videos: list[int] = []
    numbers: dict[tuple[int, ...], int] = {}  # of the videos
    groups: dict[Hashable, set[int]] = {}  # the videos of each
    queries: dict[Hashable, tuple[str, Hashable]] = {}  # caption and group
    for place, item in enumerate(items):
        if item.video not in numbers:
            numbers[item.video] = len(videos)
            videos.append(place)
        group: Hashable = item.video if item.group is None else item.group
        groups.setdefault(group, set()).add(numbers[item.video])
        for nth, caption in enumerate(item.captions):
            # without a group each counts, as published: people say the same of a video
            which: Hashable = (place, nth) if item.group is None else (group, caption)
            queries.setdefault(which, (caption, group))
    right = torch.zeros(len(videos), len(queries), dtype=torch.bool)
    for text, (_, group) in enumerate(queries.values()):
        right[list(groups[group]), text] = True
    return Gallery(tuple(videos), tuple(caption for caption, _ in queries.values()), right)
