"""`umt bench step`: how fast one step of a task is, where its time goes, and what the published step would take.

Ours is the real thing: the task, DeepSpeed behind `engine.deepspeed`, and `engine.loop.train_step`, on noise
(`synthetic.py`) or on the run's own shards. The reference is the published step in plain torch (`plain.py`,
`plain_stage2.py`, `plain_recognition.py`). It takes turns with ours in the same process, so that whatever else the
machine does slows both alike. A step is one micro-batch unless `batch.global` is given.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType

from umt_ds.bench.parity_start import ParityStart, Published
from umt_ds.bench.run import load_step_run
from umt_ds.bench.step_report import StepReport, Way
from umt_ds.bench.synthetic import DIFFERENT_BATCHES, Shown, SyntheticBatches, noise_vocabulary, shares_of_shown
from umt_ds.config.batching import RunPlan, plan_run
from umt_ds.config.deepspeed_json import Precision, load_deepspeed_json, precision_of, zero_stage_of
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.config.tasks.retrieval import RetrievalConfig
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.distributed.collectives import barrier, broadcast_object, mean_over_ranks
from umt_ds.distributed.job import Job, start_job
from umt_ds.distributed.world import find_world
from umt_ds.engine.deepspeed import Engine, build_engine
from umt_ds.engine.loop import train_step
from umt_ds.engine.prefetch import InputPrefetcher
from umt_ds.engine.protocol import BatchSource, Task
from umt_ds.engine.schedule import lr_at
from umt_ds.engine.speed import Recorder, Stopwatch, peak_flops
from umt_ds.errors import ConfigError, MachineError
from umt_ds.tasks.kinds import build_task, cost_of
from umt_ds.tasks.loader import build_loader
from umt_ds.tasks.question_answering.task import QuestionAnsweringTask
from umt_ds.tasks.sources import count_samples, media_shares
from umt_ds.tasks.stage2.task import Stage2Task
from umt_ds.whole_file import appearing

_TURN_S = 1.0  # a turn has as many steps as fit, at least one
_EPOCH = 1000  # steps, where no shards say: the schedule of a recipe needs a length
_TOP_OPS = 15
# torch's error for the GPU and pinned memory, cuBLAS's, the CPU allocator's: the last two have no type of their own
_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


@dataclass(frozen=True)
class Request:
    """What to measure besides the run itself. steps: of a turn; None: as many as fill a second."""

    rounds: int = 5
    steps: int | None = None
    against_plain: bool = False
    data: Literal["synthetic", "shards"] = "synthetic"
    profile: Path | None = None
    shown: Shown = "video"  # noise of stage 2


def measure_step(name: str, overrides: Sequence[str], request: Request) -> StepReport:
    """Measure on the ranks that are there; every rank calls it. Raises MachineError where memory runs out."""
    config = load_step_run(name, overrides, ranks=find_world().size)
    if request.against_plain and not isinstance(config.task, (Stage1Config, Stage2Config, RecognitionConfig)):
        raise ConfigError(
            f"task.kind {config.task.kind} has no plain twin: stages 1 and 2 and recognition have one",
            hint="leave --against away",
        )
    if request.shown != "video" and not config.task.mixes_media:
        raise ConfigError(f"--media: task.kind {config.task.kind} learns from clips alone", hint="leave --media away")
    if request.against_plain and request.shown == "packed":
        raise ConfigError("the published step shows one medium", hint="leave --against away, or --media packed")
    if request.against_plain and request.data == "shards":
        raise ConfigError("the plain twin reads no shards", hint="leave --against or --data away")
    if request.against_plain and config.batch.global_ != config.batch.micro * find_world().size:
        raise ConfigError("the published step has one micro-batch a rank", hint="leave --against or batch.global away")
    try:
        with start_job() as job, ExitStack() as leaving:
            return _measure(config, request, job, leaving)
    except RuntimeError as error:
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        raise MachineError(
            f"out of memory: {str(error).strip().splitlines()[0]}",
            hint=", or ".join(["a smaller batch.micro", *config.task.recomputing]),
        ) from error


def _measure(config: RunConfig, request: Request, job: Job, leaving: ExitStack) -> StepReport:
    device, deepspeed_json = job.device, load_deepspeed_json(config.engine)
    precision = precision_of(deepspeed_json)
    samples = count_samples(config) if request.data == "shards" else _EPOCH * config.batch.global_
    plan = plan_run(config, world=job.world.size, num_samples=samples)
    synthetic = request.data == "synthetic"
    shares = shares_of_shown(request.shown) if synthetic else media_shares(config)
    cost = cost_of(config, precision, shares=shares)
    source = (
        SyntheticBatches(config, plan, job, shown=request.shown) if synthetic else _shards(config, plan, job, leaving)
    )
    held = _held(device)
    task = step_task(config, plan, job, request, precision)
    origin = None
    if request.against_plain:
        assert isinstance(task, Published), "measure has let through what has a reference"
        origin = ParityStart.of(task, config, source, device)
    ours = Ours(config, plan, task, build_engine(task, config, plan, deepspeed_json), source)
    leaving.callback(ours.engine.close)
    _warm_up(ours, device, held)
    reference, losses = None, None
    if origin is not None:
        assert isinstance(task, Published)
        held = _held(device)
        reference = ReferenceStep(origin.reference_step(task, config, device, precision=precision), plan, source)
        losses = (origin.loss, reference.loss_of(origin))
        _warm_up(reference, device, held)

    recorder = Recorder(device)
    peak, peak_origin = peak_flops(device)
    steps = request.steps or _steps_that_fill(_TURN_S, ours, device)
    turns = _in_turns(ours, reference, steps, request.rounds, recorder, job)
    return StepReport(
        about={"what": cost.sentence, **_where(config, plan, request, job, steps)},
        clips=plan.views_per_step // plan.world,
        peak_flops=max(peak, peak_flops(device)[0]),
        peak_origin=peak_origin,
        on_cpu=device.type == "cpu",
        parts={name: seconds / (steps * request.rounds) for name, seconds in recorder.seconds().items()},
        top_ops=_profile(ours, request.profile, job) if request.profile is not None else [],
        published_flops=cost.published_flops,
        ours=_way(ours, turns[0], cost.flops, cost.student_flops),
        plain=None
        if reference is None
        else _way(reference, turns[1], cost.published_flops, cost.published_student_flops),
        same_mask_losses=losses,
    )


def step_task(config: RunConfig, plan: RunPlan, job: Job, request: Request, precision: Precision) -> Task:
    """The task of a run; on noise with a vocabulary of which nothing but the size is known."""
    task, seed, device = config.task, config.seed, job.device
    if request.data == "shards":
        return build_task(config, device=device, precision=precision, pieces=plan.pieces)
    if isinstance(task, QuestionAnsweringConfig):
        return QuestionAnsweringTask(task, seed=seed, device=device, vocabulary=noise_vocabulary(task.text))
    if isinstance(task, (Stage2Config, RetrievalConfig)):
        return Stage2Task(
            task.objective if isinstance(task, RetrievalConfig) else task,
            seed=seed,
            device=device,
            precision=precision,
            vocabulary=noise_vocabulary(task.text),
            pieces=plan.pieces,
            fine_tuning=isinstance(task, RetrievalConfig),
            shares=partial(shares_of_shown, request.shown),
        )
    return build_task(config, device=device, precision=precision, pieces=plan.pieces)


# ---------------------------------------------------------------- clips


def _shards(config: RunConfig, plan: RunPlan, job: Job, leaving: ExitStack) -> BatchSource:
    loader = build_loader(config, plan, job.world, device=job.device)
    leaving.callback(loader.close)
    loader.start(0)
    return loader


# ---------------------------------------------------------------- ways


class Ours:
    """The step of a training."""

    def __init__(self, config: RunConfig, plan: RunPlan, task: Task, engine: Engine, source: BatchSource) -> None:
        self.engine, self.module = engine, engine.module
        self.micro_batches = plan.accumulation
        self.first_loss = self.memory = math.nan
        self._plan, self._key = plan, (config.seed, find_world().rank)
        self._feed = InputPrefetcher(
            task, source, Stopwatch(engine.device), first=0, device=engine.device, ahead=config.engine.ahead
        )
        self._step = 0

    def step(self) -> None:
        """The next one."""
        tally = train_step(self.engine, self._feed, step=self._step, plan=self._plan, key=self._key)
        if self._step == 0:
            self.first_loss = mean_over_ranks(tally.losses["loss"]).item()
        self._step += 1


class ReferenceStep:
    """The step as published, on the same clips."""

    def __init__(self, plain: Any, plan: RunPlan, source: BatchSource) -> None:
        self.module = plain.student
        self.micro_batches = 1
        self.first_loss = self.memory = math.nan
        self._plain, self._plan = plain, plan
        self._ready = [plain.ready(next(source.micro_batches(step))) for step in range(DIFFERENT_BATCHES)]
        self._step = 0

    def step(self) -> None:
        """The next one."""
        loss = self._plain.step(self._ready[self._step % len(self._ready)], lr_at(self._step, self._plan))
        if self._step == 0:
            self.first_loss = mean_over_ranks(torch.tensor(loss, device=self._plain.device)).item()
        self._step += 1

    def loss_of(self, origin: ParityStart) -> float:
        """On our first clips, under our mask (and masked tokens, negatives, mixing)."""
        loss: float = self._plain.evaluate(self._ready[0], origin.drawn)
        return loss


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Turn:
    """Of a step, the mean over some: seconds on the clock, and of this process's cores."""

    wall_s: float
    core_s: float


def _in_turns(
    ours: Ours, reference: ReferenceStep | None, steps: int, rounds: int, recorder: Recorder, job: Job
) -> tuple[list[Turn], list[Turn]]:
    """A turn of each in each round, ours and the reference's, in the order A B, B A, A B …"""
    turns: tuple[list[Turn], list[Turn]] = ([], [])
    for number in range(rounds):
        for is_reference in (False, True) if number % 2 == 0 else (True, False):
            if not is_reference:
                turns[0].append(_turn(ours, steps, job.device, recorder.active()))
            elif reference is not None:
                turns[1].append(_turn(reference, steps, job.device, nullcontext()))
        if job.world.is_first:
            told = [
                f"{name} {1e3 * own[-1].wall_s:,.1f} ms"
                for name, own in zip(("ours", "plain"), turns, strict=True)
                if own
            ]
            print(f"round {number + 1} of {rounds}, a step: {', '.join(told)}", file=sys.stderr)
    return turns


def _steps_that_fill(seconds: float, ours: Ours, device: torch.device) -> int:
    """The same number on every rank, at least 1."""
    return broadcast_object(max(1, round(seconds / _turn(ours, 1, device, nullcontext()).wall_s)))


def _turn(
    way: Ours | ReferenceStep, steps: int, device: torch.device, recording: AbstractContextManager[object]
) -> Turn:
    """The device is idle before and after."""
    barrier()
    _wait_for(device)
    with recording:
        wall, core = time.perf_counter(), time.process_time()
        for _ in range(steps):
            way.step()
        _wait_for(device)
        return Turn((time.perf_counter() - wall) / steps, (time.process_time() - core) / steps)


def _way(way: Ours | ReferenceStep, turns: list[Turn], flops: float, student_flops: float) -> Way:
    wall, core = [turn.wall_s for turn in turns], [turn.core_s for turn in turns]
    return Way(wall, core, way.memory, way.first_loss, flops, student_flops)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _held(device: torch.device) -> int:
    """Bytes in use on a GPU, now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _warm_up(way: Ours | ReferenceStep, device: torch.device, held: int) -> None:
    """Three steps: the first compiles and allocates, the others tell `memory`, the bytes that this way needs.

    On a GPU that is the most that was in use at a time beyond `held`, on a CPU what a forward keeps for its backward.
    """
    way.step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        way.step()
        way.step()
        way.memory = torch.cuda.max_memory_allocated(device) - held
        return
    with kept_for_backward(way.module) as kept:
        way.step()
    way.step()
    way.memory = sum(storage.nbytes() for storage in kept.values()) / way.micro_batches


@contextmanager
def kept_for_backward(module: nn.Module) -> Iterator[dict[int, torch.UntypedStorage]]:
    """The memory of all tensors that autograd keeps inside, by address; the module's own parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no other gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _profile(way: Ours, path: Path, job: Job) -> list[str]:
    """Two steps under torch's profiler: a Chrome trace at `path`, of rank 0, and the operations that took longest."""
    on_cuda = job.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler, Recorder(job.device).active():
        way.step()
        way.step()
        _wait_for(job.device)
    if job.world.is_first:
        with appearing(path) as partial_path:
            profiler.export_chrome_trace(str(partial_path))
    field = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    taken = {
        event.key: (getattr(event, field) / 1e3, event.count)
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU
    }
    whole = sum(ms for ms, _ in taken.values())
    top = sorted(taken.items(), key=lambda item: -item[1][0])[:_TOP_OPS]
    return [f"{name[:60]:60}  {ms / 2:10,.2f} ms  {100 * ms / whole:5.1f} %  {n // 2:6} calls" for name, (ms, n) in top]


def _where(config: RunConfig, plan: RunPlan, request: Request, job: Job, steps: int) -> dict[str, str]:
    device, settings = job.device, load_deepspeed_json(config.engine)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    faster = ("compile", "graph", "ahead")
    teacher = config.task.required_weights.get("teacher")
    weights = "no teacher" if teacher is None else f"teacher with weights {teacher.weights}"
    return {
        "where": f"{plan.world} rank(s), each on {name}; {precision_of(settings)}, ZeRO {zero_stage_of(settings)} "
        f"({config.engine.deepspeed}){''.join(f', {name}' for name in faster if getattr(config.engine, name))}",
        "step": f"{plan.micro} clips of each rank x {plan.accumulation} micro-batch(es); "
        f"{'noise' if request.data == 'synthetic' else 'clips of the shards'}; {weights}",
        "rounds": f"{request.rounds} of {steps} step(s), ways in turns: median (min-max)",
    }
