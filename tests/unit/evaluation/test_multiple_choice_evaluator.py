"""What a model of video and text chooses among the options of items, against loops over one pair at a time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.distributed.evaluator_calls import FRAMES, SIDE, Letters, evaluators
from tests.support.shards import noisy_frames, write_shards
from tests.support.stage2 import tiny_module
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.engine.best import hash_of
from umt_ds.errors import DataError, NonFiniteError
from umt_ds.evaluation.encode import ALONE, no_beat
from umt_ds.evaluation.evaluator import Scores
from umt_ds.evaluation.multiple_choice import MultipleChoiceEvaluator, answer_set
from umt_ds.models.full_value import full_value
from umt_ds.tasks.stage2.module import Stage2Module
from umt_ds.tasks.video_text.choice import Comparing

torch.set_num_threads(1)
OPTIONS = [["a cat", "dogs", "red"], ["blue", "box"], ["a cat", "two", "x", "why"], ["nine", "ten"], ["up", "down"]]
ANSWERS = [1, 0, 3, 1, 0]


def asked(number: int, **changes: Any) -> dict[str, bytes]:
    said = {"options": OPTIONS[number], "answer": ANSWERS[number], **changes}
    return {**noisy_frames(number), "json": json.dumps(said).encode()}


def evaluator(shards: Path, **options: Any) -> MultipleChoiceEvaluator:
    found = evaluators(shards=str(shards), **options)["multiple_choice"]
    assert isinstance(found, MultipleChoiceEvaluator)
    return found


def choose(shards: Path, module: Stage2Module, **options: Any) -> Scores:
    return evaluator(shards, **options).run(module, ALONE, beat=no_beat, predictions=True)


def score_of_pair(module: Stage2Module, pixels: torch.Tensor, text: str) -> tuple[float, float]:
    """Similarity and probability of a match, of one video [T,H,W,3] and one text."""
    vision, bert, tokens = module.vision_encoder, module.text_encoder, Letters()([text])
    seen = vision.encoder(pixels[None]).tokens
    frames = [F.normalize(module.vision_proj(part), dim=-1) for part in vision.pool(seen, frames=FRAMES)[0]]
    encoded = bert.encode(tokens.ids, tokens.mask)
    said = F.normalize(module.text_proj(encoded[0, 0]), dim=-1)
    similarity = sum(float(frame @ said) for frame in frames) / FRAMES
    logits = module.itm_head(bert.fuse(encoded, tokens.mask, seen)[0, 0])
    return similarity, float(logits.softmax(dim=0)[1])


@torch.no_grad()
def test_the_scores_are_those_of_each_pair_alone(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "set", (3, 2), members=asked)
    module = tiny_module().eval()
    module.temp.fill_(0.2)
    found = choose(shards, module)
    assert found.predictions is not None
    request = ClipRequest(middle_frames(FRAMES), SIDE, view="stretched", antialias=False)
    clips = EvaluationSet(shards, request, batch_size=1)
    right = 0
    for row, (batch, texts, answer) in enumerate(zip(clips.batches(), OPTIONS, ANSWERS, strict=True)):
        pairs = [score_of_pair(module, batch.pixels[0], text) for text in texts]
        near = [math.exp(similarity / 0.2) for similarity, _ in pairs]
        scores = [0.7 * match + 0.3 * one / sum(near) for (_, match), one in zip(pairs, near, strict=True)]
        assert found.predictions["score"][row] == pytest.approx(scores, abs=1e-5)
        best = max(range(len(texts)), key=lambda place, scores=scores: scores[place])
        assert found.predictions["chosen"][row] == best
        assert found.predictions["is_right"][row] == (best == answer)
        right += best == answer
    assert found.values["accuracy"] == pytest.approx(100 * right / 5)
    assert found.predictions["options"] == OPTIONS
    assert found.protocol["temperature_found"] == pytest.approx(0.2)
    assert found.protocol["options"] == [2, 4]
    assert found.protocol["chance"]["accuracy"] == pytest.approx(100 * (1 / 3 + 1 / 2 + 1 / 4 + 1 / 2 + 1 / 2) / 5)


def test_scores_before_and_after_the_temperature_is_trained_compare(tmp_path: Path) -> None:
    """Else `cadence.keep_best` would keep the newest checkpoint, whatever its accuracy."""
    shards = write_shards(tmp_path / "set", (5,), members=asked)
    module = tiny_module().eval()
    before = choose(shards, module)
    with torch.no_grad():
        module.temp.mul_(1.5)
    after = choose(shards, module)
    assert before.protocol != after.protocol
    assert hash_of(before.protocol) == hash_of(after.protocol)


def test_the_scores_do_not_depend_on_how_many_pairs_go_together(tmp_path: Path) -> None:
    items = evaluator(write_shards(tmp_path / "set", (3, 2), members=asked)).items
    model = Comparing(tiny_module().eval())
    whole, single = (
        answer_set(model, Letters(), items, ALONE, num_workers=0, beat=no_beat, pairs=pairs) for pairs in (64, 1)
    )
    torch.testing.assert_close(whole.scores(), single.scores(), rtol=0, atol=1e-6)


def test_the_parts_of_the_score_are_judged_alone_too(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "set", (5,), members=asked)
    module = tiny_module().eval()
    torch.nn.init.zeros_(module.itm_head.weight)  # all pairs match alike
    values = choose(shards, module).values
    assert values["match_accuracy"] == 0
    assert values["accuracy"] == values["similarity_accuracy"]


def test_items_of_one_video_are_asked_each_for_itself(tmp_path: Path) -> None:
    def same_frames(number: int) -> dict[str, bytes]:
        return {**noisy_frames(0), "json": asked(number)["json"]}

    rows = choose(write_shards(tmp_path / "set", (5,), members=same_frames), tiny_module().eval()).predictions
    assert rows is not None
    assert rows["options"] == OPTIONS
    assert rows["score"][0][0] != rows["score"][2][0], "the softmax is over the options of an item"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": 7}, "answer=7 is no place among its 2 texts, which count from 0"),
        ({"answer": None}, "it has no answer"),
        ({"options": ["one"]}, "options has 1 of the two texts that a choice needs at least"),
        ({"options": None}, "options is no list of texts to choose from"),
        ({"options": ["a", " "]}, "options has an empty text in place 1"),
    ],
)
def test_an_item_that_asks_nothing_is_left_out_and_named(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "set", (5,), members=lambda n: asked(n, **(changes if n == 1 else {})))
    found = choose(shards, tiny_module().eval(), max_left_out=0.2)
    assert [(one.key, one.reason) for one in found.left_out] == [("clip-0001", reason)]
    assert (found.items, found.is_partial) == (4, True)
    with pytest.raises(DataError, match="1 of 5 clips cannot be scored: clip-0001"):
        evaluator(shards).items.try_records()


def test_a_model_that_has_gone_to_nan_is_an_error(tmp_path: Path) -> None:
    module = tiny_module().eval()
    torch.nn.init.constant_(module.itm_head.bias, math.nan)
    with pytest.raises(NonFiniteError, match=r"evaluation\.multiple_choice: what the model says of 5 of 5 clips"):
        choose(write_shards(tmp_path / "set", (5,), members=asked), module)


def test_the_temperature_is_the_trained_one_within_its_bounds() -> None:
    module = tiny_module().eval()
    module.temp.data.fill_(0.9)
    assert Comparing(module).temperature == 0.5
    module.temp.data.fill_(0.07)
    assert Comparing(module).temperature == full_value(module.temp).item()
