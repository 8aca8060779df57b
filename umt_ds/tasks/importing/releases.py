"""The files that the authors of UMT have published, as their names say it. Torch-free.

Source: the model zoo of the authors' repository, whose files lie at OpenGVLab/UMT on huggingface.co.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

FileKind = Literal["stage1", "recognition", "detection", "stage2", "retrieval", "question_answering", "encoder", "clip"]
"""encoder: a video encoder and nothing else; clip: the image tower of a teacher."""
KINDS: tuple[FileKind, ...] = get_args(FileKind)
SAID_AS: dict[FileKind, str] = {
    "stage1": "stage 1", "recognition": "recognition", "detection": "detection", "stage2": "stage 2",
    "retrieval": "retrieval", "question_answering": "question answering", "encoder": "a video encoder alone",
    "clip": "a CLIP image tower",
}  # fmt: skip

CLASSES = {"k400": 400, "k600": 600, "k700": 700, "k710": 710, "mitv1": 339, "ssv2": 174, "ava": 80}
_WIDTHS = {"b": 768, "l": 1024}
_RETRIEVAL = "msrvtt|didemo|anet|lsmdc|msvd|ssv2_label|ssv2_tpl"
_ANSWERING = "anet|msrvtt|msvd"
_NAMES: tuple[tuple[FileKind, str], ...] = (
    ("stage2", r"(?P<size>[bl])16_(?P<corpus>5m|17m|25m)"),
    ("retrieval", rf"ret_(?P<data>{_RETRIEVAL})_(?P<size>[bl])16_(?P<corpus>5m|17m|25m)"),
    ("question_answering", rf"qa_(?P<data>{_ANSWERING})_(?P<size>[bl])16_(?P<corpus>5m|17m|25m)"),
    ("stage1", r"(?P<size>[bl])16_ptk710_f(?P<frames>\d+)_res(?P<side>\d+)"),
    ("detection", r"(?P<size>[bl])16_pt\w+_ft(?P<data>ava)\w*_f(?P<frames>\d+)_res(?P<side>\d+)"),
    ("recognition", r"(?P<size>[bl])16_pt\w+_ft(?P<data>k?[a-z0-9]+)_f(?P<frames>\d+)_res(?P<side>\d+)"),
)


@dataclass(frozen=True)
class Release:
    """What a name says of a file. data: what it was fine-tuned on; corpus: what stage 2 had read."""

    name: str
    kind: FileKind
    width: int
    data: str = ""
    corpus: str = ""
    frames: int | None = None
    side: int | None = None

    @property
    def classes(self) -> int | None:
        """Rows of its head; None where it has none, or nobody knows."""
        return CLASSES.get(self.data if self.data in CLASSES else f"k{self.data.removeprefix('k')}")


def named_as(name: str) -> Release | None:
    """The release that a file's name, without its folder, stands for; None where it is no name of a release."""
    stem = re.sub(r"\.(pth|pt|bin|safetensors)$", "", name)
    for kind, pattern in _NAMES:
        if found := re.fullmatch(pattern, stem):
            said = found.groupdict()
            frames, side = (int(said[key]) if said.get(key) else None for key in ("frames", "side"))
            return Release(
                stem, kind, _WIDTHS[said["size"]], said.get("data") or "", said.get("corpus") or "", frames, side
            )
    return None


def _published() -> tuple[str, ...]:
    names = []
    for size in "bl":
        start = f"{size}16_ptk710"
        names += [f"{start}_f8_res224", f"{start}_ftk710_f8_res224", f"{start}_ftk710_ftssv2_f8_res224"]
        names += [f"{start}_ftk710_ft{data}_f8_res224" for data in ("k400", "k600", "k700")]
        names += [f"{start}_ftk710_ftk400_ftmitv1_f8_res{side}" for side in (224, 384)]
        names += [f"{start}_ftk710_ftk400_ftava_f8_res224"]
        names += [f"{size}16_{corpus}" for corpus in ("5m", "17m", "25m")]
        names += [f"ret_{data}_{size}16_25m" for data in _RETRIEVAL.split("|")]
        names += [f"qa_{data}_{size}16_25m" for data in _ANSWERING.split("|")]
    names += [f"l16_ptk710_ftk710_ft{data}_f16_res224" for data in ("k400", "k600", "k700")]
    return tuple(names)


RELEASES: tuple[Release, ...] = tuple(release for name in _published() if (release := named_as(name)) is not None)
