"""Several captions a video and several videos a caption: which are right, and what the numbers are of."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from data_prep.making.item_table import read_items, write_table
from data_prep.protocols.known import protocol
from tests.support.shards import frame, picture, write_shards
from umt_ds.batch import Tokens
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet, ItemInfo
from umt_ds.engine.best import hash_of
from umt_ds.evaluation.encode import ALONE, no_beat
from umt_ds.evaluation.evaluator import Scores
from umt_ds.evaluation.gallery import Gallery, gallery_of
from umt_ds.evaluation.metrics.retrieval import retrieval_scores
from umt_ds.evaluation.published import gaps
from umt_ds.evaluation.retrieval import RetrievalEvaluator


def item(*captions: str, video: int, group: str | None = None) -> ItemInfo:
    return ItemInfo(0, "", 0, None, (), captions, (0, video), group)


def pairs(found: Gallery) -> dict[int, list[int]]:
    """Of each caption the videos that it is right for."""
    return {text: column.nonzero()[:, 0].tolist() for text, column in enumerate(found.right.T)}


def test_without_groups_each_caption_is_right_for_its_video_and_equal_ones_are_two_queries() -> None:
    found = gallery_of([item("a", "a", video=4), item("a", "b", video=2)])
    assert found.captions == ("a", "a", "a", "b")
    assert pairs(found) == {0: [0], 1: [0], 2: [1], 3: [1]}


def test_items_of_one_video_are_one_video_of_the_gallery() -> None:
    found = gallery_of([item("a", video=4), item("b", video=2), item("c", video=4)])
    assert found.videos == (0, 1)
    assert (found.captions, pairs(found)) == (("a", "b", "c"), {0: [0], 1: [1], 2: [0]})


def test_a_text_of_a_group_is_one_query_and_right_for_all_of_its_videos() -> None:
    found = gallery_of([item("a", video=1, group="A"), item("b", video=2, group="B"), item("a", video=3, group="A")])
    assert (found.captions, pairs(found)) == (("a", "b"), {0: [0, 2], 1: [1]})


def test_equal_texts_of_two_groups_are_two_queries() -> None:
    """Groups are told apart by the text as it is written: cleaning makes `A [b]` and `A b` one."""
    found = gallery_of([item("a b", video=1, group="A [b]"), item("a b", video=2, group="A b")])
    assert (found.captions, pairs(found)) == (("a b", "a b"), {0: [0], 1: [1]})


def written_out(similar: Sequence[Sequence[float]], right: Sequence[set[int]]) -> list[int]:
    """Of each row the rank from 1 of the best right column: one more than the wrong ones that are as good or better."""
    ranks = []
    for row, own in zip(similar, right, strict=True):
        best = max(row[column] for column in own)
        ranks.append(1 + sum(1 for column, value in enumerate(row) if column not in own and value >= best))
    return ranks


@given(st.data())
def test_ranks_are_those_of_a_written_out_loop_over_random_groups(data: st.DataObject) -> None:
    rows = data.draw(
        st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc"), st.none() | st.sampled_from("GH")), min_size=1)
    )
    found = gallery_of([item(text, video=video, group=group) for video, text, group in rows])
    texts = list(
        dict.fromkeys((number if group is None else -1, text, group) for number, (_, text, group) in enumerate(rows))
    )
    videos = list(dict.fromkeys(video for video, _, _ in rows))
    own_of_text = [
        {rows[number][0]} if group is None else {video for video, _, other in rows if other == group}
        for number, _, group in texts
    ]
    own = [{videos.index(video) for video in some} for some in own_of_text]
    own_texts = [{text for text, some in enumerate(own) if video in some} for video in range(len(videos))]
    assert found.captions == tuple(text for _, text, _ in texts)

    cell = st.integers(0, 5)  # few numbers: many are equal
    similar = data.draw(
        st.lists(st.lists(cell, min_size=len(texts), max_size=len(texts)), min_size=len(videos), max_size=len(videos))
    )
    scores = retrieval_scores(torch.tensor(similar, dtype=torch.float32), found.right)
    of_texts = written_out([list(column) for column in zip(*similar, strict=True)], own)
    of_videos = written_out(similar, own_texts)
    for k in (1, 5, 10):
        assert scores.text_to_video[k] == pytest.approx(mean(rank <= k for rank in of_texts))
        assert scores.video_to_text[k] == pytest.approx(mean(rank <= k for rank in of_videos))
    assert scores.mean_ranks == pytest.approx((mean(of_texts), mean(of_videos)))
    assert scores.median_ranks == pytest.approx((median(of_texts), median(of_videos)))
    assert scores.chance == pytest.approx(mean(len(some) for some in own) / len(videos))


# ---------------------------------------------------------------- a table of a published split

SPINNING, FALLING = "Spinning [something]", "[Something] falling"
TEMPLATES = [
    {"video": [f"clip-{number:04d}.webm" for number in (0, 2, 3)], "caption": SPINNING},
    {"video": ["clip-0001.webm", "clip-0077.webm"], "caption": FALLING},
]
# clips by their place in the table, which has those of a text after another, shard by shard: 0, 2, 1, and 3
EMBEDDED = {0: (1.0, 0.0), 1: (0.0, 1.0), 2: (0.9, 0.1), 3: (0.6, 0.4), SPINNING: (0.0, 1.0), FALLING: (1.0, 0.0)}


class ByHand:
    """Embeds clips in their order, and a caption, as `EMBEDDED` says."""

    def __init__(self) -> None:
        self.seen = 0

    def embed_videos(self, pixels: Tensor) -> Tensor:
        places = range(self.seen, self.seen + len(pixels))
        self.seen += len(pixels)
        return torch.tensor([[EMBEDDED[place]] for place in places])

    def embed_texts(self, tokens: Tokens) -> Tensor:
        return torch.tensor([EMBEDDED[(SPINNING, FALLING)[number]] for number in tokens.ids[:, 0].tolist()])


def tokens(captions: list[str]) -> Tokens:
    ids = torch.tensor([[(SPINNING, FALLING).index(caption)] for caption in captions])
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))


def score(folder: Path) -> Scores:
    items = EvaluationSet(
        folder, ClipRequest(middle_frames(1), side=8, view="stretched", caption_field="caption"), batch_size=3
    )
    evaluator = RetrievalEvaluator("ssv2", items, lambda _: ByHand(), tokens)
    module = nn.Linear(1, 1)
    return evaluator.run(module, ALONE, beat=no_beat, predictions=True)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    base = write_shards(tmp_path / "base", (3, 2))
    (tmp_path / "templates.json").write_text(json.dumps(TEMPLATES))
    read = read_items(base, annotations=[tmp_path / "templates.json"], protocol=protocol("ssv2-template-test"))
    write_table(read, tmp_path / "table")
    return tmp_path / "table"


def test_a_template_finds_any_of_its_videos_and_the_score_says_of_which_test_it_is(
    table: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "umt_ds"):
        found = score(table)
    assert found.values["t2v_r1"] == 50.0  # spinning finds clip 2; falling finds clip 0, which spins
    assert found.values["v2t_r1"] == 50.0  # clips 1 and 2 find their text; 0 and 3, which spin, find falling
    assert found.ranks == {
        "t2v_mean_rank": 1.5, "t2v_median_rank": 1.5, "v2t_mean_rank": 1.5, "v2t_median_rank": 1.5
    }  # fmt: skip
    assert (found.protocol["videos"], found.protocol["captions"]) == (4, 2)
    assert found.protocol["chance"] == {"t2v_r1": 50.0}  # three of four, and one
    assert found.predictions is not None
    rows = {name: found.predictions[name] for name in ("key", "rank", "found_first")}
    assert rows == {"key": ["clip-0002", "clip-0001"], "rank": [1, 2], "found_first": ["clip-0002", "clip-0000"]}

    assert found.protocol["published"] == {
        "name": "ssv2-template-test", "task": "retrieval", "videos": 5, "texts": 2, "as_published": False,
        "num_missing": 1,
    }  # fmt: skip
    assert found.is_partial
    said = (
        "1 of the 5 videos of ssv2-template-test are missing",
        "the files of ssv2-template-test have 5 videos and 2 texts, and no paper says so",
    )
    assert found.gaps == said
    assert [record.getMessage().split(": ", 2)[2] for record in caplog.records] == list(said)


def test_a_set_of_no_published_split_says_of_none_and_is_not_partial(tmp_path: Path) -> None:
    captions = [SPINNING, FALLING, SPINNING, SPINNING]
    folder = write_shards(
        tmp_path,
        (4,),
        members=lambda n: {"000.png": picture(frame(n, 0)), "json": json.dumps({"caption": captions[n]}).encode()},
    )
    found = score(folder)
    assert "published" not in found.protocol
    assert (found.protocol["videos"], found.protocol["captions"], found.is_partial) == (4, 4, False)


def test_a_whole_published_split_has_no_gap() -> None:
    whole = {"name": "p", "videos": 5, "texts": 2, "as_published": True, "num_missing": 0, "num_too_long": 0}
    assert gaps({"published": whole, "samples": 5, "limit": 5}) == []
    assert gaps({"published": whole, "samples": 5, "limit": 3}) == ["of the 5 items of p the first 3 are scored"]
    beyond = "2 videos are stored beyond the seconds that count in p"
    assert gaps({"published": {**whole, "num_too_long": 2}}) == [beyond]
    assert gaps({"published": {**whole, "num_left_out": 2}}) == ["2 items of p were left out by filter or split"]
    assert gaps({"samples": 5, "limit": 3}) == [], "a set of no published split is what its user makes of it"


def test_what_was_missing_does_not_decide_whether_two_scores_compare() -> None:
    protocol = {"frames": 4, "videos": 7, "captions": 9, "chance": {"t2v_r1": 14.3}, "published": {"num_missing": 1}}
    assert hash_of(protocol) == hash_of({"frames": 4}), "which is how older versions said it"
