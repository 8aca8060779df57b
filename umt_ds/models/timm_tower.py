"""timm's image transformers as teachers: SigLIP, DINOv2, DINOv3, AIMv2, BEiT, EVA, PE and their like.

One wrapper for three classes of timm: `VisionTransformer`, `Eva` (rotary positions, registers) and `Beit` (relative
positions). Embedding, positions, blocks and norms are the library's own code; the last block is opened
(`timm_blocks.py`) where its sums are known. Which families there are: METHOD.md, "Teachers of other families".

Seen: timm 1.0.31.

Shapes: F frames, S patches per frame, P prefix tokens (class, registers), N = P + S, W width, C width of the output,
d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from timm.models import beit, eva, vision_transformer
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from umt_ds.errors import ConfigError, WeightsError
from umt_ds.kernels.embed_visible import embed_visible
from umt_ds.models.layers import PixelStatistics
from umt_ds.models.presets import VitSize
from umt_ds.models.timm_blocks import OpenBlock, OpenLastBlock, WholeLastBlock, can_open, pooling_attention
from umt_ds.models.towers import Features, LastBlock, MapSource, TimmModel, cannot_teach, choose_features

# Of a file, what a tower without that part has no place for: classifiers, and what masked pretraining alone needs.
_LEFT_OUT = ("head.", "head_dist.", "lm_head.", "mask_token")


def is_timm_name(name: str) -> bool:
    """Whether timm has a model of that name, with or without the tag of its weights (`vit_….lvd142m`)."""
    return bool(timm.is_model(name))


def timm_names() -> list[str]:
    """The names of all models of timm, for a hint."""
    return list(timm.list_models())


class TimmTower(nn.Module):
    """A `VisionTransformer`, `Eva` or `Beit` of timm, frame by frame.

    features: "tokens" are block outputs behind the last norm, as `forward_intermediates(norm=True)` gives them (behind
    `fc_norm` where the model norms after its mean); "projected" also pass the projection, where the model applies one
    to a token or a mean of tokens. None takes "projected" where there is one. statistics: its own pixels' mean and std.
    Raises ConfigError for features that the tower has not.
    """

    def __init__(
        self, trunk: Any, *, name: str, features: Features | None = None, statistics: PixelStatistics | None = None
    ) -> None:
        super().__init__()
        self.visual = trunk
        self.name, self.own_pixels = name, statistics or _statistics(trunk)
        self.image_size: tuple[int, int] = trunk.patch_embed.img_size
        self.grid: tuple[int, int] = trunk.patch_embed.grid_size
        self.patches = self.grid[0] * self.grid[1]
        self.prefix_tokens: int = trunk.num_prefix_tokens
        self.blocks: Any = trunk.blocks
        self.size = _size(trunk, self.image_size[0] // self.grid[0])
        has_projection = isinstance(trunk.head, nn.Linear) and trunk.global_pool in ("token", "avg")
        self.features: Features = choose_features(
            features, name=name, has_projection=has_projection, why=_why_not(trunk)
        )
        self.projected_width: int = trunk.head.out_features if self.features == "projected" else 0
        self.out_width: int = self.projected_width or trunk.embed_dim
        self.embed_width: int = trunk.head.out_features if isinstance(trunk.head, nn.Linear) else trunk.num_features
        self.left_out: tuple[str, ...] = ()
        self._last = OpenBlock(trunk.blocks[-1]) if can_open(trunk.blocks[-1]) else None
        self.map_source: MapSource | None = self._source_of_map()

    @property
    def is_lean(self) -> bool:
        """Whether the last block runs on kept tokens alone: not where a pooling head must see all of its outputs."""
        return self._last is not None and self.map_source != "pooling head"

    def embed_pixels(self, pixels: Tensor, statistics: PixelStatistics) -> Tensor:
        """uint8 clips [B,T,H,W,3] of the tower's size to the input of the first block [F,N,W]."""
        embed = self.visual.patch_embed
        weight, bias = embed.proj.weight, embed.proj.bias
        patches = embed_visible(
            pixels, None, weight.flatten(1), weight.new_zeros(len(weight)) if bias is None else bias, None,
            patch=self.size.patch, mean=statistics.mean, std=statistics.std,
        )  # fmt: skip
        return self._placed(embed.norm(patches.reshape(-1, self.patches, self.size.width)))

    @property
    def embeds_pixels(self) -> bool:
        """Whether its patches are one product of pixels, which `embed_pixels` makes."""
        return isinstance(self.visual.patch_embed, timm.layers.PatchEmbed)

    def embed_images(self, images: Tensor) -> Tensor:
        """Normalised images [F,3,H,W] to the input of the first block [F,N,W]."""
        return self._placed(self.visual.patch_embed(images))

    def _placed(self, patches: Tensor) -> Tensor:
        """Prefix tokens and positions, by the library's own functions."""
        trunk = self.visual
        if isinstance(trunk, Beit):
            x = torch.cat([trunk.cls_token.expand(len(patches), -1, -1), patches], dim=1)
            return x if trunk.pos_embed is None else x + trunk.pos_embed
        placed = trunk._pos_embed(patches)
        out: Tensor = trunk.norm_pre(placed[0] if isinstance(trunk, Eva) else placed)
        return out

    def contexts(self) -> dict[str, Tensor | None]:
        """What each block wants beside its input: rotations, or the bias that blocks share."""
        trunk = self.visual
        match trunk:
            case Eva():
                return {"rope": self._rope()}
            case Beit():
                return {"shared_rel_pos_bias": None if trunk.rel_pos_bias is None else trunk.rel_pos_bias()}
            case _:
                return {}

    def _rope(self) -> Tensor | None:
        """Rotations of the patches [S,2d]."""
        rope = self.visual.rope
        embed: Tensor | None = None if rope is None else rope.get_embed()
        return embed

    def last_block(self, x: Tensor) -> LastBlock:
        """Begin the last block on x [F,N,W]."""
        block = self._last
        if block is None or not self.is_lean:
            tokens = self.blocks[-1](x, **self.contexts())
            return WholeLastBlock(tokens, self._pooled(tokens) if self.map_source == "pooling head" else None)
        context = self.contexts()
        rope, shared = self._rope_of_all(context.get("rope")), context.get("shared_rel_pos_bias")
        return OpenLastBlock.begun(block, x, prefix_tokens=self.prefix_tokens, rope=rope, bias=block.bias(shared))

    def _rope_of_all(self, rope: Tensor | None) -> Tensor | None:
        """Rotations of all tokens [N,2d]: prefix tokens are not turned (sine 0, cosine 1)."""
        if rope is None:
            return None
        still = torch.zeros(self.prefix_tokens, rope.shape[-1], dtype=rope.dtype, device=rope.device)
        still[:, rope.shape[-1] // 2 :] = 1
        return torch.cat([still, rope])

    def _pooled(self, tokens: Tensor) -> Tensor:
        """The pooling head's attention to the patches [F,S], of what the last block made of all tokens [F,N,W]."""
        trunk, seen = self.visual, self.visual.norm(tokens)
        skipped = 0
        if isinstance(trunk, VisionTransformer) and not trunk.pool_include_prefix:  # as `VisionTransformer.pool`
            seen, skipped = seen[:, self.prefix_tokens :], self.prefix_tokens
        return pooling_attention(trunk.attn_pool, seen)[:, self.prefix_tokens - skipped :]

    def project(self, x: Tensor) -> Tensor:
        """Block outputs [..., W] to features [..., C]."""
        trunk = self.visual
        tokens: Tensor = trunk.fc_norm(trunk.norm(x))
        return trunk.head(tokens) if self.features == "projected" else tokens

    def frame_embedding(self, last: LastBlock, frames: int) -> Tensor:
        """The library's own embedding of each frame: [F,C], or [F,W] of a tower without projection."""
        out: Tensor = self.visual.forward_head(self.visual.norm(last.output(None)))
        return out

    def _source_of_map(self) -> MapSource | None:
        if self.visual.cls_token is not None and self._last is not None:
            return "class token"
        return (
            "pooling head"
            if isinstance(getattr(self.visual, "attn_pool", None), timm.layers.AttentionPoolLatent)
            else None
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TimmTower:
        """Moves and casts, but for rotations, which stay in fp32: rounded angles would turn far patches wrongly."""
        rope: Any = getattr(self.visual, "rope", None)
        exact: dict[str, Tensor] = {} if rope is None else dict(rope.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, table in exact.items():
            moved = rope.get_buffer(name)
            if moved.dtype.itemsize < table.dtype.itemsize:
                rope.register_buffer(name, table.to(moved.device), persistent=False)
        return self


def _statistics(trunk: Any) -> PixelStatistics | None:
    """Mean and deviation that timm says the model was trained with."""
    config = getattr(trunk, "pretrained_cfg", None) or {}
    mean, std = config.get("mean"), config.get("std")
    return None if mean is None or std is None else PixelStatistics(tuple(mean), tuple(std))


def _size(trunk: Any, patch: int) -> VitSize:
    """mlp_ratio is that of an MLP of two products as large as the block's, which may have three (SwiGLU)."""
    block, width = trunk.blocks[0], trunk.embed_dim
    products = sum(layer.weight.numel() for layer in block.mlp.modules() if isinstance(layer, nn.Linear))
    return VitSize(
        width=width,
        depth=len(trunk.blocks),
        heads=block.attn.num_heads,
        patch=patch,
        mlp_ratio=products / (2 * width**2),
    )


def _why_not(trunk: Any) -> str:
    """Why a tower has no projection of single tokens."""
    if isinstance(trunk.head, nn.Linear):
        return "its projection stands behind a pooling head, so no single token passes it"
    if getattr(trunk, "attn_pool", None) is not None:
        return "it ends in a pooling head, which no single token passes"
    return "it is built without one (of a CLIP, open_clip's name has it)"


def build_timm_tower(
    model: TimmModel, *, name: str, features: Features | None, statistics: PixelStatistics | None
) -> TimmTower:
    """The tower with random weights; name: what the user calls it. Raises ConfigError for a model that cannot teach, or
    an image size that its patches do not fill."""
    with torch.device("meta"):
        kind = type(timm.create_model(model.name))
    if not issubclass(kind, VisionTransformer | Eva | Beit):
        raise cannot_teach(name)
    options: dict[str, Any] = {} if model.global_pool is None else {"global_pool": model.global_pool}
    if not issubclass(kind, Beit):
        options["dynamic_img_size"] = False  # one size, so that rotations are made once
    trunk = timm.create_model(model.name, num_classes=model.outputs, **options)
    rotations = getattr(trunk, "rope", None)
    if rotations is not None and not isinstance(
        rotations, timm.layers.RotaryEmbeddingCat | timm.layers.RotaryEmbeddingDinoV3
    ):
        raise cannot_teach(name)  # learned rotations: a table a block, which `OpenBlock` does not know
    side = model.image_size
    if side is not None and (side, side) != tuple(trunk.patch_embed.img_size):
        patch = trunk.patch_embed.img_size[0] // trunk.patch_embed.grid_size[0]
        if side % patch:
            raise ConfigError(
                f"image_size={side} is not a multiple of {patch}, the side of the patches of {name}",
                hint=f"nearest: {max(1, side // patch) * patch} or {(side // patch + 1) * patch}",
            )
        trunk.set_input_size(img_size=(side, side))
    return TimmTower(trunk, name=name, features=features, statistics=statistics)


def load_timm(tower: TimmTower, state: Mapping[str, Tensor]) -> None:
    """Load weights in timm's names or those of the model's authors, by timm's own translation; positions are resized
    by it where the tower's grid is another. What the tower has no place for is noted in `left_out`.

    Raises WeightsError where anything is missing, unknown or of another shape.
    """
    trunk = tower.visual
    try:
        weights = _translated(trunk, dict(state))
    except Exception as error:  # of a file that is no such model, the library's translations raise nearly anything
        raise _misfit(tower, f"timm cannot translate them ({type(error).__name__}: {error})") from error
    own = trunk.state_dict()
    tower.left_out = tuple(sorted(name for name in weights.keys() - own.keys() if name.startswith(_LEFT_OUT)))
    kept = {name: value for name, value in weights.items() if name not in tower.left_out}
    try:
        trunk.load_state_dict(kept, strict=True)
    except RuntimeError as error:
        raise _misfit(tower, " ".join(str(error).split())[:600]) from error


def _translated(trunk: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    patches, own = state.get("patch_embed.proj.weight"), trunk.patch_embed
    if patches is not None and patches.dim() == 4 and isinstance(own, timm.layers.PatchEmbed):
        theirs, ours = patches.shape[-1], own.proj.weight.shape[-1]
        if theirs != ours:  # the library would resize them, without a word
            raise ValueError(f"patches of {theirs} px in the file, of {ours} px in the model")
    match trunk:
        case Eva():
            return dict(eva.checkpoint_filter_fn(_without_zero_bias(trunk, state), trunk))
        case Beit():
            return dict(beit.checkpoint_filter_fn(state, trunk))
        case _:
            return dict(vision_transformer.checkpoint_filter_fn(state, trunk))


def _without_zero_bias(trunk: Eva, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv3's files have biases of zeros, which timm's plain names leave out and its `…_qkvb` names have."""
    if "storage_tokens" not in state or trunk.blocks[0].attn.q_bias is not None:
        return state
    biases = {name for name in state if name.endswith("qkv.bias")}
    parts = [state[name].chunk(3) for name in biases]
    if any(query.any() or value.any() for query, _, value in parts):  # the key's is masked, and no weight
        raise ValueError("its queries and values have biases, which this model has not: take the name ending in _qkvb")
    return {name: value for name, value in state.items() if name not in biases}


def _misfit(tower: TimmTower, what: str) -> WeightsError:
    return WeightsError(
        f"the weights do not fit teacher {tower.name!r}: {what}",
        hint="the file of this very model: timm's, open_clip's, its authors', or a Hugging Face folder of it",
    )
