"""A model as ONNX graphs: from frames as bytes, normalised inside, to logits or vectors. Any number of clips at once.

stage 1             video.onnx     frames → features
recognition         video.onnx     frames → features, logits
stage 2, retrieval  video.onnx     frames → features, video
                    text.onnx      ids, is_token → text

Written by torch.export; needs `umt_ds[onnx]`.

Shapes: B clips, T frames, H x W pixels, R texts, L tokens.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from umt_ds.errors import ConfigError
from umt_ds.exchange.compare import Outputs, Probe, probe_of
from umt_ds.exchange.source import Source
from umt_ds.exchange.targets import Options, Part, Plan, Written
from umt_ds.exchange.usage import onnx_text_usage, onnx_video_usage
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.video_text import VideoTextModel
from umt_ds.models.vit import VideoViT

CLASSES, TOKENIZER = "classes.json", "tokenizer.json"
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 20  # the first with LayerNormalization and Gelu as operators; onnxruntime 1.17 and newer run it
_LARGEST_FILE = 1_900_000_000  # a graph is one protobuf message, of 2 GiB at most; larger weights lie beside it


@dataclass(frozen=True)
class Graph:
    """One file. module: what is traced. inputs, outputs: their names; axis 0 of each is free, and is called `axis`."""

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axis: str


class _Encoder(nn.Module):
    """All tokens of clips."""

    def __init__(self, encoder: VideoViT) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor) -> Tensor:
        """u8 [B,T,H,W,3] → [B,N,D]."""
        tokens: Tensor = self.encoder(frames).tokens
        return tokens


class _Classifier(nn.Module):
    """Features and logits of clips."""

    def __init__(self, model: VideoClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """u8 [B,T,H,W,3] → [B,D], [B,C]."""
        features = self.model.features(frames)
        return features, self.model.head(features)


class _Video(nn.Module):
    """Tokens of clips, and a unit vector of each frame."""

    def __init__(self, model: VideoTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """u8 [B,T,H,W,3] → [B,N,D], [B,T,C]."""
        features = self.model.vision_encoder.encoder(frames).tokens
        pooled = self.model.vision_encoder.pool(features, frames=frames.shape[1])
        return features, self.model.embed_video(pooled)


class _Text(nn.Module):
    """Unit vectors of texts."""

    def __init__(self, model: VideoTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, is_token: Tensor) -> Tensor:
        """i64 [R,L], bool [R,L] → [R,C]."""
        return self.model.embed_text(self.model.text_encoder.encode(ids, is_token))


def plan(source: Source, options: Options) -> Plan:
    """See `targets.Target`. Raises ConfigError where `umt_ds[onnx]` is not installed."""
    _require_libraries()
    graphs = _graphs(source, options)
    files = {
        f"{part}.onnx": f"{', '.join(graph.inputs)} → {', '.join(graph.outputs)}" for part, graph in graphs.items()
    }
    if "text" in graphs:
        files[TOKENIZER] = "captions to tokens, cleaning first, without [SEP]"
    notes = []
    if source.form != "classifier":
        notes = [
            "Left out: what is no vector of a clip or of a text (decoders, fusion layers, heads of words and matches)."
        ]
    return Plan(files | ({CLASSES: "names of the classes"} if source.classes else {}), notes)


def write(source: Source, folder: Path, options: Options) -> Written:
    """See `targets.Target`."""
    notes = plan(source, options).notes
    probe, graphs = probe_of(source), _graphs(source, options)
    for part, graph in graphs.items():
        _export(graph, _inputs(part, probe), folder / f"{part}.onnx")
    if "text" in graphs and source.tokenizer is not None:
        (folder / TOKENIZER).write_text(source.tokenizer.library_json(), encoding="utf-8")
    if source.classes:
        (folder / CLASSES).write_text(json.dumps(source.classes, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    frames, side = source.clip_shape
    of_video = onnx_video_usage(frames=frames, side=side)
    usage = [of_video if part == "video" else onnx_text_usage() for part in graphs]
    return Written("\n\n".join(usage), notes)


def run(folder: Path, source: Source, probe: Probe, options: Options) -> Outputs:
    """See `targets.Target`."""
    import onnxruntime

    outputs: dict[str, Tensor] = {}
    for part, graph in _graphs(source, options).items():
        session: Any = onnxruntime.InferenceSession(folder / f"{part}.onnx", providers=["CPUExecutionProvider"])
        given = dict(zip(graph.inputs, (tensor.numpy() for tensor in _inputs(part, probe)), strict=True))
        found = session.run(list(graph.outputs), given)
        outputs |= dict(zip(graph.outputs, map(torch.from_numpy, found), strict=True))
    return outputs


def _require_libraries() -> None:
    """Raises ConfigError that names what is missing."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"--to onnx needs {', '.join(missing)}, not installed here", hint="pip install 'umt_ds[onnx]'"
        )


def _graphs(source: Source, options: Options) -> Mapping[Part, Graph]:
    """Those that are written. Raises ConfigError for a part that there is not."""
    module = source.module
    graphs: dict[Part, Graph]
    if isinstance(module, VideoClassifier):
        graphs = {"video": Graph(_Classifier(module), ("frames",), ("features", "logits"), "clips")}
    elif isinstance(module, VideoTextModel):
        graphs = {
            "video": Graph(_Video(module), ("frames",), ("features", "video"), "clips"),
            "text": Graph(_Text(module), ("ids", "is_token"), ("text",), "texts"),
        }
    else:
        graphs = {"video": Graph(_Encoder(source.encoder), ("frames",), ("features",), "clips")}
    if options.part is None:
        return graphs
    for part, graph in graphs.items():
        if part == options.part:
            return {part: graph}
    raise ConfigError(f"{source.run.name} has no part {options.part!r} for onnx", hint=f"it has: {', '.join(graphs)}")


def _inputs(part: Part, probe: Probe) -> Sequence[Tensor]:
    if part == "video":
        return (probe.pixels,)
    assert probe.ids is not None, "it reads text"
    assert probe.is_token is not None, "and knows its padding"
    return probe.ids, probe.is_token


def _export(graph: Graph, inputs: Sequence[Tensor], path: Path) -> None:
    """Trace and write one graph. inputs: examples, which fix every axis but the first."""
    module = graph.module.eval()
    examples = tuple(tensor[:1].repeat(2, *[1] * (tensor.dim() - 1)) for tensor in inputs)  # axis of 1 would be fixed
    with torch.no_grad():
        module(*examples)  # position tables are made and kept outside of the trace
        free = torch.export.Dim(graph.axis)
        with _quiet():
            program: Any = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=_OPSET,
                dynamic_shapes=tuple({0: free} for _ in examples),
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                verbose=False,
            )
    size = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    program.save(path, external_data=size > _LARGEST_FILE)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own inner life."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
