"""Published weights as files, and the runs that they belong to: what `umt export` starts from in tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umt_ds.exchange.source import Source, open_source
from umt_ds.jobs.eval_runs import find_runs

_RUN = """
name: exported
task: {task}
data: {{sources: {{own: {{shards: nowhere}}}}, augment: {{antialias: false}}, workers: 0}}
batch: {{global: 4, micro: 4}}
optim: {{lr: 1.0e-4, lr_rule: absolute, min_lr: 1.0e-6}}
schedule: {{curve: cosine_floor, steps: 3, warmup_steps: 1}}
engine: {{deepspeed: cpu.json}}
"""


def vit(width: int, depth: int, heads: int, *, frames: int, side: int, patch: int = 16) -> str:
    """Settings of a video encoder."""
    sizes = f"{{width: {width}, depth: {depth}, heads: {heads}, patch: {patch}}}"
    return f"{{preset: custom, sizes: {sizes}, frames: {frames}, image_size: {side}}}"


def bert(cfg: Mapping[str, Any], vocabulary: Path) -> str:
    """Settings of a BERT of the sizes that the golden files say."""
    sizes = f"width: {cfg['hidden_size']}, layers: {cfg['num_hidden_layers']}, heads: {cfg['num_attention_heads']}"
    sizes += f", hidden: {cfg['intermediate_size']}, vocab_size: {cfg['vocab_size']}"
    fusion = cfg["num_hidden_layers"] - cfg["fusion_layer"]
    return (
        f"{{preset: custom, sizes: {{{sizes}}}, weights: random, vocabulary: {vocabulary}, fusion_layers: {fusion}, "
        "max_tokens: 12, dropout: 0.0}"
    )


def tower(width: int, layers: int, heads: int, *, out_width: int, side: int, k: int, patch: int = 16) -> str:
    """Settings of a CLIP that teaches."""
    sizes = f"image_size: {side}, patch_size: {patch}, width: {width}, layers: {layers}, heads: {heads}"
    return f"{{preset: custom, tower: {{{sizes}, out_width: {out_width}}}, weights: random, layers: {k}}}"


def write_words(folder: Path, count: int) -> Path:
    """A vocabulary of so many words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *"abcdefghijklmnopqrstuvwxyz", "dogs", "man"]
    words += [f"word{number}" for number in range(count - len(words))]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words[:count]))
    return folder / "vocab.txt"


def write_run(folder: Path, task: str) -> Path:
    """A YAML file of a run of that task."""
    file = folder / "exported.yaml"
    file.write_text(_RUN.format(task=task))
    return file


def source_of(folder: Path, task: str, weights: Any, *more: str, **options: Any) -> Source:
    """The model of published weights (what torch.save is given), or of those that lie at a path. options: of
    `open_source`."""
    if not isinstance(weights, Path):
        torch.save(weights, folder / "given.pth")
        weights = folder / "given.pth"
    (run,) = find_runs(
        [str(write_run(folder, task))], [f"init.weights={weights}", *more], own_weights=False, judged=False
    )
    return open_source(run, **options)


def differing(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], ignore: Sequence[str] = ()) -> list[str]:
    """Names of tensors that only one has, or that differ in dtype, shape or a number."""
    names = [name for name in {**ours, **theirs} if not name.startswith(tuple(ignore))]
    return [name for name in names if not (name in ours and name in theirs and is_same(ours[name], theirs[name]))]


def is_same(one: Tensor, other: Tensor) -> bool:
    """Equal to the bit."""
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
