"""Each corpus of retrieval, multiple choice and questions, from annotations in their official form to scores of its
recipe, by the commands of `data_prep/CORPORA.md` as they stand there; models and batches are small.

A recipe of each corpus learns two steps from weights of stage 2, is judged by its own evaluations, and each of its
settings is read; its run is then scored again. Zero-shot recipes are scored as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.test_recipes import read_elsewhere
from tests.support.corpora import commands, write_corpora
from tests.support.ranks import call, run_ranks
from tests.support.recipes import AFTER_STAGE2
from tests.support.umt_data import Umt, umt_data
from umt_ds.config.load import run_names
from umt_ds.data.shards.manifest import load_manifest

pytestmark = pytest.mark.slow

SMALL = ("--short-side", "40", "--workers", "1")
CALLS = "tests.distributed.corpora_calls"


@pytest.fixture
def umt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Umt:
    return umt_data(monkeypatch, capsys)


def test_each_corpus_is_prepared_learned_from_and_scored_by_the_commands_of_its_page(
    umt: Umt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpora(tmp_path)
    monkeypatch.chdir(tmp_path)
    trained, scored = [], []
    for program, verb, *words in commands(tmp_path):
        match program, verb:
            case "umt-data", _:
                done = umt(verb, *words, *(SMALL if verb == "folder" else ()))
                assert done.code == 0, f"{verb} {words}: {done.text}"
                if verb == "items":
                    assert "0 rows left out" in done.text or "of another split" in done.text, done.text
            case "umt", "train":
                trained.append(words[0])
            case "umt", "eval":
                scored.append(words[0])
    folders = {name.rpartition("/")[0] for name in run_names() if name.startswith(AFTER_STAGE2)}
    assert {name.rpartition("/")[0] for name in (*trained, *scored)} == folders
    assert set(load_manifest(tmp_path / "shards" / "msrvtt-1ka").options["protocol"]) >= {"name"}

    calls = [call(f"{CALLS}:enter", folder=str(tmp_path)), call(f"{CALLS}:train_stage2")]
    calls += [call(f"{CALLS}:train_and_score", name=name) for name in trained]
    calls += [call(f"{CALLS}:score", name=name) for name in scored]
    (results,) = run_ranks(1, calls)
    for name, result in zip(trained, results[2:], strict=False):
        check(name, result["while it trained"])
        check(name, result["afterwards"])
        assert [key for key in result["unread"] if not is_excused(key, name)] == [], name
    for name, result in zip(scored, results[2 + len(trained) :], strict=True):
        check(name, result)


COMPARED = {  # videos and captions of a test: several captions of a video, one caption of several videos
    "retrieval/msrvtt": (2, 2),
    "retrieval/msvd": (2, 4),
    "zero_shot/msvd": (2, 4),
    "retrieval/didemo": (2, 2),
    "retrieval/ssv2_label": (2, 1),
    "retrieval/ssv2_template": (2, 1),
}


def is_excused(key: str, name: str) -> bool:
    """Whether a setting need not be read: of question answering, the field of captions, which the schema refuses."""
    reads_questions = name.startswith("question_answering/")
    return bool(read_elsewhere(key)) or (
        reads_questions and key.startswith("data.sources.") and key.endswith(".caption")
    )


def check(name: str, scores: dict[str, dict[str, Any]]) -> None:
    """Nothing is missing in the scores of a run, and its best is chosen by one of them."""
    for evaluation, score in scores.items():
        assert score["left_out"] == 0, (name, evaluation)
        assert score["items"] >= 1, (name, evaluation)
        assert score["protocol"]["published"]["as_published"] is False, "there are two videos, and not a thousand"
        if (compared := COMPARED.get(name.rpartition("/")[0])) and evaluation == "test":
            assert (score["protocol"]["videos"], score["protocol"]["captions"]) == compared, name
        metric = "reranked_mean" if name.startswith(("retrieval", "zero_shot")) else "accuracy"
        assert 0 <= score["values"][metric] <= 100, (name, evaluation)
