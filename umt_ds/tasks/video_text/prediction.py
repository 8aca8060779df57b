"""Which of some captions fits a video that nobody has described.

Shapes: C captions, L tokens, P vectors of a video, D width of the space where they are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from umt_ds.batch import Tokens
from umt_ds.config.evaluation import RetrievalEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.data.clip_request import published_frames
from umt_ds.data.order.views import Views
from umt_ds.errors import ConfigError
from umt_ds.evaluation.metrics.retrieval import similarity
from umt_ds.evaluation.prediction import Asked, Predict, Prediction, Predictor, cleaned, likeliest
from umt_ds.models.bert import Looked
from umt_ds.models.video_text import VideoTextModel
from umt_ds.tasks.captions import caption_tokenizer
from umt_ds.tasks.video_text.retrieval import full_view
from umt_ds.tasks.video_text.settings import objective_of

_TEXTS = 64  # captions that are encoded together
_MATCHED = 128  # captions that the fusion encoder looks at: as many as in re-ranking


def caption_predictor(run: RunConfig, asked: Asked) -> Predictor:
    """The captions that fit a video best, by their similarity; with `match`, of the most similar by how probably they
    match. Raises ConfigError where no captions are given, or one says nothing, and for what such a run is not asked."""
    says = "says which of some captions fits"
    asked.refuse_all_but(("--caption", "--match"), says=says)
    if not asked.captions:
        raise ConfigError(
            f"this run {says}, and is given none", hint='--caption "a man opens a box", or --captions FILE'
        )
    task = objective_of(run)
    if asked.match and not task.loss_weights.vtm:
        raise ConfigError(
            "--match: this run does not learn which texts match (its weight of VTM is 0)",
            hint="leave --match away: captions are ranked by their similarity",
        )
    frames, side = task.clip_shape
    tokenizer = caption_tokenizer(task.text)
    captions = tokenizer([cleaned(caption, tokenizer.clean, what="caption") for caption in asked.captions])
    of_run = next((one for one in run.evaluation.values() if isinstance(one, RetrievalEvaluation)), None)
    antialias = None if of_run is None else of_run.antialias
    request = full_view(
        tokenizer,
        frames=published_frames(Views("retrieval", frames)),
        side=side,
        antialias=run.data.augment.antialias if antialias is None else antialias,
        caption="caption",
    )

    def of(module: nn.Module) -> Predict:
        assert isinstance(module, VideoTextModel)
        return _Captions(module, captions, asked)

    return Predictor(request, False if of_run is None else of_run.ema, of)


class _Captions:
    """Embeds the captions once, and compares each video with them."""

    @torch.no_grad()
    def __init__(self, model: VideoTextModel, captions: Tokens, asked: Asked) -> None:
        self._model, self._asked = model, asked
        self._tokens = captions.to(model.temp.device)
        parts = torch.split(torch.arange(len(captions.ids)), _TEXTS)
        self._embedded = torch.cat([model.embed_text(self._encode(part)) for part in parts])  # [C,D]

    @torch.no_grad()
    def __call__(self, views: Tensor) -> list[Prediction]:
        vision = self._model.vision_encoder
        tokens = vision.encoder(views.to(self._model.temp.device)).tokens
        video = self._model.embed_video(vision.pool(tokens, frames=views.shape[1]))  # [1,P,D]
        near = similarity(video, self._embedded)[0].cpu()  # [C]
        texts, numbers = self._asked.captions, {"similarity": near}
        if self._asked.match:
            some = near.argsort(descending=True, stable=True)[:_MATCHED]
            looked = self._model.text_encoder.look(tokens)  # once for all captions
            match = torch.cat([self._match(looked, part) for part in torch.split(some, _TEXTS)])
            texts = tuple(texts[number] for number in some.tolist())
            numbers = {"similarity": near[some], "match": match.cpu()}
        return [Prediction(None, likeliest(texts, numbers, top=self._asked.top))]

    def _encode(self, numbers: Tensor) -> Tensor:
        """States of some captions, [C,L,W]."""
        return self._model.text_encoder.encode(self._tokens.ids[numbers], self._tokens.mask[numbers])

    def _match(self, looked: Sequence[Looked], numbers: Tensor) -> Tensor:
        """How probably some captions match the video that they look at: f32 [C]."""
        fused = self._model.text_encoder.fuse_with(self._encode(numbers), self._tokens.mask[numbers], looked)
        return self._model.match(fused).softmax(dim=-1)[:, 1]
