"""What the evaluation of one run found."""

from __future__ import annotations

from dataclasses import dataclass

from umt_ds.evaluation.evaluator import Scores
from umt_ds.jobs.eval_runs import EvalRun


@dataclass(frozen=True)
class RunScores:
    """The scores of a run, by evaluation, and which weights they are of."""

    run: EvalRun
    fingerprint: str  # of names, shapes and values of the weights: the same wherever they lie
    step: int | None  # of the checkpoint; None for other weights
    loaded: str  # a sentence about it
    precision: str
    scores: tuple[Scores, ...]

    def of(self, evaluation: str) -> Scores | None:
        """The scores of one evaluation; None where the run has no such."""
        return next((scores for scores in self.scores if scores.name == evaluation), None)
