"""Questions about held-out videos: the best answer of a list, and the one that the model writes freely.

Shapes: B questions of a batch, N of the set, M tokens of a question, k answers in the end, L tokens of an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from umt_ds.batch import Tokens
from umt_ds.data.evaluation import EvalBatch, EvaluationSet
from umt_ds.data.shards.sample_record import ANSWERS, Clean, answers_of, captions_of, plain_text
from umt_ds.data.text import AnswerTokenizer
from umt_ds.distributed.world import World
from umt_ds.errors import DecodeError, shown
from umt_ds.evaluation.answer_list import AnswerList
from umt_ds.evaluation.answer_ranking import rank_answers
from umt_ds.evaluation.answer_writing import write_answers
from umt_ds.evaluation.encode import EncodedSet, look_at_set, on_first_rank, place_of, refuse_non_finite
from umt_ds.evaluation.evaluator import Beat, Scores
from umt_ds.evaluation.metrics.answers import as_compared, is_right
from umt_ds.evaluation.said import Said, protocol_of, say_left_out
from umt_ds.models.answer_decoder import AnsweringModel
from umt_ds.models.vit import Clips

RANKED, WRITTEN = "accuracy", "written_accuracy"
UNTYPED = "without a type"
_TYPE = "question_type"
_SHOWN = 5  # answers of the list that a row of the predictions has


@dataclass(frozen=True)
class Asked:
    """What an item asks. question: cleaned. answers: the right ones, as they are written. type: of the question."""

    question: str
    answers: tuple[str, ...]
    type: str | None = None


def asked_fields(question: str) -> tuple[str, ...]:
    """The fields that `asked_of` reads."""
    return (question, *ANSWERS, _TYPE)


def asked_of(record: Mapping[str, Any], *, question: str, clean: Clean) -> Asked:
    """Raises DecodeError where there is not one question in the field `question`, or no answer to it."""
    texts = captions_of(record, field=question, clean=clean)
    if len(texts) != 1:
        raise DecodeError(
            f"it has {len(texts) or 'no'} question{'s' * bool(texts)} in {question!r}, and should have one"
        )
    answers = answers_of(record)
    if not answers:
        raise DecodeError("the question has no answer (`answers` is missing or empty)")
    kind = record.get(_TYPE)
    if kind is not None and not isinstance(kind, str):
        raise DecodeError(f"{_TYPE}={shown(repr(kind))} is no text")
    return Asked(texts[0], tuple(answer.text for answer in answers), None if kind is None else plain_text(kind))


@dataclass(frozen=True)
class AnsweringEvaluator:
    """Satisfies `Evaluator`.

    items are asked what `asked_of` reads, in one view. question_tokens: of clean questions. among: the list to choose
    from, None without; candidates: answers of it that are scored whole. beams: of answers that are written freely, None
    without. about: for the protocol.
    """

    name: str
    items: EvaluationSet
    question_tokens: Callable[[list[str]], Tokens]
    answers: AnswerTokenizer
    among: AnswerList | None
    candidates: int = 128
    beams: int | None = None
    num_workers: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    said: Said = field(default_factory=Said)

    @property
    def metrics(self) -> tuple[str, ...]:
        """In percent: of the best of the list, and of what is written freely."""
        return (*([RANKED] if self.among else []), *([] if self.beams is None else [WRITTEN]))

    @property
    def sets(self) -> Sequence[EvaluationSet]:
        return [self.items]

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        """See `Evaluator`. A row of the predictions is a question: its place in the set, its right answers, the
        likeliest of the list with their probabilities, and what was written."""
        assert isinstance(module, AnsweringModel)
        device, precision = place_of(module)
        encoded = look_at_set(
            self._look(module, device), self.items, world, device=device, num_workers=self.num_workers, beat=beat
        )
        say_left_out(self.said, self.name, self.items, encoded.left_out)
        for measure in ("probability", "log_probability"):
            if measure in encoded.vectors:
                is_finite = encoded.vectors[measure].isfinite().all(dim=1).tolist()
                refuse_non_finite(encoded.keys, is_finite, where=f"evaluation.{self.name}")
        found = on_first_rank(world, lambda: self._answered(encoded))
        covered = self._covered(encoded)
        return Scores(
            self.name,
            found.accuracies(),
            items=len(encoded.items),
            left_out=encoded.left_out,
            protocol={
                **protocol_of(self.items, encoded, precision=precision),
                "videos": len({item.video for item in encoded.items}),
                "match": "an answer is right that is one of the question's, blanks around it and case aside",
                **covered,
                "chance": {metric: found.most_frequent for metric in self.metrics},
                **self.about,
            },
            predictions=found.columns(encoded) if predictions else None,
            by_type=found.by_type(),
        )

    # ------------------------------------------------------------ a batch

    def _look(self, model: AnsweringModel, device: torch.device) -> Callable[[EvalBatch], dict[str, Tensor]]:
        listed = None if self.among is None else self.answers.tokens(self.among.answers).to(device)

        def look(batch: EvalBatch) -> dict[str, Tensor]:
            states, is_question = self._read(model, batch, device)
            found: dict[str, Tensor] = {}
            if listed is not None:
                best = rank_answers(model.text_decoder, states, is_question, listed, k=self.candidates)
                found |= {"ranked": best.numbers[:, :_SHOWN], "probability": best.probability[:, :_SHOWN]}
            if self.beams is not None:
                written = write_answers(
                    model.text_decoder,
                    states,
                    is_question,
                    cls_id=self.answers.cls_id,
                    sep_id=self.answers.sep_id,
                    max_tokens=self.answers.max_tokens,
                    beams=self.beams,
                )
                found |= {"written": written.pieces, "log_probability": written.log_probability[:, None]}
            return found

        return look

    def _read(self, model: AnsweringModel, batch: EvalBatch, device: torch.device) -> tuple[Tensor, Tensor]:
        """States [B,M,W] and which of them count, bool [B,M], of a full batch: the last question stands in for those
        that are missing, so that the decoder makes as many passes on all ranks. Each video is encoded once."""
        places: dict[tuple[int, ...], int] = {}  # of the first question about each video
        for place, item in enumerate(batch.items):
            places.setdefault(item.video, place)
        number = {video: row for row, video in enumerate(places)}
        rows = [number[item.video] for item in batch.items] or [0]
        tokens = self.question_tokens([item.said.question for item in batch.items] or [""]).to(device)
        pixels = batch.pixels[list(places.values()) or [0]].to(device)
        states = model.read(Clips(pixels), tokens.ids, tokens.mask, torch.tensor(rows, device=device))
        filled = torch.arange(self.items.batch_size, device=device).clamp(max=len(rows) - 1)
        return states[filled], tokens.mask[filled]

    # ------------------------------------------------------------ the set

    def _answered(self, encoded: EncodedSet) -> Answered:
        asked = [item.said for item in encoded.items]
        predicted = written = None
        if self.among is not None:
            predicted = [self.among.answers[number] for number in encoded.vectors["ranked"][:, 0].long().tolist()]
        if self.beams is not None:
            written = [self._pieces(row) for row in encoded.vectors["written"].long().tolist()]
        return Answered(
            asked=asked,
            listed=() if self.among is None else self.among.answers,
            predicted=predicted,
            written=None if written is None else [self.answers.text(pieces) for pieces in written],
            written_right=None if written is None else self._same_pieces(written, asked),
        )

    def _pieces(self, row: list[int]) -> list[int]:
        """Up to the end of the answer."""
        return row[: row.index(self.answers.sep_id)] if self.answers.sep_id in row else row

    def _same_pieces(self, written: Sequence[list[int]], asked: Sequence[Asked]) -> list[bool]:
        """Whether what was written is one of the answers, piece by piece: text would be spaced otherwise."""
        return [pieces in self._writable(one.answers) for pieces, one in zip(written, asked, strict=True)]

    def _writable(self, answers: Sequence[str]) -> list[list[int]]:
        """Of these answers, in pieces, those that the decoder can write: short enough, in words that it knows."""
        most, unknown = self.answers.max_tokens - 1, self.answers.unknown_id
        return [pieces for pieces in self.answers.pieces(answers) if len(pieces) <= most and unknown not in pieces]

    def _covered(self, encoded: EncodedSet) -> dict[str, Any]:
        """For the protocol: how answers are found, and how many questions have one that can be found at all."""
        questions = [item.said.answers for item in encoded.items]
        found: dict[str, Any] = {}
        if self.among is not None:
            listed = sum(map(self.among.has_one_of, questions))
            found |= {
                "answer_list": self.among.where,
                "answer_list_hash": self.among.fingerprint,
                "answer_list_length": len(self.among.answers),
                "questions_with_listed_answer": listed,
                "best_possible": 100 * listed / len(questions),
                "candidates": min(self.candidates, len(self.among.answers)),
                "ranking": "log probability of the first piece, less the loss of the whole answer",
                "ties": "of equals the one that stands first in the list",
            }
            if listed < len(questions):
                self.said.warn(
                    f"evaluation.{self.name}: {len(questions) - listed} of {len(questions)} questions have no answer "
                    f"among the {len(self.among.answers)} of {self.among.where}, and count as wrong"
                )
        if self.beams is not None:
            found |= {
                "beams": self.beams,
                "writing": f"the likeliest product over at most {self.answers.max_tokens - 1} pieces",
                "questions_with_writable_answer": sum(bool(self._writable(answers)) for answers in questions),
            }
        return found


@dataclass(frozen=True)
class Answered:
    """What was answered to N questions. listed: the answers to choose from. predicted, written: None where answers were
    not sought in that way."""

    asked: Sequence[Asked]
    listed: Sequence[str]
    predicted: Sequence[str] | None
    written: Sequence[str] | None
    written_right: Sequence[bool] | None

    def right(self) -> dict[str, list[bool]]:
        """Whether each question is answered right, by the names of the metrics."""
        found: dict[str, list[bool]] = {}
        if self.predicted is not None:
            pairs = zip(self.predicted, self.asked, strict=True)
            found[RANKED] = [is_right(predicted, one.answers) for predicted, one in pairs]
        if self.written_right is not None:
            found[WRITTEN] = list(self.written_right)
        return found

    def accuracies(self) -> dict[str, float]:
        """In percent."""
        return {metric: _percent(right) for metric, right in self.right().items()}

    def by_type(self) -> dict[str, dict[str, float]]:
        """The same for the questions of each type, the most frequent first; none where no question has a type."""
        types = [one.type for one in self.asked]
        if not any(types):
            return {}
        counts, right = Counter(kind or UNTYPED for kind in types), self.right()
        return {
            kind: {"items": count}
            | {
                metric: _percent([one for one, own in zip(each, types, strict=True) if (own or UNTYPED) == kind])
                for metric, each in right.items()
            }
            for kind, count in counts.most_common()
        }

    @property
    def most_frequent(self) -> float:
        """What the most frequent answer would reach without a look at a video, in percent."""
        counts = Counter(answer for one in self.asked for answer in set(map(as_compared, one.answers)))
        return 100 * counts.most_common(1)[0][1] / len(self.asked)

    def columns(self, encoded: EncodedSet) -> dict[str, list[Any]]:
        """Of the predictions."""
        columns: dict[str, list[Any]] = {
            "key": list(encoded.keys),
            "number": [item.number for item in encoded.items],
            "question": [one.question for one in self.asked],
            "type": [one.type for one in self.asked],
            "answers": [list(one.answers) for one in self.asked],
        }
        right = self.right()
        if self.predicted is not None:
            numbers = encoded.vectors["ranked"].long().tolist()
            columns |= {
                "predicted": [[self.listed[number] for number in row] for row in numbers],
                "probability": encoded.vectors["probability"].tolist(),
                "right": right[RANKED],
            }
        if self.written is not None:
            columns |= {
                "written": list(self.written),
                "log_probability": encoded.vectors["log_probability"][:, 0].tolist(),
                "written_right": right[WRITTEN],
            }
        return columns


def _percent(right: Sequence[bool]) -> float:
    return 100 * sum(right) / len(right)
