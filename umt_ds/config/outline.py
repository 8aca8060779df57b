"""What a schema says about a key path: which kinds of value may stand there, in types and in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from umt_ds.config.section import Running

Kinds = tuple[Any, ...]  # alternatives: models, str, int, …, Literal[…], tuple[…], dict[…], NoneType
KeyPart = str | int  # a key, or a place in a list


def kinds_at(root: type[BaseModel], path: Sequence[KeyPart], tree: Any) -> Kinds:
    """What may stand at `path`; nothing where the schema has no such key. `tree`, what a user wrote, says which task
    it is: keys of the others are not among them."""
    here: Kinds = (root,)
    for part in path:
        here = tuple(kind for outer in _of_task(here, tree) for kind in _inside(outer, part))
        tree = tree.get(part) if isinstance(tree, dict) else None
    return _of_task(here, tree)


def keys_at(root: type[BaseModel], path: Sequence[KeyPart], tree: Any) -> list[str]:
    """The keys that the schema knows in the section at `path`."""
    models = [kind for kind in kinds_at(root, path, tree) if _is_model(kind)]
    return sorted({key for model in models for key in _fields(model)})


def all_keys(root: type[BaseModel], tree: Any, under: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key below `under`; of a mapping whose names are free, the names that `tree` has."""
    inner = tree
    for part in under:
        inner = inner.get(part) if isinstance(inner, dict) else None
    for kind in kinds_at(root, under, tree):
        free = inner if _is_mapping(kind) and isinstance(inner, dict) else {}
        for name in _fields(kind) if _is_model(kind) else free:
            yield (*under, name)
            yield from all_keys(root, tree, (*under, name))


def experiment_in(section: Any, tree: Any) -> Any:
    """The part of `tree`, a dump of `section` with keys as users write them, without what is RUNNING (`section.py`)."""
    if isinstance(section, BaseModel):
        values = vars(section)  # not by attributes: to dump a setting is not to use it, and a test notes what is used
        return {
            key: experiment_in(values[name], tree[key])
            for name, field in type(section).model_fields.items()
            if not any(isinstance(note, Running) for note in field.metadata)
            for key in [field.alias or name]
        }
    if isinstance(section, dict):
        return {key: experiment_in(inner, tree[key]) for key, inner in section.items()}
    return tree


def in_words(kinds: Kinds) -> str:
    """`a path or \\`random\\``: what to give."""
    kinds = tuple(sorted(kinds, key=_how_special))
    words = list(dict.fromkeys(word for kind in kinds for word in _words(kind)))
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _how_special(kind: Any) -> int:
    """Named choices come after what may be anything, and null last."""
    return 2 if kind is NoneType else 1 if get_origin(kind) is Literal else 0


def _words(kind: Any) -> list[str]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return [f"`{str(choice).lower() if isinstance(choice, bool) else choice}`" for choice in arguments]
    if origin is tuple and arguments[-1] is not Ellipsis:
        return [f"a list of {len(arguments)}"]
    if origin is tuple:
        return ["a list"]
    if _is_mapping(kind) or _is_model(kind):
        return ["a section"]
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return [plain.get(kind, "null")]


def _of_task(kinds: Kinds, tree: Any) -> Kinds:
    """Of models that tell themselves apart by `kind`, the one that was chosen (all, where none was)."""
    chosen = tree.get("kind") if isinstance(tree, dict) else None
    fitting = tuple(kind for kind in kinds if not _is_model(kind) or chosen in _choices(kind))
    return fitting if any(_is_model(kind) and _choices(kind) for kind in fitting) else kinds


def _choices(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field is not None and field.is_required() else ()


def _inside(outer: Any, part: KeyPart) -> Kinds:
    if _is_model(outer):
        return opened(_fields(outer).get(str(part), ())) if isinstance(part, str) else ()
    arguments = get_args(outer)
    if _is_mapping(outer):
        return opened(arguments[1])
    if get_origin(outer) is tuple and isinstance(part, int):
        return opened(arguments[0 if arguments[-1] is Ellipsis else min(part, len(arguments) - 1)])
    return ()


def opened(annotation: Any) -> Kinds:
    """An annotation as its alternatives: unions opened, what is only about validation left out."""
    if annotation == ():
        return ()
    if get_origin(annotation) is Annotated:
        return opened(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(kind for argument in get_args(annotation) for kind in opened(argument))
    return (annotation,)


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """Annotations by key, as users write the keys."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) is dict
