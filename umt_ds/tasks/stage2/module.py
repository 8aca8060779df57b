"""The objective of stage 2: one forward pass from pixels and token ids to the weighted sum of its losses.

Every expensive part runs once. Images and clips of a packed batch share one row of tokens. Captions, as they are and
with masked tokens, share one pass of BERT's lower layers. True pairs, pairs with a negative video, pairs with a
negative text, and masked captions share one pass of its upper layers.

A batch may come in several pieces (`batch.split_contrastive`). Each piece is encoded and fused by itself, and its
activations are recomputed in the backward pass. Similarities and the choice of negatives see all pieces. So 4 pieces of
64 rows need the memory of 64 rows and have the objective of 256.

Shapes: b rows of a piece, B rows of this rank, G rows of all ranks, N visible tokens, D width of the video, L text
tokens, W width of the text, C width of the common space, K aligned layers, M masked tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from umt_ds.batch import Losses, Media
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.distributed.collectives import mean_over_ranks
from umt_ds.distributed.gather import Gradient, gather_rows
from umt_ds.kernels.philox import Purpose, uniform
from umt_ds.losses.alignment import alignment_loss
from umt_ds.losses.contrastive import contrastive_loss
from umt_ds.losses.masked_lm import MaskedTokens, masked_lm_loss
from umt_ds.losses.matching import draw_negatives, matching_loss
from umt_ds.models.alignment import unit_length
from umt_ds.models.bert import Bert
from umt_ds.models.video_text import VideoEncoder, VideoTextModel, mean_over_frames
from umt_ds.models.vit import Clips, VitOutput

T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """The rows of one medium in a piece: inputs of the encoders, and targets."""

    medium: Media
    clips: Clips  # pixels u8 [b,T,H,W,3], keep i64 [b,N] or None, drop_noise
    pooled_frames: int  # vectors of each clip: 1, or T
    ids: Tensor  # i64 [b,L]
    is_token: Tensor  # bool [b,L]
    masked: MaskedTokens | None  # None without MLM
    match_ids: Tensor  # i64 [b,2]: hashes of sample and caption. Rows match where one is equal (see vtc.positives)
    slots: Tensor  # i64 [b]
    targets: tuple[Tensor, ...] = ()  # K times [b,N,C of the teacher]; empty without UTA
    clip_video: Tensor | None = None  # f32 [b,C], the teacher's unit vectors: to align projections
    clip_text: Tensor | None = None  # f32 [b,C]


@dataclass(frozen=True)
class Stage2Inputs:
    """pieces: in each, the rows of one medium or of two. All pieces of a batch have the same media and row counts."""

    pieces: tuple[tuple[Rows, ...], ...]
    step: int
    digest: Tensor


class EncodedRows(NamedTuple):
    """Outputs of the encoders for some rows. Without MLM `masked_text` is `text`; `losses` by name, f32 scalars."""

    tokens: Tensor  # [b,N,D]
    video: Tensor  # f32 [b,C]
    text: Tensor  # [b,L,W]
    masked_text: Tensor  # [b,L,W]
    caption: Tensor  # f32 [b,C]
    losses: dict[str, Tensor]


class Stage2Module(VideoTextModel):
    """The model with its losses: what DeepSpeed wraps. Names as in published checkpoints."""

    def __init__(self, vision: VideoEncoder, text: Bert, *, config: Stage2Config, seed: int) -> None:
        vtc = config.vtc
        super().__init__(vision, text, embed_width=config.embed_width, temperature=vtc.temperature, bounds=vtc.bounds)
        self.config, self.seed = config, seed
        self.weights: dict[str, float] = config.loss_weights.model_dump()  # of the parts of the objective, by name

    def forward(self, inputs: Stage2Inputs) -> Losses:
        """The weighted sum of all losses of one batch. Of two media each counts by its rows."""
        recompute = len(inputs.pieces) > 1
        encoded = [_run(self.encode, recompute, piece) for piece in inputs.pieces]
        temperature = self.temperature()
        sizes = [len(rows.ids) for rows in inputs.pieces[0]]
        total, parts = temperature.new_zeros(()), {"temperature": temperature.detach().squeeze(0)}
        for i, medium in enumerate(rows.medium for rows in inputs.pieces[0]):
            losses = self._losses(
                [piece[i] for piece in inputs.pieces],
                [each[i] for each in encoded],
                temperature,
                step=inputs.step,
                recompute=recompute,
            )
            for name, loss in losses.items():
                weight = self.weights.get(name, 1.0) * sizes[i] / sum(sizes)
                total = total + weight * loss
                parts[f"{medium}_{name}"] = loss.detach()
        return Losses(total, parts, inputs.digest)

    # ------------------------------------------------------------ each row by itself

    def encode(self, piece: Sequence[Rows]) -> list[EncodedRows]:
        """Encode videos and texts of a piece, and compare them with the teacher. One entry a medium."""
        outputs, texts = self._encode_videos(piece), self._encode_texts(piece)
        encoded = []
        for rows, output, (text, masked_text) in zip(piece, outputs, texts, strict=True):
            pooled = self.vision_encoder.pool(output.tokens, frames=rows.pooled_frames)
            video = mean_over_frames(self.embed_video(pooled))
            caption = self.embed_text(text)
            losses = self._alignment(rows, output, video, caption)
            encoded.append(EncodedRows(output.tokens, video, text, masked_text, caption, losses))
        return encoded

    def _encode_videos(self, piece: Sequence[Rows]) -> list[VitOutput]:
        if len(piece) == 1:
            return [self.vision_encoder.encode(*piece[0].clips)]
        return self.vision_encoder.encode_packed([rows.clips for rows in piece])

    def _encode_texts(self, piece: Sequence[Rows]) -> list[tuple[Tensor, Tensor]]:
        """Captions of all media, as they are and with masked tokens, in one pass: two times [b,L,W] for each medium."""
        masked = [rows.masked.ids for rows in piece if rows.masked is not None]
        ids = torch.cat([*(rows.ids for rows in piece), *masked])
        is_token = torch.cat([rows.is_token for rows in piece])
        states = self.text_encoder.encode(ids, torch.cat([is_token, is_token]) if masked else is_token)
        sizes = [len(rows.ids) for rows in piece]
        # without masked tokens the last rows are the first
        as_is, last = torch.split(states[: sum(sizes)], sizes), torch.split(states[-sum(sizes) :], sizes)
        return list(zip(as_is, last, strict=True))

    def _alignment(self, rows: Rows, output: VitOutput, video: Tensor, caption: Tensor) -> dict[str, Tensor]:
        """UTA, and the alignment of the projections with CLIP's (UMT table 16), as far as there are targets."""
        losses = {}
        if rows.targets:
            losses["uta"] = self._uta(rows, output)
        if rows.clip_video is not None:
            losses["align_visual"] = 2 - 2 * (F.normalize(video, dim=-1) * rows.clip_video).sum(dim=-1).mean()
        if rows.clip_text is not None:
            losses["align_text"] = 2 - 2 * (caption * rows.clip_text).sum(dim=-1).mean()
        return losses

    def _uta(self, rows: Rows, output: VitOutput) -> Tensor:
        vision, clips = self.vision_encoder, rows.clips
        if self.config.loss == "l2" and vision.norm == "l2":
            return vision.distance(output, clips.pixels, clips.keep, rows.targets)
        targets = torch.stack(rows.targets)
        targets = unit_length(targets) if vision.norm == "l2" else targets
        return alignment_loss(vision.decode(output, clips.pixels, clips.keep), targets, kind=self.config.loss)

    # ------------------------------------------------------------ rows against each other

    def _losses(
        self,
        pieces: Sequence[Rows],
        encoded: Sequence[EncodedRows],
        temperature: Tensor,
        *,
        step: int,
        recompute: bool,
    ) -> dict[str, Tensor]:
        """All losses of one medium, by name. pieces, encoded: its rows, piece by piece."""
        losses = {name: torch.stack([each.losses[name] for each in encoded]).mean() for name in encoded[0].losses}
        if self.weights["vtc"]:
            losses["vtc"] = self._vtc(pieces, encoded, temperature)
        if self.weights["vtm"] or self.weights["mlm"]:
            losses |= self._fusion_losses(pieces, encoded, temperature, step=step, recompute=recompute)
        return losses

    def _vtc(self, pieces: Sequence[Rows], encoded: Sequence[EncodedRows], temperature: Tensor) -> Tensor:
        """Contrast among the rows of all ranks."""
        gradient: Gradient = "sliced" if self.config.vtc.gather == "sliced" else "same_loss"
        match_ids = gather_rows(self._match_ids(pieces), gradient="sliced")  # [G,1 or 2]
        return contrastive_loss(
            gather_rows(torch.cat([each.video for each in encoded]), gradient=gradient),  # [G,C]
            gather_rows(torch.cat([each.caption for each in encoded]), gradient=gradient),  # [G,C]
            temperature=temperature,
            same=_is_match(match_ids, match_ids),
        )

    def _fusion_losses(
        self,
        pieces: Sequence[Rows],
        encoded: Sequence[EncodedRows],
        temperature: Tensor,
        *,
        step: int,
        recompute: bool,
    ) -> dict[str, Tensor]:
        """VTM and MLM, which share the pass of BERT's upper layers."""
        negatives = None
        if self.weights["vtm"]:
            negatives = self.hard_negatives(pieces, encoded, temperature.detach(), step=step)
        sums, start = [], 0
        for rows, each in zip(pieces, encoded, strict=True):
            stop = start + len(rows.ids)
            own = None if negatives is None else negatives.of_rows(start, stop)
            sums.append(_run(self.fuse, recompute, rows, each, own))
            start = stop
        vtm_sum, mlm_sum = torch.stack(sums).sum(dim=0)
        losses = {}
        if negatives is not None:
            count = start + negatives.has_video.sum() + negatives.has_text.sum()
            losses["vtm"] = vtm_sum / mean_denominator(count, all_ranks=self.config.vtm.negatives == "global")
        if self.weights["mlm"]:
            count = torch.full_like(mlm_sum, sum(rows.masked.count for rows in pieces if rows.masked is not None))
            losses["mlm"] = mlm_sum / mean_denominator(count, all_ranks=self.config.mlm.mean == "global")
        return losses

    def _match_ids(self, pieces: Sequence[Rows]) -> Tensor:
        """The hashes that decide which rows match: i64 [B,2], or [B,1] where only the sample counts."""
        match_ids = torch.cat([rows.match_ids for rows in pieces])
        return match_ids if self.config.vtc.positives == "caption" else match_ids[:, :1]

    def hard_negatives(
        self, pieces: Sequence[Rows], encoded: Sequence[EncodedRows], temperature: Tensor, *, step: int
    ) -> HardNegatives:
        """For each text a video that does not match it, and for each video such a text (METHOD.md, "VTM")."""
        vtm = self.config.vtm
        own_video = torch.cat([each.video.detach() for each in encoded])  # [B,C]
        own_caption = torch.cat([each.caption.detach() for each in encoded])
        tokens, text = torch.cat([each.tokens for each in encoded]), torch.cat([each.text for each in encoded])
        is_token, own_ids = torch.cat([rows.is_token for rows in pieces]), self._match_ids(pieces)
        videos, captions, match_ids = own_video, own_caption, own_ids
        if vtm.negatives == "global":  # [G,…] from here on
            videos, captions, match_ids, is_token = (
                gather_rows(each, gradient="sliced") for each in (videos, captions, match_ids, is_token)
            )
            tokens, text = gather_rows(tokens, gradient="own_losses"), gather_rows(text, gradient="own_losses")
        same = _is_match(own_ids, match_ids)  # [B,G]
        slots = torch.cat([rows.slots for rows in pieces])
        noise = uniform(self.seed, step, slots, 2 * len(videos), Purpose.NEGATIVES)  # [B,2·G]
        for_text, for_video = noise.chunk(2, dim=1)
        video, has_video = draw_negatives(own_caption @ videos.T / temperature, same, for_text, hard=vtm.hard)
        caption, has_text = draw_negatives(own_video @ captions.T / temperature, same, for_video, hard=vtm.hard)
        return HardNegatives(tokens, text, is_token, video, has_video, caption, has_text)

    def fuse(self, rows: Rows, encoded: EncodedRows, negatives: HardNegatives | None) -> Tensor:
        """Texts cross-attend to videos in one pass; the sums of VTM's and of MLM's cross-entropies: f32 [2].

        The pass holds four groups of b texts: true pairs, own texts with negative videos, negative texts with own
        videos (these three for VTM), and masked texts with own videos (for MLM).
        """
        count = len(rows.ids)
        own = torch.arange(count, device=rows.ids.device)
        texts, is_token, video_of, videos = [], [], [], encoded.tokens  # video_of: which video each text attends to
        if negatives is not None:
            videos = torch.cat([videos, negatives.tokens[negatives.video]])
            texts += [encoded.text, encoded.text, negatives.text[negatives.caption]]
            is_token += [rows.is_token, rows.is_token, negatives.is_token[negatives.caption]]
            video_of += [own, own + count, own]
        if rows.masked is not None:
            texts, is_token, video_of = [*texts, encoded.masked_text], [*is_token, rows.is_token], [*video_of, own]
        fused = self.text_encoder.fuse(torch.cat(texts), torch.cat(is_token), videos, torch.cat(video_of))
        vtm_sum = mlm_sum = fused.new_zeros((), dtype=torch.float32)
        if negatives is not None:
            pairs = fused[: 3 * count]
            is_match = torch.arange(3 * count, device=own.device) < count
            counts = torch.cat([torch.ones_like(negatives.has_video), negatives.has_video, negatives.has_text])
            vtm_sum = matching_loss(self.match(pairs), is_match=is_match, counts=counts)
        if rows.masked is not None:
            states = fused[-count:].flatten(0, 1)[rows.masked.positions]  # [M,W]
            mlm_sum = masked_lm_loss(self.text_encoder.words(states), rows.masked.labels)
        return torch.stack([vtm_sum, mlm_sum])


class HardNegatives(NamedTuple):
    """A negative video for each text, and a negative text for each video, as indices into the rows to choose from.

    Rows to choose from are those of this rank, or of all ranks (`vtm.negatives: global`).
    """

    tokens: Tensor  # [G,N,D] of the videos to choose from
    text: Tensor  # [G,L,W] of the texts to choose from
    is_token: Tensor  # bool [G,L]
    video: Tensor  # i64 [B]: text i gets tokens[video[i]]
    has_video: Tensor  # bool [B], False where every video matches: the pair does not count
    caption: Tensor  # i64 [B]: video i gets text[caption[i]]
    has_text: Tensor  # bool [B]

    def of_rows(self, start: int, stop: int) -> HardNegatives:
        """The negatives of rows start … stop-1. What the indices point to stays whole."""
        return self._replace(
            video=self.video[start:stop],
            has_video=self.has_video[start:stop],
            caption=self.caption[start:stop],
            has_text=self.has_text[start:stop],
        )


def _is_match(ids: Tensor, others: Tensor) -> Tensor:
    """Which rows match: those with an equal id in the same column. i64 [B,K], [G,K] to bool [B,G]."""
    return (ids[:, None] == others[None]).any(dim=-1)


def mean_denominator(count: Tensor, *, all_ranks: bool) -> Tensor:
    """By what a rank divides its sum for the mean: its own count, or (all_ranks) the ranks' mean count. At least 1.

    Training averages over ranks. Of two ranks with sums s and t over 10 and 30 tokens, the own counts give
    (s/10 + t/30) / 2, the mean of two means. The mean count, 20, gives (s/20 + t/20) / 2 = (s + t) / 40, the mean over
    all tokens.
    """
    count = count.float()
    return (mean_over_ranks(count) if all_ranks else count).clamp(min=1)


def _run(function: Callable[..., T], recompute: bool, *arguments: object) -> T:
    """Call it. With `recompute` its activations are not kept, but computed once more in the backward pass."""
    if not recompute:
        return function(*arguments)
    out: T = checkpoint(function, *arguments, use_reentrant=False)
    return out
