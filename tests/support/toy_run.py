"""The whole loop on one rank without DeepSpeed, data or a GPU: a linear model under dropout, in milliseconds a step."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.support.checkpoints import CPU
from umt_ds.batch import Batch, Losses
from umt_ds.config.batching import RunPlan
from umt_ds.config.load import load_run
from umt_ds.config.running import CadenceConfig
from umt_ds.distributed.world import World
from umt_ds.engine.checkpoint import CheckpointStore
from umt_ds.engine.checkpoint_files import read_tensors
from umt_ds.engine.deepspeed import Engine
from umt_ds.engine.loop import train
from umt_ds.engine.manifest import state_kinds
from umt_ds.engine.protocol import Ended, Progress
from umt_ds.engine.report import Report
from umt_ds.engine.swapped_weights import swapped_weights
from umt_ds.engine.training_run import TrainingRun
from umt_ds.engine.watchdog import Watchdog
from umt_ds.evaluation.evaluator import Beat, LeftOut, Scores

ALONE = World(0, 1, 0, "127.0.0.1", 1, "alone")
STEPS = 5


class ToyModule(nn.Module):
    """Dropout draws from torch's generator, so what an evaluation leaves of it shows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Losses:
        return Losses((self.layers(x) - 1).square().mean())


class ToyEngine:
    """What the loop, the store and evaluations ask of an `Engine`, over torch's own AdamW."""

    stage, precision, device = 0, "fp32", CPU
    _forget_order, _exact_gathered = Engine._forget_order, Engine._exact_gathered
    evaluating: Callable[..., AbstractContextManager[nn.Module]] = Engine.evaluating

    def __init__(self, ema_decay: float | None = None) -> None:
        self.module = ToyModule()
        self.ema_decay = ema_decay
        self.state_kinds = state_kinds(averaged=ema_decay is not None)
        self._adamw = torch.optim.AdamW(self.module.parameters(), lr=1e-2)

    def __call__(self, inputs: Tensor) -> Losses:
        losses: Losses = self.module(inputs)
        return losses

    def set_lr(self, lr: float) -> None:
        self._adamw.param_groups[0]["lr"] = lr

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self._adamw.step()
        self._adamw.zero_grad()
        for parameter in self.module.parameters() if self.ema_decay is not None else ():
            self._adamw.state[parameter]["ema"].lerp_(parameter.detach(), 1 - self.ema_decay)

    def _averaged(self) -> AbstractContextManager[None]:
        return swapped_weights(list(self.module.parameters()), lambda parameter: self._adamw.state[parameter]["ema"])

    def grad_norm(self) -> Tensor:
        return torch.ones(())

    def skipped(self) -> Tensor:
        return torch.zeros(())

    def names(self) -> list[str]:
        return [name for name, _ in self.module.named_parameters()]

    def reset_moments(self, *, steps: int) -> None:
        for parameter in self.module.parameters():
            zeros = {kind: torch.zeros_like(parameter) for kind in ("exp_avg", "exp_avg_sq")}
            self._adamw.state[parameter] = {"step": torch.tensor(float(steps)), **zeros}
            if self.ema_decay is not None:
                self._adamw.state[parameter]["ema"] = parameter.detach().clone()

    def _tensor(self, kind: str, name: str) -> Tensor:
        parameter = self.module.get_parameter(name)
        tensor: Tensor = parameter.data if kind == "weight" else self._adamw.state[parameter][kind]
        return tensor

    def read_state(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        for name in self.names():
            yield name, self._tensor(kind, name)

    def write_state(self, kind: str, name: str, value: Tensor) -> None:
        self._tensor(kind, name).copy_(value)

    def read_loss_scale(self) -> None:
        return None

    def write_loss_scale(self, state: object) -> None:
        assert state is None


class ToyData:
    """Loader and task: what step s shows is a function of s."""

    def deliveries(self, step: int) -> Iterator[Callable[[], Batch]]:
        yield partial(self._batch, step)

    def _batch(self, step: int) -> Batch:
        pixels = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        return Batch("video", pixels, torch.arange(4), torch.arange(4), ("a",) * 4, digest=1000 + step)

    def prepare(self, batch: Batch, step: int) -> Tensor:
        return batch.pixels


@dataclass
class ToyStop:
    """Somebody wishes the job to stop when it is asked for the `after`th time."""

    after: int | None = None
    stop_at: int | None = None
    asked: int = 0

    def is_due(self, step: int) -> bool:
        return step == self.stop_at

    def wanted(self) -> bool:
        self.asked += 1
        return self.after is not None and self.asked >= self.after


@dataclass
class ToyEvaluator:
    """Passes rows through the model, and gives the mean as `mean`; draws from all generators, as a library might.

    also: called each time, with the module. values: what it gives instead, one after another.
    """

    name: str = "toy"
    metrics: tuple[str, ...] = ("mean",)
    sets = ()
    also: Callable[[nn.Module], None] = lambda module: None
    values: Sequence[float] = ()
    left_out: Sequence[int] = ()  # how many, time by time
    protocol: dict[str, Any] = field(default_factory=lambda: {"rows": 3})
    calls: int = 0

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        random.random(), np.random.rand(), torch.rand(1)
        assert not any(part.training for part in module.modules())
        assert not torch.is_grad_enabled()
        assert isinstance(module, ToyModule)
        found = module.layers(torch.ones(3, 6)).mean().item()
        beat()
        self.also(module)
        value = self.values[self.calls] if self.values else found
        left_out = self.left_out[self.calls] if self.left_out else 0
        self.calls += 1
        return Scores(
            self.name,
            dict.fromkeys(self.metrics, value),
            items=30 - left_out,
            left_out=tuple(LeftOut(f"clip-{number}", "cannot be decoded") for number in range(left_out)),
            protocol=self.protocol,
        )


def toy_run(
    folder: Path,
    *evaluators: Any,
    stop: ToyStop | None = None,
    starts_from_weights: bool = False,
    ahead: bool = False,
    steps: int = STEPS,
    ema_decay: float | None = None,
    judged_by_average: Sequence[str] = (),
    **cadence: Any,
) -> tuple[Ended, Progress]:
    """Start a run in `folder`, or start it again; what the loop returns. It logs each step and saves every third."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"log": 1, "save": 3, "keep": 9, "watchdog": 0, **cadence}
    overrides = [
        f"run_dir={folder}",
        "report.tensorboard=false",
        f"cadence={json.dumps(settings | {'keep_best': None})}",
        f"optim.ema_decay={'null' if ema_decay is None else ema_decay}",
    ]
    config = load_run("demo/stage1", overrides)
    plan = RunPlan(
        world=1, micro=4, chunk=4, accumulation=1, draws_per_step=4, views_per_step=4, steps_per_epoch=10,
        total_steps=steps, warmup_steps=0, peak_lr=1e-2, min_lr=1e-2,
    )  # fmt: skip
    store = CheckpointStore(folder, world=ALONE, config=config, fingerprints={}, device=CPU)
    resume = store.plan_resume()
    engine: Any = ToyEngine(ema_decay)
    if resume.folder is not None:
        engine.module.load_state_dict(dict(read_tensors(resume.folder, "weight", resume.manifest)))
    engine.reset_moments(steps=0)
    data: Any = ToyData()
    how: Any = stop or ToyStop()
    report = Report(folder, world=ALONE, device=CPU, config=config, plan=plan, flops_per_view=1.0)
    watchdog = Watchdog(folder, world=ALONE, limit_s=0)
    try:
        run = TrainingRun(
            data, engine, data, store, report, how, watchdog, ALONE, plan, CadenceConfig(**settings), seed=7,
            ahead=ahead, evaluators=evaluators, judged_by_average=judged_by_average,
            starts_from_weights=starts_from_weights and resume.folder is None,
        )  # fmt: skip
        return train(run, store.load(engine, resume))
    finally:
        report.close()
        watchdog.close()
