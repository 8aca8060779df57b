"""Small runs of retrieval and of stage 2 that learns the same: on clips and pictures as `stage2_runs.py` has them."""

from __future__ import annotations

import json
from pathlib import Path

from umt_ds.data.clip_request import middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.evaluation.metrics.retrieval import RetrievalResult
from umt_ds.evaluation.retrieval import embed_set
from umt_ds.tasks.video_text.retrieval import full_view
from umt_ds.tasks.video_text.retriever import Retriever

STEPS = 6
_SIZES = {"width": 128, "layers": 4, "heads": 4, "hidden": 512, "vocab_size": 128}


def retrieval_yaml(folder: Path, *, kind: str = "retrieval") -> str:
    """FOLDER/KIND.yaml: fine-tuning with drop path and dropout, twelve rows a step, of clips and pictures. As stage 2
    the same objective in its words."""
    encoder = {"preset": "pocket", "frames": 3, "image_size": 32, "drop_path": 0.2}
    text = {
        "preset": "custom", "sizes": _SIZES, "weights": "random", "vocabulary": str(folder / "vocab.txt"),
        "fusion_layers": 1, "max_tokens": 12, "dropout": 0.1,
    }  # fmt: skip
    task = {"kind": kind, "text": text, "embed_width": 16, "vtc": {"gather": "sliced", "positives": "sample"}}
    if kind == "retrieval":
        task |= {"encoder": encoder}
    else:
        task |= {"student": encoder, "mask": {"image": None, "video": None}, "loss_weights": {"mlm": 0, "uta": 0}}
    clips = {"shards": str(folder / "shards"), "frames": {"policy": "intervals"}}
    run = {
        "name": kind, "seed": 3, "task": task, "run_dir": str(folder / kind),
        "data": {
            "sources": {"clips": clips, "pictures": {"shards": str(folder / "images"), "media": "image"}},
            "augment": {"crop": "random_resized", "scale": [0.5, 1.0], "antialias": False}, "workers": 1,
        },
        "batch": {"global": 12, "micro": 6},
        "optim": {
            "lr": 1e-3, "lr_rule": "absolute", "min_lr": 1e-5, "betas": [0.9, 0.999], "eps": 1e-8,
            "weight_decay": 0.02, "clip_grad": None,
        },
        "schedule": {"curve": "cosine_floor", "steps": STEPS, "warmup_steps": 2},
        "engine": {"deepspeed": "cpu.json"},
        "cadence": {"log": 1, "save": 100, "evaluate": 0},
        "report": {"tensorboard": False},
    }  # fmt: skip
    path = folder / f"{kind}.yaml"
    path.write_text(json.dumps(run))
    return str(path)


def clips_of(shards: Path, retriever: Retriever, *, batch: int = 16, antialias: bool | None = None) -> EvaluationSet:
    """All of each clip and its captions, as a retriever sees them; antialias: None as its run resizes."""
    request = full_view(
        retriever.tokenizer,
        frames=middle_frames(retriever.frames),
        side=retriever.side,
        antialias=retriever.antialias if antialias is None else antialias,
        caption="caption",
    )
    return EvaluationSet(shards, request, batch_size=batch)


def searched(shards: Path, retriever: Retriever, *, batch: int = 16, antialias: bool | None = None) -> RetrievalResult:
    """What the captions of a set find by a retriever, without an evaluation."""
    items = clips_of(shards, retriever, batch=batch, antialias=antialias)
    return embed_set(retriever, retriever.tokenizer, items).compared()
