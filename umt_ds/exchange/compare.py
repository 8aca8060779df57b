"""A model before and after its export on the same clip: what it says, and how far apart that is.

Shapes: B clips, T frames, H x W pixels, N tokens of a clip, V of them kept, D width of the video, K aligned layers,
C width of their targets or of the space where videos and texts are compared, R texts (R = B), L tokens, W width of the
text, A tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.video_clips import clip_of_video
from umt_ds.errors import DataError, DecodeError
from umt_ds.exchange.source import Source
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.answer_decoder import AnsweringModel
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.video_text import VideoTextModel
from umt_ds.models.vit import Clips

Outputs = Mapping[str, Tensor]  # by the names of `outputs_of`

_CLIPS = 2
_ANSWER_TOKENS = 4
_TEXTS = ("a man opens a box and looks at what is inside", "two dogs")


@dataclass(frozen=True)
class Probe:
    """What both models are shown. pixels: u8 [B,T,H,W,3]. keep: i64 [B,V], numbers of kept tokens, ascending. ids: i64
    [R,L] and is_token: bool [R,L], False where they are padding; None where no text is read. answers: i64 [R,A], for
    question answering, else None."""

    pixels: Tensor
    keep: Tensor
    ids: Tensor | None = None
    is_token: Tensor | None = None
    answers: Tensor | None = None


@dataclass(frozen=True)
class Difference:
    """Of one output: its name, shape, the largest number in it (absolute), and the largest difference."""

    name: str
    shape: tuple[int, ...]
    largest_value: float
    largest: float

    def __str__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        beside = f"whose largest value is {self.largest_value:.3g}"
        return f"largest difference {self.largest:.2g} of {self.name} [{shape}], {beside}"


def probe_of(source: Source, clip: Path | None = None) -> Probe:
    """What to show to the model and to its export. clip: a video file, all of which is looked at; None: clips of noise
    that are the same everywhere. Raises DataError for a video that cannot be read."""
    pixels = _noise(source) if clip is None else _clip(source, clip)
    frames, side = source.clip_shape
    tokens = frames * (side // source.encoder.size.patch) ** 2
    keep = torch.arange(tokens)[:: 5 if tokens >= 10 else 2].expand(len(pixels), -1)
    if source.text is None:
        return Probe(pixels, keep)
    tokenizer = source.tokenizer
    assert tokenizer is not None, "it reads text"
    texts = tokenizer([tokenizer.clean(text) for text in _TEXTS[: len(pixels)]])
    answers = _numbers(len(pixels), _ANSWER_TOKENS, tokenizer.vocab_size) if source.form == "answering" else None
    return Probe(pixels, keep, texts.ids, texts.mask, answers)


def _noise(source: Source) -> Tensor:
    """Frames of smooth noise that move, u8 [2,T,H,W,3]; made of whole numbers alone, so the same on every machine."""
    num_frames, side = source.clip_shape
    rows, columns = torch.arange(side)[:, None, None], torch.arange(side)[None, :, None]
    colours, frames = torch.arange(3)[None, None, :], torch.arange(num_frames)
    clips = [
        torch.stack(
            [
                (rows * (3 + clip) + columns * (5 - clip) + colours * 85 + t * 23 + rows * columns // 16) % 256
                for t in frames
            ]
        )
        for clip in range(_CLIPS)
    ]
    return torch.stack(clips).to(torch.uint8)


def _clip(source: Source, clip: Path) -> Tensor:
    frames, side = source.clip_shape
    request = ClipRequest(middle_frames(frames), side)
    try:
        return clip_of_video(clip, request).views
    except DecodeError as error:
        raise DataError(f"{clip}: {error.what}", hint="name a video file that can be decoded") from error
    except OSError as error:
        raise DataError(f"{clip} cannot be read: {error.strerror or error}") from error


def _numbers(rows: int, columns: int, below: int) -> Tensor:
    """i64 [rows,columns] of 0 … below-1, the same everywhere."""
    return (torch.arange(rows * columns).reshape(rows, columns) * 7919 + 1) % below


@torch.no_grad()
def outputs_of(source: Source, probe: Probe) -> Outputs:
    """What the model says, by name; fp32 on the CPU. Of what the weights did not hold nothing is said.

    student      features [B,N,D] of all tokens, normed; visible [B,V,D], where the kept tokens alone are seen; aligned
                 [K,B,V,C], its predictions of the teacher's features
    classifier   features [B,D], the normed mean of all tokens; logits [B,C]
    video_text   features, visible, and where it was aligned aligned, as above; video [B,T,C], unit vectors of frames;
                 states [R,L,W], the text after its lower layers; text [R,C], unit vectors; match [R,2], logits of text
                 r with video r; where it has a word head words [R,L,vocabulary], its logits for fused text
    answering    features [B,N,D]; states [R,L,W]; answers [R,A,vocabulary], logits of its decoder
    """
    module = source.module
    if isinstance(module, VideoClassifier):
        return {"features": module.features(probe.pixels), "logits": module.logits(probe.pixels)}
    if isinstance(module, AlignmentModel):
        return _aligned(module, probe, has_decoders=not _is_fresh(source, "clip_decoder."))
    if isinstance(module, VideoTextModel):
        return _compared(source, module, probe)
    assert isinstance(module, AnsweringModel), type(module)
    return _answered(module, probe)


def differences(before: Outputs, after: Outputs) -> list[Difference]:
    """Of each output that both have; NaN in one of them counts as infinitely far. Raises ValueError where `after` has
    an output that `before` lacks, or of another shape: our bug, and no export."""
    if odd := [name for name in after if name not in before or after[name].shape != before[name].shape]:
        raise ValueError(f"outputs that cannot be compared: {odd}")
    return [_difference(name, before[name], value) for name, value in after.items()]


def _difference(name: str, before: Tensor, after: Tensor) -> Difference:
    apart = (before.double() - after.double()).abs().nan_to_num(nan=torch.inf)
    return Difference(name, tuple(before.shape), before.abs().max().item(), apart.max().item())


def _is_fresh(source: Source, part: str) -> bool:
    return any(part in name for name in source.fresh)


def _aligned(module: AlignmentModel, probe: Probe, *, has_decoders: bool) -> dict[str, Tensor]:
    features = module.encoder(probe.pixels).tokens
    seen = module.encode(probe.pixels, probe.keep)
    outputs = {"features": features, "visible": seen.tokens}
    if has_decoders and len(module.clip_decoder):
        outputs["aligned"] = module.decode(seen, probe.pixels, probe.keep)
    return outputs


def _compared(source: Source, module: VideoTextModel, probe: Probe) -> dict[str, Tensor]:
    assert probe.ids is not None, "it reads text"
    assert probe.is_token is not None, "and knows its padding"
    outputs = _aligned(module.vision_encoder, probe, has_decoders=not _is_fresh(source, "clip_decoder."))
    pooled = module.vision_encoder.pool(outputs["features"], frames=probe.pixels.shape[1])
    states = module.text_encoder.encode(probe.ids, probe.is_token)
    fused = module.text_encoder.fuse(states, probe.is_token, outputs["features"])
    outputs |= {
        "video": module.embed_video(pooled),
        "states": states,
        "text": module.embed_text(states),
        "match": module.match(fused),
    }
    if module.text_encoder.has_word_head and not _is_fresh(source, "text_encoder.cls."):
        outputs["words"] = module.text_encoder.words(fused)
    return outputs


def _answered(module: AnsweringModel, probe: Probe) -> dict[str, Tensor]:
    assert probe.ids is not None, "it reads text"
    assert probe.is_token is not None, "and knows its padding"
    assert probe.answers is not None, "and writes"
    read = module.read(Clips(probe.pixels), probe.ids, probe.is_token)
    return {
        "features": module.encoder(probe.pixels).tokens,
        "states": module.text_encoder.encode(probe.ids, probe.is_token),
        "answers": module.text_decoder(probe.answers, read, probe.is_token),
    }
