"""A trained model to call from Python; `umt_ds.load` gives one.

Shapes: B videos, V views of a video, T frames, h x w patches of each, W windows, R texts, C width of an embedding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn

from umt_ds.api.abilities import ANY_QUESTION, METHODS, WHO_CAN, Call
from umt_ds.api.videos import Video, frames_in, path_of, videos_in, views_of
from umt_ds.api.wording import in_python
from umt_ds.config.deepspeed_json import Precision
from umt_ds.data.clip_request import ClipRequest
from umt_ds.data.video_clips import Windows, clips_of_video, frames_of_video, naming
from umt_ds.errors import ConfigError, DataError, NonFiniteError
from umt_ds.evaluation.embedding import Embedder, TextEmbedder
from umt_ds.evaluation.prediction import Asked, Predict, Prediction, refuse_no_numbers
from umt_ds.jobs.trained import TrainedModel
from umt_ds.tasks.kinds import embedder_of, predictor_of


class WindowEmbeddings(NamedTuple):
    """Of the windows of a video. embeddings: f32 [W,C]. spans_s: the seconds of each. left_out: what is said of windows
    that hold fewer frames than the model sees; they are not among these."""

    embeddings: Tensor
    spans_s: tuple[tuple[float, float], ...]
    left_out: tuple[str, ...]


class VideoModel:
    """A trained model, in evaluation mode, on one device. Its methods take no gradients; who wants some has `module`.

    A video is a path, bytes of a file, or frames: uint8 [T,H,W,3] or [T,3,H,W] of torch or numpy, or a list of
    pictures (PIL, or arrays [H,W,3]). A model chooses frames and resizes them by the rule of its task, as `umt predict`
    and `umt embed` do, and frames that are given count as all that the video has. Which methods a model has follows
    from its task: `can` names them, and the others raise ConfigError.

    Tensors that come back are f32 on the CPU. Raises DataError for what is no video, NonFiniteError where the model
    says something that is not a number.
    """

    def __init__(self, trained: TrainedModel) -> None:
        self._trained = trained
        self._embedder: Embedder = embedder_of(trained.run.config, trained.module)
        self._last: tuple[Asked, ClipRequest, Predict] | None = None

    # ------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """Of the run."""
        return self._trained.run.config.name

    @property
    def task(self) -> str:
        """Its kind, as `task.kind` of the run says it."""
        return self._trained.run.config.task.kind

    @property
    def can(self) -> tuple[str, ...]:
        """The methods that this model has."""
        says = METHODS[self._trained.run.config.task.says]
        text = self._embedder.text
        has_match = text is None or text.can_match
        return ("encode_video", *(name for name in says if name != "match" or has_match), "attention")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of a classifier's classes, as far as its checkpoint or `load` says them."""
        return tuple(self._trained.names)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._trained.device

    @property
    def precision(self) -> Precision:
        """In which it computes: fp32, bf16 or fp16."""
        return self._trained.precision

    @property
    def fingerprint(self) -> str:
        """Of its weights, as `umt eval` and `umt predict` say it."""
        return self._trained.fingerprint

    @property
    def module(self) -> nn.Module:
        """The module itself, in the names of weights of METHOD.md."""
        return self._trained.module

    def __repr__(self) -> str:
        shown = self._embedder.request
        return (
            f"VideoModel({self.name}: {self.task}, {shown.frames.count} frames of {shown.side} px, {self.precision} on "
            f"{self.device}; can {', '.join(self.can)})"
        )

    # ------------------------------------------------------------ videos and texts as vectors

    @overload
    def encode_video(
        self, video: Video | Sequence[Video], *, window: None = None, stride: None = None, batch: int = 16
    ) -> Tensor: ...

    @overload
    def encode_video(
        self, video: str | os.PathLike[str], *, window: float, stride: float | None = None, batch: int = 16
    ) -> WindowEmbeddings: ...

    def encode_video(
        self,
        video: Video | Sequence[Video],
        *,
        window: float | None = None,
        stride: float | None = None,
        batch: int = 16,
    ) -> Tensor | WindowEmbeddings:
        """Embeddings: [C] of one video, [B,C] of a list or of frames [B,T,H,W,3]; `batch` at a time.

        Of a model of stage 2 or retrieval, the mean of the unit vectors of the frames, as `umt embed` writes it: its
        product with `encode_text` is the similarity. Of other models the mean of all tokens, by which kNN votes.
        window, stride: seconds; a file is then cut into windows, each `window` long and `stride` (default: `window`)
        after the one before it, as by `umt embed --window`.
        """
        if batch < 1:
            raise ConfigError(f"batch={batch}", hint="1 at least")
        if window is not None:
            return self._encode_windows(video, window, stride or window, batch)
        if stride is not None:
            raise ConfigError("stride= is of windows", hint="give their length with window=")
        videos, is_one = videos_in(video)
        request = self._embedder.request
        parts = [
            self._embedded(torch.cat([views_of(one, request) for one in videos[start : start + batch]]))
            for start in range(0, len(videos), batch)
        ]
        return parts[0][0] if is_one else torch.cat(parts)

    def _encode_windows(self, video: object, window: float, stride: float, batch: int) -> WindowEmbeddings:
        if not isinstance(video, str | os.PathLike):
            raise ConfigError("window= is for one video file, whose frames have times", hint="give its path")
        if not (0 < window < float("inf") and 0 < stride < float("inf")):
            raise ConfigError(f"window={window} and stride={stride}", hint="seconds, more than 0")
        path, windows = path_of(video), Windows(window, stride)
        parts: list[Tensor] = []
        spans: list[tuple[float, float]] = []
        left_out: list[str] = []
        first, of = 0, 1
        while first < of:  # as many at a time as are encoded together; what is decoded of a long file is not kept
            with naming(path):
                found = clips_of_video(path, self._embedder.request, windows=windows, first=first, at_most=batch)
            if found.clips:
                parts.append(self._embedded(torch.cat([clip.views for clip in found.clips])))
            spans += [(float(clip.span_s[0]), float(clip.span_s[1])) for clip in found.clips]
            left_out += found.too_short
            first, of = first + batch, found.of
        if not parts:
            raise DataError(f"{path} has no window that can be encoded: {left_out[0]}", hint="a longer window=")
        return WindowEmbeddings(torch.cat(parts), tuple(spans), tuple(left_out))

    @torch.no_grad()
    def _embedded(self, views: Tensor) -> Tensor:
        """u8 [B,T,side,side,3] to f32 [B,C]."""
        vectors = self._embedder.clips(views)
        if not vectors.isfinite().all():
            raise NonFiniteError(
                "what the model makes of a video is not a number",
                hint="the weights or the activations have left the range of their precision: precision='fp32'",
                again=True,
            )
        return vectors

    @torch.no_grad()
    def encode_text(self, text: str | Sequence[str]) -> Tensor:
        """Unit vectors: [C] of one text, [R,C] of a list. Raises ConfigError for a text of which nothing is left
        without its punctuation."""
        reader = self._reader("encode_text")
        texts = _texts(text, what="text")
        vectors = reader.texts([reader.clean(one) for one in texts])
        return vectors[0] if isinstance(text, str) else vectors

    def similarity(self, videos: Video | Sequence[Video] | Tensor, texts: str | Sequence[str] | Tensor) -> Tensor:
        """How near each of B videos is to each of R texts: [B,R], of one video and one text too. Both may be given as
        they are, or as what `encode_video` and `encode_text` made of them (float)."""
        self._reader("similarity")
        of_videos = videos if _is_embedding(videos) else self.encode_video(videos)
        of_texts = texts if isinstance(texts, Tensor) else self.encode_text(texts)
        assert isinstance(of_videos, Tensor)
        return _rows(of_videos) @ _rows(of_texts).T

    # ------------------------------------------------------------ what it says

    def predict(
        self, video: Video, *, top: int = 5, segments: int | None = None, crops: int | None = None
    ) -> Prediction:
        """The `top` likeliest classes with their `probability`, as `umt predict` says them. segments, crops: of the
        views that they are the mean of; None: as the run is tested."""
        self._refuse("predict")
        return self._said(video, Asked(top=_at_least_one(top), segments=segments, crops=crops))[0]

    def match(self, video: Video, texts: str | Sequence[str], *, top: int | None = None) -> Prediction:
        """The texts that the fusion encoder, which reads a text while it looks at the video, finds to fit: each with
        the probability of a `match` and its `similarity`, the likeliest first. Of more than 128 texts the most similar
        128. top: so many of them; None: all."""
        self._refuse("match")
        captions = tuple(_texts(texts, what="text"))
        most = len(captions) if top is None else _at_least_one(top)
        return self._said(video, Asked(captions=captions, match=True, top=most))[0]

    @overload
    def answer(
        self,
        video: Video,
        question: str,
        *,
        answers: Sequence[str] | None = None,
        beams: int | None = None,
        top: int = 5,
    ) -> Prediction: ...

    @overload
    def answer(
        self,
        video: Video,
        question: list[str] | tuple[str, ...],
        *,
        answers: Sequence[str] | None = None,
        beams: int | None = None,
        top: int = 5,
    ) -> list[Prediction]: ...

    def answer(
        self,
        video: Video,
        question: str | list[str] | tuple[str, ...],
        *,
        answers: Sequence[str] | None = None,
        beams: int | None = None,
        top: int = 5,
    ) -> Prediction | list[Prediction]:
        """The answer to a question, or one for each of a list, with its `probability`: the `top` likeliest of
        `answers`, else the one that is written freely, `beams` at a time being followed (default: 1)."""
        self._refuse("answer")
        if answers is not None and beams is not None:
            raise ConfigError(
                "beams= is for answers that are written, and answers= is a list of them", hint="one of both"
            )
        listed = () if answers is None else tuple(_texts(answers, what="answer"))
        questions = tuple(_texts(question, what="question"))
        asked = Asked(questions=questions, answers=listed, beams=beams, top=_at_least_one(top))
        said = self._said(video, asked)
        return said[0] if isinstance(question, str) else said

    def _said(self, video: Video, asked: Asked) -> list[Prediction]:
        request, say = self._answering(asked)
        with torch.no_grad():
            said = list(say(views_of(video, request)))
        refuse_no_numbers(said, of=str(video) if isinstance(video, str | os.PathLike) else "the video")
        return said

    def _answering(self, asked: Asked) -> tuple[ClipRequest, Predict]:
        """The last one is kept: many videos are asked the same, and its texts are encoded once."""
        if self._last is None or self._last[0] != asked:
            with in_python():
                predictor = predictor_of(self._trained.run.config, asked, self._trained.names)
            self._last = asked, predictor.request, predictor.of(self.module)
        return self._last[1:]

    # ------------------------------------------------------------ what it sees

    def frames_of(
        self,
        path: str | os.PathLike[str],
        *,
        start: float | None = None,
        end: float | None = None,
        of: Call = "encode_video",
    ) -> Tensor:
        """The frames of a video file that a method is shown, in the size that they have: u8 [T,H,W,3] (of several test
        clips, one after the other). start, end: seconds; None: of the whole video. Raises DataError for seconds with
        fewer frames than the model sees."""
        begin = 0.0 if start is None else start
        if not (0 <= begin < float("inf")) or (end is not None and not end > begin):
            raise ConfigError(f"start={start} and end={end}", hint="seconds, the start before the end")
        file = path_of(path)
        with naming(file):
            return frames_of_video(file, self._request(of).frames, start_s=start, end_s=end).views[0]

    def views(self, frames: Video, *, of: Call = "encode_video") -> Tensor:
        """The resized views that a method makes of frames which `frames_of` gave: u8 [V,T,side,side,3]. The method
        takes them, too: `model.predict(model.views(frames, of="predict"))`."""
        request = self._request(of)
        given = frames_in(frames)
        wanted = request.frames.count * request.frames.segments
        if len(given) != wanted:
            raise DataError(
                f"{len(given)} frames, and {of} makes views of {wanted}",
                hint=f"`frames_of` chooses as many; {of} itself takes any number of frames and chooses among them",
            )
        return torch.from_numpy(request.views_of(given))

    def _request(self, of: Call) -> ClipRequest:
        if of == "encode_video":
            return self._embedder.request
        self._refuse(of)
        says = self._trained.run.config.task.says
        assert says is not None, "it can do what is asked"
        return predictor_of(self._trained.run.config, ANY_QUESTION[says], self._trained.names).request

    @torch.no_grad()
    def attention(self, video: Video, *, block: int = -1, query: tuple[int, int, int] | None = None) -> Tensor:
        """How much each patch of a video is looked at in a block of the video encoder: f32 [T,h,w], which sums to 1.

        It is the softmax attention, the mean over the heads and over all tokens that look; query: (frame, row, column)
        of the only one that does. block: counted from 0, or from the end. The frames are those of
        `model.views(model.frames_of(path))`.
        """
        encoder = self._embedder.encoder
        if not -len(encoder.blocks) <= block < len(encoder.blocks):
            raise ConfigError(f"block={block}, and the encoder has {len(encoder.blocks)}", hint="block=-1 is the last")
        views = views_of(video, self._embedder.request)
        if len(views) != 1:
            raise DataError(f"{len(views)} views", hint="one: attention is of one video")
        grid = encoder.patch_embed.grid(views)
        rows = None if query is None else torch.tensor([_number_of(query, grid)], device=self.device)
        return encoder.looked_at(views.to(self.device), block=block, rows=rows).cpu().view(grid)

    # ------------------------------------------------------------ what it cannot

    def _refuse(self, method: str) -> None:
        if method in self.can:
            return
        if method == "match" and self._embedder.text is not None:
            raise ConfigError(
                f"{self.name} does not learn which texts match (its weight of VTM is 0), so it has no match()",
                hint="similarity() ranks texts",
            )
        raise ConfigError(
            f"{self.name} is of kind {self.task}, which has no {method}()",
            hint=f"it can {', '.join(self.can)}; {WHO_CAN[method]}",
        )

    def _reader(self, method: str) -> TextEmbedder:
        self._refuse(method)
        assert self._embedder.text is not None, "a run that compares captions reads them"
        return self._embedder.text


def _texts(given: str | Sequence[str], *, what: str) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"no {what} is given, or one is no text", hint="a text, or a list of texts")
    return texts


def _at_least_one(top: int) -> int:
    if top < 1:
        raise ConfigError(f"top={top}", hint="1 at least")
    return top


def _rows(embeddings: Tensor) -> Tensor:
    """[C] or [R,C] to f32 [R,C]."""
    return embeddings.float().cpu().reshape(-1, embeddings.shape[-1])


def _is_embedding(given: object) -> bool:
    return isinstance(given, Tensor) and given.is_floating_point() and given.ndim in (1, 2)


def _number_of(query: tuple[int, int, int], grid: tuple[int, int, int]) -> int:
    """The number of the token at (frame, row, column)."""
    if not all(0 <= place < size for place, size in zip(query, grid, strict=True)):
        raise ConfigError(f"query={query} is outside the {' x '.join(map(str, grid))} patches of the video")
    frame, row, column = query
    return (frame * grid[1] + row) * grid[2] + column
