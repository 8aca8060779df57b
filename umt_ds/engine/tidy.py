"""What is moved and removed among the checkpoints of a run. The law: only what this version wrote is removed; whatever
else stands in the way is moved aside and said. What cannot be removed costs a warning and no run. Torch-free."""

from __future__ import annotations

import logging
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from umt_ds.engine.best import read_best
from umt_ds.engine.manifest import (
    checkpoint_folders,
    is_file_of_ours,
    is_folder_name,
    read_checkpoint_manifest,
    step_of,
)
from umt_ds.engine.readback import is_folder, names_in
from umt_ds.errors import DamagedCheckpointError, MachineError, UmtError

log = logging.getLogger("umt_ds")
_PARTIAL = ".partial"


def partial_of(final: Path) -> Path:
    """Where a checkpoint is written before it is renamed to its final name."""
    return final.with_name(final.name + _PARTIAL)


def make_partial(final: Path) -> None:
    """An empty folder to write a checkpoint into; what a killed save left of others is removed."""
    inside, partial = final.parent, partial_of(final)
    for left_over in (inside / name for name in names_in(inside)):
        if _is_partial(left_over) and _may_go(left_over):
            _remove(left_over)
    make_room(partial)
    partial.mkdir(parents=True)


def make_room(place: Path) -> None:
    """Nothing is at `place` afterwards. What was there is moved aside, whatever it was: a damaged checkpoint too may
    hold a file that somebody wants."""
    if os.path.lexists(place):
        aside = place.with_name(f"{place.name}.aside-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        place.rename(aside)
        log.warning("what was at %s is moved to %s: delete it if you can do without", place, aside.name)


def prune(run: Path, *, newest: int, keep: int) -> None:
    """Remove all but the `keep` newest whole checkpoints up to step `newest`, and the best (`BEST`).

    A newer one can only be one that was refused at the start: it must not push out a good one. What this version cannot
    read stays, and does not count: a manifest that says nothing to us may be another version's.
    """
    try:
        best = read_best(run)
        whole = [folder for folder in checkpoint_folders(run) if step_of(folder) <= newest and _is_whole(folder)]
    except UmtError as error:
        log.warning("old checkpoints stay for now: %s", error)
        return
    for folder in whole[keep:]:
        if best is None or folder.name != best.checkpoint:
            _remove(folder)


def sync_folder(folder: Path) -> None:
    """Let the disk keep what was renamed in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def newest_checkpoint(run: Path) -> str:
    """The newest checkpoint, for a message."""
    try:
        folders = checkpoint_folders(run)
    except UmtError as error:
        return f"unknown ({error.what})"
    return str(folders[0]) if folders else "none"


def room_on(run: Path) -> str:
    """Space and inodes that are left, for a message."""
    try:
        disk = os.statvfs(run)
    except OSError as error:
        return f"{run} is not there ({error.strerror})"
    inodes = f" and {disk.f_favail} files" if disk.f_files else ""  # some file systems have no limit, and say 0
    return f"{disk.f_bavail * disk.f_frsize / 2**30:.1f} GiB{inodes} free on {run}"


def _is_partial(folder: Path) -> bool:
    return is_folder(folder) and folder.suffix == _PARTIAL and is_folder_name(folder.stem)


def _is_whole(folder: Path) -> bool:
    try:
        read_checkpoint_manifest(folder)
    except UmtError:
        return False
    return True


def _may_go(partial: Path) -> bool:
    """Whole, or damaged as what a killed save leaves; but not another version's. What cannot be read now may be
    anybody's."""
    try:
        read_checkpoint_manifest(partial)
    except DamagedCheckpointError:
        return True
    except UmtError:
        return False
    return True


def _remove(folder: Path) -> None:
    """Under another name first: a removal that is broken off must not leave half a checkpoint under a final name.
    What somebody else put into the folder is kept, aside."""
    try:
        if folder.is_symlink():
            folder.unlink()
            return
        if folder.suffix != _PARTIAL:
            folder = folder.rename(partial_of(folder))
        names = names_in(folder)
        if all(map(is_file_of_ours, names)):
            shutil.rmtree(folder)
            return
        for name in filter(is_file_of_ours, names):
            (folder / name).unlink()
        make_room(folder)
    except (OSError, MachineError) as error:
        log.warning("%s could not be removed: %s", folder, error)
