"""The table of families in METHOD.md is what the code builds: one model of each row, on torch's meta device."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch

from tests.support.paths import REPO
from umt_ds.models.layers import CLIP, IMAGENET
from umt_ds.models.teachers import build_teacher
from umt_ds.models.towers import ClipTower

PIXELS = {"CLIP": CLIP.mean, "ImageNet": IMAGENET.mean, "0.5": (0.5, 0.5, 0.5)}


def rows() -> list[dict[str, str]]:
    page = (REPO / "umt_ds" / "METHOD.md").read_text()
    lines = page.partition("## Teachers of other families")[2].partition("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["for instance"].strip("`"))
def test_each_row_is_what_its_model_is(row: dict[str, str]) -> None:
    name = row["for instance"].strip("`")
    assert any(fnmatchcase(name, pattern) for pattern in re.findall(r"`([^`]+)`", row["names"]))
    with torch.device("meta"):
        teacher = build_teacher(name, layers=2, pixels="own")
    tower: Any = teacher.tower
    assert row == row | {
        "library": "open_clip" if isinstance(tower, ClipTower) or name[0].isupper() else "timm",
        "prefix tokens": str(tower.prefix_tokens),
        "features": "projected, tokens" if tower.features == "projected" else "tokens",
        "masks from": tower.map_source or "–",
        "last block runs on": "kept tokens" if tower.is_lean else "all tokens",
    }
    assert teacher.statistics.mean == PIXELS[row["own pixels"]]
