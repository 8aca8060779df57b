"""The stage-2 step as published, in plain torch: what `umt bench step stage2/… --against plain` measures ours against.

Written from METHOD.md and kept simple. All patches are embedded, the whole teacher runs on all tokens. BERT's layers
are called as transformers has them, so every pair of matching makes keys and values of its video. Negatives are drawn
row by row. The caption with masked tokens takes passes of its own, and every token is predicted, padding included.
Names of parameters are the published ones. As in `plain.py`, clips arrive normalised and the precision is the run's.

Shapes: B rows, N tokens, V visible ones, L text tokens, K aligned layers, C width of the common space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from umt_ds.batch import Batch
from umt_ds.bench.plain import AUTOCAST, autocast_of, float_clips, plain_teacher, published_mask
from umt_ds.bench.plain_models import PlainStudent, PlainTeacher
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.distributed.collectives import active
from umt_ds.distributed.gather import gather_rows
from umt_ds.engine.optim import build_adamw, decay_groups
from umt_ds.errors import ConfigError, NonFiniteError
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.models.bert import WordHead, bert_parts
from umt_ds.models.presets import BertSize, VitSize
from umt_ds.models.teachers import Teacher
from umt_ds.models.towers import ClipTower
from umt_ds.tasks.encoders import size_of


class Rows(NamedTuple):
    """What the published loader hands over: video f32 [B,3,T,H,W], ids i64 [B,L], is_token bool [B,L], idx i64 [B]."""

    video: Tensor
    ids: Tensor
    is_token: Tensor
    idx: Tensor


class Drawn(NamedTuple):
    """What chance decides: mask bool [B,N], True where hidden; hidden ids and labels i64 [B,L], -100 where nothing is
    asked; the negative video of each text and the negative text of each video, i64 [B] (None: to be drawn)."""

    mask: Tensor
    hidden: Tensor
    labels: Tensor
    false: tuple[Tensor, Tensor] | None


class PlainBert(nn.Module):
    """transformers' layers, run as the published code runs them."""

    def __init__(self, size: BertSize, *, fusion_layers: int, video_width: int, dropout: float) -> None:
        super().__init__()
        self.bert: Any = bert_parts(size, fusion_layers=fusion_layers, video_width=video_width, dropout=dropout)
        self.cls: Any = nn.ModuleDict({"predictions": WordHead(size)})
        self.text_layers = size.layers - fusion_layers

    def text(self, ids: Tensor, is_token: Tensor) -> Tensor:
        """i64 [B,L] to [B,L,W]."""
        x: Tensor = self.bert["embeddings"](ids)
        for layer in self.bert["encoder"]["layer"][: self.text_layers]:
            x = layer(x, _padding(is_token, x))
        return x

    def fusion(self, x: Tensor, is_token: Tensor, video: Tensor) -> Tensor:
        """[B,L,W] with videos [B,V,D] to [B,L,W]."""
        for layer in self.bert["encoder"]["layer"][self.text_layers :]:
            x = layer(x, _padding(is_token, x), encoder_hidden_states=video)
        return x

    def words(self, x: Tensor) -> Tensor:
        """Logits at every token."""
        logits: Tensor = self.cls["predictions"](x, self.bert["embeddings"].word_embeddings.weight)
        return logits


def _padding(is_token: Tensor, like: Tensor) -> Tensor:
    return (~is_token[:, None, None, :]).to(like.dtype) * -10000.0


class PlainVision(PlainStudent):
    """The student of stage 1 with a norm for the mean of its tokens."""

    def __init__(self, size: VitSize, **settings: Any) -> None:
        super().__init__(size, decoder_eps=1e-5, **settings)
        self.pool_norm = nn.LayerNorm(size.width, eps=1e-6)


class PlainVideoText(nn.Module):
    """METHOD.md, "Stage 2: model": both encoders, and the four losses with weights of 1."""

    def __init__(self, vision: PlainVision, text: PlainBert, *, text_width: int, embed_width: int) -> None:
        super().__init__()
        self.temp = nn.Parameter(torch.full((1,), 0.07))
        self.vision_encoder, self.text_encoder = vision, text
        self.vision_proj = nn.Linear(vision.pool_norm.normalized_shape[0], embed_width)
        self.text_proj = nn.Linear(text_width, embed_width)
        self.itm_head = nn.Linear(text_width, 2)

    def forward(self, rows: Rows, features: Tensor, drawn: Drawn) -> Tensor:
        """The sum of the losses. features: the teacher's, [K,B,N,C] of all tokens."""
        with torch.no_grad():
            self.temp.clamp_(0.001, 0.5)
        mask = drawn.mask
        taps = self.vision_encoder.encode(rows.video, mask)
        video = taps[-1]  # [B,V,D]
        text = self.text_encoder.text(rows.ids, rows.is_token)
        pooled = self.vision_encoder.pool_norm(video.mean(dim=1, keepdim=True))  # [B,1,D]
        visual = F.normalize(self.vision_proj(pooled), dim=-1)
        textual = F.normalize(self.text_proj(text[:, 0]), dim=-1)
        return (
            self._uta(taps, features, mask)
            + self._vtc(visual, textual, rows.idx)
            + self._vtm(visual, textual, video, text, rows, drawn)
            + self._mlm(video, rows, drawn)
        )

    def _uta(self, taps: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        layers, clips, _, width = features.shape
        targets = features[~mask.unsqueeze(0).repeat(layers, 1, 1)].reshape(layers, clips, -1, width)
        loss: Tensor = (2 - 2 * (self.vision_encoder.decode(taps, mask) * targets).sum(dim=-1)).mean()
        return loss

    def _similar(self, visual: Tensor, textual: Tensor) -> Tensor:
        """[B,P,C] and [B,C] to [B,B]."""
        return torch.einsum("mld,nd->mln", visual, textual).mean(dim=1) / self.temp

    def _vtc(self, visual: Tensor, textual: Tensor, idx: Tensor) -> Tensor:
        visual, textual, idx = (gather_rows(each, gradient="sliced") for each in (visual, textual, idx))
        similar = self._similar(visual, textual)
        targets = torch.eq(idx[:, None], idx[None]).to(similar.dtype)
        targets = targets / targets.sum(dim=1, keepdim=True)
        per_video = -(F.log_softmax(similar, dim=1) * targets).sum(dim=1).mean()
        per_text = -(F.log_softmax(similar.t(), dim=1) * targets).sum(dim=1).mean()
        return (per_video + per_text) / 2

    def _vtm(self, visual: Tensor, textual: Tensor, video: Tensor, text: Tensor, rows: Rows, drawn: Drawn) -> Tensor:
        false_video, false_text = drawn.false or self._draw(visual, textual, rows.idx)
        count = len(text)
        fused = self.text_encoder.fusion(
            torch.cat([text, text, text[false_text]]),
            torch.cat([rows.is_token, rows.is_token, rows.is_token[false_text]]),
            torch.cat([video, video[false_video], video]),
        )
        labels = torch.cat([fused.new_ones(count), fused.new_zeros(2 * count)]).long()
        return F.cross_entropy(self.itm_head(fused[:, 0]), labels)

    @torch.no_grad()
    def _draw(self, visual: Tensor, textual: Tensor, idx: Tensor) -> tuple[Tensor, Tensor]:
        similar = self._similar(visual, textual).float()
        same = torch.eq(idx[:, None], idx[None])
        of_video = F.softmax(similar + 1e-4, dim=1).masked_fill(same, 0).nan_to_num(1e-2)
        of_text = F.softmax(similar.t() + 1e-4, dim=1).masked_fill(same, 0).nan_to_num(1e-2)
        # a row of nothing but zeros would be an error
        of_video, of_text = of_video.clamp(min=1e-9), of_text.clamp(min=1e-9)
        return torch.multinomial(of_text, 1).squeeze(1), torch.multinomial(of_video, 1).squeeze(1)

    def _mlm(self, video: Tensor, rows: Rows, drawn: Drawn) -> Tensor:
        text = self.text_encoder.text(drawn.hidden, rows.is_token)
        logits = self.text_encoder.words(self.text_encoder.fusion(text, rows.is_token, video))
        return F.cross_entropy(logits.flatten(0, 1), drawn.labels.flatten())


def hide(ids: Tensor, vocabulary: Vocabulary, ratio: float) -> tuple[Tensor, Tensor]:
    """The published masking of words: ids with words hidden, and labels, i64 [B,L] each (METHOD.md, "MLM")."""
    chosen = torch.bernoulli(torch.full(ids.shape, ratio, device=ids.device)).bool()
    chosen &= (ids != vocabulary.pad_id) & (ids != vocabulary.cls_id)
    labels = ids.masked_fill(~chosen, -100)
    hidden = ids.clone()
    masked = torch.bernoulli(torch.full(ids.shape, 0.8, device=ids.device)).bool() & chosen
    hidden[masked] = vocabulary.mask_id
    other = torch.bernoulli(torch.full(ids.shape, 0.5, device=ids.device)).bool() & chosen & ~masked
    hidden[other] = torch.randint(vocabulary.size, ids.shape, device=ids.device)[other]
    return hidden, labels


@dataclass
class PlainStage2Step:
    """Models, optimiser and one step of the published stage 2. Models of several ranks are wrapped in DDP."""

    student: nn.Module
    teacher: PlainTeacher
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    ratios: Mapping[str, float]  # of hidden patches, by medium
    words: tuple[Vocabulary, float]
    device: torch.device
    autocast_dtype: torch.dtype | None

    def ready(self, batch: Batch) -> tuple[Rows, float]:
        """As the published loader gives it, and the part of its patches that is hidden."""
        assert batch.text is not None
        assert batch.ids is not None
        rows = Rows(float_clips(batch.pixels), batch.text.ids, batch.text.mask, batch.ids)
        return rows, self.ratios[batch.media]

    def step(self, ready: tuple[Rows, float], lr: float) -> float:
        """Train on one batch in host memory; the loss. Raises NonFiniteError."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        rows = Rows(*(tensor.to(self.device, non_blocking=True) for tensor in ready[0]))
        with autocast_of(self.device, self.autocast_dtype):
            features, attention = self.teacher(rows.video)
            mask = published_mask(attention, clips=len(rows.video), ratio=ready[1])
            hidden, labels = hide(rows.ids, *self.words)
            loss = self.student(rows, features, Drawn(mask.to(self.device), hidden, labels, None))
        value: float = loss.item()
        if not torch.isfinite(loss):
            raise NonFiniteError(f"the plain twin's loss is {value}", again=True)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    @torch.no_grad()
    def evaluate(self, ready: tuple[Rows, float], drawn: Drawn) -> float:
        """The loss under given draws, in fp32 and with nothing dropped."""
        rows = Rows(*(tensor.to(self.device) for tensor in ready[0]))
        features, _ = self.teacher(rows.video)
        self.student.eval()
        loss: float = self.student(rows, features, drawn).item()
        self.student.train()
        return loss


def build_plain_stage2(
    task: Stage2Config,
    ours: Teacher,
    bert: BertSize,
    vocabulary: Vocabulary,
    state: Mapping[str, Tensor],
    optim: OptimConfig,
    *,
    device: torch.device,
    precision: Precision,
) -> PlainStage2Step:
    """The reference step of a run, with the weights of our teacher and our model, `state`.

    Only for what `refuse_unpublished_stage2` lets through.
    """
    model = plain_video_text(task, ours, bert)
    model.load_state_dict(dict(state))
    model.to(device)
    assert task.teacher is not None
    teacher = plain_teacher(ours, task.teacher).to(device)
    masks = {"image": task.mask.image, "video": task.mask.video}
    own = decay_groups(model, optim.weight_decay, also=("temp",))
    return PlainStage2Step(
        student=DistributedDataParallel(model, find_unused_parameters=True) if active() else model,
        teacher=teacher,
        optimizer=build_adamw(own, optim),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        ratios={medium: mask.ratio for medium, mask in masks.items() if mask is not None},
        words=(vocabulary, task.mlm.ratio),
        device=device,
        autocast_dtype=AUTOCAST[precision],
    )


def plain_video_text(task: Stage2Config, ours: Teacher, bert: BertSize) -> PlainVideoText:
    """The model with fresh weights."""
    student, settings, size = task.student, task.teacher, size_of(task.student)
    assert settings is not None
    vision = PlainVision(
        size,
        tokens=student.frames * ours.tower.patches,
        out_width=ours.out_width,
        layers=settings.layers,
        interval=settings.interval,
        drop_rate=student.drop_path,
        checkpoint_blocks=student.checkpoint_blocks,
    )
    text = PlainBert(bert, fusion_layers=task.text.fusion_layers, video_width=size.width, dropout=task.text.dropout)
    return PlainVideoText(vision, text, text_width=bert.width, embed_width=task.embed_width)


def refuse_unpublished_stage2(task: Stage2Config, teacher: Teacher | None) -> None:
    """Raises ConfigError where the published code has no such step."""
    masks = (task.mask.image, task.mask.video)
    published = {
        "semantic masks": all(mask is not None and mask.kind == "semantic" and mask.ratio > 0 for mask in masks),
        "all loss weights 1": set(task.loss_weights.model_dump().values()) == {1.0},
        "task.loss=l2": task.loss == "l2",
        "task.teacher.norm=l2 and pixels=imagenet": task.teacher is not None
        and (task.teacher.norm, task.teacher.pixels) == ("l2", "imagenet"),
        "task.vtm.negatives=local and hard": task.vtm.negatives == "local" and task.vtm.hard,
        "task.mlm.mean=local": task.mlm.mean == "local",
        "task.align_projections=none": task.align_projections == "none",
        "a CLIP teacher": teacher is not None and isinstance(teacher.tower, ClipTower),
        "task.teacher.features=projected": teacher is not None and teacher.tower.features == "projected",
    }
    missing = [setting for setting, holds in published.items() if not holds]
    if missing:
        raise ConfigError(
            f"there is no published step to compare with: it needs {', '.join(missing)}",
            hint="leave --against away, or set that",
        )
