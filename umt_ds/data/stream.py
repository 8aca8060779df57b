"""Tars that can only be read from end to end: commands, lists and patterns of addresses. Through webdataset.

What such a stream shows depends on its shuffle buffer and on the number of ranks and workers, and a run that goes on
begins it anew. A run that reads one is *inexact*: its log says so, and so do its checkpoints.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import IO, Any, cast

from umt_ds.data.places import RETRY_PAUSES_S, hint_of, is_url, place
from umt_ds.data.records import Member, media_of
from umt_ds.distributed.parent import stopping_with_this_process
from umt_ds.errors import DataError, UmtError

SHUFFLE = 256  # samples in the buffer of a worker: 120 MB of clips with 32 stored frames
PIPE = "pipe:"
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
            if not is_url(tar) and not tar.startswith(PIPE) and not place(tar).is_file():
                raise DataError(f"there is no tar {tar}", hint="name files, addresses, or pipe:COMMAND")
        self._running: Iterator[StreamedSample] | None = None

    def take(self, seed: int) -> Iterator[StreamedSample]:
        """The samples that come next. `seed` matters where this process begins: every worker has its own."""
        if self._running is None:
            self._running = _shuffled(self.tars, seed, self._name)
        return self._running

    def key(self, sample: StreamedSample) -> str:
        """The key of a sample."""
        return sample.key

    def members(self, sample: StreamedSample) -> list[Member]:
        """Its files, in tar order."""
        return [Member(suffix, 0, len(data), zlib.crc32(data)) for suffix, data in sample.content.items()]

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
    """The samples of `shards` that hold a clip. A tar without one is said once, and not read again.

    Raises DataError when all tars have passed and none held a clip.
    """
    without: dict[str, Counter[str]] = {}  # by tar: how many of its samples had which files
    for shard in shards:
        tar, clips, passed = shard["url"], 0, Counter[str]()
        if tar in without:
            continue
        for sample in _samples_of(tar):  # a download that failed leaves its json
            if media_of(list(sample.content)) == "none":
                passed[", ".join(sample.content)] += 1
            else:
                clips += 1
                yield sample
        if not clips:
            without[tar] = passed
            if len(without) == num_tars:
                raise _no_clip(without, name)
            log.warning("%s holds no clip: %s; it is not read again", tar, _seen(passed))


def _no_clip(without: Mapping[str, Counter[str]], name: str) -> DataError:
    tars = "\n".join(f"  {tar}: {_seen(passed)}" for tar, passed in list(without.items())[:5])
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


def _samples_of(tar: str) -> Iterator[StreamedSample]:
    """Its samples. Where the stream breaks it is begun again, up to where it was; then DataError."""
    given = 0
    for pause_s in (*RETRY_PAUSES_S, None):
        try:
            for sample in islice(_read(tar), given, None):
                given += 1
                yield sample
            return
        except UmtError:
            raise
        except Exception as error:  # whatever stores, tarfile and webdataset raise on a stranger's bytes
            if pause_s is None:
                # webdataset appends objects to the arguments
                why = error if isinstance(error, OSError) else next(iter(error.args), type(error).__name__)
                raise DataError(
                    f"{tar} cannot be streamed ({len(RETRY_PAUSES_S) + 1} tries): {why}",
                    hint=hint_of(error) or "try its address or command in a shell; then the same command resumes",
                ) from error
            time.sleep(pause_s)


def _read(tar: str) -> Iterator[StreamedSample]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with _opened(tar) as file:
        watched = _Watched(file)
        for sample in group_by_keys(tar_file_expander([{"url": tar, "stream": watched}])):
            content = {suffix: data for suffix, data in sample.items() if not suffix.startswith("__")}
            yield StreamedSample(sample["__key__"], content)
        watched.check_end()


class _Watched:
    """A stream that remembers its last 512 bytes: zero in a whole tar, and where they are not, tarfile overlooks it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._last = b""

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._last = (self._last + data)[-512:]
        return data

    def check_end(self) -> None:
        """Read what is behind the archive, without which a command that writes it would fail; then look."""
        while self.read(1 << 20):
            pass
        if len(self._last) < 512 or self._last.strip(b"\0"):
            raise OSError("it has no end-of-archive block: it was cut off, or is compressed (pipe:zcat FILE)")


@contextmanager
def _opened(tar: str) -> Iterator[IO[bytes]]:
    if not tar.startswith(PIPE):
        with place(tar).open("rb") as file:
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
