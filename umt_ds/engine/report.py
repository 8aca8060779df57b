"""What a run tells: a console line and one JSON object for each logged step and each evaluation, TensorBoard, W&B."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from umt_ds.config.batching import RunPlan
from umt_ds.config.run import RunConfig
from umt_ds.distributed.world import World
from umt_ds.engine.metrics_file import LONGEST_LINE, METRICS, SCORES, OddLines, read_records, read_scores
from umt_ds.engine.protocol import Progress
from umt_ds.engine.readback import refuse_no_file
from umt_ds.engine.schedule import lr_at
from umt_ds.engine.speed import Lap, peak_flops, peak_memory_gib
from umt_ds.engine.step_stats import GlobalStepStats, RankTimes
from umt_ds.errors import MachineError
from umt_ds.evaluation.evaluator import Scores

log = logging.getLogger("umt_ds")


def start_logging(run: Path, world: World) -> None:
    """Rank 0 logs to the console (stderr) and RUN/log.txt; the others only say what is wrong, with their rank.
    Raises MachineError where log.txt cannot be written."""
    log.handlers.clear()
    log.propagate = False
    prefix = "" if world.is_first else f"[rank {world.rank}] "
    formatter = logging.Formatter(f"%(asctime)s {prefix}%(message)s", datefmt="%H:%M:%S")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if world.is_first:
        refuse_no_file(run / "log.txt")
        try:
            handlers.append(logging.FileHandler(run / "log.txt", encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise _unwritable(run / "log.txt", error) from error
    for handler in handlers:
        handler.setFormatter(formatter)
        log.addHandler(handler)
    log.setLevel(logging.INFO if world.is_first else logging.WARNING)


class Report:
    """Writes a record of each logged step and of each evaluation. Every rank calls it; rank 0 writes. Raises
    MachineError, on rank 0, where RUN/metrics.jsonl cannot be read or written."""

    def __init__(
        self,
        run: Path,
        *,
        world: World,
        device: torch.device,
        config: RunConfig,
        plan: RunPlan,
        flops_per_view: float,
    ) -> None:
        self._world, self._device, self._plan = world, device, plan
        self._flops_per_view = flops_per_view
        self._peak, self._peak_source = peak_flops(device)
        self._attempt = 0
        self._file: TextIO | None = None
        self._writer: Any = None
        self._wandb: Any = None
        if not world.is_first:
            return
        path, odd = run / METRICS, OddLines()
        attempts = [record["attempt"] for record in read_records(path, odd)]
        attempts += [scores.attempt for scores in read_scores(path)]
        self._attempt = 1 + max(attempts, default=0)
        if odd.count:
            log.warning("%s", odd.told(path))
        self._file = _open_to_append(path)
        if config.report.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run / "tb"))
        if config.report.wandb:
            self._wandb = _start_wandb(config, run)

    def step(self, progress: Progress, heard: GlobalStepStats, lap: Lap) -> None:
        """Log the step that was heard of; `progress` counts it."""
        if not self._world.is_first:
            return
        views_per_s = lap.steps * self._plan.views_per_step / max(lap.seconds, 1e-9)
        per_device = views_per_s / self._world.size
        record = {
            "step": progress.step,
            "draws": progress.draws,
            "epoch": round(progress.step / max(1, self._plan.steps_per_epoch), 4),
            **heard.losses,
            "lr": lr_at(progress.step - 1, self._plan),
            "grad_norm": heard.grad_norm,
            # of views, as older logs have it, too: a clip with data.num_sample=2 counts twice
            "clips_per_s": round(views_per_s, 3),
            "clips_per_s_per_device": round(per_device, 3),
            **_waits(heard.times, lap),
            "mfu_percent": round(100 * per_device * self._flops_per_view / self._peak, 2),
            "gflops_per_clip": round(self._flops_per_view / 1e9, 3),
            "peak_memory_gib": round(peak_memory_gib(self._device), 3),
            "bad_samples": progress.substituted,
            "skipped_steps": progress.skipped,
            "digest": f"{heard.digest:016x}",
            "digest_total": f"{progress.digest:016x}",
            "mask_digest_total": f"{progress.mask_digest:016x}",
            "attempt": self._attempt,
        }
        self._write(record)
        self._send({k: v for k, v in record.items() if isinstance(v, (int, float)) and k != "step"}, progress.step)
        log.info("%s", self._line(record, [name for name in heard.losses if name != "loss"]))

    def scores(self, step: int, scores: Scores, *, seconds: float) -> None:
        """Log what an evaluation found after `step` steps, and how long it took. Which items it left out, and why, the
        evaluator has said."""
        if not self._world.is_first:
            return
        self._write(
            {
                "kind": SCORES,
                "step": step,
                "evaluation": scores.name,
                "values": _finite(scores.values),
                "items": scores.items,
                "left_out": len(scores.left_out),
                "seconds": round(seconds, 3),
                "protocol": dict(scores.protocol),
                "attempt": self._attempt,
                **(
                    {"by_type": {kind: _finite(some) for kind, some in scores.by_type.items()}}
                    if scores.by_type
                    else {}
                ),
            }
        )
        self._send({f"eval/{scores.name}/{metric}": value for metric, value in scores.values.items()}, step)
        log.info(
            "evaluation %s | step %d/%d | %s | %d items%s%s | %.1f s",
            scores.name,
            step,
            self._plan.total_steps,
            " ".join(f"{metric} {value:.4f}" for metric, value in scores.values.items()),
            scores.items,
            f" | partial: {scores.partial_text}" if scores.is_partial else "",
            f" | weights {scores.protocol['weights']}" if "weights" in scores.protocol else "",
            seconds,
        )

    def _line(self, record: dict[str, Any], parts: list[str]) -> str:
        detail = " ".join(f"{name} {record[name]:.4f}" for name in parts)
        return (
            f"step {record['step']}/{self._plan.total_steps} | draws {record['draws']} | loss {record['loss']:.4f}"
            + (f" ({detail})" if detail else "")
            + f" | lr {record['lr']:.2e} | grad {record['grad_norm']:.3g}"
            f" | {record['clips_per_s']:.1f} views/s, {record['clips_per_s_per_device']:.1f} a device"
            f"{self._waiting(record)}"
            f" | mfu {record['mfu_percent']:.0f} % at {record['gflops_per_clip']:.4g} GFLOP a view"
            f" | mem {record['peak_memory_gib']:.1f} GiB | bad {record['bad_samples']}"
            f" | digest {record['digest'][:8]}"
        )

    def _waiting(self, record: dict[str, Any]) -> str:
        """How long a device waited for data, and for which rank the others waited, where there are others."""
        if "data_stall_percent" not in record:
            return ""
        text = f" | data {record['data_stall_percent']:.0f} %"
        if self._world.size == 1:
            return text
        return (
            f"{text} (rank {record['data_stall_rank']}) | slowest rank {record['slowest_rank']}, "
            f"{record['slowest_rank_ms']:.1f} ms a step"
        )

    def _write(self, record: dict[str, Any]) -> None:
        assert self._file is not None
        line = json.dumps(_finite(record), allow_nan=False) + "\n"
        assert len(line) < LONGEST_LINE, "whoever reads it takes no longer ones"
        try:
            self._file.write(line)
        except OSError as error:
            raise _unwritable(Path(self._file.name), error) from error

    def _send(self, numbers: Mapping[str, float], step: int) -> None:
        """To TensorBoard and W&B."""
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(numbers), step=step)

    def close(self) -> None:
        """Flush everything."""
        for sink in (self._file, self._writer):
            try:
                if sink is not None:
                    sink.close()
            except OSError as error:  # what could not be written was said when it was
                log.warning("the log is not whole: %s", error)
        if self._wandb is not None:
            self._wandb.finish()


def _finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: the gradient norm of a step that fp16 skipped is left out."""
    return {k: v for k, v in record.items() if not isinstance(v, float) or math.isfinite(v)}


def _open_to_append(path: Path) -> TextIO:
    """A whole line a write: a killed run leaves whole records. The next one does not continue half a line."""
    try:
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
        return path.open("a", buffering=1)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> MachineError:
    return MachineError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="free some space and start the same command again; or give the permission to write",
    )


def _waits(times: RankTimes | None, lap: Lap) -> dict[str, float]:
    """What devices and ranks waited for; nothing of a step that nobody meant to log, where a stop was agreed on."""
    if times is None:
        return {}
    return {
        "data_stall_percent": min(100.0, round(100 * max(times.data_s) / max(lap.seconds, 1e-9), 2)),
        "data_stall_rank": times.data_rank,
        "slowest_rank": times.slowest_rank,
        "slowest_rank_ms": round(1e3 * times.behind_s / lap.steps, 3),
    }


def _start_wandb(config: RunConfig, run: Path) -> Any:
    try:
        import wandb
    except ImportError:
        log.warning("report.wandb is set, but wandb is not installed: pip install umt_ds[wandb]")
        return None
    return wandb.init(project=config.report.wandb, name=config.name, dir=str(run), resume="allow", id=run.name)
