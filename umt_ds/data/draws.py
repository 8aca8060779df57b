"""What a draw shows: one clip of one source, with its label and caption, or the first good substitute.

Everything here is a function of (seed, draw number), whoever asks: except for streamed tars (`stream.py`), of which a
draw shows what comes next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from umt_ds.data.clips import ChooseFrames, Clip, ClipSource, caption_of, members_shown, read_clip, read_record
from umt_ds.data.collate import SampleMeta, Tokenize
from umt_ds.data.faults import MAX_SUBSTITUTES, Fault, candidates, first_good
from umt_ds.data.loader_plan import LoaderPlan, SourceSpec
from umt_ds.data.lru_cache import LruCache
from umt_ds.data.order.mixture import MOST
from umt_ds.data.order.order import Order
from umt_ds.data.order.segments import MixtureSchedule, segments_of
from umt_ds.data.pixels.decode import Frames, new_memory
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.records import Member, SampleRef
from umt_ds.data.shards.remote import Traffic
from umt_ds.data.shards.sample_record import ANSWERS, WeightedAnswer, answers_of, captions_of, label_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.stream import Tars, TarStream
from umt_ds.errors import ConfigError, DataError, DecodeError
from umt_ds.keyed import Stream, key_of

Ref = TypeVar("Ref")

_LOOKED_AT = 8  # samples of a source, to see whether they have captions and labels


@dataclass(frozen=True)
class _Sample:
    """A clip with what the run wants to know about it."""

    clip: Clip
    label: int | None
    caption: str | None
    answers: tuple[WeightedAnswer, ...] = ()


class Draws:
    """The sources of a run, open; which of their samples each draw shows; and those samples, read and decoded.

    Raises DataError or ConfigError for sources that cannot be used, before anything is read.
    """

    def __init__(
        self,
        specs: Sequence[SourceSpec],
        plan: LoaderPlan,
        *,
        tokenize: Tokenize | None,
        label_field: str | None,
        cache: BlockCache | None,
        reads_answers: bool = False,
    ) -> None:
        self._reads_answers = reads_answers
        self._specs = tuple(specs)
        self._plan = plan
        self._tokenize = tokenize
        self._label_field = label_field
        # a window's shards, and a few of the next one while batches overlap its end
        self.sources = [
            TarStream(spec.shards, name=spec.name)
            if isinstance(spec.shards, Tars)
            else ShardSource(
                spec.shards, max_open=plan.window + 4, cache=cache, look=plan.rank == 0, max_gap=plan.max_gap
            )
            for spec in specs
        ]
        # a source keeps its order when others come or go: its seed holds its name
        self._orders = {
            number: Order(source.counts, seed=key_of(plan.seed, "order", specs[number].name), window=plan.window)
            for number, source in enumerate(self.sources)
            if isinstance(source, ShardSource)
        }
        # frames are rendered before the next are read: fresh memory for each clip would cost its pages every time
        self._frame_memory: LruCache[tuple[int, ...], Frames] = LruCache(new_memory, size=4)
        weights = dict(zip((spec.name for spec in specs), _weights(specs, self.sources), strict=True))
        self.schedule = MixtureSchedule(
            segments_of(weights, plan.segments),
            [spec.media for spec in specs],
            seed=plan.seed,
            step_draws=plan.global_draws,
            mode=plan.media_mode,
            pack=plan.pack,
            names=[spec.name for spec in specs],
        )
        if tokenize is not None:
            _check_captions(self._specs, self.sources, tokenize)
        if reads_answers:
            _check_answers(self._specs, self.sources)
        if label_field is not None and plan.num_classes is not None:
            _check_labels(self._specs, self.sources, label_field)

    def expect(self, draws: range) -> None:
        """Tell each source what the draws will read, so that a remote one fetches it at once."""
        drawn = [(draw, *self.schedule(draw)) for draw in draws]
        for number, source in enumerate(self.sources):
            if isinstance(source, ShardSource):
                source.prefetch(self._shown(source, number, draw, k) for draw, which, k in drawn if which == number)

    def show(self, draw: int) -> tuple[Clip, SampleMeta, list[Fault]]:
        """Draw `draw`: its sample or the first good substitute, and what was wrong with those before."""
        plan = self._plan
        number, k = self.schedule(draw)
        source = self.sources[number]
        if isinstance(source, TarStream):
            seed = key_of(plan.seed, "stream", self._specs[number].name, draw)
            sample, faults = self._first_good(source, islice(source.take(seed), 1 + MAX_SUBSTITUTES), draw, number)
        else:
            refs = candidates(self._orders[number], draw=draw, k=k, seed=plan.seed, skip_own=plan.skips(draw))
            sample, faults = self._first_good(source, refs, draw, number)
        clip = sample.clip
        name = self._specs[number].name
        digest = clip.digest(draw)
        shown = SampleMeta(
            draw, name, clip.key, digest, bool(faults), sample.label, sample.caption, sample.answers, clip.group
        )
        return clip, shown, faults

    def take_traffic(self) -> Traffic:
        """What came over the network since the last call."""
        return sum((s.take_traffic() for s in self.sources if isinstance(s, ShardSource)), Traffic())

    def close(self) -> None:
        """Close all files. They open again where they are read."""
        for source in self.sources:
            source.close()

    def _shown(self, source: ShardSource, number: int, draw: int, k: int) -> tuple[SampleRef, list[Member]]:
        """The sample of a draw, and which of its members the draw reads."""
        ref, spec = self._orders[number](k), self._specs[number]
        choose = self._choice(draw, spec)
        asked = self._asked(spec)
        return ref, members_shown(source, ref, choose=choose, with_record=bool(asked), asked=asked)

    def _choice(self, draw: int, spec: SourceSpec) -> ChooseFrames:
        """Which frames a draw shows: the same whoever asks, and whenever."""
        return lambda num_frames: spec.frames.choose(num_frames, Stream(self._plan.seed, "frames", draw))

    def _asked(self, spec: SourceSpec) -> tuple[str, ...]:
        """The fields that a run wants of what samples say of themselves."""
        label = () if self._label_field is None else (self._label_field,)
        text = () if self._tokenize is None else (spec.caption,)
        return (*label, *text, *(ANSWERS if self._reads_answers else ()))

    def _first_good(
        self, source: ClipSource[Ref], refs: Iterable[Ref], draw: int, number: int
    ) -> tuple[_Sample, list[Fault]]:
        spec = self._specs[number]
        read = partial(self._read, source, draw, spec)
        return first_good(refs, read, draw=draw, name=lambda ref: f"{spec.name}:{source.key(ref)}")

    def _read(self, source: ClipSource[Ref], draw: int, spec: SourceSpec, ref: Ref) -> _Sample:
        """One sample under draw `draw`: pixels, label and caption of the same clip."""
        asked = self._asked(spec)
        clip = read_clip(
            source,
            ref,
            choose=self._choice(draw, spec),
            with_record=bool(asked),
            asked=asked,
            leave_jpegs=self._plan.on_device == "decode",
            memory=self._frame_memory,
        )
        label = None if self._label_field is None else self._label(clip, spec, self._label_field)
        caption = None
        if self._tokenize is not None:
            stream = Stream(self._plan.seed, "caption", draw)
            caption = caption_of(clip.record, stream, field=spec.caption, clean=self._tokenize.clean)
        return _Sample(clip, label, caption, _answers(clip.record) if self._reads_answers else ())

    def _label(self, clip: Clip, spec: SourceSpec, field: str) -> int:
        """Raises DecodeError for a sample without a label, where the run needs one, and DataError for the label of a
        class that is not there: its set numbers classes otherwise than the run, so any of its labels may be wrong."""
        label, classes = label_of(clip.record, field), self._plan.num_classes
        if classes is None or 0 <= label < classes:
            return label
        if label == -1:
            raise DecodeError(f"the sample has no label ({field} is missing or -1)")
        raise DataError(
            f"source {spec.name}: sample {clip.key} has {field} {label}, and the head tells {classes} classes apart, "
            f"numbered 0 to {classes - 1}",
            hint="task.classes=N, where the set has more; task.label=FIELD, where another field holds the class; else "
            "make the set again with the class list that numbers its labels",
        )


def _answers(record: Mapping[str, Any]) -> tuple[WeightedAnswer, ...]:
    """Raises DecodeError for a question without an answer."""
    answers = answers_of(record)
    if not answers:
        raise DecodeError("the question has no answer (`answers` is missing or empty)")
    return answers


def _first_records(source: ShardSource, *, asked: Collection[str]) -> Iterator[Mapping[str, Any]]:
    """What those of the first samples say of themselves that can be read, as draws read it."""
    for ref in islice(source.refs(), _LOOKED_AT):
        try:
            record = read_record(source, ref, asked=asked)
        except DecodeError:
            continue
        yield record


def _check_captions(
    specs: Sequence[SourceSpec], sources: Sequence[ShardSource | TarStream], tokenize: Tokenize
) -> None:
    """Raises DataError for a source whose first samples have no text: every draw of it would need a substitute."""
    for spec, source in zip(specs, sources, strict=True):
        if isinstance(source, TarStream):
            continue
        fields: set[str] = set()
        for record in _first_records(source, asked=(spec.caption,)):
            with suppress(DecodeError):
                if captions_of(record, field=spec.caption, clean=tokenize.clean):
                    break
                fields |= {name for name, value in record.items() if isinstance(value, str) and value}
        else:
            raise DataError(
                f"source {spec.name}: the first {min(_LOOKED_AT, source.num_samples)} samples of {spec.shards} have no "
                f"text in {spec.caption!r}",
                hint=f"data.sources.{spec.name}.caption=FIELD; fields with text: {', '.join(sorted(fields)) or 'none'}",
            )


def _check_answers(specs: Sequence[SourceSpec], sources: Sequence[ShardSource | TarStream]) -> None:
    """Raises DataError for a source whose first questions have no answer: every draw of it would need a substitute."""
    for spec, source in zip(specs, sources, strict=True):
        if isinstance(source, TarStream):
            continue
        for record in _first_records(source, asked=ANSWERS):
            with suppress(DecodeError):
                if answers_of(record):
                    break
        else:
            raise DataError(
                f"source {spec.name}: the first {min(_LOOKED_AT, source.num_samples)} items of {spec.shards} have no "
                "`answers`",
                hint="`umt-data items SET OUT --annotations FILE --protocol NAME` makes a table of questions with "
                "answers: `umt-data protocols` lists the names",
            )


def _check_labels(specs: Sequence[SourceSpec], sources: Sequence[ShardSource | TarStream], field: str) -> None:
    """Raises DataError for a source whose first samples have no label: every draw of it would need a substitute."""
    for spec, source in zip(specs, sources, strict=True):
        if isinstance(source, TarStream):
            continue
        fields: set[str] = set()
        for record in _first_records(source, asked=(field,)):
            with suppress(DecodeError):
                fields |= {name for name, value in record.items() if type(value) is int}
                if label_of(record, field) != -1:
                    break
        else:
            raise DataError(
                f"source {spec.name}: the first {min(_LOOKED_AT, source.num_samples)} samples of {spec.shards} have no "
                f"class number in {field!r}",
                hint=f"task.label=FIELD; fields with whole numbers: {', '.join(sorted(fields)) or 'none'}",
            )


def _weights(specs: Sequence[SourceSpec], sources: Sequence[ShardSource | TarStream]) -> list[float]:
    sizes = [source.num_samples for source in sources]
    if len(sources) == 1:
        return [1.0]
    if None in sizes and specs[0].weight is None:
        raise ConfigError(
            f"nobody knows how many samples {specs[sizes.index(None)].name} streams, so how often to draw from it",
            hint="give every source a weight, or the stream its samples",
        )
    draws = [(size or 0) * spec.repeat for spec, size in zip(specs, sizes, strict=True)]
    # a tiny source without a weight is drawn rarely: once in a block, if its samples are fewer than that
    least = sum(draws) / MOST if specs[0].weight is None else 0.0
    return [
        float(max(own, least) if spec.weight is None else spec.weight) for spec, own in zip(specs, draws, strict=True)
    ]
