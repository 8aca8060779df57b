"""A model as classes that transformers ships, in folders that load without code of their own.

stage 1                       VideoMAEModel
recognition                   TimmWrapperForImageClassification: timm's ViT over frames one above the other (`timm.py`)
stage 2, retrieval, QA        video/ VideoMAEModel, text/ BertModel of the text layers, and what makes vectors of both,
                              which no class has, in heads.safetensors

`VideoMAEForVideoClassification` is not taken: its norm behind the mean adds 1e-5 to the variance, not 1e-6, and it
cannot stretch positions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from umt_ds.data.vocabulary import read_vocabulary
from umt_ds.errors import ConfigError
from umt_ds.exchange import timm
from umt_ds.exchange.bert_model import bert_model_config, bert_model_state, tokenizer_config
from umt_ds.exchange.compare import Outputs, Probe
from umt_ds.exchange.source import Form, Source
from umt_ds.exchange.targets import Options, Part, Plan, Written, refused
from umt_ds.exchange.usage import bert_usage, classifier_usage, vectors_usage, video_mae_usage
from umt_ds.exchange.video_mae import has_room_for, masked, video_mae_config, video_mae_state
from umt_ds.models.answer_decoder import AnsweringModel
from umt_ds.models.layers import IMAGENET, NORM_EPS, normalise
from umt_ds.models.video_text import VideoTextModel

CONFIG, WEIGHTS, PROCESSOR, HEADS = "config.json", "model.safetensors", "preprocessor_config.json", "heads.safetensors"
TOKENIZER, TOKENIZER_CONFIG, VOCABULARY = "tokenizer.json", "tokenizer_config.json", "vocab.txt"
_BILINEAR, _BICUBIC = 2, 3  # Pillow's numbers

# our names in a model that compares videos with texts → those in heads.safetensors
_HEADS: Mapping[Part, Mapping[str, str]] = {
    "video": {"vision_encoder.pool_norm": "pool_norm", "vision_proj": "vision_proj"},
    "text": {"text_proj": "text_proj"},
}
_WITHOUT_CLASS: Mapping[Form, str] = {
    "student": "the decoders, which predict a teacher's features and serve pretraining alone",
    "video_text": "fusion layers, matching head, and what pretraining alone has (word head, decoders)",
    "answering": "fusion layers and answer decoder",
}
_WITHOUT_ANTIALIAS = (
    "VideoMAEImageProcessor resizes with antialias, and this model was made for frames that are resized without. "
    "Frames that have their size already are the same; else resize them yourself, or expect a small difference."
)


def plan(source: Source, options: Options) -> Plan:
    """See `targets.Target`."""
    if source.form == "classifier":
        of_timm = timm.plan(source, options)
        return Plan(
            {**of_timm.files, PROCESSOR: "how frames become pixels"}, [*of_timm.notes, *_resizing_notes(source)]
        )
    files: dict[str, str] = {}
    for part, below in _parts(source, options).items():
        if part == "video":
            _video_config(source)  # may be refused
            files[f"{below}{WEIGHTS}"] = "the video transformer, for VideoMAEModel"
            files[f"{below}{PROCESSOR}"] = "how frames become pixels"
        else:
            files[f"{below}{WEIGHTS}"] = "the text layers, for BertModel"
            files[f"{below}{TOKENIZER}"] = "captions to tokens, cleaning first, without [SEP]"
            files[f"{below}{VOCABULARY}"] = "its word pieces"
        files[f"{below}{CONFIG}"] = "sizes"
    if heads := _heads(source, options):
        files[HEADS] = f"{', '.join(sorted({name.split('.')[0] for name in heads}))}: of vectors of videos and texts"
    left_out = f"Left out, as no class of transformers has it: {_WITHOUT_CLASS[source.form]}."
    return Plan(files, [left_out, *_resizing_notes(source)])


def write(source: Source, folder: Path, options: Options) -> Written:
    """See `targets.Target`."""
    notes = plan(source, options).notes
    if source.form == "classifier":
        timm.write_folder(source, folder)
        _write_json(folder / PROCESSOR, _processor(source))
        return Written(classifier_usage(frames=source.clip_shape.frames), notes)
    parts = _parts(source, options)
    usage = []
    for part, below in parts.items():
        (folder / below).mkdir(exist_ok=True)
        if part == "video":
            _write_video(source, folder / below)
            usage.append(video_mae_usage(below, frames=source.clip_shape.frames))
        else:
            _write_text(source, folder / below)
            usage.append(bert_usage(below))
    if heads := _heads(source, options):
        save_file(heads, folder / HEADS, metadata={"format": "pt"})
        usage += [vectors_usage(frames=source.clip_shape.frames)] if len(parts) > 1 else []
    return Written("\n\n".join(usage), notes)


def run(folder: Path, source: Source, probe: Probe, options: Options) -> Outputs:
    """See `targets.Target`."""
    with torch.no_grad():
        if source.form == "classifier":
            return _run_classifier(folder, probe)
        outputs: dict[str, Tensor] = {}
        for part, below in _parts(source, options).items():
            outputs |= (_run_video if part == "video" else _run_text)(folder / below, source, probe)
        if (folder / HEADS).is_file():
            outputs |= _run_heads(load_file(folder / HEADS), outputs, frames=source.clip_shape.frames)
        return outputs


# ---------------------------------------------------------------- parts


def _parts(source: Source, options: Options) -> dict[Part, str]:
    """Part → its folder below that of the export, `` or `video/`. Raises ConfigError for a part that there is not."""
    parts: list[Part] = ["video"] if source.text is None else ["video", "text"]
    if options.part is None:
        return {"video": ""} if len(parts) == 1 else {part: f"{part}/" for part in parts}
    for part in parts:
        if part == options.part:
            return {part: ""}
    raise ConfigError(
        f"{source.run.name} has no part {options.part!r} for transformers", hint=f"it has: {', '.join(parts)}"
    )


def _heads(source: Source, options: Options) -> dict[str, Tensor]:
    """Of a model that compares videos with texts: what makes vectors of the parts that are written."""
    if not isinstance(source.module, VideoTextModel):
        return {}
    found = {
        f"{theirs}.{kind}": source.state[f"{ours}.{kind}"].contiguous()
        for part in _parts(source, options)
        for ours, theirs in _HEADS[part].items()
        for kind in ("weight", "bias")
    }
    return found | {"temp": source.state["temp"].reshape(1)}


def _video_config(source: Source) -> Mapping[str, Any]:
    encoder, (frames, side) = source.encoder, source.clip_shape
    if not has_room_for(encoder, frames=frames, side=side):
        raise refused(
            source,
            "transformers",
            f"has no place for stretched positions: the encoder sees {frames} frames of {side} pixels by a table for "
            f"{encoder.base.frames} of {encoder.base.side}",
        )
    return video_mae_config(encoder, frames=frames, side=side)


def _write_video(source: Source, folder: Path) -> None:
    save_file(video_mae_state(source.encoder.state_dict()), folder / WEIGHTS, metadata={"format": "pt"})
    _write_json(folder / CONFIG, _video_config(source))
    _write_json(folder / PROCESSOR, _processor(source))


def _write_text(source: Source, folder: Path) -> None:
    text, tokenizer, vocabulary = _bert(source), source.tokenizer, source.vocabulary
    assert tokenizer is not None, "it reads text"
    assert vocabulary is not None, "it reads text"
    state = bert_model_state(text.state_dict(), text_layers=text.text_layers)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    _write_json(folder / CONFIG, bert_model_config(text, pad_id=tokenizer.pad_id))
    (folder / TOKENIZER).write_text(tokenizer.library_json(), encoding="utf-8")
    assert source.text is not None
    _write_json(folder / TOKENIZER_CONFIG, tokenizer_config(max_tokens=source.text.max_tokens))
    numbers = read_vocabulary(vocabulary).numbers
    words = "".join(f"{word}\n" for word in sorted(numbers, key=lambda word: numbers[word]))
    (folder / VOCABULARY).write_text(words, encoding="utf-8")


def _bert(source: Source) -> Any:
    module = source.module
    assert isinstance(module, (VideoTextModel, AnsweringModel)), type(module)
    return module.text_encoder


# ---------------------------------------------------------------- pixels


def _is_stretched(source: Source) -> bool:
    """Whether frames become squares out of shape, as models of text see them; else their centre is cut."""
    return source.text is not None


def _processor(source: Source) -> Mapping[str, Any]:
    """`preprocessor_config.json`: how evaluation makes pixels of frames. Source: METHOD.md, "Crops: stage 2", "Views in
    testing"."""
    side = source.clip_shape.side
    square = {"height": side, "width": side}
    stretched = _is_stretched(source)
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": square if stretched else {"shortest_edge": side},
        "resample": _BICUBIC if stretched else _BILINEAR,
        "do_center_crop": not stretched,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET.mean),
        "image_std": list(IMAGENET.std),
    }


def _resizing_notes(source: Source) -> list[str]:
    antialias = source.form != "classifier" and source.config.data.augment.antialias
    return [] if antialias else [_WITHOUT_ANTIALIAS]


# ---------------------------------------------------------------- loading again


def _run_classifier(folder: Path, probe: Probe) -> dict[str, Tensor]:
    from transformers import AutoModelForImageClassification

    with _quiet():
        model: Any = AutoModelForImageClassification.from_pretrained(folder, **_LOCAL)
    pixels = timm.stacked(probe.pixels)
    vit = model.timm_model
    features = vit.forward_head(vit.forward_features(pixels), pre_logits=True)
    return {"features": features, "logits": model(pixels).logits}


def _run_video(folder: Path, source: Source, probe: Probe) -> dict[str, Tensor]:
    from transformers import VideoMAEModel

    with _quiet():
        model: Any = VideoMAEModel.from_pretrained(folder, **_LOCAL)
    pixels = normalise(probe.pixels, IMAGENET).permute(0, 1, 4, 2, 3)  # [B,T,3,H,W]
    features = model(pixels).last_hidden_state
    if isinstance(source.module, AnsweringModel):  # nothing is ever hidden from it
        return {"features": features}
    hidden = masked(probe.keep, features.shape[1])
    return {"features": features, "visible": model(pixels, bool_masked_pos=hidden).last_hidden_state}


def _run_text(folder: Path, source: Source, probe: Probe) -> dict[str, Tensor]:
    from transformers import BertModel

    with _quiet():
        model: Any = BertModel.from_pretrained(folder, add_pooling_layer=False, **_LOCAL)
    assert probe.ids is not None, "it reads text"
    assert probe.is_token is not None, "and knows its padding"
    return {"states": model(probe.ids, attention_mask=probe.is_token.long()).last_hidden_state}


def _run_heads(heads: Mapping[str, Tensor], outputs: Mapping[str, Tensor], *, frames: int) -> dict[str, Tensor]:
    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, heads[f"{name}.weight"], heads[f"{name}.bias"])

    vectors = {}
    if "features" in outputs:
        means = torch.unflatten(outputs["features"], 1, (frames, -1)).mean(dim=2)
        pooled = F.layer_norm(means, means.shape[-1:], heads["pool_norm.weight"], heads["pool_norm.bias"], NORM_EPS)
        vectors["video"] = F.normalize(linear(pooled, "vision_proj"), dim=-1)
    if "states" in outputs:
        vectors["text"] = F.normalize(linear(outputs["states"][:, 0], "text_proj"), dim=-1)
    return vectors


_LOCAL: Mapping[str, Any] = {"trust_remote_code": False, "local_files_only": True}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bar, which would stand among what we print."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
