"""What a run YAML may say: frozen pydantic models, unknown keys forbidden.

Every number has one home. Defaults live here, recipe values in `umt_ds/configs`, derived numbers in
`batching.py`. Each field says whether a change makes it another experiment: `NUMBERS` lists the key
paths that do, everything else is about running (see ARCHITECTURE: two hashes per checkpoint).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from umt_ds.config.values import (
    Clips,
    Count,
    CountAboveOne,
    CountOrNone,
    Draw,
    FilePath,
    Name,
    Part,
    PartBelowOne,
    Place,
    Positive,
    PositiveOrNone,
    Steps,
    StepsOrNone,
    Text,
)
from umt_ds.errors import ConfigError


class Section(BaseModel):
    """Base of every section: immutable, and a key that is not declared is an error."""

    # never infinite, never NaN; the other bounds of numbers are in values.py or at their field
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def _refuse_backwards(name: str, pair: tuple[float, float]) -> None:
    if not pair[0] < pair[1]:
        raise ValueError(f"{name} begins at {pair[0]} and ends at {pair[1]}: the first is the smaller one")


# ---------------------------------------------------------------- models


class TowerConfig(Section):
    """A CLIP image tower by its numbers (open_clip's VisionTransformer with a class token)."""

    image_size: Count
    patch_size: Count
    width: Count
    layers: Count
    heads: Count
    out_width: Count
    quick_gelu: bool = True

    @model_validator(mode="after")
    def _divides(self) -> TowerConfig:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def open_clip_config(self) -> dict[str, Any]:
        """The same numbers in the words of open_clip's model configs."""
        return {
            "embed_dim": self.out_width,
            "quick_gelu": self.quick_gelu,
            "vision_cfg": {
                "image_size": self.image_size,
                "patch_size": self.patch_size,
                "width": self.width,
                "layers": self.layers,
                "head_width": self.width // self.heads,
            },
        }


class StudentConfig(Section):
    """The space-time ViT that is trained (SPEC 1.1)."""

    preset: Literal["pocket", "tiny", "vit_b16", "vit_l16"] = "vit_b16"
    frames: Count = Field(8, description="frames per clip the model sees")
    image_size: Count = 224
    drop_path: PartBelowOne = 0.0
    checkpoint_blocks: CountOrNone = Field(0, description="first n blocks recompute their activations")


class TeacherConfig(Section):
    """The frozen CLIP tower that is imitated (SPEC 2)."""

    preset: Text = Field("clip_b16", description="clip_b16, clip_l14, an open_clip model name, or `custom` with tower")
    tower: TowerConfig | None = None
    weights: Literal["random"] | FilePath = Field(description="weight file, model or run folder; or `random`, to try")
    image_size: Count | None = Field(None, description="side the teacher sees; default: the preset's")
    layers: Count = Field(6, description="K: the last K blocks are aligned")
    interval: Positive = Field(1.0, description="distance between aligned blocks")
    pixels: Literal["imagenet", "clip"] = Field(
        "imagenet", description="mean and std of the teacher's input; all published weights use imagenet"
    )
    norm: Literal["l2", "none"] = "l2"
    precision: Literal["run", "fp8"] = Field(
        "run",
        description="fp8 multiplies faster on L40S, H100 and later, in bf16 runs; elsewhere the log says why not",
    )

    @model_validator(mode="after")
    def _custom(self) -> TeacherConfig:
        if (self.preset == "custom") != (self.tower is not None):
            raise ValueError("preset: custom and tower belong together")
        return self


class MaskConfig(Section):
    """Which tokens the student sees (SPEC 3)."""

    kind: Literal["semantic", "random", "tube"] = "semantic"
    ratio: PartBelowOne = Field(0.8, description="part of the tokens that is removed")
    views: Count = Field(
        1, description="masks drawn for each clip: they share decoding and teacher, the loss is the mean"
    )


class Stage1Config(Section):
    """Masked video distillation from a frozen teacher (UMT section 3.1)."""

    kind: Literal["stage1"]
    student: StudentConfig = StudentConfig()
    teacher: TeacherConfig
    mask: MaskConfig = MaskConfig()
    loss: Literal["l2", "mse", "smooth_l1"] = "l2"


class BertSizes(Section):
    """A BERT by its numbers."""

    width: Count
    layers: CountAboveOne
    heads: Count
    hidden: Count = Field(description="width inside the feed-forward parts")
    vocab_size: Count = 30522

    @model_validator(mode="after")
    def _divides(self) -> BertSizes:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class BertConfig(Section):
    """The BERT whose lower layers read text and whose upper ones look at the video too (SPEC 7.1)."""

    preset: Literal["bert_base", "bert_large", "folder", "custom"] = Field(
        "bert_base", description="sizes: of a name, of the folder's config.json, or `custom` with sizes"
    )
    sizes: BertSizes | None = None
    weights: Literal["random"] | FilePath = Field(
        description="a Hugging Face folder (config.json, weights, uncased vocabulary); `random` to start from nothing"
    )
    vocabulary: FilePath | None = Field(
        None, description="folder of a tokenizer, or a vocab.txt; default: that of weights"
    )
    fusion_layers: Count = Field(3, description="the last n layers get cross-attention; the others encode text")
    max_tokens: CountAboveOne = Field(32, description="a longer caption loses its end")
    dropout: PartBelowOne = 0.1
    checkpoint_layers: CountOrNone = Field(0, description="first n layers recompute their activations")

    @model_validator(mode="after")
    def _consistent(self) -> BertConfig:
        if (self.preset == "custom") != (self.sizes is not None):
            raise ValueError("preset: custom and sizes belong together")
        if self.weights == "random" and self.preset == "folder":
            raise ValueError("preset: folder reads the folder that weights names, and weights is random")
        if self.weights == "random" and self.vocabulary is None:
            raise ValueError("weights: random has no vocabulary: name one, a tokenizer's folder or a vocab.txt")
        return self


class LossWeights(Section):
    """What each part of the objective counts; 0 leaves it out (UMT table 5)."""

    vtc: PositiveOrNone = Field(1.0, description="video-text contrastive")
    vtm: PositiveOrNone = Field(1.0, description="video-text matching")
    mlm: PositiveOrNone = Field(1.0, description="masked language modelling")
    uta: PositiveOrNone = Field(1.0, description="unmasked token alignment; without it no teacher and no semantic mask")


class ContrastiveConfig(Section):
    """VTC (SPEC 7.4)."""

    gather: Literal["exact", "sliced"] = Field(
        "exact",
        description="gradient of the global batch at any number of ranks, or, as published, over that number for the "
        "encoders (as loss_weights.vtc=1/ranks has it)",
    )
    positives: Literal["caption", "sample"] = Field(
        "caption",
        description="what belongs together, here and in VTM: rows whose captions say the same, too, or, as published, "
        "rows of one sample alone",
    )
    temperature: Positive = Field(0.07, description="at the start; it is trained")
    bounds: tuple[Positive, Positive] = (0.001, 0.5)

    @model_validator(mode="after")
    def _in_order(self) -> ContrastiveConfig:
        _refuse_backwards("bounds", self.bounds)
        return self

    @model_validator(mode="after")
    def _inside(self) -> ContrastiveConfig:
        low, high = self.bounds
        if low <= high and not low <= self.temperature <= high:
            raise ValueError(f"temperature {self.temperature} is not inside its bounds [{low}, {high}]")
        return self


class MatchingConfig(Section):
    """VTM (SPEC 7.4)."""

    negatives: Literal["local", "global"] = Field(
        "local", description="drawn from this rank's rows, as published, or from all ranks'"
    )
    hard: bool = Field(True, description="in proportion to softmax(similarity); false: evenly")


class MaskedWordsConfig(Section):
    """MLM (SPEC 7.4)."""

    ratio: PartBelowOne = Field(0.5, gt=0, description="part of the tokens that is to be guessed")
    mean: Literal["local", "global"] = Field(
        "local", description="mean over the guesses of a rank, then of the ranks, as published; or over all guesses"
    )


class MediaMasks(Section):
    """What the encoder does not see: of an image, of a clip. null hides nothing."""

    image: MaskConfig | None = MaskConfig(ratio=0.5)
    video: MaskConfig | None = MaskConfig(ratio=0.8)

    @model_validator(mode="after")
    def _one_view(self) -> MediaMasks:
        if any(mask is not None and mask.views > 1 for mask in (self.image, self.video)):
            raise ValueError("views is for stage 1: a caption belongs to one look at its clip")
        return self


class Stage2Config(Section):
    """Video-language pretraining on images and clips with captions (UMT section 3.2)."""

    kind: Literal["stage2"]
    student: StudentConfig = StudentConfig(frames=4)
    text: BertConfig
    teacher: TeacherConfig | None = None
    mask: MediaMasks = MediaMasks()
    embed_width: Count = Field(512, description="of the space where videos and texts are compared")
    loss_weights: LossWeights = LossWeights()
    vtc: ContrastiveConfig = ContrastiveConfig()
    vtm: MatchingConfig = MatchingConfig()
    mlm: MaskedWordsConfig = MaskedWordsConfig()
    loss: Literal["l2", "mse", "smooth_l1"] = Field("l2", description="of UTA")
    align_projections: Literal["none", "visual", "visual_text"] = Field(
        "none", description="draw the projections towards CLIP's own embeddings (UMT table 16)"
    )

    @model_validator(mode="after")
    def _teacher(self) -> Stage2Config:
        if self.teacher is None and (self.loss_weights.uta or self.align_projections != "none"):
            raise ValueError("loss_weights.uta and align_projections need a teacher; without one: loss_weights.uta: 0")
        return self

    @model_validator(mode="after")
    def _something(self) -> Stage2Config:
        if not any(self.loss_weights.model_dump().values()) and self.align_projections == "none":
            raise ValueError("all loss_weights are 0: there is nothing to learn")
        return self

    @property
    def needs_teacher(self) -> bool:
        """Whether anything is compared with the teacher."""
        return self.loss_weights.uta > 0 or self.align_projections != "none"

    def mask_of(self, medium: Literal["image", "video"]) -> MaskConfig | None:
        """How tokens of a medium are hidden; None where all are seen.

        Semantic masks belong to UTA: without it there are none, as in the paper's table 5 (SPEC 7.3).
        """
        mask = self.mask.image if medium == "image" else self.mask.video
        if mask is None or mask.ratio == 0 or (mask.kind == "semantic" and not self.loss_weights.uta):
            return None
        return mask


class ClipTextConfig(Section):
    """open_clip's text tower by its numbers (its own BPE vocabulary)."""

    width: Count = 128
    layers: Count = 2
    heads: Count = 4
    context_length: CountAboveOne = 32


class ImageTextConfig(Section):
    """Contrastive training of a CLIP on single frames with captions: makes the demo's own teacher."""

    kind: Literal["image_text"]
    tower: TowerConfig
    text: ClipTextConfig = ClipTextConfig()
    pixels: Literal["imagenet", "clip"] = Field("imagenet", description="mean and std of the image tower's input")


TaskConfig = Annotated[Stage1Config | Stage2Config | ImageTextConfig, Field(discriminator="kind")]

# ---------------------------------------------------------------- data


class FramesConfig(Section):
    """How the frames of a clip are chosen from those stored (SPEC 6.2). The count is the task's."""

    policy: Literal["sparse", "dense", "intervals"] = Field(
        "sparse", description="intervals: as sparse, but by the rule of stage 2 (SPEC 7.6)"
    )
    stride: Count = Field(1, description="dense only: distance between frames")

    @field_validator("stride")
    @classmethod
    def _of_dense(cls, stride: int, info: ValidationInfo) -> int:
        if stride != 1 and info.data.get("policy", "dense") != "dense":
            raise ValueError(f"it is for policy: dense, and policy is {info.data['policy']}")
        return stride


class SourceConfig(Section):
    """One folder of shards written by umt-data, or indexed by it; or tars to stream, which makes the run inexact."""

    shards: Place | tuple[Place, ...] = Field(
        description="folder or URL (s3://, hf://, http://) of indexed shards; streamed: pipe:COMMAND, names that end "
        "in .tar (patterns such as {000..099}.tar too), or a list of these"
    )
    media: Literal["image", "video"] = Field("video", description="an image is a clip of one frame")
    caption: Text = Field("caption", description="field of a sample's json that holds its text, or a list of texts")
    samples: Draw | None = Field(None, gt=0, description="streamed only: how many there are, if the schedule asks")
    repeat: Positive = Field(
        1.0,
        description="draws of an epoch that a sample stands for, such as its number of captions (each draw shows one); "
        "without weights the mixture follows",
    )
    weight: Positive | None = Field(
        None, description="share of the draws; default: proportional to size × repeat, one in 2^20 at least"
    )
    frames: FramesConfig = FramesConfig()

    @property
    def is_stream(self) -> bool:
        """Whether the tars are read from end to end, in an order that cannot be repeated."""
        return not isinstance(self.shards, str) or self.shards.startswith("pipe:") or self.shards.endswith(".tar")

    @property
    def names(self) -> tuple[str, ...]:
        """`shards`, as a list in any case."""
        return (self.shards,) if isinstance(self.shards, str) else self.shards

    @model_validator(mode="after")
    def _sizes(self) -> SourceConfig:
        if self.samples is not None and not self.is_stream:
            raise ValueError("samples is for streamed tars: the manifest of a folder says how many it holds")
        if not self.shards:
            raise ValueError("shards names nothing")
        return self


class AugmentConfig(Section):
    """What happens to the pixels of a training clip (SPEC 6.3)."""

    crop: Literal["multi_scale", "random_resized", "center"] = "multi_scale"
    scale: tuple[Part, Part] = Field((0.5, 1.0), description="random_resized only: part of the area that is kept")
    flip: bool = True
    color_jitter: PositiveOrNone = 0.0
    antialias: bool = Field(
        True,
        description="where frames shrink, a pixel is the mean of all that it covers (stage 1); false: of the nearest "
        "alone, as published stage 2 and its evaluation, to the byte: a core then makes a third as many clips",
    )
    # among the numbers: a pixel may become its neighbour of 256
    on_device: Literal["nothing", "resize", "decode"] = Field(
        "nothing",
        description="what the training device does in place of data.workers: `resize` (crops come as they are stored), "
        "or `decode` too (CUDA only; nvJPEG's colours differ a little from libjpeg's)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> AugmentConfig:
        if self.on_device != "nothing" and self.color_jitter:
            raise ValueError("color_jitter is the workers' work: it needs on_device: nothing")
        _refuse_backwards("scale", self.scale)
        return self

    @field_validator("scale")
    @classmethod
    def _of_random_resized(cls, scale: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        crop = info.data.get("crop", "random_resized")
        if scale != cls.model_fields["scale"].default and crop != "random_resized":
            raise ValueError(f"it is for crop: random_resized, and crop is {crop}")
        return scale


class CacheConfig(Section):
    """What is kept of remote shards on the disk of a node, for all its ranks, workers and runs."""

    folder: FilePath | None = Field(None, description="on a local disk; default: umt-cache-UID in the temporary folder")
    max_gb: PositiveOrNone = Field(10.0, description="its bound, in 1e9 bytes; runs that share a folder give the same")


class DataConfig(Section):
    """Where clips come from and how they are read."""

    sources: dict[Text, SourceConfig] = Field(min_length=1)
    cache: CacheConfig = CacheConfig()
    augment: AugmentConfig = AugmentConfig()
    num_sample: Count = Field(1, description="augmented views per drawn clip (repeated augmentation)")
    window: Count = Field(16, description="shards that are shuffled together")
    workers: int = Field(4, ge=0, le=1000, description="loader processes per rank")
    max_bad_rate: Part = Field(0.01, description="stop when more draws than this need a substitute")
    skip_draws: tuple[tuple[Draw, Draw], ...] = Field((), description="draw ranges [a, b) to replace, e.g. after a NaN")

    @model_validator(mode="after")
    def _ranges(self) -> DataConfig:
        for skipped in self.skip_draws:
            _refuse_backwards("skip_draws", skipped)
        return self


# ---------------------------------------------------------------- optimisation


class BatchConfig(Section):
    """`global` clips are drawn for one optimiser step, `micro` at a time on each rank."""

    global_: Clips = Field(alias="global")
    micro: Clips
    media: Literal["alternate", "packed"] = Field(
        "alternate",
        description="sources of images and of clips: one medium a step, as published, or both in each batch",
    )
    pack: Count = Field(16, description="packed: so many draws hold whole shares of both media; divides micro")
    split_contrastive: bool = Field(
        False, description="a rank's whole share of a step is compared at once, `micro` rows in memory at a time"
    )


class OptimConfig(Section):
    """AdamW (SPEC 5). With lr_rule per_256 lr and min_lr are per 256 views of the global batch."""

    lr: Positive
    lr_rule: Literal["per_256", "absolute"]
    min_lr: PositiveOrNone = 0.0
    betas: tuple[PartBelowOne, PartBelowOne] = (0.9, 0.95)
    eps: float = Field(1e-8, ge=1e-30, le=1)
    weight_decay: PositiveOrNone = 0.05
    clip_grad: Positive | None = Field(None, description="largest gradient norm; null: no clipping")

    @field_validator("min_lr")
    @classmethod
    def _below_lr(cls, min_lr: float, info: ValidationInfo) -> float:
        if min_lr > info.data.get("lr", min_lr):
            raise ValueError(f"it is above lr, which is {info.data['lr']}: the learning rate would rise")
        return min_lr


LrCurve = Literal["cosine_offset", "cosine_floor"]


class ScheduleConfig(Section):
    """Length of the run, in epochs of all sources together or in optimiser steps; the curve of its learning rate."""

    # the default is what runs had before there was a choice: their config.yaml keeps its meaning
    curve: LrCurve = Field(
        "cosine_offset",
        description="offset: from 0 to lr, and down to min_lr (stage 1); floor: down to 0, but never below min_lr, "
        "where it starts too (stage 2). Formulas: umt_ds/engine/schedule.py",
    )

    epochs: Positive | None = Field(None, le=1e6)
    warmup_epochs: PositiveOrNone | None = Field(None, le=1e6)
    steps: Steps | None = None
    warmup_steps: StepsOrNone | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> ScheduleConfig:
        in_epochs = (self.epochs is not None) and self.steps is None and self.warmup_steps is None
        in_steps = (self.steps is not None) and self.epochs is None and self.warmup_epochs is None
        if not (in_epochs or in_steps):
            raise ValueError("give epochs and warmup_epochs, or steps and warmup_steps")
        return self


def _flat(settings: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in settings.items():
        is_section = isinstance(value, dict) and bool(value)
        leaves.update(_flat(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}": value})
    return leaves


class EngineConfig(Section):
    """The DeepSpeed JSON owns ZeRO, precision, offload and communication; this names it."""

    deepspeed: Place = Field(description="a file of ds_configs/ by its name alone, or a path such as ./mine.json")
    compile: bool = Field(False, description="torch.compile for the blocks of student and teacher; not at ZeRO stage 3")
    graph: bool = Field(False, description="replay the teacher as a CUDA graph: pays where its kernels are small")
    ahead: bool = Field(False, description="teacher of the next batch beside the student of this one; takes memory")
    deepspeed_set: dict[Text, bool | Draw | float | Text] = Field(
        {}, description="overrides in the JSON by dotted key, e.g. {zero_optimization.stage: 2}"
    )

    @field_validator("deepspeed_set", mode="before")
    @classmethod
    def _dotted(cls, settings: Any) -> Any:
        """`engine.deepspeed_set.zero_optimization.stage=2` on the command line arrives as nested mappings."""
        return _flat(settings) if isinstance(settings, dict) else settings


class CadenceConfig(Section):
    """How often things happen: in optimiser steps, the watchdog's in seconds."""

    log: Steps = 20
    save: Steps = 1000
    keep: Count = Field(3, description="newest checkpoints kept")
    max_skipped: StepsOrNone = Field(
        0,
        description="steps of the whole run that may be left out because their gradient is NaN or infinite (it never "
        "reaches the weights); one more ends the job with 75, and with 1 where the same step fails again",
    )
    async_save: bool = Field(True, description="train on while a checkpoint is written, from a copy in RAM")
    # below the 600 s after which torch ends a waiting collective itself, with an exit code that nobody restarts
    watchdog: float = Field(
        540,
        ge=0,
        le=1e7,
        description="seconds without progress after which a rank says where it stands and exits with 75; 0: off",
    )


class InitConfig(Section):
    """Where weights come from when the run folder has no checkpoint of its own."""

    resume_from: FilePath | None = Field(
        None, description="another run or checkpoint folder: continue it, state and all"
    )
    weights: FilePath | None = Field(None, description="weights only: a file, model, checkpoint or run folder")


class ReportConfig(Section):
    """Where the log goes besides the console and metrics.jsonl."""

    tensorboard: bool = True
    wandb: Text | None = Field(None, description="W&B project name")


class RunConfig(Section):
    """One run, whole."""

    name: Name = Field(description="of the run and its folder")
    run_dir: FilePath | None = Field(None, description="run folder; default: runs/NAME")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of everything random")
    task: TaskConfig
    data: DataConfig
    batch: BatchConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    engine: EngineConfig
    cadence: CadenceConfig = CadenceConfig()
    init: InitConfig = InitConfig()
    report: ReportConfig = ReportConfig()
    stop_at: Steps | None = Field(None, description="stop, resumable, after this step")

    @model_validator(mode="after")
    def _belongs_together(self) -> RunConfig:
        for key, why in _meaningless(self):
            # no ValueError, which pydantic would blame on the whole run: the key is known here
            raise ConfigError(f"{key}: {why}", hint=f"leave {key} out, or at its default")
        return self

    @property
    def folder(self) -> Path:
        """The run folder: `run_dir`, or runs/NAME under the current directory."""
        return self.run_dir if self.run_dir is not None else Path("runs") / self.name


def _meaningless(run: RunConfig) -> Iterator[tuple[str, str]]:
    """Settings that the task of a run cannot honour, by key path, and why. What a variant of a recipe may leave behind
    is not refused but said (`effect.py`)."""
    kind = run.task.kind
    if kind != "stage2" and run.batch.split_contrastive:
        yield "batch.split_contrastive", f"only stage 2 works on a share in pieces, and task.kind is {kind}"
    if kind != "stage2" and run.batch.media == "packed":
        yield "batch.media", f"only stage 2 trains on images and clips in one batch, and task.kind is {kind}"
    if kind == "image_text" and run.engine.graph:
        yield "engine.graph", "it replays a teacher, and task.kind image_text has none"
    for name, source in run.data.sources.items():
        at = f"data.sources.{name}"
        if run.data.skip_draws and source.is_stream:
            yield "data.skip_draws", f"{at} is streamed, and its draws show what comes next: none can be left out"
        if isinstance(run.task, Stage1Config):
            if source.caption != SourceConfig.model_fields["caption"].default:
                yield f"{at}.caption", "stage 1 reads no captions"
            if source.media == "image" and run.task.student.frames > 1:
                frames = run.task.student.frames
                yield f"{at}.media", f"an image has one frame, and task.student.frames={frames} are trained on"


# Key paths whose change makes another experiment. Paths of weights and shards are not among them: what
# lies there is compared by content (fingerprints in the checkpoint manifest).
NUMBERS = ("seed", "task", "data", "batch.global", "batch.media", "batch.pack", "optim", "schedule")
RUNNING_INSIDE_NUMBERS = (
    "task.teacher.weights",
    "task.student.checkpoint_blocks",
    "task.text.weights",
    "task.text.vocabulary",
    "task.text.checkpoint_layers",
    "data.workers",
    "data.max_bad_rate",
    "data.cache.*",
    "data.sources.*.shards",
)
