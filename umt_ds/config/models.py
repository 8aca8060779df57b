"""Settings of the models: student, teacher, mask, BERT."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from umt_ds.config.section import RUNNING, Section
from umt_ds.config.values import Count, CountAboveOne, CountOrNone, FilePath, PartBelowOne, Positive, Text


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


class VitSizes(Section):
    """The space-time ViT by its numbers. A patch is one frame deep."""

    width: Count
    depth: Count
    heads: Count
    patch: Count = Field(description="side of a patch in pixels; as large as image_size, a frame is one token")

    @model_validator(mode="after")
    def _divides(self) -> VitSizes:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class StudentConfig(Section):
    """The space-time ViT that is trained (METHOD.md, "Stage 1: student")."""

    preset: Literal["pocket", "tiny", "vit_b16", "vit_l16", "custom"] = Field(
        "vit_b16", description="sizes: of a name, or `custom` with sizes"
    )
    sizes: VitSizes | None = None
    frames: Count = Field(8, description="frames per clip the model sees")
    image_size: Count = 224
    drop_path: PartBelowOne = 0.0
    checkpoint_blocks: Annotated[CountOrNone, RUNNING] = Field(
        0, description="first n blocks recompute their activations"
    )

    @model_validator(mode="after")
    def _consistent(self) -> StudentConfig:
        if (self.preset == "custom") != (self.sizes is not None):
            raise ValueError("preset: custom and sizes belong together")
        return self


class PositionBase(Section):
    """The clip whose sin-cos table is stretched to other clips: that of pretraining (METHOD.md, "Positions")."""

    frames: Count = 8
    image_size: Count = 224


class TeacherConfig(Section):
    """The frozen image tower that is imitated (METHOD.md, "Teacher", "Teachers of other families")."""

    preset: Text = Field(
        "clip_b16", description="clip_b16, clip_l14, open_clip's or timm's name of a model, or `custom` with tower"
    )
    tower: TowerConfig | None = None
    weights: Annotated[Literal["random"] | FilePath, RUNNING] = Field(
        description="weight file, model or run folder; or `random`, to try"
    )
    image_size: Count | None = Field(None, description="side the teacher sees; default: the preset's")
    layers: Count = Field(6, description="K: the last K blocks are aligned")
    interval: Positive = Field(1.0, description="distance between aligned blocks")
    pixels: Literal["imagenet", "clip", "own"] = Field(
        "imagenet",
        description="mean and std of the teacher's input; all published weights use imagenet; own: those it was "
        "trained with",
    )
    features: Literal["projected", "tokens"] | None = Field(
        None,
        description="of a token: behind the projection into the space of text, or before it; default: projected "
        "where the tower has one",
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
    """Which tokens the student sees (METHOD.md, "Masking")."""

    kind: Literal["semantic", "random", "tube"] = "semantic"
    ratio: PartBelowOne = Field(0.8, description="part of the tokens that is removed")
    views: Count = Field(
        1, description="masks drawn for each clip: they share decoding and teacher, the loss is the mean"
    )


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
    """BERT: its lower layers read text, its upper layers cross-attend to the video (METHOD.md, "Stage 2: model")."""

    preset: Literal["bert_base", "bert_large", "folder", "custom"] = Field(
        "bert_base", description="sizes: of a name, of the folder's config.json, or `custom` with sizes"
    )
    sizes: BertSizes | None = None
    weights: Annotated[Literal["random"] | FilePath, RUNNING] = Field(
        description="a Hugging Face folder (config.json, weights, uncased vocabulary); `random` to start from nothing"
    )
    vocabulary: Annotated[FilePath | None, RUNNING] = Field(
        None, description="folder of a tokenizer, or a vocab.txt; default: that of weights"
    )
    fusion_layers: Count = Field(3, description="the last n layers get cross-attention; the others encode text")
    max_tokens: CountAboveOne = Field(32, description="a longer caption loses its end")
    dropout: PartBelowOne = 0.1
    checkpoint_layers: Annotated[CountOrNone, RUNNING] = Field(
        0, description="first n layers recompute their activations"
    )

    @model_validator(mode="after")
    def _consistent(self) -> BertConfig:
        if (self.preset == "custom") != (self.sizes is not None):
            raise ValueError("preset: custom and sizes belong together")
        if self.weights == "random" and self.preset == "folder":
            raise ValueError("preset: folder reads the folder that weights names, and weights is random")
        if self.weights == "random" and self.vocabulary is None:
            raise ValueError("weights: random has no vocabulary: name one, a tokenizer's folder or a vocab.txt")
        return self
