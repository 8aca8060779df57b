"""From YAML to a checked run: precedence, wrong input told in the user's words, numbers derived once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from umt_ds.config.batching import accumulation_of, plan_run
from umt_ds.config.data import DataConfig
from umt_ds.config.deepspeed_json import load_deepspeed_json
from umt_ds.config.key_paths import flatten
from umt_ds.config.load import CONFIGS, TABLES, load_run, parse_override, run_names
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, as_yaml, config_hash, diff_lines, numbers_of
from umt_ds.errors import EXIT_BAD_CONFIG, ConfigError

ENVIRONMENT = {
    "UMT_DATA": "/data", "UMT_CLIP_B16": "/clip/b16.pt", "UMT_CLIP_L14": "/clip/l14.pt",
    "UMT_SIGLIP2_B16": "/siglip2", "UMT_DINOV2_B14": "/dinov2", "UMT_DINOV3_B16": "/dinov3", "UMT_PE_B16": "/pe",
    "UMT_BERT_BASE": "/bert/base",
    "UMT_BERT_LARGE": "/bert/large", "UMT_STAGE1_B16": "/runs/b16", "UMT_STAGE1_L16": "/runs/l16",
    "UMT_K710_B16": "/runs/k710", "UMT_K710_L16": "/runs/k710", "UMT_WEIGHTS": "/w",
    **{f"UMT_STAGE2_{size}_{data}": "/runs/stage2" for size in ("B16", "L16") for data in ("5M", "17M", "25M")},
    "UMT_K400_B16": "/runs/k400", "UMT_K400_L16": "/runs/k400", "UMT_MIT_B16": "/runs/mit", "UMT_MIT_L16": "/runs/mit",
}  # fmt: skip

# A whole run with nothing to spare: taking any leaf away leaves a required field missing, or a default.
SMALL = {
    "name": "small",
    "task": {"kind": "stage1", "teacher": {"weights": "random"}},
    "data": {"sources": {"a": {"shards": "/shards"}}},
    "batch": {"global": 8, "micro": 4},
    "optim": {"lr": 1e-3, "lr_rule": "absolute"},
    "schedule": {"steps": 10, "warmup_steps": 2},
    "engine": {"deepspeed": "cpu.json"},
}


def write(path: Path, settings: dict[str, Any], **more: Any) -> str:
    """Write a YAML file; its path as a user gives it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**settings, **more}))
    return str(path)


@pytest.fixture
def small(tmp_path: Path) -> str:
    return write(tmp_path / "small.yaml", SMALL)


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


# ---------------------------------------------------------------- precedence


def test_each_layer_lies_over_the_one_before(tmp_path: Path) -> None:
    """default ← first of extends ← second of extends ← the file ← the override: cadence.log, keep, save, seed."""
    write(tmp_path / "first.yaml", SMALL, cadence={"save": 1, "keep": 1, "log": 1}, seed=1)
    write(tmp_path / "second.yaml", {}, cadence={"keep": 2, "log": 2}, seed=2)
    run = write(tmp_path / "run.yaml", {"extends": ["first", "second"]}, cadence={"log": 3}, seed=3)
    config = load_run(run, ["seed=4"])
    assert load_run(write(tmp_path / "plain.yaml", SMALL)).cadence.save == 1000, "the schema's default"
    assert (config.cadence.save, config.cadence.keep, config.cadence.log, config.seed) == (1, 2, 3, 4)


def test_of_two_overrides_of_one_key_the_later_wins(small: str) -> None:
    assert load_run(small, ["seed=1", "seed=2"]).seed == 2


def test_a_base_is_found_beside_the_file_first_and_then_among_the_shipped_ones(tmp_path: Path) -> None:
    write(tmp_path / "base" / "stage1.yaml", SMALL, seed=5)
    assert load_run(write(tmp_path / "mine.yaml", {"extends": ["base/stage1"]})).seed == 5
    other = write(tmp_path / "other" / "mine.yaml", {"extends": ["base/stage1"]}, **SMALL)
    assert load_run(other).optim.min_lr == 1e-5, "from umt_ds/configs/base/stage1.yaml"


def test_a_mapping_merges_and_a_list_replaces(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", SMALL, optim={"lr": 1e-3, "lr_rule": "absolute", "betas": [0.9, 0.95]})
    run = write(tmp_path / "run.yaml", {"extends": ["base"], "optim": {"betas": [0.8, 0.9]}})
    optim = load_run(run).optim
    assert (optim.lr, optim.betas) == (1e-3, (0.8, 0.9))


def test_a_schedule_in_steps_replaces_one_in_epochs_and_the_other_way_round(tmp_path: Path) -> None:
    write(tmp_path / "epochs.yaml", SMALL, schedule={"epochs": 200, "warmup_epochs": 40})
    run = write(tmp_path / "run.yaml", {"extends": ["epochs"]}, schedule={"steps": 10, "warmup_steps": 2})
    steps = load_run(run).schedule
    assert (steps.steps, steps.warmup_steps, steps.epochs, steps.warmup_epochs) == (10, 2, None, None)
    epochs = load_run(run, ["schedule.epochs=3"]).schedule
    assert (epochs.steps, epochs.warmup_steps, epochs.epochs, epochs.warmup_epochs) == (None, None, 3, None)
    with pytest.raises(ConfigError, match="schedule: give epochs"):
        load_run(run, ["schedule.warmup_epochs=1"])
    assert load_run(run, ["schedule=null", "schedule.steps=3"]).schedule.steps == 3


KNN = {"kind": "knn", "shards": "/val"}


def judged_by(run: str, *overrides: str) -> list[str]:
    return sorted(load_run(run, overrides).evaluation)


def test_null_drops_an_inherited_evaluation_or_all_of_them(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", SMALL, evaluation={"val": KNN, "test": KNN})
    assert judged_by(base) == ["test", "val"]
    assert judged_by(base, "evaluation.val=null") == ["test"]
    assert judged_by(base, "evaluation=null") == []
    assert judged_by(base, "evaluation.val=null", "evaluation.val={kind: knn, shards: /other}") == ["test", "val"]
    heir = {"extends": ["base"], "evaluation": {"val": None}}
    assert judged_by(write(tmp_path / "heir.yaml", heir)) == ["test"]
    assert judged_by(write(tmp_path / "alone.yaml", {"extends": ["base"], "evaluation": None})) == []


def test_null_drops_an_inherited_source(tmp_path: Path) -> None:
    sources = {"a": {"shards": "/a"}, "b": {"shards": "/b"}}
    base = write(tmp_path / "base.yaml", SMALL, data={"sources": sources})
    assert list(load_run(base, ["data.sources.a=null"]).data.sources) == ["b"]
    with pytest.raises(ConfigError, match=r"data\.sources"):
        load_run(base, ["data.sources=null"])


def test_what_is_not_there_cannot_be_dropped(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", SMALL, evaluation={"val": KNN})
    said = r"evaluation\.vall: .* no vall \(in override 'evaluation.vall=null'\)"
    with pytest.raises(ConfigError, match=said) as raised:
        load_run(base, ["evaluation.vall=null"])
    assert raised.value.hint == "there is val"


def test_a_table_of_names_is_one_of_those_whose_entries_can_be_dropped() -> None:
    fields = {**RunConfig.model_fields, **{f"data.{name}": one for name, one in DataConfig.model_fields.items()}}
    assert {name for name, one in fields.items() if get_origin(one.annotation) is dict} == set(TABLES)


def test_an_empty_mapping_is_told_what_drops_and_what_changes(small: str) -> None:
    for key, hint in {
        "evaluation": "evaluation=null drops what is inherited",
        "evaluation.val": "evaluation.val=null drops what is inherited",
        "optim": "say what changes: optim.KEY=VALUE",
    }.items():
        with pytest.raises(ConfigError, match="changes nothing") as raised:
            load_run(small, [f"{key}={{}}"])
        assert raised.value.hint == hint


# ---------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1.5E3", 1500.0), ("-2e-1", -0.2), ("1e4", 1e4), ("1.5e-4", 1.5e-4), ("3", 3), ("1e", "1e")],
)
def test_a_number_in_scientific_form_is_a_number(text: str, value: object) -> None:
    parsed = parse_override(f"optim.lr={text}")[1]
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_key_given_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nbatch:\n  micro: 1\n  micro: 2\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml, line 4: `micro: 2`: 'micro' is given twice"):
        load_run(str(path))


@pytest.mark.parametrize("text", ["a: [1", "- a\n- b\n", "just words"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"odd\.yaml"):
        load_run(str(path))


@pytest.mark.parametrize("override", ["batch.micro", "=3", ".micro=3", "batch..micro=3", ""])
def test_an_override_without_key_or_value_is_refused(small: str, override: str) -> None:
    with pytest.raises(ConfigError, match=r"not of the form key\.path=value"):
        load_run(small, [override])


# ---------------------------------------------------------------- what is wrong, and where


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("batch.mcro=3", "batch.micro"),
        ("optimm=3", "optim"),
        ("task.student.presset=tiny", "task.student.preset"),
        ("task.teacher.weigths=random", "task.teacher.weights"),
        ("data.sources.a.shard=/x", "data.sources.a.shards"),
        ("batch.globl=3", "batch.global"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_name(small: str, override: str, near: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_run(small, [override])
    assert f"{override.partition('=')[0]}: unknown key (in override {override!r})" in raised.value.what
    assert f"{near} exists" in str(raised.value.hint)


def test_an_unknown_key_of_a_base_names_the_base_file(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", SMALL, cadense={"log": 3})
    run = write(tmp_path / "run.yaml", {"extends": ["base"], "seed": 1})
    with pytest.raises(ConfigError, match=r"cadense: unknown key \(in .*/base\.yaml, line 4: `cadense:`\)") as raised:
        load_run(run)
    assert "cadence exists" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("batch.micro=abc", "batch.micro"),
        ("batch.micro=0", "batch.micro"),
        ("batch=3", "batch"),
        ("batch.micro.x=3", "batch.micro"),
        ("optim.lr=null", "optim.lr"),
        ("data.augment.flip=perhaps", "data.augment.flip"),
        ("task.kind=stage9", "task.kind"),
        ("name=a b", "name"),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_who_set_it(small: str, override: str, where: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_run(small, [override])
    assert raised.value.what.startswith(f"{where}: ")
    assert f"in override {override!r}" in raised.value.what


def test_a_wrong_value_in_a_file_names_the_file(tmp_path: Path) -> None:
    run = write(tmp_path / "run.yaml", SMALL, seed="many")
    with pytest.raises(ConfigError, match=r"seed: .*'many', in .*/run\.yaml"):
        load_run(run)


@pytest.mark.parametrize("path", ["name", "task.teacher.weights", "data.sources", "batch.global", "optim.lr_rule"])
def test_a_missing_field_is_told_with_the_way_to_give_it(tmp_path: Path, path: str) -> None:
    settings = json.loads(json.dumps(SMALL))
    *parents, leaf = path.split(".")
    section = settings
    for parent in parents:
        section = section[parent]
    del section[leaf]
    with pytest.raises(ConfigError, match=f"{path}: required") as raised:
        load_run(write(tmp_path / "run.yaml", settings))
    assert f"give {path}=" in str(raised.value.hint)


def test_all_mistakes_are_told_at_once(small: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_run(small, ["batch.mcro=3", "optim.lr=fast"])
    assert "batch.mcro" in raised.value.what
    assert "optim.lr" in raised.value.what


@pytest.mark.parametrize("schedule", [{"steps": 3, "epochs": 3}, {"epochs": 3, "warmup_steps": 1}, {}])
def test_a_schedule_in_two_units_or_none_is_refused(tmp_path: Path, schedule: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"schedule: give epochs and warmup_epochs, or steps"):
        load_run(write(tmp_path / "run.yaml", {**SMALL, "schedule": schedule}))


def test_an_unknown_run_is_told_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="no run is called 'stage1/b16_k71'") as raised:
        load_run("stage1/b16_k71")
    assert "did you mean stage1/b16_k710?" in str(raised.value.hint)


def test_an_unknown_base_names_the_file_that_extends_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'base/stage_1'.*run\.yaml") as raised:
        load_run(write(tmp_path / "run.yaml", {"extends": ["base/stage_1"]}))
    assert "did you mean base/stage1?" in str(raised.value.hint)


@pytest.mark.parametrize("extends", ["base/stage1", 3, {"a": 1}, [3]])
def test_extends_must_be_a_list_of_names(tmp_path: Path, extends: object) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml.*extends.*list of names"):
        load_run(write(tmp_path / "run.yaml", {"extends": extends}))


@pytest.mark.parametrize(("a", "b"), [("x/a", "x/b"), ("x/a", "y/b")])
def test_extends_in_a_circle_is_refused_with_the_circle(tmp_path: Path, a: str, b: str) -> None:
    write(tmp_path / f"{a}.yaml", {"extends": [f"../{b}"]})
    write(tmp_path / f"{b}.yaml", {"extends": [f"../{a}"]})
    with pytest.raises(ConfigError, match=r"circle: .*a\.yaml → .*b\.yaml → .*a\.yaml"):
        load_run(str(tmp_path / f"{a}.yaml"))


def test_two_bases_may_share_a_base(tmp_path: Path) -> None:
    write(tmp_path / "root.yaml", SMALL)
    write(tmp_path / "left.yaml", {"extends": ["root"], "seed": 1})
    write(tmp_path / "right.yaml", {"extends": ["root"], "seed": 2})
    assert load_run(write(tmp_path / "run.yaml", {"extends": ["left", "right"]})).seed == 2


def test_a_bad_configuration_is_exit_code_two() -> None:
    assert ConfigError("x").exit_code == EXIT_BAD_CONFIG == 2


# ---------------------------------------------------------------- environment


def test_an_environment_variable_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDS_AT", "/big disk")
    run = write(tmp_path / "run.yaml", {**SMALL, "data": {"sources": {"a": {"shards": "${env:SHARDS_AT}/k710"}}}})
    assert load_run(run).data.sources["a"].shards == "/big disk/k710"


def test_an_unset_variable_is_told_with_key_file_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARDS_AT", raising=False)
    run = write(tmp_path / "run.yaml", {**SMALL, "data": {"sources": {"a": {"shards": "${env:SHARDS_AT}"}}}})
    with pytest.raises(ConfigError, match=r"data\.sources\.a\.shards: .* SHARDS_AT is not set .*/run\.yaml"):
        load_run(run)
    assert load_run(run, ["data.sources.a.shards=/x"]).data.sources["a"].shards == "/x", "overridden: not needed"


# ---------------------------------------------------------------- batch arithmetic


def test_accumulation_fills_the_global_batch() -> None:
    assert accumulation_of(2048, 64, 32) == 1
    assert accumulation_of(2048, 64, 8) == 4


def test_an_impossible_batch_is_told_with_the_nearest_ones() -> None:
    with pytest.raises(ConfigError, match=r"batch\.global=2048 is not a multiple of .* 60 × 8 = 480") as raised:
        accumulation_of(2048, 60, 8)
    assert raised.value.hint == "nearest batch.global: 1920 or 2400, or batch.micro=32"


def test_a_batch_smaller_than_one_micro_step_has_one_neighbour() -> None:
    with pytest.raises(ConfigError) as raised:
        accumulation_of(4, 8, 1)
    assert raised.value.hint == "nearest batch.global: 8, or batch.micro=4"


@given(draws=st.integers(1, 500), micro=st.integers(1, 20), world=st.integers(1, 12))
def test_whatever_is_advised_can_be_run(draws: int, micro: int, world: int) -> None:
    try:
        assert accumulation_of(draws, micro, world) * micro * world == draws
    except ConfigError as error:
        advice, _, smaller_micro = str(error.hint).partition(", or batch.micro=")
        near = [int(n) for n in re.findall(r"\d+", advice)]
        assert all(abs(n - draws) < micro * world and accumulation_of(n, micro, world) >= 1 for n in near)
        if smaller_micro:
            assert accumulation_of(draws, int(smaller_micro), world) >= 1


def test_an_epoch_without_a_step_is_refused(tmp_path: Path) -> None:
    run = write(tmp_path / "run.yaml", {**SMALL, "schedule": {"epochs": 3}})
    with pytest.raises(ConfigError, match=r"batch\.global=8 is larger than the data \(7 samples\)"):
        plan_run(load_run(run), world=2, num_samples=7)
    assert plan_run(load_run(run), world=2, num_samples=17).total_steps == 6, "17 samples: two whole steps an epoch"


def test_a_warm_up_as_long_as_the_run_is_refused(small: str) -> None:
    with pytest.raises(ConfigError, match=r"warm-up \(10 steps\) is not shorter than the run \(10 steps\)"):
        plan_run(load_run(small, ["schedule.warmup_steps=10"]), world=1, num_samples=100)


# ---------------------------------------------------------------- what is shipped


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize("name", run_names())
def test_every_shipped_run_loads_and_names_files_that_exist(name: str) -> None:
    config = load_run(name)
    load_deepspeed_json(config.engine)
    plan_run(config, world=config.batch.global_ // config.batch.micro, num_samples=1_000_000)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_begins_with_how_to_run_it_and_where_its_numbers_are_from(path: Path) -> None:
    lines = path.read_text().splitlines()
    header = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    name = path.relative_to(CONFIGS).with_suffix("").as_posix()
    assert re.search(r"Source: \S", header)
    if not name.startswith("base/"):
        assert re.search(rf"^# Run: .*(umt(_ds)? train|umt-launch|umt eval) {name}\b", header, re.MULTILINE)
        assert re.search(r"^# Source: \S", header, re.MULTILINE)


@pytest.mark.usefixtures("_environment")
def test_the_b16_recipe_is_the_published_one() -> None:
    """METHOD.md, "Optimisation: stage 1"; UMT tables 19 and 20."""
    config = load_run("stage1/b16_k710")
    published = {
        "task.mask.kind": "semantic", "task.mask.ratio": 0.8, "task.teacher.layers": 6, "task.teacher.interval": 1.0,
        "task.teacher.preset": "clip_b16", "task.teacher.pixels": "imagenet", "task.student.preset": "vit_b16",
        "task.student.frames": 8, "task.student.drop_path": 0.1, "task.loss": "l2", "batch.global": 2048,
        "optim.lr": 1.5e-4, "optim.lr_rule": "per_256", "optim.min_lr": 1e-5, "optim.betas": [0.9, 0.95],
        "optim.eps": 1e-8, "optim.weight_decay": 0.05, "optim.clip_grad": None,
        "schedule.epochs": 200, "schedule.warmup_epochs": 40, "data.num_sample": 1, "data.augment.flip": True,
        "data.sources.k710.frames.policy": "sparse", "schedule.curve": "cosine_offset", "data.augment.antialias": True,
    }  # fmt: skip
    leaves = flatten(as_tree(config))
    assert {key: leaves[key] for key in published} == published


# ---------------------------------------------------------------- numbers and running


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize(
    "override",
    [
        "seed=1", "task.mask.ratio=0.9", "task.student.preset=tiny", "task.teacher.layers=5", "batch.global=1024",
        "optim.lr=1e-3", "optim.clip_grad=1.0", "schedule.epochs=100", "data.num_sample=2", "data.window=8",
        "data.sources.k710.weight=2.0", "data.sources.k710.frames.policy=dense", "data.augment.flip=false",
        "data.skip_draws=[[8,16]]", "data.sources.more={shards: /x}",
    ],
)  # fmt: skip
def test_a_change_of_the_experiment_changes_the_hash_of_numbers(override: str) -> None:
    assert _hash("stage1/b16_k710") != _hash("stage1/b16_k710", override)


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize(
    "override",
    [
        "name=other", "run_dir=/x", "batch.micro=32", "data.workers=3", "data.max_bad_rate=0.5",
        "data.sources.k710.shards=/elsewhere", "task.teacher.weights=/elsewhere.pt", "task.student.checkpoint_blocks=4",
        "engine.deepspeed=zero3_bf16.json", "cadence.save=7", "cadence.keep=1", "stop_at=9", "init.weights=/x",
        "report.tensorboard=false", "data.cache.max_gb=5", "data.cache.folder=/x",
        "data.sources.k710.shards=s3://bucket/k710",
    ],
)  # fmt: skip
def test_a_change_of_running_it_does_not(override: str) -> None:
    assert _hash("stage1/b16_k710") == _hash("stage1/b16_k710", override)


@pytest.mark.parametrize("name", ["k710", "k710-v1.5", "shards", "a.workers"])
def test_what_affects_results_does_not_depend_on_the_name_of_a_source(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(f'extends: [demo/teacher]\ndata: {{sources: {{"{name}": {{shards: /a}}}}}}\n')
    of_source = {key for key in numbers_of(load_run(str(run))) if key.startswith(f"data.sources.{name}.")}
    keys = {"media", "caption", "samples", "repeat", "weight", "frames.policy", "frames.stride"}
    assert of_source == {f"data.sources.{name}.{key}" for key in keys}


def _hash(name: str, *overrides: str) -> str:
    return config_hash(numbers_of(load_run(name, overrides)))


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert config_hash({"a": 1, "b": 2.5}) == config_hash({"b": 2.5, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_the_resolved_configuration_is_a_run_file_that_means_the_same(small: str, tmp_path: Path) -> None:
    config = load_run(small, ["optim.lr=1e-4", "engine.deepspeed_set={zero_optimization.stage: 2}"])
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(as_tree(config)))
    assert load_run(str(path)) == config


def test_a_difference_names_each_leaf_that_changed_and_no_other(small: str) -> None:
    left, right = as_tree(load_run(small)), as_tree(load_run(small, ["batch.micro=2", "stop_at=3"]))
    assert diff_lines(left, right) == ["batch.micro: 4 → 2", "stop_at: None → 3"]
    assert diff_lines({"a": {"b": 1}}, {"a": {"c": 1}}) == ["a.b: 1 → –", "a.c: – → 1"]


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize(
    ("name", "different"),
    [
        ("b16", {"task.embed_width": 512, "task.text.preset": "bert_base", "task.text.fusion_layers": 3,
                 "task.student.preset": "vit_b16", "task.student.drop_path": 0.1, "task.teacher.preset": "clip_b16"}),
        ("l16", {"task.embed_width": 768, "task.text.preset": "bert_large", "task.text.fusion_layers": 5,
                 "task.student.preset": "vit_l16", "task.student.drop_path": 0.2, "task.teacher.preset": "clip_l14"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("corpus", ["5m", "17m", "25m"])
def test_the_recipes_of_stage_2_are_the_published_ones(name: str, corpus: str, different: dict[str, object]) -> None:
    """UMT table 21; METHOD.md, "Optimisation: stage 2", "Stage 2: model"."""
    config = load_run(f"stage2/{name}_{corpus}")
    published = {
        **different, "task.student.frames": 4, "task.mask.image.ratio": 0.5, "task.mask.video.ratio": 0.8,
        "task.mask.image.kind": "semantic", "task.mask.video.kind": "semantic", "task.mlm.ratio": 0.5,
        "task.text.max_tokens": 32, "task.text.dropout": 0.1, "task.teacher.layers": 6,
        "task.teacher.pixels": "imagenet",
        "task.loss_weights.vtc": 1.0, "task.loss_weights.vtm": 1.0, "task.loss_weights.mlm": 1.0,
        "task.loss_weights.uta": 1.0, "task.vtc.temperature": 0.07, "task.vtc.bounds": [0.001, 0.5],
        "task.vtm.negatives": "local", "task.vtm.hard": True, "task.mlm.mean": "local",
        "task.vtc.positives": "sample", "data.augment.antialias": False, "schedule.curve": "cosine_floor",
        "batch.global": 4096, "batch.micro": 128, "batch.media": "alternate",
        "optim.lr": 1e-4, "optim.lr_rule": "absolute", "optim.min_lr": 1e-6, "optim.betas": [0.9, 0.999],
        "optim.weight_decay": 0.02, "optim.clip_grad": None, "schedule.epochs": 10, "schedule.warmup_epochs": 1,
        "data.augment.crop": "random_resized", "data.augment.scale": [0.5, 1.0], "data.augment.flip": True, "seed": 42,
    }  # fmt: skip
    leaves = flatten(as_tree(config))
    assert {key: leaves[key] for key in published} == published
    videos = {source for source, settings in config.data.sources.items() if settings.media == "video"}
    images = set(config.data.sources) - videos
    assert videos == ({"webvid10m"} if corpus == "25m" else {"webvid2m"})
    assert images == ({"cc3m"} if corpus == "5m" else {"cc3m", "coco", "vg", "sbu", "cc12m"})
    assert all(config.data.sources[source].frames.policy == "intervals" for source in videos)


@pytest.mark.usefixtures("_environment")
def test_accumulation_that_would_shrink_the_contrast_is_refused_and_can_be_done_rightly() -> None:
    with pytest.raises(ConfigError, match=r"from 4096 videos to 512") as refused:
        plan_run(load_run("stage2/b16_5m"), world=4, num_samples=1_000_000)
    assert "batch.split_contrastive=true" in str(refused.value)
    split = plan_run(load_run("stage2/b16_5m", ["batch.split_contrastive=true"]), world=4, num_samples=1_000_000)
    assert (split.micro, split.chunk, split.pieces, split.accumulation) == (1024, 128, 8, 1)
    alone = ["task.loss_weights.vtc=0", "task.loss_weights.vtm=0"]
    assert plan_run(load_run("stage2/b16_5m", alone), world=4, num_samples=1_000_000).accumulation == 8
