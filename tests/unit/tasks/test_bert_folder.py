"""A BERT's folder of somebody else: its config.json is believed where it is one, and refused in one line where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from umt_ds.config.models import BertConfig
from umt_ds.errors import WeightsError
from umt_ds.models.presets import BertSize
from umt_ds.tasks.bert import build_bert
from umt_ds.tasks.captions import caption_tokenizer, vocabulary_of
from umt_ds.weights.bert_folder import bert_folder_size, read_bert_folder

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "vocab_size": 8,
    "max_position_embeddings": 16,
}
TABLE = "bert.embeddings.word_embeddings.weight"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "dog"]


def folder(path: Path, **changes: Any) -> Path:
    (path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        bert_folder_size(path)
    assert "\n" not in caught.value.what
    assert "config.json" in caught.value.what
    return str(caught.value)


def test_the_sizes_are_those_of_the_config(tmp_path: Path) -> None:
    size = BertSize(width=24, layers=2, heads=3, hidden=48, vocab_size=8, max_tokens=16)
    assert bert_folder_size(folder(tmp_path)) == size
    assert bert_folder_size(folder(tmp_path, layer_norm_eps=1e-12, torch_dtype="float16")) == size


@pytest.mark.parametrize(
    "content", [b"[]", b"3", b"null", b'"bert"', b"{", b"", b"\xff\xfe{}", b"[" * 99999, b"<html>"]
)
def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    refusal(tmp_path)


@pytest.mark.parametrize("key", [key for key in CONFIG if key != "model_type"])
@pytest.mark.parametrize("value", ["64", 0, -1, 2.5, True, None, [3], {"a": 1}])
def test_a_size_that_is_no_whole_number_is_named_with_its_value(tmp_path: Path, key: str, value: Any) -> None:
    said = refusal(folder(tmp_path, **{key: value}))
    assert key in said
    assert repr(value) in said


@pytest.mark.parametrize("key", [key for key in CONFIG if key not in ("model_type", "num_attention_heads")])
def test_a_size_that_no_machine_holds_is_refused_before_anything_is_made(tmp_path: Path, key: str) -> None:
    assert "parameters" in refusal(folder(tmp_path, **{key: 3 * 10**12}))


def test_heads_must_divide_the_width(tmp_path: Path) -> None:
    assert "num_attention_heads=5" in refusal(folder(tmp_path, num_attention_heads=5))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "roberta"),
        ("model_type", 3),
        ("hidden_act", "relu"),
        ("position_embedding_type", "relative_key"),
        ("layer_norm_eps", 1e-5),
        ("tie_word_embeddings", False),
        ("is_decoder", True),
        ("quantization_config", {"bits": 8}),
    ],
)
def test_what_would_be_run_otherwise_than_the_folder_says_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    assert key in refusal(folder(tmp_path, **{key: value}))


def test_missing_sizes_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 24}')
    assert "num_hidden_layers" in refusal(tmp_path)


# ---------------------------------------------------------------- weights


def whole_folder(path: Path) -> Path:
    """As `save_pretrained` leaves it, with weights of its shapes."""
    folder(path, max_position_embeddings=512)
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    torch.manual_seed(0)
    bert = build_bert(settings(path, weights="random"), words(path), video_width=8)
    cross = ("bert.encoder.layer.1.crossattention.", "cls.")
    state = {name: value.clone() for name, value in bert.state_dict().items() if not name.startswith(cross)}
    save_file(state, path / "model.safetensors")
    return path


def settings(path: Path, weights: Path | str | None = None) -> BertConfig:
    shared: dict[str, Any] = {"fusion_layers": 1, "max_tokens": 8}
    if weights == "random":
        sizes = {"width": 24, "layers": 2, "heads": 3, "hidden": 48, "vocab_size": 8}
        return BertConfig(preset="custom", sizes=sizes, weights="random", vocabulary=path, **shared)
    return BertConfig(preset="folder", weights=weights or path, **shared)


def words(path: Path) -> Any:
    return vocabulary_of(caption_tokenizer(settings(path)))


@pytest.mark.parametrize("name", [".", "model.safetensors", "model.safetensors.index.json"])
def test_folder_weight_file_and_index_are_one_model(tmp_path: Path, name: str) -> None:
    path = whole_folder(tmp_path)
    table = load_file(path / "model.safetensors")[TABLE]
    if name.endswith(".json"):
        names = load_file(path / "model.safetensors")
        (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
        (path / name).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}))
    config = settings(path, path / name)
    bert = build_bert(config, vocabulary_of(caption_tokenizer(config)), video_width=8)
    assert torch.equal(bert.state_dict()[TABLE], table)


def test_a_folder_without_weights_says_what_is_there(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(WeightsError, match=r"holds no weights: there are config\.json"):
        read_bert_folder(tmp_path)


def test_a_pointer_in_place_of_weights_is_called_so(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match="Git LFS"):
        read_bert_folder(tmp_path)


def test_an_untied_word_head_is_refused(tmp_path: Path) -> None:
    from umt_ds.weights.published import bert_state

    table = torch.randn(8, 4)
    names = {"bert.embeddings.word_embeddings.weight": table, "cls.predictions.decoder.weight": table.clone()}
    assert set(bert_state(names)) == {"bert.embeddings.word_embeddings.weight"}
    with pytest.raises(WeightsError, match="word head"):
        bert_state(names | {"cls.predictions.decoder.weight": table + 1})


@pytest.mark.parametrize(
    ("content", "what"),
    [("version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"), ("<html>", "web page")],
)
def test_a_config_that_a_failed_download_left_is_called_by_its_name(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=f"config.json is no JSON but .*{what}"):
        bert_folder_size(tmp_path)
