"""What `umt plan` does: the arithmetic of a job. `plan_text` says it in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
from umt_ds.preflight.assumed_loader import assumed_loader
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
        f"the run does not fit: {gigabytes(used.total)} of {gigabytes(room)} on each {request.kind} at ZeRO {stage} "
        f"({gigabytes(used.activations)} of activations at batch.micro={config.batch.micro}, {gigabytes(fixed)} of all "
        "else)",
        hint="; ".join(hints),
    )


def gigabytes(count: float) -> str:
    """So many bytes, to read."""
    return f"{count / 1e9:.2f} GB" if count < 10e9 else f"{count / 1e9:.0f} GB"
