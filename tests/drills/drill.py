"""One rehearsal of a fault: a run of its own, and the unbroken run that it must equal in the end."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.jobs import SAVE, STEPS, TrainingJob, start_job
from umt_ds.engine.manifest import CHECKPOINTS, read_checkpoint_manifest
from umt_ds.engine.metrics_file import METRICS, read_metrics, read_records
from umt_ds.report.compare_runs import compare_runs

AVERAGED = "optim.ema_decay=0.9"
"""Every run of a drill keeps a moving average of its weights, so that it too must survive."""


@dataclass(frozen=True)
class Outcome:
    """What came of a fault."""

    text: str
    steps_lost: int  # steps that had been done and were done again


class CannotBeDone(Exception):  # noqa: N818 (no error: the drill is skipped)
    """This machine does not let us make the fault."""


@dataclass
class Drill:
    """The folder `run` is this drill's; nobody writes to `shards` and `unbroken`."""

    shards: Path
    unbroken: Path
    run: Path
    jobs: list[TrainingJob] = field(default_factory=list)

    def start(self, *overrides: str) -> TrainingJob:
        """`umt train` on two ranks, in this drill's run folder."""
        self.jobs.append(start_job(self.run, self.shards, AVERAGED, *overrides))
        return self.jobs[-1]

    def stopped_at(self, step: int) -> Path:
        """Begin with a run that was stopped at `step` (the unbroken run as it was then); its newest checkpoint."""
        shutil.copytree(self.unbroken, self.run)
        for late in (self.run / CHECKPOINTS).glob("step-*"):
            if int(late.name[5:]) > step:
                shutil.rmtree(late)
        newest = self.run / CHECKPOINTS / f"step-{step:08d}"
        (self.run / CHECKPOINTS / "LATEST").write_text(newest.name + "\n")
        lines = (self.run / METRICS).read_text().splitlines(keepends=True)
        (self.run / METRICS).write_text("".join(lines[:step]))
        return newest

    def go_on(self, what_happened: str, *overrides: str, says: str = "", most_lost: int = 2 * SAVE) -> Outcome:
        """Give the same command again: it must say `says`, lose no more steps, and equal the unbroken run bit for bit:
        clips, masks, losses, and weights, moments and averaged weights of the last checkpoint.

        A crash may cost cadence.save steps and those that one write takes, at most as many again.
        """
        reached = max(read_metrics(self.run), default=0)
        output = self.start(*overrides).wait(code=0, says=says)
        found = re.search(r"resuming this run at step (\d+)", output)
        step = int(found[1]) if found else 0
        assert reached - step <= most_lost, f"{reached - step} steps lost: from {reached} back to {step}"
        self._assert_is_the_unbroken_run()
        return Outcome(f"{what_happened}; again from step {step}: equal bit for bit", reached - step)

    def _assert_is_the_unbroken_run(self) -> None:
        comparison = compare_runs(self.unbroken, self.run, rtol=0)
        assert comparison.bit_equal == STEPS, comparison.text()
        shown: dict[int, set[str]] = {}
        for record in read_records(self.run / METRICS):
            shown.setdefault(record["step"], set()).add(record["digest"])
        assert all(len(digests) == 1 for digests in shown.values()), "a step that ran twice showed other clips"
        last = Path(CHECKPOINTS, f"step-{STEPS:08d}")
        files = [read_checkpoint_manifest(run / last).files for run in (self.unbroken, self.run)]
        assert files[0] == files[1], "the last checkpoints differ"
