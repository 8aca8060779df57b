"""A video's score is the mean over its views, as the published merge finds it from what several ranks wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from umt_ds.evaluation.metrics.classification import TOP, mean_probabilities, ranking, top_accuracy


def test_merge_of_views(golden: Callable[[str], Any]) -> None:
    published = golden("recognition.pt")["views"]
    videos, segments, crops = published["videos"], published["segments"], published["crops"]
    # a view that two ranks wrote, because a sampler padded its share, takes its place once
    logits = torch.full((videos, segments, crops, published["classes"]), torch.nan)
    logits[published["row_video"], published["row_segment"], published["row_crop"]] = published["row_logits"].float()
    assert [segments * crops] * videos == published["views"].tolist()
    means = mean_probabilities(logits.flatten(0, 2), views=segments * crops)
    torch.testing.assert_close(means, published["mean_probability"], rtol=0, atol=1e-6)
    ranked = ranking(means, published["labels"])
    assert 100 * top_accuracy(ranked, published["labels"], k=1) == published["top1"]
    assert 100 * top_accuracy(ranked, published["labels"], k=TOP) == published["top5"]
