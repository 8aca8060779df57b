"""`umt eval` of what takes hours: bars, parts that are kept until the scores are written, a row for each scorer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from torch import nn

from tests.support.shards import write_shards
from tests.support.stage2_runs import stage2_run, write_for_stage2
from tests.support.tiny_runs import add_checkpoint, make_config, write_run
from umt_ds.config.load import load_run
from umt_ds.distributed.world import World
from umt_ds.errors import DataError
from umt_ds.evaluation.encode import no_beat
from umt_ds.evaluation.evaluator import Beat, KeptWork, Scores, begins
from umt_ds.jobs import evaluate
from umt_ds.jobs.eval_plan import plan_text
from umt_ds.jobs.eval_runs import EvalRun, find_runs
from umt_ds.jobs.evaluate import run_evaluation
from umt_ds.jobs.run_scores import RunScores
from umt_ds.jobs.score_files import ScoreFiles
from umt_ds.jobs.score_table import score_text

KNN = ("evaluation.val.kind=knn", "evaluation.val.shards=/data/val")


@dataclass
class Long:
    """Keeps a part, and is killed or fails when it is told to."""

    fails: bool = False
    kept: list[KeptWork] = field(default_factory=list)
    name = "val"
    metrics = ("mean",)
    sets = ()

    def resuming(self, kept: KeptWork) -> Long:
        self.kept.append(kept)
        return self

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        self.kept[-1].folder.mkdir(exist_ok=True)
        (self.kept[-1].folder / "part").write_text("")
        begins(beat, "the slow half", 2)
        beat()
        if self.fails:
            raise DataError("the disk is gone")
        return Scores(self.name, {"mean": 1.0}, items=1)


@pytest.fixture
def run(tmp_path: Path) -> EvalRun:
    config = make_config(tmp_path, *KNN)
    add_checkpoint(write_run(config), config)
    (found,) = find_runs([str(config.folder)])
    return found


def score(run: EvalRun, judge: Long, files: ScoreFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "evaluators_of", lambda *_: [judge])
    run_evaluation([run], files)


def test_finished_parts_lie_beside_the_scores_until_these_are_written(
    run: EvalRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    judge = Long(fails=True)
    with pytest.raises(SystemExit):
        score(run, judge, ScoreFiles(out), monkeypatch)
    parts = tmp_path / "scores.json.parts"
    assert (parts / "part").exists()
    judge.fails = False
    score(run, judge, ScoreFiles(out), monkeypatch)
    assert out.exists()
    assert not parts.exists()
    first, second = judge.kept
    assert first == second, "the same weights in the same place"
    assert "val, the slow half:" in capsys.readouterr().err


def test_without_a_file_of_scores_parts_lie_in_the_run_folder_and_other_weights_have_none(
    run: EvalRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Long()
    score(run, judge, ScoreFiles(), monkeypatch)
    assert run.checkpoint is not None
    assert [one.folder for one in judge.kept] == [run.checkpoint.parents[1] / "evaluation.parts"]
    assert not judge.kept[0].folder.exists()
    assert ScoreFiles().kept_work(replace(run, checkpoint=None)) is None
    moved = Path("/elsewhere/step-00000006")
    assert ScoreFiles().kept_work(replace(run, checkpoint=moved)) is None, "it lies in no run folder"


def test_who_counts_no_beats_is_told_of_no_other_work() -> None:
    begins(no_beat, "the slow half", 2)


def test_each_scorer_has_a_row_of_the_same_columns(run: EvalRun) -> None:
    values = {"t2v_r1": 30.0, "mean": 40.0, "reranked_t2v_r1": 50.0, "reranked_mean": 60.0}
    ranks = {"t2v_mean_rank": 3.0, "reranked_t2v_mean_rank": 2.0}
    scores = Scores("val", values, items=7, ranks=ranks, scorers=("reranked",))
    title, simple, reranked, *_ = score_text([RunScores(run, "f", 6, "", "fp32", (scores,))]).splitlines()
    assert title.split()[-3:] == ["t2v_r1", "mean", "t2v_mean_rank"]
    assert simple.split()[-3:] == ["30.00", "40.00", "3.00"]
    assert reranked.split() == ["reranked", "50.00", "60.00", "2.00"]


def test_seeds_are_put_together_scorer_by_scorer(run: EvalRun) -> None:
    scored = []
    for seed, mean in ((0, 40.0), (1, 50.0)):
        values = {"mean": mean, "reranked_mean": mean + 20}
        other = replace(run, config=run.config.model_copy(update={"seed": seed}))
        scores = Scores("val", values, items=7, scorers=("reranked",))
        scored.append(RunScores(other, "f", 6, "", "fp32", (scores,)))
    lines = score_text(scored).splitlines()
    assert lines[5].split()[-3:] == ["45.00", "±", "7.07"]
    assert lines[6].split() == ["reranked", "65.00", "±", "7.07"]


def test_the_plan_says_what_re_ranking_costs(tmp_path: Path) -> None:
    write_for_stage2(tmp_path)
    shards = write_shards(tmp_path / "val", (3, 4))
    own = ["evaluation=null", f"evaluation.val={{kind: retrieval, shards: {shards}, rerank: {{candidates: 5}}}}"]
    run = load_run("demo/stage2", stage2_run(tmp_path, "run", "init.weights=w.pt", *own))
    text = plan_text([EvalRun("run", run, None)], ranks=1)
    assert (
        "re-ranking: the clips are read and encoded once more; 5 texts for each clip and 5 clips for each text" in text
    )
    assert "up to 70 pairs" in text
