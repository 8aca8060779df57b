"""Which frames evaluation shows of a clip, so that a score stands beside published ones. Pure functions, torch-free.

A rule counts all frames that a clip has in its source, stored or not: F of them, of which each test clip shows T.
`umt-data … --views` stores the frames that rules ask for, and `umt_ds.data.clips` finds them by number.

`recognition:8x4` is the rule Kinetics_sparse with T = 8: the one clip of validation and the four of testing. `ssv2` is
that of Something-Something read from video files. `retrieval` shows `middle` frames, for questions too. Dense testing
of Kinetics is left out: the released code says where its clips start, and we have not seen how one ends in a short
video.

Source: METHOD.md, "Views in testing", "Frames: stage 2".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, assert_never, get_args

from umt_ds.data.order.frames import middle
from umt_ds.data.shards.manifest import Manifest
from umt_ds.errors import ConfigError, DecodeError, quoted, some

Rule = Literal["recognition", "ssv2", "retrieval"]
RULES: tuple[Rule, ...] = get_args(Rule)
MOST_CLIPS: Mapping[Rule, int] = {"recognition": 99, "ssv2": 2, "retrieval": 1}  # that a rule shows of a video
ALL = "all"  # every frame of a clip, whatever rule will ask

_CLIPS = re.compile(r"([1-9][0-9]{0,3})(?:x([1-9][0-9]?))?", re.ASCII)
_EXAMPLE = "as in --views recognition:8x4,16x4 --views retrieval:12, or --views all"


def kinetics_sparse(num_frames: int, *, count: int, clip: int = 0, num_clips: int = 1) -> list[int]:
    """`count` frames of test clip `clip` of `num_clips`; clip 0 of 1 is the one of validation.

    300 frames, 8: 18, 55, 93, …; the four test clips begin at 7, 14, 22, 29. Python's `round`, half to even.
    Source: METHOD.md, "Views in testing".
    """
    segment = (num_frames - 1) / count
    offset = int(segment / (num_clips + 1) * (clip + 1))
    return [round(segment * i) + offset for i in range(count)]


def ssv2_validation(num_frames: int, *, count: int) -> list[int]:
    """The centre of each of `count` segments. Source: METHOD.md, "Views in testing"."""
    return [int(num_frames / count * (i + 0.5)) for i in range(count)]


def ssv2_test(num_frames: int, *, count: int, clip: int) -> list[int]:
    """Test clip 0 or 1: every second one of the starts and centres of `count` segments.

    Source: METHOD.md, "Views in testing".
    """
    segment = num_frames / count
    starts = [int(segment * i) for i in range(count)]
    centres = [int(segment / 2 + segment * i) for i in range(count)]
    return sorted(starts + centres)[clip::2]


@dataclass(frozen=True, order=True)
class Views:
    """The clips that one kind of evaluation shows of a video: `num_clips` of `num_frames` frames each.

    Raises ConfigError for a number of clips that the rule does not have.
    """

    rule: Rule
    num_frames: int
    num_clips: int = 1

    def __post_init__(self) -> None:
        most = MOST_CLIPS[self.rule]
        if self.num_clips > most:
            raise ConfigError(
                f"--views {self}: {self.rule} shows at most {most} clip{'s' * (most > 1)} of a video",
                hint=f"--views {self.rule}:{self.num_frames}" + f"x{most}" * (most > 1),
            )

    def __str__(self) -> str:
        return f"{self.rule}:{self.clips_text}"

    @property
    def clips_text(self) -> str:
        """8x4, or 8 where a video is shown as one clip."""
        return f"{self.num_frames}x{self.num_clips}" if self.num_clips > 1 else str(self.num_frames)

    def validation(self, num_frames: int) -> list[int]:
        """The one clip that is shown while a model trains. Raises DecodeError for a video without frames."""
        _check_not_empty(num_frames)
        match self.rule:
            case "recognition":
                return kinetics_sparse(num_frames, count=self.num_frames)
            case "ssv2":
                return ssv2_validation(num_frames, count=self.num_frames)
            case "retrieval":
                return middle(num_frames, count=self.num_frames)
            case _:
                assert_never(self.rule)

    def test_clip(self, clip: int, num_frames: int) -> list[int]:
        """Clip number `clip` of those that are scored together. Raises DecodeError for a video without frames."""
        if self.num_clips == 1:
            return self.validation(num_frames)
        _check_not_empty(num_frames)
        if self.rule == "ssv2":
            return ssv2_test(num_frames, count=self.num_frames, clip=clip)
        return kinetics_sparse(num_frames, count=self.num_frames, clip=clip, num_clips=self.num_clips)

    def frames(self, num_frames: int) -> set[int]:
        """All frames that validation and testing show."""
        shown = [self.validation(num_frames), *(self.test_clip(clip, num_frames) for clip in range(self.num_clips))]
        return {number for clip in shown for number in clip}

    @property
    def validation_rule(self) -> FrameRule:
        """The clip of validation: T frames."""
        return FrameRule(self)

    @property
    def testing_rule(self) -> FrameRule:
        """All test clips of a video, one after the other: `num_clips` times T frames."""
        return FrameRule(self, tuple(range(self.num_clips)))


@dataclass(frozen=True)
class FrameRule:
    """Which frames of a clip are shown, by their numbers among all that it has: called with how many these are.

    clips: the test clips, shown one after the other; none for the clip of validation.
    """

    views: Views
    clips: tuple[int, ...] = ()

    def __call__(self, num_frames: int) -> list[int]:
        if not self.clips:
            return self.views.validation(num_frames)
        return [number for clip in self.clips for number in self.views.test_clip(clip, num_frames)]


def views_text(asked: Iterable[str]) -> str:
    """What was asked for in its one spelling: sorted, each once, `recognition:8x4,16x4 retrieval:12`.

    Raises ConfigError for what is no rule.
    """
    words = [word for text in asked for word in text.split()]
    if not words:
        raise ConfigError("--views says nothing", hint=_EXAMPLE)
    if ALL in words:
        return ALL
    views = sorted({one for word in words for one in _parse(word)})
    of_rules = {rule: [one.clips_text for one in views if one.rule == rule] for rule in RULES}
    return " ".join(f"{rule}:{','.join(clips)}" for rule, clips in of_rules.items() if clips)


def is_views_text(text: object) -> bool:
    """Whether it is what `views_text` gives, as a file says."""
    try:
        return isinstance(text, str) and views_text([text]) == text
    except ConfigError:
        return False


def as_options(text: str) -> str:
    """What `views_text` gives, as one types it: `--views recognition:8x4,16x4 --views retrieval:12`."""
    return " ".join(f"--views {word}" for word in text.split())


def views_of(options: Mapping[str, Any]) -> str | None:
    """The views whose frames a set stores, by the options of its manifest, or of the set that it was made of."""
    if is_views_text(views := options.get("views")):
        return str(views)
    made_with = options.get("made_with")
    return views_of(made_with) if isinstance(made_with, Mapping) else None


def why_not_train(manifest: Manifest) -> str | None:
    """What speaks against training on a set; None where it was not made for evaluation, or stores every frame."""
    views = views_of(manifest.options)
    if views is None or views == ALL or manifest.media in ("image", "video"):
        return None
    return f"was made with {as_options(views)}, for evaluation, and training takes its frames to be evenly spread"


def _parse(word: str) -> list[Views]:
    """`recognition:8x4,16x4` → both."""
    named, _, clips = word.partition(":")
    name = next((rule for rule in RULES if rule == named), None)
    if name is None:
        raise ConfigError(
            f"--views {quoted(word)}: there is no rule {quoted(named)}, only {some([*RULES, ALL])}", hint=_EXAMPLE
        )
    found = [_CLIPS.fullmatch(one) for one in clips.split(",")]
    if not all(found):
        raise ConfigError(
            f"--views {quoted(word)}: after the colon stand frames of a clip, or frames x clips, with commas between",
            hint=_EXAMPLE,
        )
    return [Views(name, int(one[1]), int(one[2] or 1)) for one in found if one]


@lru_cache(maxsize=16)
def _parsed(text: str) -> Sequence[Views]:
    return [one for word in text.split() for one in _parse(word)]


def frames_of(text: str, num_frames: int) -> list[int]:
    """The frames of a clip of `num_frames` that the views of `views_text` show, ascending, each once.

    Raises DecodeError for a clip without frames.
    """
    _check_not_empty(num_frames)
    if text == ALL:
        return list(range(num_frames))
    return sorted({number for views in _parsed(text) for number in views.frames(num_frames)})


def _check_not_empty(num_frames: int) -> None:
    if num_frames < 1:
        raise DecodeError("the clip holds no frames")
