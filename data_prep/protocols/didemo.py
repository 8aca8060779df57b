"""DiDeMo: all descriptions of a video are one paragraph, and of the video the first 30 seconds count.

    train_data.json, …    [{"video": "a.mov", "description": "one", "times": […], …}], an entry a description
    of UMT and VindLU     [{"video": "a.mp4", "caption": ["one", "two"]}], or SQLite

The official files of validation and testing name the 1,094 and 1,036 videos of the paper. Of the first, 29 are videos
that they name as a.mov and as a.mp4, with other descriptions for each; VindLU's files have one of both.
"""

from __future__ import annotations

from functools import partial

from data_prep.protocols.paragraph import read_paragraphs
from data_prep.protocols.protocol import Counts, Protocol

_read = partial(read_paragraphs, texts=("description", "caption"))
_VINDLU = "VindLU's files"


def _split(name: str, about: str, *expected: Counts) -> Protocol:
    return Protocol(f"didemo-{name}", "retrieval", about, _read, expected, first_s=30, captions="paragraph")


PROTOCOLS = (
    _split("train", "DiDeMo, training: a paragraph a video", Counts(8496, 8496), Counts(8394, 8394, _VINDLU)),
    _split("val", "DiDeMo, validation", Counts(1094, 1094), Counts(1065, 1065, _VINDLU)),
    _split("test", "DiDeMo, testing", Counts(1036, 1036), Counts(1003, 1003, _VINDLU)),
)
