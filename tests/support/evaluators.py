"""A small evaluator for those who run evaluations: numbers of a module's features on clips that it draws itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from umt_ds.config.run import RunConfig
from umt_ds.distributed.collectives import mean_over_ranks
from umt_ds.distributed.world import World
from umt_ds.evaluation.evaluator import Beat, LeftOut, Scores


@dataclass(frozen=True)
class Features:
    """Mean and greatest feature of six clips, of which each rank sees every world-th. fail: what to do on a rank
    instead."""

    name: str
    frames: int
    side: int
    left_out: tuple[LeftOut, ...] = ()
    protocol: dict[str, Any] = field(default_factory=dict)
    by_type: dict[str, dict[str, float]] = field(default_factory=dict)
    fail: Callable[[World], None] = lambda world: None
    metrics = ("mean", "largest")
    sets = ()

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        """Satisfies `Evaluator`."""
        self.fail(world)
        assert not module.training
        assert not torch.is_grad_enabled()
        generator = torch.Generator().manual_seed(1)
        clips = torch.randint(0, 256, (6, self.frames, self.side, self.side, 3), dtype=torch.uint8, generator=generator)
        rows = torch.zeros(6, 2)
        for number in range(world.rank, 6, world.size):
            tokens = module.encoder(clips[number : number + 1]).tokens.float()
            rows[number] = torch.stack([tokens.mean(), tokens.max()])
            beat()
        rows = mean_over_ranks(rows) * world.size
        found = {"key": [f"clip-{n}" for n in range(6)], "mean": rows[:, 0].tolist(), "pair": rows.tolist()}
        return Scores(
            self.name,
            {"mean": rows[:, 0].mean().item(), "largest": rows[:, 1].max().item()},
            items=6,
            left_out=self.left_out,
            protocol={"seed": 1, **self.protocol},
            predictions=found if predictions else None,
            by_type=self.by_type,
        )


def features_of(run: RunConfig, classes: Sequence[str] = (), **more: Any) -> list[Features]:
    """In place of `umt_ds.tasks.kinds.evaluators_of`: one for each evaluation of the run."""
    return [Features(name, *run.task.clip_shape, **more) for name in run.evaluation]
