"""Captions and answers to tokens, as BERT's uncased vocabulary has them; in the loader's workers. The door to
`tokenizers`.

Shapes: B captions (or questions), A answers, L tokens (`max_tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from umt_ds.batch import Answers, Tokens
from umt_ds.data.shards.sample_record import WeightedAnswer, plain_text
from umt_ds.data.vocabulary import SPECIAL, WordPieces, read_vocabulary
from umt_ds.environment import set_default
from umt_ds.errors import ConfigError
from umt_ds.keyed import digest64

CHARACTERS = 64  # of a caption for each token that it may have: twice the longest of CLIP's 49,408 tokens
_ANSWER_CHARACTERS = 200  # of an answer for each of its tokens: a word of more than 100 is [UNK]
_SPACED, _LOST = "-/", ",.'!?\"()*#:;~"
_DELETED = str.maketrans(_SPACED, " " * len(_SPACED), _LOST)


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
        from tokenizers import processors

        pieces = read_vocabulary(vocabulary)
        numbers = pieces.numbers
        self.vocab_size = len(numbers)
        self.pad_id, _, self.cls_id, self.mask_id = (numbers[token] for token in SPECIAL)
        words = sorted(numbers, key=lambda token: numbers[token])
        splitting = [] if pieces == WordPieces(numbers) else [str(pieces.strip_accents), str(pieces.split_signs)]
        self.fingerprint = f"{digest64(*words, *splitting):016x}"
        tokenizer = _tokenizer_of(pieces)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A", special_tokens=[("[CLS]", self.cls_id)]
        )
        tokenizer.enable_truncation(max_tokens)
        tokenizer.enable_padding(length=max_tokens, pad_id=self.pad_id, pad_token="[PAD]")
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    def clean(self, caption: str) -> str:
        """The caption as it is tokenised; empty where nothing is left to say. Raises DecodeError as `plain_text`."""
        text = clean_caption(plain_text(caption))[: CHARACTERS * self._max_tokens]
        # signs without ink (NUL, direction marks, a lone accent) are no words
        return text if self._tokenizer.normalizer.normalize_str(text).strip() else ""

    def __call__(self, captions: list[str]) -> Tokens:
        """Clean captions to ids i64 [B,L] and mask bool [B,L]."""
        encoded = self._tokenizer.encode_batch(captions)
        ids = torch.tensor([one.ids for one in encoded])
        return Tokens(ids, torch.tensor([one.attention_mask for one in encoded], dtype=torch.bool))

    def library_json(self) -> str:
        """The text of a `tokenizer.json`: a tokenizer of the library's that makes the same tokens of raw captions, for
        programs that do not know `clean_caption`. It neither cuts nor fills: that is asked of it when it is called.

        What differs: a caption of more than 64 letters for each token is not cut before it is split; a capital sigma
        beside an apostrophe is taken for the last letter of a word or not; and to transformers the name of a special
        token, as [MASK] in capitals, is that token.
        """
        from tokenizers import Tokenizer, normalizers

        tokenizer: Any = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.normalizer = normalizers.Sequence([*_cleaning(), tokenizer.normalizer])
        text: str = tokenizer.to_str()
        return text


def _cleaning() -> list[Any]:
    """`clean_caption` in the words of the library. What Python knows and the library's `Lowercase` does not: a sigma at
    the end of a word; and separators of ASCII are white space."""
    from tokenizers import Regex, normalizers

    def replaced(pattern: str, by: str) -> Any:
        return normalizers.Replace(Regex(pattern), by)

    return [
        replaced(r"(?<=\p{L})Σ(?!\p{L})", "ς"),
        normalizers.Lowercase(),
        replaced(f"[{re.escape(_SPACED)}]", " "),
        replaced(f"[{re.escape(_LOST)}]", ""),
        normalizers.Replace("<person>", "person"),
        replaced(r"[\s\x1c-\x1f]+", " "),
    ]


class AnswerTokenizer:
    """WordPiece tokens `[CLS] answer [SEP]`, cut to `max_tokens`, and back to text.

    An answer is not cleaned as captions are; BERT's own normalising makes it lower case. A longer one loses its end,
    and [SEP] with it. vocabulary: as of `CaptionTokenizer`. Raises ConfigError where there is none, or one without
    [SEP]. Source: METHOD.md, "Question answering".
    """

    def __init__(self, vocabulary: Path, *, max_tokens: int) -> None:
        pieces = read_vocabulary(vocabulary)
        if "[SEP]" not in pieces.numbers:
            raise ConfigError(
                f"{vocabulary} has no token [SEP], with which an answer ends",
                hint="a vocabulary of BERT as it was published; a small one of your own with a line [SEP]",
            )
        self.max_tokens = max_tokens
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id = (
            pieces.numbers[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
        )
        self._words = {number: token for token, number in pieces.numbers.items()}
        self._tokenizer = _tokenizer_of(pieces)

    def __call__(self, answers: Sequence[Sequence[WeightedAnswer]]) -> Answers:
        """Different answers of each row, so many places for each as the row with the most has."""
        places, length = max(map(len, answers)), self.max_tokens
        tokens = self.tokens([answer.text for row in answers for answer in row])
        filled = torch.tensor([[place < len(row) for place in range(places)] for row in answers])  # [B,A]
        ids = torch.full((*filled.shape, length), self.pad_id)
        mask = torch.zeros(*filled.shape, length, dtype=torch.bool)
        weights = torch.zeros(filled.shape)
        ids[filled], mask[filled] = tokens.ids, tokens.mask
        weights[filled] = torch.tensor([answer.weight for row in answers for answer in row])
        return Answers(ids, mask, weights)

    def tokens(self, answers: Sequence[str]) -> Tokens:
        """Answers to ids i64 [A,L] and mask bool [A,L]."""
        rows = [[self.cls_id, *pieces, self.sep_id][: self.max_tokens] for pieces in self.pieces(answers)]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.tensor([row + [self.pad_id] * (self.max_tokens - len(row)) for row in rows])
        return Tokens(ids, torch.arange(self.max_tokens) < lengths[:, None])

    def pieces(self, answers: Sequence[str]) -> list[list[int]]:
        """The word pieces of answers, all of them, without [CLS] and [SEP]."""
        short = [answer[: _ANSWER_CHARACTERS * self.max_tokens] for answer in answers]
        return [one.ids for one in self._tokenizer.encode_batch(short, add_special_tokens=False)]

    def text(self, pieces: Sequence[int]) -> str:
        """Word pieces as one reads them: `play ##ing` is `playing`, a word or sign after another with a blank.

        A piece that the vocabulary lacks is [UNK]: a model may have rows for more words than there are.
        """
        return " ".join(self._words.get(piece, "[UNK]") for piece in pieces).replace(" ##", "")


def _tokenizer_of(pieces: WordPieces) -> Any:
    """The library's tokenizer for a vocabulary, without special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    # the library's threads do not survive the fork of the loader's workers, which have one core each anyway
    set_default("TOKENIZERS_PARALLELISM", "false")
    tokenizer: Any = Tokenizer(models.WordPiece(vocab=pieces.numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=True, strip_accents=pieces.strip_accents, handle_chinese_chars=pieces.split_signs
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
