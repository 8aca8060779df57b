"""What fine-tuning starts from: a student of stage 1 or 2, or a classifier; published or our own.

Each tensor of the file is loaded, or counted with the reason why not; so is each of the model that begins anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from umt_ds.config.tasks.base import ClipShape
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.engine.protocol import InitialWeights
from umt_ds.errors import WeightsError
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.positions import BASE_FRAMES, BASE_SIDE, finetune_table
from umt_ds.tasks.encoders import check_size
from umt_ds.tasks.recognition.classes import HeadClasses
from umt_ds.tasks.recognition.head_rows import NEW, HeadRows, choose_rows, place_rows
from umt_ds.weights.load import about, load_strict
from umt_ds.weights.names import is_bookkeeping
from umt_ds.weights.published import encoder_parts

_TABLE = "pos_embed"
_HEAD = ("head.weight", "head.bias")
_TOLERANCE = 1e-5  # of a table of positions, whose values are at most 1; METHOD.md, "Positions"
_PUBLISHED_BASE = ClipShape(BASE_FRAMES, BASE_SIDE)


@dataclass(frozen=True)
class Loading:
    """told: what was loaded, what was not and why, in a sentence. doubts: what a person should look at."""

    told: str
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """What becomes of a part of the file. told: a clause of the sentence; empty where there is nothing to say."""

    told: str = ""
    doubt: str | None = None


def load_initial(
    module: VideoClassifier, weights: InitialWeights, config: RecognitionConfig, head: HeadClasses
) -> Loading:
    """Weights made elsewhere into the classifier of a run; its head and fc_norm stay as they are where there are none.

    Raises one WeightsError where the file holds no video encoder, one of another size, or a table of positions that was
    learned; then nothing has been copied.
    """
    with about(weights.where):
        given, beside = encoder_parts(weights.state)
        table = given.pop(_TABLE, None)
        check_size(given, module.size, setting="task.encoder")
        parts = [_positions(table, config, module)]
    norm = {name for name in given if name.startswith("norm.")}
    kept = {name: value for name, value in given.items() if name not in norm}
    rows = _head(kept, weights.classes, module, config, head)
    fresh = tuple(name for name in ("fc_norm.", "head.") if not any(key.startswith(name) for key in kept))
    report = load_strict(module, kept, where=weights.where, ignore=fresh)
    left_out = _left_out(beside, norm, weights.state)
    parts += [_Part(f"head: {rows.told}", rows.doubt), _Part(_anew(report.fresh)), _Part(left_out)]
    clauses = [f"{report.loaded} tensors loaded", *(part.told for part in parts if part.told)]
    return Loading("; ".join(clauses), tuple(part.doubt for part in parts if part.doubt))


# ---------------------------------------------------------------- head


def _head(
    kept: dict[str, Tensor],
    names: tuple[str, ...],
    module: VideoClassifier,
    config: RecognitionConfig,
    head: HeadClasses,
) -> HeadRows:
    """Puts the rows of the file's head in their places among `kept`, or takes it out of there."""
    trained = {name: kept.pop(name) for name in _HEAD if name in kept}
    anew = (NEW,) * head.count
    if not trained:
        return HeadRows(anew, f"none there, so its {head.count} rows begin anew")
    shapes = {name: tuple(value.shape) for name, value in trained.items()}
    count = (*shapes.get("head.weight", ()), 0)[0]
    if config.head == "new":
        return HeadRows(anew, f"its {count} rows are left out, and {head.count} begin anew (task.head: new)")
    if shapes != {"head.weight": (count, module.size.width), "head.bias": (count,)}:
        kept |= trained  # half a head, or one of another width: load_strict says it
        return HeadRows(anew, "")
    found = choose_rows(HeadClasses(count, names if len(names) == count else ()), head)
    if set(found.rows) != {NEW}:
        kept |= {name: place_rows(value, module.get_parameter(name), found.rows) for name, value in trained.items()}
    return found


# ---------------------------------------------------------------- positions


def _positions(table: Tensor | None, config: RecognitionConfig, module: VideoClassifier) -> _Part:
    """What becomes of the file's table of positions. Raises WeightsError for one that was learned."""
    if table is None:
        return _Part()
    base, size = config.positions_of, module.size
    found = computed_clip(table, width=size.width, patch=size.patch, bases=(base, _PUBLISHED_BASE))
    if found is None:
        raise WeightsError(
            f"its table of positions, {_TABLE} {tuple(table.shape)}, was learned: it is none that is computed, nor one "
            f"stretched from {base.frames} frames of {base.side} px (task.positions)",
            hint="positions are computed here: take weights that were trained so, as all that UMT published; or set "
            "task.positions to the clip of their pretraining",
        )
    clip, origin = found
    here = f"{config.encoder.frames} frames of {config.encoder.image_size} px"
    told = f"{_TABLE}, computed for {clip.frames} frames of {clip.side} px, is left out: it is computed anew for {here}"
    return _Part(told, None if origin == base else _other_base("its table of positions is that", origin, base))


def computed_clip(
    table: Tensor, *, width: int, patch: int, bases: Iterable[ClipShape]
) -> tuple[ClipShape, ClipShape] | None:
    """The clip for which a table of positions was computed, and the clip whose table was stretched to it: one of
    `bases`, or itself. None where it was not computed. table: [1,N,D], D of `width`."""
    if table.dim() != 3 or len(table) != 1 or table.shape[2] != width:
        return None
    for clip in _clips_of(table.shape[1], patch):
        for base in (*bases, clip):
            made = finetune_table(clip.frames, clip.side, patch, width, base.frames, base.side)
            if _is_close(table[0], made):
                return clip, base
    return None


def _clips_of(tokens: int, patch: int) -> list[ClipShape]:
    """All clips of square frames that have so many tokens; those of common sides first."""
    grids = [grid for grid in range(1, int(tokens**0.5) + 1) if tokens % grid**2 == 0]
    return [ClipShape(tokens // grid**2, grid * patch) for grid in sorted(grids, key=lambda grid: abs(grid - 14))]


def _is_close(table: Tensor, made: Tensor) -> bool:
    """Equal, but for how exactly the numbers of `table` are kept."""
    tolerance = max(_TOLERANCE, torch.finfo(table.dtype).eps)
    return bool((table.to(made) - made).abs().max() <= tolerance)


def _other_base(what: str, theirs: ClipShape, ours: ClipShape) -> str:
    return (
        f"{what} of {theirs.frames} frames of {theirs.side} px; this run stretches those of {ours.frames} frames of "
        f"{ours.side} px: task.positions.frames={theirs.frames} task.positions.image_size={theirs.side} are theirs"
    )


# ---------------------------------------------------------------- the sentence


def _anew(fresh: Iterable[str]) -> str:
    counts = Counter(name.partition(".")[0] for name in sorted(fresh))
    counts.pop("head", None)  # said already
    return "".join(f"{name} ({count} tensors) begins anew" for name, count in counts.items())


def _left_out(beside: Mapping[str, Tensor], norm: Iterable[str], state: Mapping[str, Tensor]) -> str:
    """What else the file holds, counted by its part of a model."""
    counts = Counter(name.partition(".")[0] for name in beside)
    said = [f"{count} of {name}" for name, count in counts.items()]
    if number := len(list(norm)):
        said.append(f"{number} of norm, in whose place fc_norm is")
    if number := sum(map(is_bookkeeping, state)):
        said.append(f"{number} counters")
    return f"left out: {', '.join(said)}" if said else ""
