"""The same as `test_stock_targets.py` for models of B's size with drawn weights, at the shapes that are published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.exports import a_classifier, a_student, a_video_text_model
from umt_ds.exchange.compare import differences, outputs_of, probe_of
from umt_ds.exchange.source import Source
from umt_ds.exchange.targets import Options, TargetName, target_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

CLOSE = 2e-5  # of the largest value of an output


def check(source: Source, target: TargetName, folder: Path, *names: str) -> None:
    """Written, loaded by its library, and the same for one clip. What is seen is printed, for README.md."""
    folder.mkdir()
    whole = probe_of(source)
    ids, is_token = (None if one is None else one[:1] for one in (whole.ids, whole.is_token))
    probe = replace(whole, pixels=whole.pixels[:1], keep=whole.keep[:1], ids=ids, is_token=is_token)
    target_of(target).write(source, folder, Options())
    seen = differences(outputs_of(source, probe), target_of(target).run(folder, source, probe, Options()))
    for one in seen:
        print(f"{target}: {one}")
        assert one.largest < CLOSE * max(1, one.largest_value), str(one)
    assert sorted(one.name for one in seen) == sorted(names)


def test_a_student_is_a_video_mae(tmp_path: Path) -> None:
    tower = "{image_size: 224, patch_size: 16, width: 32, layers: 2, heads: 2, out_width: 16}"
    size = ("task.student.preset=vit_b16", "task.student.frames=8", "task.student.image_size=224")
    source = a_student(tmp_path, *size, f"task.teacher.tower={tower}")
    check(source, "transformers", tmp_path / "out", "features", "visible")


@pytest.mark.parametrize(("frames", "side"), [(8, 224), (16, 224), (8, 384)])
def test_a_classifier_is_timms_vit(tmp_path: Path, frames: int, side: int) -> None:
    source = a_classifier(tmp_path, *_of_b(frames, side))
    check(source, "timm", tmp_path / "out", "features", "logits")


def test_a_classifier_is_an_onnx_graph(tmp_path: Path) -> None:
    check(a_classifier(tmp_path, *_of_b(8, 224)), "onnx", tmp_path / "out", "features", "logits")


@pytest.mark.parametrize("target", ["transformers", "onnx"])
def test_a_model_of_both(tmp_path: Path, target: TargetName) -> None:
    text = "{width: 768, layers: 12, heads: 12, hidden: 3072, vocab_size: 19}"
    encoder = "{preset: vit_b16, sizes: null, frames: 12, image_size: 224}"
    more = (f"task.encoder={encoder}", f"task.text.sizes={text}", "task.text.fusion_layers=3", "task.embed_width=512")
    source = a_video_text_model(tmp_path, "retrieval", *more)
    names = ("visible", "states") if target == "transformers" else ()
    check(source, target, tmp_path / "out", "features", "video", "text", *names)


def _of_b(frames: int, side: int) -> tuple[str, ...]:
    """Settings of recognition after pretraining on 8 frames of 224 pixels."""
    seen = (f"task.encoder.frames={frames}", f"task.encoder.image_size={side}", "task.encoder.preset=vit_b16")
    return (*seen, "task.positions.frames=8", "task.positions.image_size=224")
