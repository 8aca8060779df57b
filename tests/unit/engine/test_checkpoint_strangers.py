"""What is in a run's folder without being this version's: it is never read for a checkpoint, and never deleted."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.checkpoints import FakeEngine, folder, names_in, open_store, resume, same_state, save
from umt_ds.engine.checkpoint_files import read_tensors
from umt_ds.engine.manifest import (
    MANIFEST,
    CheckpointManifest,
    checkpoint_folders,
    read_checkpoint_manifest,
    resolve_checkpoint,
)
from umt_ds.errors import CheckpointError, MachineError
from umt_ds.tasks.initial import read_weights

WEIGHT = "weight-00000.safetensors"


@pytest.fixture(autouse=True)
def _log_reaches_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("umt_ds"), "propagate", True)


def reseal(checkpoint: Path, **changes: Any) -> None:
    """Change a manifest as whoever knows how to seal one would: a later version, or a person."""
    record = {**json.loads((checkpoint / MANIFEST).read_text()), **changes}
    del record["seal"]
    seal = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    (checkpoint / MANIFEST).write_text(json.dumps({**record, "seal": seal}))


def relist(checkpoint: Path, listed: dict[str, str]) -> None:
    """Let the manifest list these files: name in the manifest → file that its size and hash are of."""
    contents = {name: (checkpoint / file).read_bytes() for name, file in listed.items()}
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    reseal(checkpoint, files=files)


def rewrite_tensors(checkpoint: Path, file: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Other tensors in one of the files, and a manifest that says so."""
    save_file(change(load_file(checkpoint / file)), checkpoint / file)
    names = [path.name for path in checkpoint.glob("*.safetensors")]
    relist(checkpoint, {name: name for name in names})


def content_of(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- files that the manifest does not list


def test_a_file_that_the_manifest_does_not_list_is_not_read_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(open_store(tmp_path), 2)
    state = FakeEngine(2).state["weight"]
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    save_file(zeros, folder(tmp_path, 2) / "weight-00001.safetensors")
    shutil.copy(folder(tmp_path, 2) / WEIGHT, folder(tmp_path, 2) / "exp_avg-00009.safetensors")
    found = read_weights(tmp_path)
    assert all(torch.equal(found[name], state[name]) for name in state)
    caplog.clear()
    assert same_state(resume(open_store(tmp_path)), FakeEngine(2))
    (told,) = [record.getMessage() for record in caplog.records if "not in its manifest" in record.getMessage()]
    assert "exp_avg-00009.safetensors, weight-00001.safetensors" in told
    assert str(folder(tmp_path, 2)) in told


@pytest.mark.parametrize(
    "name",
    ["../step-00000002/weight-00000.safetensors", "/etc/weight-00000.safetensors", "weight-00000.safetensors/x",
     "weight-٠٠٠٠٠.safetensors", "weight-00000.bin", "momentum-00000.safetensors", "", "manifest.json",
     "weight-00000.safetensors\n", "\ud83d"],
)  # fmt: skip
def test_a_listed_name_that_is_no_file_of_ours_is_refused(tmp_path: Path, name: str) -> None:
    save(open_store(tmp_path), 2)
    relist(folder(tmp_path, 2), {name: WEIGHT})
    with pytest.raises(CheckpointError, match="files"):
        read_checkpoint_manifest(folder(tmp_path, 2))
    with pytest.raises(CheckpointError) as raised:
        open_store(tmp_path).plan_resume()
    str(raised.value).encode()  # can be printed


def test_a_tensor_in_two_listed_files_is_refused(tmp_path: Path) -> None:
    save(open_store(tmp_path), 2)
    checkpoint = folder(tmp_path, 2)
    shutil.copy(checkpoint / WEIGHT, checkpoint / "weight-00001.safetensors")
    relist(checkpoint, {path.name: path.name for path in checkpoint.glob("*.safetensors")})
    for read in (lambda: open_store(tmp_path).plan_resume(), lambda: read_weights(tmp_path)):
        with pytest.raises(CheckpointError, match=r"the weight of clip_decoder\.0\.head\.bias is in two files"):
            read()


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def with_one(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {**tensors, name: change(tensors.get(name, torch.zeros(2)))}


NAN, INF = float("nan"), float("inf")
WRONG_TENSORS = {
    "one is missing": ("exp_avg-00000.safetensors", without("encoder.norm.weight"), "encoder.norm.weight"),
    "one is too many": ("exp_avg_sq-00000.safetensors", with_one("more", lambda t: t), "more"),
    "of another shape": ("exp_avg-00000.safetensors", with_one("encoder.norm.weight", lambda t: t[:4]), "norm.weight"),
    "of another type": (WEIGHT, with_one("encoder.norm.weight", lambda t: t.to(torch.bfloat16)), "norm.weight"),
    "integers": (WEIGHT, with_one("encoder.norm.weight", lambda t: t.to(torch.int64)), "norm.weight"),
    "not a number": (WEIGHT, with_one("encoder.norm.weight", lambda t: t * NAN), "norm.weight"),
    "infinite": ("exp_avg_sq-00000.safetensors", with_one("encoder.norm.weight", lambda t: t + INF), "norm.weight"),
}


@pytest.mark.parametrize(("file", "change", "named"), WRONG_TENSORS.values(), ids=WRONG_TENSORS.keys())
def test_tensors_that_do_not_fit_are_one_error_that_names_them(
    tmp_path: Path, file: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], named: str
) -> None:
    """The hashes are right: somebody else wrote these."""
    save(open_store(tmp_path), 2)
    rewrite_tensors(folder(tmp_path, 2), file, change)
    with pytest.raises(CheckpointError, match=named) as raised:
        resume(open_store(tmp_path))
    assert "step-00000002" in str(raised.value)


def test_a_checkpoint_of_another_model_is_refused_by_name_when_it_is_loaded(tmp_path: Path) -> None:
    save(open_store(tmp_path), 2)
    store, engine = open_store(tmp_path), FakeEngine(2)
    engine.names = lambda: ["encoder.norm.weight", "a.new.layer"]  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match=r"a\.new\.layer"):
        store.load(engine, store.plan_resume())  # type: ignore[arg-type]


def test_a_listed_file_may_be_a_link_to_what_was_written(tmp_path: Path) -> None:
    """Its hash says so; where a disk was full, people move files and leave links."""
    save(open_store(tmp_path), 2)
    (folder(tmp_path, 2) / WEIGHT).rename(tmp_path / "moved")
    (folder(tmp_path, 2) / WEIGHT).symlink_to(tmp_path / "moved")
    assert same_state(resume(open_store(tmp_path)), FakeEngine(2))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
@pytest.mark.parametrize("name", [WEIGHT, MANIFEST])
def test_what_is_no_file_in_place_of_one_is_damage_and_nobody_waits_for_it(
    tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    save(open_store(tmp_path), 2, 4)
    (folder(tmp_path, 4) / name).unlink()
    make(folder(tmp_path, 4) / name)
    assert same_state(resume(open_store(tmp_path)), FakeEngine(2))


# ---------------------------------------------------------------- other versions

OTHER_VERSIONS: dict[str, Callable[[Path], None]] = {
    "a newer format": lambda checkpoint: reseal(checkpoint, format=2),
    "a newer format with another seal": lambda checkpoint: (checkpoint / MANIFEST).write_text('{"format": 3, "x": []}'),
    "a format that is text with another seal": lambda checkpoint: (checkpoint / MANIFEST).write_text(
        '{"format": "2.0", "seal": 7}'
    ),
    "no word of ours": lambda checkpoint: (checkpoint / MANIFEST).write_text('{"version": 5}'),
    "an older format": lambda checkpoint: reseal(checkpoint, format=0),
    "a format that is text": lambda checkpoint: reseal(checkpoint, format="1"),
    "a format that is true": lambda checkpoint: reseal(checkpoint, format=True),
    "no format": lambda checkpoint: reseal(checkpoint, format=None),
    "a field more": lambda checkpoint: reseal(checkpoint, mesh=[1, 2]),
    "a step that is text": lambda checkpoint: reseal(checkpoint, step="4"),
    "progress that is counted otherwise": lambda checkpoint: reseal(checkpoint, progress={"step": 4, "tokens": 7}),
    "half a step": lambda checkpoint: reseal(checkpoint, progress={"step": 4.5}),
    "another step than its name": lambda checkpoint: reseal(checkpoint, step=3, progress={"step": 3}),
}


@pytest.mark.parametrize("change", OTHER_VERSIONS.values(), ids=OTHER_VERSIONS.keys())
def test_a_checkpoint_of_another_version_stops_the_start_and_nothing_of_it_is_touched(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    save(open_store(tmp_path), 2, 4)
    change(folder(tmp_path, 4))
    before = content_of(tmp_path)
    with pytest.raises(CheckpointError, match="step-00000004") as raised:
        open_store(tmp_path).plan_resume()
    assert "move it away" in str(raised.value.hint)
    assert raised.value.exit_code == 1
    assert content_of(tmp_path) == before


def test_a_checkpoint_of_an_earlier_version_of_this_format_is_read(tmp_path: Path) -> None:
    """Some fields came later, and have a default."""
    save(open_store(tmp_path), 2)
    record = json.loads((folder(tmp_path, 2) / MANIFEST).read_text())
    (folder(tmp_path, 2) / MANIFEST).write_text(json.dumps({k: v for k, v in record.items() if k != "inexact"}))
    reseal(folder(tmp_path, 2))
    assert same_state(resume(open_store(tmp_path)), FakeEngine(2))


def test_the_format_of_a_newer_version_is_named(tmp_path: Path) -> None:
    save(open_store(tmp_path), 2)
    reseal(folder(tmp_path, 2), format=2)
    with pytest.raises(CheckpointError, match=r"newer version.*has format 2; this version reads 1") as raised:
        open_store(tmp_path).plan_resume()
    assert str(raised.value.hint).startswith("update umt_ds")


def test_an_old_checkpoint_of_another_version_is_not_pruned_and_does_not_count(tmp_path: Path) -> None:
    store = open_store(tmp_path, "cadence.keep=2")
    save(store, 2, 4)
    reseal(folder(tmp_path, 2), format=2)
    save(store, 6, 8)
    assert names_in(tmp_path) == {"step-00000002", "step-00000006", "step-00000008", "LATEST"}


def test_a_damaged_checkpoint_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    store = open_store(tmp_path, "cadence.keep=2")
    save(store, 2, 4)
    (folder(tmp_path, 4) / MANIFEST).write_text("")
    save(store, 6)
    assert names_in(tmp_path) == {"step-00000002", "step-00000004", "step-00000006", "LATEST"}
    save(store, 8)
    assert names_in(tmp_path) == {"step-00000004", "step-00000006", "step-00000008", "LATEST"}


@pytest.mark.parametrize("content", [None, b"", b"[2]", b'{"version": 2}', b"\x82\xa6format\x02"])
def test_a_checkpoint_whose_manifest_says_nothing_to_us_is_never_pruned(tmp_path: Path, content: bytes | None) -> None:
    """A later version may write its manifest in other words, or under another name."""
    store = open_store(tmp_path, "cadence.keep=1")
    save(store, 2)
    manifest = folder(tmp_path, 2) / MANIFEST
    manifest.rename(manifest.with_name("manifest.cbor"))
    if content is not None:
        manifest.write_bytes(content)
    before = content_of(folder(tmp_path, 2))
    save(store, 4, 6)
    assert names_in(tmp_path) == {"step-00000002", "step-00000006", "LATEST"}
    assert content_of(folder(tmp_path, 2)) == before


@pytest.mark.parametrize("kind", ["folder", "file", "broken link", "another version's"])
def test_what_stands_where_a_checkpoint_goes_is_moved_aside_and_said(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path)
    save(store, 2)
    place = folder(tmp_path, 4)
    match kind:
        case "file":
            place.write_text("mine")
        case "broken link":
            place.symlink_to(tmp_path / "gone")
        case _:
            shutil.copytree(folder(tmp_path, 2), place)
            reseal(place, format=2 if kind == "another version's" else 1)
    before = content_of(place)
    save(store, 4)
    assert same_state(resume(open_store(tmp_path)), FakeEngine(4))
    (aside,) = [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith("step-00000004.aside-")]
    assert content_of(aside) == before
    assert f"moved to {aside.name}" in caplog.text


def test_half_a_checkpoint_is_cleared_away_unless_another_version_wrote_it(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    save(store, 2)
    checkpoints = tmp_path / "checkpoints"
    for name in ("step-00000003.partial", "step-00000005.partial", "step-mine.partial"):
        shutil.copytree(folder(tmp_path, 2), checkpoints / name)
    (checkpoints / "step-00000003.partial" / MANIFEST).unlink()
    reseal(checkpoints / "step-00000005.partial", format=2)
    (checkpoints / "step-00000006.partial").write_text("a file")
    save(store, 6)
    assert not (checkpoints / "step-00000003.partial").exists()
    assert (checkpoints / "step-00000005.partial" / WEIGHT).is_file()
    assert (checkpoints / "step-mine.partial" / WEIGHT).is_file()
    assert (checkpoints / "step-00000006" / WEIGHT).is_file()


def test_what_cannot_be_removed_costs_a_warning_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On NFS a folder stays while somebody reads a file in it."""

    def busy(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    store = open_store(tmp_path, "cadence.keep=1")
    save(store, 2)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        save(store, 4)
        save(store, 6)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-00000006"]
    assert "could not be removed" in caplog.text
    save(store, 8)
    assert names_in(tmp_path) == {"step-00000008", "LATEST"}, "what was left goes with a later save"


@pytest.mark.parametrize("inside", ["a whole checkpoint", "half a checkpoint"])
def test_what_somebody_put_into_a_checkpoint_outlives_it(tmp_path: Path, inside: str) -> None:
    """Notes, an export, or the checkpoints of another trainer under such a name."""
    store = open_store(tmp_path, "cadence.keep=1")
    save(store, 2)
    place = folder(tmp_path, 2)
    (place / "export").mkdir()
    (place / "export" / "model.pt").write_bytes(b"theirs")
    if inside == "half a checkpoint":
        place.rename(place.with_name(place.name + ".partial"))
    save(store, 4)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-00000004"]
    (kept,) = (tmp_path / "checkpoints").rglob("model.pt")
    assert kept.read_bytes() == b"theirs"
    assert not list(kept.parent.parent.glob("*.safetensors")), "what we wrote is gone"


def test_a_checkpoint_that_is_a_link_is_pruned_without_what_it_points_to(tmp_path: Path) -> None:
    store = open_store(tmp_path, "cadence.keep=1")
    save(store, 2)
    folder(tmp_path, 2).rename(tmp_path / "kept")
    folder(tmp_path, 2).symlink_to(tmp_path / "kept")
    save(store, 4)
    assert names_in(tmp_path) == {"step-00000004", "LATEST"}
    assert (tmp_path / "kept" / WEIGHT).is_file()


# ---------------------------------------------------------------- names that are no checkpoint's

NO_NAMES = ["step-²", "step-١٢", "step-5", "step--0000004", "step-00000010.partial", "step-0000000९", "step-+0000009",
            "step-00000009.aside-20240101T000000", "Step-00000009", "step-000000009", "step-00000009 "]  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_folder_of_another_name_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    save(open_store(tmp_path), 2)
    shutil.copytree(folder(tmp_path, 2), tmp_path / "checkpoints" / name)
    assert checkpoint_folders(tmp_path) == [folder(tmp_path, 2)]
    assert resolve_checkpoint(tmp_path) == folder(tmp_path, 2)
    assert open_store(tmp_path).plan_resume().folder == folder(tmp_path, 2)


def test_a_file_of_a_checkpoints_name_is_none(tmp_path: Path) -> None:
    save(open_store(tmp_path), 2)
    folder(tmp_path, 4).write_text("")
    assert checkpoint_folders(tmp_path) == [folder(tmp_path, 2)]


def test_steps_of_more_digits_are_in_order_too(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 5):
        folder(tmp_path, step).mkdir(parents=True)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-100000000", "step-99999999", "step-00000005"]


def test_a_start_from_nothing_beside_what_looks_like_a_checkpoint_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(open_store(tmp_path), 2)
    folder(tmp_path, 2).rename(tmp_path / "checkpoints" / "step-2")
    assert open_store(tmp_path).plan_resume().folder is None
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "step-2" in told
    assert "ignored" in told


@pytest.mark.parametrize("content", [b"step-00000002\n", b"\xff\xfe\x00", b"", b"../../other", b"step-00000099\n"])
def test_latest_is_for_people_and_decides_nothing(tmp_path: Path, content: bytes) -> None:
    save(open_store(tmp_path), 2, 4)
    (tmp_path / "checkpoints" / "LATEST").write_bytes(content)
    assert open_store(tmp_path).plan_resume().folder == folder(tmp_path, 4)


# ---------------------------------------------------------------- disks that do not answer


def fail_on(monkeypatch: pytest.MonkeyPatch, part: str, error: int) -> None:
    """Every way to look at a path with `part` in it fails."""
    for name in ("open", "stat", "scandir"):
        real = getattr(os, name)

        def call(path: Any, *args: Any, real: Callable[..., Any] = real, **kwargs: Any) -> Any:
            if part in str(path):
                raise OSError(error, os.strerror(error), str(path))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, name, call)
    real_open = Path.open

    def open_path(self: Path, *args: Any, **kwargs: Any) -> Any:
        if part in str(self):
            raise OSError(error, os.strerror(error), str(self))
        return real_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_path)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("part", ["step-00000004/weight", "step-00000004/manifest", "step-00000004", "/checkpoints"])
def test_a_disk_that_does_not_answer_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, error: int
) -> None:
    """To fall back to an older checkpoint, or to start anew, would throw work away."""
    save(open_store(tmp_path), 2, 4)
    store = open_store(tmp_path)
    with monkeypatch.context() as patch:
        fail_on(patch, part, error)
        with pytest.raises(MachineError, match=os.strerror(error)) as raised:
            store.plan_resume()
    assert raised.value.hint is not None
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("kind", ["a link to a disk that is not mounted", "a file"])
def test_what_stands_in_place_of_the_checkpoints_is_no_run_without_any(tmp_path: Path, kind: str) -> None:
    if kind == "a file":
        (tmp_path / "checkpoints").write_text("")
    else:
        (tmp_path / "checkpoints").symlink_to(tmp_path / "not mounted")
    with pytest.raises(MachineError, match=f"{tmp_path}/checkpoints cannot be read"):
        open_store(tmp_path).plan_resume()


def test_a_node_that_does_not_see_what_rank_0_saw_says_so(tmp_path: Path) -> None:
    save(open_store(tmp_path), 2)
    store = open_store(tmp_path)
    plan = store.plan_resume()
    (folder(tmp_path, 2) / "exp_avg-00000.safetensors").unlink()
    with pytest.raises(MachineError, match=r"exp_avg-00000\.safetensors is not there on ") as raised:
        store.load(FakeEngine(2), plan)  # type: ignore[arg-type]
    assert "every node must see the run folder" in str(raised.value.hint)


def test_without_inodes_the_message_names_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_bytes

    def no_inodes(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name.startswith("LATEST"):
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, *args, **kwargs)

    store = open_store(tmp_path)
    save(store, 2)
    monkeypatch.setattr(Path, "write_bytes", no_inodes)
    with pytest.raises(CheckpointError, match=r"step-00000004 is whole, but .*LATEST") as raised:
        save(store, 4)
    assert f"last good checkpoint: {folder(tmp_path, 4)}" in str(raised.value.hint)


def test_reading_a_checkpoint_folder_needs_no_more_than_the_folder(tmp_path: Path) -> None:
    """It may be copied elsewhere, under a name of its own, and named directly."""
    save(open_store(tmp_path), 2)
    shutil.copytree(folder(tmp_path, 2), tmp_path / "step-final")
    found = dict(read_tensors(tmp_path / "step-final", "weight"))
    assert found.keys() == read_weights(tmp_path / "step-final").keys() == FakeEngine(2).state["weight"].keys()
    assert isinstance(read_checkpoint_manifest(tmp_path / "step-final"), CheckpointManifest)


@pytest.mark.parametrize("kind", ["copy", "link", "the working directory"])
def test_a_checkpoint_is_read_under_any_name(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save(open_store(tmp_path / "run"), 2)
    whole, best = folder(tmp_path / "run", 2), tmp_path / "best"
    match kind:
        case "copy":
            shutil.copytree(whole, best)
        case "link":
            best.symlink_to(whole)
        case _:
            monkeypatch.chdir(whole)
            best = Path()
    assert read_weights(best).keys() == read_weights(tmp_path / "run").keys()
