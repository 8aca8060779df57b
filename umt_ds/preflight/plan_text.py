"""The text of `umt plan`: a section a subject, and all that was assumed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import zip_longest

from umt_ds.engine.gpus import GPUS
from umt_ds.preflight.assumed_loader import FRAME_BYTES, assumed_pace
from umt_ds.preflight.evaluation_time import evaluation_lines
from umt_ds.preflight.plan import SLACK, STAGES, JobPlan, gigabytes
from umt_ds.preflight.schedule_lines import lr_line, mixture_lines


def plan_text(plan: JobPlan) -> str:
    """A job as `umt plan` prints it."""
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
    return [header, *table, f"* this run: {plan.memory[plan.stage].total / room:.0%} of {gigabytes(room)}"]


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
        f"{gigabytes(size)} (fp32 {what} and two moments), every {plan.config.cadence.save:,} steps = "
        f"{_hours(plan.step_s * plan.config.cadence.save / 3600)}; {keep} kept: room for {gigabytes(size * (keep + 1))}"
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
        f"memory: {gigabytes(SLACK)} for CUDA, workspaces and fragments; attention without an n x n matrix; "
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


def _giga(flops: float) -> str:
    return f"{flops / 1e9:,.1f} GFLOP" if flops < 1e12 else f"{flops / 1e9:,.0f} GFLOP"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1.5 else f"{hours * 60:,.1f} min"
