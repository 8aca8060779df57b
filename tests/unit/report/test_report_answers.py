"""The report of runs that find, choose and answer: which numbers stand in it, and that it says what ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.shards import picture, write_shards
from tests.support.stage2_runs import write_for_stage2
from tests.support.tiny_runs import add_checkpoint, write_run
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.evaluation.encode import ALONE, no_beat
from umt_ds.report.write import write_report
from umt_ds.tasks.kinds import build_task, evaluators_of
from umt_ds.tasks.room import ExhibitOptions

torch.set_num_threads(1)
COLOURS = ("red", "green", "blue")
STEP = {"step": 1, "draws": 4, "epoch": 0.1, "loss": 1.0, "lr": 1e-3, "grad_norm": 1.0, "attempt": 1,
        "clips_per_s": 10.0, "clips_per_s_per_device": 5.0, "data_stall_percent": 3.0, "mfu_percent": 1.0,
        "gflops_per_clip": 0.1, "peak_memory_gib": 1.0, "bad_samples": 0, "skipped_steps": 0, "digest": "0",
        "digest_total": "0", "mask_digest_total": "0"}  # fmt: skip


def described(number: int) -> Mapping[str, bytes]:
    """A clip of noise around a colour, with a caption, options and a question."""
    colour = number % 3
    noise = np.random.default_rng(number).integers(0, 80, (4, 24, 24, 3), dtype=np.uint8)
    noise[..., colour] += 150
    said = {
        "caption": f"a {COLOURS[colour]} square number {number}",
        "options": [f"it is {name}" for name in COLOURS],
        "answer": colour,
        "question": "which colour is it",
        "answers": [COLOURS[colour]],
        "question_type": "colour" if number % 2 else "what",
    }
    frames = {f"{place:03d}.png": picture(one) for place, one in enumerate(noise)}
    return {**frames, "json": json.dumps(said).encode()}


def bert(folder: Path) -> dict[str, Any]:
    sizes = {"width": 32, "layers": 3, "heads": 2, "hidden": 64, "vocab_size": 128}
    return {"preset": "custom", "sizes": sizes, "weights": "random", "vocabulary": str(folder / "vocab.txt"),
            "fusion_layers": 1, "max_tokens": 24}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of nine clips, a vocabulary of letters, a list of answers."""
    folder = tmp_path_factory.mktemp("world")
    write_for_stage2(folder)
    write_shards(folder / "held", (9,), members=described)
    (folder / "answers.json").write_text(json.dumps(COLOURS))
    return folder


def run_of(world: Path, folder: Path, kind: str, evaluation: Mapping[str, Any], **task: Any) -> RunConfig:
    """A run with weights as drawn, which has logged one step."""
    encoder = {"preset": "pocket", "frames": 2, "image_size": 16}
    tree = {"name": kind, "run_dir": str(folder / "run"), "engine": {"deepspeed": "cpu.json"},
            "task": {"kind": kind, "encoder": encoder, "text": bert(world), **task},
            "data": {"sources": {"a": {"shards": "gone"}}, "workers": 0}, "batch": {"global": 2, "micro": 2},
            "schedule": {"steps": 1, "warmup_steps": 0}, "optim": {"lr": 1e-4, "lr_rule": "absolute"},
            "evaluation": dict(evaluation)}  # fmt: skip
    (folder / "run.yaml").write_text(json.dumps(tree))
    config = load_run(str(folder / "run.yaml"))
    run = write_run(config)
    add_checkpoint(run, config, weights=module_of(config).state_dict())
    (run / "metrics.jsonl").write_text(json.dumps(STEP) + "\n")
    return config


def module_of(config: RunConfig) -> torch.nn.Module:
    return build_task(config, device=torch.device("cpu"), precision="fp32").module.eval()


def reported(config: RunConfig, out: Path) -> tuple[str, str]:
    """The page and the words."""
    words = write_report(config.folder, out, ExhibitOptions(), say=lambda _: None)
    return (out / "index.html").read_text(), words


def values_of(config: RunConfig) -> Mapping[str, float]:
    """What its one evaluation finds."""
    (evaluator,) = evaluators_of(config)
    return evaluator.run(module_of(config), ALONE, beat=no_beat).values


def test_retrieval_stands_beside_its_re_ranking(world: Path, tmp_path: Path) -> None:
    judged = {"kind": "retrieval", "shards": str(world / "held"), "rerank": {"candidates": 4}}
    config = run_of(world, tmp_path, "retrieval", {"test": judged})
    page, words = reported(config, tmp_path / "out")
    values = values_of(config)
    rows = {line.split("   ")[0].strip(): line.split()[-3:] for line in words.splitlines()[1:]}
    for row, prefix in (("caption → clip", "t2v"), ("caption → clip, reranked", "reranked_t2v")):
        assert rows[row] == [f"{values[f'{prefix}_r{k}']:.1f}" for k in (1, 5, 10)]
    assert "by the fusion encoder among the most similar (reranked)" in page
    assert json.loads((tmp_path / "out" / "retrieval.json").read_text())["again"]["values"] == values
    with Image.open(tmp_path / "out" / "retrieved.png") as drawn:
        assert drawn.width > 500


def test_questions_are_shown_with_their_answers_and_by_type(world: Path, tmp_path: Path) -> None:
    judged = {"kind": "question_answering", "shards": str(world / "held"), "answers": str(world / "answers.json")}
    config = run_of(world, tmp_path, "question_answering", {"test": judged})
    page, words = reported(config, tmp_path / "out")
    found = values_of(config)["accuracy"]
    assert f"the model {found:.1f}" in " ".join(words.split())
    assert "without a look at the video 33.3" in " ".join(words.split())
    assert "colour (4)" in page
    told = json.loads((tmp_path / "out" / "what_is_answered_test.json").read_text())
    assert (told["values"]["accuracy"], told["items"]) == (found, 9)
    with Image.open(tmp_path / "out" / "what_is_answered_test.png") as drawn:
        assert drawn.width > 500


def test_a_choice_is_shown_with_all_options(world: Path, tmp_path: Path) -> None:
    judged = {"kind": "multiple_choice", "shards": str(world / "held")}
    config = run_of(world, tmp_path, "retrieval", {"mc": judged})
    page, words = reported(config, tmp_path / "out")
    found = values_of(config)
    assert f"the model {found['accuracy']:.1f} {found['match_accuracy']:.1f}" in " ".join(words.split())
    assert "What is chosen: mc" in page
    assert "What finds what" not in page, "nothing judges what it finds"
    assert (tmp_path / "out" / "what_is_chosen_mc.png").exists()


def test_what_cannot_be_read_is_said_in_its_place(world: Path, tmp_path: Path) -> None:
    judged = {"kind": "question_answering", "shards": str(world / "gone"), "answers": str(world / "answers.json")}
    config = run_of(world, tmp_path, "question_answering", {"test": judged})
    page, words = reported(config, tmp_path / "out")
    assert "What is answered: test: " in words
    assert "Not made" in page
