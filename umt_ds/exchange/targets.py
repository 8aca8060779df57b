"""What a model can be written for: a table of names, and the one place that tells targets apart. Torch-free.

A target is a module of this package with the functions of `Target`. It writes the files of a folder and loads them
again as its users will; the card, the comparison and the whole folder are made around it (`export.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from umt_ds.errors import ConfigError

if TYPE_CHECKING:
    from umt_ds.exchange.compare import Outputs, Probe
    from umt_ds.exchange.source import Source

TargetName = Literal["published", "safetensors", "timm", "transformers", "onnx"]
TARGETS: tuple[TargetName, ...] = get_args(TargetName)
Wrap = Literal["model", "module", "flat"]
Part = Literal["video", "text"]


@dataclass(frozen=True)
class Options:
    """What a user may choose. wrap: the key under which a published file holds its weights; None: as the release of
    that task has it. max_shard_bytes: of a safetensors file; None: one file, whatever its size. part: of a model with
    several parts, the one that is written; None: all that the target has."""

    wrap: Wrap | None = None
    max_shard_bytes: int | None = None
    part: Part | None = None


@dataclass(frozen=True)
class Plan:
    """What a target will write, known before any file is. files: each with a few words about it. notes: what is left
    out or changed, each a whole sentence with its reason."""

    files: Mapping[str, str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Written:
    """What a target wrote. usage: markdown that says how to load it, for the card. notes: as of `Plan`, for what was
    known only while writing."""

    usage: str
    notes: Sequence[str] = ()


class Target(Protocol):
    """The functions of a target's module."""

    def plan(self, source: Source, options: Options) -> Plan:
        """What `write` will write. Raises ConfigError (`refused`) where this model has no such form; the message says
        which targets there are for it."""

    def write(self, source: Source, folder: Path, options: Options) -> Written:
        """The files into `folder`, which is empty and becomes visible when all is done. `source` is not changed."""

    def run(self, folder: Path, source: Source, probe: Probe, options: Options) -> Outputs:
        """What is in `folder`, loaded by its own library without code of the folder, on the clips and texts of `probe`:
        some of the outputs that `compare.outputs_of` names, under these names. `source` tells settings (frames, side);
        its weights are not looked at."""


def target_of(name: TargetName) -> Target:
    """A target is imported when it is asked for: each loads its library."""
    match name:
        case "published":
            from umt_ds.exchange import published

            return published
        case "safetensors":
            from umt_ds.exchange import safetensors

            return safetensors
        case "timm":
            from umt_ds.exchange import timm

            return timm
        case "transformers":
            from umt_ds.exchange import transformers

            return transformers
        case "onnx":
            from umt_ds.exchange import onnx

            return onnx


# Which forms of a model (`source.Form`) a target takes, and what it makes of them.
FORMS: Mapping[TargetName, Mapping[str, str]] = {
    "published": {
        "student": "the file of pretraining that the authors' code loads",
        "classifier": "the fine-tuned file that the authors' code loads",
        "video_text": "the file of video and text that the authors' code loads",
        "answering": "the fine-tuned file that the authors' code loads",
    },
    "safetensors": dict.fromkeys(("student", "classifier", "video_text", "answering"), "a model folder of umt_ds"),
    "timm": {"classifier": "VisionTransformer over frames one above the other"},
    "transformers": {
        "student": "VideoMAEModel",
        "classifier": "TimmWrapperForImageClassification over frames one above the other",
        "video_text": "VideoMAEModel, and BertModel of the text layers",
        "answering": "VideoMAEModel, and BertModel of the text layers",
    },
    "onnx": {"student": "features of clips", "classifier": "logits", "video_text": "vectors of clips and of texts"},
}


def targets_for(form: str) -> list[TargetName]:
    """Those that take a form of a model."""
    return [name for name in TARGETS if form in FORMS[name]]


def refused(source: Source, target: TargetName, why: str) -> ConfigError:
    """The error for a model that a target cannot take, which says who can. why: goes on from the target's name."""
    others = [f"{name} ({FORMS[name][source.form]})" for name in targets_for(source.form) if name != target]
    return ConfigError(
        f"{source.run.name}: --to {target} {why}", hint=f"for it there is --to {', '.join(others)}" if others else None
    )
