"""`umt bench fp8`: what changes when a run's teacher multiplies in FP8: its words, and the masks drawn from it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from umt_ds.bench.rate import ALONE, plan_of
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.errors import ConfigError
from umt_ds.masking import MaskPlan
from umt_ds.tasks.loader import build_loader
from umt_ds.tasks.teacher import load_teacher, refuse_no_fp8

PACKAGES = ("torch",)  # for the header
ENOUGH = 0.999  # cosine that the FP8 teacher is held to


@dataclass(frozen=True)
class Fp8Change:
    """cosine f32 [K,B,V] between the targets of the bf16 and the FP8 teacher; overlap: share of equal kept tokens."""

    cosine: Tensor
    overlap: float

    def text(self) -> str:
        """A line a layer, and the verdict."""
        layers = [
            f"layer {number}: cosine mean {layer.mean():.5f}, least {layer.min():.5f}"
            for number, layer in enumerate(self.cosine, start=1)
        ]
        mean = float(self.cosine.mean())
        verdict = "as it should be" if mean >= ENOUGH else "too little: stay with task.teacher.precision=run"
        return "\n".join(
            [
                *layers,
                f"all layers: cosine mean {mean:.5f} ({verdict}; {ENOUGH} is asked for)",
                f"masks drawn with the same noise: {100 * self.overlap:.1f} % of the kept tokens are the same",
            ]
        )


@torch.no_grad()
def compare(config: RunConfig, *, clips: int) -> Fp8Change:
    """The first clips or images of a run's shards, seen by its teacher in bf16 and in FP8. A CPU emulates, slowly.

    Raises ConfigError where the run has no teacher to quantise.
    """
    task = config.task
    if not isinstance(task, (Stage1Config, Stage2Config)) or task.teacher is None:
        raise ConfigError(f"task.kind {task.kind} has no teacher here", hint="name a run of stage 1 or 2 that has one")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher, _ = load_teacher(task.teacher)
    refuse_no_fp8(teacher)
    teacher.to(device, torch.bfloat16)
    with closing(build_loader(config, plan_of(clips), ALONE, device=device)) as loader:
        batch = next(iter(loader.micro_batches(0))).parts[0].to(device)
    mask = task.mask if isinstance(task, Stage1Config) else getattr(task.mask, batch.media)
    plan = MaskPlan("random", 0.0) if mask is None else MaskPlan(mask.kind, mask.ratio)

    def kept(attention: Tensor | None) -> Tensor:
        frames, patches = batch.pixels.shape[1], teacher.tower.patches
        return plan.keep(attention, seed=config.seed, step=0, slots=batch.slots, frames=frames, patches=patches)

    exact = teacher.attend(batch.pixels)
    keep = kept(exact.attention)
    targets = exact.targets(keep)
    teacher.quantise()
    rounded = teacher.attend(batch.pixels)
    same = keep[:, :, None] == kept(rounded.attention)[:, None, :]  # [B,V,V]
    cosine = torch.nn.functional.cosine_similarity(targets, rounded.targets(keep), dim=-1)
    return Fp8Change(cosine.cpu(), float(same.any(dim=-1).float().mean()))
