"""`umt export --to published` of files with the keys and shapes of released ones, B and L: the same tensors again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.exported import differing, write_words
from umt_ds.config.load import run_names
from umt_ds.errors import WeightsError
from umt_ds.exchange import published
from umt_ds.exchange.source import open_source
from umt_ds.exchange.targets import Options
from umt_ds.jobs.eval_runs import find_runs
from umt_ds.models.positions import finetune_table
from umt_ds.tasks.file_run import run_of_file, run_of_state

Keys = Callable[..., dict[str, tuple[int, ...]]]
SIZES = ["base", "large"]


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Other numbers in each tensor; what is tied in a released file is tied."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("position_ids"):
            state[name] = torch.arange(shape[1])[None]
        elif "predictions.decoder." not in name:
            state[name] = torch.rand(shape, generator=generator).mul_(0.04).sub_(0.02)
    for name in shapes.keys() - state.keys():
        model, _, part = name.partition("cls.predictions.decoder.")
        words = f"{model}bert.embeddings.word_embeddings.weight"
        state[name] = state[words if part == "weight" else f"{model}cls.predictions.bias"]
    return {name: state[name] for name in shapes}


def stage1(keys: Keys, size: str) -> dict[str, tuple[int, ...]]:
    return keys(f"keys_stage1_{size}.txt", part="student")


def recognition(keys: Keys, size: str) -> dict[str, tuple[int, ...]]:
    """The list of B; that of L by the encoder of its stage 1."""
    encoder = {name.removeprefix("encoder."): shape for name, shape in stage1(keys, size).items() if "encoder." in name}
    width = encoder["norm.weight"][0]
    kept = {name: shape for name, shape in encoder.items() if not name.startswith("norm.")}
    shapes = kept | {"fc_norm.weight": (width,), "fc_norm.bias": (width,)}
    shapes |= {"head.weight": (400, width), "head.bias": (400,)}
    assert size == "large" or shapes == keys("keys_finetune_base.txt")
    return shapes


def stage2(keys: Keys, size: str) -> dict[str, tuple[int, ...]]:
    return keys(f"keys_stage2_{size}.txt")


def retrieval(keys: Keys, size: str) -> dict[str, tuple[int, ...]]:
    left = ("clip_teacher.", "vision_encoder.clip_decoder.", "text_encoder.cls.")
    kept = {name: shape for name, shape in stage2(keys, size).items() if not name.startswith(left)}
    return {name.replace("text_encoder.bert.", "text_encoder."): shape for name, shape in kept.items()}


def question_answering(keys: Keys, size: str) -> dict[str, tuple[int, ...]]:
    return keys(f"keys_qa_{size}.txt")


KINDS = (stage1, recognition, stage2, retrieval, question_answering)


def exported(folder: Path, *overrides: str) -> None:
    """FOLDER/file.pth to FOLDER/weights.pth, as the command does it, but for looking at clips, which takes minutes."""
    recipe, given = run_of_file(folder / "file.pth", overrides)
    (run,) = find_runs([recipe], given, own_weights=False, judged=False)
    source = open_source(run)
    assert published.plan(source, Options()).notes == ()
    assert published.write(source, folder, Options(wrap="flat")).notes == ()


def zeros(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of these shapes that take no memory."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("size", ["base", "large"])
def test_the_tensors_of_a_released_file_tell_its_run(size: str, published_keys: Keys) -> None:
    recipes = [run_of_state(zeros(kind(published_keys, size))) for kind in KINDS]
    letter = size[0]
    assert recipes == [
        (f"stage1/{letter}16_k710", []),
        (f"recognition/{letter}16_k400", ["task.classes=400"]),
        (f"stage2/{letter}16_25m", []),
        (f"retrieval/msrvtt/{letter}16_25m", []),
        (f"question_answering/msrvtt/{letter}16_25m", []),
    ]
    assert {name for name, _ in recipes} <= set(run_names())


def test_a_classifier_tells_its_frames_by_its_table_of_positions(published_keys: Keys) -> None:
    state = zeros(recognition(published_keys, "base"))
    state["pos_embed"] = finetune_table(16, 224, 16, 768)[None]
    frames = ["task.encoder.frames=16", "task.encoder.image_size=224"]
    assert run_of_state(state) == ("recognition/b16_k400", ["task.classes=400", *frames])


def test_a_file_of_another_size_wants_its_run(published_keys: Keys) -> None:
    state = {name: value for name, value in zeros(stage1(published_keys, "base")).items() if ".blocks.11." not in name}
    with pytest.raises(WeightsError, match="11 blocks of width 768, which is neither B nor L"):
        run_of_state(state)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_released_file_is_the_same_after_the_way_there_and_back(
    kind: Callable[[Keys, str], dict[str, tuple[int, ...]]], size: str, published_keys: Keys, tmp_path: Path
) -> None:
    state = random_weights(kind(published_keys, size))
    torch.save({"model": state}, tmp_path / "file.pth")
    del state
    has_text = kind in (stage2, retrieval, question_answering)
    words = [f"task.text.vocabulary={write_words(tmp_path, 30522)}"] if has_text else []

    exported(tmp_path, *words)

    written, given = (
        torch.load(path, weights_only=True, mmap=True) for path in (tmp_path / published.FILE, tmp_path / "file.pth")
    )
    assert differing(written, given["model"]) == []


@pytest.mark.slow
def test_a_released_classifier_of_16_frames_brings_its_table_of_positions(published_keys: Keys, tmp_path: Path) -> None:
    state = random_weights(recognition(published_keys, "base"))
    state["pos_embed"] = finetune_table(16, 224, 16, 768)[None]
    torch.save(state, tmp_path / "file.pth")
    exported(tmp_path)
    assert differing(torch.load(tmp_path / published.FILE, weights_only=True), state) == []
