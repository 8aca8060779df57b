"""One rank's checkpoints without DeepSpeed: an engine of a few tensors, and a store as a run opens it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umt_ds.config.load import load_run
from umt_ds.distributed.world import World
from umt_ds.engine.checkpoint import CheckpointStore
from umt_ds.engine.manifest import StateKind
from umt_ds.engine.protocol import Progress

CPU = torch.device("cpu")
KINDS: tuple[StateKind, ...] = ("weight", "exp_avg", "exp_avg_sq")
SHAPES = {"encoder.norm.weight": (5,), "encoder.patch.weight": (3, 2, 2), "clip_decoder.0.head.bias": (7,)}
FINGERPRINTS = {"data.demo": "aaaa", "teacher": "bbbb"}


class FakeEngine:
    """The state of a training by name, as `engine.deepspeed.Engine` gives and takes it."""

    stage, precision, device = 1, "fp32", CPU

    def __init__(self, seed: int, *, loss_scale: dict[str, float] | None = None, averaged: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.state_kinds: tuple[StateKind, ...] = (*KINDS, "ema") if averaged else KINDS
        self.state = {k: {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()} for k in self.state_kinds}
        self.loss_scale = loss_scale
        self.steps: int | None = None

    def names(self) -> list[str]:
        return list(SHAPES)

    def read_state(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        yield from self.state[kind].items()

    def write_state(self, kind: str, name: str, value: Tensor) -> None:
        assert self.steps is not None, "DeepSpeed has nowhere to put moments before reset_moments"
        self.state[kind][name] = value.clone()

    def reset_moments(self, *, steps: int) -> None:
        self.steps = steps

    def read_loss_scale(self) -> dict[str, float] | None:
        return self.loss_scale

    def write_loss_scale(self, state: dict[str, float] | None) -> None:
        self.loss_scale = state


def open_store(
    run: Path,
    *overrides: str,
    fingerprints: dict[str, str] = FINGERPRINTS,
    not_reproducible: Sequence[str] = (),
    classes: Sequence[str] = (),
    earlier: Mapping[str, Mapping[str, str]] | None = None,
) -> CheckpointStore:
    """A store as one rank alone opens it at start-up."""
    config = load_run("demo/stage1", [f"run_dir={run}", *overrides])
    alone = World.alone()
    return CheckpointStore(
        run,
        world=alone,
        config=config,
        fingerprints=fingerprints,
        device=CPU,
        not_reproducible=not_reproducible,
        classes=classes,
        earlier=earlier,
    )


def save(store: CheckpointStore, *steps: int, wait: bool = True, averaged: bool = False) -> None:
    """The state after step n is that of FakeEngine(n). averaged: of a run that averages its weights."""
    for step in steps:
        engine: Any = FakeEngine(step, averaged=averaged)
        store.save(engine, Progress(step=step, draws=32 * step), wait=wait)


def save_and_finish(store: CheckpointStore, step: int, *, wait: bool) -> None:
    save(store, step, wait=wait)
    store.finish()


def resume(store: CheckpointStore, *, averaged: bool = False, allow_config_change: bool = False) -> FakeEngine:
    """Start as cli.run does; the engine with what was loaded."""
    engine = FakeEngine(seed=-1, averaged=averaged)
    store.load(engine, store.plan_resume(allow_config_change=allow_config_change))  # type: ignore[arg-type]
    return engine


def same_state(one: FakeEngine, two: FakeEngine, *, kinds: Sequence[StateKind] = KINDS) -> bool:
    return all(torch.equal(one.state[k][n], two.state[k][n]) for k in kinds for n in SHAPES)


def folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def names_in(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}
