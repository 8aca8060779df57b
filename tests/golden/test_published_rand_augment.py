"""RandAugment is that of the published code: arguments to 1e-12, pictures to the byte where Pillow is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import __version__ as pillow

from umt_ds.data.pixels.rand_augment import OPERATIONS, Change, argument_of, change_frames

Golden = Callable[[str], Any]


@pytest.fixture
def published(golden: Golden) -> Any:
    return golden("recognition.pt")["rand_augment"]


def same(ours: Any, theirs: Any, *, made_with: str) -> bool:
    """Other versions of Pillow may round otherwise."""
    most = 0 if made_with.split(".")[0] == pillow.split(".")[0] else 1
    return bool(ours.shape == theirs.shape and np.abs(ours.astype(int) - theirs).max() <= most)


def test_operations(published: Any) -> None:
    assert list(OPERATIONS) == published["facts"]["ops"]
    frame = published["frame"].numpy()
    height, width, _ = frame.shape
    for case in published["results"]:
        argument = argument_of(case["op"], case["magnitude"], sign=case["sign"] or 1)
        if case["argument"] is not None:
            assert argument == pytest.approx(case["argument"], rel=0, abs=1e-12)
        (ours,) = change_frames(frame[None], [Change(case["op"], argument)], (0, 0, width, height))
        assert same(ours, case["result"].numpy(), made_with=published["pillow"]), case["op"]


def test_chains(published: Any) -> None:
    frame = published["frame"].numpy()
    frames = np.stack([frame, frame[:, ::-1]])
    height, width, _ = frame.shape
    for chain in published["chains"]:
        changes = [
            Change(step["op"], argument_of(step["op"], step["magnitude"], sign=step["sign"]))
            for step in chain["steps"]
            if step["apply"]
        ]
        ours = change_frames(frames, changes, (0, 0, width, height))
        assert same(ours, chain["result"].numpy(), made_with=published["pillow"])
