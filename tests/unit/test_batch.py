"""What travels moves whole: no field of any type can be forgotten on the way, whatever fields are added later."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor

from umt_ds.batch import Answers, Batch, Movable, Rowwise, Targets, Tokens
from umt_ds.data.collate import SampleMeta, collate
from umt_ds.data.evaluation import EvalBatch
from umt_ds.data.on_device import EncodedFrames
from umt_ds.data.worker import MediaRows, WorkerBatch
from umt_ds.losses.masked_lm import MaskedTokens
from umt_ds.search.sources import Made

ROWS = 4
TRAVELLERS = (Tokens, Answers, Targets, Batch, EncodedFrames, MediaRows, WorkerBatch, MaskedTokens, EvalBatch, Made)


def filled(kind: Any, name: str = "", *, depth: int = 0) -> Any:
    """A value of a type in which nothing is left out: what is optional is there, texts by row are there for each."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return name
    if kind is Tensor:
        return torch.arange(ROWS * 2).reshape(ROWS, 2) + sum(name.encode())
    if origin in (Union, types.UnionType):
        return filled(arguments[0], name, depth=depth)
    if origin is Literal:
        return arguments[-1]
    if origin is Sequence or arguments[1:] == (...,):
        return tuple(filled(arguments[0], f"{name}{i}", depth=depth) for i in range(ROWS))
    if origin is tuple:
        return tuple(filled(argument, name, depth=depth) for argument in arguments)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        # a batch may hold a batch, which then holds none
        inside = {f.name: hints[f.name] for f in fields(kind) if not (depth > 1 and f.name == "packed_with")}
        return kind(**{key: filled(hint, key, depth=depth + 1) for key, hint in inside.items()})
    return {int: 7, str: name, float: 0.5, bool: True}[kind]


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Everything in a value by the place where it is."""
    if isinstance(value, tuple):
        return {k: leaf for i, item in enumerate(value) for k, leaf in leaves(item, f"{path}[{i}]").items()}
    if is_dataclass(value):
        return {
            k: leaf for f in fields(value) for k, leaf in leaves(getattr(value, f.name), f"{path}.{f.name}").items()
        }
    return {path: value}


def test_every_type_that_moves_is_tried_here() -> None:
    kinds = {*Movable.__subclasses__(), *Rowwise.__subclasses__()} - {Rowwise}
    assert {kind for kind in kinds if kind.__module__.startswith("umt_ds.")} == set(TRAVELLERS)


@pytest.mark.parametrize("kind", TRAVELLERS)
def test_each_tensor_moves_and_all_else_stays(kind: type[Movable]) -> None:
    one = filled(kind)
    before, after = leaves(one), leaves(one.moved(lambda tensor: tensor + 1000))
    assert list(before) == list(after)
    assert any(isinstance(leaf, Tensor) for leaf in before.values())
    for place, leaf in before.items():
        same = torch.equal(after[place], leaf + 1000) if isinstance(leaf, Tensor) else after[place] is leaf
        assert same, place


@pytest.mark.parametrize("kind", TRAVELLERS)
def test_each_tensor_is_pinned_and_sent(kind: type[Movable], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1)
    pinned = leaves(filled(kind).pin_memory())
    sent = leaves(filled(kind).to(torch.device("meta")))
    for place, leaf in leaves(filled(kind)).items():
        if isinstance(leaf, Tensor):
            assert torch.equal(pinned[place], leaf + 1), place
            assert sent[place].device.type == "meta", place


def test_tensors_move_in_whatever_holds_them() -> None:
    class Named(NamedTuple):
        one: Tensor
        two: str

    @dataclass(frozen=True)
    class Holder(Movable):
        inside: dict[str, list[Tensor]]
        named: Named
        word: tuple[str, ...]

    one = Holder({"a": [torch.ones(1)]}, Named(torch.ones(1), "two"), ("w",))
    moved = one.moved(lambda tensor: tensor + 1)
    assert [moved.inside["a"][0].item(), moved.named.one.item(), moved.named.two] == [2, 2, "two"]
    assert moved.word is one.word


@pytest.mark.parametrize("kind", Rowwise.__subclasses__())
def test_what_goes_by_rows_is_cut_and_repeated_whole(kind: type[Rowwise]) -> None:
    cut, repeated = leaves(filled(kind).rows(1, 3)), leaves(filled(kind).repeated(2))
    for place, leaf in leaves(filled(kind)).items():
        assert torch.equal(cut[place], leaf[[1, 2]]), place
        assert torch.equal(repeated[place], leaf[[0, 0, 1, 1, 2, 2, 3, 3]]), place


def test_rows_of_a_batch_are_rows_of_all_it_holds() -> None:
    whole = replace(filled(Batch), packed_with=None)
    some, all_of_it = leaves(whole.rows(1, 3)), leaves(whole)
    for place, leaf in all_of_it.items():
        if isinstance(leaf, Tensor):
            assert torch.equal(some[place], leaf[1:3]), place
    assert whole.rows(1, 3).keys == whole.keys[1:3]
    for field in fields(Batch):  # texts of rows are of these rows, what counts all rows stays behind
        value = getattr(whole.rows(1, 3), field.name)
        assert not isinstance(value, tuple) or len(value) == 2, field.name
        assert not isinstance(value, int) or value == 0, field.name


def test_captions_of_a_draw_stand_beside_each_of_its_views_also_for_clip() -> None:
    def tokenize(captions: list[str]) -> Tokens:
        return filled(Tokens).moved(lambda tensor: tensor[: len(captions)])

    tokenize.clean = str.strip  # type: ignore[attr-defined]
    shown = [SampleMeta(draw, "source", f"k{draw}", 0, is_substitute=False, caption="said") for draw in range(3)]
    text = collate(shown, torch.zeros(3, 2, 1, 4, 4, 3), media="video", step_start=0, tokenize=tokenize).text  # type: ignore[arg-type]
    assert text is not None
    for place, leaf in leaves(filled(Tokens)).items():
        assert torch.equal(leaves(text)[place], leaf[[0, 0, 1, 1, 2, 2]]), place


def test_targets_of_a_draw_stand_beside_each_of_its_views() -> None:
    shown = [SampleMeta(draw, "source", f"k{draw}", 0, is_substitute=False, label=7 - draw) for draw in range(2)]
    batch = collate(shown, torch.zeros(2, 2, 1, 4, 4, 3), media="video", step_start=0, tokenize=None)
    assert batch.targets.labels is not None
    assert batch.targets.labels.tolist() == [7, 7, 6, 6]
