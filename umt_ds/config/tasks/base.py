"""What every task says of itself from its settings alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from umt_ds.config.models import BertConfig, TeacherConfig
from umt_ds.config.section import Section

if TYPE_CHECKING:
    from umt_ds.config.run import RunConfig

Remarks = Iterator[tuple[str, str]]  # the key path of a setting or a section, and a reason


class ClipShape(NamedTuple):
    """What a model sees of a clip: so many frames (of an image one), of `side` x `side` pixels."""

    frames: int
    side: int


class PublishedRun(NamedTuple):
    """What a paper tells of its run, to stand beside a plan: hours on so many A100-80G, and what was shown."""

    hours: int
    gpus: int
    samples: int
    epochs: int
    shares: Mapping[Literal["image", "video"], float]


class TaskSettings(Section):
    """Base of the settings of a task; `kind` tells them apart. What a task does not answer holds for it as it is here.

    A task is one file in this folder and a room in `umt_ds/tasks`; what the rest of `config/` may know of it is this.
    """

    @property
    @abstractmethod
    def clip_shape(self) -> ClipShape:
        """What its model sees."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """A sentence about it, for reports."""

    @property
    def positions_of(self) -> ClipShape:
        """The clip whose table of positions its encoder learns with."""
        return self.clip_shape

    @property
    def stretches_positions(self) -> bool:
        """Whether positions of other clips are stretched from those of `positions_of`, and not computed anew."""
        return False

    @property
    def required_weights(self) -> Mapping[str, TeacherConfig | BertConfig]:
        """The parts that are read from files before training, by name."""
        return {}

    @property
    def published(self) -> PublishedRun | None:
        """The run of this kind and size that a paper tells of."""
        return None

    @property
    def compares_rows(self) -> Literal["of_rank", "of_all"] | None:
        """Rows of a micro-batch that are compared with each other, of which there must be two: those of a rank, or
        those of all ranks. Cutting a step up changes such an objective. None: each row is learned by itself."""
        return None

    @property
    def works_in_pieces(self) -> bool:
        """Whether it can work on its share of a step in pieces (batch.split_contrastive)."""
        return False

    @property
    def mixes_media(self) -> bool:
        """Whether it trains on images and clips in one batch (batch.media: packed)."""
        return False

    @property
    def label_field(self) -> str | None:
        """The field of a sample's json that holds the label it learns; None: it learns none."""
        return None

    @property
    def text_field(self) -> str | None:
        """The field of a sample's json that holds the text it reads; None: the captions that a source names."""
        return None

    @property
    def has_layers_to_decay(self) -> bool:
        """Whether its layers can learn at different rates (optim.layer_decay)."""
        return False

    @property
    def has_teacher(self) -> bool:
        """Whether a frozen teacher looks at its clips (engine.graph)."""
        return False

    @property
    def recomputing(self) -> tuple[str, ...]:
        """Keys of settings that save memory: in the backward, activations are computed again instead of kept."""
        return ()

    @property
    def says(self) -> Literal["classes", "captions", "answers"] | None:
        """What its model says of videos that nobody has labelled: which class they are of, which of some captions fits,
        what the answer to a question is. None: nothing."""
        return None

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Kinds of `evaluation` that the task can be judged by."""
        return ()

    def judged_alone(self) -> Self:
        """The same for those who judge weights that no run of theirs wrote: without what training alone needs."""
        return self

    def refused(self, run: RunConfig) -> Remarks:
        """Settings of a run that this task cannot honour, beside those that follow from the properties above."""
        yield from ()

    def without_effect(self, run: RunConfig) -> Remarks:
        """Settings of the task that change nothing in this run."""
        yield from ()
