"""What is wrong with settings, in the user's keys: pydantic's errors told with who set what, and the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from umt_ds.config.outline import KeyPart, all_keys, in_words, keys_at, kinds_at
from umt_ds.config.yaml_text import Marks, quoted, scalar
from umt_ds.errors import ConfigError, printable


@dataclass(frozen=True)
class Origin:
    """Who set a key. where: the file with line and its text, or the override; text: the value as it was written."""

    where: str
    text: str | None = None


Origins = dict[str, Origin]  # by key path, the latest last; "" is who set all that is not named
_MOST_SAID = 80  # characters of a value
_MOST_LINES = 10
_MOST_LOOKED_AT = 200


def origins_in(path: Path, text: str, marks: Marks) -> Origins:
    """Who set each key of a file that holds `text`: the file, with line and the line's text."""
    lines = text.splitlines()
    said = {
        key: Origin(f"{path}, line {mark.line}: `{quoted(lines[mark.line - 1])}`", mark.text)
        for key, mark in marks.items()
    }
    return {"": Origin(str(path)), **said}


def key_text(path: Sequence[KeyPart]) -> str:
    """`data.skip_draws[0][1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def is_at_or_inside(path: str, section: str) -> bool:
    """Whether the key `path` is `section` or in it."""
    return path == section or path.startswith((f"{section}.", f"{section}["))


def setter_of(path: str, origins: Origins) -> Origin:
    """Who set `path`, or else the nearest parent of it that somebody set."""
    while path and path not in origins:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return origins.get(path, Origin("the schema"))


def latest_in(path: str, origins: Origins) -> Origin:
    """The latest to set something in the section `path`, or else who set it."""
    inside = [key for key in origins if key and is_at_or_inside(key, path)]
    return origins[inside[-1]] if inside else setter_of(path, origins)


def explain(error: ValidationError, tree: Any, origins: Origins, root: type[BaseModel], *, more: str) -> ConfigError:
    """One error for all that is wrong with `tree`, each with key path, who set it and what may stand there."""
    found = [_Problem.of(item, tree, root) for item in error.errors()[:_MOST_LOOKED_AT]]
    # what is wrong inside a list says more than that the list is no text either
    deepest = [one for one in found if not (one.is_about_type and any(_is_inside(o.path, one.path) for o in found))]
    lines, hints = [], []
    paths = list(dict.fromkeys(one.path for one in deepest))
    for path in paths[:_MOST_LINES]:
        together = [one for one in deepest if one.path == path]
        # of a union's members, the one that found more than another type says what is wrong
        problem = next((one for one in together if not one.is_about_type), together[0])
        lines.append(_line(problem, tree, origins, root))
        hints += _hints(problem, tree, root)
    lines += [f"and so on: {error.error_count()} in all"] if len(paths) > _MOST_LINES else []
    return ConfigError(printable("; ".join(lines)), hint=printable("; ".join(dict.fromkeys([*hints, more]))))


@dataclass(frozen=True)
class _Problem:
    """One of pydantic's errors, at the key that a user would write."""

    kind: str  # pydantic's word for it
    path: tuple[KeyPart, ...]
    message: str
    value: Any

    @classmethod
    def of(cls, item: ErrorDetails, tree: Any, root: type[BaseModel]) -> _Problem:
        """pydantic's path names members of unions and validators too, which nobody writes, and blames a section for
        its `kind`."""
        path: list[KeyPart] = []
        for index, part in enumerate(item["loc"]):
            is_unknown_key = item["type"] == "extra_forbidden" and index == len(item["loc"]) - 1
            if is_unknown_key or kinds_at(root, [*path, part], tree):
                path.append(part)
        value = item["input"]
        if item["type"].startswith("union_tag"):
            path.append("kind")
            value = value.get("kind") if isinstance(value, dict) else value
        return cls(item["type"], tuple(path), _in_plain_words(item["msg"]), value)

    @property
    def is_about_type(self) -> bool:
        return self.kind.endswith(("_type", "_parsing")) or self.kind in _ABOUT_TYPE

    @property
    def is_missing(self) -> bool:
        return self.kind in ("missing", "union_tag_not_found") and isinstance(self.path[-1], str)


def _in_plain_words(message: str) -> str:
    message = re.sub(r"\b0\.0{6}\d+|\b\d{22,}(\.0)?\b", lambda number: f"{float(number[0]):g}", message)
    message = message.removeprefix("Value error, ").replace("Input should", "must").replace(" should ", " must ")
    return message.replace("less than or equal to", "at most").replace("greater than or equal to", "at least")


_ABOUT_TYPE = ("literal_error", "empty", "missing", "too_long", "union_tag_invalid")


def _is_inside(path: tuple[KeyPart, ...], section: tuple[KeyPart, ...]) -> bool:
    return len(path) > len(section) and path[: len(section)] == section


def _line(problem: _Problem, tree: Any, origins: Origins, root: type[BaseModel]) -> str:
    key = key_text(problem.path) or "run"
    if problem.kind == "extra_forbidden":
        return f"{key}: unknown key (in {setter_of(key, origins).where})"
    is_section = isinstance(problem.value, dict)  # at odds with itself: the last to set something in it is told
    where = (latest_in if is_section else setter_of)(key_text(problem.path), origins).where
    got = "" if is_section else f"got {_short(problem.value)}, "
    if problem.is_missing:
        return f"{key}: required, but not given"
    if problem.is_about_type:
        path = problem.path[:-1] if problem.kind == "missing" else problem.path
        return f"{key_text(path) or 'run'}: give {in_words(kinds_at(root, path, tree))} ({got}in {where})"
    return f"{key}: {problem.message} ({got}in {where})"


def _short(value: Any) -> str:
    """The value as one would write it, cut to a line's length."""
    if value == "":
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)
    return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID]}…"


def _hints(problem: _Problem, tree: Any, root: type[BaseModel]) -> list[str]:
    if problem.kind == "extra_forbidden" and kinds_at(root, key_text(problem.path).split("."), tree):
        return [f"in a file, a key of a section stands in it: `{_in_sections(key_text(problem.path))}`"]
    if problem.kind == "extra_forbidden":
        near = _near(problem.path, problem.value, tree, root)
        return [f"{' and '.join(near)} exist{'s' if len(near) == 1 else ''}"] if near else []
    if problem.is_missing:
        return [f"give {key_text(problem.path)}=…"]
    if problem.kind == "string_type" and isinstance(problem.value, (bool, int, float)):
        return ["put text that looks like a number, true or false in quotes"]
    if problem.kind in ("int_type", "float_type") and isinstance(problem.value, str):
        return _hints_at_number(problem.value)
    return []


def _hints_at_number(text: str) -> list[str]:
    """Text where a number has to stand: what is wrong with it, as far as it looks like one."""
    if isinstance(scalar(text), (int, float)):
        return ["a number stands without quotes"]
    return ["numbers are decimal digits, as in 100, 0.5 or 1e-4"] if not text.isdecimal() and text[:1].isdigit() else []


def _in_sections(key: str) -> str:
    """`batch.micro` as `batch: {micro: …}`."""
    *sections, leaf = key.split(".")
    return "".join(f"{section}: {{" for section in sections) + f"{leaf}: …" + "}" * len(sections)


def _near(path: tuple[KeyPart, ...], value: Any, tree: Any, root: type[BaseModel]) -> list[str]:
    """Keys that may have been meant: those of its name in its section, one beside it that is spelled like it, those of
    its name elsewhere; and the same of what it would hold."""
    *section, name = path
    same = [key for key in all_keys(root, tree) if key[-1] == name and key != path]
    within = [key_text(key) for key in same if key[: len(section)] == tuple(section)]
    beside = [key for key in keys_at(root, section, tree) if key != name]
    close = [key_text([*section, key]) for key in _closest(str(name), beside)]
    inner = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else None
    of_inner = _near((*path, inner[0]), inner[1], tree, root) if inner and not (within or close) else []
    return (within or close or of_inner or [key_text(key) for key in same])[:3]


def _closest(name: str, known: Sequence[str]) -> list[str]:
    """The one key that is spelled most like `name`, in upper or lower case."""
    by_lower = {key.lower(): key for key in known}
    return [by_lower[key] for key in difflib.get_close_matches(name.lower(), by_lower, n=1)]
