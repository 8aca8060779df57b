"""What question answering prepares for its module, what it learns, and what it starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.answering import WORDS, answering_run, batches, question, task_of, trained, write_questions
from umt_ds.batch import Answers
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.engine.protocol import InitialWeights
from umt_ds.errors import ConfigError, DataError, WeightsError
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.models.bert import Bert
from umt_ds.models.presets import BertSize, VitSize
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.kinds import cost_of
from umt_ds.tasks.question_answering.task import QuestionAnsweringTask

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what `answering_run` writes."""
    folder = tmp_path_factory.mktemp("answering")
    answering_run(folder)
    return folder


def said(ids: Tensor) -> list[str]:
    return [" ".join(WORDS[piece] for piece in row if piece) for row in ids.tolist()]


def test_questions_are_cleaned_and_answers_end_with_sep(folder: Path) -> None:
    task = task_of(answering_run(folder))
    (batch,) = batches(answering_run(folder), 1)
    inputs = task.prepare(batch, 0)
    assert set(said(inputs.questions.ids)) == {"[CLS] what colour is it", "[CLS] is it red"}
    told = {"red", "green", "dark blue", "yes", "no"}
    assert {text.removeprefix("[CLS] ").removesuffix(" [SEP]") for text in said(inputs.answers.ids)} <= told
    assert all(text.endswith("[SEP]") for text in said(inputs.answers.ids))
    assert inputs.rows.tolist() == list(range(6))
    assert inputs.weights.tolist() == [1.0] * 6


def test_different_answers_to_a_question_count_by_their_weights(tmp_path: Path) -> None:
    """Of yes, no, yes, yes, no answer is computed twice, and none that is not there."""
    write_questions(
        tmp_path / "train",
        (12,),
        members=lambda n: question(n, answers=["yes", "no", "yes", "yes"] if n % 2 else ["red"]),
    )
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    run = answering_run(tmp_path)
    task = task_of(run)
    (batch,) = batches(run, 1)
    inputs = task.prepare(batch, 0)
    weights = {
        (said(inputs.questions.ids)[row], answer): weight
        for row, answer, weight in zip(
            inputs.rows.tolist(), said(inputs.answers.ids), inputs.weights.tolist(), strict=True
        )
    }
    assert weights == {
        ("[CLS] is it red", "[CLS] yes [SEP]"): 0.75,
        ("[CLS] is it red", "[CLS] no [SEP]"): 0.25,
        ("[CLS] what colour is it", "[CLS] red [SEP]"): 1.0,
    }
    assert len(inputs.rows) < 12, "places without an answer are not computed"


def test_the_loss_is_that_of_each_answer_alone_weighed(folder: Path) -> None:
    run = answering_run(folder)
    task = task_of(run)
    (batch,) = batches(run, 1)
    ids = torch.tensor([[[2, 9, 3, 0, 0], [2, 11, 12, 3, 0]], [[2, 13, 3, 0, 0], [0] * 5]])
    batch = replace(
        batch.rows(0, 2),
        targets=replace(
            batch.rows(0, 2).targets, answers=Answers(ids, ids > 0, torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
        ),
    )
    module = task.module.eval()
    ours = module(task.prepare(batch, 0))

    total = 0.0
    for row, answers in enumerate([[([9, 3], 0.25), ([11, 12, 3], 0.75)], [([13, 3], 1.0)]]):
        inputs = task.prepare(batch.rows(row, row + 1), 0)
        states = module.read(inputs.clips, inputs.questions.ids, inputs.questions.mask)
        for pieces, weight in answers:
            before = [2]
            for piece in pieces:
                logits = module.text_decoder(torch.tensor([before]), states, inputs.questions.mask)[0, -1]
                total -= weight * logits.log_softmax(dim=0)[piece].item()
                before.append(piece)
    assert ours.total.item() == pytest.approx(total / 2, abs=1e-4)
    assert ours.parts["answers"].item() == pytest.approx(ours.total.item())


def test_it_learns_to_answer_what_is_seen(folder: Path) -> None:
    _, losses = trained(answering_run(folder), 60)
    assert losses[0] > 6  # three or four words of twenty
    assert sum(losses[-5:]) / 5 < 1.5


def test_drop_path_is_keyed_by_step_and_slot(folder: Path) -> None:
    run = answering_run(folder, "task.encoder.drop_path=0.3")
    task = task_of(run)
    (batch,) = batches(run, 1)
    whole, part, later = task.prepare(batch, 7), task.prepare(batch.rows(2, 4), 7), task.prepare(batch, 8)
    for one in (whole, part, later):
        assert one.clips.drop_noise is not None
    assert torch.equal(whole.clips.drop_noise[:, :, 2:4], part.clips.drop_noise)  # type: ignore[index, arg-type]
    assert not torch.equal(whole.clips.drop_noise, later.clips.drop_noise)  # type: ignore[arg-type]


def test_recomputing_changes_no_gradient(folder: Path) -> None:
    """Of three layers of BERT the last fuses, and the decoder has its like."""
    recomputed = ("task.encoder.checkpoint_blocks=2", "task.text.checkpoint_layers=3")
    found = []
    for more in ((), recomputed):
        run = answering_run(folder, "task.text.dropout=0.2", *more)
        task = task_of(run)
        (batch,) = batches(run, 1)
        torch.manual_seed(3)
        task.module(task.prepare(batch, 0)).total.backward()
        found.append({name: p.grad for name, p in task.module.named_parameters()})
        assert task.module.text_decoder.checkpoint_layers == (1 if more else 0)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient is not None, f"{name} has no gradient"
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-6)


def test_biases_and_norms_do_not_decay(folder: Path) -> None:
    task = task_of(answering_run(folder))
    decays, does_not = task.parameter_groups(OptimConfig(lr=1e-5, lr_rule="absolute", weight_decay=0.02))
    assert (decays["weight_decay"], does_not["weight_decay"]) == (0.02, 0.0)
    assert all(parameter.ndim > 1 for parameter in decays["params"])
    assert all(parameter.ndim == 1 for parameter in does_not["params"])


def test_a_plan_counts_what_is_there(folder: Path) -> None:
    run = answering_run(folder)
    task = task_of(run)
    cost = cost_of(run, "fp32")
    assert cost.parameters == sum(parameter.numel() for parameter in task.module.parameters())
    assert cost.student_flops == task.flops_per_view > 2 * cost.forward_flops
    assert cost.evaluation_flops == 0.0
    longer = cost_of(answering_run(folder, "task.encoder.frames=4"), "fp32")
    assert longer.activation_bytes > cost.activation_bytes
    spared = cost_of(answering_run(folder, "task.encoder.checkpoint_blocks=2", "task.text.checkpoint_layers=3"), "fp32")
    assert spared.activation_bytes < cost.activation_bytes


# ---------------------------------------------------------------- training data


def test_a_source_without_answers_is_refused(tmp_path: Path) -> None:
    write_questions(tmp_path / "train", (12,), members=lambda n: question(n, answers=[]))
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    with pytest.raises(DataError, match=r"the first 8 items of .* have no `answers`"):
        next(batches(answering_run(tmp_path), 1))


def test_a_question_without_an_answer_is_a_bad_sample_with_that_reason(tmp_path: Path) -> None:
    write_questions(tmp_path / "train", (12,), members=lambda n: question(n, **({"answers": []} if n == 3 else {})))
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    run = answering_run(tmp_path)
    substituted = sum(batch.substituted for batch in batches(run, 2))
    assert substituted == 1


def test_a_vocabulary_without_sep_is_refused(tmp_path: Path) -> None:
    run = answering_run(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(word for word in WORDS if word != "[SEP]") + "\n")
    with pytest.raises(ConfigError, match=r"task\.text\.vocabulary: .* has no token \[SEP\]"):
        next(batches(run, 1))


# ---------------------------------------------------------------- first weights

BERT = BertSize(width=32, layers=3, heads=2, hidden=64, vocab_size=20, max_tokens=512)
VIT = VitSize(width=32, depth=2, heads=2, patch=8)


def stage2_state(vit: VitSize = VIT, bert: BertSize = BERT, *, word_head: bool = True) -> dict[str, Tensor]:
    torch.manual_seed(9)
    vision = VideoViT(vit).state_dict()
    text = Bert(bert, fusion_layers=1, video_width=vit.width, word_head=word_head).state_dict()
    state = {f"vision_encoder.encoder.{key}": value for key, value in vision.items()}
    state |= {f"text_encoder.{key}": value for key, value in text.items()}
    return state | {"temp": torch.ones(1), "itm_head.bias": torch.zeros(2), "clip_teacher.proj": torch.zeros(2, 2)}


def load(folder: Path, state: dict[str, Tensor], *more: str) -> tuple[QuestionAnsweringTask, str]:
    task = task_of(answering_run(folder, *more))
    return task, task.load_weights(InitialWeights(state, "given.pth"))


def test_from_stage_2_the_decoder_is_the_fusion_half(folder: Path) -> None:
    state = stage2_state()
    task, told = load(folder, state)
    assert told.startswith("weights of stage 2:")
    assert "0 left at their start" in told
    own = task.module.state_dict()
    prefix = "text_encoder.bert.encoder.layer.2."
    for key in (key for key in state if key.startswith(prefix)):
        torch.testing.assert_close(own[key], state[key])
        torch.testing.assert_close(own[f"text_decoder.bert.encoder.layer.0.{key.removeprefix(prefix)}"], state[key])


def test_its_own_weights_are_read_whole(folder: Path) -> None:
    state = task_of(answering_run(folder, "seed=7")).module.state_dict()
    task, told = load(folder, dict(state))
    assert told.startswith("weights of question answering:")
    assert all(torch.equal(value, state[key]) for key, value in task.module.state_dict().items())


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({f"encoder.{k}": v for k, v in VideoViT(VIT).state_dict().items()}, "no text encoder, and questions are text"),
        (stage2_state(word_head=False), "no word head"),
        (stage2_state(replace(VIT, depth=3)), "3 blocks of width 32, that of the run 2"),
        (stage2_state(bert=replace(BERT, layers=4)), "its BERT has 4 layers"),
        (stage2_state(bert=replace(BERT, vocab_size=21)), "for 21 words"),
        (stage2_state(replace(VIT, width=16)), "look at videos of width 16"),
    ],
)
def test_other_weights_are_refused_with_what_they_are(folder: Path, state: dict[str, Tensor], says: str) -> None:
    with pytest.raises(WeightsError, match=says) as told:
        load(folder, state)
    assert "given.pth" in told.value.what


def test_from_a_bert_folder_encoder_and_decoder_begin_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the cross-attention, which no BERT has."""
    from umt_ds.tasks import bert as door

    whole = Bert(BERT, fusion_layers=1, video_width=32).state_dict()
    monkeypatch.setattr(door, "bert_folder_size", lambda _: BERT)
    monkeypatch.setattr(
        door, "read_bert_folder", lambda _: {k: v for k, v in whole.items() if "crossattention" not in k}
    )
    task: dict[str, Any] = answering_run(folder).task.model_dump()
    task["text"] |= {"weights": folder}
    words = Vocabulary(20, cls_id=2, pad_id=0, mask_id=4, fingerprint="of a test")
    made = QuestionAnsweringTask(QuestionAnsweringConfig.model_validate(task), seed=0, device=CPU, vocabulary=words)
    own = made.module.state_dict()
    for name in ("attention.self.query.weight", "output.dense.bias"):
        last = whole[f"bert.encoder.layer.2.{name}"]
        assert torch.equal(own[f"text_encoder.bert.encoder.layer.2.{name}"], last)
        assert torch.equal(own[f"text_decoder.bert.encoder.layer.0.{name}"], last)
    assert torch.equal(own["text_decoder.cls.predictions.bias"], whole["cls.predictions.bias"])
    cross = "encoder.layer.{}.crossattention.self.query.weight"
    assert not torch.equal(own[f"text_encoder.bert.{cross.format(2)}"], own[f"text_decoder.bert.{cross.format(0)}"])
    assert not any(key.startswith("text_encoder.cls") for key in own)
