"""Published weights → our model → published weights: every tensor is the same again, and so is what the model says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.exported import bert, differing, source_of, tower, vit, write_words
from umt_ds.exchange.export import export
from umt_ds.exchange.published import FILE
from umt_ds.exchange.source import Source
from umt_ds.exchange.targets import Options

Golden = Callable[[str], Any]


def stage1(golden: Golden, folder: Path) -> tuple[str, dict[str, Tensor]]:
    file = golden("stage1_student.pt")
    cfg = file["cfg"]
    width = cfg["encoder_embed_dim"]
    student = vit(width, cfg["encoder_depth"], cfg["encoder_num_heads"], frames=4, side=cfg["img_size"])
    teacher = tower(24, 4, 3, out_width=cfg["clip_output_dim"], side=64, k=cfg["clip_return_layer"])
    return f"{{kind: stage1, student: {student}, teacher: {teacher}}}", file["state"]


def recognition(name: str) -> Callable[[Golden, Path], tuple[str, dict[str, Tensor]]]:
    def made(golden: Golden, folder: Path) -> tuple[str, dict[str, Tensor]]:
        file = golden(f"finetune_{name}.pt")
        encoder = vit(48, 3, file["cfg"]["heads"], frames=file["cfg"]["frames"], side=file["cfg"]["side"])
        return f"{{kind: recognition, encoder: {encoder}, classes: 11, mixing: null}}", file["state"]

    return made


def stage2(golden: Golden, folder: Path) -> tuple[str, dict[str, Tensor]]:
    file = golden("stage2_umt.pt")
    ve, text, clip = file["cfg"]["ve"], file["cfg"]["bert"], file["cfg"]["teacher"]
    student = vit(ve["encoder_embed_dim"], ve["encoder_depth"], ve["encoder_num_heads"], frames=4, side=64)
    teacher = tower(clip["width"], clip["layers"], clip["heads"], out_width=clip["output_dim"], side=64, k=3)
    words = write_words(folder, text["vocab_size"])
    task = f"kind: stage2, student: {student}, teacher: {teacher}, text: {bert(text, words)}"
    return f"{{{task}, embed_width: {file['cfg']['embed_dim']}}}", file["state"]


def retrieval(golden: Golden, folder: Path) -> tuple[str, dict[str, Tensor]]:
    file = golden("retrieval_eval.pt")
    ve, text = file["cfg"]["ve"], file["cfg"]["bert"]
    encoder = vit(ve["encoder_embed_dim"], ve["encoder_depth"], ve["encoder_num_heads"], frames=4, side=64)
    words = write_words(folder, text["vocab_size"])
    task = f"kind: retrieval, encoder: {encoder}, text: {bert(text, words)}, embed_width: {file['cfg']['embed_dim']}"
    return f"{{{task}}}", file["state"]


def question_answering(golden: Golden, folder: Path) -> tuple[str, dict[str, Tensor]]:
    file = golden("qa.pt")
    ve, text = file["cfg"]["ve"], file["cfg"]["bert"]
    encoder = vit(ve["encoder_embed_dim"], ve["encoder_depth"], ve["encoder_num_heads"], frames=4, side=64)
    words = write_words(folder, text["vocab_size"])
    return f"{{kind: question_answering, encoder: {encoder}, text: {bert(text, words)}}}", file["state"]


CASES = {
    "stage1": stage1,
    "recognition, 8 frames": recognition("T8"),
    "recognition, 16 frames": recognition("T16"),
    "stage2": stage2,
    "retrieval": retrieval,
    "question answering": question_answering,
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, golden: Golden, tmp_path: Path) -> tuple[Source, dict[str, Tensor]]:
    task, state = CASES[request.param](golden, tmp_path)
    return source_of(tmp_path, task, state), state


def test_a_published_file_is_the_same_after_the_way_there_and_back(
    case: tuple[Source, dict[str, Tensor]], tmp_path: Path
) -> None:
    source, state = case

    exported = export(source, "published", tmp_path / "out", Options(wrap="flat"))

    written = torch.load(tmp_path / "out" / FILE, weights_only=True)
    assert differing(written, state) == []
    assert len(exported.compared) >= 2
    assert [one.largest for one in exported.compared] == [0.0] * len(exported.compared)
    assert exported.written.notes == ()


def test_the_tied_tensors_of_a_file_share_their_numbers(golden: Golden, tmp_path: Path) -> None:
    task, state = stage2(golden, tmp_path)
    export(source_of(tmp_path, task, {"model": state}), "published", tmp_path / "out", Options())

    written = torch.load(tmp_path / "out" / FILE, weights_only=True)["model"]  # as the authors' loader of stage 2 asks
    words = written["text_encoder.bert.embeddings.word_embeddings.weight"]
    assert words.data_ptr() == written["text_encoder.cls.predictions.decoder.weight"].data_ptr()
    assert differing(written, state) == []
