"""The DeepSpeed JSON: what it owns, what it must not say, and the whole file as DeepSpeed gets it.

The run YAML owns batch arithmetic, optimiser, schedule and clipping; the JSON owns ZeRO, precision,
offload and communication. A setting in both places is refused, with both places named.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from umt_ds.config.batching import RunPlan
from umt_ds.config.schema import EngineConfig, RunConfig
from umt_ds.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]

# JSON key → the key of the run YAML that owns the matter
OWNED_BY_RUN = {
    "train_batch_size": "batch.global",
    "train_micro_batch_size_per_gpu": "batch.micro",
    "gradient_accumulation_steps": "batch.global and batch.micro",
    "gradient_clipping": "optim.clip_grad",
    "optimizer": "optim",
    "scheduler": "schedule",
    "steps_per_print": "cadence.log",
}


def load_deepspeed_json(engine: EngineConfig) -> dict[str, Any]:
    """The JSON that `engine.deepspeed` names, with `engine.deepspeed_set` laid over it."""
    path = find_deepspeed_json(engine.deepspeed)
    try:
        settings = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} does not hold a mapping of settings")
    _refuse_owned(settings, str(path))
    _refuse_owned({key.split(".")[0]: None for key in engine.deepspeed_set}, "engine.deepspeed_set")
    for key, value in engine.deepspeed_set.items():
        *parents, leaf = key.split(".")
        node = settings
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"engine.deepspeed_set: {parent} of {key} is not a section in {path}")
        node[leaf] = value
    return settings


def find_deepspeed_json(name: str) -> Path:
    """A path as given, or a file of ds_configs/ by name."""
    import ds_configs

    folder = Path(ds_configs.__file__).parent
    for candidate in (Path(name), folder / name):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(path.name for path in folder.glob("*.json")))
    raise ConfigError(f"engine.deepspeed={name}: no such file", hint=f"one of {known}, or a path")


def precision_of(settings: dict[str, Any]) -> Precision:
    """The compute precision the JSON asks for."""
    bf16 = bool(settings.get("bf16", {}).get("enabled"))
    fp16 = bool(settings.get("fp16", {}).get("enabled"))
    if bf16 and fp16:
        raise ConfigError("bf16 and fp16 are both enabled in the DeepSpeed JSON", hint="enable one of them")
    return "bf16" if bf16 else "fp16" if fp16 else "fp32"


def zero_stage_of(settings: dict[str, Any]) -> int:
    """ZeRO stage 0 … 3."""
    return int(settings.get("zero_optimization", {}).get("stage", 0))


def complete_deepspeed_json(settings: dict[str, Any], config: RunConfig, plan: RunPlan) -> dict[str, Any]:
    """What DeepSpeed gets: the JSON plus the numbers of the plan, written as numbers."""
    return {
        **settings,
        "train_batch_size": plan.micro * plan.accumulation * plan.world,
        "train_micro_batch_size_per_gpu": plan.micro,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_clipping": config.optim.clip_grad or 0.0,
        "steps_per_print": 1 << 60,  # DeepSpeed's own step line stays quiet; ours says more
        "timers": {"throughput": {"enabled": False}},  # else it waits for the device twice a step
        "zero_allow_untested_optimizer": True,
    }


def _refuse_owned(settings: dict[str, Any], where: str) -> None:
    for key, owner in OWNED_BY_RUN.items():
        if key in settings:
            raise ConfigError(
                f"{where} sets {key}, which the run YAML owns as {owner}",
                hint=f"remove {key} from {where} and set {owner}",
            )
