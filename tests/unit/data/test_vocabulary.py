"""Vocabularies and tokenizers of others: read as transformers reads them, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from umt_ds.data.text import CaptionTokenizer
from umt_ds.errors import ConfigError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cafe", "café", "人", "中"]


def plain(path: Path, *words: str, end: str = "\n") -> Path:
    (path / "vocab.txt").write_bytes((end.join((*WORDS, *words)) + end).encode())
    return path


def record(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json as transformers writes it for an uncased BERT."""
    normal = {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
        "lowercase": True,
    }  # fmt: skip
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {word: number for number, word in enumerate(WORDS)},
    }  # fmt: skip
    special = [{"id": number, "content": word, "special": True} for number, word in enumerate(WORDS[:5])]
    return {
        "version": "1.0", "added_tokens": special, "normalizer": normal, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": model,
    } | changes  # fmt: skip


def whole(path: Path, model: dict[str, Any] | None = None, **changes: Any) -> Path:
    content = record(**changes)
    if model:
        content["model"] |= model
    (path / "tokenizer.json").write_text(json.dumps(content))
    return path


def settings(path: Path, **said: Any) -> Path:
    (path / "tokenizer_config.json").write_text(json.dumps(said))
    return path


def ids(path: Path, caption: str) -> list[int]:
    tokens = CaptionTokenizer(path, max_tokens=8)([caption])
    return tokens.ids[tokens.mask].tolist()


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        CaptionTokenizer(path, max_tokens=8)
    assert "\n" not in caught.value.what
    assert str(path) in caught.value.what
    return str(caught.value)


# ---------------------------------------------------------------- vocab.txt


@pytest.mark.parametrize("word", ["\u2028", "\u2029", "\u0085", "\x1c", "\x1d", "\x1e", "\x0b", "\x0c", "\u00a0", " "])
def test_a_token_that_other_readers_take_for_a_line_end_is_one_token(tmp_path: Path, word: str) -> None:
    from transformers.models.bert.tokenization_bert import load_vocab

    tokenizer = CaptionTokenizer(plain(tmp_path, word, "zz"), max_tokens=4)
    theirs = load_vocab(tmp_path / "vocab.txt")
    assert tokenizer.vocab_size == len(theirs) == 12
    assert tokenizer(["zz"]).ids.tolist() == [[2, theirs["zz"], 0, 0]]


def test_line_ends_of_windows_are_line_ends(tmp_path: Path) -> None:
    assert ids(plain(tmp_path, "zz", end="\r\n"), "a zz") == [2, 5, 10]


def test_the_last_line_may_lack_its_end(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "zz"]))
    assert ids(tmp_path, "zz") == [2, 10]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("\n".join([*WORDS, "", "zz"]), "line 11 is empty"),
        ("\n".join(WORDS) + "\n\n", "line 11 is empty"),
        ("\n".join([*WORDS, "zz", "a"]), "line 12 repeats 'a' of line 6"),
        ("\ufeff" + "\n".join(WORDS), "byte order mark"),
        ("", "no tokens"),
        ("\n".join(f"{word} {number}" for number, word in enumerate(WORDS)), r"lacks [PAD]"),
    ],
)
def test_a_vocabulary_whose_numbers_are_in_doubt_is_refused(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "vocab.txt").write_text(content)
    assert what in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe[\0P\0", "a\né".encode("latin-1")])
def test_a_vocabulary_that_is_no_utf_8_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    assert "utf-8" in refusal(tmp_path).lower()


def test_a_path_without_vocabulary_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_text("")
    assert "merges.txt" in refusal(tmp_path)
    assert f"there is no {tmp_path / 'gone'}, where a vocabulary should be" in refusal(tmp_path / "gone")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04\x80\xff")
    assert "pytorch_model.bin is no text" in refusal(tmp_path / "pytorch_model.bin")


# ---------------------------------------------------------------- tokenizer.json


def test_a_tokenizer_json_is_read_by_folder_and_by_name(tmp_path: Path) -> None:
    whole(tmp_path)
    assert ids(tmp_path, "a cafe") == ids(tmp_path / "tokenizer.json", "a cafe") == [2, 5, 6]


def test_added_tokens_have_their_numbers(tmp_path: Path) -> None:
    whole(tmp_path, added_tokens=[*record()["added_tokens"], {"id": 10, "content": "zz"}])
    tokenizer = CaptionTokenizer(tmp_path, max_tokens=4)
    assert tokenizer.vocab_size == 11
    assert tokenizer(["zz"]).ids.tolist() == [[2, 10, 0, 0]]


def test_added_tokens_beside_a_vocab_txt_have_their_numbers(tmp_path: Path) -> None:
    (plain(tmp_path) / "added_tokens.json").write_text('{"zz": 10}')
    assert ids(tmp_path, "zz") == [2, 10]


def mapping(**changes: Any) -> dict[str, Any]:
    return {"vocab": {word: number for number, word in enumerate(WORDS)} | changes}


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ({"vocab": [["a", -1.0]]}, "vocab"),
        ({"vocab": None}, "vocab"),
        (mapping(zz="10"), "'10'"),
        (mapping(zz=10.0), "10.0"),
        (mapping(zz=True), "True"),
        (mapping(zz=None), "None"),
        (mapping(zz=-1), "-1"),
        (mapping(zz=11), "10"),
        (mapping(zz=10**15), "10"),
        (mapping(zz=5), "'a' and 'zz'"),
        (mapping(**{"\ud83d": 10}), "half a"),
        (mapping(**{"": 10}), "empty"),
        ({"type": "BPE"}, "BPE"),
        ({"type": "Unigram"}, "Unigram"),
        ({"type": "WordLevel"}, "WordLevel"),
        ({"unk_token": "<unk>"}, "unk_token"),
        ({"continuing_subword_prefix": ""}, "continuing_subword_prefix"),
        ({"max_input_chars_per_word": 5}, "max_input_chars_per_word"),
    ],
)
def test_a_tokenizer_json_whose_numbers_are_in_doubt_is_refused(tmp_path: Path, model: Any, what: str) -> None:
    assert what in refusal(whole(tmp_path, model=model))


@pytest.mark.parametrize("content", [b"[]", b"3", b"{", b"\xff", b"[" * 99999, b'{"model": []}', b"{}", b""])
def test_a_tokenizer_json_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json" in refusal(tmp_path)


@pytest.mark.parametrize("tokens", [3, {"a": 1}, ["a"], [{"id": "10", "content": "zz"}], [{"content": "zz"}]])
def test_added_tokens_that_are_none_are_refused(tmp_path: Path, tokens: Any) -> None:
    assert "added_tokens" in refusal(whole(tmp_path, added_tokens=tokens))


def test_an_added_token_cannot_have_two_numbers(tmp_path: Path) -> None:
    assert "'a'" in refusal(whole(tmp_path, added_tokens=[{"id": 10, "content": "a"}]))


def test_two_files_that_differ_are_refused(tmp_path: Path) -> None:
    plain(whole(tmp_path))
    assert ids(tmp_path, "a") == [2, 5]
    assert "differ" in refusal(plain(tmp_path, "zz"))
    assert ids(tmp_path / "vocab.txt", "zz") == [2, 10]


# ---------------------------------------------------------------- how it splits


def test_a_cased_tokenizer_is_refused_wherever_it_says_so(tmp_path: Path) -> None:
    for number, make in enumerate(
        (
            lambda path: settings(plain(path), do_lower_case=False),
            lambda path: settings(whole(path), do_lower_case=False),
            lambda path: whole(path, normalizer=record()["normalizer"] | {"lowercase": False}),
            lambda path: whole(path, normalizer=None),
            lambda path: plain(path, "Man"),
            lambda path: plain(path, "##Ing"),
            lambda path: whole(path, model=mapping(Man=10), normalizer={}),
        )
    ):
        path = tmp_path / str(number)
        path.mkdir()
        said = refusal(make(path))
        assert "cased" in said
        assert "lower case" in said
        assert "uncased" in said


def test_the_settings_beside_a_named_vocab_txt_count(tmp_path: Path) -> None:
    settings(plain(tmp_path), do_lower_case=False)
    assert "cased" in refusal(tmp_path / "vocab.txt")


def test_an_uncased_tokenizer_may_have_odd_words(tmp_path: Path) -> None:
    """Special tokens are in capitals everywhere; and who says do_lower_case is believed."""
    assert ids(plain(tmp_path, "[NEW]", "<URL>"), "a") == [2, 5]
    assert ids(settings(plain(tmp_path, "USA"), do_lower_case=True), "a") == [2, 5]


def test_accents_are_kept_where_the_tokenizer_keeps_them(tmp_path: Path) -> None:
    assert ids(plain(tmp_path), "café") == [2, 6]
    assert ids(settings(tmp_path, strip_accents=False, do_lower_case=True), "café") == [2, 7]
    (tmp_path / "other").mkdir()
    normal = record()["normalizer"] | {"strip_accents": False}
    assert ids(whole(tmp_path / "other", normalizer=normal), "café") == [2, 7]


def test_signs_are_words_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    assert ids(plain(tmp_path), "人中") == [2, 8, 9]
    assert ids(settings(tmp_path, tokenize_chinese_chars=False), "人中") == [2, 1]


def test_other_splitting_is_another_tokenizer(tmp_path: Path) -> None:
    first = CaptionTokenizer(plain(tmp_path), max_tokens=4).fingerprint
    for same in (None, True):  # to lower case is to strip accents, as BERT has it
        assert CaptionTokenizer(settings(tmp_path, strip_accents=same), max_tokens=4).fingerprint == first
    assert CaptionTokenizer(settings(tmp_path, strip_accents=False), max_tokens=4).fingerprint != first


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"do_lower_case": "false"}, "do_lower_case='false'"),
        ({"strip_accents": 0}, "strip_accents=0"),
        ({"tokenize_chinese_chars": "yes"}, "tokenize_chinese_chars='yes'"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize"),
        ({"never_split": ["a"]}, "never_split"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ({"tokenizer_class": "MPNetTokenizer"}, "which is 'BertTokenizer'"),
        ({"unk_token": "<unk>"}, "unk_token"),
        ({"cls_token": {"content": "<s>"}}, "cls_token"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(tmp_path: Path, said: dict[str, Any], what: str) -> None:
    assert what in refusal(settings(plain(tmp_path), **said))


@pytest.mark.parametrize(
    "said",
    [
        {"tokenizer_class": "BertTokenizerFast"},
        {"tokenizer_class": "MobileBertTokenizer"},
        {"cls_token": {"content": "[CLS]"}},
    ],
)
def test_settings_of_a_bert_are_fine(tmp_path: Path, said: dict[str, Any]) -> None:
    assert ids(settings(plain(tmp_path), **said), "a") == [2, 5]


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff"])
def test_settings_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    (plain(tmp_path) / "tokenizer_config.json").write_bytes(content)
    assert "tokenizer_config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace"}]}},
        {"normalizer": record()["normalizer"] | {"clean_text": False}},
        {"normalizer": []},
        {"pre_tokenizer": {"type": "ByteLevel"}},
        {"pre_tokenizer": "BertPreTokenizer"},
    ],
)
def test_a_tokenizer_json_that_splits_otherwise_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    assert next(iter(change)) in refusal(whole(tmp_path, **change))


def test_sources_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    settings(whole(tmp_path, normalizer=record()["normalizer"] | {"strip_accents": True}), strip_accents=False)
    assert "strip_accents" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\n", "git lfs pull"),
        ("\n<!DOCTYPE html>", "web page"),
    ],
)
def test_what_a_failed_download_left_is_called_by_its_name(tmp_path: Path, name: str, content: str, what: str) -> None:
    if name != "tokenizer.json":
        (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[MASK]\n")
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{name} is .*{what}"):
        CaptionTokenizer(tmp_path, max_tokens=8)
