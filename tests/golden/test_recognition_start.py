"""Fine-tuning starts as the published code does: rows of heads, tables of positions, names of tensors.

Every size and name comes from the files themselves, so that other files of the same form are judged unedited.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from umt_ds.classes import classes
from umt_ds.config.load import load_run
from umt_ds.config.tasks.base import ClipShape
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.engine.protocol import InitialWeights
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.presets import vit_size
from umt_ds.tasks.recognition.classes import HeadClasses
from umt_ds.tasks.recognition.head_rows import choose_rows, place_rows
from umt_ds.tasks.recognition.weights import computed_clip, load_initial

Golden = Callable[[str], Any]
Keys = Callable[..., dict[str, tuple[int, ...]]]


def test_rows_of_a_head_of_710_classes_are_the_published_ones(golden: Golden) -> None:
    head = golden("recognition.pt")["head"]
    rows_of = {count: head["maps"].get(count) or list(range(int(count))) for count in map(str, head["results"])}
    assert rows_of
    for count, rows in rows_of.items():
        wanted = head["results"].get(count) or head["results"][int(count)]
        for name, value in wanted.items():
            assert torch.equal(place_rows(head[name], torch.zeros_like(value), rows), value)


def test_without_a_map_400_classes_take_the_first_rows() -> None:
    assert choose_rows(HeadClasses(710), HeadClasses(400)).rows == tuple(range(400))


def test_published_tables_of_positions_are_known_as_computed(golden: Golden) -> None:
    tables = golden("sincos.pt")
    cfg = tables["cfg"]
    base = ClipShape(cfg["base_frames"], cfg["base_side"])
    stretched = {name: found for name in tables if (found := re.fullmatch(r"ft(\d+)(?:_(\d+))?", name))}
    assert stretched
    for name, found in stretched.items():
        clip = ClipShape(int(found[1]), int(found[2] or cfg["base_side"]))
        table = tables[name]
        assert computed_clip(table, width=table.shape[-1], patch=cfg["patch"], bases=[base]) == (clip, base)


def test_every_tensor_of_the_published_files_is_loaded_or_counted(published_keys: Keys) -> None:
    """Full size, names and shapes alone: a head of 710 rows, stage 1 and stage 2 into a ViT-B/16 for K400."""
    head = HeadClasses(400, classes("k400"))
    k710 = {"head.weight": (710, 768), "head.bias": (710,)}
    told = loaded_from(published_keys("keys_finetune_base.txt") | k710, head)
    assert told.startswith(
        "162 tensors loaded; head: its rows are taken to be in the order of published heads; 400 of its 710"
    )
    for name, part in (("keys_stage1_base.txt", "student"), ("keys_stage2_base.txt", "")):
        shapes = published_keys(name, part=part)
        told = loaded_from(shapes, head)
        left_out = [int(count) for count in re.findall(r"(\d+) (?:of|counters)", told.partition("left out: ")[2])]
        assert int(told.split()[0]) == 158
        assert 158 + sum(left_out) == len(shapes)


def loaded_from(shapes: dict[str, tuple[int, ...]], head: HeadClasses) -> str:
    task = load_run("demo/recognition").task
    assert isinstance(task, RecognitionConfig)
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
        module = VideoClassifier(vit_size("vit_b16"), classes=head.count)
    return load_initial(module, InitialWeights(state, "a published file"), task, head).told
