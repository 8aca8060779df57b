"""What `umt doctor` looks at of what a run learns: its classes, the labels of its clips, and what it starts from.

Like `checks.py`: one function each, torch-free to import, run in a process of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from umt_ds.config.run import RunConfig
from umt_ds.errors import DataError, DecodeError, quoted, some
from umt_ds.preflight.checks import Finding
from umt_ds.preflight.input_checks import unset_variable

if TYPE_CHECKING:
    from umt_ds.engine.protocol import Task

_LOOKED_AT = 8  # clips of a source
_TEXTS_LOOKED_AT = 64
_MOST_CUT = 0.25  # share of texts that are as long as they may be


def classes(config: RunConfig) -> Finding:
    """How many classes there are, what they are called, and which of them the first clips have. Raises ConfigError for
    class lists that differ, and DataError for labels that are no class."""
    for source in config.data.sources.values():
        if (unset := unset_variable(" ".join(source.names))) is not None:
            return unset
    from umt_ds.tasks.kinds import evaluators_of, num_classes_of

    with _warnings() as warned:
        count, task = num_classes_of(config), _task(config, device="meta")
        with suppress(DataError):  # what is wrong with a set is said where the set is looked at
            evaluators_of(config)
    names = task.classes
    called = f", {quoted(names[0])} … {quoted(names[-1])}" if names else ", which nobody names"
    told = "labels of any number" if count is None else f"{count} classes{called}"
    shown = [f"{source}: {some(_named(labels, names))}" for source, labels in _first_labels(config, count)]
    return _finding(f"{told}; first clips of {'; '.join(shown)}", "", warned)


def texts(config: RunConfig) -> Finding:
    """What the first clips of each source say: how many have a text (and answers, where these are learned), and how
    many texts are cut. Raises ConfigError without a vocabulary, and DataError where no clip says anything."""
    for source in config.data.sources.values():
        if (unset := unset_variable(" ".join(source.names))) is not None:
            return unset
    from umt_ds.tasks.kinds import answer_tokenizer_of, tokenizer_of

    tokenize, learns_answers = tokenizer_of(config), answer_tokenizer_of(config) is not None
    assert tokenize is not None, "a task with a BERT reads text"
    told, cut = [], False
    for name, settings in config.data.sources.items():
        field = config.task.text_field or settings.caption
        found = list(_first_texts(config, name, field, tokenize.clean, answered=learns_answers))
        said = [text for text in found if text]
        if found and not said:
            asked = f"{field!r}, or no answer" if learns_answers else f"{field!r}"
            raise DataError(
                f"data.sources.{name}: none of its first {len(found)} clips has a text in {asked}",
                hint="umt-data items adds a table with what is asked of them; the fields: umt-data show",
            )
        if said:
            full = tokenize(said).mask.all(dim=1).float().mean().item()  # as long as they may be, or longer
            cut |= full > _MOST_CUT
            have = f"{len(said)} of the first {len(found)} clips have one ({quoted(said[0], 40)})"
            told.append(f"{name}: {have}, {full:.0%} fill all tokens")
    shown = "; ".join(told) or "streamed: looked at by the run alone"
    if cut:
        return Finding("note", shown, "longer texts lose their end", "task.text.max_tokens=N reads more")
    return Finding("ok", shown)


def start(config: RunConfig) -> Finding:
    """The weights with which the run begins, read and loaded as it does. Raises WeightsError or CheckpointError."""
    path = config.init.weights
    assert path is not None
    if (unset := unset_variable(path)) is not None:
        return unset
    from umt_ds.tasks.initial import read_initial, start_from, state_fingerprint

    with _warnings() as warned:
        initial = read_initial(path, averaged=config.init.ema)
        told = start_from(_task(config, device="cpu"), initial, config.task)
    return _finding(f"{path}: {told}", f"fingerprint {state_fingerprint(initial.state)}", warned)


def _task(config: RunConfig, *, device: str) -> Task:
    import torch

    from umt_ds.tasks.kinds import build_task

    with torch.device(device):
        return build_task(config, device=torch.device(device), precision="fp32")


def _first_labels(config: RunConfig, count: int | None) -> Iterator[tuple[str, list[int]]]:
    """By source, the labels of its first clips that have one; none of a stream. Raises DataError for one that is no
    class."""
    from umt_ds.data.clips import read_record
    from umt_ds.data.shards.sample_record import label_of
    from umt_ds.data.shards.source import ShardSource
    from umt_ds.tasks.sources import shards_of

    field = config.task.label_field
    assert field is not None
    for name, settings in config.data.sources.items():
        shards, labels = shards_of(settings), []
        if not isinstance(shards, Path):
            continue
        with closing(ShardSource(shards, max_open=1)) as source:
            for ref in islice(source.refs(), _LOOKED_AT):
                try:
                    labels.append(label_of(read_record(source, ref, asked=(field,)), field))
                except DecodeError:  # the run counts such a clip, and shows another one
                    continue
        if count is not None and (foreign := [label for label in labels if not -1 <= label < count]):
            raise DataError(
                f"data.sources.{name}: a clip has {field} {foreign[0]}, and classes are 0 to {count - 1}",
                hint="task.classes=N makes more rows; task.label=FIELD reads another field",
            )
        yield name, [label for label in labels if label != -1]


def _first_texts(
    config: RunConfig, name: str, field: str, clean: Callable[[str], str], *, answered: bool
) -> Iterator[str]:
    """The first text of each of the first clips of a source, cleaned; empty where it has none, or where answers are
    learned none of these. Nothing of a stream."""
    from umt_ds.data.clips import read_record
    from umt_ds.data.shards.sample_record import ANSWERS, answers_of, captions_of
    from umt_ds.data.shards.source import ShardSource
    from umt_ds.tasks.sources import shards_of

    shards, asked = shards_of(config.data.sources[name]), (field, *(ANSWERS if answered else ()))
    if not isinstance(shards, Path):
        return
    with closing(ShardSource(shards, max_open=1)) as source:
        for ref in islice(source.refs(), _TEXTS_LOOKED_AT):
            try:
                record = read_record(source, ref, asked=asked)
                found = captions_of(record, field=field, clean=clean)
                yield found[0] if found and (not answered or answers_of(record)) else ""
            except DecodeError:  # the run counts such a clip, and shows another one
                yield ""


def _named(labels: Sequence[int], names: Sequence[str]) -> list[str]:
    """The classes of clips; that there are none, where no clip has one."""
    return [names[label] if names else str(label) for label in labels] or ["no labels"]


def _finding(there: str, used: str, warned: Sequence[str]) -> Finding:
    if not warned:
        return Finding("ok", there, used)
    return Finding("note", there, used, "see whether that is meant: " + "; ".join(warned))


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What a run would warn of."""
    warned: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warned.append(record.getMessage())

    log, listener = logging.getLogger("umt_ds"), Listener(logging.WARNING)
    log.addHandler(listener)
    try:
        yield warned
    finally:
        log.removeHandler(listener)
