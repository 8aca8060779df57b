"""Any vocab.txt and any tokenizer files: the numbers that transformers reads, or a ConfigError."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from umt_ds.data.text import CaptionTokenizer
from umt_ds.data.vocabulary import WordPieces, read_vocabulary
from umt_ds.errors import ConfigError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)
WORD = st.text(st.characters() | st.sampled_from("\u2028\u2029\x85\x1c\x0b\x0c\r\ufeff \t"), max_size=4)


def read(**files: bytes) -> WordPieces | None:
    """None where the folder is refused; what is read makes a tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name.replace("__", ".")).write_bytes(content)
        try:
            pieces = read_vocabulary(Path(folder))
            check(CaptionTokenizer(Path(folder), max_tokens=4), pieces)
            return pieces
        except ConfigError as error:
            refusal = error.what
    assert folder in refusal
    assert "\n" not in refusal
    return None


def check(tokenizer: CaptionTokenizer, pieces: WordPieces) -> None:
    assert tokenizer.vocab_size == len(pieces.numbers)
    assert sorted(pieces.numbers.values()) == list(range(tokenizer.vocab_size))
    assert int(tokenizer(["a b"]).ids.max()) < tokenizer.vocab_size


@given(st.lists(WORD, max_size=6), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_vocab_txt_has_the_numbers_that_transformers_reads(words: list[str], end: str, ended: bool) -> None:
    from transformers.models.bert.tokenization_bert import load_vocab

    content = (end.join((*SPECIAL, *words)) + end * ended).encode(errors="surrogatepass")
    pieces = read(vocab__txt=content)
    if pieces is not None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "vocab.txt").write_bytes(content)
            assert pieces.numbers == load_vocab(f"{folder}/vocab.txt")


@given(st.binary(max_size=99))
def test_any_bytes_are_no_vocabulary(content: bytes) -> None:
    assert read(vocab__txt=content) is None
    assert read(tokenizer__json=content) is None


@given(ANY_JSON, ANY_JSON, ANY_JSON, st.dictionaries(st.text(max_size=4), st.integers(-1, 8) | ANY_JSON, max_size=4))
def test_any_tokenizer_json_is_read_or_refused(
    added: Any, normalizer: Any, splitter: Any, words: dict[str, Any]
) -> None:
    vocab = {**dict(zip(SPECIAL, range(5), strict=True)), **words}
    record = {"model": {"vocab": vocab}, "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": splitter}
    for left_out in (
        (),
        ("added_tokens",),
        ("normalizer", "pre_tokenizer"),
        ("added_tokens", "normalizer", "pre_tokenizer"),
    ):
        some = {key: value for key, value in record.items() if key not in left_out}
        read(tokenizer__json=json.dumps(some).encode())


KEYS = ["do_lower_case", "strip_accents", "tokenize_chinese_chars", "never_split", "unk_token", "tokenizer_class"]


@given(ANY_JSON | st.dictionaries(st.sampled_from(KEYS), st.booleans() | ANY_JSON))
def test_any_settings_are_honoured_or_refused(said: Any) -> None:
    pieces = read(vocab__txt="\n".join(SPECIAL).encode(), tokenizer_config__json=json.dumps(said).encode())
    if pieces is not None:
        assert said.get("do_lower_case") in (True, None)
        assert pieces.strip_accents is (said.get("strip_accents") is not False)
        assert pieces.split_signs is (said.get("tokenize_chinese_chars") is not False)
