"""An evaluation set gives every item exactly once, in batches that ranks and workers do not change."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.shards import (
    flip_byte,
    frame,
    key_of_sample,
    noisy_frames,
    picture,
    png_frames,
    undecodable,
    write_shards,
)
from umt_ds.data.clip_request import ClipRequest, EvaluationView, middle_frames, published_frames, stored_frames
from umt_ds.data.evaluation import EvalBatch, EvaluationSet
from umt_ds.data.order.views import Rule, Views, frames_of
from umt_ds.data.pixels.augment import centre_view, stretch_view
from umt_ds.errors import DataError


def clip_set(folder: Path, *, batch_size: int = 4, limit: int | None = None, **request: Any) -> EvaluationSet:
    wanted = ClipRequest(**{"frames": middle_frames(2), "side": 16, **request})
    return EvaluationSet(folder, wanted, batch_size=batch_size, limit=limit)


def keys(batch: EvalBatch) -> list[str]:
    return [item.key for item in batch.items]


def test_every_sample_once_in_manifest_order_with_centre_frames(tmp_path: Path) -> None:
    batches = list(clip_set(write_shards(tmp_path), label_fields=["label", "motion"]).batches())
    assert [key for batch in batches for key in keys(batch)] == [key_of_sample(n) for n in range(15)]
    assert [len(batch.items) for batch in batches] == [4, 4, 4, 3]
    assert [item.labels for batch in batches for item in batch.items] == [(n, -1) for n in range(15)]
    assert {item.stored_frames for batch in batches for item in batch.items} == {6}
    # six stored frames, two segments of three: their centres are frames 1 and 4
    expected = np.stack([frame(5, 1, size=(16, 16)), frame(5, 4, size=(16, 16))])
    assert np.array_equal(batches[1].pixels[1].numpy(), expected)


@pytest.mark.parametrize(("world", "num_workers"), [(1, 2), (2, 0), (3, 0), (3, 1), (5, 0)])
def test_ranks_share_whole_batches_and_have_as_many_turns(tmp_path: Path, world: int, num_workers: int) -> None:
    clips = clip_set(write_shards(tmp_path))  # four batches
    alone = list(clips.batches())
    ranks = [list(clips.batches(rank=rank, world=world, num_workers=num_workers)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {-(-4 // world)} == {clips.turns(world)}
    dealt = list(itertools.chain(*zip(*ranks, strict=True)))
    assert [batch.items for batch in dealt[:4]] == [batch.items for batch in alone]
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(dealt, alone, strict=False))
    for empty in dealt[4:]:
        assert (empty.items, empty.left_out) == ((), ())
        assert empty.pixels.shape == (1, 2, 16, 16, 3)


@pytest.mark.parametrize("view", ["centre", "stretched"])
def test_frames_are_resized_with_or_without_antialias(tmp_path: Path, view: EvaluationView) -> None:
    folder = write_shards(tmp_path, [2], members=noisy_frames)
    shown = {}
    for antialias in (True, False):
        (clips,) = clip_set(folder, side=8, view=view, antialias=antialias).batches()
        shown[antialias] = clips.pixels
    stored = np.random.default_rng(0).integers(0, 256, (7, 20, 28, 3), dtype=np.uint8)  # of `noisy_frames`
    of_frames = {"centre": centre_view, "stretched": stretch_view}[view]
    assert np.array_equal(shown[False][0].numpy(), of_frames(stored[[1, 4]], side=8, antialias=False))
    assert not torch.equal(shown[False], shown[True])


def test_a_bad_clip_is_left_out_and_named_and_the_others_keep_their_batches(tmp_path: Path) -> None:
    batches = list(clip_set(write_shards(tmp_path, members=undecodable(3, 4, 5, 6, 7))).batches())
    assert [len(batch.items) for batch in batches] == [3, 0, 4, 3]
    assert keys(batches[2])[0] == key_of_sample(8)
    assert batches[1].pixels.shape == (1, 2, 16, 16, 3), "there is something to put through a model"
    (bad,) = batches[0].left_out
    assert bad.key == key_of_sample(3)
    assert "picture" in bad.reason


def test_bytes_that_do_not_match_their_checksum_leave_a_clip_out(tmp_path: Path) -> None:
    folder = write_shards(tmp_path)
    flip_byte(folder, shard=1, row=0, suffix="001.png")
    left_out = [one for batch in clip_set(folder).batches() for one in batch.left_out]
    assert [(one.key, "CRC" in one.reason) for one in left_out] == [(key_of_sample(5), True)]


def test_what_is_missing_of_a_clip_leaves_it_out_where_that_is_asked(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, [2], members=lambda n: {**png_frames(n), "json": b'{"label": 1}' if n else b"{}"})
    (lacks_one,) = clip_set(folder, label_fields=["label"], needs_labels=True).batches()
    assert keys(lacks_one) == [key_of_sample(1)]
    assert [one.reason for one in lacks_one.left_out] == ["it has no label in 'label'"]
    (silent,) = clip_set(folder, caption_field="caption").batches()
    assert [one.reason for one in silent.left_out] == ["it has no caption in 'caption'"] * 2


def test_a_missing_shard_is_an_error_and_not_left_out(tmp_path: Path, impatient: list[float]) -> None:
    clips = clip_set(write_shards(tmp_path))
    (tmp_path / "tiny-000001.tar").unlink()
    with pytest.raises(DataError, match=r"tiny-000001\.tar cannot be read"):
        list(clips.batches(num_workers=1))


def test_too_much_left_out_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    clips = clip_set(write_shards(tmp_path, members=undecodable(3)))
    left_out = [one for batch in clips.batches() for one in batch.left_out]
    with pytest.raises(DataError, match=r"1 of 15 clips cannot be scored: clip-0003 \("):
        clips.check(left_out)
    EvaluationSet(tmp_path, clips.request, batch_size=4, max_left_out=0.1).check(left_out)
    with pytest.raises(DataError, match="15 of 15"):
        EvaluationSet(tmp_path, clips.request, batch_size=4, max_left_out=1.0).check(left_out * 15)


@pytest.mark.parametrize("batch_size", [3, 7, 50])
def test_a_limit_is_exact_whatever_the_batch(tmp_path: Path, batch_size: int) -> None:
    clips = clip_set(write_shards(tmp_path), batch_size=batch_size, limit=7)
    assert [key for batch in clips.batches() for key in keys(batch)] == [key_of_sample(n) for n in range(7)]
    assert len(clips) == 7


def test_some_items_of_a_set_alone_keep_their_numbers(tmp_path: Path) -> None:
    items = clip_set(write_shards(tmp_path), batch_size=2)
    some = items.only([6, 1, 12])
    assert [[item.number for item in batch.items] for batch in some.batches()] == [[6, 1], [12]]
    assert [key for batch in some.batches() for key in keys(batch)] == [key_of_sample(n) for n in (6, 1, 12)]
    assert (len(some), len(items)) == (3, 15)
    assert list(items.only([]).batches()) == []


def test_the_same_clip_in_two_sets_has_one_content(tmp_path: Path) -> None:
    one = clip_set(write_shards(tmp_path / "one", [3]))
    other = clip_set(write_shards(tmp_path / "other", [3], first=1))
    first, second = ([item.content for batch in clips.batches() for item in batch.items] for clips in (one, other))
    assert first[1:] == second[:2]
    assert len({*first, *second}) == 4


def with_places(number: int) -> dict[str, bytes]:
    """Sample `number` with the frames that `--views retrieval:2` stores of eleven: 2 and 7."""
    said = {"source_frames": [2, 7], "clip_frames": [0, 11], "num_frames_total": 11}
    stored = {f"{place:03d}.png": picture(frame(number, source)) for place, source in enumerate((2, 7))}
    return {"json": json.dumps(said).encode(), **stored}


def test_published_frames_are_found_by_their_number_in_the_video(tmp_path: Path) -> None:
    rule = published_frames(Views("retrieval", 2))
    (batch,) = clip_set(write_shards(tmp_path / "views", [3], members=with_places), frames=rule).batches()
    assert batch.pixels[1, :, 0, 0, 1].tolist() == [2, 7], "green is the number of a frame"
    other = clip_set(tmp_path / "views", frames=published_frames(Views("retrieval", 3)))
    with pytest.raises(DataError, match="was not made for the frames of retrieval:3") as raised:
        list(other.batches())
    assert "umt-data … --views retrieval:3" in str(raised.value.hint)


def ramp(number: int) -> dict[str, bytes]:
    """Nine frames of 16 x 40 pixels: red tells the column, green the frame."""
    columns = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :], (16, 40))
    pictures = [np.stack([columns, np.full_like(columns, shot), columns], axis=-1) for shot in range(9)]
    return {"json": b"{}", **{f"{place:03d}.png": picture(one) for place, one in enumerate(pictures)}}


def shown_for_testing(folder: Path, *, rule: Rule = "recognition", segments: int = 1, crops: int = 1) -> EvaluationSet:
    frames = stored_frames(Views(rule, 2, segments))
    return clip_set(folder, frames=frames, view="testing", antialias=False, crops=crops)


def test_a_clip_is_tested_in_all_crops_of_a_segment_before_the_next_segment(tmp_path: Path) -> None:
    clips = shown_for_testing(write_shards(tmp_path, [3], members=ramp), segments=2, crops=3)
    (batch,) = clips.batches()
    assert (clips.request.num_views, batch.pixels.shape) == (6, (18, 2, 16, 16, 3))
    of_one = batch.pixels[6:12].numpy()
    # frames by the loop of METHOD.md, "Views in testing": s = (9 - 1) / 2, clip c begins at int(s / 3 * (c + 1))
    shown = [[round(4 * i) + int(4 / 3 * (c + 1)) for i in range(2)] for c in range(2) for _ in range(3)]
    assert of_one[:, :, 0, 0, 1].tolist() == shown
    assert of_one[:, 0, 0, 0, 0].tolist() == [0, 12, 24] * 2, "squares begin at 0, half and all of 40 - 16 columns"


def test_one_view_is_that_of_validation(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, [1], members=ramp)
    (batch,) = shown_for_testing(folder).batches()
    assert batch.pixels[0, :, 0, 0, 1].tolist() == Views("recognition", 2).validation(9)
    assert batch.pixels[0, 0, 0, :, 0].tolist() == list(range(12, 28))
    (ssv2,) = shown_for_testing(folder, rule="ssv2").batches()
    assert ssv2.pixels[0, :, 0, 0, 1].tolist() == [2, 6], "the centres of two halves of nine frames"


def test_published_test_clips_are_found_among_the_frames_that_a_set_stores(tmp_path: Path) -> None:
    views = Views("recognition", 2, 2)
    kept = frames_of(str(views), 301)

    def members(number: int) -> dict[str, bytes]:
        said = {"source_frames": kept, "clip_frames": [0, 301], "num_frames_total": 301}
        stored = {f"{place:03d}.png": picture(frame(number, source % 256)) for place, source in enumerate(kept)}
        return {"json": json.dumps(said).encode(), **stored}

    request = {"frames": published_frames(views), "view": "testing", "antialias": False}
    (batch,) = clip_set(write_shards(tmp_path, [2], members=members), **request).batches()
    # s = 150; clip c begins at int(150 / 3 * (c + 1))
    assert batch.pixels[:2, :, 0, 0, 1].tolist() == [[50, 200], [100, 250]]


def test_what_a_rank_without_items_puts_through_a_model_has_all_views(tmp_path: Path) -> None:
    clips = shown_for_testing(write_shards(tmp_path, [1], members=ramp), segments=2, crops=3)
    assert clips.empty_batch().pixels.shape == (6, 2, 16, 16, 3)
    (left,) = clips.batches(rank=1, world=2)
    assert (left.items, left.pixels.shape) == ((), (6, 2, 16, 16, 3))


@pytest.mark.parametrize("label", [3, -2])
def test_a_label_that_the_model_has_no_class_for_is_an_error_and_not_left_out(tmp_path: Path, label: int) -> None:
    said = json.dumps({"label": label}).encode()
    folder = write_shards(tmp_path, [1], members=lambda n: {**png_frames(n), "json": said})
    with pytest.raises(DataError) as raised:
        list(clip_set(folder, label_fields=["label"], needs_labels=True, num_classes=3).batches())
    assert raised.value.what == f"{folder}: clip clip-0000 has label={label}, and the model has classes 0 to 2"
