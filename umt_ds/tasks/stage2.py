"""Stage 2: video and text learn one language, on captioned images and clips.

Per micro-batch: the teacher looks, its attention draws the masks (image 50 %, video 80 %), words of the captions are
hidden; `stage2_module` holds the objective. Source: UMT section 3.2; SPEC section 7.

Shapes: B rows of one medium, N visible tokens, L text tokens, K aligned layers, C width of the targets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor

from umt_ds.batch import Batch, Media, Tokens
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.schema import BertConfig, MaskConfig, OptimConfig, Stage2Config
from umt_ds.data.text import CaptionTokenizer
from umt_ds.engine.optim import decay_groups
from umt_ds.engine.speed import span
from umt_ds.errors import ConfigError, WeightsError
from umt_ds.kernels.philox import Purpose, uniform
from umt_ds.keyed import digest64
from umt_ds.losses.masked_lm import HiddenWords, Vocabulary, hide_words
from umt_ds.masking import MaskPlan, keep_digest
from umt_ds.models.alignment import unit_length
from umt_ds.models.bert import Bert
from umt_ds.models.presets import BertSize, bert_size, vit_size
from umt_ds.models.teachers import Teacher, TeacherPass, TextTeacher, build_text_teacher
from umt_ds.models.video_text import VideoEncoder, keeps_frames
from umt_ds.models.vit import Clips, VideoViT, drop_path_noise
from umt_ds.tasks.initial import read_weights, state_fingerprint
from umt_ds.tasks.stage1 import COMPUTE_DTYPE, common_grid, load_teacher
from umt_ds.tasks.stage2_module import Rows, Stage2Inputs, Stage2Module
from umt_ds.weights.bert_folder import bert_folder_size, read_bert_folder
from umt_ds.weights.load import LoadReport, load_strict
from umt_ds.weights.published import is_video_text, student_state, text_teacher_state, video_text_state

log = logging.getLogger("umt_ds")


class Stage2Task:
    """Satisfies `engine.protocol.Task`. chunk: rows that are in memory at a time (`batch.split_contrastive`)."""

    def __init__(
        self,
        config: Stage2Config,
        *,
        seed: int,
        device: torch.device,
        precision: Precision,
        tokenizer: CaptionTokenizer,
        chunk: int,
    ) -> None:
        self._config, self._seed, self._device, self._chunk = config, seed, device, chunk
        self._vocabulary = Vocabulary(
            tokenizer.vocab_size, cls_id=tokenizer.cls_id, pad_id=tokenizer.pad_id, mask_id=tokenizer.mask_id
        )
        self._teacher: Teacher | None = None
        self._fingerprints = {"vocabulary": tokenizer.fingerprint}
        if config.teacher is not None and needs_teacher(config):
            self._teacher, self._fingerprints["teacher"] = load_teacher(config.teacher)
        self._text_teacher: TextTeacher | None = None
        if config.align_projections == "visual_text":
            self._text_teacher = load_text_teacher(config)
            self._fingerprints["text teacher"] = state_fingerprint(self._text_teacher.state_dict())
            self._text_teacher.to(device)
        self._masks: dict[Media, MaskPlan | None] = media_masks(config, self._teacher)
        self._module = build_module(config, self._teacher, self._vocabulary, seed=seed)
        if self._teacher is not None:
            self._teacher.to(device, COMPUTE_DTYPE[precision])

    @property
    def module(self) -> Stage2Module:
        return self._module

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def fingerprints(self) -> Mapping[str, str]:
        return self._fingerprints

    @property
    def flops_per_view(self) -> float:
        return 0.0

    def accelerate(self, *, compile: bool, graph: bool) -> None:
        """torch.compile for the blocks of student and teacher; the teacher's look as a CUDA graph."""
        for block in self._module.vision_encoder.encoder.blocks if compile else ():
            block.compile()
        if self._teacher is not None:
            self._teacher.accelerate(compile=compile, graph=graph)

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """The temperature decays too, as published (SPEC 7.4)."""
        return decay_groups(self._module, optim.weight_decay, also=("temp",))

    def load_weights(self, state: Mapping[str, Tensor], where: str) -> str:
        """Start from stage 2 (published or our own), or the video encoder from stage 1. Returns what was loaded."""
        return load_initial(self._module, state, where=where)

    # ------------------------------------------------------------ preparing

    @torch.no_grad()
    def prepare(self, batch: Batch, step: int) -> Stage2Inputs:
        """Words to guess, teacher, masks and targets of one micro-batch, piece by piece."""
        parts = batch.parts
        count = max(1, sum(len(part.draws) for part in parts) // self._chunk)
        pieces = []
        digest = torch.zeros((), dtype=torch.int64, device=self._device)
        for piece in range(count):
            rows = []
            for part in parts:
                each = len(part.draws) // count
                prepared = self._prepare(part.rows(piece * each, (piece + 1) * each), step)
                digest = digest + _digest(prepared, step)
                rows.append(prepared)
            pieces.append(tuple(rows))
        return Stage2Inputs(tuple(pieces), step, digest)

    def _prepare(self, batch: Batch, step: int) -> Rows:
        assert batch.text is not None, "the loader tokenises captions for this task"
        assert batch.ids is not None
        hidden = self._hide_words(batch, step) if self._config.loss_weights.mlm else None
        names = torch.stack([batch.ids, _text_hashes(batch.text.ids)], dim=1)  # i64 [B,2]
        with span("host_to_device"):
            batch = batch.to(self._device)
            names = names.to(self._device, non_blocking=True)
            hidden = None if hidden is None else _moved(hidden, self._device)
        assert batch.text is not None
        plan, frames = self._masks[batch.media], batch.pixels.shape[1]
        kinds = [None if mask is None else mask.kind for mask in self._masks.values()]
        kept_frames = keeps_frames(None if plan is None else plan.kind, masks=kinds)
        with span("teacher"):
            look = None if self._teacher is None else self._teacher.attend(batch.pixels)
        with span("mask"):
            keep = None if plan is None else self._keep(plan, look, batch, step)
        with span("teacher"):
            targets = self._targets(look, keep, plan, batch)
            clip_video = None
            if look is not None and self._config.align_projections != "none":
                clip_video = unit_length(look.embedding().mean(dim=1))
        return Rows(
            medium=batch.media,
            clips=Clips(batch.pixels, keep, self._drop_noise(batch.slots, step)),
            pooled_frames=frames if kept_frames else 1,
            ids=batch.text.ids,
            is_token=batch.text.mask,
            hidden=hidden,
            names=names,
            slots=batch.slots,
            targets=targets,
            clip_video=clip_video,
            clip_text=self._clip_text(batch.text),
        )

    def _hide_words(self, batch: Batch, step: int) -> HiddenWords:
        assert batch.text is not None
        noise = uniform(self._seed, step, batch.slots, 3 * batch.text.ids.shape[1], Purpose.TEXT_MASK)
        return hide_words(batch.text.ids, noise, vocabulary=self._vocabulary, ratio=self._config.mlm.ratio)

    def _keep(self, plan: MaskPlan, look: TeacherPass | None, batch: Batch, step: int) -> Tensor:
        side = self._config.student.image_size // vit_size(self._config.student.preset).patch
        return plan.keep(
            None if look is None else look.attention,
            seed=self._seed,
            step=step,
            slots=batch.slots,
            frames=batch.pixels.shape[1],
            patches=side * side,
        )

    def _targets(
        self, look: TeacherPass | None, keep: Tensor | None, plan: MaskPlan | None, batch: Batch
    ) -> tuple[Tensor, ...]:
        if look is None or not self._config.loss_weights.uta:
            return ()
        if keep is None:  # nothing is hidden: all tokens are aligned
            tokens = batch.pixels.shape[1] * look.teacher.tower.patches
            keep = torch.arange(tokens, device=batch.pixels.device).expand(len(batch.pixels), -1)
        return look.features(keep, equal_frames=plan is None or plan.equal_frames)

    def _clip_text(self, text: Tokens) -> Tensor | None:
        if self._text_teacher is None:
            return None
        assert text.clip_ids is not None, "the loader tokenises captions for CLIP too"
        return self._text_teacher.embedding(text.clip_ids)

    def _drop_noise(self, slots: Tensor, step: int) -> Tensor | None:
        encoder = self._module.vision_encoder.encoder
        return drop_path_noise(self._seed, step, slots, encoder.size.depth) if encoder.drop_path > 0 else None


# ---------------------------------------------------------------- parts


def needs_teacher(config: Stage2Config) -> bool:
    """Whether anything is compared with the teacher."""
    return config.loss_weights.uta > 0 or config.align_projections != "none"


def load_text_teacher(config: Stage2Config) -> TextTeacher:
    """CLIP's text tower, out of the file of the teacher. Raises ConfigError where it is not as wide as the projections,
    WeightsError where the file has no text tower."""
    settings = config.teacher
    assert settings is not None, "the schema demands one"
    if settings.preset == "custom":
        raise ConfigError(
            "task.align_projections=visual_text needs a CLIP with a text tower; a custom teacher has none",
            hint="task.align_projections=visual",
        )
    state = None
    if settings.weights != "random":
        assert isinstance(settings.weights, Path)
        state = text_teacher_state(read_weights(settings.weights))
    return build_text_teacher(settings.preset, state=state)


def media_masks(config: Stage2Config, teacher: Teacher | None) -> dict[Media, MaskPlan | None]:
    """How tokens of each medium are hidden; None where all are seen.

    Semantic masks belong to UTA: without it there are none, as in the paper's table 5 (SPEC 7.3). Raises ConfigError
    for a semantic mask with a teacher that has no class token.
    """

    def plan(mask: MaskConfig | None) -> MaskPlan | None:
        if mask is None or mask.ratio == 0 or (mask.kind == "semantic" and not config.loss_weights.uta):
            return None
        if mask.kind == "semantic" and (teacher is None or not teacher.has_class_token):
            raise ConfigError(
                "a semantic mask needs a teacher with a class token",
                hint="task.mask.video.kind and task.mask.image.kind: tube or random, or a CLIP teacher",
            )
        return MaskPlan(mask.kind, mask.ratio)

    return {"image": plan(config.mask.image), "video": plan(config.mask.video)}


def build_module(config: Stage2Config, teacher: Teacher | None, vocabulary: Vocabulary, *, seed: int) -> Stage2Module:
    """The model with its first weights, the same on every rank: BERT's from its folder, all else from `seed`.

    Raises ConfigError or WeightsError where student, teacher, BERT and tokenizer do not belong together.
    """
    student, settings = config.student, config.teacher
    size = vit_size(student.preset)
    if teacher is not None:
        common_grid(student.image_size, size.patch, teacher)
    if teacher is not None and config.align_projections != "none" and teacher.out_width != config.embed_width:
        raise ConfigError(
            f"task.align_projections: CLIP's projections are {teacher.out_width} wide, not {config.embed_width}",
            hint=f"task.embed_width={teacher.out_width}",
        )
    aligned = teacher is not None and settings is not None and config.loss_weights.uta > 0
    torch.manual_seed(seed)
    vision = VideoEncoder(
        VideoViT(size, drop_path=student.drop_path, checkpoint_blocks=student.checkpoint_blocks),
        out_width=teacher.out_width if teacher is not None else size.width,
        layers=settings.layers if aligned and settings is not None else 0,
        interval=settings.interval if settings is not None else 1.0,
        norm=settings.norm if settings is not None else "l2",
    )
    return Stage2Module(vision, build_bert(config.text, vocabulary, video_width=size.width), config=config, seed=seed)


def build_bert(config: BertConfig, vocabulary: Vocabulary, *, video_width: int) -> Bert:
    """BERT with the weights of its folder; its cross-attention, and a word head that the file lacks, are new."""
    size = bert_size_of(config)
    if config.weights == "random":
        log.info("BERT has random weights (task.text.weights=random)")
        fits = vocabulary.size <= size.vocab_size
    else:
        fits = vocabulary.size == size.vocab_size
    if not fits:
        raise ConfigError(
            f"the tokenizer of {config.vocabulary or config.weights} has {vocabulary.size} tokens and this BERT "
            f"{size.vocab_size}: they do not belong together",
            hint="task.text.vocabulary is the folder that the weights came with; with custom sizes, sizes.vocab_size",
        )
    if config.max_tokens > size.max_tokens:
        raise ConfigError(
            f"task.text.max_tokens={config.max_tokens}, but this BERT knows {size.max_tokens} positions",
            hint=f"task.text.max_tokens={size.max_tokens} at most; longer captions lose their end",
        )
    bert = Bert(
        size,
        fusion_layers=config.fusion_layers,
        video_width=video_width,
        dropout=config.dropout,
        checkpoint_layers=config.checkpoint_layers,
    )
    if config.weights != "random":
        assert isinstance(config.weights, Path)
        log.info("BERT of %s: %s", config.weights, _load_bert(bert, config.weights))
    return bert


def bert_size_of(config: BertConfig) -> BertSize:
    """The sizes that a configuration means. Raises WeightsError where they are a folder's and it has none."""
    match config.preset:
        case "bert_base" | "bert_large" as preset:
            return bert_size(preset)
        case "custom":
            assert config.sizes is not None
            return BertSize(**config.sizes.model_dump())
        case "folder":
            assert isinstance(config.weights, Path)
            return bert_folder_size(config.weights)
        case _:
            assert_never(config.preset)


def _load_bert(bert: Bert, folder: Path) -> LoadReport:
    found = bert_folder_size(folder)
    if found != bert.size:
        raise WeightsError(
            f"{folder} holds a BERT of {found}, the configuration asks for {bert.size}",
            hint="task.text.preset=folder takes the sizes of the folder",
        )
    state = read_bert_folder(folder)
    layers = range(bert.text_layers, bert.size.layers)
    new = [f"bert.encoder.layer.{index}.crossattention." for index in layers]
    if not any(key.startswith("cls.") for key in state):
        new.append("cls.")
    return load_strict(bert, state, where=str(folder), ignore=new)


def load_initial(module: Stage2Module, state: Mapping[str, Tensor], *, where: str) -> str:
    """Weights of stage 2 into all of it, or of stage 1 into its video encoder. Raises WeightsError on a misfit.

    Decoders are left alone where one side has none; the pooling norm is new after stage 1.
    """
    own_decoders = len(module.vision_encoder.clip_decoder) > 0
    if is_video_text(state):
        named = video_text_state(state)
        decoders = "vision_encoder.clip_decoder."
        both = own_decoders and any(key.startswith(decoders) for key in named)
        return str(load_strict(module, named, where=where, ignore=() if both else (decoders,)))
    named = student_state(state)
    both = own_decoders and any(key.startswith("clip_decoder.") for key in named)
    ignore = ("pool_norm.",) if both else ("pool_norm.", "clip_decoder.")
    return f"video encoder: {load_strict(module.vision_encoder, named, where=where, ignore=ignore)}"


def _text_hashes(ids: Tensor) -> Tensor:
    """A hash of each row of token ids: i64 [B,L] to i64 [B]."""
    return torch.tensor([digest64(row.tobytes()) >> 1 for row in ids.numpy()])


def _moved(hidden: HiddenWords, device: torch.device) -> HiddenWords:
    ids, places, labels = (t.to(device, non_blocking=True) for t in (hidden.ids, hidden.places, hidden.labels))
    return HiddenWords(ids, places, labels, hidden.count)


def _digest(rows: Rows, step: int) -> Tensor:
    """What was drawn for these rows: the kept tokens, and the captions as they are with words hidden."""
    digest = rows.slots.new_zeros(())
    if rows.clips.keep is not None:
        digest = digest + keep_digest(rows.clips.keep, step=step, slots=rows.slots)
    if rows.hidden is not None:
        digest = digest + keep_digest(rows.hidden.ids, step=step, slots=rows.slots)
    return digest
