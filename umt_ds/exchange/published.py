"""The target `published`: a file in the names and shapes of UMT's released checkpoints, which the authors' code loads.

Source: METHOD.md, "Names of weights". The inverse of `weights.published`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.exchange.compare import Outputs, Probe, outputs_of
from umt_ds.exchange.source import Form, Source, left_out, open_source
from umt_ds.exchange.targets import Options, Plan, Wrap, Written, refused
from umt_ds.jobs.eval_runs import EvalRun
from umt_ds.models.positions import BASE_FRAMES, BASE_SIDE, sincos_table
from umt_ds.models.towers import ClipTower
from umt_ds.tasks.teacher import load_teacher

FILE = "weights.pth"
# Under which key a release keeps its weights: the authors' loaders of stage 2 and later ask for `model`, those before
# take a flat file.
_WRAP: Mapping[Form, Wrap] = {"student": "flat", "classifier": "flat", "video_text": "model", "answering": "model"}
_WORDS = "embeddings.word_embeddings.weight"
_TEACHER, _TABLE = "clip_teacher.", "pos_embed"
_BASE_TOKENS = BASE_FRAMES * (BASE_SIDE // 16) ** 2  # clips of so many tokens have no table in their file


def plan(source: Source, options: Options) -> Plan:
    """See `Target`. Raises ConfigError for positions that the authors' code would not have."""
    _refuse_other_positions(source)
    teacher = teacher_of_source(source)
    return Plan({FILE: f"{len(published_state(source, teacher))} tensors"}, (*left_out(source), *teacher.notes))


def write(source: Source, folder: Path, options: Options) -> Written:
    """See `Target`."""
    teacher = teacher_of_source(source)
    state = published_state(source, teacher)
    wrap = options.wrap or _WRAP[source.form]
    torch.save(state if wrap == "flat" else {wrap: state}, folder / FILE)
    return Written(_USAGE, (*left_out(source), *teacher.notes))


def run(folder: Path, source: Source, probe: Probe, options: Options) -> Outputs:
    """See `Target`: read by the loader of published files, `weights.published`."""
    config = source.config.model_copy(update={"init": source.config.init.model_copy(update={"weights": folder / FILE})})
    return outputs_of(open_source(EvalRun(source.run.name, config, None)), probe)


def published_state(source: Source, teacher: TeacherInside) -> dict[str, Tensor]:
    """The tensors of a model under published names, fp32; those that are tied share their numbers."""
    state = {name: value.contiguous() for name, value in source.state.items()}
    if "temp" in state:
        state["temp"] = state["temp"].reshape(())
    for prefix in ("text_encoder.", "text_decoder."):
        state = _with_bert(state, prefix)
    table = {} if (found := _table(source)) is None else {_TABLE: found}
    return {**table, **state, **teacher.state}


# ---------------------------------------------------------------- positions


def _table(source: Source) -> Tensor | None:
    """The table of positions, [1,N,D], of a classifier whose clips are not those of pretraining; as its file had it."""
    frames, side = source.clip_shape
    tokens = frames * (side // source.encoder.size.patch) ** 2
    if source.form != "classifier" or tokens == _BASE_TOKENS:
        return None
    given = source.beside.get(_TABLE)
    if given is not None and given.shape[1] == tokens:
        return given
    return _computed_table(source)[None]


def _computed_table(source: Source) -> Tensor:
    """As the model has it: f32 [N,D]."""
    frames, side = source.clip_shape
    return source.encoder.position_table(torch.zeros(1, frames, side, side, 3, dtype=torch.uint8)).clone()


def _refuse_other_positions(source: Source) -> None:
    """Raises ConfigError for a classifier of clips of 1,568 tokens whose table was stretched from another clip: the
    authors' code takes no table for these, and computes its own."""
    if source.form != "classifier" or _table(source) is not None:
        return
    table = _computed_table(source)
    if not torch.equal(table, sincos_table(*table.shape)):
        frames, side = source.encoder.base
        raise refused(
            source,
            "published",
            f"has no form for its positions, which are stretched from {frames} frames of {side} px: the authors' code "
            f"computes those of {BASE_FRAMES} frames of {BASE_SIDE} px for clips of {_BASE_TOKENS} tokens",
        )


# ---------------------------------------------------------------- teacher


@dataclass(frozen=True)
class TeacherInside:
    """The teacher as files of stage 2 hold it, under published names; empty where it is left out, and notes say why."""

    state: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


def teacher_of_source(source: Source) -> TeacherInside:
    """That which its file held, or the one that its run was trained with where its weights are at hand (METHOD.md,
    "Files of weights")."""
    given = {name: value for name, value in source.beside.items() if name.startswith(_TEACHER)}
    settings, weights = source.teacher, source.run.teacher
    if given or source.form != "video_text" or settings is None:
        return TeacherInside(given)
    if weights is None or not weights.exists():
        where = "is random or nobody says where it lies" if weights is None else f"{weights} is not there"
        return _left_out(f"its file {where}")
    teacher, fingerprint = load_teacher(settings.model_copy(update={"weights": weights}))
    known = {} if source.manifest is None else source.manifest.fingerprints
    if known.get("teacher", fingerprint) != fingerprint:
        return _left_out(f"{weights} is no longer the file that it was trained with (its fingerprint differs)")
    if not isinstance(teacher.tower, ClipTower):
        return _left_out(f"{settings.preset} is no CLIP, and the authors' code has no other")
    return TeacherInside({f"{_TEACHER}{name}": value for name, value in tower_state(teacher.tower).items()})


def tower_state(tower: ClipTower) -> dict[str, Tensor]:
    """The tower in the authors' names: those of open_clip, with a patch embedding of one frame, [W,3,1,p,p]."""
    state = dict(tower.visual.state_dict())
    state["conv1.weight"] = state["conv1.weight"].unsqueeze(2)
    return state


def _left_out(why: str) -> TeacherInside:
    return TeacherInside({}, (f"The teacher, which files of stage 2 hold, is left out: {why}.",))


# ---------------------------------------------------------------- text


def _with_bert(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """BERT as the release has it: numbers of positions; with a word head the tied decoder, without one no `bert.`."""
    words = state.get(f"{prefix}bert.{_WORDS}")
    if words is None:
        return state
    positions = state[f"{prefix}bert.embeddings.position_embeddings.weight"]
    more = {f"{prefix}bert.embeddings.position_ids": torch.arange(len(positions))[None]}
    head = f"{prefix}cls.predictions."
    if f"{head}bias" in state:
        more |= {f"{head}decoder.weight": words, f"{head}decoder.bias": state[f"{head}bias"]}
        return state | more
    return {name.replace(f"{prefix}bert.", prefix): value for name, value in (state | more).items()}


_USAGE = f"""\
`{FILE}` has the names and shapes of UMT's released files: give its path where the authors' code takes one
(`vision_encoder.pretrained`, `pretrained_path`, what fine-tuning starts from), or here:

```
umt train RUN init.weights=FOLDER/{FILE}
```"""
