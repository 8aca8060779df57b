"""The words of a BERT's tokenizer and how it splits text, out of the files of others: as meant, or refused.

vocab.txt                a token a line, its number the line's
tokenizer.json           the same as a mapping, with how text is normalised and split
added_tokens.json        more tokens (so does tokenizer.json hold some)
tokenizer_config.json    how text is normalised, in other words
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umt_ds.errors import ConfigError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[MASK]")
_PLAIN, _WHOLE = "vocab.txt", "tokenizer.json"
_ADDED, _CONFIG = "added_tokens.json", "tokenizer_config.json"
_HINT = "name the folder of an uncased BERT (bert-base-uncased) or of its tokenizer, or a vocab.txt"
_NEVER_USED = "and captions are lower case: its words with capitals would never be used"
# What lies in the place of such a file where a download went wrong, by its first bytes in lower case.
_ELSE = {
    b"version https://git-lfs": "a pointer of Git LFS, and the file was not fetched (git lfs pull in its folder)",
    b"<!doctype html": "a web page (on huggingface.co take /resolve/main/, not /blob/main/)",
    b"<html": "a web page (on huggingface.co take /resolve/main/, not /blob/main/)",
}
# What these files may say of things that are done in one way here: the values that mean that way.
_MODEL: dict[str, tuple[object, ...]] = {
    "type": ("WordPiece",),
    "unk_token": ("[UNK]",),
    "continuing_subword_prefix": ("##",),
    "max_input_chars_per_word": (100,),
}
_NORMALIZER: dict[str, tuple[object, ...]] = {"type": ("BertNormalizer",), "clean_text": (True,)}
_PRE_TOKENIZER: dict[str, tuple[object, ...]] = {"type": ("BertPreTokenizer",)}
_CLASSES = (
    "BertTokenizer", "ConvBertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "LayoutLMTokenizer",
    "LxmertTokenizer", "MobileBertTokenizer", "RetriBertTokenizer", "SqueezeBertTokenizer",
)  # fmt: skip
_SETTINGS: dict[str, tuple[object, ...]] = {
    "do_basic_tokenize": (True, None),
    "never_split": (None, []),
    "tokenizer_class": (
        None, *_CLASSES, *(f"{name}Fast" for name in _CLASSES), "PreTrainedTokenizerFast", "TokenizersBackend",
    ),
    "unk_token": ("[UNK]", None),
    "cls_token": ("[CLS]", None),
    "pad_token": ("[PAD]", None),
    "mask_token": ("[MASK]", None),
}  # fmt: skip


@dataclass(frozen=True)
class WordPieces:
    """Token → number, without gaps. strip_accents: é is e. split_signs: every Chinese sign is a word of its own."""

    numbers: dict[str, int]
    strip_accents: bool = True
    split_signs: bool = True


def read_vocabulary(path: Path) -> WordPieces:
    """Of a folder of a BERT or a tokenizer, a vocab.txt, or a tokenizer.json.

    Raises ConfigError that says which file, line or key is at fault: where numbers are in doubt, where the tokenizer is
    no WordPiece as BERT's, and where it is cased, since captions are lower case.
    """
    if not os.path.exists(path):
        raise ConfigError(f"there is no {path}, where a vocabulary should be", hint=_HINT)
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the vocabulary of {path} cannot be read: {error}", hint=_HINT) from error


def _read(path: Path) -> WordPieces:
    """As `read_vocabulary`; raises ValueError with the reason alone."""
    folder = path if os.path.isdir(path) else path.parent
    files = [path] if os.path.isfile(path) else [folder / name for name in (_PLAIN, _WHOLE)]
    files = [file for file in files if os.path.isfile(file)]
    if not files:
        raise ValueError(f"the folder has neither {_PLAIN} nor {_WHOLE}; {_listing(path)}")
    for file in (*files, folder / _ADDED, folder / _CONFIG):
        _refuse_something_else(file)
    tokenizer = next((_object(file) for file in files if file.suffix == ".json"), {})
    tables = [_table(tokenizer, file) if file.suffix == ".json" else _lines(file) for file in files]
    if any(table != tables[0] for table in tables):
        raise ValueError(f"{_PLAIN} and {_WHOLE} differ in words or numbers; name the one that is meant")
    numbers = dict(tables[0])
    for token, number in _added(tokenizer, folder / _ADDED):
        if numbers.setdefault(token, number) != number:
            raise ValueError(f"added_tokens: {token!r} has the numbers {numbers[token]} and {number!r}")
    _check_numbers(numbers)
    settings = _object(folder / _CONFIG) if os.path.isfile(folder / _CONFIG) else {}
    return _with_splitting(numbers, tokenizer, settings)


def _refuse_something_else(file: Path) -> None:
    """Raises ValueError where the file is there, and what went wrong with it shows."""
    if not os.path.isfile(file):
        return
    with file.open("rb") as content:
        start = content.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, what in _ELSE.items():
        if start.startswith(mark):
            raise ValueError(f"{file.name} is {what}")


def _lines(file: Path) -> dict[str, int]:
    """A token a line. Only ends of lines end a token: U+2028 and its like are tokens of some vocabularies."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is no text in UTF-8, as a list of tokens is ({error})") from error
    if lines[-1] == "":
        lines.pop()
    if lines and lines[0].startswith("\ufeff"):
        raise ValueError(f"{file.name} begins with a byte order mark, which would be part of its first token")
    numbers: dict[str, int] = {}
    for number, token in enumerate(lines):
        if not token:
            raise ValueError(f"{file.name}: line {number + 1} is empty, and every line is a token")
        if numbers.setdefault(token, number) != number:
            raise ValueError(f"{file.name}: line {number + 1} repeats {token!r} of line {numbers[token] + 1}")
    return numbers


def _table(tokenizer: Mapping[str, Any], file: Path) -> dict[str, int]:
    model = tokenizer.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise ValueError(f"{file.name} has no model.vocab of tokens and numbers")
    _require(model, _MODEL, f"{file.name}: model.")
    return dict(model["vocab"])


def _added(tokenizer: Mapping[str, Any], file: Path) -> Iterator[tuple[str, int]]:
    """More tokens and their numbers; special ones are listed though the vocabulary has them."""
    listed = tokenizer.get("added_tokens") or []
    if not isinstance(listed, list):
        raise ValueError(f"{_WHOLE}: added_tokens is no list")
    for one in listed:
        if not isinstance(one, dict) or not isinstance(one.get("content"), str) or not _is_number(one.get("id")):
            raise ValueError(f"{_WHOLE}: {str(one)[:99]!r} in added_tokens has no content and id")
        yield one["content"], one["id"]
    if os.path.isfile(file):
        yield from _object(file).items()


def _check_numbers(numbers: Mapping[str, Any]) -> None:
    """Raises ValueError unless every number from 0 on has one token that is text."""
    tokens: dict[int, str] = {}
    for token, number in numbers.items():
        if not _is_number(number):
            raise ValueError(f"token {token!r} has the number {number!r}")
        if number in tokens:
            raise ValueError(f"{tokens[number]!r} and {token!r} both have the number {number}")
        if not token or re.search("[\ud800-\udfff]", token):
            raise ValueError(f"token {number} is {'half a character' if token else 'empty'}")
        tokens[number] = token
    if not tokens:
        raise ValueError("it has no tokens")
    if missing := [token for token in SPECIAL if token not in numbers]:
        raise ValueError(f"it lacks {', '.join(missing)}: it is not BERT's")
    if (gap := next((number for number in range(len(tokens)) if number not in tokens), None)) is not None:
        raise ValueError(f"no token has the number {gap}, of {len(tokens)} tokens")


def _with_splitting(numbers: dict[str, int], tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> WordPieces:
    """With what the files say of normalising text; raises ValueError for what cannot be honoured."""
    normalizer, splitter = (tokenizer.get(key, {}) for key in ("normalizer", "pre_tokenizer"))
    normalizer = {"lowercase": False} if normalizer is None else normalizer
    for key, part, allowed in (("normalizer", normalizer, _NORMALIZER), ("pre_tokenizer", splitter, _PRE_TOKENIZER)):
        if not isinstance(part, dict):
            raise ValueError(f"{_WHOLE}: {key} is {repr(part)[:99]}, not BERT's")
        _require(part, allowed, f"{_WHOLE}: {key}.")
    _require(settings, _SETTINGS, f"{_CONFIG}: ")

    def said(key: str, other: str) -> bool | None:
        return _agreed({f"{_CONFIG}: {key}": settings.get(key), f"{_WHOLE}: {other}": normalizer.get(other)})

    in_capitals = next((token for token in numbers if _in_capitals(token)), None)
    if settings.get("do_lower_case") is False or normalizer.get("lowercase") is False:
        raise ValueError(f"it is cased (do_lower_case is false), {_NEVER_USED}")
    if said("do_lower_case", "lowercase") is None and in_capitals:
        raise ValueError(f"it is cased (it has the word {in_capitals!r}), {_NEVER_USED}")
    return WordPieces(
        numbers,
        strip_accents=said("strip_accents", "strip_accents") is not False,
        split_signs=said("tokenize_chinese_chars", "handle_chinese_chars") is not False,
    )


def _in_capitals(token: str) -> bool:
    """Special tokens, `[CLS]` or `<URL>`, do not count."""
    return re.search("[A-Z]", token) is not None and not re.fullmatch(r"\[.*\]|<.*>", token)


def _agreed(values: Mapping[str, object]) -> bool | None:
    """What those who say anything agree on."""
    found = {where: value for where, value in values.items() if value is not None}
    for where, value in found.items():
        if not isinstance(value, bool):
            raise ValueError(f"{where}={value!r} is neither true nor false")
    if len(set(found.values())) > 1:
        raise ValueError(" but ".join(f"{where}={value}" for where, value in found.items()))
    return bool(next(iter(found.values()))) if found else None


def _require(said: Mapping[str, Any], allowed: Mapping[str, tuple[object, ...]], where: str) -> None:
    for key, values in allowed.items():
        value = said.get(key, values[0])
        value = value.get("content") if isinstance(value, dict) else value  # a token with its flags
        if value not in values:
            ours = next(allowed for allowed in values if allowed is not None)
            raise ValueError(f"{where}{key}={value!r} is not BERT's way, which is {ours!r}")


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} holds no object of names and values")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _listing(path: Path) -> str:
    names = [ascii(name).strip("'") for name in sorted(os.listdir(path))]
    return f"it has {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else "it is empty"
