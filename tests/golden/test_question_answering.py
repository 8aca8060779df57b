"""Question answering gives what the published modules give: states, losses, rankings, key names.

Every size comes from the file itself, so that another file of the same form is judged unedited.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.shards import picture, write_shards
from umt_ds.batch import Tokens
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.data.shards.sample_record import answers_of
from umt_ds.data.text import AnswerTokenizer, CaptionTokenizer, clean_caption
from umt_ds.engine.protocol import InitialWeights
from umt_ds.evaluation.answer_ranking import rank_answers
from umt_ds.evaluation.encode import ALONE, no_beat
from umt_ds.evaluation.metrics.answers import RankedAnswers, shortlist
from umt_ds.losses.answers import answer_losses, weighted_answer_loss
from umt_ds.models.answer_decoder import AnswerDecoder
from umt_ds.models.bert import Bert
from umt_ds.models.presets import BertSize, VitSize, bert_size, vit_size
from umt_ds.models.vit import Clips, VideoViT
from umt_ds.tasks.kinds import build_task, evaluators_of
from umt_ds.tasks.question_answering.module import AnsweringInputs, AnsweringModule
from umt_ds.weights.load import load_strict
from umt_ds.weights.published import answering_start, answering_state, has_answer_decoder

Golden = Callable[[str], Any]
Keys = Callable[..., dict[str, tuple[int, ...]]]
EXACT = {"rtol": 0, "atol": 1e-5}
FILES = ("qa.pt", "qa_list.pt")


def model_of(vit: VitSize, bert: BertSize, *, fusion_layers: int) -> AnsweringModule:
    text = Bert(bert, fusion_layers=fusion_layers, video_width=vit.width, dropout=0.0, word_head=False)
    return AnsweringModule(VideoViT(vit), text, AnswerDecoder(bert, layers=fusion_layers, dropout=0.0)).eval()


def published_model(file: dict[str, Any]) -> AnsweringModule:
    ve, bert = file["cfg"]["ve"], file["cfg"]["bert"]
    model = model_of(
        VitSize(ve["encoder_embed_dim"], ve["encoder_depth"], ve["encoder_num_heads"], ve["patch_size"]),
        BertSize(
            width=bert["hidden_size"],
            layers=bert["num_hidden_layers"],
            heads=bert["num_attention_heads"],
            hidden=bert["intermediate_size"],
            vocab_size=bert["vocab_size"],
            max_tokens=bert["max_position_embeddings"],
        ),
        fusion_layers=bert["num_hidden_layers"] - bert["fusion_layer"],
    )
    load_strict(model, answering_state(file["state"]), where="golden file")
    return model


def questions_of(file: dict[str, Any], model: AnsweringModule) -> tuple[Tensor, Tensor]:
    is_question = file["q_att"].bool()
    return model.read(Clips(file["videos"].transpose(1, 2)), file["q_ids"], is_question), is_question


def losses_of(file: dict[str, Any], ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Tensor:
    """Of all answers in a row, of which so many belong to each question."""
    model = published_model(file)
    rows = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    logits = model.text_decoder(ids[:, :-1], *questions_of(file, model), rows)
    return answer_losses(logits, ids, mask.bool())


def test_the_loss_of_a_module_in_training_is_the_published_one(golden: Golden) -> None:
    """As the task prepares it: questions with their answers, of which the second has two."""
    file = golden("qa.pt")
    inputs = AnsweringInputs(
        Clips(file["videos"].transpose(1, 2)),
        Tokens(file["q_ids"], file["q_att"].bool()),
        Tokens(file["train_ids"], file["train_att"].bool()),
        torch.arange(len(file["n"])).repeat_interleave(torch.tensor(file["n"])),
        torch.tensor(file["weights"]),
    )
    torch.testing.assert_close(published_model(file)(inputs).total, file["loss"], **EXACT)


def test_the_loss_of_each_answer_is_the_published_one(golden: Golden) -> None:
    file = golden("qa_list.pt")
    train = file["train"]
    losses = losses_of(file, train["ids"], train["attention_mask"], train["n"])
    torch.testing.assert_close(losses, train["answer_losses"], **EXACT)
    ours = weighted_answer_loss(losses, train["weights"], questions=len(train["n"]))
    torch.testing.assert_close(ours, train["loss"], **EXACT)


# ---------------------------------------------------------------- from text, by the real path


def vocabulary_in(folder: Path, file: dict[str, Any]) -> Path:
    (folder / "vocab.txt").write_text("\n".join(file["vocab"]) + "\n")
    return folder / "vocab.txt"


def test_questions_and_answers_are_tokenised_as_published(golden: Golden, tmp_path: Path) -> None:
    """Answers are counted and weighed out of those that were given, and tokenised as one batch of the loader."""
    file = golden("qa_list.pt")
    words, cfg, train = vocabulary_in(tmp_path, file), file["cfg"], file["train"]
    questions = CaptionTokenizer(words, max_tokens=cfg["max_q_len"])(list(map(clean_caption, file["questions"])))
    assert torch.equal(questions.ids, file["q_ids"])
    assert torch.equal(questions.mask, file["q_att"].bool())

    told = [answers_of({"answers": raw}) for raw in train["raw_answers"]]
    answers = AnswerTokenizer(words, max_tokens=cfg["max_a_len"])(told)
    is_answer = answers.weights > 0
    assert is_answer.sum(dim=1).tolist() == train["n"]
    assert torch.equal(answers.ids[is_answer], train["ids"])
    assert torch.equal(answers.mask[is_answer], train["attention_mask"].bool())
    torch.testing.assert_close(answers.weights[is_answer], train["weights"])


def run_of(folder: Path, file: dict[str, Any], answers: list[str]) -> RunConfig:
    """The settings of a golden file, on a set with its questions and pixels that nobody will see."""
    ve, bert, cfg = file["cfg"]["ve"], file["cfg"]["bert"], file["cfg"]

    def members(number: int) -> dict[str, bytes]:
        frames = np.zeros((ve["num_frames"], ve["img_size"], ve["img_size"], 3), np.uint8)
        said = {"question": file["questions"][number], "answers": answers[:1]}
        return {**{f"{i}.png": picture(frame) for i, frame in enumerate(frames)}, "json": json.dumps(said).encode()}

    write_shards(folder / "set", [len(file["questions"])], members=members)
    (folder / "answers.json").write_text(json.dumps(answers))
    encoder = {
        "preset": "custom", "frames": ve["num_frames"], "image_size": ve["img_size"],
        "sizes": {"width": ve["encoder_embed_dim"], "depth": ve["encoder_depth"], "heads": ve["encoder_num_heads"],
                  "patch": ve["patch_size"]},
    }  # fmt: skip
    text = {
        "preset": "custom", "weights": "random", "vocabulary": str(vocabulary_in(folder, file)), "dropout": 0.0,
        "max_tokens": cfg["max_q_len"], "fusion_layers": bert["num_hidden_layers"] - bert["fusion_layer"],
        "sizes": {"width": bert["hidden_size"], "layers": bert["num_hidden_layers"],
                  "heads": bert["num_attention_heads"], "hidden": bert["intermediate_size"],
                  "vocab_size": bert["vocab_size"]},
    }  # fmt: skip
    task = {
        "kind": "question_answering", "encoder": encoder, "text": text, "answer_tokens": cfg["max_a_len"]
    }  # fmt: skip
    (folder / "run.yaml").write_text(json.dumps({
        "name": "golden", "run_dir": str(folder / "run"), "task": task,
        "data": {"sources": {"own": {"shards": str(folder / "set")}}, "augment": {"antialias": False}, "workers": 0},
        "batch": {"global": 3, "micro": 3}, "optim": {"lr": 1e-5, "lr_rule": "absolute", "min_lr": 1e-7},
        "schedule": {"curve": "cosine_floor", "steps": 3, "warmup_steps": 1}, "engine": {"deepspeed": "cpu.json"},
        "evaluation": {"golden": {"kind": "question_answering", "shards": str(folder / "set"),
                                  "answers": str(folder / "answers.json"), "candidates": 128}},
    }))  # fmt: skip
    return load_run(str(folder / "run.yaml"))


def with_all_positions(state: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Places of text that nobody reaches, up to as many as a BERT of ours has."""
    return {
        key: torch.nn.functional.pad(value, (0, 0, 0, count - len(value))) if "position_embeddings" in key else value
        for key, value in state.items()
    }


@pytest.mark.parametrize("which", [0, 1])
def test_a_run_answers_as_published(golden: Golden, tmp_path: Path, which: int) -> None:
    """From weights of a published file and questions of a set to the answer and its probability."""
    file = golden("qa_list.pt")
    answers = file["lists"][which]
    run = run_of(tmp_path, file, answers["answers"])
    task = build_task(run, device=torch.device("cpu"), precision="fp32")
    task.load_weights(InitialWeights(with_all_positions(file["state"], 512), "golden file"))
    module = task.module.eval()
    assert isinstance(module, AnsweringModule)
    # clips of the golden file are floats, and sets hold bytes
    module.encoder.register_forward_pre_hook(lambda _, inputs: (file["videos"].transpose(1, 2),))
    (evaluator,) = evaluators_of(run)
    found = evaluator.run(module, ALONE, beat=no_beat, predictions=True)
    rows = found.predictions or {}
    assert [row[0] for row in rows["predicted"]] == answers["winner"]
    best = min(5, len(answers["answers"]))
    torch.testing.assert_close(torch.tensor(rows["probability"]), answers["topk_probs"][:, :best], **EXACT)
    right = sum(winner == answers["answers"][0] for winner in answers["winner"])
    assert found.values["accuracy"] == pytest.approx(100 * right / len(answers["winner"]))


# ---------------------------------------------------------------- ranking


@torch.no_grad()
def rank(file: dict[str, Any], ids: Tensor, mask: Tensor, *, k: int, rows: int = 256) -> RankedAnswers:
    model = published_model(file)
    return rank_answers(model.text_decoder, *questions_of(file, model), Tokens(ids, mask.bool()), k=k, rows=rows)


def test_a_ranking_is_the_published_one(golden: Golden) -> None:
    file = golden("qa.pt")
    ours = rank(file, file["answer_ids"], file["answer_att"], k=file["k"])
    torch.testing.assert_close(ours.probability, file["topk_probs"], **EXACT)
    assert torch.equal(ours.numbers, file["topk_ids"])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("rows", [5, 256])
def test_a_list_of_any_length_is_ranked_as_published(golden: Golden, which: int, rows: int) -> None:
    file = golden("qa_list.pt")
    answers = file["lists"][which]
    ours = rank(file, answers["answer_ids"], answers["answer_att"], k=128, rows=rows)  # of 7 answers, too

    kept = torch.zeros_like(answers["kept"]).scatter(1, ours.numbers, True)
    assert torch.equal(kept, answers["kept"])
    probability = torch.zeros_like(answers["probability"]).scatter(1, ours.numbers, ours.probability)
    torch.testing.assert_close(probability, answers["probability"], **EXACT)
    torch.testing.assert_close(ours.probability, answers["topk_probs"], **EXACT)
    assert [answers["answers"][number] for number in ours.best] == answers["winner"]


@pytest.mark.parametrize("which", [0, 1])
@torch.no_grad()
def test_first_pieces_and_scores_of_all_answers_are_the_published_ones(golden: Golden, which: int) -> None:
    file = golden("qa_list.pt")
    answers, model = file["lists"][which], published_model(file)
    states, is_question = questions_of(file, model)
    ids, is_token = answers["answer_ids"], answers["answer_att"].bool()
    decoder = model.text_decoder
    first = decoder(ids[:1, :1].expand(len(states), 1), states, is_question)[:, 0]
    short = shortlist(first, ids, k=len(ids))
    log_first = torch.empty_like(short.log_first).scatter(1, short.numbers, short.log_first)
    torch.testing.assert_close(log_first.exp(), answers["first"], **EXACT)
    for q in range(len(states)):
        here = torch.zeros(len(ids), dtype=torch.long)
        losses = answer_losses(decoder(ids[:, :-1], states[[q]], is_question[[q]], here), ids, is_token)
        torch.testing.assert_close(log_first[q] - losses, answers["score"][q], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FILES)
def test_a_published_file_is_told_by_its_decoder(golden: Golden, name: str) -> None:
    assert has_answer_decoder(golden(name)["state"])
    assert not has_answer_decoder(golden("stage2_umt.pt")["state"])


SIZES = {
    "base": (vit_size("vit_b16"), bert_size("bert_base"), 3),
    "large": (vit_size("vit_l16"), bert_size("bert_large"), 5),
}


def zeros(keys: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of these shapes that take no memory."""
    return {key: torch.zeros(()).expand(shape) for key, shape in keys.items()}


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("size", ["base", "large"])
def test_keys_and_shapes_are_those_of_published_checkpoints(published_keys: Keys, size: str) -> None:
    vit, bert, fusion = SIZES[size]
    with torch.device("meta"):
        ours = shapes(model_of(vit, bert, fusion_layers=fusion).state_dict())
    published = published_keys(f"keys_qa_{size}.txt")
    assert ours == shapes(answering_state(zeros(published)))
    for_one = {key.replace("text_encoder.bert.", "text_encoder.") for key in ours}
    beside = {key for key in published if "predictions.decoder" in key or "position_ids" in key}
    assert for_one == published.keys() - beside  # nothing else of the file is left out


@pytest.mark.parametrize("size", ["base", "large"])
def test_a_published_stage_2_file_fills_every_key(published_keys: Keys, size: str) -> None:
    vit, bert, fusion = SIZES[size]
    with torch.device("meta"):
        ours = shapes(model_of(vit, bert, fusion_layers=fusion).state_dict())
    stage2 = zeros(published_keys(f"keys_stage2_{size}.txt"))
    assert ours == shapes(answering_start(stage2, text_layers=bert.layers - fusion))
