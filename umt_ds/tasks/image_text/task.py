"""A small CLIP on single frames with captions. It makes the demo's own teacher; the model is open_clip's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from umt_ds.batch import Batch, Losses, Tokens
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.image_text import ImageTextConfig
from umt_ds.data.collate import Tokenize
from umt_ds.data.shards.sample_record import plain_text
from umt_ds.data.text import CHARACTERS
from umt_ds.engine.optim import decay_groups
from umt_ds.engine.protocol import InitialWeights
from umt_ds.losses.contrastive import contrastive_loss
from umt_ds.models.flops import teacher_flops_per_clip
from umt_ds.models.full_value import full_value, keep_full
from umt_ds.models.layers import CLIP as CLIP_PIXELS
from umt_ds.models.layers import IMAGENET, normalise
from umt_ds.models.presets import VitSize
from umt_ds.weights.load import about, load_strict
from umt_ds.weights.names import bare_names

START_TEMPERATURE, MIN_TEMPERATURE = 0.07, 0.01  # CLIP's own start and bound


@dataclass(frozen=True)
class ImageTextInputs:
    """images f32 [B,3,H,W], normalised; tokens i64 [B,L]."""

    images: Tensor
    tokens: Tensor


class ImageTextModule(nn.Module):
    """open_clip's two towers; the image tower's weights start with `visual.`, as CLIP files have them."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.visual = clip.visual
        clip.visual = None
        # one dimension: DeepSpeed cannot hold 0-dimensional parameters, so open_clip's own scale is left out
        del clip.logit_scale
        self.text = clip
        self.temperature = nn.Parameter(torch.full((1,), START_TEMPERATURE))
        keep_full(self.temperature)

    def forward(self, inputs: ImageTextInputs) -> Losses:
        """Contrastive loss inside the micro-batch; equal captions are positives of one another."""
        images = F.normalize(self.visual(inputs.images), dim=-1)  # [B,C]
        texts = self.text.encode_text(inputs.tokens, normalize=True)  # [B,C]
        same = (inputs.tokens[:, None] == inputs.tokens[None]).all(dim=-1)
        temperature = full_value(self.temperature).clamp(min=MIN_TEMPERATURE)
        loss = contrastive_loss(images, texts, temperature=temperature, same=same)
        return Losses(loss, {"contrastive": loss.detach(), "temperature": temperature.detach().squeeze(0)})


class ImageTextTask:
    """Satisfies `engine.protocol.Task`."""

    fingerprints: Mapping[str, str] = {}
    classes: tuple[str, ...] = ()

    def __init__(self, config: ImageTextConfig, *, seed: int, device: torch.device) -> None:
        self._config, self._device = config, device
        tower, text = config.tower.open_clip_config(), config.text
        torch.manual_seed(seed)  # initial weights: the same on every rank
        clip = CLIP(
            embed_dim=tower["embed_dim"],
            vision_cfg=open_clip.CLIPVisionCfg(**tower["vision_cfg"]),
            text_cfg=open_clip.CLIPTextCfg(
                width=text.width, layers=text.layers, heads=text.heads, context_length=text.context_length
            ),
            quick_gelu=tower["quick_gelu"],
        )
        self._module = ImageTextModule(clip)

    @property
    def module(self) -> ImageTextModule:
        return self._module

    @property
    def flops_per_view(self) -> float:
        """Forward and backward of the image tower; the text tower is left out."""
        tower = self._config.tower
        size = VitSize(width=tower.width, depth=tower.layers, heads=tower.heads, patch=tower.patch_size)
        patches = (tower.image_size // tower.patch_size) ** 2
        return teacher_flops_per_clip(
            size, frames=1, patches=patches, layers=1, out_width=tower.out_width
        ).forward_backward

    def accelerate(self, *, compile: bool, graph: bool) -> None:
        """torch.compile for the blocks of the image tower; nothing is frozen here."""
        for block in self._module.visual.transformer.resblocks if compile else ():
            block.compile()

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        return decay_groups(self._module, optim.weight_decay)

    def load_weights(self, weights: InitialWeights) -> str:
        with about(weights.where):
            return str(load_strict(self._module, bare_names(weights.state), where=weights.where))

    @torch.no_grad()
    def prepare(self, batch: Batch, step: int) -> ImageTextInputs:
        """Normalise the single frame of each clip."""
        batch = batch.to(self._device)
        assert batch.text is not None, "the loader tokenises captions for this task"
        statistics = IMAGENET if self._config.pixels == "imagenet" else CLIP_PIXELS
        images = normalise(batch.pixels[:, 0], statistics).permute(0, 3, 1, 2)
        dtype = next(self._module.parameters()).dtype
        return ImageTextInputs(images=images.to(dtype), tokens=batch.text.ids)


class Tokenizer:
    """CLIP's byte-pair tokens for the loader's workers."""

    def __init__(self, context_length: int) -> None:
        self._tokenizer = SimpleTokenizer(context_length=context_length)

    def clean(self, caption: str) -> str:
        """As it is: CLIP's tokenizer cleans. Empty where that leaves nothing; raises DecodeError as `plain_text`."""
        text = plain_text(caption)[: CHARACTERS * self._tokenizer.context_length]  # a long word costs its square
        return text if self._tokenizer.clean_fn(text) else ""

    def __call__(self, captions: list[str]) -> Tokens:
        """ids i64 [B,L], padded with 0; too long captions lose their end."""
        ids = self._tokenizer(captions)
        return Tokens(ids=ids, mask=ids != 0)


def clip_tokenizer() -> Tokenizer:
    """That of CLIP's own text tower: 77 tokens."""
    return Tokenizer(77)


class ClipToo:
    """Another tokenizer's tokens, and CLIP's of the same captions beside them."""

    def __init__(self, tokenizer: Tokenize) -> None:
        self._tokenizer, self._of_clip = tokenizer, clip_tokenizer()

    def clean(self, caption: str) -> str:
        """As the other one does."""
        return self._tokenizer.clean(caption)

    def __call__(self, captions: list[str]) -> Tokens:
        """With `clip_ids`."""
        return replace(self._tokenizer(captions), clip_ids=self._of_clip(captions).ids)
