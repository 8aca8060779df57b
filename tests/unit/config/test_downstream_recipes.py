"""Recipes of retrieval, multiple choice, question answering and zero-shot retrieval are the authors' configs, number by
number; and they can be planned.

Source: METHOD.md, "Optimisation: after stage 2".
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest

from umt_ds.config.batching import plan_run
from umt_ds.config.evaluation import MultipleChoiceEvaluation, QuestionAnsweringEvaluation, RetrievalEvaluation
from umt_ds.config.load import load_run, run_names
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.config.tasks.retrieval import RetrievalConfig
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.preflight.plan import Request, plan_job

GPUS = 8
# config, lr, epochs, warm-up, drop path, frames in training/testing, tokens (of a question/an answer), flags, and what
# the best checkpoint is chosen by; a batch is 8 GPUs x 32
RELEASED = """
mc_msrvtt/b16_17m         2e-5  5   0  0.2  12/12  32        –                        mc_test/
mc_msrvtt/b16_25m         8e-5  3   0  0.2  12/12  32        –                        mc_test/
mc_msrvtt/b16_5m          8e-5  5   0  0.2  12/12  32        –                        mc_test/
mc_msrvtt/l16_17m         4e-5  5   0  0.3  12/12  32        –                        mc_test/
mc_msrvtt/l16_25m         4e-5  5   0  0.3  12/12  32        –                        mc_test/
mc_msrvtt/l16_5m          4e-5  5   0  0.3  12/12  32        –                        mc_test/
qa_anet/b16_17m           4e-5  12  1  0.2  12/12  32(25/5)  UMT_QA                   test
qa_anet/b16_25m           4e-5  12  1  0.2  12/12  32(25/5)  UMT_QA                   test
qa_anet/b16_5m            4e-5  12  1  0.2  12/12  32(25/5)  UMT_QA                   test
qa_anet/l16_17m           4e-5  12  1  0.3  12/12  32(25/5)  UMT_QA                   test
qa_anet/l16_25m           4e-5  10  1  0.3  12/12  32(25/5)  UMT_QA                   test
qa_anet/l16_5m            4e-5  10  1  0.3  12/12  32(25/5)  UMT_QA                   test
qa_msrvtt/b16_17m         2e-5  8   1  0.2  12/12  32(25/5)  UMT_QA                   val
qa_msrvtt/b16_25m         2e-5  8   1  0.4  12/12  32(25/5)  UMT_QA                   test
qa_msrvtt/b16_5m          2e-5  8   1  0.2  12/12  32(25/5)  UMT_QA                   val
qa_msrvtt/l16_17m         2e-5  6   1  0.4  12/12  32(25/5)  UMT_QA                   val
qa_msrvtt/l16_25m         4e-5  5   1  0.4  12/12  32(25/5)  UMT_QA                   test
qa_msrvtt/l16_5m          2e-5  8   1  0.4  12/12  32(25/5)  UMT_QA                   val
qa_msvd/b16_17m           2e-5  15  1  0.2  12/12  32(25/5)  UMT_QA                   test
qa_msvd/b16_25m           6e-5  6   1  0.2  12/12  32(25/5)  UMT_QA                   test
qa_msvd/b16_5m            2e-5  15  1  0.2  12/12  32(25/5)  UMT_QA                   test
qa_msvd/l16_17m           6e-5  6   1  0.4  12/12  32(25/5)  UMT_QA                   test
qa_msvd/l16_25m           6e-5  6   1  0.4  12/12  32(25/5)  UMT_QA                   test
qa_msvd/l16_5m            6e-5  6   1  0.4  12/12  32(25/5)  UMT_QA                   test
ret_anet/b16_17m          4e-5  20  1  0.1  12/12  150       paragraph                test/
ret_anet/b16_25m          4e-5  20  1  0.1  12/12  150       paragraph                test/
ret_anet/b16_5m           4e-5  20  1  0.1  12/12  150       paragraph                test/
ret_anet/l16_17m          4e-5  20  1  0.3  12/12  150       paragraph                test/
ret_anet/l16_25m          4e-5  20  1  0.2  12/12  150       paragraph                test/
ret_anet/l16_5m           4e-5  20  1  0.2  12/12  150       paragraph                test/
ret_didemo/b16_17m        2e-5  10  1  0.1  12/12  64        paragraph+trim30         val/
ret_didemo/b16_25m        2e-5  12  1  0.1  12/12  64        paragraph+trim30         val/
ret_didemo/b16_5m         2e-5  15  1  0.1  12/12  64        paragraph+trim30         val/
ret_didemo/l16_17m        4e-5  5   1  0.3  12/12  64        paragraph+trim30         val/
ret_didemo/l16_25m        4e-5  5   1  0.2  12/12  64        paragraph+trim30         val/
ret_didemo/l16_5m         4e-5  5   1  0.3  12/12  64        paragraph+trim30         val/
ret_lsmdc/b16_17m         2e-5  10  1  0.2  12/12  96        –                        test/
ret_lsmdc/b16_25m         2e-5  10  1  0.2  12/12  96        –                        test/
ret_lsmdc/b16_5m          2e-5  10  1  0.2  12/12  96        –                        test/
ret_lsmdc/l16_17m         2e-5  8   1  0.2  12/12  96        –                        test/
ret_lsmdc/l16_25m         2e-5  8   1  0.2  12/12  96        –                        test/
ret_lsmdc/l16_5m          2e-5  8   1  0.2  12/12  96        –                        test/
ret_msrvtt/b16_17m        2e-5  10  0  0.2  12/12  32        –                        test/
ret_msrvtt/b16_25m        1e-5  10  1  0.2  12/12  32        –                        test/
ret_msrvtt/b16_5m         2e-5  10  0  0.2  12/12  32        –                        test/
ret_msrvtt/l16_17m        2e-5  7   1  0.3  12/12  32        –                        test/
ret_msrvtt/l16_25m        2e-5  7   1  0.3  12/12  32        –                        test/
ret_msrvtt/l16_5m         2e-5  7   1  0.3  12/12  32        –                        test/
ret_msvd/b16_17m          1e-5  5   0  0.2  12/12  64        multi-text               test/
ret_msvd/b16_25m          1e-5  5   0  0.2  12/12  64        multi-text               test/
ret_msvd/b16_5m           1e-5  5   0  0.2  12/12  64        multi-text               test/
ret_msvd/l16_17m          1e-5  3   0  0.3  12/12  64        multi-text               test/
ret_msvd/l16_25m          1e-5  3   0  0.3  12/12  64        multi-text               test/
ret_msvd/l16_5m           1e-5  3   0  0.3  12/12  64        multi-text               test/
ret_ssv2_label/b16_17m    5e-5  10  0  0.1  12/12  25        multi-vision             val/
ret_ssv2_label/b16_25m    5e-5  10  0  0.1  12/12  25        multi-vision             val/
ret_ssv2_label/b16_5m     5e-5  10  0  0.1  12/12  25        multi-vision             val/
ret_ssv2_label/l16_17m    5e-5  10  0  0.2  12/12  25        multi-vision             val/
ret_ssv2_label/l16_25m    4e-5  10  0  0.2  12/12  25        multi-vision             val/
ret_ssv2_label/l16_5m     5e-5  10  0  0.2  12/12  25        multi-vision             val/
ret_ssv2_tpl/b16_17m      1e-4  10  1  0.1  12/12  25        multi-vision             val/
ret_ssv2_tpl/b16_25m      1e-4  10  1  0.1  12/12  25        multi-vision+VindLU_VIT  val/
ret_ssv2_tpl/b16_5m       1e-4  10  1  0.1  12/12  25        multi-vision             val/
ret_ssv2_tpl/l16_17m      1e-4  8   1  0.2  12/12  25        multi-vision             val/
ret_ssv2_tpl/l16_25m      1e-4  5   1  0.2  12/12  25        multi-vision             val/
ret_ssv2_tpl/l16_5m       1e-4  10  1  0.2  12/12  25        multi-vision             val/
zero_shot/ret_anet/b16    –     –   –  0.2  4/4    150       paragraph                test/
zero_shot/ret_anet/l16    –     –   –  0.3  4/4    150       paragraph                test/
zero_shot/ret_didemo/b16  –     –   –  0.2  4/4    64        paragraph+trim30         test/
zero_shot/ret_didemo/l16  –     –   –  0.3  4/4    64        paragraph+trim30         test/
zero_shot/ret_lsmdc/b16   –     –   –  0.2  4/4    64        –                        test/
zero_shot/ret_lsmdc/l16   –     –   –  0.3  4/4    96        –                        test/
zero_shot/ret_msrvtt/b16  –     –   –  0.2  4/4    32        –                        test/
zero_shot/ret_msrvtt/l16  –     –   –  0.3  4/4    32        –                        test/
zero_shot/ret_msvd/b16    –     –   –  0.2  4/4    64        –                        test/
zero_shot/ret_msvd/l16    –     –   –  0.3  4/4    64        –                        test/
"""
FOLDERS = {
    "ret_anet": "retrieval/activitynet",
    "ret_didemo": "retrieval/didemo",
    "ret_lsmdc": "retrieval/lsmdc",
    "ret_msrvtt": "retrieval/msrvtt",
    "ret_msvd": "retrieval/msvd",
    "ret_ssv2_label": "retrieval/ssv2_label",
    "ret_ssv2_tpl": "retrieval/ssv2_template",
    "mc_msrvtt": "multiple_choice/msrvtt",
    "qa_anet": "question_answering/activitynet",
    "qa_msrvtt": "question_answering/msrvtt",
    "qa_msvd": "question_answering/msvd",
    "zero_shot/ret_anet": "zero_shot/activitynet",
    "zero_shot/ret_didemo": "zero_shot/didemo",
    "zero_shot/ret_lsmdc": "zero_shot/lsmdc",
    "zero_shot/ret_msrvtt": "zero_shot/msrvtt",
    "zero_shot/ret_msvd": "zero_shot/msvd",
}
TASKS = ("retrieval", "multiple_choice", "question_answering", "zero_shot")


class Released(NamedTuple):
    """A row of the table."""

    config: str
    lr: str
    epochs: str
    warmup: str
    drop_path: str
    frames: str
    tokens: str
    flags: str
    best: str

    @property
    def recipe(self) -> str:
        folder, _, run = self.config.rpartition("/")
        return f"{FOLDERS[folder]}/{run}"


ROWS = [Released(*line.split()) for line in RELEASED.strip().splitlines()]
TUNED = [row for row in ROWS if not row.config.startswith("zero_shot/")]
ZERO_SHOT = [row for row in ROWS if row.config.startswith("zero_shot/")]


@cache
def recipe(name: str) -> RunConfig:
    return load_run(name, keep_unset=True)


def test_every_released_config_has_a_recipe_and_the_other_way_round() -> None:
    assert len(ROWS) == 76
    assert sorted(row.recipe for row in ROWS) == sorted(n for n in run_names() if n.startswith(TASKS))


@pytest.mark.parametrize("row", TUNED, ids=lambda row: row.recipe)
def test_a_recipe_of_fine_tuning_is_the_released_one(row: Released) -> None:
    run = recipe(row.recipe)
    task = run.task
    assert isinstance(task, RetrievalConfig | QuestionAnsweringConfig)
    assert (run.optim.lr, run.optim.min_lr) == (float(row.lr), pytest.approx(float(row.lr) / 100))
    assert (run.schedule.epochs, run.schedule.warmup_epochs) == (int(row.epochs), int(row.warmup))
    assert task.encoder.drop_path == float(row.drop_path)
    assert row.frames == f"{task.encoder.frames}/{task.encoder.frames}"
    if isinstance(task, QuestionAnsweringConfig):
        assert row.tokens == f"32({task.text.max_tokens}/{task.answer_tokens})"
        assert row.flags == "UMT_QA"
    else:
        assert task.text.max_tokens == int(row.tokens)
    size, corpus = row.recipe.rpartition("/")[2].split("_")
    assert str(run.init.weights) == f"${{env:UMT_STAGE2_{size.upper()}_{corpus.upper()}}}"
    sizes = (task.encoder.preset, task.text.preset, task.text.fusion_layers)
    assert sizes == (("vit_b16", "bert_base", 3) if size == "b16" else ("vit_l16", "bert_large", 5))


@pytest.mark.parametrize("row", TUNED, ids=lambda row: row.recipe)
def test_what_all_of_fine_tuning_has_in_common(row: Released) -> None:
    run = recipe(row.recipe)
    plan = plan_run(run, world=GPUS, num_samples=100_000)
    assert (plan.micro, plan.accumulation, plan.draws_per_step) == (32, 1, 256)
    assert (run.optim.lr_rule, run.schedule.curve, run.seed) == ("absolute", "cosine_floor", 42)
    assert (run.optim.betas, run.optim.weight_decay, run.optim.clip_grad) == ((0.9, 0.999), 0.02, None)
    augment = run.data.augment
    assert (augment.crop, augment.scale, augment.flip, augment.antialias) == ("random_resized", (0.5, 1.0), True, False)
    (source,) = run.data.sources.values()
    assert source.frames.policy == "intervals"


@pytest.mark.parametrize("row", TUNED, ids=lambda row: row.recipe)
def test_a_run_keeps_its_best_by_the_set_of_the_released_one_and_has_a_test(row: Released) -> None:
    run = recipe(row.recipe)
    # the set that the authors call val is their only one of Something-Something, and what all others call its test
    by = {"val/": "val", "val": "val"}.get(row.best, "test") if "ssv2" not in row.recipe else "test"
    metric = "reranked_mean" if row.recipe.startswith("retrieval/") else "accuracy"
    assert run.cadence.keep_best == f"{by}/{metric}"
    assert list(run.evaluations_in_training) == [by]
    kind = {
        "retrieval": RetrievalEvaluation,
        "multiple_choice": MultipleChoiceEvaluation,
        "question_answering": QuestionAnsweringEvaluation,
    }[row.recipe.partition("/")[0]]
    for entry in run.evaluation.values():
        assert isinstance(entry, kind)
        assert entry.frames == "published"
        assert entry.antialias is None, "as the run's own clips: without, as published"
        if isinstance(entry, RetrievalEvaluation):
            assert entry.rerank is not None
            assert entry.rerank.candidates == 128
        if isinstance(entry, QuestionAnsweringEvaluation):
            assert (entry.candidates, entry.answers is None) == (128, False)


SIZES = {  # of the training sets: UMT table 28, or the publisher where that says nothing
    "retrieval/msrvtt": 180_000, "retrieval/didemo": 8_496, "retrieval/activitynet": 10_009, "retrieval/lsmdc": 101_079,
    "retrieval/msvd": 48_774, "retrieval/ssv2_label": 168_913, "retrieval/ssv2_template": 168_913,
    "multiple_choice/msrvtt": 140_200, "question_answering/activitynet": 32_000, "question_answering/msrvtt": 158_581,
    "question_answering/msvd": 30_933,
}  # fmt: skip


@pytest.mark.parametrize("row", TUNED, ids=lambda row: row.recipe)
def test_a_run_is_judged_after_each_epoch_of_its_training_set(row: Released) -> None:
    run = recipe(row.recipe)
    plan = plan_run(run, world=GPUS, num_samples=SIZES[row.recipe.rpartition("/")[0]])
    assert run.cadence.evaluate == plan.steps_per_epoch


@pytest.mark.parametrize("row", ZERO_SHOT, ids=lambda row: row.recipe)
def test_a_zero_shot_recipe_is_the_released_one(row: Released) -> None:
    run = recipe(row.recipe)
    assert isinstance(run.task, Stage2Config)
    assert (run.task.text.max_tokens, row.frames) == (int(row.tokens), f"{run.task.student.frames}/4")
    (entry,) = run.evaluation.values()
    assert isinstance(entry, RetrievalEvaluation)
    assert entry.rerank is not None
    assert (entry.rerank.candidates, entry.frames, entry.in_training) == (128, "published", False)
    assert str(run.init.weights).startswith(f"${{env:UMT_STAGE2_{row.recipe.rpartition('/')[2].upper()}_")
    of_tuning = recipe(f"{FOLDERS[row.config.partition('/')[2].partition('/')[0]]}/{row.recipe.rpartition('/')[2]}_25m")
    assert entry.shards == of_tuning.evaluation["test"].shards, "the set that fine-tuned models are tested on"


@pytest.mark.parametrize("name", ["b16_25m", "l16_25m"])
@pytest.mark.parametrize("folder", sorted({row.recipe.rpartition("/")[0] for row in TUNED}))
def test_a_recipe_fits_eight_gpus_of_80_gb(folder: str, name: str) -> None:
    plan = plan_job(recipe(f"{folder}/{name}"), Request(GPUS, "a100", samples=100_000, measure=False), say=print)
    assert plan.memory[plan.stage].total < 80e9
