"""The model that makes the vectors of an index, and of the texts and videos that ask it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.config.check import check
from umt_ds.config.deepspeed_json import Precision, load_deepspeed_json, precision_of
from umt_ds.config.explain import Origin
from umt_ds.config.run import RunConfig
from umt_ds.data.clip_request import ClipRequest
from umt_ds.data.video_clips import whole_clip
from umt_ds.errors import ConfigError, WeightsError
from umt_ds.evaluation.embedding import Embedder, TextEmbedder
from umt_ds.jobs.evaluate import as_trained
from umt_ds.search.index_files import Facts
from umt_ds.tasks.initial import state_fingerprint
from umt_ds.tasks.video_text.embedding import embedder_of
from umt_ds.tasks.video_text.retriever import Retriever, build_retriever


@dataclass(frozen=True)
class SearchModel:
    """A model of video and text in evaluation mode. embedder: its vectors. fingerprint: of its weights."""

    retriever: Retriever
    embedder: Embedder
    text: TextEmbedder
    fingerprint: str
    precision: Precision

    @property
    def width(self) -> int:
        """C."""
        return self.retriever.model.vision_proj.out_features

    @property
    def request(self) -> ClipRequest:
        """What it sees of a clip."""
        return self.embedder.request

    def embed_clips(self, pixels: Tensor) -> Tensor:
        """u8 [B,T,H,W,3] to the mean of the unit vectors of a clip's frames, f32 [B,C] on the CPU."""
        return self.embedder.clips(pixels)

    def embed_video(self, file: Path) -> Tensor:
        """A whole video file to its vector, f32 [C]. Raises DataError where it is none."""
        return self.embed_clips(whole_clip(file, self.request).views)[0]


def open_model(config: RunConfig, weights: Path, *, averaged: bool, device: torch.device) -> SearchModel:
    """Raises ConfigError for a run that learned no text, WeightsError or CheckpointError for weights that are not its
    own."""
    precision = precision_of(load_deepspeed_json(config.engine))
    retriever = build_retriever(config, weights, device=torch.device("cpu"), averaged=averaged)
    fingerprint = state_fingerprint(retriever.model.state_dict())
    as_trained(retriever.model, precision).to(device)
    embedder = embedder_of(retriever, config)
    assert embedder.text is not None, "it compares videos with texts"
    return SearchModel(retriever, embedder, embedder.text, fingerprint, precision)


def open_model_of(facts: Facts, weights: Path | None, *, index: Path, device: torch.device) -> SearchModel:
    """The model of an index. weights: where they lie now, where they are not where they were.

    Raises WeightsError for weights that are not those of the index, ConfigError for another vocabulary.
    """
    config = check(dict(facts.config), {"": Origin(str(index))}, keep_unset=True)
    given = weights or Path(facts.weights)
    if not given.exists():
        raise WeightsError(
            f"the weights that made {index}, {given}, are not there", hint="say where they are now: --weights PATH"
        )
    model = open_model(config, given, averaged=facts.averaged, device=device)
    if model.fingerprint != facts.fingerprint:
        raise WeightsError(
            f"{index} was made by other weights than those of {given}: their fingerprints are {facts.fingerprint} and "
            f"{model.fingerprint}",
            hint="--weights PATH names those that made it; or make it again with `umt embed`",
        )
    if (vocabulary := model.retriever.tokenizer.fingerprint) != facts.vocabulary:
        raise ConfigError(
            f"{index} was made with another vocabulary: its fingerprint is {facts.vocabulary}, and that of "
            f"{config.task.kind} {config.name} here {vocabulary}",
            hint="restore the vocabulary file, or make the index again with `umt embed`",
        )
    return model
