"""What ranks compare before they train or evaluate together."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.shards import write_shards
from umt_ds.config.load import load_run
from umt_ds.jobs.train import cadence_of, evaluated_by


def test_a_set_may_lie_elsewhere_but_not_be_another(tmp_path: Path) -> None:
    here = write_shards(tmp_path / "here", (2, 1))
    there = shutil.copytree(here, tmp_path / "there")
    other = write_shards(tmp_path / "other", (3,))

    def compared(shards: Path, *more: str) -> dict[str, object]:
        words = ["evaluation.x.kind=knn", f"evaluation.x.shards={shards}", f"evaluation.x.voters={here}"]
        return evaluated_by(load_run("demo/stage1", [f"evaluation.knn.shards={here}", *words, *more]))

    assert compared(here) == compared(there)
    assert compared(here) != compared(other)
    assert compared(here) != compared(here, "evaluation.x.limit=2")


def test_when_the_ranks_meet_is_compared() -> None:
    runs = [load_run("demo/stage1", [f"cadence.evaluate={steps}"]) for steps in (2, 3)]
    assert cadence_of(runs[0]) != cadence_of(runs[1])
    assert cadence_of(runs[0])["cadence.evaluate"] == 2
