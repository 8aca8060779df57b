"""`umt import`: a file read, identified and held against the model of its kind; told in words, or as JSON; written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umt_ds import __version__
from umt_ds.errors import WeightsError
from umt_ds.tasks.importing.fit import Fit, fit
from umt_ds.tasks.importing.identify import Identity, identify
from umt_ds.tasks.importing.releases import SAID_AS, FileKind, named_as
from umt_ds.tasks.importing.traps import likely, traps
from umt_ds.tasks.initial import read_source
from umt_ds.weights.file import WeightFile
from umt_ds.weights.imported_folder import require_new, sha256_of, write_imported_folder
from umt_ds.weights.load import about
from umt_ds.weights.names import some

_FORMAT = 1  # of the JSON file in a model's folder
# A command that reads such weights. size: b16 or l16; rows: the set whose classes a head has.
_USES: dict[FileKind, str] = {
    "stage1": "umt train recognition/{size}_k710 init.weights={path}",
    "recognition": "umt eval recognition/{size}_{rows} --weights {path}",
    "stage2": "umt eval zero_shot/msrvtt/{size} --weights {path}",
    "retrieval": "umt eval retrieval/msrvtt/{size}_25m --weights {path}",
    "question_answering": "umt eval question_answering/msrvtt/{size}_25m --weights {path}",
    "encoder": "umt train recognition/{size}_k710 init.weights={path}",
    "clip": "umt train stage1/{size}_k710 task.teacher.weights={path}",
}
_RECIPES = {768: "b16", 1024: "l16"}  # by the width of the encoder, and of the teacher that it learns from
_ROWS = {400: "k400", 600: "k600", 700: "k700", 710: "k710", 339: "mit", 174: "ssv2"}


@dataclass(frozen=True)
class Imported:
    """releases: published ones that it may be."""

    path: Path
    file: WeightFile
    identity: Identity
    fit: Fit
    releases: tuple[str, ...]
    traps: tuple[str, ...]


def look_at(path: Path, *, kind: FileKind | None = None) -> Imported:
    """What a weight file, a model's folder, or a run is. kind: what it is to be taken for.

    Raises WeightsError or CheckpointError for what cannot be read, and for tensors of no model that is known here.
    """
    file = read_source(path)
    with about(path):
        identity = identify(file.state, kind=kind)
        found = fit(file.state, identity)
    claim = named_as(path.name)
    return Imported(path, file, identity, found, likely(identity, claim), tuple(traps(identity, claim, file, found)))


def check(imported: Imported, folder: Path) -> None:
    """Raises WeightsError where nothing can be written: the model lacks something, or the folder is there already."""
    found = imported.fit
    if not found.is_whole:
        lacking = [*found.missing, *found.reshaped]
        what = SAID_AS[imported.identity.kind]
        raise WeightsError(
            f"{imported.path} is no whole model ({what}): {len(lacking)} tensors are missing or of another shape: "
            f"{some(lacking)}",
            hint="nothing is written; --as encoder takes the video encoder alone, where that is whole",
        )
    require_new(folder)


def write(imported: Imported, folder: Path) -> None:
    """A model's folder of what is used, in the names of the model here, which every command reads that takes weights.

    Raises as `check`; OSError.
    """
    check(imported, folder)
    write_imported_folder(folder, imported.fit.used, as_json(imported))


def as_json(imported: Imported) -> dict[str, Any]:
    """All that is known of it, for machines; the file is named without its folder."""
    identity, found = imported.identity, imported.fit
    source: dict[str, Any] = {"name": imported.path.name}
    if imported.path.is_file():
        source |= {"bytes": imported.path.stat().st_size, "sha256": sha256_of(imported.path)}
    source |= {"written": imported.file.written, "wrappers": imported.file.wrappers, "beside": imported.file.beside}
    size = identity.encoder
    text = identity.text
    return {
        "format": _FORMAT,
        "made_by": f"umt import {__version__}",
        "source": source,
        "kind": identity.kind,
        "preset": identity.preset,
        "encoder": {"width": size.width, "depth": size.depth, "patch": size.patch},
        "text": None if text is None else {
            "width": text.width, "layers": text.layers, "fusion_layers": identity.fusion_layers,
            "words": text.vocab_size, "decoder_layers": identity.decoder_layers,
        },
        "classes": identity.classes,
        "aligned_layers": identity.aligned,
        "positions": None if identity.clip is None else [clip._asdict() for clip in identity.clip],
        "releases": list(imported.releases),
        "tensors": {
            "in_the_file": len(imported.file.state),
            "used": len(found.used),
            "unused": dict(found.unused),
            "missing": list(found.missing),
            "reshaped": {key: {"file": list(a), "model": list(b)} for key, (a, b) in found.reshaped.items()},
            "types": dict(found.dtypes),
            "numbers": sum(value.numel() for value in found.used.values()),
        },
        "traps": list(imported.traps),
    }  # fmt: skip


def as_text(imported: Imported, *, folder: Path | None = None) -> str:
    """A few lines for a person. folder: where it was written."""
    return "\n".join(_lines(imported, folder or imported.path))


def _lines(imported: Imported, path: Path) -> Iterator[str]:
    identity, found = imported.identity, imported.fit
    yield f"{imported.path}: {SAID_AS[identity.kind]}, {_size(identity)}"
    inside = f"under {'.'.join(imported.file.wrappers)}" if imported.file.wrappers else "flat"
    beside = f"; beside them, not read: {some(imported.file.beside)}" if imported.file.beside else ""
    yield f"  form      {imported.file.written}, tensors {inside}{beside}"
    if identity.kind != "clip":
        yield f"  frames    {_frames(imported)}"
        yield f"  release   {_releases(imported.releases)}"
    numbers = sum(value.numel() for value in found.used.values())
    types = ", ".join(f"{count} {name}" for name, count in found.dtypes.items())
    yield f"  used      {len(found.used)} of {len(imported.file.state)} tensors, {numbers:,} numbers ({types})"
    for reason, count in found.unused.items():
        yield f"  unused    {count}: {reason}"
    if found.missing:
        yield f"  missing   {len(found.missing)}: {some(found.missing)}"
    if found.reshaped:
        shapes = [f"{key} {there}, not {here}" for key, (there, here) in found.reshaped.items()]
        yield f"  reshaped  {len(shapes)}: {some(shapes)}"
    for trap in imported.traps:
        yield f"  note      {trap}"
    if found.is_whole and (use := _use(identity)) is not None:
        yield f"  use       {use.format(path=path)}"


def _use(identity: Identity) -> str | None:
    """A command for the published sizes; `{path}` stands where the weights are named."""
    size, rows = _RECIPES.get(identity.encoder.width), _ROWS.get(identity.classes or 0)
    use = _USES.get(identity.kind)
    if use is None or size is None or (identity.kind == "recognition" and rows is None):
        return None
    return use.format(size=size, rows=rows, path="{path}")


def _size(identity: Identity) -> str:
    size = identity.encoder
    named = {"vit_b16": "UMT-B", "vit_l16": "UMT-L"}.get(identity.preset or "", "")
    told = f"{size.depth} blocks of width {size.width}"
    told += f", patches of {size.patch} px" if size.patch else ""
    told += f", head of {identity.classes} classes" if identity.classes is not None else ""
    if identity.aligned:
        told += f", {identity.aligned} decoders of width {identity.aligned_width}"
    if identity.text is not None:
        told += f", BERT of {identity.text.layers} layers ({identity.fusion_layers} fuse)"
    if "token_embedding.weight" in identity.state:
        told += ", and its text tower"
    if identity.decoder_layers:
        told += f", answers by {identity.decoder_layers} layers"
    return f"{named} ({told})" if named else told


def _frames(imported: Imported) -> str:
    if imported.identity.clip is not None:
        clip, base = imported.identity.clip
        return (
            f"{clip.frames} of {clip.side} px: its table of positions, that of {base.frames} frames of {base.side} px "
            "stretched"
        )
    claim = named_as(imported.path.name)
    if claim is not None and claim.frames is not None:
        return f"{claim.frames} of {claim.side} px by its name; its tensors do not say it, as positions are computed"
    return "its tensors do not say it: positions are computed"


def _releases(names: tuple[str, ...]) -> str:
    if not names:
        return "none of the published files has this content and these sizes"
    if len(names) == 1:
        return f"seems to be {names[0]}"
    return f"may be one of {len(names)} published files, which tensors alone do not tell apart: {some(names)}"
