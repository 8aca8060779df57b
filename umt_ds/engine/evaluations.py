"""Evaluation in the loop: what happens around an evaluator, between two steps.

Before an evaluation every step so far has been heard of, and its checkpoint is whole on the disk (except before step 0,
where nothing has been trained). So a run that is killed inside an evaluation loses no step: the next start resumes from
that checkpoint, sees which evaluations have no scores at that step in metrics.jsonl, and runs them first. A wish to
stop is honoured between two evaluations: the rest is left to the next start in the same way. It cannot interrupt an
evaluator between its batches, because the ranks would have to agree there; a scheduler that does not wait so long kills
the job, which costs the evaluation and nothing else.

Training does not notice: its clocks pause, each module is put back into the mode in which it was, and the states of the
random generators are put back too.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from umt_ds.distributed.collectives import any_rank, broadcast_object
from umt_ds.engine.best import Best, hash_of
from umt_ds.engine.metrics_file import METRICS, scored_since_trained
from umt_ds.engine.protocol import Progress
from umt_ds.engine.speed import Stopwatch
from umt_ds.engine.training_run import TrainingRun
from umt_ds.errors import ConfigError, some
from umt_ds.evaluation.evaluator import Evaluator, Scores

log = logging.getLogger("umt_ds")


def check_keep_best(metric: str | None, evaluators: Sequence[Evaluator]) -> None:
    """Raises ConfigError where no evaluation of the run reports the metric of `cadence.keep_best`."""
    reported = [f"{evaluator.name}/{name}" for evaluator in evaluators for name in evaluator.metrics]
    if metric is not None and metric not in reported:
        raise ConfigError(
            f"cadence.keep_best: no evaluation of this run reports {metric}",
            hint=f"one of {some(reported, 20)}",
        )


def missing_evaluations(run: TrainingRun, done: int) -> list[Evaluator]:
    """Of a run that starts or goes on after `done` steps: the evaluations due there that have no scores yet, the same
    on every rank. Every rank calls it."""
    if not run.evaluates_after(done):
        return []
    # before step 0 all of them: an earlier start may have begun with other weights
    scored = scored_since_trained(run.store.run / METRICS, done) if done and run.world.is_first else set()
    scored = broadcast_object(scored)
    return [evaluator for evaluator in run.evaluators if evaluator.name not in scored]


def evaluate(run: TrainingRun, progress: Progress, evaluators: Sequence[Evaluator], watch: Stopwatch) -> bool:
    """Run the evaluators one after another, and report what each found. Every rank calls it, after the save.

    True when all were run; False where somebody wished the job to stop: then the others are not.
    """
    if not evaluators:
        return True
    device = run.engine.device
    with watch.paused(), _random_states_kept(device):
        for evaluator in evaluators:
            if any_rank(run.stop.wanted(), device):
                log.info("asked to stop: what is not evaluated yet will be when this run goes on")
                return False
            began = time.perf_counter()
            scores = _scores(run, evaluator)
            assert set(scores.values) == set(evaluator.metrics), f"{evaluator.name} reports other metrics than it says"
            # first: a kill between the two lines costs the scores, and the next start makes both again
            _note_best(run, progress.step, scores)
            run.report.scores(progress.step, scores, seconds=time.perf_counter() - began)
    return True


def _scores(run: TrainingRun, evaluator: Evaluator) -> Scores:
    averaged = evaluator.name in run.judged_by_average
    with (
        run.watchdog.during(f"the evaluation {evaluator.name}") as beat,
        run.engine.evaluating(averaged=averaged) as module,
    ):
        scores = evaluator.run(module, run.world, beat=beat)
    if averaged:
        assert run.engine.ema_decay is not None, "a configuration that asks for it without is refused"
        return scores.of_average(run.engine.ema_decay)
    return scores


def _note_best(run: TrainingRun, done: int, scores: Scores) -> None:
    """Is the checkpoint of this step the best so far? Before step 0 there is none."""
    name, _, metric = (run.cadence.keep_best or "").partition("/")
    if done == 0 or name != scores.name:
        return
    value = scores.values[metric]
    if not math.isfinite(value):
        log.warning("%s/%s is %g at step %d: it cannot be the best", name, metric, value, done)
        return
    run.store.note_score(
        Best(
            step=done,
            metric=f"{name}/{metric}",
            value=float(value),
            items=scores.items,
            left_out=len(scores.left_out),
            protocol=hash_of(scores.protocol),
        )
    )


@contextmanager
def _random_states_kept(device: torch.device) -> Iterator[None]:
    """Training draws by key, but libraries may draw from the generators of the process."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    random.setstate(python)
    np.random.set_state(numpy)
