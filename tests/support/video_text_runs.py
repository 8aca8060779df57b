"""Runs of retrieval and question answering with models of odd sizes, and sets for them: clips of the models' own size.

    run = video_text_run(folder, "retrieval", f"evaluation={{test: {{kind: retrieval, shards: {folder / 'test'}}}}}")

Frames are stored as they are shown, so an oracle knows the pixels (`pixels_of`). Words are those of WORDS.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.making.item_table import read_items, write_table
from tests.support.plain_video_text import PlainModel
from tests.support.shards import picture, write_shards
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig

FRAMES, SIDE, PATCH = 3, 20, 5
VIT_HEADS, TEXT_HEADS, FUSION_LAYER = 3, 5, 3
WORDS = ("a", "man", "dog", "red", "ball", "runs", "sits", "on", "the", "blue", "box", "##s", "##ing", "##er")
Kind = Literal["stage2", "retrieval", "question_answering"]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_ENCODER = f"{{preset: custom, sizes: {{width: 18, depth: 2, heads: {VIT_HEADS}, patch: {PATCH}}}, "
_ENCODER += f"frames: {FRAMES}, image_size: {SIDE}}}"
_RUN = """
name: odd
seed: 5
data: {augment: {antialias: false}, workers: 0}
batch: {global: 4, micro: 4}
optim: {lr: 1.0e-4, lr_rule: absolute, min_lr: 1.0e-6}
schedule: {curve: cosine_floor, steps: 3, warmup_steps: 1}
engine: {deepspeed: cpu.json}
"""


def video_text_run(folder: Path, kind: Kind, *more: str, max_tokens: int = 9) -> RunConfig:
    """A run that trains on FOLDER/train, with the vocabulary of WORDS."""
    file = folder / f"{kind}.yaml"
    if not file.exists():  # ranks that read it do not write it at the same time
        write_settings(folder, kind)
    own = [f"run_dir={folder / 'run'}", f"data.sources.own.shards={folder / 'train'}"]
    return load_run(str(file), [*own, f"task.text.max_tokens={max_tokens}", *more])


def write_settings(folder: Path, kind: str) -> None:
    """The vocabulary, and a run file that lacks the places of its run and its clips."""
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    sizes = f"{{width: 20, layers: 5, heads: {TEXT_HEADS}, hidden: 36, vocab_size: {len(SPECIAL + WORDS)}}}"
    text = f"{{preset: custom, sizes: {sizes}, weights: random, vocabulary: {vocabulary}, fusion_layers: "
    text += f"{5 - FUSION_LAYER}, dropout: 0.0}}"
    encoder = "student" if kind == "stage2" else "encoder"
    task = f"kind: {kind}, {encoder}: {_ENCODER}, text: {text}"
    task += "" if kind == "question_answering" else ", embed_width: 14"
    if kind == "stage2":
        task += ", teacher: null, mask: {image: null, video: null}, loss_weights: {uta: 0}"
    (folder / f"{kind}.yaml").write_text(f"{_RUN}task: {{{task}}}\n")


def odd_weights(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """The module in evaluation mode, every weight drawn so that no two pairs are alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name != "temp":
                spread = 0.4 if parameter.ndim > 1 else 0.2
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def plain_of(module: nn.Module) -> PlainModel:
    """The same weights as written-out loops."""
    return PlainModel(module.state_dict(), VIT_HEADS, TEXT_HEADS, FUSION_LAYER)


def ids_of(text: str) -> list[int]:
    """`[CLS]` and the words of a text that are whole words of the vocabulary."""
    return [SPECIAL.index("[CLS]"), *(len(SPECIAL) + WORDS.index(word) for word in text.split())]


def pixels_of(number: int) -> Tensor:
    """u8 [T,H,W,3] of clip `number`."""
    noise = np.random.default_rng(number).integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    return torch.from_numpy(noise)


def write_clips(folder: Path, said: Sequence[Mapping[str, Any]]) -> Path:
    """A set with a clip for each of `said`, its json."""

    def members(number: int) -> dict[str, bytes]:
        frames = {f"{i:03d}.png": picture(frame) for i, frame in enumerate(pixels_of(number).numpy())}
        return {"json": json.dumps(said[number]).encode(), **frames}

    half = len(said) // 2
    return write_shards(folder, [size for size in (half, len(said) - half) if size], members=members)


def write_items(folder: Path, clips: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A set of items that the clips of another are asked for: rows have `key`, what is asked, and `group`, perhaps."""
    annotations = folder.with_suffix(".json")
    annotations.write_text(json.dumps(rows))
    write_table(read_items(clips, annotations=[annotations]), folder)
    return folder
