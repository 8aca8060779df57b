"""Evaluation reads every sample of a source exactly once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.shards import frame, key_of_sample, noisy_frames, undecodable, write_shards
from umt_ds.data.evaluation import EvaluationView, iterate_once
from umt_ds.data.pixels.augment import centre_view, stretch_view
from umt_ds.errors import DataError


def test_every_sample_once_in_manifest_order_with_centre_frames(tmp_path: Path) -> None:
    folder = write_shards(tmp_path)
    batches = list(iterate_once(folder, num_frames=2, side=16, batch_size=4, label_fields=["label", "motion"]))
    assert [key for batch in batches for key in batch.keys] == [key_of_sample(n) for n in range(15)]
    assert [len(batch.keys) for batch in batches] == [4, 4, 4, 3]
    assert [n for batch in batches for n in batch.labels["label"].tolist()] == list(range(15))
    assert set(batches[0].labels["motion"].tolist()) == {-1}
    # six stored frames, two segments of three: their centres are frames 1 and 4
    expected = np.stack([frame(5, 1, size=(16, 16)), frame(5, 4, size=(16, 16))])
    assert np.array_equal(batches[1].pixels[1].numpy(), expected)


@pytest.mark.parametrize("view", ["centre", "stretched"])
def test_frames_are_resized_with_or_without_antialias(tmp_path: Path, view: EvaluationView) -> None:
    folder = write_shards(tmp_path, [2], members=noisy_frames)
    shown = {}
    for antialias in (True, False):
        (clips,) = iterate_once(folder, num_frames=2, side=8, batch_size=2, view=view, antialias=antialias)
        shown[antialias] = clips.pixels
    stored = np.random.default_rng(0).integers(0, 256, (7, 20, 28, 3), dtype=np.uint8)  # of `noisy_frames`
    of_frames = {"centre": centre_view, "stretched": stretch_view}[view]
    assert np.array_equal(shown[False][0].numpy(), of_frames(stored[[1, 4]], side=8, antialias=False))
    assert not torch.equal(shown[False], shown[True])


def test_a_bad_clip_is_left_out_and_too_many_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_shards(tmp_path, members=undecodable(3))
    read = iterate_once(folder, num_frames=2, side=16, batch_size=50, max_bad_rate=0.1)
    assert next(read).keys == tuple(key_of_sample(n) for n in range(15) if n != 3)
    assert "clip-0003" in caplog.text
    with pytest.raises(DataError, match="1 of 15 samples are bad"):
        list(iterate_once(folder, num_frames=2, side=16, batch_size=50, max_bad_rate=0.01))


def test_a_limit_is_exact_whatever_the_batch(tmp_path: Path) -> None:
    folder = write_shards(tmp_path)
    for batch_size in (3, 7, 50):
        batches = list(iterate_once(folder, num_frames=1, side=8, batch_size=batch_size, limit=7))
        assert [key for batch in batches for key in batch.keys] == [key_of_sample(n) for n in range(7)]
