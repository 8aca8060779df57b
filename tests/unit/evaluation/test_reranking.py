"""Re-ranking: which pairs are looked at, each once, in parts that are kept; what is found by their scores."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.shards import frame, picture, write_shards
from umt_ds.batch import Tokens
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.engine.best import hash_of
from umt_ds.errors import DataError
from umt_ds.evaluation.encode import ALONE, no_beat
from umt_ds.evaluation.evaluator import KeptWork, Scores
from umt_ds.evaluation.finished_parts import FinishedParts
from umt_ds.evaluation.metrics.dual_softmax import TEMPERATURES, dual_softmax, judge_dual_softmax
from umt_ds.evaluation.metrics.reranking import (
    NOT_SCORED,
    candidates_of,
    reranked,
    scores_of_texts,
    scores_of_videos,
)
from umt_ds.evaluation.retrieval import Rerank, RetrievalEvaluator
from umt_ds.models.bert import Looked


def matrices(data: st.DataObject, *, least: int = 1) -> tuple[Tensor, Tensor]:
    """Similarities of which many are equal, and which belong together: one at least in each row and column."""
    videos, texts = data.draw(st.integers(least, 6)), data.draw(st.integers(least, 6))
    cells = st.lists(st.integers(0, 5), min_size=videos * texts, max_size=videos * texts)
    right = torch.tensor(data.draw(cells)).view(videos, texts) == 0
    right[torch.arange(videos), torch.arange(videos) % texts] = True
    right[torch.arange(texts) % videos, torch.arange(texts)] = True
    return torch.tensor(data.draw(cells), dtype=torch.float32).view(videos, texts), right


def best_of(row: Sequence[float], k: int) -> set[int]:
    return set(sorted(range(len(row)), key=lambda place: (-row[place], place))[:k])


def score_of(video: int, text: int) -> float:
    """What the slower look says: some are equal."""
    return float((video * 7 + text * 5) % 4)


@given(st.data(), st.integers(1, 7))
def test_ranks_are_those_of_a_written_out_loop(data: st.DataObject, k: int) -> None:
    """Several texts a video and several videos a text; of each query the best right one counts, behind its equals."""
    similar, right = matrices(data)
    texts = similar.shape[1]
    candidates = candidates_of(similar, k=k)
    scores = torch.tensor([score_of(pair // texts, pair % texts) for pair in candidates.pairs.tolist()])
    found = reranked(candidates, scores, right)

    def ranks(rows: list[list[float]], own: list[list[bool]], score: Any) -> list[int]:
        result = []
        for query, (row, mine) in enumerate(zip(rows, own, strict=True)):
            near = best_of(row, k)
            seen = [score(query, place) if place in near else -100.0 for place in range(len(row))]
            best = max(one for one, is_right in zip(seen, mine, strict=True) if is_right)
            result.append(sum(one >= best for one, is_right in zip(seen, mine, strict=True) if not is_right))
        return result

    assert found.of_videos.tolist() == ranks(similar.tolist(), right.tolist(), score_of)
    assert found.of_texts.tolist() == ranks(similar.T.tolist(), right.T.tolist(), lambda t, v: score_of(v, t))


@given(st.data(), st.integers(1, 7))
def test_a_pair_that_both_want_is_scored_once_and_each_sees_its_own_candidates_alone(
    data: st.DataObject, k: int
) -> None:
    similar, _ = matrices(data)
    texts = similar.shape[1]
    candidates = candidates_of(similar, k=k)
    of_videos = {(v, t) for v, row in enumerate(similar.tolist()) for t in best_of(row, k)}
    of_texts = {(v, t) for t, row in enumerate(similar.T.tolist()) for v in best_of(row, k)}
    assert candidates.pairs.tolist() == sorted(v * texts + t for v, t in of_videos | of_texts)
    scores = torch.arange(len(candidates.pairs), dtype=torch.float32)
    for matrix, own in (
        (scores_of_videos(candidates, scores), of_videos),
        (scores_of_texts(candidates, scores), of_texts),
    ):
        assert {(v, t) for v, t in (matrix != NOT_SCORED).nonzero().tolist()} == own
        assert all(scores[candidates.pairs.tolist().index(v * texts + t)] == matrix[v, t] for v, t in own)


def test_an_answer_that_is_no_candidate_has_the_last_rank() -> None:
    similar = torch.eye(20).flip(0)  # the answers are the least similar, at best as similar as all others
    candidates = candidates_of(similar, k=1)
    ranks = reranked(candidates, torch.ones(len(candidates.pairs)), torch.eye(20, dtype=torch.bool))
    assert set(ranks.of_texts.tolist()) == set(ranks.of_videos.tolist()) == {19}


def test_scores_that_are_no_numbers_find_nothing() -> None:
    candidates = candidates_of(torch.eye(20), k=20)
    ranks = reranked(candidates, torch.full((400,), torch.nan), torch.eye(20, dtype=torch.bool))
    assert set(ranks.of_texts.tolist()) == {19}


# ---------------------------------------------------------------- dual softmax


def test_dual_softmax_is_the_product_of_both_softmaxes() -> None:
    similar = torch.randn(3, 5)
    by_hand = (similar / 0.1).softmax(dim=0) * (similar / 0.1).softmax(dim=1)
    torch.testing.assert_close(dual_softmax(similar, temperature=0.1).exp(), by_hand)


def test_a_video_that_all_texts_find_loses_them_to_those_that_only_one_finds() -> None:
    similar = torch.tensor([[0.9, 0.9, 0.9], [0.0, 0.8, 0.0], [0.0, 0.0, 0.8]])
    assert similar.argmax(dim=0).tolist() == [0, 0, 0]
    assert dual_softmax(similar, temperature=0.1).argmax(dim=0).tolist() == [0, 1, 2]


def test_a_search_takes_the_best_temperature_of_the_grid() -> None:
    similar, right = torch.rand(20, 20, generator=torch.Generator().manual_seed(0)), torch.eye(20, dtype=torch.bool)
    similar += 0.3 * right
    temperature, found = judge_dual_softmax(similar, right, "search")
    means = {one: judge_dual_softmax(similar, right, one)[1].mean for one in TEMPERATURES}
    assert found.mean == means[temperature] == max(means.values())


# ---------------------------------------------------------------- the evaluator

NUM = 7


class ByHand:
    """Embeds all alike but for a little; a clip's first grey value and a text's number match where they are equal.

    Counts the passes, and texts and clips of each."""

    def __init__(self) -> None:
        self.looks: list[int] = []
        self.matches: list[tuple[int, int]] = []

    def embed_videos(self, pixels: Tensor) -> Tensor:
        return self._near(pixels[:, :1, 0, 0, 0] / 10)

    def embed_texts(self, tokens: Tokens) -> Tensor:
        return self._near(tokens.ids[:, 1])

    def _near(self, numbers: Tensor) -> Tensor:
        angle = numbers.float() * 0.1
        return torch.stack([angle.cos(), angle.sin()], dim=-1)

    def encode_texts(self, tokens: Tokens) -> Tensor:
        return tokens.ids[..., None].float()

    def encode_videos(self, pixels: Tensor) -> Tensor:
        return pixels[:, :1, 0, 0, :1].float() / 10

    def look(self, video: Tensor) -> list[Looked]:
        self.looks.append(int(video[0, 0, 0]))
        return [Looked(video, video)]

    def match(self, states: Tensor, is_token: Tensor, looked: Sequence[Looked]) -> Tensor:
        assert is_token[:, :2].all()
        self.matches += [(int(looked[0].key[0, 0, 0]), int(text)) for text in states[:, 1, 0]]
        return -(states[:, 1, 0] - looked[0].key[0, 0, 0] - 1).abs()  # a text finds the clip before its own


def tokens(captions: list[str]) -> Tokens:
    """A token for the start, one for the number, and as many more as the number says."""
    numbers = [int(caption.split()[1]) for caption in captions]
    ids = torch.tensor([[1, number, *[1] * number, *[0] * (NUM - number)] for number in numbers])
    is_token = torch.arange(NUM + 2) < 2 + torch.tensor(numbers)[:, None]
    return Tokens(ids, is_token)


def clip(number: int) -> dict[str, bytes]:
    said = json.dumps({"caption": [f"grey {number}"]}).encode()
    return {"000.png": picture(frame(10 * number, 0)), "json": said}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "set", [4, 3], members=clip)


def evaluator(folder: Path, model: ByHand, *, candidates: int = 3, pairs: int = 2, **more: Any) -> RetrievalEvaluator:
    items = EvaluationSet(
        folder, ClipRequest(middle_frames(1), side=8, view="stretched", caption_field="caption"), batch_size=2
    )
    rerank = Rerank(lambda _: model, candidates, pairs)
    return RetrievalEvaluator("val", items, lambda _: model, tokens, rerank=rerank, **more)


def score(one: RetrievalEvaluator, **more: Any) -> Scores:
    return one.run(nn.Linear(1, 1), ALONE, beat=no_beat, **more)


def test_both_results_are_told_and_not_mixed(shards: Path) -> None:
    model = ByHand()
    one = evaluator(shards, model)
    found = score(one, predictions=True)
    assert tuple(found.values) == one.metrics
    assert found.values["t2v_r1"] == found.values["v2t_r1"] == 100.0
    assert found.values["reranked_t2v_r1"] == pytest.approx(100 / 7), "text 0 alone finds its own: there is none before"
    assert found.values["reranked_v2t_r1"] == pytest.approx(100 / 7), "and clip 6: there is no text after it"
    assert found.ranks["reranked_t2v_mean_rank"] == pytest.approx((1 + 5 * 2 + 3) / 7)
    assert found.predictions is not None
    assert found.predictions["found_first"] == found.predictions["key"]
    assert found.predictions["reranked_found_first"][1:] == found.predictions["key"][:-1]
    assert found.predictions["reranked_rank"][0] == 1


def test_each_clip_is_looked_at_once_and_each_pair_scored_once(shards: Path) -> None:
    model = ByHand()
    found = score(evaluator(shards, model))
    assert model.looks[:NUM] == list(range(NUM)), (
        "and a place of the last part that has no clip, where nothing is scored"
    )
    assert len(set(model.matches)) == len(model.matches) == found.protocol["num_pairs"]


def test_the_protocol_says_how_was_scored_and_what_decides_is_the_same_in_each_evaluation(shards: Path) -> None:
    found = score(evaluator(shards, ByHand(), dual_softmax="search"))
    assert found.protocol["reranked"]["candidates"] == 3
    assert "no re-ranking" not in found.protocol["similarity"]
    assert found.protocol["ties"] == "of equals the wrong ones come first"
    assert found.protocol["captions_of_a_video"] == [1, 1]
    assert found.protocol["dual_softmax"]["temperature_found"] in TEMPERATURES
    assert "flatter" in found.protocol["dual_softmax"]["remark"]
    later = {**found.protocol, "num_pairs": 1}
    later["dual_softmax"] = {**found.protocol["dual_softmax"], "temperature_found": 7.0}
    assert hash_of(later) == hash_of(found.protocol)
    assert hash_of({**found.protocol, "reranked": {"candidates": 4}}) != hash_of(found.protocol)


def test_a_score_without_re_ranking_compares_with_those_of_older_versions(shards: Path) -> None:
    one = evaluator(shards, ByHand())
    found = score(RetrievalEvaluator("val", one.items, one.model_of, tokens))
    older = {key: value for key, value in found.protocol.items() if key not in ("ties", "captions_of_a_video")}
    assert hash_of(found.protocol) == hash_of(older)
    assert older["similarity"].endswith("temperature 1; no re-ranking")


# ---------------------------------------------------------------- what is finished is kept


class KilledError(Exception):
    """What ends an evaluation."""


class Ending(ByHand):
    """Is killed in its third part."""

    def look(self, video: Tensor) -> list[Looked]:
        if video[0, 0, 0] >= 4:
            raise KilledError
        return super().look(video)


def kill(shards: Path, kept: KeptWork) -> None:
    with pytest.raises(KilledError):
        score(evaluator(shards, Ending()).resuming(kept))


def test_an_evaluation_that_was_killed_goes_on_with_the_parts_that_are_left(shards: Path, tmp_path: Path) -> None:
    kept = KeptWork(tmp_path / "parts", "weights")
    kill(shards, kept)
    model = ByHand()
    found = score(evaluator(shards, model).resuming(kept))
    assert found == score(evaluator(shards, ByHand()))
    assert set(model.looks) == {4, 5, 6}
    again = ByHand()
    assert score(evaluator(shards, again).resuming(kept)) == found
    assert again.looks == [], "all of it was done"


@pytest.mark.parametrize("other", ["weights", "candidates", "pairs", "set"])
def test_parts_of_another_evaluation_are_not_taken(other: str, shards: Path, tmp_path: Path) -> None:
    kept = KeptWork(tmp_path / "parts", "weights")
    kill(shards, kept)
    model = ByHand()
    if other == "weights":
        kept = KeptWork(kept.folder, "others")
    if other == "set":  # other frames under the same keys, with the same embeddings
        shards = write_shards(
            tmp_path / "other", [4, 3], members=lambda n: {**clip(n), "000.png": picture(frame(10 * n, 1))}
        )
    more = {"candidates": {"candidates": 4}, "pairs": {"pairs": 3}}.get(other, {})
    score(evaluator(shards, model, **more).resuming(kept))
    assert {0, 1, 2, 3} <= set(model.looks)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_part_is_made_again(
    damage: str, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptWork(tmp_path / "parts", "weights")
    kill(shards, kept)
    (part,) = kept.folder.glob("*/00001")
    data = part.read_bytes()
    part.write_bytes({"cut": data[:-4], "flipped": data[:-1] + bytes([data[-1] ^ 1]), "empty": b""}[damage])
    model = ByHand()
    with caplog.at_level(logging.WARNING, "umt_ds"):
        assert score(evaluator(shards, model).resuming(kept)) == score(evaluator(shards, ByHand()))
    assert {2, 3} <= set(model.looks)
    assert not {0, 1} & set(model.looks)
    assert "00001 is damaged: this part is made again" in caplog.text


def test_a_disk_that_takes_no_parts_is_named_once_and_the_evaluation_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    parts = FinishedParts(tmp_path / "file" / "parts", "key")
    with caplog.at_level(logging.WARNING, "umt_ds"):
        for number in range(3):
            parts.write(number, torch.ones(2))
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        f"what is finished cannot be kept in {tmp_path / 'file' / 'parts' / 'key'}"
    ]


def test_a_clip_that_is_gone_when_it_is_read_again_is_one_error(shards: Path) -> None:
    model = ByHand()
    one = evaluator(shards, model)

    class Vanishing(EvaluationSet):
        def only(self, places: Sequence[int]) -> EvaluationSet:
            some = super().only(places)
            some.request = ClipRequest(middle_frames(1), side=8, view="stretched", caption_field="gone")  # type: ignore[misc]
            return some

    one.items.__class__ = Vanishing
    with pytest.raises(DataError, match="clip clip-0000 was read for its embedding, and cannot be read again"):
        score(one)
