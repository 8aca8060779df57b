"""The DeepSpeed JSON: what is said there is honoured, or refused with file, key and reason."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import ds_configs
from umt_ds.config.batching import plan_run
from umt_ds.config.deepspeed_json import (
    complete_deepspeed_json,
    find_deepspeed_json,
    load_deepspeed_json,
    precision_of,
    zero_stage_of,
)
from umt_ds.config.deepspeed_keys import NOT_HONOURED, OWNED_BY_RUN, DeepSpeedSettings
from umt_ds.config.key_paths import flatten
from umt_ds.config.load import load_run
from umt_ds.config.running import EngineConfig
from umt_ds.errors import ConfigError

DS_CONFIGS = sorted(Path(ds_configs.__file__).parent.glob("*.json"))

OWNED = {
    "train_batch_size": (64, "batch.global"),
    "train_micro_batch_size_per_gpu": (4, "batch.micro"),
    "gradient_accumulation_steps": (2, "batch.global"),
    "gradient_clipping": (1.0, "optim.clip_grad"),
    "optimizer": ({"type": "Adam"}, "optim"),
    "scheduler": ({"type": "WarmupLR"}, "schedule"),
}


@pytest.mark.parametrize("key", OWNED)
def test_a_json_key_that_the_run_owns_is_refused_with_both_places(tmp_path: Path, key: str) -> None:
    path = tmp_path / "mine.json"
    value, owner = OWNED[key]
    path.write_text(json.dumps({key: value}))
    with pytest.raises(ConfigError) as raised:
        load_deepspeed_json(EngineConfig(deepspeed=str(path)))
    assert f"{path} sets {key}" in raised.value.what
    assert f"owns as {owner}" in raised.value.what


@pytest.mark.parametrize("key", [*OWNED, "optimizer.params.lr"])
def test_deepspeed_set_is_no_way_around_that(key: str) -> None:
    engine = EngineConfig(deepspeed="cpu.json", deepspeed_set={key: 1})
    owner = OWNED[key.split(".")[0]][1]
    with pytest.raises(ConfigError, match=rf"engine\.deepspeed_set sets {key.split('.')[0]}, .* owns as {owner}"):
        load_deepspeed_json(engine)


def test_deepspeed_set_reaches_into_sections_and_makes_them() -> None:
    dotted = "engine.deepspeed_set={zero_optimization.stage: 3, bf16.enabled: true}"
    settings = load_deepspeed_json(load_run("demo/stage1", [dotted]).engine)
    assert settings == {"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}
    as_a_path = load_run("demo/stage1", ["engine.deepspeed_set.zero_optimization.stage=3"])
    assert load_deepspeed_json(as_a_path.engine) == {"zero_optimization": {"stage": 3}}


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_json_file_that_holds_no_settings_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"odd\.json"):
        load_deepspeed_json(EngineConfig(deepspeed=str(path)))


def test_an_unknown_json_file_is_told_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"engine\.deepspeed=zero9\.json") as raised:
        load_deepspeed_json(EngineConfig(deepspeed="zero9.json"))
    assert "zero1_bf16.json" in str(raised.value.hint)


def test_bf16_and_fp16_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="both enabled"):
        precision_of({"bf16": {"enabled": True}, "fp16": {"enabled": True}})


@pytest.mark.parametrize("path", DS_CONFIGS, ids=lambda path: path.name)
def test_every_shipped_json_loads_and_is_what_its_name_says(path: Path) -> None:
    settings = load_deepspeed_json(EngineConfig(deepspeed=path.name))
    stage = re.search(r"zero(\d)", path.name)
    precision = re.search(r"bf16|fp16", path.name)
    assert zero_stage_of(settings) == (int(stage[1]) if stage else 1), "cpu.json is ZeRO-1"
    assert precision_of(settings) == (precision[0] if precision else "fp32")
    config = load_run("demo/stage1")
    complete = complete_deepspeed_json(settings, config, plan_run(config, world=2, num_samples=100))
    assert complete["train_batch_size"] == 32
    assert complete["train_micro_batch_size_per_gpu"] * complete["gradient_accumulation_steps"] * 2 == 32
    assert "auto" not in flatten(complete).values()


def load(tmp_path: Path, text: str | bytes) -> dict[str, Any]:
    path = tmp_path / "mine.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_deepspeed_json(EngineConfig(deepspeed=str(path)))


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"bf16": {"enabled": true},}', r"not valid JSON: .*line 1 column"),
        ('{"bf16": {}, // no\n}', "not valid JSON"),
        ('{"bf16": {}, "bf16": {}}', "'bf16' is given twice"),
        ('{"bf16": {"enabled": true, "enabled": false}}', "'enabled' is given twice"),
        ('{"gradient_predivide_factor": NaN}', "NaN is no number"),
        ('{"gradient_predivide_factor": -Infinity}', "-Infinity is no number"),
        ('{"gradient_predivide_factor": 1e999}', "1e999 is too large"),
        ('{"aio": {"block_size": ' + "9" * 5000 + "}}", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        (b'{"bf16": "\xe9"}', r"not UTF-8 \(line 1\)"),
        ("{}".encode("utf-16"), "not UTF-8"),
        ('{"a": "\\ud800"}', "half a character"),
        ("", "not valid JSON"),
        ("null", "does not hold a mapping"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_is_no_strict_json_is_one_error_by_the_file_s_name(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.json.*{said}"):
        load(tmp_path, text)


def test_a_byte_order_mark_says_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, b'\xef\xbb\xbf{"bf16": {"enabled": true}}') == {"bf16": {"enabled": True}}


def test_a_shipped_name_is_the_shipped_file_whatever_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert find_deepspeed_json("cpu.json").parent == Path(ds_configs.__file__).parent
    assert find_deepspeed_json("./cpu.json").samefile(tmp_path / "cpu.json")


@pytest.mark.parametrize("name", ["x" * 300, "folder", "no/such.json"])
def test_what_is_no_file_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"{name[:8]}"):
        load_deepspeed_json(EngineConfig(deepspeed=name))


# ---------------------------------------------------------------- what it says


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bf16": True}, r"bf16: give a section \(got true, in .*mine\.json\)"),
        ({"zero_optimization": True}, "zero_optimization: give a section"),
        ({"zero_optimization": {"stage": "x"}}, r"zero_optimization\.stage: give a whole number \(got 'x'"),
        ({"zero_optimization": {"stage": "2"}}, r"zero_optimization\.stage: give a whole number"),
        ({"zero_optimization": {"stage": True}}, r"zero_optimization\.stage: give a whole number"),
        ({"zero_optimization": {"stage": 7}}, r"zero_optimization\.stage: must be at most 3 \(got 7"),
        ({"zero_optimization": {"stage": 1.5}}, r"zero_optimization\.stage: give a whole number"),
        (
            {"zero_optimisation": {"stage": 1}},
            r"zero_optimisation: unknown key \(in .*\n  hint: zero_optimization exists",
        ),
        ({"zero_optimization": {"stge": 1}}, r"unknown key \(in .*\n  hint: zero_optimization\.stage exists"),
        ({"bf16": {"enabled": "auto"}}, 'bf16.enabled is "auto"'),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, 'reduce_bucket_size is "auto"'),
        ({"fp16": {"enabled": 1}}, r"fp16\.enabled: give true or false"),
        ({"communication_data_type": "fp8"}, r"communication_data_type: give .*`bf16`"),
        ({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, "sets torch_autocast, which is not the precision"),
        (
            {"activation_checkpointing": {"cpu_checkpointing": True}},
            "sets activation_checkpointing, .*checkpoint_blocks",
        ),
        ({"gradient_allreduce_op": "sum"}, "sets gradient_allreduce_op, which must be mean"),
        ({"wall_clock_breakdown": True}, "sets wall_clock_breakdown"),
        ({"amp": {"enabled": True}}, "sets amp"),
        ({"_comment": "mine"}, "_comment: unknown key"),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            r"zero_optimization\.offload_param: device \"nvme\" needs nvme_path",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            r'zero_optimization: offload_param to "cpu" needs stage 3, and stage is 2',
        ),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "needs stage 1, and stage is 0"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme", "nvme_path": "/x"}}},
            'offload_optimizer to "nvme" needs stage 3',
        ),
    ],
    ids=str,
)
def test_a_setting_is_honoured_or_refused_with_its_key_and_reason(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, json.dumps(settings))
    assert re.search(said, str(raised.value), re.DOTALL), raised.value
    assert "mine.json" in raised.value.what


def test_the_tilde_of_a_path_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    offload = {"device": "nvme", "nvme_path": "~/swap"}
    found = load(tmp_path, json.dumps({"zero_optimization": {"stage": 3, "offload_param": offload}}))
    assert found == {
        "zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/home/me/swap"}}
    }


def test_what_changes_nothing_is_taken_and_left_out(tmp_path: Path) -> None:
    said = {
        "wall_clock_breakdown": False, "amp": {"enabled": False, "opt_level": "O1"},
        "torch_autocast": {"enabled": False},
        "flops_profiler": {"enabled": False}, "gradient_allreduce_op": "mean", "bf16": {"check_grad_overflow": True},
        "zero_optimization": {"offload_param": None, "reduce_bucket_size": 5e8}, "communication_data_type": None,
    }  # fmt: skip
    assert load(tmp_path, json.dumps(said)) == {"bf16": {}, "zero_optimization": {"reduce_bucket_size": 500_000_000}}


def test_one_setting_by_two_names_is_refused_and_a_later_layer_wins(tmp_path: Path) -> None:
    twice = "engine.deepspeed_set={zero_optimization.stage: 2, zero_optimization: {stage: 3}}"
    with pytest.raises(ConfigError, match=r"engine\.deepspeed_set\.zero_optimization\.stage is given twice"):
        load_run("demo/stage1", [twice])
    with pytest.raises(ConfigError, match="is given twice, or is a section and a value"):
        load_run("demo/stage1", ["engine.deepspeed_set={bf16: true, bf16.enabled: true}"])
    with pytest.raises(ConfigError, match=r"engine\.deepspeed_set\.zero_optimization: give"):
        load_run("demo/stage1", ["engine.deepspeed_set={zero_optimization: {}}"])
    first = "engine.deepspeed_set={zero_optimization.stage: 2}"
    layers = load_run("demo/stage1", [first, "engine.deepspeed_set.zero_optimization.stage=3"])
    assert layers.engine.deepspeed_set == {"zero_optimization.stage": 3}


# ---------------------------------------------------------------- nothing of DeepSpeed's is passed over


def known_to_deepspeed() -> Iterator[str]:
    """The keys of the installed DeepSpeed's own models, read from its source: importing it would take seconds."""
    spec = find_spec("deepspeed")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    runtime = Path(spec.submodule_search_locations[0]) / "runtime"
    models = {
        ("zero/config.py", "DeepSpeedZeroConfig"): "zero_optimization.",
        ("zero/offload_config.py", "DeepSpeedZeroOffloadParamConfig"): "zero_optimization.offload_param.",
        ("zero/offload_config.py", "DeepSpeedZeroOffloadOptimizerConfig"): "zero_optimization.offload_optimizer.",
        ("zero/leaf_module_config.py", "DeepSpeedZeroLeafModuleConfig"): "zero_optimization.leaf_module.",
        ("precision_config.py", "DeepSpeedBF16Config"): "bf16.",
        ("precision_config.py", "DeepSpeedFP16Config"): "fp16.",
    }
    for (file, name), prefix in models.items():
        classes = [node for node in ast.walk(ast.parse((runtime / file).read_text())) if isinstance(node, ast.ClassDef)]
        for statement in next(node for node in classes if node.name == name).body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                alias = re.search(r"alias=['\"](\w+)['\"]", ast.unparse(statement))
                yield prefix + (alias[1] if alias else statement.target.id)
    constants = ast.parse((runtime / "constants.py").read_text())
    top = {
        "DATA_TYPES", "COMMUNICATION_DATA_TYPE", "PRESCALE_GRADIENTS", "GRADIENT_PREDIVIDE_FACTOR", "CHECKPOINT",
        "GRADIENT_ALLREDUCE_OP", "DISABLE_ALLGATHER", "DUMP_STATE", "DISABLE_PYTHON_GC", "VOCABULARY_SIZE",
        "TORCH_AUTOCAST",
        "WALL_CLOCK_BREAKDOWN", "MEMORY_BREAKDOWN", "DATALOADER_DROP_LAST", "USE_DATA_BEFORE_EXPERT_PARALLEL",
        "LOG_LEVEL",
        "SEQ_PARALLEL_COMMUNICATION_DATA_TYPE", "MANAGED_GRADIENT_ACCUMULATION", "BFLOAT16_OLD", "TRAIN_BATCH_SIZE",
        "ZERO_ALLOW_UNTESTED_OPTIMIZER", "ZERO_FORCE_DS_CPU_OPTIMIZER", "STEPS_PER_PRINT", "OPTIMIZER", "SCHEDULER",
    }  # fmt: skip
    for statement in ast.walk(constants):
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            target = statement.targets[0]
            if isinstance(target, ast.Name) and target.id in top:
                yield str(statement.value.value)


def test_each_key_that_deepspeed_knows_is_honoured_owned_by_the_run_or_refused_with_a_reason() -> None:
    honoured = {name for name, _ in _fields(DeepSpeedSettings.model_json_schema())}
    known = set(known_to_deepspeed())
    assert len(known) > 90
    assert known - honoured - NOT_HONOURED.keys() - OWNED_BY_RUN.keys() == set()
    assert not honoured & NOT_HONOURED.keys()


def _fields(schema: dict[str, Any], of: dict[str, Any] | None = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key paths of a JSON schema."""
    of = of or schema
    for name, inner in of.get("properties", {}).items():
        yield f"{prefix}{name}", inner
        for ref in re.findall(r"#/\$defs/(\w+)", json.dumps(inner)):
            yield from _fields(schema, schema["$defs"][ref], f"{prefix}{name}.")
