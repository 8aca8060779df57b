"""What `umt plan` does: the arithmetic of a job, and its text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

from umt_ds.batch import Media
from umt_ds.bench.rate import LoaderRate, measure_loader
from umt_ds.config.batching import RunPlan, plan_run
from umt_ds.config.deepspeed_json import Precision, load_deepspeed_json, precision_of, zero_stage_of
from umt_ds.config.run import RunConfig
from umt_ds.data.shards.manifest import MANIFEST
from umt_ds.data.shards.storage import has_file
from umt_ds.data.shards.stream import Tars
from umt_ds.engine.gpus import GPUS
from umt_ds.engine.manifest import state_kinds
from umt_ds.engine.memory import StateBytes, state_bytes
from umt_ds.errors import ConfigError, DataError, UmtError
from umt_ds.preflight.assumed_loader import FRAME_BYTES, assumed_loader, assumed_pace
from umt_ds.preflight.evaluation_time import evaluation_lines
from umt_ds.preflight.schedule_lines import lr_line, mixture_lines
from umt_ds.preflight.store_reads import StoreReads, store_reads
from umt_ds.tasks.cost import TaskCost
from umt_ds.tasks.kinds import cost_of
from umt_ds.tasks.sources import count_samples, media_shares, shards_of

STAGES = (0, 1, 2, 3)
# CUDA context, cuBLAS and NCCL workspaces, fragments of the allocator: a round number, not a measurement
SLACK = 3e9


@dataclass(frozen=True)
class Request:
    """What the job may use. mfu: share of the GPUs' peak that the run is assumed to reach, 0 … 1."""

    gpus: int
    kind: str
    cores_per_gpu: int = 14
    samples: int | None = None  # None: counted in the shards
    mfu: float = 0.25
    measure: bool = True


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at one ZeRO stage, at the largest."""

    state: StateBytes
    teacher: int  # its weights
    activations: float  # of a micro-batch; the teacher's pass is over before they grow

    @property
    def total(self) -> float:
        return self.state.total + self.teacher + self.activations + SLACK


@dataclass(frozen=True)
class JobPlan:
    """All numbers of a job. Rates count views, which are clips unless `data.num_sample` makes several of each."""

    config: RunConfig
    request: Request
    precision: Precision
    stage: int
    samples: int
    run: RunPlan
    cost: TaskCost
    memory: dict[int, Memory]  # by ZeRO stage
    loader: LoaderRate
    shares: Mapping[Media, float]
    knows_shares: bool
    store: StoreReads | None

    @property
    def views_per_gpu_s(self) -> float:
        """What the arithmetic allows."""
        return GPUS[self.request.kind].peak(self.precision) * self.request.mfu / self.cost.flops

    @property
    def cores_needed(self) -> float:
        """A GPU, for the loader to keep up with the arithmetic."""
        return self.views_per_gpu_s / self.config.data.num_sample / self.loader.clips_per_core_s

    @property
    def cores_used(self) -> int:
        """A GPU: the loader has no more processes than data.workers."""
        return min(self.request.cores_per_gpu, max(1, self.config.data.workers))

    @property
    def is_bound_by_loader(self) -> bool:
        return self.cores_needed > self.cores_used

    @property
    def step_s(self) -> float:
        compute_s = self.run.views_per_step / (self.views_per_gpu_s * self.request.gpus)
        return compute_s * max(1.0, self.cores_needed / self.cores_used)

    @property
    def hours(self) -> float:
        return self.step_s * self.run.total_steps / 3600

    @property
    def checkpoint_bytes(self) -> int:
        return 4 * len(state_kinds(averaged=self.config.optim.ema_decay is not None)) * self.cost.parameters

    @property
    def paper_mfu(self) -> float | None:
        """Share of peak that the paper's hours mean, by the arithmetic of the published code; None: not its run."""
        published = self.config.task.published
        if published is None:
            return None
        cost = cost_of(self.config, self.precision, shares=published.shares)
        seconds = published.hours * 3600 * published.gpus
        views = published.samples * published.epochs
        return cost.published_flops * views / (seconds * GPUS["a100"].half_flops)

    def text(self) -> str:
        """The plan as `umt plan` prints it."""
        return _text(self)


def plan_job(config: RunConfig, request: Request, *, say: Callable[[str], None]) -> JobPlan:
    """Raises ConfigError for a batch that does not divide, a job that does not fit its GPUs, and unknown data sizes."""
    settings = load_deepspeed_json(config.engine)
    precision, stage = precision_of(settings), zero_stage_of(settings)
    has_shards = (request.samples is None or request.measure) and _has_shards(config)
    samples = request.samples or _count(config, has_shards)
    run = plan_run(config, world=request.gpus, num_samples=samples)
    shares, knows_shares = _shares(config)
    cost = cost_of(config, precision, shares=shares)
    memory = {
        stage: Memory(
            state_bytes(
                cost.parameters,
                stage=stage,
                world=request.gpus,
                precision=precision,
                settings=settings,
                averaged=config.optim.ema_decay is not None,
            ),
            teacher=cost.teacher_parameters * (4 if precision == "fp32" else 2),
            activations=_activations(cost, config.batch.micro * config.data.num_sample),
        )
        for stage in STAGES
    }
    _refuse_too_large(config, request, cost, memory, stage)
    if has_shards and request.measure:
        say("measuring the loader for 10 s …")
        loader = measure_loader(config)
    else:
        loader = assumed_loader(config, shares)
    store = store_reads(config) if has_shards else None
    return JobPlan(config, request, precision, stage, samples, run, cost, memory, loader, shares, knows_shares, store)


def _shares(config: RunConfig) -> tuple[Mapping[Media, float], bool]:
    """The part of all views that each medium has, and whether that is known: halves, where the sources are not here."""
    try:
        return media_shares(config), True
    except UmtError:
        return {"image": 0.5, "video": 0.5}, False


def _has_shards(config: RunConfig) -> bool:
    """Whether all sources are folders of shards, and are here. Raises DataError where a store does not answer."""
    folders = [shards_of(source) for source in config.data.sources.values()]
    try:
        return all(not isinstance(folder, Tars) and has_file(folder / MANIFEST) for folder in folders)
    except OSError as error:
        raise DataError(
            f"the shards cannot be looked at: {error}",
            hint="check credentials and network; or give --samples and --no-measure-loader",
        ) from error


def _count(config: RunConfig, has_shards: bool) -> int:
    if has_shards or any(source.is_stream for source in config.data.sources.values()):
        return count_samples(config)
    if config.schedule.steps is not None:
        return 0  # the length is given in steps
    folders = ", ".join(name for source in config.data.sources.values() for name in source.names)
    raise ConfigError(
        f"the size of the data is unknown: no shards at {folders}",
        hint="give it with --samples (the paper's K710 has 658,000)",
    )


def _activations(cost: TaskCost, views: int) -> float:
    """The larger of what the student keeps and what the teacher needs before it, and the pixels."""
    return views * (max(cost.activation_bytes, cost.teacher_bytes) + cost.pixel_bytes)


def _refuse_too_large(
    config: RunConfig, request: Request, cost: TaskCost, memory: dict[int, Memory], stage: int
) -> None:
    room, used = GPUS[request.kind].memory, memory[stage]
    if used.total <= room:
        return
    fixed, views = used.total - used.activations, config.data.num_sample
    fitting = [
        micro
        for micro in range(config.batch.micro - 1, 0, -1)
        if config.batch.global_ % (micro * request.gpus) == 0 and fixed + _activations(cost, micro * views) <= room
    ]
    stages = [str(other) for other in STAGES if other > stage and memory[other].total <= room]
    hints = [f"batch.micro={fitting[0]} fits" if fitting else "no batch.micro fits"]
    hints += [f"so does ZeRO {' or '.join(stages)}"] if stages else []
    hints += [f"{key} recomputes activations instead of keeping them" for key in config.task.recomputing]
    raise ConfigError(
        f"the run does not fit: {_gb(used.total)} of {_gb(room)} on each {request.kind} at ZeRO {stage} "
        f"({_gb(used.activations)} of activations at batch.micro={config.batch.micro}, {_gb(fixed)} of all else)",
        hint="; ".join(hints),
    )


# ---------------------------------------------------------------- text


def _text(plan: JobPlan) -> str:
    sections = {
        "run": _run(plan),
        "FLOPs": _flops(plan),
        "steps": [*_steps(plan), lr_line(plan.run)],
        "mixture": mixture_lines(plan.config, plan.run),
        "memory": _memory(plan),
        "compute": _compute(plan),
        "loader": _loader(plan),
        "read": _read(plan),
        "time": _time(plan),
        "evaluation": list(_evaluation(plan)),
        "checkpoint": _checkpoint(plan),
        "paper": _paper(plan),
        "assumed": _assumptions(plan),
    }
    rows = []
    for name, lines in sections.items():
        rows += [f"{title:11}{line}" for title, line in zip_longest([name][: len(lines)], lines, fillvalue="")]
    return "\n".join(row.rstrip() for row in rows)


def _run(plan: JobPlan) -> list[str]:
    cost, request = plan.cost, plan.request
    frozen = f"; the frozen teacher has {cost.teacher_parameters:,}" if cost.teacher_parameters else ""
    return [
        f"{plan.config.name} on {request.gpus} x {request.kind}, {plan.precision}, ZeRO {plan.stage}",
        cost.sentence,
        f"{cost.parameters:,} trained parameters{frozen}",
    ]


def _flops(plan: JobPlan) -> list[str]:
    cost, whole = plan.cost, f"{_giga(plan.cost.flops)} a {_shown(plan)}"
    if not cost.teacher_flops:
        return [f"{whole}: {_giga(cost.forward_flops)} forward; one multiply-add is two"]
    return [
        f"{whole}: student {_giga(cost.student_flops)} ({_giga(cost.forward_flops)} forward), "
        f"teacher {_giga(cost.teacher_flops)} ({cost.teacher_flops / cost.flops:.0%}); one multiply-add is two",
        f"without teacher {_giga(cost.student_flops)}; as the published code computes {_giga(cost.published_flops)}, "
        f"{cost.published_teacher_flops / cost.published_flops:.0%} of it the teacher's",
    ]


def _shown(plan: JobPlan) -> str:
    """What goes through the model: a clip, or one of several views of it."""
    return "view" if plan.config.data.num_sample > 1 else "clip"


def _steps(plan: JobPlan) -> list[str]:
    run, config = plan.run, plan.config
    known = "--samples" if plan.request.samples else "counted in the shards"
    return [
        f"{run.total_steps:,} ({run.steps_per_epoch:,} an epoch of {plan.samples:,} samples, {known})"
        if plan.samples
        else f"{run.total_steps:,}",
        f"{run.draws_per_step:,} clips a step = {run.micro} micro x {run.world} GPUs x {run.accumulation} accumulation"
        + (f", {config.data.num_sample} views of each" if config.data.num_sample > 1 else ""),
    ]


def _memory(plan: JobPlan) -> list[str]:
    stages = plan.memory.values()
    state = [memory.state for memory in stages]
    rows: list[tuple[str, list[float]]] = [
        ("weights", [s.weights for s in state]),
        ("gradients", [s.gradients for s in state]),
        ("optimiser", [s.optimizer for s in state]),
        ("DeepSpeed's buffers", [s.buffers for s in state]),
        *([("teacher's weights", [float(m.teacher) for m in stages])] if plan.cost.teacher_parameters else []),
        ("activations", [m.activations for m in stages]),
        ("CUDA and slack", [SLACK for _ in stages]),
        ("in all", [m.total for m in stages]),
    ]
    header = f"{'GB a GPU':20}" + "".join(f"{f'ZeRO {s}' + ('*' if s == plan.stage else ' '):>10}" for s in STAGES)
    table = [f"{name:20}" + "".join(f"{value / 1e9:9.2f} " for value in values) for name, values in rows]
    room = GPUS[plan.request.kind].memory
    return [header, *table, f"* this run: {plan.memory[plan.stage].total / room:.0%} of {_gb(room)}"]


def _compute(plan: JobPlan) -> list[str]:
    rate, gpus = plan.views_per_gpu_s, plan.request.gpus
    peak = GPUS[plan.request.kind].peak(plan.precision)
    return [
        f"{rate:,.0f} {_shown(plan)}s/s a GPU, {rate * gpus:,.0f} in all, "
        f"at {plan.request.mfu:.1%} MFU of {peak / 1e12:,.0f} TFLOP/s ({plan.precision}, dense)"
    ]


def _loader(plan: JobPlan) -> list[str]:
    loader, workers = plan.loader, plan.config.data.workers
    verdict = (
        f"TOO FEW: the GPUs wait; at most {plan.request.mfu * plan.cores_used / plan.cores_needed:.1%} MFU"
        if plan.is_bound_by_loader
        else "enough"
    )
    return [
        f"{plan.cores_needed:.1f} cores a GPU needed, {plan.cores_used} used "
        f"({plan.request.cores_per_gpu} cores, {workers} workers): {verdict}",
        f"{loader.clips_per_core_s:.0f} clips/s a core, {loader.bytes_per_clip / 1e3:.0f} kB a clip: {loader.origin}",
    ]


def _read(plan: JobPlan) -> list[str]:
    views = plan.run.views_per_step / plan.step_s
    clips = views / plan.config.data.num_sample
    disk, device = clips * plan.loader.bytes_per_clip, views / plan.request.gpus * plan.cost.pixel_bytes
    store = [plan.store.text(clips, max_gap_kb=plan.config.data.cache.max_gap_kb)] if plan.store else []
    return [
        *store,
        f"{disk / 1e6:,.0f} MB/s from disk by all GPUs together, {disk / plan.request.gpus / 1e6:,.1f} by each",
        f"{device / 1e6:,.0f} MB/s from host to each GPU (uint8 clips of {plan.cost.pixel_bytes / 1e6:.2f} MB)",
    ]


def _time(plan: JobPlan) -> list[str]:
    bound = "the loader" if plan.is_bound_by_loader else "arithmetic"
    return [
        f"{_hours(plan.hours)}, {plan.hours * plan.request.gpus:,.1f} GPU-hours; {plan.step_s:.3g} s a step, "
        f"bound by {bound}"
    ]


def _evaluation(plan: JobPlan) -> Iterator[str]:
    gpus, flops = plan.request.gpus, plan.cost.evaluation_flops
    if plan.config.evaluation and flops:
        reached = GPUS[plan.request.kind].peak(plan.precision) * plan.request.mfu
        rate = gpus * min(reached / flops, plan.cores_used * plan.loader.clips_per_core_s)
        match_flops = plan.cost.match_flops
        yield from evaluation_lines(
            plan.config,
            samples=plan.samples,
            clips_per_s=rate,
            step_s=plan.step_s,
            pairs_per_s=gpus * reached / match_flops if match_flops else math.inf,
        )


def _checkpoint(plan: JobPlan) -> list[str]:
    size, keep = plan.checkpoint_bytes, plan.config.cadence.keep
    what = "weights, their average" if plan.config.optim.ema_decay is not None else "weights"
    return [
        f"{_gb(size)} (fp32 {what} and two moments), every {plan.config.cadence.save:,} steps = "
        f"{_hours(plan.step_s * plan.config.cadence.save / 3600)}; {keep} kept: room for {_gb(size * (keep + 1))}"
    ]


def _paper(plan: JobPlan) -> list[str]:
    mfu, published = plan.paper_mfu, plan.config.task.published
    if mfu is None or published is None:
        return []
    hours, gpus, views = published.hours, published.gpus, published.samples * published.epochs
    what = "clips" if published.shares.keys() == {"video"} else "images and clips"
    return [
        f"{hours} h on {gpus} A100 = {hours * gpus:,} GPU-hours for {published.samples:,} {what} x "
        f"{published.epochs} epochs: {views / hours / 3600 / gpus:.1f} clips/s a GPU, {mfu:.1%} MFU by the "
        "published arithmetic"
    ]


def _assumptions(plan: JobPlan) -> list[str]:
    or_teacher = "; or the teacher's pass, if that is larger" if plan.cost.teacher_parameters else ""
    lines = [
        f"{plan.request.mfu:.1%} MFU (--mfu): a guess until a run has logged mfu_percent; communication and the "
        "optimiser's step are inside it",
        f"memory: {_gb(SLACK)} for CUDA, workspaces and fragments; attention without an n x n matrix; "
        "DeepSpeed's bucket sizes",
        f"activations: of a block (8 + 2 mlp_ratio) x tokens x width values{or_teacher}",
        "time: no start-up, evaluation, saving or waiting in queues",
    ]
    lines += plan.cost.assumptions
    if not plan.knows_shares:
        lines.append("as many images as clips: the sources are not here, and have no weights")
    if plan.loader.origin == "assumed":
        lines.append(f"loader: {assumed_pace(plan.config):.0f} frames a core-second of {FRAME_BYTES / 1e3:.0f} kB, "
                     "as umt-data stores them (short side 256)")  # fmt: skip
    return lines


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count < 10e9 else f"{count / 1e9:.0f} GB"


def _giga(flops: float) -> str:
    return f"{flops / 1e9:,.1f} GFLOP" if flops < 1e12 else f"{flops / 1e9:,.0f} GFLOP"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1.5 else f"{hours * 60:,.1f} min"
