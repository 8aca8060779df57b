"""Exports that classes of other libraries load: what these say of the same clip, and what their cards tell to type.

Tiny models, whose weights are drawn so that no two parts are alike. `test_stock_full_size.py` has models of B's size.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.exports import a_classifier, a_student, a_video_text_model
from umt_ds.errors import ConfigError
from umt_ds.exchange.compare import probe_of
from umt_ds.exchange.export import Exported, export, plan_export
from umt_ds.exchange.source import Source
from umt_ds.exchange.targets import Options, TargetName, target_of
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.layers import IMAGENET, normalise
from umt_ds.models.positions import BaseClip

CLOSE = 2e-5  # of the largest value of an output: fp32 in another order


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return a_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return a_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def stretched(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A classifier of more frames and larger ones than it was pretrained on, so that its positions are stretched."""
    more = (
        "task.encoder.frames=3",
        "task.encoder.image_size=24",
        "task.positions.frames=2",
        "task.positions.image_size=16",
    )
    return a_classifier(tmp_path_factory.mktemp("stretched"), *more)


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return a_video_text_model(tmp_path_factory.mktemp("retrieval"))


def check(exported: Exported, *names: str) -> None:
    """These outputs, and no others, are those of the model before."""
    assert sorted(one.name for one in exported.compared) == sorted(names)
    for one in exported.compared:
        assert one.largest_value > 0.1
        assert one.largest < CLOSE * max(1, one.largest_value), str(one)


def type_in(folder: Path) -> dict[str, Any]:
    """All code of a card, one block after the other, as a reader types it. What it defined."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    exec("\n".join(blocks).replace("FOLDER", str(folder)), names)
    return names


# ---------------------------------------------------------------- transformers


def test_a_student_is_a_video_mae(student: Source, tmp_path: Path) -> None:
    exported = export(student, "transformers", tmp_path / "out", Options())
    check(exported, "features", "visible")
    assert type_in(tmp_path / "out")["features"].shape == (1, 8, 128)


def test_biases_are_written_under_the_names_of_every_version(student: Source, tmp_path: Path) -> None:
    """transformers 5.0 to 5.3 reads the first alone, 5.5 to 5.16 the second alone, and they only warn."""
    export(student, "transformers", tmp_path / "out", Options())
    state = load_file(tmp_path / "out" / "model.safetensors")
    for index in range(6):
        attention = f"encoder.layer.{index}.attention.attention"
        assert torch.equal(state[f"{attention}.q_bias"], student.state[f"encoder.blocks.{index}.attn.q_bias"])
        assert torch.equal(state[f"{attention}.query.bias"], state[f"{attention}.q_bias"])
        assert torch.equal(state[f"{attention}.value.bias"], state[f"{attention}.v_bias"])
        assert not torch.equal(state[f"{attention}.value.bias"], state[f"{attention}.q_bias"])


def test_positions_that_the_class_cannot_compute_are_refused(tmp_path: Path) -> None:
    source = a_student(tmp_path)
    source.encoder.positions, source.encoder.base = "interpolated", BaseClip(3, 16)
    with pytest.raises(
        ConfigError, match=r"no place for stretched positions: .* 2 frames of 16 pixels .* 3 of 16"
    ) as error:
        plan_export(source, "transformers", tmp_path / "out", Options())
    assert "--to published" in (error.value.hint or "")


@pytest.mark.parametrize("target", ["transformers", "timm"])
def test_a_classifier_is_timms_vit(classifier: Source, tmp_path: Path, target: TargetName) -> None:
    exported = export(classifier, target, tmp_path / "out", Options())
    check(exported, "features", "logits")
    assert type_in(tmp_path / "out")["logits"].shape == (1, 3)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["label_names"] == ["archery", "biking", "crying"]


def test_so_it_is_with_stretched_positions(stretched: Source, tmp_path: Path) -> None:
    check(export(stretched, "timm", tmp_path / "out", Options()), "features", "logits")
    assert load_file(tmp_path / "out" / "model.safetensors")["pos_embed"].shape == (1, 27, 128)


def test_transformers_knows_the_names_of_the_classes(classifier: Source, tmp_path: Path) -> None:
    from transformers import AutoConfig

    export(classifier, "timm", tmp_path / "out", Options())
    assert AutoConfig.from_pretrained(tmp_path / "out").id2label == {0: "archery", 1: "biking", 2: "crying"}


def test_video_mae_for_classification_would_not_be_exact(classifier: Source) -> None:
    """Why it is not taken: its norm has another epsilon, which its configuration cannot say."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    module = classifier.module
    assert isinstance(module, VideoClassifier)
    theirs = VideoMAEForVideoClassification(
        VideoMAEConfig(image_size=16, hidden_size=12, num_hidden_layers=1, layer_norm_eps=1e-6)
    )
    assert theirs.fc_norm.eps == 1e-5 != module.fc_norm.eps


def test_a_model_of_both_is_a_video_mae_and_a_bert(retrieval: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    check(export(retrieval, "transformers", out, Options()), "features", "visible", "states", "video", "text")
    typed = type_in(out)
    assert typed["videos"].shape == (1, 3, 14)
    assert typed["texts"].shape == (2, 14)
    files = json.loads((out / "card.json").read_text())["files"]
    assert {"video/model.safetensors", "text/tokenizer.json", "heads.safetensors"} <= files.keys()


@pytest.mark.parametrize("kind", ["stage2", "question_answering"])
def test_so_are_stage_2_and_question_answering(tmp_path: Path, kind: Any) -> None:
    exported = export(a_video_text_model(tmp_path, kind), "transformers", tmp_path / "out", Options())
    vectors = ("visible", "video", "text") if kind == "stage2" else ()
    check(exported, "features", "states", *vectors)


def test_one_part_alone_stands_in_the_folder_itself(retrieval: Source, tmp_path: Path) -> None:
    exported = export(retrieval, "transformers", tmp_path / "out", Options(part="text"))
    check(exported, "states", "text")
    assert sorted(load_file(tmp_path / "out" / "heads.safetensors")) == ["temp", "text_proj.bias", "text_proj.weight"]
    assert type_in(tmp_path / "out")["states"].shape[-1] == 20


def test_a_part_that_there_is_not_is_refused(student: Source, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no part 'text' for transformers"):
        plan_export(student, "transformers", tmp_path / "out", Options(part="text"))


def test_the_tokenizer_makes_our_tokens(retrieval: Source, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    export(retrieval, "transformers", tmp_path / "out", Options(part="text"))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)
    ours = retrieval.tokenizer
    assert ours is not None
    captions = ["A man's DOG - on/off!", "balls, running (the ball)", "sits " * 20]  # off, man's, running: [UNK]
    tokens = ours([ours.clean(caption) for caption in captions])
    found = theirs(captions, padding="max_length", truncation=True, return_tensors="pt")
    assert torch.equal(found.input_ids, tokens.ids)
    assert torch.equal(found.attention_mask.bool(), tokens.mask)
    assert tokens.mask.sum(dim=1).tolist() == [7, 6, 9]


def test_frames_are_resized_as_evaluation_does(classifier: Source, retrieval: Source, tmp_path: Path) -> None:
    """Recognition cuts the centre; models of text squeeze all of a frame. Frames of that size are left as they are."""
    from transformers import VideoMAEImageProcessor

    for source, name in ((classifier, "centre"), (retrieval, "stretched")):
        part = Options(part="video") if source is retrieval else Options()
        export(source, "transformers", tmp_path / name, part)
        processor = VideoMAEImageProcessor.from_pretrained(tmp_path / name)
        wide = torch.zeros(2, 3, 40, 80, dtype=torch.uint8)
        wide[:, :, :, 20:60] = 255  # white in the centre square
        found = processor(list(wide), return_tensors="pt").pixel_values
        side = source.clip_shape.side
        assert found.shape == (1, 2, 3, side, side)
        assert (found[..., 0].max() > 2) == (name == "centre")
        clips = probe_of(source).pixels
        exact = processor(list(clips[0].permute(0, 3, 1, 2)), return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(exact, normalise(clips[0], IMAGENET).permute(0, 3, 1, 2), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- onnx


@pytest.mark.slow  # the exporter takes seconds
def test_onnx_says_the_same_of_any_number_of_clips(tmp_path: Path) -> None:
    size = "{width: 12, depth: 1, heads: 2, patch: 8}"
    classifier = a_classifier(tmp_path, "task.encoder.preset=custom", f"task.encoder.sizes={size}")
    out = tmp_path / "out"
    check(export(classifier, "onnx", out, Options()), "features", "logits")
    assert json.loads((out / "classes.json").read_text()) == ["archery", "biking", "crying"]
    assert type_in(out)["found"]["logits"].shape == (1, 3)
    probe = probe_of(classifier)
    five = probe.__class__(probe.pixels.repeat(3, 1, 1, 1, 1)[:5], probe.keep)
    found = target_of("onnx").run(out, classifier, five, Options())
    module = classifier.module
    assert isinstance(module, VideoClassifier)
    torch.testing.assert_close(found["logits"], module.logits(five.pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_has_vectors_of_videos_and_of_texts(retrieval: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    check(export(retrieval, "onnx", out, Options()), "features", "video", "text")
    assert type_in(out)["vectors"].shape == (1, 14)


@pytest.mark.slow
def test_onnx_has_features_of_a_student(student: Source, tmp_path: Path) -> None:
    check(export(student, "onnx", tmp_path / "out", Options()), "features")


def test_without_its_libraries_onnx_is_refused(
    classifier: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umt_ds.exchange.onnx._NEEDED", ("onnx", "no_such_library"))
    with pytest.raises(ConfigError, match="needs no_such_library") as error:
        plan_export(classifier, "onnx", tmp_path / "out", Options())
    assert error.value.hint == "pip install 'umt_ds[onnx]'"


# ---------------------------------------------------------------- what is refused


def test_what_a_target_has_no_form_for_is_refused_with_those_that_do(student: Source, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--to timm has no form for a student") as error:
        plan_export(student, "timm", tmp_path / "out", Options())
    assert "transformers (VideoMAEModel)" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("target", "options"),
    [("timm", Options(part="video")), ("onnx", Options(wrap="model")), ("published", Options(max_shard_bytes=10**6))],
)
def test_an_option_that_a_target_does_not_heed_is_refused(
    classifier: Source, tmp_path: Path, target: TargetName, options: Options
) -> None:
    with pytest.raises(ConfigError, match=f"means nothing to --to {target}"):
        plan_export(classifier, target, tmp_path / "out", options)
