"""Which methods a model has, by what it says of videos (`TaskSettings.says`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from umt_ds.evaluation.prediction import Asked

Call: TypeAlias = Literal["encode_video", "predict", "answer", "match"]
"""A method of `VideoModel` that looks at a video: each has its own rule for frames and resizing."""

# What a model that says so can do, beside encoding videos.
METHODS: Mapping[str | None, tuple[str, ...]] = {
    "classes": ("predict",),
    "captions": ("encode_text", "similarity", "match"),
    "answers": ("answer",),
    None: (),
}
WHO_CAN: Mapping[str, str] = {
    "predict": "a run of recognition names classes",
    "encode_text": "a run of stage 2 or retrieval reads texts",
    "similarity": "a run of stage 2 or retrieval compares videos with texts",
    "match": "a run of stage 2 or retrieval compares videos with texts",
    "answer": "a run of question answering answers",
}
# The rule for frames does not depend on what is asked; something has to be.
ANY_QUESTION: Mapping[str, Asked] = {
    "classes": Asked(),
    "captions": Asked(captions=("a video",)),
    "answers": Asked(questions=("what is it",)),
}
