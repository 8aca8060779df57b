"""Which checkpoint of a run is the best so far (`cadence.keep_best`). Torch-free.

    RUN/checkpoints/BEST     one JSON object: the step of the checkpoint, its score, and what the score covers

`tidy.prune` spares the checkpoint that BEST names, for as long as the file is there, on top of the `cadence.keep`
newest ones. BEST says nothing about where a run resumes: that is always its newest checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from umt_ds.engine.manifest import CHECKPOINTS, folder_name
from umt_ds.engine.readback import parse_json, read_back
from umt_ds.errors import CheckpointError
from umt_ds.whole_file import write_whole

log = logging.getLogger("umt_ds")

BEST = "BEST"


@dataclass(frozen=True)
class Best:
    """A checkpoint and its score in `metric` (NAME/METRIC), over `items` items without the `left_out` ones. protocol: a
    hash of how it was found (`hash_of`)."""

    step: int
    metric: str
    value: float
    items: int
    left_out: int
    protocol: str

    @property
    def checkpoint(self) -> str:
        """The name of its folder."""
        return folder_name(self.step)


def hash_of(protocol: Mapping[str, Any]) -> str:
    """Of what `decisive` leaves of a protocol: scores of equal hashes compare."""
    return hashlib.sha256(json.dumps(decisive(protocol), sort_keys=True).encode()).hexdigest()[:16]


def decisive(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What of a protocol decides whether two scores compare: all of it but where sets lie, what was missing, what an
    evaluation found on the way, and what older versions did not say, though they did it."""
    where = ("shards",)
    missing = {"items", "videos", "left_out", "stored_frames", "published", "captions_of_a_video", "best_possible"}
    missing |= {"captions", "chance"}  # of what was there; the set says what should have been
    missing |= {"questions_with_listed_answer", "questions_with_writable_answer"}
    found = ("num_pairs", "temperature_found")
    unsaid = ("ties",)
    other = (*where, *missing, *found, *unsaid)
    return {
        key: decisive(value) if isinstance(value, Mapping) else value
        for key, value in protocol.items()
        if key not in other
    }


def best_of(new: Best, old: Best | None) -> Best:
    """The better one. A score that leaves out fewer items beats one that leaves out more, whatever their values: what
    could be read by luck must not decide. Among scores that cover as much the larger value is better, and the older one
    where they are equal.

    `old` does not count where it is of another metric or was found in another way (another set, say), because the
    settings have changed, or of a step that has since been trained again.
    """
    if old is None or old.step >= new.step or (old.metric, old.protocol) != (new.metric, new.protocol):
        return new
    return max(old, new, key=lambda one: (-one.left_out, one.value))


def judge(run: Path, new: Best) -> None:
    """Name the checkpoint of `new` the best of the run, if it is, and say so in the log.

    Raises CheckpointError or MachineError as `read_best`, OSError where BEST cannot be written.
    """
    old = read_best(run)
    if old is not None and not (run / CHECKPOINTS / old.checkpoint).is_dir():
        log.warning("the best checkpoint so far, %s, is gone: the best is judged anew", old.checkpoint)
        old = None
    log.log(logging.WARNING if new.left_out else logging.INFO, "%s", _verdict(new, old))
    write_whole(run / CHECKPOINTS / BEST, json.dumps(asdict(best_of(new, old)), allow_nan=False) + "\n")


def _verdict(new: Best, old: Best | None) -> str:
    """What `best_of` decided, as a sentence for the log."""
    partial = f", partial: {new.left_out} left out" if new.left_out else ""
    score = f"{new.metric} {new.value:.4f} at step {new.step}{partial}"
    if best_of(new, old) is new:
        return f"the best so far is {new.checkpoint} ({score})"
    assert old is not None  # else the new one is better
    why = "covers fewer items" if new.left_out > old.left_out else "is not larger"
    return f"the best so far stays {old.checkpoint} ({old.value:.4f}): {score} does not replace it, because it {why}"


def read_best(run: Path) -> Best | None:
    """What BEST says; None where there is none. Raises CheckpointError where it is damaged, MachineError where the disk
    does not give it."""
    path = run / CHECKPOINTS / BEST
    try:
        found: Any = parse_json(read_back(path))
        best = Best(**found)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise _damaged(path) from error
    fits = (
        all(type(count) is int and 0 <= count < 2**63 for count in (best.step, best.items, best.left_out))
        and isinstance(best.metric, str)
        and isinstance(best.protocol, str)
        and type(best.value) is float
        and math.isfinite(best.value)
    )
    if not fits:
        raise _damaged(path)
    return best


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged: it does not say which checkpoint is the best",
        hint="remove it: the next evaluation names the best anew (keep a copy of the checkpoint that was it)",
    )
