"""What judges models of video and text, from a run's settings to scores, against the published code as loops.

Models are random and of odd sizes; videos have several captions, captions several videos, lists any length. The loops
(`tests/support/plain_video_text.py`) are themselves held against the goldens (`tests/golden/test_plain_video_text.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from tests.support import plain_video_text as plain
from tests.support.video_text_runs import (
    FRAMES,
    SPECIAL,
    ids_of,
    odd_weights,
    pixels_of,
    plain_of,
    video_text_run,
    write_clips,
    write_items,
)
from umt_ds.evaluation.encode import ALONE, no_beat
from umt_ds.evaluation.evaluator import Scores
from umt_ds.tasks.kinds import build_task, evaluators_of

torch.set_num_threads(1)
CAPTIONS = [
    ["a man runs", "the man on a box"], ["a dog"], ["red ball", "the red ball"], ["blue box on the red box"],
    ["the dog sits", "a dog sits on a box", "dog"], ["a man sits on the ball"], ["the blue ball"],
]  # fmt: skip


Kind = Literal["stage2", "retrieval", "question_answering"]


def judged(
    folder: Path,
    kind: Kind,
    evaluation: Mapping[str, Any],
    *,
    seed: int,
) -> tuple[Scores, plain.PlainModel]:
    """Scores of a random model by an evaluation of its run, and the same model as loops."""
    more = [f"evaluation.test.{key}={value}" for key, value in evaluation.items()]
    run = video_text_run(folder, kind, *more)
    module = odd_weights(build_task(run, device=torch.device("cpu"), precision="fp32").module, seed=seed)
    (evaluator,) = evaluators_of(run)
    found = evaluator.run(module, ALONE, beat=no_beat, predictions=True)
    assert tuple(found.values) == evaluator.metrics
    return found, plain_of(module)


Matrix = list[list[float]]


def matrices(model: plain.PlainModel, videos: int, texts: Sequence[str]) -> tuple[Matrix, Matrix]:
    """Similarities and matching logits of each video and each text."""
    with torch.no_grad():
        seen = [model.video(plain.normalised(pixels_of(number))) for number in range(videos)]
        read = [model.text(ids_of(text)) for text in texts]
        similar = [[model.similarity(video, text, frames=FRAMES) for text in read] for video in seen]
        match = [[float(model.match(video, text)[1]) for text in read] for video in seen]
    return similar, match


def turned(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


def expected(prefix: str, of_videos: Matrix, of_texts: Matrix, right: Sequence[set[int]]) -> dict[str, float]:
    """Values and ranks by name. of_videos: a row a video; of_texts: a row a text. right: the videos of each text."""
    own = [{text for text, some in enumerate(right) if video in some} for video in range(len(of_videos))]
    ranks = {"t2v": plain.ranks(of_texts, right), "v2t": plain.ranks(of_videos, own)}
    found = {f"{prefix}{way}_r{k}": plain.recall(ranks[way], k) for way in ranks for k in (1, 5, 10)}
    found[f"{prefix}mean"] = sum(found.values()) / 6
    return found | {f"{prefix}{way}_mean_rank": 1 + sum(ranks[way]) / len(ranks[way]) for way in ranks}


def close(found: Scores, wanted: Mapping[str, float]) -> None:
    told = {**found.values, **found.ranks}
    for name, value in wanted.items():
        assert told[name] == pytest.approx(value, abs=1e-9), name


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    write_clips(tmp_path / "train", [{"caption": "a man", "question": "a man", "answers": ["a man"]}] * 2)
    write_clips(tmp_path / "test", [{"caption": some} for some in CAPTIONS])
    return tmp_path


@pytest.mark.parametrize("seed", [0, 1])
def test_retrieval_by_embeddings_with_several_captions_a_video(captioned: Path, seed: int) -> None:
    found, model = judged(
        captioned, "retrieval", {"kind": "retrieval", "shards": captioned / "test", "batch": 3}, seed=seed
    )
    texts = [text for some in CAPTIONS for text in some]
    right = [{video} for video, some in enumerate(CAPTIONS) for _ in some]
    similar, _ = matrices(model, len(CAPTIONS), texts)
    close(found, expected("", similar, turned(similar), right))


GROUPS = ["a man runs", "a dog", "a man runs", "blue box", "a dog", "a dog", "red ball"]


@pytest.mark.parametrize("seed", [0, 1])
def test_retrieval_by_embeddings_with_several_videos_a_caption(captioned: Path, seed: int) -> None:
    rows = [{"key": f"clip-{n:04d}", "caption": text, "group": text} for n, text in enumerate(GROUPS)]
    items = write_items(captioned / "grouped", captioned / "test", rows)
    found, model = judged(captioned, "retrieval", {"kind": "retrieval", "shards": items, "batch": 4}, seed=seed)
    texts = list(dict.fromkeys(GROUPS))
    right = [{video for video, said in enumerate(GROUPS) if said == text} for text in texts]
    similar, _ = matrices(model, len(GROUPS), texts)
    close(found, expected("", similar, turned(similar), right))


def check_reranking(found: Scores, similar: Matrix, match: Matrix, right: Sequence[set[int]], *, k: int) -> None:
    of_videos = plain.reranked(similar, match, k=k)
    of_texts = plain.reranked(turned(similar), turned(match), k=k)
    close(found, expected("", similar, turned(similar), right))
    close(found, expected("reranked_", of_videos, of_texts, right))
    assert found.predictions is not None
    ranks = plain.ranks(of_texts, right)
    assert found.predictions["reranked_rank"] == [rank + 1 for rank in ranks]
    assert found.predictions["match"] == pytest.approx([max(row) for row in of_texts], abs=1e-5)


@pytest.mark.parametrize("kind", ["retrieval", "stage2"])
@pytest.mark.parametrize(("k", "pairs"), [(1, 64), (3, 2), (5, 1), (128, 64)])
def test_reranking_with_several_captions_a_video(captioned: Path, kind: Kind, k: int, pairs: int) -> None:
    settings = {"kind": "retrieval", "shards": captioned / "test", "batch": 3, "rerank.pairs": pairs}
    found, model = judged(captioned, kind, {**settings, "rerank.candidates": k}, seed=k)
    texts = [text for some in CAPTIONS for text in some]
    right = [{video} for video, some in enumerate(CAPTIONS) for _ in some]
    check_reranking(found, *matrices(model, len(CAPTIONS), texts), right, k=k)


@pytest.mark.parametrize("k", [1, 2, 4, 128])
def test_reranking_with_several_videos_a_caption(captioned: Path, k: int) -> None:
    rows = [{"key": f"clip-{n:04d}", "caption": text, "group": text} for n, text in enumerate(GROUPS)]
    items = write_items(captioned / "grouped", captioned / "test", rows)
    settings = {"kind": "retrieval", "shards": items, "batch": 2, "rerank.candidates": k}
    found, model = judged(captioned, "retrieval", settings, seed=k)
    texts = list(dict.fromkeys(GROUPS))
    right = [{video for video, said in enumerate(GROUPS) if said == text} for text in texts]
    check_reranking(found, *matrices(model, len(GROUPS), texts), right, k=k)


def test_captions_as_items_of_their_own_are_reranked_as_those_of_one_item(captioned: Path) -> None:
    rows = [{"key": f"clip-{n:04d}", "caption": text} for n, some in enumerate(CAPTIONS) for text in some]
    items = write_items(captioned / "each", captioned / "test", rows)
    settings = {"kind": "retrieval", "shards": items, "batch": 4, "rerank.candidates": 3}
    found, model = judged(captioned, "retrieval", settings, seed=3)
    right = [{video} for video, some in enumerate(CAPTIONS) for _ in some]
    check_reranking(found, *matrices(model, len(CAPTIONS), [row["caption"] for row in rows]), right, k=3)


OPTIONS = [
    (["a man", "the dog sits"], 1), (["red ball", "blue ball", "a dog on the box"], 0), (["a man runs", "dog"], 0),
    (["box", "ball", "man", "dog", "the man sits on the red box"], 4), (["a dog", "the dog", "red"], 2),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["retrieval", "stage2"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_multiple_choice(tmp_path: Path, kind: Kind, seed: int) -> None:
    write_clips(tmp_path / "train", [{"caption": "a man"}] * 2)
    write_clips(tmp_path / "test", [{"options": options, "answer": answer} for options, answer in OPTIONS])
    settings = {"kind": "multiple_choice", "shards": tmp_path / "test", "batch": 2}
    found, model = judged(tmp_path, kind, settings, seed=seed)
    assert found.predictions is not None
    right = 0
    for number, (options, answer) in enumerate(OPTIONS):
        with torch.no_grad():
            video = model.video(plain.normalised(pixels_of(number)))
            texts = [model.text(ids_of(text)) for text in options]
            similar = [model.similarity(video, text, frames=FRAMES) for text in texts]
            match = [model.match(video, text) for text in texts]
        wanted = plain.choices(similar, match, temperature=float(model.state["temp"]))
        assert found.predictions["score"][number] == pytest.approx(wanted, abs=1e-5)
        assert found.predictions["chosen"][number] == max(range(len(wanted)), key=lambda place: wanted[place])
        right += found.predictions["chosen"][number] == answer
    assert found.values["accuracy"] == pytest.approx(100 * right / len(OPTIONS))


QUESTIONS = ["a man sits on", "the ball", "red box the", "a dog runs"]


def answer_list(length: int) -> list[str]:
    """So many different answers of one to six words, in no order; the first four are one word that no other begins."""
    lone, others = ["man", "dog", "ball", "box"], ["a", "red", "runs", "sits", "on", "the", "blue"]
    generator = torch.Generator().manual_seed(length)
    found = dict.fromkeys(lone[: max(1, length // 2)])
    while len(found) < length:
        words = torch.randint(len(others), (int(torch.randint(1, 7, (1,), generator=generator)),), generator=generator)
        found[" ".join(others[word] for word in words.tolist())] = None
    return list(found)


def answer_ids(answer: str, *, max_tokens: int = 5) -> list[int]:
    """`[CLS] answer [SEP]`, cut."""
    return [*ids_of(answer), SPECIAL.index("[SEP]")][:max_tokens]


@pytest.mark.parametrize("length", [1, 2, 7, 127, 128, 129, 400])
def test_answers_of_a_list(tmp_path: Path, length: int) -> None:
    answers = answer_list(length)
    said = [{"question": question, "answers": [answers[0]]} for question in QUESTIONS]
    write_clips(tmp_path / "train", said)
    write_clips(tmp_path / "test", said)
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    settings: dict[str, Any] = {"kind": "question_answering", "shards": tmp_path / "test", "batch": 3}
    found, model = judged(
        tmp_path, "question_answering", {**settings, "answers": tmp_path / "answers.json"}, seed=length
    )
    assert found.predictions is not None
    right = 0
    for number, question in enumerate(QUESTIONS[: 1 if length > 100 else None]):
        with torch.no_grad():
            states = model.question(ids_of(question), model.video(plain.normalised(pixels_of(number))))
            ranked = plain.ranked_answers(model, [answer_ids(answer) for answer in answers], states, k=128)
        shown = found.predictions["probability"][number]
        best = dict(ranked)
        assert shown == pytest.approx([share for _, share in ranked[: len(shown)]], abs=1e-5)
        # answers that agree in the pieces that are left of them are equals, in any order
        predicted = found.predictions["predicted"][number]
        assert [best[answers.index(text)] for text in predicted] == pytest.approx(shown, abs=1e-5)
        right += predicted[0] == answers[0]
    if length <= 100:
        assert found.values["accuracy"] == pytest.approx(100 * right / len(QUESTIONS))


@pytest.mark.parametrize("beams", [1, 3, 40])
def test_answers_that_are_written_freely(tmp_path: Path, beams: int) -> None:
    """Greedy: word by word the likeliest. With so many beams that none is dropped: the likeliest of all answers."""
    said = [{"question": question, "answers": ["man"]} for question in QUESTIONS]
    write_clips(tmp_path / "train", said)
    write_clips(tmp_path / "test", said)
    settings = {"kind": "question_answering", "shards": tmp_path / "test", "batch": 3, "generate.beams": beams}
    found, model = judged(tmp_path, "question_answering", settings, seed=beams)
    assert found.predictions is not None
    for number, question in enumerate(QUESTIONS):
        with torch.no_grad():
            states = model.question(ids_of(question), model.video(plain.normalised(pixels_of(number))))
            log_probability = beam_search(model, states, beams=beams)
        assert found.predictions["log_probability"][number] == pytest.approx(log_probability, abs=1e-4)


def beam_search(model: plain.PlainModel, states: torch.Tensor, *, beams: int, max_tokens: int = 5) -> float:
    """Log probability of the best answer of at most max_tokens with [CLS]; [SEP] ends one."""
    end = SPECIAL.index("[SEP]")
    going: list[tuple[float, list[int]]] = [(0.0, [SPECIAL.index("[CLS]")])]
    for _ in range(max_tokens - 1):
        longer: list[tuple[float, list[int]]] = []
        for score, ids in going:
            if ids[-1] == end:
                longer.append((score, ids))
                continue
            after = model.words_after(ids, states)[-1]
            longer += [(score + float(after[word]), [*ids, word]) for word in range(len(after))]
        going = sorted(longer, key=lambda one: -one[0])[:beams]
    return going[0][0]
