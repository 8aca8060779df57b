"""What an evaluation wants of each clip: which frames, how they become squares, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from umt_ds.data.clips import ChooseFrames
from umt_ds.data.order.frames import middle
from umt_ds.data.order.views import FrameRule, Views
from umt_ds.data.pixels.augment import centre_view, stretch_view
from umt_ds.data.pixels.decode import Frames
from umt_ds.data.pixels.testing import testing_views, validation_view
from umt_ds.data.shards.sample_record import Clean

# How a frame becomes squares: its centre (our own probes); all of it, out of shape (retrieval); or those in which
# recognition is tested, one or several along its long side.
# Source: METHOD.md, "Crops: stage 2", "Views in testing".
EvaluationView = Literal["centre", "stretched", "testing"]


@dataclass(frozen=True)
class ShownFrames:
    """Which frames of a clip are shown. text: how that is said. choose: as `read_clip` takes it; it gives the frames of
    all `segments`, `count` of each, one segment after the other."""

    text: str
    count: int
    choose: ChooseFrames | FrameRule
    segments: int = 1


def middle_frames(count: int) -> ShownFrames:
    """The centre of each of `count` equal parts of the stored frames (`order.frames.middle`), in any set."""
    return ShownFrames(
        f"the middle frame of each of {count} parts of the stored frames",
        count,
        lambda num_frames: middle(num_frames, count=count),
    )


def published_frames(views: Views) -> ShownFrames:
    """What published evaluation shows, of all frames that the video has; one test clip is that of validation. A set
    that does not store these is a DataError that names the command which makes it."""
    text = f"{views}, of all frames of the video, as published"
    return ShownFrames(text, views.num_frames, views.testing_rule, views.num_clips)


def stored_frames(views: Views) -> ShownFrames:
    """By the same rule, of the frames that a set stores, in any set."""
    rule = views.testing_rule
    text = f"{views}, of the stored frames"
    return ShownFrames(text, views.num_frames, lambda num_frames: rule(num_frames), views.num_clips)


@dataclass(frozen=True)
class AlsoAsked:
    """What else is wanted of what a clip says of itself. fields: that are read. read: makes of them what an evaluator
    wants (`ItemInfo.said`); it raises DecodeError where an item does not say it, which is then left out."""

    fields: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], object]


@dataclass(frozen=True)
class ClipRequest:
    """What is wanted of each clip: V views of it, for each segment `crops` squares, all of a segment before the next.

    view: several segments or crops are for `testing` alone, which is without antialias, as published.
    needs_labels: a clip that lacks one of the `label_fields` is left out; else it is given with label -1.
    num_classes: a label from there on is a DataError: its class list is not that of the model.
    caption_field: None where no text is wanted; else a clip without text is left out. clean: see `Tokenize`.
    """

    frames: ShownFrames
    side: int
    view: EvaluationView = "centre"
    antialias: bool = True
    crops: int = 1
    label_fields: Sequence[str] = ()
    needs_labels: bool = False
    num_classes: int | None = None
    caption_field: str | None = None
    clean: Clean = str.strip
    also: AlsoAsked | None = None

    def __post_init__(self) -> None:
        assert not self.antialias if self.view == "testing" else self.num_views == 1

    @property
    def num_views(self) -> int:
        """V, of each clip."""
        return self.frames.segments * self.crops

    @property
    def asked(self) -> tuple[str, ...]:
        """The fields that are wanted of what a clip says of itself."""
        captions = () if self.caption_field is None else (self.caption_field,)
        return (*self.label_fields, *captions, *(() if self.also is None else self.also.fields))

    @property
    def reads_record(self) -> bool:
        """Whether the json of a clip is read."""
        return bool(self.asked)

    def views_of(self, frames: Frames) -> Frames:
        """The frames of all segments, u8 [segments·T,H,W,3] → u8 [V,T,side,side,3]."""
        if self.view == "centre":
            return centre_view(frames, side=self.side, antialias=self.antialias)[None]
        if self.view == "stretched":
            return stretch_view(frames, side=self.side, antialias=self.antialias)[None]
        if self.num_views == 1:
            return validation_view(frames, side=self.side)[None]
        squares = testing_views(frames, side=self.side, num_crops=self.crops)  # [crops,segments·T,side,side,3]
        by_segment = squares.reshape(self.crops, self.frames.segments, self.frames.count, *squares.shape[2:])
        return by_segment.swapaxes(0, 1).reshape(self.num_views, self.frames.count, *squares.shape[2:])
