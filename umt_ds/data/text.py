"""Captions to tokens, as BERT's uncased vocabulary has them; in the loader's workers. The door to `tokenizers`.

Shapes: B captions, L tokens (`max_tokens`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from umt_ds.batch import Tokens
from umt_ds.environment import set_default
from umt_ds.errors import ConfigError
from umt_ds.keyed import digest64

_DELETED = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[MASK]")


def clean_caption(caption: str) -> str:
    """Lower case, without punctuation, `-` and `/` as spaces, one space between words. Source: SPEC 7.1.

    >>> clean_caption("A man, <PERSON> - on/off")
    'a man person on off'
    """
    text = caption.lower().translate(_DELETED).replace("<person>", "person")
    return re.sub(r"\s+", " ", text).strip()


class CaptionTokenizer:
    """WordPiece tokens `[CLS] x` without the `[SEP]` that BERT's own tokenizer adds (SPEC 7.1).

    vocabulary: a `vocab.txt`, or the folder of a BERT or its tokenizer. A longer caption loses its end.
    Raises ConfigError where there is no vocabulary, or one without BERT's special tokens.
    """

    def __init__(self, vocabulary: Path, *, max_tokens: int) -> None:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

        # the library's threads do not survive the fork of the loader's workers, which have one core each anyway
        set_default("TOKENIZERS_PARALLELISM", "false")
        numbers = _read_vocabulary(vocabulary)
        if missing := [token for token in _SPECIAL if token not in numbers]:
            raise ConfigError(
                f"the vocabulary of {vocabulary} lacks {', '.join(missing)}: it is not BERT's",
                hint="name the folder of a BERT, or a vocab.txt with its special tokens",
            )
        self.vocab_size = len(numbers)
        self.pad_id, _, self.cls_id, self.mask_id = (numbers[token] for token in _SPECIAL)
        words = sorted(numbers, key=lambda token: numbers[token])
        self.fingerprint = f"{digest64(*words):016x}"
        tokenizer: Any = Tokenizer(models.WordPiece(vocab=numbers, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A", special_tokens=[("[CLS]", self.cls_id)]
        )
        tokenizer.enable_truncation(max_tokens)
        tokenizer.enable_padding(length=max_tokens, pad_id=self.pad_id, pad_token="[PAD]")
        self._tokenizer = tokenizer

    def clean(self, caption: str) -> str:
        """The caption as it is tokenised; empty where nothing is left to say."""
        return clean_caption(caption)

    def __call__(self, captions: list[str]) -> Tokens:
        """Clean captions to ids i64 [B,L] and mask bool [B,L]."""
        encoded = self._tokenizer.encode_batch(captions)
        ids = torch.tensor([one.ids for one in encoded])
        return Tokens(ids, torch.tensor([one.attention_mask for one in encoded], dtype=torch.bool))


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Token → number, from a vocab.txt or a folder that holds one, or a tokenizer.json."""
    plain = path / "vocab.txt" if path.is_dir() else path
    whole = path / "tokenizer.json"
    try:
        if plain.is_file():
            return {token: number for number, token in enumerate(plain.read_text(encoding="utf-8").splitlines())}
        if whole.is_file():
            vocabulary: dict[str, int] = json.loads(whole.read_text(encoding="utf-8"))["model"]["vocab"]
            return vocabulary
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the vocabulary in {path} cannot be read: {error}", hint="copy the folder again") from error
    raise ConfigError(
        f"no vocabulary in {path}: neither vocab.txt nor tokenizer.json",
        hint="task.text.vocabulary names the folder of a BERT, or a vocab.txt",
    )
