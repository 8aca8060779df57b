"""What of a tar is not read, and why: counted, and said in the same words for a folder and for a stream. Torch-free."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from umt_ds.data.shards.suffixes import media_of, pixels_of
from umt_ds.errors import shown

TEXTS = ("json", "txt", "cls")  # what is read beside a clip
# Why a sample holds no clip. {done}: what is not done with it
_REASONS = {
    "failed": "{count:,} samples without media are not {done} (downloads that failed), such as {example}",
    "dotted": "{count:,} samples are not {done}: their key has a dot, and a key ends at the first dot of a name "
    "(WebDataset): {example}",
    "unknown": "{count:,} samples without media are not {done} (files of kinds not read: {kinds}), such as {example}",
    "empty": "{count:,} samples without media are not {done} (file is empty, 0 bytes), such as {example}",
    "text": "{count:,} samples without media are not {done} (only json, txt or cls), such as {example}",
}
_LONGEST = 200  # letters of an example


@dataclass
class LeftOut:
    """Of one tar or several: files of no sample, samples without a clip, files beside the clip of their sample."""

    files: Counter[str] = field(default_factory=Counter)  # by kind
    samples: Counter[str] = field(default_factory=Counter)  # by reason
    unknown: Counter[str] = field(default_factory=Counter)  # suffixes of samples that hold nothing else
    beside: Counter[str] = field(default_factory=Counter)  # suffixes
    several: Counter[str] = field(default_factory=Counter)  # samples with several clips, by which they are
    gaps: int = 0  # samples whose frames are not numbered one after the other
    again: int = 0  # samples that have the key of an earlier one of their tar, in a stream
    num_files: int = 0  # of `files` and `samples`
    _examples: dict[str, str] = field(default_factory=dict)  # the first of each kind and reason

    def add_file(self, kind: str, name: str) -> None:
        """Count a file that belongs to no sample."""
        self.files[kind] += 1
        self.num_files += 1
        self._examples.setdefault(kind, name)

    def add_again(self, key: str) -> None:
        """Count a sample that has the key of an earlier one of its tar."""
        self.again += 1
        self._examples.setdefault("again", key)

    def add_all_of(self, other: LeftOut) -> None:
        """Count what `other` has counted, of another tar."""
        for name in ("files", "samples", "unknown", "beside", "several"):
            getattr(self, name).update(getattr(other, name))
        self.gaps += other.gaps
        self.again += other.again
        self.num_files += other.num_files
        self._examples = {**other._examples, **self._examples}

    def holds_clip(self, key: str, sizes: Mapping[str, int], read: Callable[[str], bytes]) -> bool:
        """Whether a sample holds a clip. `sizes`: its files in bytes by suffix; `read` gives the bytes of one.

        If it holds none it is counted, by its reason; if it holds one, what of the sample is not read.
        """
        media, of_clip = pixels_of(tuple(sizes))
        clip = [suffix for index, suffix in enumerate(sizes) if index in of_clip]
        if media == "frames" and _are_keys(sizes):
            alone = [suffix for suffix in sizes if "." not in suffix and media_of([suffix]) != "none"]
            self._add_without(key, sizes, [*clip, *alone], read)
        elif not any(sizes[suffix] for suffix in clip):
            self._add_without(key, sizes, [suffix for suffix in sizes if _is_of_dotted_key(suffix)], read, empty=clip)
        else:
            if media == "frames" and not _are_in_order([suffix.partition(".")[0] for suffix in clip]):
                self.gaps += 1
                self._examples.setdefault("gaps", f"{key}.{clip[0]}")
            self._add_beside(key, sizes, clip)
            return True
        return False

    def _add_without(
        self,
        key: str,
        sizes: Mapping[str, int],
        dotted: Sequence[str],
        read: Callable[[str], bytes],
        empty: Sequence[str] = (),
    ) -> None:
        """Count a sample that holds no clip; those of `dotted` are several, the names of which it shares."""
        self.num_files += len(sizes)
        stems = self._add_dotted(key, dotted)
        others = [suffix for suffix in sizes if not _is_of(stems, suffix)]
        failed = [suffix for suffix in others if _last(suffix) == "json" and _has_failed(read(suffix))]
        unknown = sorted({_last(suffix) for suffix in others if _last(suffix) not in TEXTS})
        if failed:
            self._add("failed", key, len(failed))
        elif empty:
            self._add("empty", f"{key}.{empty[0]}")
        elif unknown:
            self.unknown.update(unknown)
            self._add("unknown", key)
        elif others:
            self._add("text", key)

    def _add_dotted(self, key: str, suffixes: Sequence[str]) -> set[str]:
        """Count the samples `v_1.5`, `v_1.7`, … by their files `5.jpg`, `7.jpg` of `v_1`, and return `5`, `7`."""
        stems = {_stem(suffix) for suffix in suffixes}
        if stems:
            name = f"{key}.{suffixes[0]}".rpartition("/")[2]
            dots = 1 + _stem(suffixes[0]).count(".")
            better = name.replace(".", "_", dots)
            self._add("dotted", f"{name} is the file {suffixes[0]} of sample {key}; rename it to {better}", len(stems))
        return stems

    def _add_beside(self, key: str, sizes: Mapping[str, int], used: Sequence[str]) -> None:
        others = [suffix for suffix in sizes if suffix not in used and suffix not in TEXTS]
        stems = self._add_dotted(key, [s for s in others if _is_of_dotted_key(s) and s[0].isdigit()])
        others = [suffix for suffix in others if not _is_of(stems, suffix)]
        clips = [suffix for suffix in others if media_of([suffix]) != "none"]
        if clips:
            chosen = "frames" if "." in used[0] else used[0]
            self.several[f"{chosen} of {', '.join(sorted({chosen, *map(_last, clips)}))}"] += 1
        for suffix in others:
            if suffix not in clips:
                self.beside[suffix] += 1
                self._examples.setdefault("beside", f"{key}.{suffix}")

    def _add(self, reason: str, example: str, count: int = 1) -> None:
        self.samples[reason] += count
        self._examples.setdefault(reason, example)

    def sentences(self, done: str) -> dict[str, str]:
        """What there is to say, by reason. `done`: what is not done with the samples: `indexed`, `shown`."""
        said = {
            reason: _REASONS[reason].format(
                count=count, done=done, kinds=_listed(self.unknown), example=shown(self._examples[reason], _LONGEST)
            )
            for reason, count in self.samples.most_common()
        }
        if self.several:
            kinds = ", ".join(f"{shown(kind)}: {count:,}" for kind, count in self.several.most_common(3))
            said["several"] = f"{self.several.total():,} samples hold several clips; used is {kinds}"
        if self.beside:
            said["beside"] = (
                f"{self.beside.total():,} files beside the clip of their sample are not read "
                f"({_listed(self.beside)}), such as {shown(self._examples['beside'], _LONGEST)}"
            )
        if self.gaps:
            said["gaps"] = (
                f"{self.gaps:,} samples have frames whose numbers do not count up from 0 or 1, such as "
                f"{shown(self._examples['gaps'], _LONGEST)} (or does the key have a dot? It ends at the first one)"
            )
        if self.again:
            said["again"] = (
                f"{self.again:,} samples have the key of an earlier one of their tar (do the files of a sample lie "
                f"apart? tar --sort=name), such as {shown(self._examples['again'], _LONGEST)}"
            )
        if self.files:
            kinds = ", ".join(
                f"{kind} {count:,} ({shown(self._examples[kind], _LONGEST)})"
                for kind, count in self.files.most_common()
            )
            said["files"] = f"ignored {self.files.total():,} files that belong to no sample: {kinds}"
        return said


def _last(suffix: str) -> str:
    return suffix.rpartition(".")[2]


def _stem(suffix: str) -> str:
    """Of a file of `v_1.5`, what WebDataset takes for the suffix's: `5` of `5.mp4`, and of the frame `5.000.jpg`."""
    match = re.fullmatch(r"(.+?)(?:\.\d{3,})?\.[^.]*", suffix)
    return match[1] if match else ""


def _is_of(stems: Collection[str], suffix: str) -> bool:
    """Whether a file is of one of the samples `v_1.5`, …, given as `5`, …: `5.txt` and `5.seg.png` are."""
    return _stem(suffix) in stems or any(suffix.startswith(f"{stem}.") for stem in stems)


def _is_of_dotted_key(suffix: str) -> bool:
    """`5.mp4`: of `v_1.5.mp4`, which WebDataset takes for a file of sample `v_1`; not the frame `005.jpg`."""
    return "." in suffix and media_of([suffix]) == "none" != media_of([_last(suffix)])


def _are_keys(suffixes: Mapping[str, int]) -> bool:
    """Whether `5.jpg` is no frame but the end of `v_1.5.jpg`: `5.txt` is beside it, and the sample `v_1` has no text,
    or a picture of its own. Numbers that count up (`000`, `001`, …) are frames, with a text for each."""
    numbered = any(_last(suffix) in TEXTS and suffix.partition(".")[0].isdigit() for suffix in suffixes)
    if not numbered or _count_up([s.partition(".")[0] for s in suffixes if media_of([s]) == "frames"]):
        return False
    has_text = any(text in suffixes for text in TEXTS)
    return not has_text or any(media_of([suffix]) in ("image", "video") for suffix in suffixes)


def _count_up(numbers: Sequence[str]) -> bool:
    """Whether these are the numbers of several frames: one after the other, in three digits or more."""
    return len(numbers) > 1 and _are_in_order(numbers) and min(map(len, numbers)) > 2


def _are_in_order(numbers: Sequence[str]) -> bool:
    """Whether these count up from 0 or 1."""
    first = min(map(int, numbers))
    return first < 2 and sorted(map(int, numbers)) == list(range(first, first + len(numbers)))


def _has_failed(data: bytes) -> bool:
    """Whether a json says that its download failed, as those of img2dataset and video2dataset do."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and isinstance(status := record.get("status"), str) and status != "success"


def _listed(counts: Counter[str]) -> str:
    listed = ", ".join(f".{shown(suffix)} {count:,}" for suffix, count in counts.most_common(5))
    return listed + (", …" if len(counts) > 5 else "")
