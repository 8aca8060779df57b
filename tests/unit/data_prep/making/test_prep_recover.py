"""A shard that is replaced is the new one or the one before, as a whole, wherever a kill falls."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data_prep.checking.set_statistics import join_statistics
from data_prep.clip import Clip, Listing, Outcome, Refusal, RunOptions, Sample, StoreOptions
from data_prep.making import prepare as module
from data_prep.making.prepare import build_shards, prepare
from data_prep.state import done as done_module
from data_prep.state.manifest import finish
from data_prep.state.plan import go_on
from tests.support.files import hashes_in
from tests.support.stopping import Killed, stopped_at
from umt_ds.data.shards.storage import as_path
from umt_ds.errors import DataError, MachineError

STORE = StoreOptions(per_shard=3)
RUN = RunOptions(workers=1)
GOOD, GONE, TOO = "good", "gone", "too"  # GONE fails in the first run, or is there in that only


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clips are made in this process, in order; of what follows the shards, only the manifest."""

    def map_ordered(work: Callable[[Clip], Outcome], clips: Iterator[Clip], **_: Any) -> Iterator[Outcome]:
        yield from map(work, clips)

    monkeypatch.setattr(module, "map_ordered", map_ordered)
    monkeypatch.setattr(module, "write_stats", lambda *_, **__: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody cuts the power here


def work_with(*good: str) -> Callable[..., Outcome]:
    """Makes these clips, and refuses the others."""

    def work(clip: Clip, **_: Any) -> Outcome:
        if clip.key in good:
            return Sample(clip.key, {"json": b"{}", "000.jpg": clip.key.encode() * 999})
        return Refusal(clip.source, "refused")

    return work


def run(out: Path, *good: str, retry: bool = False) -> None:
    clips = tuple(Clip(key, f"{key}.mp4") for key in (GOOD, GONE, TOO))
    listing = Listing(out.parent, clips).first_in_order()
    prepare(listing, out, name="set", store=STORE, run=RUN, retry_failed=retry, work=work_with(*good))


CASES = {
    "first": ((), (GOOD, GONE), False),
    "first of none": ((), (), False),
    "retry": ((GOOD,), (GONE, TOO), True),
    "retry in vain": ((GOOD,), (), True),
    "retry gains its first": ((), (TOO,), True),
}


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("retry", Killed()),
        ("retry gains its first", Killed()),
        *(pytest.param(case, Killed(), marks=pytest.mark.slow) for case in ("first", "first of none", "retry in vain")),
        ("retry", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_after_a_stop_at_any_file_operation_the_same_command_ends_as_if_there_had_been_none(
    tmp_path: Path, case: str, error: BaseException
) -> None:
    before, now, retry = CASES[case]
    whole = tmp_path / "whole"
    if retry:
        run(whole, *before)
    begun = tmp_path / "begun"
    if retry:
        shutil.copytree(whole, begun)
    run(whole, *now, retry=retry)
    for step in range(100):
        out = tmp_path / str(step)
        shutil.copytree(begun, out) if retry else out.mkdir()
        with stopped_at(step, error) as done:
            try:
                run(out, *now, retry=retry)
                break
            except (Killed, MachineError):
                pass
        shutil.copytree(out, plain := tmp_path / f"{step}-plain")
        run(out, *now, retry=retry)  # what was good before is now in the set only
        assert hashes_in(out) == hashes_in(whole), done
        assert os.listdir(out / ".umt-data" / "done") == ["000000.json"], done
        assert not list(out.glob("*.partial")), done
        run(plain, *now)  # without --retry-failed: the set before or the set after
        assert hashes_in(plain) in [hashes_in(folder) for folder in ([whole, begun] if retry else [whole])], done
    assert step > 8


@pytest.mark.parametrize("case", ["retry", "retry gains its first"])
def test_in_a_store_too(tmp_path: Path, case: str) -> None:
    """Where there are no renames and no locks."""
    before, now, _ = CASES[case]
    whole = tmp_path / "whole"
    run(whole, *before)
    run(whole, *now, retry=True)
    for step in range(6):
        out = as_path(f"memory://{tmp_path.name}/{step}/set")
        run(out, *before)
        with pytest.MonkeyPatch.context() as patch:
            count = iter(range(100))

            def stop(*args: Any, real: Any, count: Iterator[int] = count, step: int = step, **how: Any) -> Any:
                if next(count) >= step:
                    raise Killed
                return real(*args, **how)

            for name in ("publish", "write_json"):
                patch.setattr(done_module, name, partial(stop, real=getattr(done_module, name)))
            with suppress(Killed):
                run(out, *now, retry=True)
        run(out, *now, retry=True)
        assert hashes_in(out) == hashes_in(whole), step
        assert [path.name for path in (out / ".umt-data" / "done").iterdir()] == ["000000.json"]


def test_a_retry_that_an_earlier_version_left_between_index_and_tar_goes_on(tmp_path: Path) -> None:
    out, whole = tmp_path / "set", tmp_path / "whole"
    run(out, GOOD)
    run(whole, GOOD)
    run(whole, TOO, retry=True)
    shutil.copy(whole / "set-000000.index.npz", out)
    run(out, TOO, retry=True)
    assert hashes_in(out) == hashes_in(whole)


def test_a_tar_that_was_damaged_meanwhile_is_one_error(tmp_path: Path) -> None:
    out = tmp_path / "set"
    run(out, GOOD)
    tar = out / "set-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"good", b"evil"))
    (out / "set-000000.index.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"is not the shard that .*000000\.json tells of"):
        run(out, TOO, retry=True)


@pytest.mark.parametrize(
    "record",
    [
        {"refused": [["x.mp4", "damaged", "x"], ["y.mp4", "damaged", "y"]]},
        {"refused": []},
        {"entry": None},
        {"entry": {"file": "../set-000000.tar", "samples": 1, "bytes": 1, "sha256": "", "index_sha256": ""}},
    ],
)
def test_a_record_of_something_else_is_one_error(tmp_path: Path, record: dict[str, Any]) -> None:
    run(out := tmp_path / "set", GOOD)
    path = out / ".umt-data" / "done" / "000000.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **record}))
    with pytest.raises(DataError, match=r"000000\.json"):
        run(out, TOO, retry=True)


@pytest.mark.parametrize("retry", [False, True])
def test_two_that_make_the_same_part_both_end_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retry: bool
) -> None:
    """The slower one has to wait for the shard, and finds it made, with another outcome than its own."""
    out, whole = tmp_path / "set", tmp_path / "whole"
    run(out, GOOD)
    run(whole, GOOD, TOO)
    if not retry:
        (out / ".umt-data" / "done" / "000000.json").unlink()
    with go_on(out, alone=False) as plan:
        shards = plan.pending(retry_failed=retry)

        @contextmanager
        def waiting(*_: Any) -> Iterator[None]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "one_at_a_time", lambda *_: nullcontext())
                build_shards(plan, shards, run=RUN, work=work_with(GOOD, TOO))
            yield

        monkeypatch.setattr(module, "one_at_a_time", waiting)
        build_shards(plan, shards, run=RUN, work=work_with(GOOD))
        finish(plan, statistics_of=join_statistics)
    assert hashes_in(out) == hashes_in(whole)
