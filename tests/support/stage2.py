"""A tiny model of stage 2 and rows for it: rows are functions of their slot, so a batch can be cut anyhow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from umt_ds.batch import Media
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.losses.masked_lm import Vocabulary, mask_tokens
from umt_ds.models.bert import Bert
from umt_ds.models.presets import BertSize, VitSize
from umt_ds.models.video_text import VideoEncoder
from umt_ds.models.vit import Clips, VideoViT
from umt_ds.tasks.stage2.module import Rows, Stage2Inputs, Stage2Module

VIT = VitSize(width=16, depth=3, heads=2, patch=8)
BERT = BertSize(width=24, layers=4, heads=2, hidden=32, vocab_size=40, max_tokens=8)
WORDS = Vocabulary(size=40, cls_id=2, pad_id=0, mask_id=4)
OUT_WIDTH, LAYERS, SIDE = 12, 2, 16
FRAMES: dict[Media, int] = {"image": 1, "video": 2}
VISIBLE: dict[Media, int] = {"image": 2, "video": 3}


def tiny_module(*, dropout: float = 0.0, **settings: Any) -> Stage2Module:
    """All weights as drawn from seed 0, the matching head's made large enough to matter."""
    config = Stage2Config.model_validate(
        {"kind": "stage2", "text": {"weights": "none"}, "teacher": {"weights": "random"}, "embed_width": 8, **settings}
    )
    torch.manual_seed(0)
    layers = LAYERS if config.loss_weights.uta else 0
    vision = VideoEncoder(VideoViT(VIT), out_width=OUT_WIDTH, layers=layers, interval=1.0, norm="l2")
    text = Bert(BERT, fusion_layers=2, video_width=VIT.width, dropout=dropout)
    module = Stage2Module(vision, text, config=config, seed=3)
    for parameter in module.text_encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def tiny_rows(
    medium: Media, slots: Sequence[int], *, texts: Sequence[int] | None = None, mlm: bool = True, uta: bool = True
) -> Rows:
    """Rows for slots; equal numbers in `texts` are equal captions."""
    parts = [_row(medium, slot, slot if texts is None else texts[i]) for i, slot in enumerate(slots)]
    pixels, keep, ids, match_ids, noise, *targets = (torch.stack(column) for column in zip(*parts, strict=True))
    return Rows(
        medium=medium,
        clips=Clips(pixels, keep),
        pooled_frames=1,
        ids=ids,
        is_token=ids != WORDS.pad_id,
        masked=mask_tokens(ids, noise, vocabulary=WORDS, ratio=0.5) if mlm else None,
        match_ids=match_ids,
        slots=torch.tensor(slots),
        targets=tuple(targets) if uta else (),
    )


def _row(medium: Media, slot: int, text: int) -> list[Tensor]:
    own = torch.Generator().manual_seed(slot)
    said = torch.Generator().manual_seed(1000 + text)
    frames = FRAMES[medium]
    pixels = torch.randint(0, 256, (frames, SIDE, SIDE, 3), dtype=torch.uint8, generator=own)
    keep = torch.randperm(frames * 4, generator=own)[: VISIBLE[medium]].sort().values
    ids = torch.randint(5, WORDS.size, (6,), generator=said)
    ids[0] = WORDS.cls_id
    ids[4 + text % 3 :] = WORDS.pad_id
    targets = [torch.randn(VISIBLE[medium], OUT_WIDTH, generator=own) for _ in range(LAYERS)]
    match_ids = torch.tensor([slot, 1000 + text])
    return [pixels, keep, ids, match_ids, torch.rand(18, generator=own), *targets]


def inputs_of(*pieces: Rows | tuple[Rows, ...]) -> Stage2Inputs:
    """Pieces of one medium each, or of several."""
    whole = tuple(piece if isinstance(piece, tuple) else (piece,) for piece in pieces)
    return Stage2Inputs(whole, step=5, digest=torch.zeros((), dtype=torch.int64))


def gradients(module: Stage2Module) -> dict[str, Tensor]:
    """By name, of the parameters that have one; they are cleared."""
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found
