"""Captions to tokens, as BERT's uncased vocabulary has them; in the loader's workers. The door to `tokenizers`.

Shapes: B captions, L tokens (`max_tokens`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from umt_ds.batch import Tokens
from umt_ds.data.shards.sample_record import plain_text
from umt_ds.data.vocabulary import SPECIAL, WordPieces, read_vocabulary
from umt_ds.environment import set_default
from umt_ds.keyed import digest64

CHARACTERS = 64  # of a caption for each token that it may have: twice the longest of CLIP's 49,408 tokens
_DELETED = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")


def clean_caption(caption: str) -> str:
    """Lower case, without punctuation, `-` and `/` as spaces, one space between words.

    Source: METHOD.md, "Captions and tokens".

    >>> clean_caption("A man, <PERSON> - on/off")
    'a man person on off'
    """
    text = caption.lower().translate(_DELETED).replace("<person>", "person")
    return re.sub(r"\s+", " ", text).strip()


class CaptionTokenizer:
    """WordPiece tokens `[CLS] x` without the `[SEP]` that BERT's own tokenizer adds (METHOD.md, "Captions and tokens").

    vocabulary: a `vocab.txt`, or the folder of a BERT or its tokenizer (`vocabulary.read_vocabulary`). A longer caption
    loses its end. Raises ConfigError where there is no vocabulary of an uncased BERT.
    """

    def __init__(self, vocabulary: Path, *, max_tokens: int) -> None:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

        # the library's threads do not survive the fork of the loader's workers, which have one core each anyway
        set_default("TOKENIZERS_PARALLELISM", "false")
        pieces = read_vocabulary(vocabulary)
        numbers = pieces.numbers
        self.vocab_size = len(numbers)
        self.pad_id, _, self.cls_id, self.mask_id = (numbers[token] for token in SPECIAL)
        words = sorted(numbers, key=lambda token: numbers[token])
        splitting = [] if pieces == WordPieces(numbers) else [str(pieces.strip_accents), str(pieces.split_signs)]
        self.fingerprint = f"{digest64(*words, *splitting):016x}"
        tokenizer: Any = Tokenizer(models.WordPiece(vocab=numbers, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(
            lowercase=True, strip_accents=pieces.strip_accents, handle_chinese_chars=pieces.split_signs
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A", special_tokens=[("[CLS]", self.cls_id)]
        )
        tokenizer.enable_truncation(max_tokens)
        tokenizer.enable_padding(length=max_tokens, pad_id=self.pad_id, pad_token="[PAD]")
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens

    def clean(self, caption: str) -> str:
        """The caption as it is tokenised; empty where nothing is left to say. Raises DecodeError as `plain_text`."""
        text = clean_caption(plain_text(caption))[: CHARACTERS * self.max_tokens]
        # signs without ink (NUL, direction marks, a lone accent) are no words
        return text if self._tokenizer.normalizer.normalize_str(text).strip() else ""

    def __call__(self, captions: list[str]) -> Tokens:
        """Clean captions to ids i64 [B,L] and mask bool [B,L]."""
        encoded = self._tokenizer.encode_batch(captions)
        ids = torch.tensor([one.ids for one in encoded])
        return Tokens(ids, torch.tensor([one.attention_mask for one in encoded], dtype=torch.bool))
