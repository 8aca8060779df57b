"""What stage 2 and retrieval start from: each file they take, and one error for each that they do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.tasks.test_stage2_task import CPU, SETTINGS, WORDS, stage1_state
from umt_ds.config.tasks.retrieval import RetrievalConfig
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.engine.protocol import InitialWeights
from umt_ds.errors import WeightsError
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.tasks.stage2.task import Stage2Task

torch.set_num_threads(1)
State = dict[str, Tensor]
TEXT = {**SETTINGS["text"], "vocabulary": "/vocab.txt"}


def stage2(**settings: object) -> Stage2Task:
    config = Stage2Config.model_validate({**SETTINGS, "text": TEXT, **settings})
    return Stage2Task(config, seed=1, device=CPU, precision="fp32", vocabulary=WORDS)


def retrieval(words: Vocabulary = WORDS, **settings: object) -> Stage2Task:
    own = {"kind": "retrieval", "encoder": SETTINGS["student"], "text": TEXT, "embed_width": 16, **settings}
    objective = RetrievalConfig.model_validate(own).objective
    return Stage2Task(objective, seed=1, device=CPU, precision="fp32", vocabulary=words, fine_tuning=True)


def drawn(task: Stage2Task) -> State:
    """Other weights for the model of a task."""
    torch.manual_seed(5)
    return {name: torch.rand_like(value) * 0.1 + 0.1 for name, value in task.module.state_dict().items()}


def published_stage2(state: State) -> State:
    """With the teacher, the tied decoder, and buffers."""
    words = state["text_encoder.bert.embeddings.word_embeddings.weight"]
    return {
        **state,
        "temp": state["temp"].reshape(()),
        "clip_teacher.proj": torch.zeros(2),
        "clip_teacher.ln_post.weight": torch.zeros(2),
        "text_encoder.cls.predictions.decoder.weight": words,
        "text_encoder.cls.predictions.decoder.bias": torch.zeros(60),
        "text_encoder.bert.embeddings.position_ids": torch.arange(512)[None],
    }


def published_retrieval(state: State) -> State:
    """Text encoder without `bert.`, and no word head and decoders."""
    left = {name: value for name, value in state.items() if not name.startswith("text_encoder.cls.")}
    named = {name.replace("text_encoder.bert.", "text_encoder."): value for name, value in left.items()}
    return {name: value for name, value in named.items() if "clip_decoder" not in name} | {"temp": torch.tensor(0.05)}


def assert_loaded(task: Stage2Task, state: State) -> None:
    for name, value in task.module.state_dict().items():
        assert torch.equal(value.flatten(), state[name].flatten()), name


def test_retrieval_starts_from_stage_2_and_counts_what_it_leaves_out() -> None:
    task, state = retrieval(), drawn(stage2())
    told = task.load_weights(InitialWeights(published_stage2(state), "a file"))
    assert_loaded(task, state)
    decoders, head = (sum(part in name for name in state) for part in ("clip_decoder", "text_encoder.cls."))
    assert told == (
        f"{len(task.module.state_dict())} tensors loaded; left out: 2 of clip_teacher, {decoders} of "
        f"vision_encoder.clip_decoder, {head + 2} of text_encoder.cls"
    )


def test_retrieval_starts_from_retrieval_published_or_own() -> None:
    state = drawn(retrieval())
    own, published = retrieval(), retrieval()
    told = f"{len(state)} tensors loaded"
    assert own.load_weights(InitialWeights(state, "a run")) == told
    assert_loaded(own, state)
    assert published.load_weights(InitialWeights(published_retrieval(state), "a file")) == told
    assert_loaded(published, state | {"temp": torch.tensor(0.05)})


def test_stage_2_takes_a_fine_tuned_file_and_says_what_is_not_in_it() -> None:
    task, state = stage2(), drawn(stage2())
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    told = task.load_weights(InitialWeights(published_retrieval(state), "a file"))
    decoders, head = (sum(part in name for name in state) for part in ("clip_decoder", "text_encoder.cls."))
    assert f"vision_encoder.clip_decoder ({decoders} tensors) is not in the file" in told
    assert f"text_encoder.cls ({head} tensors) is not in the file" in told
    for name, value in task.module.state_dict().items():
        is_new = "clip_decoder" in name or ".cls." in name
        expected = before[name] if is_new else torch.tensor([0.05]) if name == "temp" else state[name]
        assert torch.equal(value, expected), name


# ---------------------------------------------------------------- what does not fit


def without(part: str) -> State:
    return {name: value for name, value in drawn(retrieval()).items() if not name.startswith(part)}


def answering() -> State:
    """As the published file that once lay under the name of one of stage 2."""
    left = {name: value for name, value in without("itm_head").items() if "_proj" not in name and name != "temp"}
    return left | {"text_decoder.bert.embeddings.word_embeddings.weight": torch.zeros(60, 32)}


@pytest.mark.parametrize(
    ("state", "what", "hint"),
    [
        (stage1_state(), "a video encoder alone, as stage 1 or recognition trains it", "stage 2 or retrieval"),
        (without("text_encoder."), "it has no text_encoder, by which videos and texts", "stage 2 or retrieval"),
        (without("itm_head."), "it has no itm_head, by which videos and texts are compared", "stage 2 or retrieval"),
        (without("temp"), "it has no temp, by which videos and texts are compared", "stage 2 or retrieval"),
        (answering(), "weights of question answering: they have an answer decoder", "b16_25m.pth was once"),
    ],
    ids=["stage 1", "no text", "no match head", "no temperature", "question answering"],
)
def test_what_does_not_compare_videos_with_texts_is_refused(state: State, what: str, hint: str) -> None:
    task = retrieval()
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    with pytest.raises(WeightsError, match=f"/w.pth: .*{what}") as raised:
        task.load_weights(InitialWeights(state, "/w.pth"))
    assert raised.value.hint is not None
    assert hint in raised.value.hint
    assert_loaded(task, before)


def larger(**changes: object) -> State:
    return drawn(retrieval(**changes))


SIZES = {"width": 48, "layers": 4, "heads": 2, "hidden": 64, "vocab_size": 60}


@pytest.mark.parametrize(
    ("state", "what", "hint"),
    [
        (
            larger(encoder={"preset": "tiny", "frames": 2, "image_size": 64}),
            "its encoder has .* blocks of width .*, that of the run ",
            "task.encoder.preset=tiny, or other weights",
        ),
        (
            larger(text={**TEXT, "sizes": SIZES}),
            "its BERT has 4 layers of width 48 for 60 words, 1 of them for fusion; that of the run 3 layers of",
            "weights of the size that the run has",
        ),
        (
            larger(text={**TEXT, "fusion_layers": 2}),
            "2 of them for fusion; that of the run .* 1 of them",
            "of the size",
        ),
        (larger(embed_width=24), "it compares videos and texts by 24 numbers, the run by 16", "task.embed_width=24"),
    ],
    ids=["encoder", "bert", "fusion", "space"],
)
def test_another_size_is_one_error_with_the_setting_that_it_has(state: State, what: str, hint: str) -> None:
    with pytest.raises(WeightsError, match=what) as raised:
        retrieval().load_weights(InitialWeights(state, "a file"))
    assert hint in str(raised.value.hint)
