"""Settings of question answering: a decoder writes the answer to a question about a video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from umt_ds.config.data import SourceConfig
from umt_ds.config.models import BertConfig, PositionBase, StudentConfig, TeacherConfig
from umt_ds.config.tasks.base import ClipShape, Remarks, TaskSettings
from umt_ds.config.values import CountAboveOne, Text

if TYPE_CHECKING:
    from umt_ds.config.run import RunConfig


class QuestionAnsweringConfig(TaskSettings):
    """Answering questions about videos (UMT tables 13 and 26; METHOD.md, "Question answering").

    The text encoder reads the question and looks at the video; a decoder made of as many layers as fuse reads both, and
    writes the answer.
    """

    kind: Literal["question_answering"]
    encoder: StudentConfig = Field(StudentConfig(frames=12), description="the video transformer")
    positions: PositionBase | None = Field(
        None,
        description="the clip whose table of positions is stretched to that of the encoder, to keep what the weights "
        "know of another size or number of frames; null: the table of as many tokens as there are, as published",
    )
    text: BertConfig = Field(description="its max_tokens are those of a question (published: 25)")
    question: Text = Field("question", description="field of an item with its question")
    answer_tokens: CountAboveOne = Field(
        5, description="of an answer, with [CLS] and [SEP]; a longer one loses its end, and [SEP] with it, as published"
    )

    @property
    def clip_shape(self) -> ClipShape:
        return ClipShape(self.encoder.frames, self.encoder.image_size)

    @property
    def positions_of(self) -> ClipShape:
        base = self.positions
        return self.clip_shape if base is None else ClipShape(base.frames, base.image_size)

    @property
    def stretches_positions(self) -> bool:
        return self.positions is not None

    @property
    def summary(self) -> str:
        encoder, text = self.encoder, self.text
        return (
            f"question_answering: {encoder.preset}, {encoder.frames} frames of {encoder.image_size} px; BERT "
            f"({text.preset}) reads {text.max_tokens} tokens, a decoder of {text.fusion_layers} layers answers in "
            f"{self.answer_tokens}"
        )

    @property
    def text_field(self) -> str:
        return self.question

    @property
    def required_weights(self) -> Mapping[str, TeacherConfig | BertConfig]:
        return {"BERT": self.text}

    @property
    def recomputing(self) -> tuple[str, ...]:
        return ("task.encoder.checkpoint_blocks", "task.text.checkpoint_layers")

    @property
    def says(self) -> Literal["answers"]:
        return "answers"

    @property
    def judged_by(self) -> tuple[str, ...]:
        return ("question_answering",)

    def refused(self, run: RunConfig) -> Remarks:
        for name, source in run.data.sources.items():
            if source.caption != SourceConfig.model_fields["caption"].default:
                yield f"data.sources.{name}.caption", "questions are read, not captions (task.question)"
