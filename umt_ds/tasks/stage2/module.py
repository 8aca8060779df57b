"""The objective of stage 2: one forward from pixels and words to the sum of its losses.

Everything that costs is done once: images and clips of a packed batch in one row of tokens, captions with and without
hidden words in one pass of BERT's lower half, and one pass of its upper half for true pairs, false videos, false texts
and the mlm_sum of words. Where a batch comes in several pieces, each piece is looked at and fused by itself and its
activations are computed again in the backward pass, while similarities and false pairs see all of them: memory of a
piece, objective of the whole.

Shapes: b rows of a piece, B rows of this rank, G rows of all ranks, N visible tokens, D width of the video, L text
tokens, W width of the text, C width of the common space, K aligned layers, M words to guess.
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
from umt_ds.losses.contrastive import contrastive_loss
from umt_ds.losses.masked_lm import MaskedTokens, masked_lm_loss
from umt_ds.losses.matching import draw_negatives, matching_loss
from umt_ds.models.bert import Bert
from umt_ds.models.video_text import VideoEncoder, VideoTextModel, compared
from umt_ds.models.vit import Clips, VitOutput
from umt_ds.tasks.alignment import uta_loss

T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """Rows of one medium: what the encoders see, and what they are compared with."""

    medium: Media
    clips: Clips  # pixels u8 [b,T,H,W,3], keep i64 [b,N] or None, drop_noise
    pooled_frames: int  # vectors of each clip: 1, or T
    ids: Tensor  # i64 [b,L]
    is_token: Tensor  # bool [b,L]
    hidden: MaskedTokens | None  # without MLM none
    names: Tensor  # i64 [b,2]: hashes of the sample and of its caption; which of them count says vtc.positives
    slots: Tensor  # i64 [b]
    targets: tuple[Tensor, ...] = ()  # K times [b,N,C of the teacher]; without UTA none
    clip_video: Tensor | None = None  # f32 [b,C], the teacher's unit vectors: to align projections
    clip_text: Tensor | None = None  # f32 [b,C]


@dataclass(frozen=True)
class Stage2Inputs:
    """pieces: in each, the rows of one medium or of two; every piece of a batch has as many of each."""

    pieces: tuple[tuple[Rows, ...], ...]
    step: int
    digest: Tensor


class EncodedRows(NamedTuple):
    """What the encoders make of some rows. Without MLM `hidden_text` is `text`; `losses` by name, f32 scalars."""

    tokens: Tensor  # [b,N,D]
    video: Tensor  # f32 [b,C]
    text: Tensor  # [b,L,W]
    hidden_text: Tensor  # [b,L,W]
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
        again = len(inputs.pieces) > 1
        seen = [_run(self.look, again, piece) for piece in inputs.pieces]
        temperature = self.temperature()
        media = [rows.medium for rows in inputs.pieces[0]]
        sizes = [len(rows.ids) for rows in inputs.pieces[0]]
        total, parts = temperature.new_zeros(()), {"temperature": temperature.detach().squeeze(0)}
        for place, medium in enumerate(media):
            rows = [piece[place] for piece in inputs.pieces]
            losses = self._losses(rows, [some[place] for some in seen], temperature, step=inputs.step, again=again)
            for name, loss in losses.items():
                weight = self.weights.get(name, 1.0) * sizes[place] / sum(sizes)
                total = total + weight * loss
                parts[f"{medium}_{name}"] = loss.detach()
        return Losses(total, parts, inputs.digest)

    # ------------------------------------------------------------ each by itself

    def look(self, piece: Sequence[Rows]) -> list[EncodedRows]:
        """Encode videos and texts of a piece, and compare them with what the teacher said."""
        outputs, texts = self._encode_videos(piece), self._encode_texts(piece)
        seen = []
        for rows, output, (text, hidden_text) in zip(piece, outputs, texts, strict=True):
            pooled = self.vision_encoder.pool(output.tokens, frames=rows.pooled_frames)
            video = compared(self.embed_video(pooled))
            caption = self.embed_text(text)
            losses = self._alignment(rows, output, video, caption)
            seen.append(EncodedRows(output.tokens, video, text, hidden_text, caption, losses))
        return seen

    def _encode_videos(self, piece: Sequence[Rows]) -> list[VitOutput]:
        if len(piece) == 1:
            return [self.vision_encoder.encode(*piece[0].clips)]
        return self.vision_encoder.encode_packed([rows.clips for rows in piece])

    def _encode_texts(self, piece: Sequence[Rows]) -> list[tuple[Tensor, Tensor]]:
        """Captions of all media, as they are and with hidden words, in one pass."""
        hidden = [rows.hidden.ids for rows in piece if rows.hidden is not None]
        ids = torch.cat([*(rows.ids for rows in piece), *hidden])
        is_token = torch.cat([rows.is_token for rows in piece])
        encoded = self.text_encoder.encode(ids, torch.cat([is_token, is_token]) if hidden else is_token)
        sizes = [len(rows.ids) for rows in piece]
        whole, last = torch.split(encoded[: sum(sizes)], sizes), torch.split(encoded[-sum(sizes) :], sizes)
        return list(zip(whole, last, strict=True))

    def _alignment(self, rows: Rows, output: VitOutput, video: Tensor, caption: Tensor) -> dict[str, Tensor]:
        """UTA, and the alignment of the projections with CLIP's (UMT table 16), as far as there are targets."""
        losses = {}
        if rows.targets:
            kind = self.config.loss
            losses["uta"] = uta_loss(self.vision_encoder, output, rows.clips, rows.targets, kind=kind)
        if rows.clip_video is not None:
            losses["align_visual"] = 2 - 2 * (F.normalize(video, dim=-1) * rows.clip_video).sum(dim=-1).mean()
        if rows.clip_text is not None:
            losses["align_text"] = 2 - 2 * (caption * rows.clip_text).sum(dim=-1).mean()
        return losses

    # ------------------------------------------------------------ one with another

    def _losses(
        self, rows: Sequence[Rows], seen: Sequence[EncodedRows], temperature: Tensor, *, step: int, again: bool
    ) -> dict[str, Tensor]:
        """All losses of one medium: the means over its pieces, and what needs all of them together."""
        losses = {name: torch.stack([some.losses[name] for some in seen]).mean() for name in seen[0].losses}
        videos, captions = torch.cat([s.video for s in seen]), torch.cat([s.caption for s in seen])  # [B,C]
        names = self._names(rows)
        all_names = gather_rows(names, gradient="sliced")
        if self.weights["vtc"]:
            gradient: Gradient = "sliced" if self.config.vtc.gather == "sliced" else "same_loss"
            losses["vtc"] = contrastive_loss(
                gather_rows(videos, gradient=gradient),  # [G,C]
                gather_rows(captions, gradient=gradient),
                temperature=temperature,
                same=_same(all_names, all_names),
            )
        fusions: list[Tensor] = []
        if self.weights["vtm"] or self.weights["mlm"]:
            false = self.false_pairs(rows, seen, temperature.detach(), step=step) if self.weights["vtm"] else None
            start = 0
            for some, what in zip(rows, seen, strict=True):
                pairs = None if false is None else false.of_rows(start, start + len(some.ids))
                fusions.append(_run(self.fuse, again, some, what, pairs))
                start += len(some.ids)
            matching, mlm_sum = torch.stack(fusions).sum(dim=0)
            if false is not None:
                count = len(names) + false.has_video.sum() + false.has_text.sum()
                losses["vtm"] = matching / mean_denominator(count, all_ranks=self.config.vtm.negatives == "global")
            if self.weights["mlm"]:
                count = torch.full_like(mlm_sum, sum(some.hidden.count for some in rows if some.hidden is not None))
                losses["mlm"] = mlm_sum / mean_denominator(count, all_ranks=self.config.mlm.mean == "global")
        return losses

    def _names(self, rows: Sequence[Rows]) -> Tensor:
        """What rows that belong together have in common, in either column: i64 [B,1 or 2]."""
        names = torch.cat([some.names for some in rows])
        return names if self.config.vtc.positives == "caption" else names[:, :1]

    def false_pairs(
        self, rows: Sequence[Rows], seen: Sequence[EncodedRows], temperature: Tensor, *, step: int
    ) -> HardNegatives:
        """For each text a video that it does not tell of, and for each video such a text: hard ones (SPEC 7.4)."""
        vtm = self.config.vtm
        own = [torch.cat(parts) for parts in zip(*((s.video.detach(), s.caption.detach()) for s in seen), strict=True)]
        tokens, text = torch.cat([s.tokens for s in seen]), torch.cat([s.text for s in seen])
        is_token, names = torch.cat([r.is_token for r in rows]), self._names(rows)
        videos, captions, all_names = own[0], own[1], names
        if vtm.negatives == "global":
            videos, captions, all_names, is_token = (
                gather_rows(each, gradient="sliced") for each in (videos, captions, names, is_token)
            )
            tokens, text = gather_rows(tokens, gradient="own_losses"), gather_rows(text, gradient="own_losses")
        same = _same(names, all_names)  # [B,G]
        noise = uniform(self.seed, step, torch.cat([r.slots for r in rows]), 2 * len(videos), Purpose.NEGATIVES)
        for_text, for_video = noise.chunk(2, dim=1)
        video, has_video = draw_negatives(own[1] @ videos.T / temperature, same, for_text, hard=vtm.hard)
        caption, has_text = draw_negatives(own[0] @ captions.T / temperature, same, for_video, hard=vtm.hard)
        return HardNegatives(tokens, text, is_token, video, has_video, caption, has_text)

    def fuse(self, rows: Rows, seen: EncodedRows, false: HardNegatives | None) -> Tensor:
        """Texts look at videos: true pairs, false videos, false texts, hidden words. f32 [2]: sums of VTM and MLM."""
        count = len(rows.ids)
        own = torch.arange(count, device=rows.ids.device)
        texts, is_token, looked_at, videos = [], [], [], seen.tokens
        if false is not None:
            videos = torch.cat([videos, false.tokens[false.video]])
            texts += [seen.text, seen.text, false.text[false.caption]]
            is_token += [rows.is_token, rows.is_token, false.is_token[false.caption]]
            looked_at += [own, own + count, own]
        if rows.hidden is not None:
            texts, is_token, looked_at = [*texts, seen.hidden_text], [*is_token, rows.is_token], [*looked_at, own]
        fused = self.text_encoder.fuse(torch.cat(texts), torch.cat(is_token), videos, torch.cat(looked_at))
        matching = mlm_sum = fused.new_zeros((), dtype=torch.float32)
        if false is not None:
            pairs = fused[: 3 * count]
            is_match = torch.arange(3 * count, device=own.device) < count
            counts = torch.cat([torch.ones_like(false.has_video), false.has_video, false.has_text])
            matching = matching_loss(self.match(pairs), is_match=is_match, counts=counts)
        if rows.hidden is not None:
            states = fused[-count:].flatten(0, 1)[rows.hidden.places]  # [M,W]
            mlm_sum = masked_lm_loss(self.text_encoder.words(states), rows.hidden.labels)
        return torch.stack([matching, mlm_sum])


class HardNegatives(NamedTuple):
    """video: i64 [B], which of tokens [G,N,D] belongs to the text of a row, falsely; caption: which of text [G,L,W] and
    is_token [G,L] to its video. has_…: bool [B], False where all belong together."""

    tokens: Tensor
    text: Tensor
    is_token: Tensor
    video: Tensor
    has_video: Tensor
    caption: Tensor
    has_text: Tensor

    def of_rows(self, start: int, stop: int) -> HardNegatives:
        """Those of some rows; what they point to stays whole."""
        return self._replace(
            video=self.video[start:stop],
            has_video=self.has_video[start:stop],
            caption=self.caption[start:stop],
            has_text=self.has_text[start:stop],
        )


def _same(names: Tensor, others: Tensor) -> Tensor:
    """Which rows belong together: those with a name in common. i64 [B,K], [G,K] to bool [B,G]."""
    return (names[:, None] == others[None]).any(dim=-1)


def mean_denominator(count: Tensor, *, all_ranks: bool) -> Tensor:
    """What a rank's sum is divided by: its own count, or (all_ranks) the mean of all ranks' counts, with which the mean
    of the ranks' quotients is the mean over everything. At least 1."""
    count = count.float()
    return (mean_over_ranks(count) if all_ranks else count).clamp(min=1)


def _run(function: Callable[..., T], again: bool, *arguments: object) -> T:
    """Call it; with `again` its activations are not kept but computed once more in the backward pass."""
    if not again:
        return function(*arguments)
    out: T = checkpoint(function, *arguments, use_reentrant=False)
    return out
