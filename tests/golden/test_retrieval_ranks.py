"""Retrieval with several captions a video and several videos a caption counts as the published code does.

Every size comes from the files themselves, so that other files of the same form are judged unedited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from torch import Tensor

from umt_ds.data.evaluation import ItemInfo
from umt_ds.evaluation.gallery import gallery_of
from umt_ds.evaluation.metrics.retrieval import retrieval_ranks, retrieval_scores
from umt_ds.evaluation.retrieval import values_of

Golden = Callable[[str], Any]
PUBLISHED = {"t2v": "img", "v2t": "txt"}  # the published code names a direction by what is found


def right_of(videos_of_caption: Sequence[Sequence[int]], videos: int) -> Tensor:
    """bool [V,T] of items as a table has them: where a caption has several videos, they are items of its group."""
    if all(len(some) == 1 for some in videos_of_caption):
        items = [item(some[0], str(text)) for text, some in enumerate(videos_of_caption)]
    else:
        items = [item(v, str(text), group=f"{text}") for text, some in enumerate(videos_of_caption) for v in some]
    found = gallery_of(sorted(items, key=lambda one: one.video))
    assert len(found.videos) == videos
    order = [found.captions.index(str(text)) for text in range(len(videos_of_caption))]
    return found.right[:, order]


def item(video: int, caption: str, *, group: str | None = None) -> ItemInfo:
    return ItemInfo(video, str(video), 0, None, (), (caption,), (0, video), group)


def check_numbers(scores_v2t: Tensor, scores_t2v: Tensor, right: Tensor, metrics: Mapping[str, float]) -> None:
    """Both [V,T]. There, `r_mean` is of means that were rounded."""
    values = values_of(retrieval_scores(scores_v2t, right))
    values |= {k: v for k, v in values_of(retrieval_scores(scores_t2v, right)).items() if k.startswith("t2v")}
    for way, theirs in PUBLISHED.items():
        assert {k: round(values[f"{way}_r{k}"], 2) for k in (1, 5, 10)} == {
            k: metrics[f"{theirs}_r{k}"] for k in (1, 5, 10)
        }
    if scores_v2t is scores_t2v:
        assert values["mean"] == pytest.approx(metrics["r_mean"], abs=0.011)


def test_given_scores_have_the_published_ranks_and_numbers(golden: Golden) -> None:
    for case in golden("retrieval_multi.pt")["matrices"]:
        right = right_of(case["videos_of_caption"], len(case["captions_of_video"]))
        of_texts = retrieval_ranks(case["scores_t2v"].T, right).of_texts
        of_videos = retrieval_ranks(case["scores_v2t"], right).of_videos
        for found, (before, after) in ((of_texts, case["ranks_t2v"]), (of_videos, case["ranks_v2t"])):
            # ours come after their equals; there the order of equals is that of an unstable sort
            assert ((before <= found) & (found <= after)).all(), case["note"]
        if not case["ties"]:
            check_numbers(case["scores_v2t"], case["scores_t2v"].T, right, case["metrics"])


@pytest.mark.parametrize("case", ["model_captions", "model_videos"])
def test_scores_of_a_model_have_the_published_numbers(golden: Golden, case: str) -> None:
    part = golden("retrieval_multi.pt")[case]
    right = right_of(part["videos_of_caption"], len(part["captions_of_video"]))
    check_numbers(part["i2t"], part["i2t"], right, part["metrics_emb"])
    check_numbers(part["i2t_x"], part["t2i_x"].T, right, part["metrics"])  # re-ranked


def test_one_caption_a_video_has_the_published_numbers(golden: Golden) -> None:
    part = golden("retrieval_eval.pt")
    right = right_of([[video] for video in range(len(part["videos"]))], len(part["videos"]))
    check_numbers(part["i2t"], part["i2t"], right, part["metrics_emb"])
    check_numbers(part["i2t_x"], part["t2i_x"].T, right, part["metrics"])
