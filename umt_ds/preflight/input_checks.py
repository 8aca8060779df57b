"""What `umt doctor` looks at of what a run reads: shards, the room to keep them, lists of answers, BERT,
teacher, weights.

Like `checks.py`: one function each, torch-free to import, run in a process of its own.
"""

from __future__ import annotations

import re
import shutil
import time
from contextlib import closing
from pathlib import Path

from umt_ds.config.data import CacheConfig
from umt_ds.config.models import BertConfig, TeacherConfig
from umt_ds.errors import quoted
from umt_ds.preflight.checks import Finding, nearest_folder

_MOST_DECODED = 64  # frames of a sample: those of 15 minutes would fill the memory


def shards(where: str | Path, *, trains: bool = False) -> Finding:
    """The manifest, every shard's presence and size, and one sample read and decoded. Raises DataError.

    trains: whether a run trains on them. `where` is a folder or a URL: the store is first talked to here, in the
    process that goes on doing so.
    """
    if (unset := unset_variable(where)) is not None:
        return unset
    from umt_ds.data.clips import read_clip
    from umt_ds.data.order.views import why_not_train
    from umt_ds.data.shards.source import ShardSource
    from umt_ds.data.shards.storage import as_path

    folder = as_path(str(where))
    with closing(ShardSource(folder, max_open=1)) as source:
        size = source.num_bytes
        begin = time.perf_counter()
        clip = read_clip(source, source.ref(0), choose=_first_frames, with_record=True)
        seconds = time.perf_counter() - begin
        frames, height, width, _ = clip.frames.shape
        there = f"{folder}: {len(source):,} samples in {len(source.counts):,} shards, {size / 1e9:,.2f} GB"
    if trains and (why := why_not_train(source.manifest)):
        return Finding("note", there, why, "umt-data … --frames makes a set for training")
    decoded = f"one sample: {frames} frames of {width} x {height}, decoded in {seconds * 1000:.0f} ms"
    return Finding("ok", f"{there}; {decoded}", f"fingerprint {source.fingerprint[:16]}")


def cache(settings: CacheConfig) -> Finding:
    """Room for what is kept of remote shards."""
    from umt_ds.tasks.sources import cache_folder

    folder = cache_folder(settings)
    free_gb = shutil.disk_usage(nearest_folder(folder)).free / 1e9
    told = f"{folder}: {free_gb:,.1f} GB free on its disk, data.cache.max_gb={settings.max_gb:g}"
    if free_gb < settings.max_gb:
        return Finding("note", told, "what finds no room is fetched again", "another data.cache.folder, or less max_gb")
    return Finding("ok", told)


def stream(*names: str) -> Finding:
    """Streamed tars: one sample read and decoded. Raises DataError."""
    if (unset := unset_variable(" ".join(names))) is not None:
        return unset
    from umt_ds.data.clips import read_clip
    from umt_ds.data.shards.stream import Tars, TarStream

    with closing(TarStream(Tars(names))) as source:
        clip = read_clip(source, next(source.take(0)), choose=_first_frames, with_record=True)
        frames, height, width, _ = clip.frames.shape
        there = f"{len(source.tars):,} tars, from {source.tars[0]}; one sample: {frames} frames of {width} x {height}"
    todo = "umt-data index makes a run exact, where the tars lie in a folder or store"
    return Finding("note", there, "streamed: the run is inexact", todo)


def bert(settings: BertConfig) -> Finding:
    """Does its folder hold the model that is asked for, and the tokenizer that belongs to it?"""
    for path in (settings.weights, settings.vocabulary):
        if path is not None and (unset := unset_variable(path)) is not None:
            return unset
    from umt_ds.tasks.bert import build_bert
    from umt_ds.tasks.captions import caption_tokenizer, vocabulary_of

    words = vocabulary_of(caption_tokenizer(settings))
    size = build_bert(settings, words, video_width=8).size
    found = f"{size.layers} layers, width {size.width}, {words.size} tokens"
    if settings.weights == "random":
        return Finding("note", f"random weights, {found}", "a BERT that knows nothing: for trying things out")
    return Finding("ok", f"{settings.weights}: {found}", f"{settings.fusion_layers} of the layers fuse")


def answers(where: str) -> Finding:
    """A list of answers to choose from. Raises ConfigError where it is none."""
    if (unset := unset_variable(where)) is not None:
        return unset
    from umt_ds.data.shards.storage import as_path
    from umt_ds.evaluation.answer_list import read_answer_list

    listed = read_answer_list(as_path(where))
    there = f"{where}: {len(listed.answers):,} answers, from {quoted(listed.answers[0], 40)} on"
    if listed.twice:
        return Finding(
            "note", there, f"{len(listed.twice)} stand there more than once", "umt-data answers lists each once"
        )
    return Finding("ok", there)


def teacher(settings: TeacherConfig) -> Finding:
    """The file, loaded into the model as a run does. Raises WeightsError or CheckpointError."""
    if settings.weights == "random":
        return Finding("note", "random weights", "a teacher that knows nothing: for trying things out")
    if (unset := unset_variable(settings.weights)) is not None:
        return unset
    from umt_ds.tasks.teacher import load_teacher

    model, fingerprint = load_teacher(settings)
    count = sum(parameter.numel() for parameter in model.parameters())
    return Finding("ok", f"{settings.weights}: {settings.preset}, {count:,} parameters", f"fingerprint {fingerprint}")


def weights(path: Path, *, averaged: bool = False) -> Finding:
    """A weight file, or a run's or checkpoint's folder, with its hashes; averaged: the averaged weights of that run.
    Raises WeightsError or CheckpointError."""
    if (unset := unset_variable(path)) is not None:
        return unset
    from umt_ds.tasks.initial import read_weights, state_fingerprint

    state = read_weights(path, averaged=averaged)
    what = "averaged tensors" if averaged else "tensors"
    return Finding("ok", f"{path}: {len(state)} {what}", f"fingerprint {state_fingerprint(state)}")


def _first_frames(stored: int) -> list[int]:
    return list(range(min(stored, _MOST_DECODED)))


def unset_variable(path: Path | str) -> Finding | None:
    """A path whose environment variable has no value."""
    found = re.search(r"\$\{env:(\w+)\}", str(path))
    return None if found is None else Finding("problem", f"{path}: {found[1]} is not set", todo=f"export {found[1]}=…")
