"""Tars that can only be read from end to end: commands, lists and patterns of addresses.

What such a stream shows depends on its shuffle buffer and on the number of ranks and workers, and a run that goes on
begins it anew. A run that reads one is *inexact*: its log says so, and so do its checkpoints.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import IO, Any, cast

from umt_ds.data.shards.left_out import LeftOut
from umt_ds.data.shards.records import Member
from umt_ds.data.shards.sample_record import NO_QUESTION, Question
from umt_ds.data.shards.storage import RETRY_PAUSES_S, as_path, is_url
from umt_ds.data.shards.store_answers import hint_of
from umt_ds.data.shards.tars import TarMember, holds_more, members_of, refuse_compressed
from umt_ds.distributed.parent import stopping_with_this_process
from umt_ds.errors import DataError, UmtError

SHUFFLE = 256  # samples in the buffer of a worker: 120 MB of clips with 32 stored frames
PIPE = "pipe:"
_BUFFER = 128 * 512  # bytes that tarfile reads at once: with its own 20 blocks it takes twice as long
# A command may be a pipeline of several processes, and all of them end with the reader: its shell is told of that
_END_TOGETHER = """trap 'kill -s KILL 0' TERM; sh -c "$1" & wait $!"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tars:
    """Which tars: addresses, `pipe:` and a command, each maybe a pattern such as {000..099}. samples: None: unknown."""

    names: tuple[str, ...]
    samples: int | None = None


@dataclass(frozen=True)
class StreamedSample:
    """One sample, whole."""

    key: str
    content: Mapping[str, bytes]  # by suffix


class TarStream:
    """Samples without end: tars in random order with replacement, so that no rank runs dry; shuffled as they come."""

    def __init__(self, tars: Tars, *, name: str = "") -> None:
        from webdataset.shardlists import expand_urls

        self._name = name
        self.num_samples = tars.samples
        self.tars = [tar for name in tars.names for tar in expand_urls(name)]
        for tar in self.tars:
            if not is_url(tar) and not tar.startswith(PIPE) and not as_path(tar).is_file():
                raise DataError(f"there is no tar {tar}", hint="name files, addresses, or pipe:COMMAND")
        self._running: Iterator[StreamedSample] | None = None

    def take(self, seed: int) -> Iterator[StreamedSample]:
        """The samples that come next. `seed` matters where this process begins: every worker has its own."""
        if self._running is None:
            self._running = _shuffled(self.tars, seed, self._name)
        return self._running

    @property
    def set_name(self) -> str:
        """What messages call it."""
        return self._name or "the stream"

    def key(self, sample: StreamedSample) -> str:
        """The key of a sample."""
        return sample.key

    def members(self, sample: StreamedSample) -> list[Member]:
        """Its files, in tar order."""
        return [Member(suffix, 0, len(data), zlib.crc32(data)) for suffix, data in sample.content.items()]

    def question(self, sample: StreamedSample) -> Question:
        """Its json says all."""
        return NO_QUESTION

    def read(self, sample: StreamedSample, member: Member) -> bytes:
        """The bytes of one of them."""
        return sample.content[member.suffix]

    def close(self) -> None:
        """End the commands that run; `take` begins anew."""
        self._running = None


def _shuffled(tars: list[str], seed: int, name: str) -> Iterator[StreamedSample]:
    import webdataset

    # webdataset's own splitters by rank and worker are not needed: each has a seed of its own
    shards = webdataset.ResampledShards(tars, seed=seed, deterministic=True, worker_seed=lambda: 0)
    clips = partial(_clips_of_all, num_tars=len(set(tars)), name=name)
    shuffle = webdataset.shuffle(SHUFFLE, initial=SHUFFLE // 4, rng=random.Random(seed))
    return iter(webdataset.DataPipeline(shards, clips, shuffle))


def _clips_of_all(shards: Iterable[Mapping[str, str]], *, num_tars: int, name: str) -> Iterator[StreamedSample]:
    """The samples of `shards` that hold a clip. A tar without one is said once, and not read again; so is what else
    is left out, for each reason with the first tar that has it.

    Raises DataError when all tars have passed and none held a clip.
    """
    without: dict[str, str] = {}  # by tar: what it holds
    said: set[str] = set()
    for shard in shards:
        tar, clips, passed, left = shard["url"], 0, Counter[str](), LeftOut()
        if tar in without:
            continue
        for sample in _samples_of(tar, left):
            sizes = {suffix: len(data) for suffix, data in sample.content.items()}
            if left.holds_clip(sample.key, sizes, sample.content.__getitem__):
                clips += 1
                yield sample
            else:
                passed[", ".join(sample.content)] += 1
        sentences = left.sentences("shown")
        if not clips:
            without[tar] = "; ".join([_seen(passed), *sentences.values()])
            if len(without) == num_tars:
                raise _no_clip(without, name)
            log.warning("%s holds no clip: %s; it is not read again", tar, without[tar])
            continue
        for reason, sentence in sentences.items():
            if reason not in said:
                log.info("%s: %s (said of the first such tar only)", tar, sentence)  # by rank 0
                said.add(reason)


def _no_clip(without: Mapping[str, str], name: str) -> DataError:
    tars = "\n".join(f"  {tar}: {what}" for tar, what in list(without.items())[:5])
    of_source = f" of source {name}" if name else ""
    return DataError(
        f"the stream{of_source} holds no clip; {len(without)} tar(s) have passed:\n{tars}",
        hint="a clip is jpg, png, mp4, npy, … or frames 000.jpg, 001.jpg, … behind its sample's key, which ends at the "
        "first dot of a name (WebDataset): vid_0.5_1.jpg is the file 5_1.jpg of sample vid_0, so write vid_0_5_1.jpg",
    )


def _seen(passed: Counter[str]) -> str:
    """What a tar's samples are made of."""
    if not passed:
        return "no sample at all"
    kinds = "; ".join(f"{files:.100}" for files, _ in passed.most_common(3))
    return f"{passed.total()} sample(s) with the files {kinds}" + ("; …" if len(passed) > 3 else "")


def _samples_of(tar: str, left: LeftOut | None = None) -> Iterator[StreamedSample]:
    """Its samples; files that belong to none are counted in `left`. Where the stream breaks it is begun again, up to
    where it was; then DataError."""
    given = 0
    for pause_s in (*RETRY_PAUSES_S, None):
        own = LeftOut()
        try:
            for sample in islice(_read(tar, own), given, None):
                given += 1
                yield sample
            if left is not None:
                left.add_all_of(own)
            return
        except UmtError:
            raise
        except Exception as error:  # whatever stores and tarfile raise on a stranger's bytes
            if pause_s is None:
                raise DataError(
                    f"{tar} cannot be streamed ({len(RETRY_PAUSES_S) + 1} tries): {str(error) or type(error).__name__}",
                    hint=hint_of(error) or "try its address or command in a shell; then the same command resumes",
                ) from error
            time.sleep(pause_s)


def _read(tar: str, left: LeftOut) -> Iterator[StreamedSample]:
    with _opened(tar) as file:
        watched = _Watched(file)
        refuse_compressed(tar, watched.start)
        with tarfile.open(fileobj=cast(IO[bytes], watched), mode="r|", bufsize=_BUFFER) as archive:
            seen: set[str] = set()
            for key, members in groupby(members_of(archive, left), key=lambda member: member.key):
                if key in seen:
                    left.add_again(key)
                seen.add(key)
                key = key.encode(errors="replace").decode()  # stray bytes in a name; logs and digests need text
                yield StreamedSample(key, _contents(archive, members, left))
            if holds_more(watched.from_byte(archive.offset)):
                left.add_file("tars behind the end of the first (tar --ignore-zeros shows them)", tar)


def _contents(archive: tarfile.TarFile, members: Iterable[TarMember], left: LeftOut) -> dict[str, bytes]:
    """The files of a sample by suffix; of two of one name the later, as `tar -x` leaves it."""
    contents: dict[str, bytes] = {}
    for _, suffix, info in members:
        if suffix in contents:
            left.add_file("files that a later one of their name replaces", info.name)
        contents[suffix] = _content(archive, info)
    return contents


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    assert file is not None, "it is a regular file"
    return file.read()


class _Watched:
    """A stream that remembers its last bytes, for `tarfile` has read on when it finds the end of an archive."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.start = self._ahead = file.read(512)
        self._before = self._last = b""
        self._position = 0

    def read(self, size: int) -> bytes:
        ahead, self._ahead = self._ahead[:size], self._ahead[size:]
        data = ahead + self._file.read(size - len(ahead))
        self._position += len(data)
        self._before, self._last = self._last, data
        return data

    def from_byte(self, offset: int) -> Iterator[bytes]:
        """What comes from there on, to the end: a command that writes it would fail if that were not read."""
        beyond = self._position - offset
        yield (self._before + self._last)[-beyond:] if beyond else b""
        while chunk := self.read(1 << 20):
            yield chunk


@contextmanager
def _opened(tar: str) -> Iterator[IO[bytes]]:
    if not tar.startswith(PIPE):
        with as_path(tar).open("rb") as file:
            yield cast(IO[bytes], file)
        return
    command = ["sh", "-c", _END_TOGETHER, "sh", tar.removeprefix(PIPE)]
    process: subprocess.Popen[Any] = subprocess.Popen(
        command, stdout=subprocess.PIPE, start_new_session=True, preexec_fn=stopping_with_this_process()
    )
    assert process.stdout is not None
    with process.stdout as output:
        try:
            yield output
            if code := process.wait():
                raise OSError(f"the command ends with exit code {code}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
