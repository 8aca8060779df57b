"""What finds what: ranks by hand, ties, several captions, runs of several seeds side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep.making.item_table import read_items, write_table
from tests.support.shards import frame, noisy_frames, picture, write_shards
from umt_ds.batch import Tokens
from umt_ds.config.evaluation import RetrievalEvaluation
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.pixels.augment import stretch_view
from umt_ds.errors import DataError
from umt_ds.evaluation.metrics.retrieval import RetrievalResult, answers, retrieval_scores, similarity
from umt_ds.evaluation.metrics.spread import Spread, groups_of, pairs_of
from umt_ds.evaluation.retrieval import embed_set
from umt_ds.report.pictures import draw_answers, draw_similarity
from umt_ds.tasks.video_text.retrieval import request_of, resized_how


def of_one(videos: Sequence[int]) -> Tensor:
    """Captions that are right for one video each."""
    return torch.arange(max(videos) + 1)[:, None] == torch.tensor(videos)


def test_similarity_is_the_mean_over_the_vectors_of_a_video() -> None:
    videos = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    torch.testing.assert_close(similarity(videos, texts), torch.tensor([[0.5, 0.7]]))


def test_ranks_are_counted_both_ways() -> None:
    # captions 0 and 1 find their videos at ranks 0 and 2; videos 0, 1, 2 their captions at 0, 1, 1
    similar = torch.tensor([[0.9, 0.8, 0.2], [0.1, 0.3, 0.4], [0.0, 0.5, 0.3]])
    scores = retrieval_scores(similar, of_one([0, 1, 2]))
    assert scores.text_to_video[1] == pytest.approx(1 / 3)  # only caption 0
    assert scores.text_to_video[5] == 1.0
    assert scores.video_to_text[1] == pytest.approx(1 / 3)
    assert scores.chance == pytest.approx(1 / 3)
    assert scores.mean_ranks == pytest.approx((2, 5 / 3))  # of 1, 3, 2 and of 1, 2, 2
    assert scores.median_ranks == (2, 2)


def test_any_of_its_captions_answers_for_a_video_and_each_is_a_query() -> None:
    similar = torch.tensor([[0.1, 0.9, 0.5], [0.8, 0.2, 0.6]])
    scores = retrieval_scores(similar, of_one([0, 0, 1]))
    assert scores.text_to_video[1] == pytest.approx(2 / 3)  # caption 0 finds video 1
    assert scores.video_to_text[1] == pytest.approx(1 / 2)  # video 1 finds caption 0, which is not its own


def test_a_model_that_finds_everything_alike_finds_nothing() -> None:
    scores = retrieval_scores(torch.zeros(20, 20), of_one(range(20)))
    assert set(scores.text_to_video.values()) == set(scores.video_to_text.values()) == {0.0}


def test_what_is_not_a_number_finds_nothing() -> None:
    similar = torch.eye(20)
    similar[:, 3] = similar[5] = math.nan  # of caption 3 and video 5
    scores = retrieval_scores(similar, of_one(range(20)))
    assert scores.text_to_video[1] == 0.0  # the NaN of video 5 may be the best for every caption
    assert retrieval_scores(torch.full((20, 20), math.nan), of_one(range(20))).mean == 0.0


class Numbers:
    """Embeds a clip as its first grey value, a caption as its number."""

    def embed_videos(self, pixels: Tensor) -> Tensor:
        return self._circle(pixels[:, :1, 0, 0, 0].float())

    def embed_texts(self, tokens: Tokens) -> Tensor:
        return self._circle(tokens.ids[:, 0].float())

    def _circle(self, numbers: Tensor) -> Tensor:
        angle = numbers / 256 * math.pi
        return torch.stack([angle.cos(), angle.sin()], dim=-1)


def tokens(captions: list[str]) -> Tokens:
    ids = torch.tensor([[int(caption.split()[1])] for caption in captions])
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))


def grey(number: int) -> dict[str, bytes]:
    said = json.dumps({"caption": [f"grey {10 * number}"]}).encode()
    return {"000.png": picture(frame(10 * number, 0)), "json": said}


def captioned(folder: Path) -> EvaluationSet:
    request = ClipRequest(middle_frames(1), side=8, view="stretched", caption_field="caption")
    return EvaluationSet(folder, request, batch_size=3)


def test_a_set_is_embedded_once_and_compared_whole(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, [4, 3], members=grey)
    found = embed_set(Numbers(), tokens, captioned(folder)).compared()
    assert len(found.keys) == 7
    assert found.similarity.shape == (7, 7)
    assert torch.equal(found.right, of_one(range(7)))
    scores = retrieval_scores(found.similarity, found.right)
    assert scores.text_to_video[1] == 1.0
    (answer,) = answers(found, texts=[3], first=3)
    assert answer.caption == "grey 30"
    assert answer.right == {answer.found[0]} == {3}
    assert set(answer.found[1:]) == {2, 4}


def test_a_table_that_gives_each_caption_an_item_scores_as_one_of_lists(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", [3, 2], members=grey)
    rows = [{"key": f"clip-{n:04d}", "caption": [f"grey {10 * n + 4}", f"grey {10 * n + 9}"]} for n in range(5)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = {}
    for name, explode in (("lists", None), ("each", "caption")):
        write_table(read_items(base, annotations=[tmp_path / "rows.json"], explode=explode), tmp_path / name)
        found[name] = embed_set(Numbers(), tokens, captioned(tmp_path / name)).compared()
    lists, each = found["lists"], found["each"]
    assert retrieval_scores(each.similarity, each.right) == retrieval_scores(lists.similarity, lists.right)
    assert (each.keys, each.captions) == (lists.keys, lists.captions)
    assert torch.equal(each.right, of_one([0, 0, 1, 1, 2, 2, 3, 3, 4, 4]))
    assert each.numbers == (0, 2, 4, 6, 8), "their first items"
    frames = captioned(tmp_path / "each").views_of(each.numbers)
    assert [int(frames[number].flatten()[0]) for number in each.numbers] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("of_run", [True, False])
@pytest.mark.parametrize("asked", [None, True, False])
def test_frames_are_resized_as_the_run_does_it_unless_told_otherwise(
    of_run: bool, asked: bool | None, tmp_path: Path
) -> None:
    run = load_run(
        "demo/stage2", [f"data.augment.antialias={str(of_run).lower()}", "task.student.frames=1"], keep_unset=True
    )
    settings = RetrievalEvaluation(kind="retrieval", shards="none", antialias=asked)
    clean: Any = SimpleNamespace(clean=str.strip)
    request = request_of(settings, run, clean, caption=None)
    folder = write_shards(tmp_path, [2], members=noisy_frames)
    shown = EvaluationSet(folder, request, batch_size=1).views_of({0})
    stored = np.random.default_rng(0).integers(0, 256, (7, 20, 28, 3), dtype=np.uint8)  # of `noisy_frames`
    how = of_run if asked is None else asked
    assert np.array_equal(shown[0][0].numpy(), stretch_view(stored[[3]], side=request.side, antialias=how))


def test_the_table_says_how_frames_were_resized() -> None:
    assert resized_how([True]) == "resized with antialias"
    assert resized_how([False, False]) == "resized without antialias, as published"
    assert "each run" in resized_how([True, False])


def test_clips_without_captions_are_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, [4], members=lambda n: {**noisy_frames(n), "json": b"{}"})
    with pytest.raises(DataError, match=r"4 of 4 clips cannot be scored: clip-0000 \(it has no caption in 'caption'"):
        embed_set(Numbers(), tokens, captioned(folder))


def test_the_pictures_can_be_drawn() -> None:
    right = torch.tensor([[True, False, False], [True, True, False], [False, False, True]])
    found = RetrievalResult(("a", "b", "c"), (0, 1, 2), ("one", "two", "three"), right, torch.rand(3, 3))
    frames = {number: torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8) for number in range(3)}
    for png in (
        draw_similarity(found, title="t"),
        draw_answers(answers(found, texts=[0, 2], first=3), frames, title="t"),
    ):
        assert png.startswith(b"\x89PNG")


def run(seed: int, weights: str | None, **optim: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": f"r{seed}", "seed": seed, "init": {"weights": weights},
            "task": {"kind": "stage2", "text": {"weights": "bert"}, "teacher": {"weights": "random"}},
            "data": {"sources": {"a": {"shards": "s"}}}, "batch": {"global": 4, "micro": 2},
            "optim": {"lr": 1e-3, "lr_rule": "absolute", **optim}, "schedule": {"steps": 3, "warmup_steps": 1},
            "engine": {"deepspeed": "cpu.json"},
        }
    )  # fmt: skip


def test_runs_that_differ_by_their_seed_alone_are_one_group() -> None:
    runs = [run(0, "a"), run(0, None), run(1, "a"), run(1, None), run(0, "a", weight_decay=0.5)]
    groups = groups_of(runs)
    assert [group.members for group in groups] == [(0, 2), (1, 3), (4,)]
    assert [(one.weights, other.weights) for one, other in pairs_of(groups)] == [("a", "scratch")]
    assert pairs_of([groups[1], groups[0]]) == pairs_of(groups)


def test_a_difference_of_means_has_the_standard_error_of_both() -> None:
    one, other = Spread.of([3.0, 5.0, 4.0]), Spread.of([1.0, 2.0, 3.0])
    gain, error = one.minus(other)
    assert gain == pytest.approx(2.0)
    assert error == pytest.approx(math.sqrt(1 / 3 + 1 / 3))
    assert math.isnan(Spread.of([1.0]).deviation)
