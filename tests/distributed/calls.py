"""What the ranks of the distributed tests do (see tests.support.ranks)."""

from __future__ import annotations

import os
import resource
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from umt_ds.batch import Losses
from umt_ds.config.batching import RunPlan
from umt_ds.config.load import load_run
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.running import EngineConfig
from umt_ds.distributed.job import start_job
from umt_ds.distributed.world import World
from umt_ds.engine import loop
from umt_ds.engine.deepspeed import Engine, build_engine
from umt_ds.engine.manifest import STATE_KINDS
from umt_ds.engine.optim import decay_groups
from umt_ds.engine.step_stats import StepStatsReducer
from umt_ds.evaluation.evaluator import Beat, Scores
from umt_ds.jobs.evaluate import as_trained
from umt_ds.models.full_value import full_value, keep_full

WIDTH, MICRO, ACCUMULATION, LR = 16, 4, 2, 1e-2
OPTIM = OptimConfig(lr=LR, lr_rule="absolute", clip_grad=0.1, weight_decay=0.05)
DECAY = 0.7
AVERAGED = OPTIM.model_copy(update={"ema_decay": DECAY})


class Toy(nn.Module):
    """Odd sizes (33), a norm, biases: what partitions and decay groups trip over."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(WIDTH, 33)
        self.norm = nn.LayerNorm(33)
        self.last = nn.Linear(33, 4)

    def forward(self, x: Tensor) -> Losses:
        y = self.last(self.norm(torch.tanh(self.first(x.to(self.first.weight.dtype))))).float()
        return Losses((y**2).mean() + y.mean())


def toy_rows(step: int, world: int) -> Tensor:
    """The global batch of a step: f32 [world·accumulation·micro, width], the same whatever the world."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(world * ACCUMULATION * MICRO, WIDTH, generator=generator)


@dataclass
class _ToyTask:
    module: nn.Module

    def accelerate(self, *, compile: bool, graph: bool) -> None:
        assert not compile
        assert not graph

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        if isinstance(self.module, LayeredToy):
            return self.module.groups()
        return decay_groups(self.module, optim.weight_decay)


@dataclass
class _ToyConfig:
    optim: OptimConfig
    engine: EngineConfig


def _engine(settings: dict[str, Any], world: int, module: nn.Module, optim: OptimConfig = AVERAGED) -> Engine:
    draws = MICRO * ACCUMULATION * world
    plan = RunPlan(
        world=world, micro=MICRO, chunk=MICRO, accumulation=ACCUMULATION, draws_per_step=draws, views_per_step=draws,
        steps_per_epoch=1, total_steps=100, warmup_steps=0, peak_lr=LR, min_lr=0.0,
    )  # fmt: skip
    return build_engine(_ToyTask(module), _ToyConfig(optim, EngineConfig(deepspeed="cpu.json")), plan, settings)  # type: ignore[arg-type]


def _step(engine: Engine, step: int, rank: int, world: int, *, poison: bool = False, lr: float = LR) -> list[float]:
    engine.set_lr(lr)
    rows = toy_rows(step, world) * (float("nan") if poison else 1.0)
    loss = 0.0
    for turn in range(ACCUMULATION):
        losses = engine(rows[(turn * world + rank) * MICRO :][:MICRO])
        engine.backward(losses.total)
        engine.step()
        loss += float(losses.total) / ACCUMULATION
    total = torch.tensor(loss)
    torch.distributed.all_reduce(total)
    return [float(total) / world, float(engine.grad_norm())]


def _weights(engine: Engine) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in engine.read_state("weight")}


def curve(settings: dict[str, Any], steps: int) -> list[list[float]]:
    """(loss, gradient norm) of each step of a toy run."""
    with start_job() as job:
        engine = _engine(settings, job.world.size, Toy(), OPTIM)
        result = [_step(engine, s, job.world.rank, job.world.size) for s in range(steps)]
        engine.close()
    return result


def resumed_equals_unbroken(settings: dict[str, Any]) -> bool:
    """Three steps, state out by name, a new engine, state in, three more: every bit as in six steps."""
    with start_job() as job:
        rank, world = job.world.rank, job.world.size
        unbroken = _engine(settings, world, Toy())
        for step in range(3):
            _step(unbroken, step, rank, world)
        saved = {kind: {n: t.clone() for n, t in unbroken.read_state(kind)} for kind in STATE_KINDS}
        scale = unbroken.read_loss_scale()
        module = Toy()
        module.load_state_dict(saved["weight"])
        resumed = _engine(settings, world, module)
        resumed.reset_moments(steps=3)
        for kind in STATE_KINDS:
            for name, value in saved[kind].items():
                resumed.write_state(kind, name, value)
        resumed.write_loss_scale(scale)
        curves = [[_step(e, s, rank, world) for s in range(3, 6)] for e in (unbroken, resumed)]
        same = curves[0] == curves[1]
        for kind in STATE_KINDS:
            theirs = dict(resumed.read_state(kind))
            same = same and all(torch.equal(tensor, theirs[name]) for name, tensor in unbroken.read_state(kind))
        unbroken.close()
        resumed.close()
    return same


def evaluating_changes_nothing(settings: dict[str, Any]) -> bool:
    """Four steps, without and with evaluations before and between them, of averaged and trained weights, of the whole
    module and of parts of it, in another order and with other sizes: every bit of losses, norms and state is the same.
    """
    with start_job() as job:
        rank, world = job.world.rank, job.world.size
        plain, evaluated = (_engine(settings, world, OwnerToy()) for _ in range(2))
        same = True
        for step in range(4):
            for averaged in (True, False):
                with evaluated.evaluating(averaged=averaged) as module:
                    dtype = next(module.parameters()).dtype
                    for rows in (3, 1):
                        module(torch.ones(rows, WIDTH))
                        module.norm(module.first(torch.ones(rows, WIDTH, dtype=dtype)))
                        module.last(torch.ones(rows, 33, dtype=dtype))
            same = same and _step(plain, step, rank, world) == _step(evaluated, step, rank, world)
        for kind in STATE_KINDS:
            theirs = dict(evaluated.read_state(kind))
            same = same and all(torch.equal(tensor, theirs[name]) for name, tensor in plain.read_state(kind))
        plain.close()
        evaluated.close()
    return same


class OwnerToy(Toy):
    """Owns a parameter itself, outside its submodules, whose value is read in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.full((1,), 0.9))

    def forward(self, x: Tensor) -> Losses:
        return Losses(super().forward(x).total * (self.own * self.own).squeeze(0).float())


class ScaledToy(Toy):
    """Its outputs are divided by a parameter whose exact value counts; `used` lists what each pass divided by."""

    def __init__(self) -> None:
        super().__init__()
        self.temp = nn.Parameter(torch.full((1,), 0.07))
        keep_full(self.temp)
        self.used: list[float] = []

    def forward(self, x: Tensor) -> Losses:
        scale = full_value(self.temp).squeeze(0)
        self.used.append(scale.item())
        return Losses(super().forward(x).total / scale)


class LayeredToy(Toy):
    """Each parameter is a group of its own, and learns half as fast as the one after it."""

    def groups(self) -> list[dict[str, Any]]:
        parameters = list(self.parameters())
        scales = [0.5 ** (len(parameters) - 1 - place) for place in range(len(parameters))]
        return [
            {"params": [parameter], "weight_decay": 0.05 if parameter.ndim > 1 else 0.0, "lr_scale": scale}
            for parameter, scale in zip(parameters, scales, strict=True)
        ]


def layered_weights(settings: dict[str, Any], steps: int) -> dict[str, list[float]]:
    """All weights by name after so many steps of `LayeredToy`."""
    with start_job() as job:
        engine = _engine(settings, job.world.size, LayeredToy())
        for step in range(steps):
            _step(engine, step, job.world.rank, job.world.size)
        weights = {name: weight.flatten().tolist() for name, weight in _weights(engine).items()}
        engine.close()
    return weights


def full_values(settings: dict[str, Any]) -> dict[str, Any]:
    """Three steps of 1e-5 after loading a scale of .0699: whether the optimizer begins with the weights that were
    loaded, the scale of each pass, and the one that a checkpoint before each step would hold."""
    with start_job() as job:
        rank, world = job.world.rank, job.world.size
        module = ScaledToy()
        loaded = {**module.state_dict(), "temp": torch.tensor([0.0699])}
        loaded = {name: weight.clone() for name, weight in loaded.items()}
        module.load_state_dict(loaded)
        engine = _engine(settings, world, module)
        begins = all(torch.equal(loaded[name], weight) for name, weight in _weights(engine).items())
        stored = []
        for step in range(3):
            stored += [_weights(engine)["temp"].item()] * ACCUMULATION
            _step(engine, step, rank, world, lr=1e-5)
        engine.close()
    return {"begins": begins, "used": module.used, "stored": stored}


def averages(settings: dict[str, Any], steps: int) -> dict[str, Any]:
    """Steps whose weights are averaged: the average in the end, how far it ever was from a plain loop over the weights
    that were applied, and what the module gives with it beside what a plain module of the same precision gives."""
    with start_job() as job:
        rank, world = job.world.rank, job.world.size
        engine = _engine(settings, world, ScaledToy())
        loop, apart = _weights(engine), 0.0
        for step in range(steps):
            _step(engine, step, rank, world, poison=step == 2)
            for name, weight in _weights(engine).items():
                if step != 2:
                    loop[name] = DECAY * loop[name] + (1 - DECAY) * weight
            found = {name: tensor.clone() for name, tensor in engine.read_state("ema")}
            apart = max(apart, *(float((found[name] - loop[name]).abs().max()) for name in loop))
        with engine.evaluating(averaged=True) as module:
            judged = [float(module(toy_rows(99, world)[:3]).total)]
            judged.append(float(module.used[-1]))
        plain = ScaledToy()
        plain.load_state_dict(found)
        expected = [float(as_trained(plain, engine.precision)(toy_rows(99, world)[:3]).total), float(found["temp"])]
        engine.close()
    return {
        "average": {name: tensor.tolist() for name, tensor in found.items()},
        "apart": apart, "judged": judged, "expected": expected,
    }  # fmt: skip


def poisoned_step(settings: dict[str, Any]) -> dict[str, bool]:
    """A step with NaN in one rank's rows: what the engine says, and whether any weight moved."""
    with start_job() as job:
        rank, world = job.world.rank, job.world.size
        engine = _engine(settings, world, Toy())
        _step(engine, 0, rank, world)
        before = _weights(engine) | {f"ema {n}": t.clone() for n, t in engine.read_state("ema")}
        _step(engine, 1, rank, world, poison=rank == world - 1)
        said = {"applied": not engine.skipped(), "norm_is_finite": bool(torch.isfinite(engine.grad_norm()))}
        after = _weights(engine) | {f"ema {n}": t.clone() for n, t in engine.read_state("ema")}
        _step(engine, 2, rank, world)
        moved_on = any(not torch.equal(after[n], t) for n, t in _weights(engine).items())
        unchanged = all(torch.equal(before[n], t) for n, t in after.items())
        engine.close()
    return {**said, "weights_unchanged": unchanged, "goes_on": moved_on}


def train(name: str, overrides: list[str], allow_config_change: bool = False) -> dict[str, Any]:
    """`umt train` on this rank; the exit code."""
    from umt_ds.jobs.train import run_training

    try:
        return {"code": run_training(load_run(name, overrides), allow_config_change=allow_config_change)}
    except SystemExit as error:
        return {"code": error.code}


@dataclass
class MeanFeature:
    """An evaluator of stage 1: the mean of the student's features of fixed clips without a mask."""

    name: str = "mean"
    metrics: tuple[str, ...] = ("feature",)
    sets = ()

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        sums = torch.zeros((), dtype=torch.float64)
        for batch in range(2):  # the same number of passes on every rank
            pixels = torch.full((1, 4, 64, 64, 3), 40 * batch + 7 * world.rank, dtype=torch.uint8)
            sums += module.encoder(pixels).tokens.double().mean()
            beat()
        torch.distributed.all_reduce(sums)
        return Scores(self.name, {"feature": float(sums) / world.size}, items=2 * world.size)


def train_evaluated(name: str, overrides: list[str]) -> dict[str, Any]:
    """`umt train` that is evaluated by `MeanFeature`."""
    from umt_ds.jobs import train as job

    real = job.evaluators_of
    job.evaluators_of = lambda run: [MeanFeature()]
    try:
        return train(name, overrides)
    finally:
        job.evaluators_of = real


class HostReads(TorchDispatchMode):
    """Notes each operation for which a host would have to wait for a GPU: values read, shapes that depend on values,
    and numbers that are copied there from a list."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "lift_fresh")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        by_mask = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if by_mask or name in self.WAITING:
            where = next(frame for frame in reversed(traceback.extract_stack()[:-1]) if "/torch/" not in frame.filename)
            self.seen.append(f"{name} at {Path(where.filename).name}:{where.lineno} {where.line}")
        return func(*args, **(kwargs or {}))


def host_reads(name: str, overrides: list[str]) -> dict[str, Any]:
    """`umt train`; for what its steps would wait for the host."""
    real, seen = loop.train_step, []

    def watched(*arguments: Any, **keywords: Any) -> Any:
        with HostReads() as reads:
            tally = real(*arguments, **keywords)
        seen.append(reads.seen)
        return tally

    loop.train_step = watched
    try:
        return {**train(name, overrides), "seen": seen}
    finally:
        loop.train_step = real


def train_forbidding_waits(name: str, overrides: list[str]) -> dict[str, Any]:
    """`umt train` on a GPU, where any wait of the host inside a step after the first is an error."""
    real_step, real_submit = loop.train_step, StepStatsReducer.submit

    def forbidding(function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            torch.cuda.set_sync_debug_mode("error" if forbidding.armed else "default")
            try:
                return function(*arguments, **keywords)
            finally:
                torch.cuda.set_sync_debug_mode("default")
                forbidding.armed = forbidding.armed or function is real_submit

        return call

    forbidding.armed = False  # tables and statistics are copied in the first step
    loop.train_step, StepStatsReducer.submit = forbidding(real_step), forbidding(real_submit)
    try:
        return train(name, overrides)
    finally:
        loop.train_step, StepStatsReducer.submit = real_step, real_submit


def train_with_small_files(name: str, overrides: list[str], rank: int, limit: int) -> dict[str, Any]:
    """`umt train`, while no file of rank `rank` can grow beyond `limit` bytes: to it, the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if int(os.environ["RANK"]) == rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        return train(name, overrides)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
