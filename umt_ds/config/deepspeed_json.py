"""The DeepSpeed JSON: what it owns, what it must not say, and the whole file as DeepSpeed gets it.

The run YAML owns batch arithmetic, optimiser, schedule and clipping; the JSON owns ZeRO, precision,
offload and communication. A setting in both places is refused, with both places named; so is one that
would not be honoured, with the reason (deepspeed_keys.py).
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from umt_ds.config.batching import RunPlan
from umt_ds.config.check import validate, whole
from umt_ds.config.deepspeed_keys import NOT_HONOURED, OWNED_BY_RUN, DeepSpeedSettings, NotHonoured
from umt_ds.config.explain import Origin, Origins, latest_in
from umt_ds.config.run import RunConfig
from umt_ds.config.running import EngineConfig
from umt_ds.config.yaml_text import is_encodable, read_text
from umt_ds.errors import ConfigError, printable

Precision = Literal["fp32", "bf16", "fp16"]


def load_deepspeed_json(engine: EngineConfig) -> dict[str, Any]:
    """The JSON that `engine.deepspeed` names, with `engine.deepspeed_set` laid over it: checked, and only what is
    honoured. Raises ConfigError naming file, or setting, and key."""
    path = find_deepspeed_json(engine.deepspeed)
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} does not hold a mapping of settings")
    origins = {"": Origin(str(path))}
    for key, value in engine.deepspeed_set.items():
        *parents, leaf = key.split(".")
        node = settings
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"engine.deepspeed_set: {parent} of {key} is not a section in {path}")
        node[leaf] = value
        origins[key] = Origin("engine.deepspeed_set")
    _refuse_owned(settings, origins)
    honoured = _leave_out(settings, (), origins)
    checked = validate(DeepSpeedSettings, honoured, origins, more="ds_configs/README.md says what a file may hold")
    honoured = checked.model_dump(mode="json", exclude_unset=True)  # as it was given, `~` written out
    precision_of(honoured)
    return honoured


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises ConfigError on anything that is not strict JSON: a key given twice, NaN."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # of json's own, the text says line and column
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        hint = "JSON has no comments and no trailing commas" if isinstance(error, json.JSONDecodeError) else None
        raise ConfigError(f"{path} is not valid JSON: {what}", hint=hint) from error


def find_deepspeed_json(name: str) -> Path:
    """The file of ds_configs/ of that name, whatever lies in the working directory; or a path, such as ./mine.json."""
    import ds_configs

    folder = Path(ds_configs.__file__).parent
    known = sorted(path.name for path in folder.glob("*.json"))
    if name in known:
        return folder / name
    with suppress(OSError):  # a name too long for a file
        if Path(name).exists():
            return Path(name)
    raise ConfigError(f"engine.deepspeed={name}: no such file", hint=f"one of {', '.join(known)}, or a path")


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
        "zero_force_ds_cpu_optimizer": False,
    }


def _refuse_owned(settings: dict[str, Any], origins: Origins) -> None:
    for key, owner in OWNED_BY_RUN.items():
        if key in settings:
            where = latest_in(key, origins).where
            raise ConfigError(
                f"{where} sets {key}, which the run YAML owns as {owner}",
                hint=f"remove {key} from {where} and set {owner}",
            )


def _leave_out(settings: dict[str, Any], section: tuple[str, ...], origins: Origins) -> dict[str, Any]:
    """`settings` without what says nothing: null, and keys that are not honoured at the value that changes nothing.
    Raises ConfigError at any other value of those, and at `auto`."""
    left: dict[str, Any] = {}
    for name, value in settings.items():
        key = ".".join((*section, name))
        known = NOT_HONOURED.get(key)
        if value is None or (known and _is_harmless(value, known)):
            continue
        where = latest_in(key, origins).where
        if known:
            raise ConfigError(f"{where} sets {key}, which {known.reason}", hint=known.hint or "remove it")
        if value == "auto":
            problem = f'{where}: {printable(key)} is "auto", which only Hugging Face\'s trainer fills in'
            raise ConfigError(problem, hint="give a value, or remove it")
        left[name] = _leave_out(value, (*section, name), origins) if isinstance(value, dict) else whole(value)
    return left


def _is_harmless(value: Any, known: NotHonoured) -> bool:
    is_off = isinstance(value, dict) and value.get("enabled") is False
    return is_off or (value == known.harmless and type(value) is type(known.harmless))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if not all(is_encodable(text) for pair in pairs for text in pair if isinstance(text, str)):
        raise ValueError("half a character (a surrogate)")
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is too large")
    return value
