"""Evaluators on three gloo ranks find what they find alone, bit for bit. (On two ranks, at each ZeRO stage:
`test_engine.py`.)"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.distributed.evaluator_calls import scores
from tests.support.ranks import call, run_ranks
from tests.support.shards import Members, noisy_frames, write_shards
from umt_ds.evaluation.encode import ALONE

torch.set_num_threads(1)
WORLD = 3
KINDS = ("knn", "retrieval", "multiple_choice", "classification")


def in_pairs(number: int) -> dict[str, bytes]:
    """Noise; two clips share a label, and have two captions each, and two to four options."""
    options = [f"clip {number + other}" for other in range(2 + number % 3)]
    captions = [f"clip {number}", f"number {number}"]
    said = {"label": number // 2, "caption": captions, "options": options, "answer": number % 2}
    return {**noisy_frames(number), "json": json.dumps(said).encode()}


def bad(*numbers: int) -> Callable[[int], Members]:
    """in_pairs, some of them with junk in place of pictures."""
    return lambda n: {"json": in_pairs(n)["json"], "000.png": b"junk"} if n in numbers else in_pairs(n)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Arguments of `scores` by name."""
    folder = tmp_path_factory.mktemp("sets")
    seven = str(write_shards(folder / "seven", (4, 3), members=in_pairs))  # 4 batches of 2: ranks have 2, 1, 1
    voters = str(write_shards(folder / "voters", (5, 6), members=in_pairs, first=3))
    broken = str(write_shards(folder / "broken", (4, 3), members=bad(2, 3)))  # one whole batch
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        both = {"kind": kind, "shards": seven, "voters": voters}
        found |= {
            f"{kind} whole": both,
            f"{kind} workers": {**both, "workers": 2},
            f"{kind} few": {**both, "batch": 1, "limit": 2},
            f"{kind} broken": {**both, "shards": broken, "max_left_out": 0.5},
            f"{kind} too broken": {**both, "shards": broken},
        }
    return found | {"disk": {"kind": "knn", "shards": seven, "voters": voters, "fails_on": 0, "workers": 1}}


@pytest.fixture(scope="module")
def of_ranks(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All cases in one launch, the same on all ranks."""
    results = run_ranks(WORLD, [call("tests.distributed.evaluator_calls:scores", **case) for case in cases.values()])
    assert results[0] == results[1] == results[2], "the ranks disagree"
    return dict(zip(cases, results[0], strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["whole", "workers", "few", "broken", "too broken"])
def test_three_ranks_find_what_one_finds(
    kind: str, case: str, cases: dict[str, dict[str, Any]], of_ranks: dict[str, Any]
) -> None:
    alone = scores(ALONE, **cases[f"{kind} {case}"])
    assert of_ranks[f"{kind} {case}"] == alone


@pytest.mark.parametrize("kind", KINDS)
def test_workers_change_nothing(kind: str, of_ranks: dict[str, Any]) -> None:
    assert of_ranks[f"{kind} workers"] == of_ranks[f"{kind} whole"]
    assert of_ranks[f"{kind} whole"]["items"] == 7
    assert of_ranks[f"{kind} whole"]["partial"] is False


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_read_is_named_and_makes_a_score_partial(kind: str, of_ranks: dict[str, Any]) -> None:
    found = of_ranks[f"{kind} broken"]
    assert [key for key, _ in found["left_out"]] == ["clip-0002", "clip-0003"]
    assert all("picture" in reason for _, reason in found["left_out"])
    assert (found["items"], found["partial"]) == (5, True)
    assert "clip-0002" not in found["predictions"]["key"]
    assert "2 of 7 clips cannot be scored: clip-0002" in of_ranks[f"{kind} too broken"]["error"]


def test_a_disk_that_fails_one_rank_is_an_error_on_all(of_ranks: dict[str, Any]) -> None:
    assert of_ranks["disk"] == {"error": "the disk of this rank is gone", "agreed": True, "beats": True}
