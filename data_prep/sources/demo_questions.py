"""What is said and asked about the clips of the demo: captions, questions with answers, and five captions of which one
is right.

    how many  type         question                   answer
    a clip    color        what color is the ball     red, green, blue, yellow
    a clip    pattern      what pattern is the ball   plain, striped, checked
    a clip    background   what background is it      dark, grey, light
    a clip    motion       what does it do            one of eight: moves left, grows, turns clockwise, …
    3 of 4    direction    which way does it move     left, right, up, down
                           which way does it turn     clockwise, counterclockwise

Of five captions two wrong ones differ from the right one by the motion alone, two by the appearance alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.clip import Clip
from data_prep.sources.demo import BACKGROUNDS, COLORS, MOTIONS, PATTERNS
from umt_ds.data.shards.records import write_json
from umt_ds.keyed import Stream, permutation

Row = Mapping[str, Any]  # of an annotation file, as `umt-data items` reads it

OPTIONS = 5  # captions of a choice
_DIRECTED = ("moves", "turns")  # motions that a direction follows


def caption_rows(clips: Iterable[Clip]) -> list[Row]:
    """A row a clip: its `key`, its `caption`, and in `group` what the caption says, in whichever words: clips of one
    group are right answers to one another's captions."""
    says = ("appearance", "motion", "background")
    return [
        {"key": clip.key, "caption": clip.captions[0], "group": " ".join(str(clip.extra[part]) for part in says)}
        for clip in clips
    ]


def question_rows(clips: Iterable[Clip]) -> list[Row]:
    """A row a question: `key` of its clip, `question`, `question_id`, `question_type`, `answers`."""
    return [
        {
            "key": clip.key,
            "question": question,
            "question_id": f"{clip.key}-{kind}",
            "question_type": kind,
            "answers": [answer],
        }
        for clip in clips
        for kind, question, answer in _questions(clip)
    ]


def _questions(clip: Clip) -> Iterator[tuple[str, str, str]]:
    """Type, question and answer."""
    pattern, color, _ = str(clip.extra["appearance"]).split()
    motion = str(clip.extra["motion"])
    yield "color", "what color is the ball", color
    yield "pattern", "what pattern is the ball", pattern
    yield "background", "what background is it", str(clip.extra["background"])
    yield "motion", "what does it do", motion
    verb, _, direction = motion.partition(" ")
    if verb in _DIRECTED:
        yield "direction", f"which way does it {verb.removesuffix('s')}", direction


def all_answers() -> list[str]:
    """Every answer that a question of this world can have, each once."""
    directions = [motion.partition(" ")[2] for motion in MOTIONS if motion.startswith(_DIRECTED)]
    return [*COLORS, *PATTERNS, *BACKGROUNDS, *MOTIONS, *directions]


def blind_accuracy(learned: Sequence[Row], asked: Sequence[Row]) -> float:
    """Part of the questions that one answers rightly without looking: each by the answer that this very question has
    most often among `learned`; of equally frequent ones by the first in the alphabet."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in learned:
        counts[row["question"]].update(row["answers"])
    best = {question: min(found, key=lambda one: (-found[one], one)) for question, found in counts.items()}
    return sum(best.get(row["question"]) in row["answers"] for row in asked) / len(asked)


def choice_rows(clips: Iterable[Clip], seed: int) -> list[Row]:
    """A row a clip: its `key`, five captions in `options`, the place of the right one in `answer`."""
    return [_choice(clip, Stream(seed, "demo choice", clip.key), seed) for clip in clips]


def _choice(clip: Clip, random: Stream, seed: int) -> Row:
    caption, motion, appearance = clip.captions[0], str(clip.extra["motion"]), str(clip.extra["appearance"])
    pattern, color, _ = appearance.split()
    motions = [caption.replace(motion, other) for other in _others(motion, MOTIONS, random, count=2)]
    (other_color,), (other_pattern,) = _others(color, COLORS, random), _others(pattern, PATTERNS, random)
    looks = [caption.replace(color, other_color), caption.replace(pattern, other_pattern)]
    options = [caption, *motions, *looks]
    order = [int(place) for place in permutation(len(options), seed, "demo options", clip.key)]
    return {"key": clip.key, "options": [options[place] for place in order], "answer": order.index(0)}


def _others(one: str, names: Iterable[str], random: Stream, *, count: int = 1) -> list[str]:
    """Different ones of the other names."""
    left = [name for name in names if name != one]
    return [left.pop(random.integer(len(left))) for _ in range(count)]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """An annotation file: a json list of objects."""
    write_json(path, [dict(row) for row in rows])
