"""Lines of RUN/metrics.jsonl as the engine writes them, and the words of a page that is made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def metrics_line(step: int, *, attempt: int = 1, digest: str = "", loss: float | None = None) -> str:
    """One logged step as the engine writes it."""
    record: dict[str, Any] = {
        "step": step, "draws": 4 * step, "epoch": step / 10, "loss": 2.0 / step if loss is None else loss,
        "uta": 2.0 / step if loss is None else loss, "lr": 1e-3, "grad_norm": 1.0, "clips_per_s": 10.0,
        "clips_per_s_per_device": 5.0, "data_stall_percent": 3.0, "mfu_percent": 1.0, "gflops_per_clip": 0.1,
        "peak_memory_gib": 1.0, "bad_samples": 0, "skipped_steps": 0, "digest": digest or f"{step:016x}",
        "digest_total": "feed", "mask_digest_total": "beef", "attempt": attempt,
    }  # fmt: skip
    return json.dumps(record) + "\n"


VOTERS = {"shards": "/data/train", "items": 50, "samples": 900}
PROTOCOL = {"shards": "/data/val", "items": 97, "samples": 400, "voters": VOTERS, "side": 64}


def scores_line(
    step: int,
    *,
    name: str = "knn",
    left_out: int = 0,
    attempt: int = 1,
    by_type: Mapping[str, Mapping[str, float]] | None = None,
    protocol: Mapping[str, Any] = PROTOCOL,
    **values: float,
) -> str:
    """What an evaluation found after a step."""
    record = {
        **({} if by_type is None else {"by_type": by_type}),
        "kind": "scores", "step": step, "evaluation": name, "values": values, "items": 100 - left_out,
        "left_out": left_out, "seconds": 2.0, "protocol": protocol, "attempt": attempt,
    }  # fmt: skip
    return json.dumps(record) + "\n"


def words_of(page: Path) -> str:
    """The text of a page without tags and pictures."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(), flags=re.DOTALL))
