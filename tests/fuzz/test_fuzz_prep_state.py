"""Whatever the state files of a set hold: they are read as what they promise, or one UmtError names the file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clip import Clip, Listing, Refusal, StoreOptions
from data_prep.state.claim import note_jobs, refuse_beside_jobs
from data_prep.state.done import Done
from data_prep.state.manifest import summary_of
from data_prep.state.plan import load_plan, open_plan
from umt_ds.data.order.views import is_views_text
from umt_ds.data.shards.manifest import ShardEntry
from umt_ds.errors import UmtError

CLIPS = (
    Clip("a", "a.mp4", ("one", "two"), 3, "running"),
    Clip("b", "b.mp4", span_s=(1.0, 2.5), extra={"sport": 1}),
    Clip("ç", "ç.mp4", first_s=30.0),
)
text = st.text(max_size=6) | st.sampled_from(["\ud83d", "../x", "set-000000.tar", "a"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=3))


def use(out: Path) -> tuple[object, ...]:
    """All that commands read of the state."""
    refuse_beside_jobs(out / ".umt-data")
    plan = load_plan(out)
    summary = summary_of(plan)
    clips = (*plan.clips_of(0), *plan.clips_of(1))
    return plan.name, plan.media, plan.store, plan.num_clips, plan.labels, plan.about, clips, summary


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of a shard, to which a clip was added, as far as its state tells; Slurm has forgotten its jobs."""
    out = tmp_path_factory.mktemp("state") / "set"
    left_out = (Refusal("x.mp4", "is missing"),)
    for clips in (CLIPS[:2], CLIPS):
        listing = Listing(out.parent, clips, left_out=left_out, labels=("x", "y"), about={"corpus": "k"})
        store = StoreOptions(per_shard=4, views="ssv2:8x2")
        plan = open_plan(out, name="set", listing=listing.first_in_order(), store=store)
    for shard, refused in ((0, (Refusal("a.mp4", "damaged", "a"),)), (1, ())):
        plan.tar(shard).write_bytes(bytes(10240))
        (out / f"set-00000{shard}.index.npz").touch()
        Done(ShardEntry(plan.tar(shard).name, 1, 10240, "0" * 64, "1" * 64), refused).save(plan.files(shard).record)
    note_jobs(plan.state, ("41", "42"))
    return out


@pytest.fixture(autouse=True, scope="module")
def no_slurm() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_prep.state.claim.is_active", lambda job: False)
        yield


def read(out: Path, name: str, change: Callable[[bytes], bytes]) -> tuple[object, ...] | None:
    """What is read where one file is changed; None: refused, in words that a terminal takes."""
    path = out / ".umt-data" / name
    true = path.read_bytes()
    try:
        path.write_bytes(change(true))
        return use(out)
    except UmtError as error:
        told = str(error)
    finally:
        path.write_bytes(true)
    told.encode(errors="backslashreplace")
    assert path.name in told or re.search("plan|not made yet", told), told
    assert "hint: " in told
    return None


BATCHES = ("clips.jsonl", "clips.starts.npy", "clips-1.jsonl", "clips-1.starts.npy")
FILES = ("plan.json", *BATCHES, "left_out.csv", "done/000000.json", "slurm.json")
STRUCTURED = ("plan.json", "done/000000.json", "slurm.json")


@given(name=st.sampled_from(FILES), data=st.data())
def test_a_file_that_is_cut_off_is_refused(out: Path, name: str, data: st.DataObject) -> None:
    length = (out / ".umt-data" / name).stat().st_size
    keep = data.draw(st.integers(0, length - 2))  # a last line feed may go
    found = read(out, name, lambda true: true[:keep])
    assert found is None or name == "left_out.csv"  # a cut csv may end a row early, or have none


@given(name=st.sampled_from(STRUCTURED), content=st.binary(max_size=60) | values.map(lambda v: json.dumps(v).encode()))
def test_what_is_no_state_is_refused(out: Path, name: str, content: bytes) -> None:
    found = read(out, name, lambda _: content)
    assert found is None or (name == "slurm.json" and re.fullmatch(rb'\[("[0-9]+"(, )?)*\]', content))


@given(name=st.sampled_from(FILES), data=st.data())
def test_other_bytes_in_a_file_are_refused_or_read_with_the_types_they_promise(
    out: Path, name: str, data: st.DataObject
) -> None:
    true = (out / ".umt-data" / name).read_bytes()
    at = data.draw(st.integers(0, len(true) - 1))
    end = data.draw(st.integers(at, min(len(true), at + 20)))
    put = data.draw(st.binary(max_size=8))
    check(read(out, name, lambda _: true[:at] + put + true[end:]))


@given(name=st.sampled_from(STRUCTURED[:2]), data=st.data(), value=values)
def test_a_field_with_another_value_is_refused_or_has_the_type_it_promises(
    out: Path, name: str, data: st.DataObject, value: Any
) -> None:
    record = json.loads((out / ".umt-data" / name).read_bytes())
    inner = data.draw(st.sampled_from([record, *(part for part in record.values() if isinstance(part, dict))]))
    inner[data.draw(st.sampled_from(sorted(inner)))] = value
    check(read(out, name, lambda _: json.dumps(record).encode()))


def check(found: tuple[object, ...] | None) -> None:
    if found is None:
        return
    name, media, store, num_clips, labels, about, clips, summary = found
    assert isinstance(name, str)
    assert "/" not in name
    assert media in ("video", "image", "sample")
    assert isinstance(store, StoreOptions)
    assert all(type(number) is int and number > 0 for number in (store.frames, store.short_side, store.per_shard))
    assert store.views is None or is_views_text(store.views)
    assert isinstance(labels, tuple)
    assert all(isinstance(label, str) for label in labels)
    assert isinstance(about, dict)
    assert isinstance(clips, tuple)
    assert len(clips) == num_clips == 3
    for clip in clips:
        assert isinstance(clip, Clip)
        assert all(isinstance(one, str) for one in (clip.key, clip.source, *clip.captions, clip.label_name or ""))
        assert clip.label is None or type(clip.label) is int
        assert clip.span_s is None or [type(one) in (int, float) for one in clip.span_s] == [True, True]
        assert type(clip.is_of_whole) is bool
        assert clip.first_s is None or clip.first_s > 0
    assert getattr(summary, "samples", None) == 2
