"""Any caption of a stranger's JSON: tokens, or a DecodeError, which costs the sample and is counted."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from umt_ds.data.collate import Tokenize
from umt_ds.data.shards.sample_record import captions_of
from umt_ds.data.text import CaptionTokenizer
from umt_ds.errors import DecodeError
from umt_ds.tasks.image_text.task import ClipToo, Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "##s"]
# all characters, those that cut emoji leave behind among them, and what cleaning looks at
TEXT = st.text(st.characters(exclude_categories=()) | st.sampled_from("\x00\u0301\u200f\ufeff<>&;#[]'-/ \t\na\ud83d"))
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@cache
def tokenizers() -> tuple[Tokenize, ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(WORDS))
        bert = CaptionTokenizer(path, max_tokens=6)
    return bert, Tokenizer(6), ClipToo(bert)


@given(TEXT | ANYTHING)
def test_any_caption_gives_tokens_or_is_a_bad_sample(caption: Any) -> None:
    for tokenize in tokenizers():
        try:
            captions = captions_of({"caption": caption}, clean=tokenize.clean)
        except DecodeError:
            continue
        assert len(captions) <= (len(caption) if isinstance(caption, list) else 1)
        if captions:
            tokens = tokenize(captions)
            assert tokens.ids.shape == tokens.mask.shape == (len(captions), 6)
            assert bool((tokens.mask.sum(dim=1) > 1).all()), "a caption that counts has more than its start"


@given(TEXT)
def test_any_text_is_cleaned_or_refused_once_and_for_all(caption: str) -> None:
    for tokenize in tokenizers():
        try:
            cleaned = tokenize.clean(caption)
        except DecodeError:
            assert any("\ud800" <= character <= "\udfff" for character in caption)
        else:
            cleaned.encode()
