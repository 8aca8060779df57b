"""The written-out loops that evaluators are held against (`tests/support/plain_video_text.py`) are the published code.

Every size comes from the files themselves, so that other files of the same form are judged unedited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.plain_video_text import PlainModel, choices, ranked_answers, reranked

torch.set_num_threads(1)
Golden = Callable[[str], Any]


def plain_model(file: dict[str, Any], state: dict[str, Tensor]) -> PlainModel:
    ve, bert = file["cfg"]["ve"], file["cfg"]["bert"]
    return PlainModel(state, ve["encoder_num_heads"], bert["num_attention_heads"], bert["fusion_layer"])


def without_padding(ids: Tensor, mask: Tensor) -> list[list[int]]:
    return [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]


def close(ours: list[list[float]], theirs: Tensor, *, atol: float = 1e-5) -> None:
    torch.testing.assert_close(torch.tensor(ours), theirs, rtol=0, atol=atol)


@pytest.fixture(params=["retrieval_eval", "model_captions", "model_videos"])
def retrieval_case(golden: Golden, request: pytest.FixtureRequest) -> dict[str, Any]:
    part: dict[str, Any] = golden("retrieval_eval.pt")
    if request.param != "retrieval_eval":
        part = golden("retrieval_multi.pt")[request.param]
    mask = part.get("attention_mask", part["input_ids"] != part["cfg"]["bert"]["pad_token_id"])
    return {**part, "attention_mask": mask}


@torch.no_grad()
def test_reranking(retrieval_case: dict[str, Any]) -> None:
    case = retrieval_case
    model, k = plain_model(case, case["state"]), case["cfg"]["k_test"]
    texts = [model.text(ids) for ids in without_padding(case["input_ids"], case["attention_mask"])]
    videos = [model.video(video) for video in case["videos"]]
    similar = [[model.similarity(v, t, frames=case["videos"].shape[1]) for t in texts] for v in videos]
    match = [[float(model.match(v, t)[1]) for t in texts] for v in videos]
    close(similar, case["i2t"])
    close(reranked(similar, match, k=k), case["i2t_x"])
    close(reranked(list(zip(*similar, strict=True)), list(zip(*match, strict=True)), k=k), case["t2i_x"])


@torch.no_grad()
def test_multiple_choice(golden: Golden) -> None:
    file = golden("multiple_choice.pt")
    part = file["model"]
    model = plain_model(file, part["state"])
    for question, frames in enumerate(part["videos"]):
        video = model.video(frames)
        texts = [
            model.text(ids) for ids in without_padding(part["input_ids"][question], part["attention_mask"][question])
        ]
        similar = [model.similarity(video, text, frames=len(frames)) for text in texts]
        match = [model.match(video, text) for text in texts]
        temperature = float(part["state"]["temp"])
        close([choices(similar, match, temperature=temperature)], part["score"][question][None])


@pytest.mark.parametrize("which", [0, 1])
@torch.no_grad()
def test_ranked_answers(golden: Golden, which: int) -> None:
    file = golden("qa_list.pt")
    part = file["lists"][which]
    model = plain_model(file, file["state"])
    answers = without_padding(part["answer_ids"], part["answer_att"])
    few = 1 if len(answers) > 100 else None  # questions
    for number, ids in enumerate(without_padding(file["q_ids"], file["q_att"])[:few]):
        question = model.question(ids, model.video(file["videos"][number]))
        ranked = ranked_answers(model, answers, question, k=part["k"])
        close([[share for _, share in ranked]], part["topk_probs"][number][None])
        assert part["answers"][ranked[0][0]] == part["winner"][number]
        assert {place for place, _ in ranked} == set(part["kept"][number].nonzero().flatten().tolist())
