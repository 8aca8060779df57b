"""`umt export FILE` of files with the keys and shapes of released ones, B and L: the same tensors come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from tests.support.exported import differing, write_words
from umt_ds.cli import export
from umt_ds.exchange.published import FILE
from umt_ds.models.positions import finetune_table

Keys = Callable[..., dict[str, tuple[int, ...]]]
SIZES = ["base", pytest.param("large", marks=pytest.mark.slow)]


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


def exported(folder: Path, *words: str) -> Iterator[str]:
    """What is printed while FOLDER/file.pth is exported to FOLDER/out."""
    words = (str(folder / "file.pth"), "--to", "published", "--wrap", "flat", "-o", str(folder / "out"), *words)
    ended = CliRunner().invoke(export.command, words)
    assert ended.exit_code == 0, (ended.exception, ended.output)
    return iter(ended.stdout.splitlines())


@pytest.mark.slow  # half a minute each at B
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

    lines = list(exported(tmp_path, *words))

    assert not [line for line in lines if line.startswith("note:")]
    assert all(line.startswith("largest difference 0 of ") for line in lines[1:])
    written, given = (
        torch.load(path, weights_only=True, mmap=True) for path in (tmp_path / "out" / FILE, tmp_path / "file.pth")
    )
    assert differing(written, given["model"]) == []


@pytest.mark.slow
def test_a_released_classifier_of_16_frames_brings_its_table_of_positions(published_keys: Keys, tmp_path: Path) -> None:
    state = random_weights(recognition(published_keys, "base"))
    state["pos_embed"] = finetune_table(16, 224, 16, 768)[None]
    torch.save(state, tmp_path / "file.pth")
    list(exported(tmp_path))
    assert differing(torch.load(tmp_path / "out" / FILE, weights_only=True), state) == []
