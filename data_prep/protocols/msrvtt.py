"""MSR-VTT: 10,000 videos with 20 captions each, in the splits that papers use.

Published: `MSRVTT_data.json` (all videos) or `train_val_videodatainfo.json` and `test_videodatainfo.json`, with
`videos` that have a `split`, and `sentences`; `MSR_VTT.json` of Frozen in Time, without splits; lists of the videos of
a split (`MSRVTT_train.9k.csv`, `train_list_jsfusion.txt`); the test pairs of JSFusion (`MSRVTT_JSFUSION_test.csv`) and
its texts to choose from (`MSR_MC_test.csv`, or `msrvtt_mc_test.jsonl`); and each as rows of UMT and VindLU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.clip import Refusal
from data_prep.protocols.captions import UNSAID, Caption, choice, pairs, questions, read_captions, read_choices
from data_prep.protocols.fields import is_object, texts_in, video_name
from data_prep.protocols.protocol import Counts, Note, Protocol, Row
from data_prep.tables.table import ColumnsError, Table, read_json
from umt_ds.errors import DataError

_SENTENCES = (("sentences", "video_id"), ("annotations", "image_id"))  # of the corpus, of Frozen in Time

_CHOICES = ("vid_key", "a1", "a2", "a3", "a4", "a5", "answer")  # columns of MSR_MC_test.csv


def _said(path: Path) -> Iterator[Caption | Refusal | Note]:
    return _sentences(path) if is_object(path) else pairs(path)


def _said_of_pairs(path: Path) -> Iterator[Caption | Refusal | Note]:
    if is_object(path):
        raise DataError(
            f"{path} has 20 captions of a video, and msrvtt-1ka asks one of them",
            hint="MSRVTT_JSFUSION_test.csv says which: give it alone, or the json of UMT with 1,000 rows",
        )
    return pairs(path)


def _sentences(path: Path) -> Iterator[Caption]:
    """Raises DataError where the file is not in one of the two forms."""
    content = read_json(path)
    named = next(((field, video) for field, video in _SENTENCES if isinstance(content.get(field), list)), None)
    if named is None:
        raise DataError(
            f"{path} has no list `sentences`; it has {', '.join(content) or 'nothing'}",
            hint="known forms: MSRVTT_data.json, train_val_videodatainfo.json, MSR_VTT.json, and the json of UMT",
        )
    field, video = named
    splits = _splits(path, content.get("videos"))
    for number, entry in enumerate(content[field], start=1):
        where = f"{path.name} {field} entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get(video), str):
            raise DataError(f"{where} names no video ({video})")
        name = video_name(entry[video])
        for text in texts_in(entry, ("caption",), where):
            yield Caption(where, name, text, splits.get(name, UNSAID))


def _questions(path: Path) -> Iterator[Row | Note]:
    if path.suffix.lower() in (".csv", ".tsv"):
        with suppress(ColumnsError):
            return _of_jsfusion(path, Table(path, columns=_CHOICES))
    return questions(path)


def _of_jsfusion(path: Path, table: Table) -> Iterator[Row]:
    """Its rows say `msr7010` for video7010, and count the right text from 0."""
    for line, (video, *options, answer) in table:
        fields = {"video": f"video{video.removeprefix('msr')}", "options": options, "answer": answer}
        yield choice(f"{path.name} line {line}", fields)


def _splits(path: Path, videos: Any) -> dict[str, str]:
    """The split that each video is of, as the file calls it: train, validate, test. Raises DataError for no videos."""
    splits = {}
    for number, entry in enumerate(videos or (), start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("video_id"), str):
            raise DataError(f"{path.name} videos entry {number} names no video (video_id)")
        if isinstance(entry.get("split"), str):
            splits[video_name(entry["video_id"])] = entry["split"]
    return splits


PROTOCOLS = (
    Protocol(
        "msrvtt-train7k",
        "retrieval",
        "training and validation videos of the corpus, a caption an item",
        partial(
            read_captions, said=_said, as_list=False, splits=("train", "validate"), list_name="MSRVTT_train.7k.csv"
        ),
        expected=(Counts(7010, 140_200),),
    ),
    Protocol(
        "msrvtt-train9k",
        "retrieval",
        "all videos but those of msrvtt-1ka, a caption an item",
        partial(read_captions, said=_said, as_list=False, list_name="MSRVTT_train.9k.csv"),
        expected=(Counts(9000, 180_000, by="MSRVTT_train.9k.csv"),),
    ),
    Protocol(
        "msrvtt-1ka",
        "retrieval",
        "the 1,000 test pairs of JSFusion",
        partial(read_captions, said=_said_of_pairs, as_list=True),
        expected=(Counts(1000, 1000),),
    ),
    Protocol(
        "msrvtt-mc",
        "multiple choice",
        "five captions a test video, of which one is right",
        partial(read_choices, said=_questions),
        expected=(Counts(2990, 14_950),),
    ),
)
