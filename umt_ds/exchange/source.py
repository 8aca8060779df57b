"""A trained model from wherever it lies: its settings, its module, and the tensors that came out of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from umt_ds.classes import are_names
from umt_ds.config.models import BertConfig, BertSizes, TeacherConfig
from umt_ds.config.run import RunConfig
from umt_ds.config.section import Section
from umt_ds.config.tasks.base import ClipShape
from umt_ds.data.text import CaptionTokenizer
from umt_ds.engine.manifest import CheckpointManifest, read_checkpoint_manifest
from umt_ds.engine.protocol import Task
from umt_ds.errors import ConfigError, WeightsError
from umt_ds.jobs.eval_runs import EvalRun
from umt_ds.jobs.evaluate import load_scored, verify_checkpoints
from umt_ds.jobs.predict_input import class_names
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.answer_decoder import AnsweringModel
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.video_text import VideoTextModel
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.bert import bert_size_of
from umt_ds.tasks.captions import caption_tokenizer
from umt_ds.tasks.initial import read_initial, start_from, state_fingerprint
from umt_ds.tasks.kinds import build_task
from umt_ds.weights.folder import folder_of
from umt_ds.weights.names import bare_names, some

P = TypeVar("P", bound=Section)

_CPU = torch.device("cpu")
_BERT_NUMBERS = ("width", "layers", "heads", "hidden", "vocab_size")
# What a trained model may be without: decoders of the alignment, and the head of masked language modelling.
_DISPENSABLE = ("clip_decoder.", "text_encoder.cls.")
# What published files hold beside the model: the frozen teacher of stage 2, and a table of positions.
BESIDE = ("clip_teacher.", "pos_embed")


@dataclass(frozen=True)
class Source:
    """A model to export, on the CPU, in fp32 and in evaluation mode.

    run: where it came from. config: its settings; no file that they name is needed but the vocabulary. module: all of
    it, in the keys of this project (METHOD.md, "Names of weights"). fresh: names of parameters that the weights did not
    hold, which are NaN in the module: no target writes them. classes: names of the rows of a head. loaded: a sentence
    about the loading. manifest: of a checkpoint of ours. averaged: whether these are averaged weights. beside: what a
    published file held that the module computes or does without (`BESIDE`), by its published name.
    """

    run: EvalRun
    config: RunConfig
    module: nn.Module
    fresh: frozenset[str]
    classes: tuple[str, ...]
    loaded: str
    manifest: CheckpointManifest | None
    averaged: bool
    beside: dict[str, Tensor] = field(default_factory=dict)

    @property
    def form(self) -> Form:
        """What `module` is."""
        return form_of(self.module)

    @property
    def state(self) -> Mapping[str, Tensor]:
        """What the weights held, in the keys of `module`; fp32."""
        return {name: value for name, value in self.module.state_dict().items() if name not in self.fresh}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names, shapes and values of `state`."""
        return state_fingerprint(self.state)

    def forget_weights(self) -> None:
        """From now on only names, shapes and settings are known: so that another copy has room in memory."""
        self.module.to(device="meta")
        self.beside.clear()

    @property
    def clip_shape(self) -> ClipShape:
        """Frames and side of what it sees of a clip."""
        return self.config.task.clip_shape

    @property
    def encoder(self) -> VideoViT:
        """The video transformer inside the module (of recognition the module itself)."""
        return encoder_in(self.module)

    @property
    def text(self) -> BertConfig | None:
        """Settings of its BERT; None where it reads no text."""
        return next(settings_in(self.config, BertConfig), None)

    @property
    def teacher(self) -> TeacherConfig | None:
        """Settings of the teacher that it was trained with; its weights are not read."""
        return next(settings_in(self.config, TeacherConfig), None)

    @cached_property
    def tokenizer(self) -> CaptionTokenizer | None:
        """Of captions and questions. Raises ConfigError where there is no vocabulary."""
        return None if self.text is None else caption_tokenizer(self.text)

    @property
    def vocabulary(self) -> Path | None:
        """Where its word pieces lie: a `vocab.txt`, or the folder of a tokenizer; None where it reads no text."""
        if self.text is None:
            return None
        assert self.text.vocabulary is not None, "open_source sets it"
        return self.text.vocabulary


# ---------------------------------------------------------------- parts of any model

# What a module is, whichever task made it. student: encoder and decoders of the alignment. classifier: encoder and
# head.
# video_text: both encoders, compared and matched. answering: both encoders and a decoder of answers.
Form = Literal["student", "classifier", "video_text", "answering"]


def form_of(module: nn.Module) -> Form:
    """Raises ConfigError for a module without a video transformer."""
    match module:
        case VideoClassifier():
            return "classifier"
        case AlignmentModel():
            return "student"
        case VideoTextModel():
            return "video_text"
        case AnsweringModel():
            return "answering"
        case _:
            raise ConfigError(
                f"a {type(module).__name__} has no video transformer, and has no form for other programs",
                hint="a run that trains on clips",
            )


def encoder_in(module: nn.Module) -> VideoViT:
    """The video transformer inside a module of any form."""
    match module:
        case VideoViT():
            return module
        case AlignmentModel() | AnsweringModel():
            return module.encoder
        case VideoTextModel():
            return module.vision_encoder.encoder
        case _:
            raise TypeError(type(module))


def left_out(source: Source) -> tuple[str, ...]:
    """A sentence about what the weights did not hold, so that no target writes it; none where they held all."""
    parts = sorted({name.rpartition(".")[0] for name in source.fresh})
    return (f"The weights held nothing of {some(parts)}: these are not written.",) if parts else ()


# ---------------------------------------------------------------- opening


def open_source(run: EvalRun, *, averaged: bool = False, classes: str | None = None) -> Source:
    """The model of a run, as `jobs.eval_runs.find_runs` finds it; of a bare file, of that which `tasks.file_run` names.

    A checkpoint may be of any ZeRO stage and number of ranks. averaged: the moving average of its weights
    (`optim.ema_decay`). classes: names of its classes, see `jobs.predict_input.class_names`. Nothing is read but the
    weights and the vocabulary: no teacher, no BERT, no data.

    Raises ConfigError for settings that do not fit each other or a vocabulary that is not there, WeightsError and
    CheckpointError for weights that are damaged, do not fit, or lack what the task has.
    """
    verify_checkpoints([run])
    config = _self_contained(run.config)
    names = class_names(classes, known=run.classes, are_named=are_names(run.classes))
    task = build_task(config, device=_CPU, precision="fp32", classes=names)
    module = task.module
    form_of(module)
    _forget_start(module)
    beside, loaded = _load(task, replace(run, config=config), averaged=averaged)
    fresh = _fresh_in(module)
    _refuse_untrained(fresh, run)
    return Source(
        run=run,
        config=config,
        module=module.eval().requires_grad_(False),
        fresh=fresh,
        classes=names or task.classes,
        loaded=loaded,
        manifest=None if run.checkpoint is None else read_checkpoint_manifest(run.checkpoint),
        averaged=averaged or (run.checkpoint is None and config.init.ema),
        beside=beside,
    )


def _load(task: Task, run: EvalRun, *, averaged: bool) -> tuple[dict[str, Tensor], str]:
    """The weights into the module; what the file holds beside it, and a sentence. One copy of the file is in memory."""
    if run.checkpoint is not None:
        return {}, load_scored(task, run, averaged=averaged, judged=())
    initial = read_initial(run.weights, averaged=averaged or run.config.init.ema)
    loaded = start_from(task, initial, run.config.task)
    bare = bare_names(initial.state)
    return {name: value for name, value in bare.items() if name.startswith(BESIDE)}, loaded


def settings_in(config: RunConfig, part: type[P]) -> Iterator[P]:
    """Settings of a part of the model that a task has, whatever the task calls it."""
    return (value for _, value in config.task if isinstance(value, part))


def _self_contained(config: RunConfig) -> RunConfig:
    """The same settings, for which no file but the vocabulary is read: BERT's sizes as numbers, its start random."""
    task = config.task
    update = {name: _without_folder(value) for name, value in task if isinstance(value, BertConfig)}
    return config.model_copy(update={"task": task.model_copy(update=update)})


def _without_folder(text: BertConfig) -> BertConfig:
    update: dict[str, object] = {"weights": "random"}
    if text.preset == "folder":
        size = bert_size_of(text)
        update |= {"preset": "custom", "sizes": BertSizes(**{name: getattr(size, name) for name in _BERT_NUMBERS})}
    if text.vocabulary is None:
        assert isinstance(text.weights, Path), "the schema demands a vocabulary beside random weights"
        update["vocabulary"] = folder_of(text.weights)
    return text.model_copy(update=update)


def _forget_start(module: nn.Module) -> None:
    """No parameter has a number any more: what the weights do not bring is seen (`_fresh_in`)."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)


def _fresh_in(module: nn.Module) -> frozenset[str]:
    """Weights that were read are finite, so what is not was not read."""
    return frozenset(name for name, value in module.state_dict().items() if not value.isfinite().all())


def _refuse_untrained(fresh: frozenset[str], run: EvalRun) -> None:
    """Raises WeightsError where the weights lack more than what a finished model may leave behind."""
    lacking = sorted(name for name in fresh if not any(part in name for part in _DISPENSABLE))
    if lacking:
        raise WeightsError(
            f"{run.weights} lacks {len(lacking)} tensors of a trained {run.config.task.kind} model: {some(lacking)}",
            hint="name the weights that this task has trained, or the run that these belong to",
        )
