"""What users of the Python API may count on: names, arguments, defaults. A change here breaks somebody's code."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import umt_ds
from umt_ds import api
from umt_ds.api import masks

_LOAD = (
    "source, *, recipe=None, overrides=(), device=None, precision=None, compile=False, best=False, ema=None, "
    "classes=None"
)
SIGNATURES = {
    "load": _LOAD,
    "VideoModel.encode_video": "self, video, *, window=None, stride=None, batch=16",
    "VideoModel.encode_text": "self, text",
    "VideoModel.similarity": "self, videos, texts",
    "VideoModel.predict": "self, video, *, top=5, segments=None, crops=None",
    "VideoModel.match": "self, video, texts, *, top=None",
    "VideoModel.answer": "self, video, question, *, answers=None, beams=None, top=5",
    "VideoModel.frames_of": "self, path, *, start=None, end=None, of='encode_video'",
    "VideoModel.views": "self, frames, *, of='encode_video'",
    "VideoModel.attention": "self, video, *, block=-1, query=None",
    "WindowEmbeddings": "embeddings, spans_s, left_out",
    "Prediction": "question, choices",
    "Choice": "text, numbers",
    "masks.load_frozen_teacher": "run, *, device=None",
    "masks.keep_patches": "attention, *, ratio=0.8, kind='semantic', seed=0, step=0",
    "masks.shade": "frames, keep, grid",
    "masks.spotlight": "frames, attention",
}  # fmt: skip
PROPERTIES = ("name", "task", "can", "classes", "device", "precision", "fingerprint", "module")


def named(name: str) -> Any:
    found: Any = api
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("name", "expected"), SIGNATURES.items())
def test_this_is_called_so(name: str, expected: str) -> None:
    signature = inspect.signature(named(name))
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    assert str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)) == f"({expected})"


def test_all_that_is_public_is_in_the_table_and_has_a_docstring() -> None:
    methods = {name for name, _ in inspect.getmembers(api.VideoModel, inspect.isfunction) if not name.startswith("_")}
    assert {f"VideoModel.{name}" for name in methods} | {"VideoModel"} <= {*SIGNATURES, "VideoModel"}
    properties = {name for name, _ in inspect.getmembers(api.VideoModel, lambda one: isinstance(one, property))}
    assert properties == set(PROPERTIES)
    assert set(api.__all__) == {"Choice", "Frame", "Prediction", "Video", "VideoModel", "WindowEmbeddings", "load"}
    assert {f"masks.{name}" for name in masks.__all__ if name != "FrozenTeacher"} <= set(SIGNATURES)
    for name in (*SIGNATURES, *(f"VideoModel.{name}" for name in PROPERTIES)):
        assert inspect.getdoc(named(name)), f"{name} says nothing of itself"
    assert umt_ds.VideoModel is api.VideoModel
