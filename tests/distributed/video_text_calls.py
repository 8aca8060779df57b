"""Evaluators of video and text as ranks run them (see tests.support.ranks), from the settings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.distributed.calls import _engine
from tests.support.video_text_runs import odd_weights, video_text_run
from umt_ds.distributed.job import start_job
from umt_ds.distributed.world import World, find_world
from umt_ds.errors import UmtError
from umt_ds.tasks.kinds import build_task, evaluators_of


def scores(
    world: World | None = None,
    *,
    folder: str,
    kind: str,
    evaluation: dict[str, Any],
    workers: int = 0,
    zero: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What an evaluation of a run finds. zero: the DeepSpeed settings under which it is trained."""
    more = [f"evaluation.test.{key}={value}" for key, value in evaluation.items()]
    run = video_text_run(Path(folder), kind, f"data.workers={workers}", *more)  # type: ignore[arg-type]
    module = odd_weights(build_task(run, device=torch.device("cpu"), precision="fp32").module)
    beats: list[None] = []
    try:
        (evaluator,) = evaluators_of(run)
        if zero is None:
            found = evaluator.run(module, world or find_world(), beat=lambda: beats.append(None), predictions=True)
        else:
            with start_job() as job:
                engine = _engine(zero, job.world.size, module)
                with engine.evaluating() as judged:
                    found = evaluator.run(judged, job.world, beat=lambda: beats.append(None), predictions=True)
                engine.close()
    except UmtError as error:
        return {"error": error.what, "agreed": error.agreed}
    assert tuple(found.values) == evaluator.metrics
    assert beats
    return {
        "values": dict(found.values), "ranks": dict(found.ranks), "items": found.items,
        "left_out": [[one.key, one.reason] for one in found.left_out], "predictions": found.predictions,
        "protocol": dict(found.protocol),
    }  # fmt: skip
