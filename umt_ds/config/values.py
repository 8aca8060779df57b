"""The kinds of value that a setting may have, each with its bounds: text, paths, numbers."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from umt_ds.config.yaml_text import is_encodable
from umt_ds.environment import at_home

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def _worded(text: str) -> str:
    """Text that says something: neither empty nor with what no name on a disk or a screen should hold."""
    if not text.strip():
        raise PydanticCustomError("empty", "is empty")
    if not is_encodable(text) or any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("holds a line break, a control character or half a character")
    return text


def _place(text: str) -> str:
    return at_home(_worded(text))


def _path(value: object) -> object:
    if isinstance(value, str) and _URL.match(value):  # Path would make one slash of two, and a folder `s3:`
        raise ValueError("is a URL, and has to be a path on this machine")
    return _place(value) if isinstance(value, str) else value


def _name(text: str) -> str:
    """Of a folder, a job and a plot. `umt config` leaves variables that are not set in it."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.sub(r"\$\{env:\w+\}", "x", text)):
        raise ValueError("is made of a to z, A to Z, 0 to 9, `_`, `-` and `.`, of which - and . are not the first")
    return text


def _rand_augment(text: str) -> str:
    """`rand-m7-n4-mstd0.5-inc1`: how timm and the papers write it. inc1 is always meant: operations grow stronger with
    their magnitude."""
    if not re.fullmatch(r"rand-m(10|\d(\.\d+)?)-n[1-9]\d?(-mstd\d{1,2}(\.\d+)?)?-inc1", text, re.ASCII):
        raise ValueError("is written rand-mM-nN-mstdS-inc1: magnitude M of 0 to 10, N operations, deviation S")
    return text


Name = Annotated[str, Field(max_length=100), AfterValidator(_name)]
Text = Annotated[str, AfterValidator(_worded)]
Place = Annotated[str, AfterValidator(_place)]  # a path, a URL or a command
FilePath = Annotated[Path, BeforeValidator(_path)]
RandAugmentSpec = Annotated[str, AfterValidator(_rand_augment)]

# Bounds that no run needs to pass; what lies behind them would end in an error far from here, or never. A field that
# wants another bound of the same sense gives its type both anew: pydantic would take the one here.
Count = Annotated[int, Field(gt=0, le=1_000_000)]
CountAboveOne = Annotated[int, Field(gt=1, le=1_000_000)]
CountOrNone = Annotated[int, Field(ge=0, le=1_000_000)]
Steps = Annotated[int, Field(gt=0, le=1_000_000_000)]
Clips = Steps  # of a batch
StepsOrNone = Annotated[int, Field(ge=0, le=1_000_000_000)]
Draw = Annotated[int, Field(ge=0, le=2**62)]
Part = Annotated[float, Field(ge=0, le=1)]
PartBelowOne = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e30)]
PositiveOrNone = Annotated[float, Field(ge=0, le=1e30)]
