"""Every setting of the schema is strict about its type, bounded if it is a number, and named by its key if wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt

from umt_ds.config import deepspeed_keys
from umt_ds.config.check import check
from umt_ds.config.key_paths import flatten
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.config.section import Section
from umt_ds.config.show import as_tree
from umt_ds.errors import ConfigError

RUNS = {name: as_tree(load_run(name)) for name in ("demo/stage1", "demo/stage2", "demo/teacher")}
# Where nothing is said by default, or where the value may be of several types: what each is tried with.
SAID = {
    "demo/stage1": {
        "stop_at": 3, "optim.clip_grad": 1.0, "init.weights": "/x", "init.resume_from": "/x", "report.wandb": "x",
        "data.cache.folder": "/x", "data.sources.demo.weight": 1.0, "task.teacher.image_size": 64,
        "data.cache.max_gb": 1.0, "evaluation.knn.voters": "/x",
    },
    "demo/stage2": {"evaluation.retrieval.limit": 5, "evaluation.retrieval.antialias": True}, "demo/teacher": {},
}  # fmt: skip
FREE = "engine.deepspeed_set"


def leaves_of(name: str) -> dict[str, Any]:
    """Every key path with a value, its list's items among them as `key[0]`."""
    found = {**flatten(RUNS[name]), **SAID[name]}
    for key, value in list(found.items()):
        if isinstance(value, list):
            found.update({f"{key}[{place}]": item for place, item in enumerate(value)})
    return {key: value for key, value in found.items() if value is not None and not isinstance(value, (list, dict))}


def with_value(name: str, key: str, value: Any) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(json.dumps(RUNS[name]))
    path, _, place = key.removesuffix("]").partition("[")
    *parents, leaf = path.split(".")
    section = tree
    for parent in parents:
        section = section[parent]
    if place:
        section[leaf][int(place)] = value
    else:
        section[leaf] = value
    return tree


WRONG: dict[type, list[Any]] = {
    bool: [0, 1, "true", "on", "", None, [], {}],
    int: [True, "08", "3", 1.5, -1, 10**30, 10**400, float("nan"), float("inf"), None, [3], {}],
    float: [True, "1.5", "1", float("nan"), float("inf"), -float("inf"), -1.0, 1e300, 10**400, None, [1.5], {}],
    str: ["", " ", "a\nb", "a\0b", "\x1b[2J", 5, 1.5, True, None, {}],
}
MAY_BE_NULL = (
    *("run_dir", "task.text.vocabulary", "schedule.", "evaluation.knn.limit"),
    *(key for said in SAID.values() for key in said),
)
MAY_BE_A_LIST = ("shards",)


ONCE = {key: name for name in RUNS for key in leaves_of(name)}


@pytest.mark.parametrize(("key", "name"), ONCE.items())
def test_every_setting_refuses_values_of_other_types_and_out_of_bounds_by_its_key(key: str, name: str) -> None:
    kind = type(leaves_of(name)[key])
    check(with_value(name, key, leaves_of(name)[key]), {})
    for value in WRONG[kind]:
        if value is None and key.startswith(MAY_BE_NULL):
            continue
        with pytest.raises(ConfigError) as raised:
            check(with_value(name, key, value), {})
        section = key.rpartition(".")[0] or key
        assert raised.value.what.startswith((f"{key}: ", f"{section}: ")), (value, raised.value.what)
        assert not any(
            word in raised.value.what for word in ("[key]", "lax-or-strict", "function-", "literal[", "tuple[")
        )


def numbers_in(tree: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number of a JSON schema, as pydantic makes it of the models: an oracle that the models do not know."""
    if isinstance(tree, dict):
        if tree.get("type") in ("integer", "number"):
            yield path, tree
        for name, inner in tree.items():
            yield from numbers_in(inner, f"{path}/{name}")
    elif isinstance(tree, list):
        for inner in tree:
            yield from numbers_in(inner, path)


NUMBERS = [(path, found) for path, found in numbers_in(RunConfig.model_json_schema()) if "deepspeed_set" not in path]


@pytest.mark.parametrize(("path", "number"), NUMBERS, ids=[path for path, _ in NUMBERS])
def test_every_number_has_a_smallest_and_a_largest_value(path: str, number: dict[str, Any]) -> None:
    assert {"minimum", "exclusiveMinimum"} & number.keys(), path
    assert {"maximum", "exclusiveMaximum"} & number.keys(), path


def sections_of(base: type[Section]) -> list[type[Section]]:
    return [found for section in base.__subclasses__() for found in (section, *sections_of(section))]


SECTIONS = sections_of(Section)
assert {RunConfig, deepspeed_keys.Bf16Section} <= set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_no_number_has_two_bounds_of_one_sense_of_which_pydantic_would_forget_the_first(section: type[Any]) -> None:
    for name, field in section.model_fields.items():
        senses = [type(bound) for bound in field.metadata if isinstance(bound, (Gt, Ge, Lt, Le))]
        assert len(set(senses)) == len(senses), (name, field.metadata)


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("demo/stage1", "data.workers=1001", "at most 1000"),
        ("demo/stage1", "cadence.watchdog=1.1e7", "at most 10000000"),
        ("demo/stage1", "optim.eps=0", "at least 1e-30"),
        ("demo/stage2", "task.text.max_tokens=1", "greater than 1"),
        ("demo/stage2", "task.text.sizes.layers=1", "greater than 1"),
        ("demo/teacher", "task.text.context_length=1", "greater than 1"),
    ],
)
def test_a_bound_that_is_narrower_than_its_kind_s_holds(name: str, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"{override.partition('=')[0]}: must be {said}"):
        load_run(name, [override])


def test_the_largest_seed_is_one_that_torch_takes() -> None:
    import torch

    largest = load_run("demo/stage1", ["seed=9223372036854775807"]).seed
    torch.Generator().manual_seed(largest)
    with pytest.raises(ConfigError, match=r"seed: must be at most 9223372036854775807 \(got 9223372036854775808"):
        load_run("demo/stage1", ["seed=9223372036854775808"])


@pytest.mark.parametrize(
    ("override", "value"),
    [("schedule.steps=1e2", 100), ("schedule.steps=100.0", 100), ("optim.lr=1", 1.0), ("seed=0100", 100)],
)
def test_a_whole_number_may_be_written_in_any_decimal_way(override: str, value: object) -> None:
    assert flatten(as_tree(load_run("demo/stage1", [override])))[override.partition("=")[0]] == value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.vtc.bounds=[0.5, 0.001]", "bounds begins at 0.5 and ends at 0.001"),
        ("data.augment.scale=[1.0, 0.5] data.augment.crop=random_resized", "scale begins at 1.0"),
        ("data.skip_draws=[[8, 4]]", "skip_draws begins at 8"),
        ("optim.betas=[0.9, 1.0]", r"optim\.betas\[1\]: must be less than 1 \(got 1"),
        ("optim.betas=[0.9]", r"optim\.betas: give a list of 2"),
        ("optim.betas=0.9", r"optim\.betas: give a list of 2"),
    ],
)
def test_a_pair_is_in_order_and_within_its_bounds(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_run("demo/stage2", re.split(" (?=data)", override))
