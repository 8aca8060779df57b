"""Checkpoints appear whole or not at all, resume exactly, and never give way to a silent fresh start.

One process and an engine of a few tensors; ranks and DeepSpeed are in tests/distributed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.support.checkpoints import (
    FINGERPRINTS,
    KINDS,
    SHAPES,
    FakeEngine,
    folder,
    names_in,
    open_store,
    resume,
    same_state,
    save,
    save_and_finish,
)
from umt_ds.engine import checkpoint, snapshot
from umt_ds.engine.manifest import read_checkpoint_manifest, resolve_checkpoint, sources_not_reproducible
from umt_ds.engine.protocol import Progress
from umt_ds.errors import CheckpointError


@pytest.fixture(autouse=True)
def _log_reaches_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("umt_ds"), "propagate", True)


# ---------------------------------------------------------------- save and load


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    progress = Progress(step=8, draws=256, digest=2**64 - 3, mask_digest=2**63 + 1, skipped=3, substituted=2)
    scale = {"cur_scale": 4096.0, "cur_iter": 8, "last_overflow_iter": 2}
    saved = FakeEngine(1, loss_scale=scale)
    open_store(tmp_path).save(saved, progress)  # type: ignore[arg-type]
    store, engine = open_store(tmp_path), FakeEngine(2)
    plan = store.plan_resume()
    assert plan.sentence == f"resuming this run at step 8, from {folder(tmp_path, 8)}"
    assert store.load(engine, plan) == progress == plan.progress  # type: ignore[arg-type]
    assert same_state(engine, saved)
    assert engine.loss_scale == scale
    assert engine.steps == 5, "AdamW has not counted the three steps that overflowed"


def test_a_run_that_ever_streamed_stays_inexact(tmp_path: Path) -> None:
    save(open_store(tmp_path), 1)
    assert sources_not_reproducible(tmp_path) == []
    for step, streamed in enumerate(([], ["web"], ["more"], []), start=2):
        store = open_store(tmp_path, not_reproducible=streamed)
        resume(store)
        save(store, step)
    told = [read_checkpoint_manifest(folder(tmp_path, step)).inexact for step in range(3, 6)]
    assert told == [["web"], ["more", "web"], ["more", "web"]]


def test_a_run_without_checkpoints_starts_at_step_zero(tmp_path: Path) -> None:
    store, engine = open_store(tmp_path), FakeEngine(2)
    plan = store.plan_resume()
    assert (plan.folder, plan.sentence) == (None, "starting at step 0")
    assert store.load(engine, plan) == Progress()  # type: ignore[arg-type]
    assert same_state(engine, FakeEngine(2)), "and nothing is touched"


def test_the_newest_checkpoint_is_taken_and_latest_names_it(tmp_path: Path) -> None:
    save(open_store(tmp_path), 2, 10, 9)  # by number, not by name or time
    assert same_state(resume(open_store(tmp_path)), FakeEngine(10))
    save(open_store(tmp_path), 12)
    assert (tmp_path / "checkpoints" / "LATEST").read_text() == "step-00000012\n"
    assert not [name for name in names_in(tmp_path) if name.endswith(".partial")]


def test_a_checkpoint_holds_plain_tensors_of_the_trained_module_and_one_json(tmp_path: Path) -> None:
    save(open_store(tmp_path), 2)
    files = {path.name for path in folder(tmp_path, 2).iterdir()}
    assert files == {*(f"{kind}-00000.safetensors" for kind in KINDS), "manifest.json"}, "no pickle, no teacher"
    for kind in KINDS:
        assert load_file(folder(tmp_path, 2) / f"{kind}-00000.safetensors").keys() == SHAPES.keys()
    manifest = read_checkpoint_manifest(folder(tmp_path, 2))
    assert (manifest.step, manifest.world, manifest.zero_stage, manifest.precision) == (2, 1, 1, "fp32")
    assert manifest.fingerprints == FINGERPRINTS
    assert manifest.files.keys() == files - {"manifest.json"}


def test_only_the_newest_k_are_kept(tmp_path: Path) -> None:
    save(open_store(tmp_path, "cadence.keep=2"), 1, 2, 3, 4)
    assert names_in(tmp_path) == {"step-00000003", "step-00000004", "LATEST"}


def test_a_step_that_is_saved_already_is_not_written_again(tmp_path: Path) -> None:
    """The loop saves the last step, and so does whoever calls it; a finished run may be started again."""
    store = open_store(tmp_path)
    save(store, 4)
    before = folder(tmp_path, 4).stat()
    save(store, 4)
    again = open_store(tmp_path)
    resume(again)
    save(again, 4)
    after = folder(tmp_path, 4).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_left_over_partial_folder_is_no_checkpoint_and_goes_with_the_next_save(tmp_path: Path) -> None:
    save(open_store(tmp_path), 2)
    shutil.copytree(folder(tmp_path, 2), folder(tmp_path, 4).with_suffix(".partial"))
    assert open_store(tmp_path).plan_resume().progress.step == 2
    save(open_store(tmp_path), 6)
    assert names_in(tmp_path) == {"step-00000002", "step-00000006", "LATEST"}


# ---------------------------------------------------------------- a full disk


def disk_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def fail_in_second_file(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = snapshot.save_file, []

    def write(tensors: dict[str, Tensor], path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            disk_full()
        real(tensors, path)

    monkeypatch.setattr(snapshot, "save_file", write)


def fail_at_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.os, "fsync", disk_full)


def fail_at_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.os, "replace", disk_full)


@pytest.mark.parametrize("wait", [True, False], ids=["at once", "in the background"])
@pytest.mark.parametrize("failure", [fail_in_second_file, fail_at_fsync, fail_at_rename])
def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_which(
    tmp_path: Path, failure: Callable[[pytest.MonkeyPatch], None], wait: bool
) -> None:
    store = open_store(tmp_path, "cadence.keep=1")
    save(store, 2)
    with pytest.MonkeyPatch.context() as patch:
        failure(patch)
        with pytest.raises(CheckpointError, match=r"step-00000004 was not written \(.*No space left") as raised:
            save_and_finish(store, 4, wait=wait)
    assert f"last good checkpoint: {folder(tmp_path, 2)}" in str(raised.value.hint)
    assert "free some space" in str(raised.value.hint)
    assert (tmp_path / "checkpoints" / "LATEST").read_text() == "step-00000002\n"
    assert same_state(resume(open_store(tmp_path, "cadence.keep=1")), FakeEngine(2))
    save(store, 4)  # space again: the same store goes on
    assert same_state(resume(open_store(tmp_path, "cadence.keep=1")), FakeEngine(4))


def test_a_folder_that_vanishes_while_it_is_written_is_told(tmp_path: Path, slow_disk: threading.Event) -> None:
    """The state is on its way; somebody tidies up."""
    store = open_store(tmp_path)
    save(store, 2, wait=False)
    shutil.rmtree(tmp_path / "checkpoints")
    slow_disk.set()
    with pytest.raises(CheckpointError, match=r"step-00000002 was not written \(.*No such file"):
        store.finish()
    save(store, 4)
    assert same_state(resume(open_store(tmp_path)), FakeEngine(4))


def test_a_folder_that_vanishes_when_all_is_written_is_told(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    save(store, 2, wait=False)
    assert store._pending is not None
    store._pending.writing.files()
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"step-00000002 was not written \(.*No such file"):
        store.finish()


def test_whoever_looks_during_a_slow_rename_finds_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, where it may take a while: what is there before and after each of the two renames of a save."""
    real, found = os.replace, []

    def look() -> None:
        latest = (tmp_path / "checkpoints" / "LATEST").read_text().strip()
        found.append((open_store(tmp_path).plan_resume().progress.step, latest))

    def slow(source: Path, target: Path) -> None:
        look()
        real(source, target)
        look()

    store = open_store(tmp_path, "cadence.keep=1")
    save(store, 2)
    monkeypatch.setattr(os, "replace", slow)
    save(store, 4)
    assert found == [(2, "step-00000002"), (4, "step-00000002"), (4, "step-00000002"), (4, "step-00000004")]


def test_a_rename_that_was_done_but_reported_as_failed_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS answers so when the first answer was lost on the way."""
    real = os.replace

    def done_but_failed(source: Path, target: Path) -> None:
        real(source, target)
        raise OSError(errno.ENOENT, "No such file or directory")

    store = open_store(tmp_path, "cadence.keep=1")
    save(store, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", done_but_failed)
        with pytest.raises(CheckpointError) as raised:
            save(store, 4)
    assert f"last good checkpoint: {folder(tmp_path, 4)}" in str(raised.value.hint)
    assert same_state(resume(open_store(tmp_path)), FakeEngine(4))


# ---------------------------------------------------------------- in the background


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No file is written before the event is set."""
    real, answers = snapshot.save_file, threading.Event()

    def write(tensors: dict[str, Tensor], path: Path) -> None:
        answers.wait(60)
        real(tensors, path)

    monkeypatch.setattr(snapshot, "save_file", write)
    yield answers
    answers.set()


def test_training_goes_on_while_the_state_of_a_step_is_written(tmp_path: Path, slow_disk: threading.Event) -> None:
    store, engine = open_store(tmp_path), FakeEngine(2)
    store.save(engine, Progress(step=2), wait=False)  # type: ignore[arg-type]
    for tensors in engine.state.values():  # the next steps move all of it
        for tensor in tensors.values():
            tensor.zero_()
    assert not store.has_written()
    assert names_in(tmp_path) == {"step-00000002.partial"}, "nothing is a checkpoint before it is whole"
    slow_disk.set()
    store.finish()
    assert same_state(resume(open_store(tmp_path)), FakeEngine(2))


def test_what_is_written_becomes_a_checkpoint_when_it_is_finished(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    save(store, 2, wait=False)
    assert store._pending is not None
    store._pending.writing.files()
    assert store.has_written()
    store.finish()
    assert not store.has_written()
    assert names_in(tmp_path) == {"step-00000002", "LATEST"}


def test_both_ways_write_the_same_bytes(tmp_path: Path) -> None:
    save(open_store(tmp_path / "at once"), 2)
    store = open_store(tmp_path / "later")
    save_and_finish(store, 2, wait=False)
    one, two = (sorted(folder(tmp_path / run, 2).glob("*.safetensors")) for run in ("at once", "later"))
    assert [path.name for path in one] == [path.name for path in two]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    manifests = [read_checkpoint_manifest(folder(tmp_path / run, 2)) for run in ("at once", "later")]
    assert manifests[0].files == manifests[1].files


def test_the_next_save_waits_for_the_one_on_its_way_and_the_log_counts_it(
    tmp_path: Path, slow_disk: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Two states in memory would be one too many."""
    caplog.set_level(logging.INFO, logger="umt_ds")
    store = open_store(tmp_path)
    save(store, 2, wait=False)
    slow_disk_answers = threading.Timer(0.2, slow_disk.set)
    slow_disk_answers.start()
    save(store, 4, wait=False)
    assert folder(tmp_path, 2).is_dir(), "it is a checkpoint before the next snapshot is taken"
    store.finish()
    assert names_in(tmp_path) == {"step-00000002", "step-00000004", "LATEST"}
    assert "for step-00000002 to be written (1 of 1 saves waited so far)" in caplog.text
    assert "saved step-00000004: 0.00 GB in " in caplog.text


def test_async_save_can_be_switched_off(tmp_path: Path) -> None:
    save(open_store(tmp_path, "cadence.async_save=false"), 2, wait=False)
    assert names_in(tmp_path) == {"step-00000002", "LATEST"}


# ---------------------------------------------------------------- damage

WEIGHT, MANIFEST = "exp_avg-00000.safetensors", "manifest.json"


def remove(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).unlink()


def truncate(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:-7])


def flip(name: str, *, bits: int) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        content = bytearray((checkpoint / name).read_bytes())
        content[len(content) // 2] ^= bits
        (checkpoint / name).write_bytes(content)

    return damage


def rewrite(**changes: Any) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        record = json.loads((checkpoint / MANIFEST).read_text())
        (checkpoint / MANIFEST).write_text(json.dumps({**record, **changes}))

    return damage


def replace_manifest(text: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / MANIFEST).write_text(text)


DAMAGES = {
    "a file is missing": remove(WEIGHT),
    "a file is shorter": truncate(WEIGHT),
    "a byte of a file differs": flip(WEIGHT, bits=0x01),
    "the manifest is missing": remove(MANIFEST),
    "the manifest is shorter": truncate(MANIFEST),
    "the manifest is no text": flip(MANIFEST, bits=0xFF),
    "the manifest has another letter": flip(MANIFEST, bits=0x01),
    "the manifest has another number": rewrite(progress={"step": 4, "draws": 1}),
    "the manifest is a list": replace_manifest("[]"),
    "the manifest is empty": replace_manifest(""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_it_is_taken(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    save(open_store(tmp_path), 2, 4)
    damage(folder(tmp_path, 4))
    assert same_state(resume(open_store(tmp_path)), FakeEngine(2))
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told.startswith("checkpoint refused: ")
    assert "step-00000004" in told


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_when_none_is_left_the_run_does_not_start_again_from_nothing(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    save(open_store(tmp_path), 2, 4)
    for step in (2, 4):
        damage(folder(tmp_path, step))
    with pytest.raises(CheckpointError, match=r"no usable checkpoint: .*step-00000004"):
        open_store(tmp_path).plan_resume()


def test_after_damage_the_last_good_one_is_never_pruned(tmp_path: Path) -> None:
    """keep=1 and a damaged step 9 that is newer than all that is written next."""
    save(open_store(tmp_path, "cadence.keep=2"), 3, 9)
    DAMAGES["a byte of a file differs"](folder(tmp_path, 9))
    store = open_store(tmp_path, "cadence.keep=1")
    resume(store)
    save(store, 6)
    assert same_state(resume(open_store(tmp_path)), FakeEngine(6))
    assert (tmp_path / "checkpoints" / "LATEST").read_text() == "step-00000006\n"
    save(store, 9)
    assert same_state(resume(open_store(tmp_path)), FakeEngine(9)), "the damaged one is replaced at its step"


def test_a_manifest_of_another_format_says_so_whatever_else_it_holds(tmp_path: Path) -> None:
    save(open_store(tmp_path), 2)
    rewrite(format=2, a_new_field=1)(folder(tmp_path, 2))
    with pytest.raises(CheckpointError, match="has format 2; this version reads 1"):
        open_store(tmp_path).plan_resume()


def test_a_folder_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path} holds no checkpoint"):
        resolve_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_checkpoint_manifest(tmp_path)


# ---------------------------------------------------------------- another configuration


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("task.mask.ratio=0.5", r"task\.mask\.ratio: 0\.8 → 0\.5"),
        ("batch.global=64", r"batch\.global: 32 → 64"),
        ("engine.deepspeed=zero1_bf16.json", r"precision: fp32 → bf16"),
    ],
)
def test_changed_numbers_are_refused_unless_allowed(
    tmp_path: Path, override: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(open_store(tmp_path), 2)
    with pytest.raises(CheckpointError, match=f"another experiment: {line}$|another experiment: {line}\n") as raised:
        open_store(tmp_path, override).plan_resume()
    assert "--allow-config-change" in str(raised.value.hint)
    assert open_store(tmp_path, override).plan_resume(allow_config_change=True).progress.step == 2
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told.startswith("changed since the checkpoint: ")


@pytest.mark.parametrize("changed", ["data.demo", "teacher"])
def test_other_data_or_another_teacher_is_refused_though_the_configuration_is_the_same(
    tmp_path: Path, changed: str
) -> None:
    save(open_store(tmp_path), 2)
    other = {**FINGERPRINTS, changed: "cccc"}
    with pytest.raises(CheckpointError, match=f"content of {changed}: {FINGERPRINTS[changed]} → cccc"):
        open_store(tmp_path, fingerprints=other).plan_resume()
    assert open_store(tmp_path, fingerprints=other).plan_resume(allow_config_change=True).progress.step == 2


def test_a_set_that_has_grown_since_is_said_to_have(tmp_path: Path) -> None:
    save(open_store(tmp_path), 2)
    other = {**FINGERPRINTS, "data.demo": "cccc"}
    earlier = {"data.demo": {FINGERPRINTS["data.demo"]: "the set before 5 samples were added"}}
    store = open_store(tmp_path, fingerprints=other, earlier=earlier)
    with pytest.raises(
        CheckpointError, match=r"content of data\.demo: .* → cccc \(the set before 5 samples were added\)"
    ):
        store.plan_resume()


def test_a_head_whose_rows_mean_other_classes_is_refused_unless_allowed(tmp_path: Path) -> None:
    save(open_store(tmp_path, classes=("crying", "diving", "eating")), 2)
    swapped = ("crying", "eating", "diving")
    with pytest.raises(CheckpointError, match="another experiment: class 1 of the head: 'diving' → 'eating'\n"):
        open_store(tmp_path, classes=swapped).plan_resume()
    assert open_store(tmp_path, classes=swapped).plan_resume(allow_config_change=True).progress.step == 2
    assert open_store(tmp_path).plan_resume().progress.step == 2  # nobody names them


def test_a_change_of_running_alone_is_logged_and_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="umt_ds")
    save(open_store(tmp_path), 2)
    store = open_store(tmp_path, "batch.micro=8", "engine.deepspeed_set={zero_optimization.stage: 3}")
    assert store.plan_resume().progress.step == 2
    told = caplog.text
    assert "(running only): batch.micro: 16 → 8" in told
    assert "engine.deepspeed_set.zero_optimization.stage: None → 3" in told


def test_nothing_is_said_where_nothing_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="umt_ds")
    save(open_store(tmp_path), 2)
    caplog.clear()
    open_store(tmp_path).plan_resume()
    assert "changed" not in caplog.text


def test_a_setting_that_an_older_version_did_not_have_is_no_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="umt_ds")
    save(open_store(tmp_path), 2)
    manifest = read_checkpoint_manifest(folder(tmp_path, 2))
    for section, setting in (("schedule", "curve"), ("cadence", "max_skipped")):
        del manifest.config[section][setting]
    (folder(tmp_path, 2) / MANIFEST).write_text(manifest.to_json())
    caplog.clear()
    assert open_store(tmp_path).plan_resume().progress.step == 2
    assert "changed" not in caplog.text


def test_a_configuration_that_this_version_cannot_read_is_a_refusal_and_no_crash(tmp_path: Path) -> None:
    save(open_store(tmp_path), 2)
    manifest = read_checkpoint_manifest(folder(tmp_path, 2))
    manifest.config["a_setting_of_the_future"] = 1
    (folder(tmp_path, 2) / MANIFEST).write_text(manifest.to_json())
    with pytest.raises(CheckpointError, match="a_setting_of_the_future"):
        open_store(tmp_path).plan_resume()


# ---------------------------------------------------------------- another run


def test_a_run_may_continue_another_and_from_then_on_its_own(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    save(open_store(old), 2, 4)
    plan = open_store(new, f"init.resume_from={old}").plan_resume()
    assert plan.sentence == f"continuing {old} at step 4 (init.resume_from), from {folder(old, 4)}"
    exactly = open_store(new, f"init.resume_from={folder(old, 2)}")
    assert same_state(resume(exactly), FakeEngine(2))
    save(exactly, 3)
    assert names_in(new) == {"step-00000003", "LATEST"}
    assert same_state(resume(open_store(new, f"init.resume_from={old}")), FakeEngine(3))
    assert names_in(old) == {"step-00000002", "step-00000004", "LATEST"}, "the other run is not touched"


def test_a_continued_run_saves_at_once_if_asked_at_the_step_it_started_from(tmp_path: Path) -> None:
    """It is saved in the other run's folder, not in its own."""
    save(open_store(tmp_path / "old"), 4)
    store = open_store(tmp_path / "new", f"init.resume_from={tmp_path / 'old'}")
    resume(store)
    save(store, 4)
    assert folder(tmp_path / "new", 4).is_dir()


def test_of_another_run_too_the_newest_whole_checkpoint_is_taken(tmp_path: Path) -> None:
    save(open_store(tmp_path / "old"), 2, 4)
    DAMAGES["a file is shorter"](folder(tmp_path / "old", 4))
    store = open_store(tmp_path / "new", f"init.resume_from={tmp_path / 'old'}")
    assert same_state(resume(store), FakeEngine(2))


def test_another_run_without_checkpoints_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_store(tmp_path / "new", f"init.resume_from={tmp_path / 'none'}").plan_resume()
