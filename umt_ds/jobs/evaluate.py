"""One rank of an evaluation job: load the weights of each run, and let the evaluators of its task judge them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from torch import nn

from umt_ds.config.deepspeed_json import Precision, load_deepspeed_json, precision_of
from umt_ds.config.evaluation import READS_TEXT, WRITES_ANSWERS
from umt_ds.config.show import numbers_of
from umt_ds.distributed.alarm import ending_together
from umt_ds.distributed.job import Job, start_job
from umt_ds.distributed.world import World
from umt_ds.engine.checkpoint_files import read_checkpoint_weights, require_average, verify_files
from umt_ds.engine.manifest import read_checkpoint_manifest, resolve_checkpoint, versions
from umt_ds.engine.protocol import InitialWeights, Task
from umt_ds.errors import CheckpointError, DamagedCheckpointError, UmtError, WeightsError
from umt_ds.evaluation.encode import no_beat
from umt_ds.evaluation.evaluator import Beat, Evaluator, KeptWork, Resumable, Scores, try_sets
from umt_ds.jobs.eval_plan import sets_of
from umt_ds.jobs.eval_runs import EvalRun
from umt_ds.jobs.run_scores import RunScores
from umt_ds.jobs.score_files import ScoreFiles
from umt_ds.jobs.score_table import score_text
from umt_ds.jobs.train import evaluated_by, judged_by_average, refuse_mixed_experiments
from umt_ds.models.full_value import is_kept_full, keep_full
from umt_ds.tasks.initial import read_initial, refuse_other_words, start_from, state_fingerprint
from umt_ds.tasks.kinds import build_task, evaluators_of
from umt_ds.terminal import progress, write_beside_bars
from umt_ds.weights.load import load_strict
from umt_ds.weights.published import has_answer_decoder, is_video_text

log = logging.getLogger("umt_ds")

_DTYPE: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def run_evaluation(runs: Sequence[EvalRun], files: ScoreFiles) -> str | None:
    """Score the runs one after another, and write `files`; the table on the first rank, None on the others.

    Every rank calls it. Raises SystemExit with the error's code after saying what is wrong.
    """
    with start_job() as job, ending_together(job.world):
        log_to_stderr(job.world)
        # what is wrong with the last run is said before hours go into the first
        if job.world.is_first:
            files.check(runs)
            verify_checkpoints(runs)
            require_averages(runs)
        judges = judges_of(runs)
        scored = [
            _score(run, evaluators, job, files, predictions=files.predictions is not None)
            for run, evaluators in zip(runs, judges, strict=True)
        ]
        if not job.world.is_first:
            return None
        about = {"versions": versions(), "device": name_of(job.device), "ranks": job.world.size}
        said = files.write(scored, about)
        files.forget_kept_work(runs)
        return "\n".join([score_text(scored), *said])


def try_evaluation(runs: Sequence[EvalRun]) -> None:
    """What `run_evaluation` does before a model is made, and a look into the sets; nothing is written. Raises UmtError
    for what would be refused."""
    log_to_stderr(World.alone())
    verify_checkpoints(runs)
    require_averages(runs)
    try_sets(evaluator for judges in judges_of(runs) for evaluator in judges)


def judges_of(runs: Sequence[EvalRun]) -> list[Sequence[Evaluator]]:
    """The evaluators of each run. Raises ConfigError and DataError for sets that do not fit it."""
    return [evaluators_of(run.config, run.classes) for run in runs]


def verify_checkpoints(runs: Sequence[EvalRun]) -> None:
    """Raises CheckpointError for files that are not those that were written."""
    for run in runs:
        if run.checkpoint is None:
            continue
        try:
            verify_files(run.checkpoint, read_checkpoint_manifest(run.checkpoint))
        except DamagedCheckpointError as error:
            hint = f"score another checkpoint of the run: a folder of {run.checkpoint.parent}"
            raise CheckpointError(f"{run.name}: {error.what}", hint=hint) from error


def require_averages(runs: Sequence[EvalRun]) -> None:
    """Raises CheckpointError where an evaluation judges an average of weights that the checkpoint does not hold."""
    for run in runs:
        if run.checkpoint is not None and judged_by_average(run.config):
            require_average(run.checkpoint, read_checkpoint_manifest(run.checkpoint))


def _score(
    run: EvalRun, evaluators: Sequence[Evaluator], job: Job, files: ScoreFiles, *, predictions: bool
) -> RunScores:
    """First what judges the trained weights, then what judges their moving average: each are loaded once."""
    precision = precision_of(load_deepspeed_json(run.config.engine))
    by_average = judged_by_average(run.config)
    scores: dict[str, Scores] = {}
    loads = []
    for averaged in sorted({one.name in by_average for one in evaluators}):
        task = build_task(run.config, device=job.device, precision=precision, classes=run.classes)
        loaded = load_scored(task, run, averaged=averaged, judged=_kinds(run))
        fingerprint = state_fingerprint(task.module.state_dict())
        loads.append((fingerprint, loaded))
        decisive = {**numbers_of(run.config), **evaluated_by(run.config), "weights": fingerprint}
        refuse_mixed_experiments(decisive, job.world)
        module = as_trained(task.module, precision).to(job.device).eval()
        for one in evaluators:
            if (one.name in by_average) == averaged:
                keeping = _keeping(one, files.kept_work(run), fingerprint)
                found = _judge(run, keeping, module, job.world, predictions=predictions)
                scores[one.name] = found.of_average(_decay_of(run)) if averaged else found
    fingerprint, loaded = loads[0]
    return RunScores(
        run, fingerprint, step_scored(run), loaded, precision, tuple(scores[one.name] for one in evaluators)
    )


def _kinds(run: EvalRun) -> set[str]:
    return {settings.kind for settings in run.config.evaluation.values()}


def _keeping(evaluator: Evaluator, folder: Path | None, weights: str) -> Evaluator:
    """The evaluator, which keeps there what it has finished, if it can."""
    if folder is None or not isinstance(evaluator, Resumable):
        return evaluator
    return evaluator.resuming(KeptWork(folder, weights))


def step_scored(run: EvalRun) -> int | None:
    """Of the checkpoint; None for other weights."""
    return None if run.checkpoint is None else read_checkpoint_manifest(run.checkpoint).step


def load_scored(task: Task, run: EvalRun, *, averaged: bool = False, judged: Collection[str]) -> str:
    """The weights into the module, or their moving average: all of a checkpoint of this run, or what training would
    begin with. A sentence about it.

    judged: kinds of `evaluation` for which the model must be ready, none where its video encoder alone is asked. Raises
    WeightsError where training would begin with these weights, and they cannot do yet what is judged.
    """
    if run.checkpoint is not None:
        manifest = read_checkpoint_manifest(run.checkpoint)
        refuse_other_words(manifest.fingerprints, task.fingerprints, where=str(run.checkpoint))
        state = read_checkpoint_weights(run.checkpoint, averaged=averaged)
        return str(load_strict(task.module, state, where=str(run.checkpoint)))
    initial = read_initial(run.weights, averaged=averaged or run.config.init.ema)
    loaded = start_from(task, initial, run.config.task)
    _require_learned(initial, judged)
    return loaded


def _require_learned(weights: InitialWeights, judged: Collection[str]) -> None:
    """Raises WeightsError where a part would be judged that nobody has trained. Stage 2 begins with a video encoder
    alone, and question answering with a copy of the layers that fuse as its decoder: neither is anything to score."""
    if READS_TEXT.intersection(judged) and not is_video_text(weights.state):
        raise WeightsError(
            f"{weights.where}: a video encoder alone ({len(weights.state)} tensors), as stage 1 or recognition trains "
            "it, and what is asked is about texts, which it has not learned to read",
            hint="weights that stage 2 or its fine-tuning has trained; kind: knn judges a video encoder",
        )
    if WRITES_ANSWERS.intersection(judged) and not has_answer_decoder(weights.state):
        raise WeightsError(
            f"{weights.where}: weights of stage 2, which have no answer decoder: it would be a copy of the layers that "
            "fuse, which has never answered a question",
            hint="train it first (umt train question_answering/… init.weights=FILE), and name its run folder; or "
            "published weights of question answering",
        )


def _decay_of(run: EvalRun) -> float:
    """Of the average that was read, as the run that kept it says."""
    decay = read_checkpoint_manifest(resolve_checkpoint(run.weights)).ema_decay
    assert decay is not None, "averaged weights were read from there"
    return decay


def as_trained(module: nn.Module, precision: Precision) -> nn.Module:
    """The module in the precision in which DeepSpeed trains it, where it is the same module to the bit."""
    if precision != "fp32":
        for parameter in module.parameters():
            if is_kept_full(parameter):
                keep_full(parameter)  # what was loaded, before it is rounded
    return module.to(_DTYPE[precision])


def _judge(run: EvalRun, evaluator: Evaluator, module: nn.Module, world: World, *, predictions: bool) -> Scores:
    with torch.no_grad(), _bar(run, evaluator, world) as beat:
        return evaluator.run(module, world, beat=beat, predictions=predictions)


class _Bar:
    """A bar on stderr, which goes on with each batch of an evaluator. total: None where nobody knows it."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name = name
        self._open(name, total)

    def __call__(self) -> None:
        self._bar.update(self._total is None or self._bar.n < self._total)  # it may beat in other work, too

    def begin(self, what: str, total: int) -> None:
        """A bar of its own for each kind of work: their batches do not take equally long."""
        self.close()
        self._open(f"{self._name}, {what}", total)

    def close(self) -> None:
        """Leave it as it is."""
        self._bar.close()

    def _open(self, name: str, total: int | None) -> None:
        self._total = total
        self._bar = progress(total=total, unit="batch", desc=name)


@contextmanager
def _bar(run: EvalRun, evaluator: Evaluator, world: World) -> Iterator[Beat]:
    """On the first rank a bar over the batches of the evaluator."""
    if not world.is_first:
        yield no_beat
        return
    with closing(_Bar(f"{run.name} {evaluator.name}", _batches_of_a_rank(run, evaluator, world))) as bar:
        yield bar


def _batches_of_a_rank(run: EvalRun, evaluator: Evaluator, world: World) -> int | None:
    try:
        sets = sets_of(run.config, run.config.evaluation[evaluator.name])
    except UmtError:  # a set that this evaluator may do without; what it needs, it has found
        return None
    return sum(one.passes_of_a_rank(world.size) for one in sets)


def name_of(device: torch.device) -> str:
    """A GPU by its name; else `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class _BesideBar(logging.Handler):
    """Lines on stderr that a bar makes room for."""

    def emit(self, record: logging.LogRecord) -> None:
        write_beside_bars(self.format(record))


def log_to_stderr(world: World) -> None:
    """Warnings and errors, with their rank where it is not the first."""
    handler = _BesideBar()
    handler.setFormatter(logging.Formatter("%(message)s" if world.is_first else f"[rank {world.rank}] %(message)s"))
    log.handlers.clear()
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.WARNING)
