"""All that shipped recipes ask for, in small: a folder to run them in, and how each is made small enough for a test.

What a recipe says about data, losses, masks, schedule, precision and first weights stays; models, batch and pictures
shrink. The world is `umt-data demo`'s: each corpus of a recipe is its clips or its pictures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.support.ranks import environment as of_ranks
from umt_ds.config.load import load_tree, run_names

TINY_CLIP = {
    "embed_dim": 512,  # as wide as the projections of B/16 in stage 2
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 6, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
VARIABLES = {  # by name: what is there in the folder
    "UMT_DATA": "corpora",
    "UMT_CLIP_B16": "clip.pt",
    "UMT_CLIP_L14": "clip.pt",
    "UMT_SIGLIP2_B16": "tiny_siglip.pt",
    "UMT_DINOV2_B14": "tiny_dinov2_reg.pt",
    "UMT_DINOV3_B16": "tiny_dinov3.pt",
    "UMT_PE_B16": "tiny_pe_core.pt",
    "UMT_BERT_BASE": "bert",
    "UMT_BERT_LARGE": "bert",
    "UMT_STAGE1_B16": "runs/stage1/b16_k710",
    "UMT_STAGE1_L16": "runs/stage1/l16_k710",
    "UMT_STAGE2_B16_5M": "runs/stage2/b16_5m",
    "UMT_WEIGHTS": "runs/recognition/b16_k710",
    **{
        f"UMT_{data.upper()}_{size.upper()}": f"runs/recognition/{size}_{data}"
        for data in ("k710", "k400", "mit")
        for size in ("b16", "l16")
    },
}
TEACHERS = {  # by the name of a recipe: its kind of teacher in small; all others have a CLIP
    "stage1/b16_k710_siglip2": "tiny_siglip",
    "stage1/b16_k710_dinov2": "tiny_dinov2_reg",
    "stage1/b16_k710_dinov3": "tiny_dinov3",
    "stage1/b16_k710_pe": "tiny_pe_core",
}
FIRST = (  # others start from them
    "demo/teacher", "demo/stage1", "demo/stage2", "demo/recognition", "demo/stage2_motion",
    "stage1/b16_k710", "stage1/l16_k710", "stage2/b16_5m",
    "recognition/b16_k710", "recognition/l16_k710", "recognition/b16_k400", "recognition/l16_k400",
    "recognition/b16_mit", "recognition/l16_mit", "stage1/one_camera",
)  # fmt: skip


# Their items are made by protocols: `tests/distributed/test_official_corpora.py` runs one of each corpus.
AFTER_STAGE2 = ("retrieval/", "multiple_choice/", "question_answering/", "zero_shot/")


def map_ordered() -> list[str]:
    """Every shipped recipe but those AFTER_STAGE2, those first whose runs others start from."""
    others = [name for name in run_names() if name not in FIRST and not name.startswith(AFTER_STAGE2)]
    return [*FIRST, *others]


def write_world(folder: Path) -> None:
    """Clips and pictures, made by `umt-data`, under the name of each corpus."""
    data = folder / "runs" / "demo" / "data"
    command = [sys.executable, "-m", "data_prep", "demo", str(data), "--clips", "10", "--size", "64", "--workers", "1"]
    subprocess.run(command, check=True, env=of_ranks(), capture_output=True)
    (data.parent / "pairs").symlink_to(data)  # the larger world of the demo's models of video and text
    for corpus, medium in corpora().items():
        (folder / "corpora" / corpus).parent.mkdir(parents=True, exist_ok=True)
        kind = "images" if medium == "image" else "val" if corpus.endswith("/val") else "train"
        (folder / "corpora" / corpus).symlink_to(data / kind)


def corpora() -> dict[str, str]:
    """What the recipes' sources and evaluations look for below UMT_DATA, and its medium."""
    trees = [load_tree(name)[0] for name in map_ordered()]
    named = [
        one for tree in trees for part in (tree["data"]["sources"], tree.get("evaluation", {})) for one in part.values()
    ]
    found = {one["shards"]: one.get("media", "video") for one in named}
    return {shards.removeprefix("${env:UMT_DATA}/"): medium for shards, medium in found.items() if "UMT_DATA" in shards}


def variables(folder: Path) -> dict[str, str]:
    """The environment that recipes want."""
    return {name: str(folder / place) for name, place in VARIABLES.items()}


def smaller(name: str) -> list[str]:
    """Overrides that make a recipe tiny."""
    few = ["batch.global=4", "batch.micro=4", "data.workers=0", "report.tensorboard=false", "cadence.log=1"]
    few += [f"stop_at={2 * len(load_tree(name)[0]['data']['sources'])}"]  # long enough to meet each medium
    if name.startswith("demo/"):
        return [*few, "cadence.evaluate=1"] if "evaluation" in load_tree(name)[0] else few
    few += [f"run_dir=runs/{name}"]
    task = load_tree(name)[0]["task"]
    is_tiny = (task.get("encoder") or task["student"]).get("preset") == "custom"
    if name.startswith("recognition/"):
        # its classes and the frames of its held-out set are the demo's
        few += ["task.label=motion_label", "task.classes=8", "task.mixing.group=4"]
        few += ["evaluation.val.frames=stored", "cadence.evaluate=1"]
        if is_tiny:
            return [*few, f"init.weights=runs/stage1/{Path(name).name}"]
        return [*few, "task.encoder.preset=pocket", "task.encoder.image_size=32"]
    if is_tiny:
        return few
    few += ["task.student.preset=pocket", "task.student.image_size=32"]
    if task["teacher"] is not None:
        few += [f"task.teacher.preset={TEACHERS.get(name, 'tiny_clip')}", "task.teacher.image_size=32"]
    return [*few, "task.text.preset=folder"] if name.startswith("stage2/") else few


def write_models(folder: Path) -> None:
    """A tiny CLIP, by a name that open_clip then knows, towers that timm then knows, and a tiny BERT. Loads libraries
    for seconds: for ranks."""
    import open_clip
    import timm

    from tests.support import tiny_towers

    torch.manual_seed(0)
    (folder / "tiny_clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(folder / "tiny_clip.json")
    torch.save(open_clip.create_model("tiny_clip").state_dict(), folder / "clip.pt")
    for tower in TEACHERS.values():
        assert tower in tiny_towers.TOWERS
        torch.save(timm.create_model(tower, num_classes=0).state_dict(), folder / f"{tower}.pt")
    write_bert(folder / "bert", words=(folder / "runs" / "demo" / "data" / "vocab.txt").read_text().splitlines())


def write_bert(folder: Path, *, words: Sequence[str]) -> None:
    """A tiny BERT that knows these words, in the form of Hugging Face. Loads libraries for seconds: for ranks."""
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(vocab_size=len(words), max_position_embeddings=160, **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
