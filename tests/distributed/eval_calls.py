"""What the ranks of the tests of `umt eval` do (see tests.support.ranks)."""

from __future__ import annotations

from pathlib import Path

from umt_ds.jobs.eval_runs import find_runs
from umt_ds.jobs.evaluate import run_evaluation
from umt_ds.jobs.score_files import ScoreFiles


def evaluate(*, runs: list[str], out: str) -> str | None:
    """The table of `umt eval RUN... -o OUT`."""
    return run_evaluation(find_runs(runs), ScoreFiles(Path(out)))
