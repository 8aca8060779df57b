"""What judges models of video and text finds on two and three ranks what it finds alone, bit for bit.

Sets have seven clips or items, which no number of ranks divides, some with several captions, some grouped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.video_text_calls import scores
from tests.support.ranks import call, run_ranks
from tests.support.video_text_runs import write_clips, write_items, write_settings
from umt_ds.evaluation.encode import ALONE

torch.set_num_threads(1)
CAPTIONS = [
    ["a man runs", "the man runs on a box"], "a dog", "red ball", ["blue box on the red box", "a box", "box"],
    "the dog sits", "a man sits on the ball", "a man runs",
]  # fmt: skip
GROUPS = ["runs", "runs", "ball", "ball", "ball", "sits", "runs"]
QUESTIONS = ["a man sits on", "the ball", "dog", "red box", "a man runs on the box", "the man", "blue"]
ANSWERS = ["man", "dog", "red ball", "blue", "box", "the dog sits on the box", "a man runs", "ball"]
ZERO3 = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}


def options(number: int) -> dict[str, Any]:
    texts = ["a man runs", "the dog sits", "red ball", "blue box"]
    return {"options": [texts[(number + i) % 4] for i in range(2 + number % 3)], "answer": number % 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sets."""
    root = tmp_path_factory.mktemp("sets")
    said = [
        {"caption": CAPTIONS[n], **options(n), "question": QUESTIONS[n], "answers": [ANSWERS[n], ANSWERS[-n]]}
        for n in range(7)
    ]
    write_clips(root / "train", said[:4])
    write_clips(root / "test", said)
    rows = [{"key": f"clip-{n:04d}", "caption": GROUPS[n], "group": GROUPS[n]} for n in range(7)]
    write_items(root / "grouped", root / "test", rows)
    write_clips(root / "dumb", [said[n] if n != 3 else {"label": 1} for n in range(7)])  # one of 7 says nothing
    (root / "other.json").write_text('["tree", "sky"]')
    (root / "answers.json").write_text(json.dumps(ANSWERS))
    for kind in ("retrieval", "question_answering"):
        write_settings(root, kind)
    return root


RERANKED = {"rerank.candidates": 3, "rerank.pairs": 5, "dual_softmax.temperature": "search"}
EVALUATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "embeddings": ("retrieval", {"kind": "retrieval"}),
    "re-ranked": ("retrieval", {"kind": "retrieval", **RERANKED}),
    "grouped": ("retrieval", {"kind": "retrieval", **RERANKED, "shards": "grouped"}),
    "choices": ("retrieval", {"kind": "multiple_choice"}),
    "answers": ("question_answering", {"kind": "question_answering", "answers": "answers.json", "candidates": 4}),
    "written": ("question_answering", {"kind": "question_answering", "generate.beams": 2}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a caption": ("retrieval", {"kind": "retrieval", "shards": "dumb", **RERANKED}, "1 of 7 clips cannot be scored"),
    "options": ("retrieval", {"kind": "multiple_choice", "shards": "dumb"}, "1 of 7 clips cannot be scored"),
    "a question": (
        "question_answering",
        {"kind": "question_answering", "shards": "dumb", "answers": "answers.json"},
        "1 of 7 clips cannot be scored",
    ),
    "an answer": ("question_answering", {"kind": "question_answering", "answers": "other.json"}, "none of the first 7"),
}


@pytest.fixture(scope="module")
def cases(folder: Path) -> dict[str, dict[str, Any]]:
    """Arguments of `scores` by name and workers, and under ZeRO 3."""
    found: dict[str, dict[str, Any]] = {}
    for name, (kind, settings) in EVALUATIONS.items():
        one = {"folder": str(folder), "kind": kind, "evaluation": placed(folder, settings)}
        found |= {name: one, f"{name} workers": {**one, "workers": 2}, f"{name} zero": {**one, "zero": ZERO3}}
    for name, (kind, settings, _) in REFUSED.items():
        found[f"without {name}"] = {"folder": str(folder), "kind": kind, "evaluation": placed(folder, settings)}
    return found


def placed(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose files and sets lie in the folder."""
    paths = {key: str(folder / settings[key]) for key in ("shards", "answers") if key in settings}
    return {"shards": str(folder / "test"), "batch": 2, **settings, **paths}


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3])
def of_ranks(request: pytest.FixtureRequest, cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All cases in one launch, the same on all ranks."""
    target = "tests.distributed.video_text_calls:scores"
    results = run_ranks(request.param, [call(target, **case) for case in cases.values()])
    for name, *found in zip(cases, *results, strict=True):
        assert all(one == found[0] for one in found), f"{name}: the ranks disagree"
    return dict(zip(cases, results[0], strict=True))


@pytest.mark.parametrize("name", EVALUATIONS)
@pytest.mark.parametrize("how", ["", " workers", " zero"])
def test_ranks_workers_and_zero_3_change_no_bit(
    name: str, how: str, cases: dict[str, dict[str, Any]], of_ranks: dict[str, Any]
) -> None:
    alone = json.loads(json.dumps(scores(ALONE, **cases[name])))
    assert "error" not in alone
    assert of_ranks[f"{name}{how}"] == alone


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_missing_is_one_error_on_all_ranks(name: str, of_ranks: dict[str, Any]) -> None:
    found = of_ranks[f"without {name}"]
    assert REFUSED[name][2] in found["error"]
