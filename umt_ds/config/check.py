"""From what was written to a checked configuration: variables filled in, each value taken as its setting means it.

Values are as strict as JSON's: no number is made of text or of true and false. Text is made of a number only where
nothing but text may stand, as it was written (`name=0100`). A variable means what its value would mean, typed there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from umt_ds.config.explain import Origins, explain, key_text, setter_of
from umt_ds.config.outline import KeyPart, Kinds, kinds_at
from umt_ds.config.run import RunConfig
from umt_ds.config.yaml_text import is_encodable, scalar, typed
from umt_ds.environment import Environment
from umt_ds.errors import ConfigError, printable

Tree = dict[str, Any]
M = TypeVar("M", bound=BaseModel)
_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_OF_A_SHELL = re.compile(r"\$\{|^\$[A-Za-z_]\w*(?=/|$)")
_NUMBERS = (bool, int, float)


def check(tree: Tree, origins: Origins, *, keep_unset: bool = False) -> RunConfig:
    """The run that `tree` says, with its variables filled in. Raises ConfigError with all that is wrong.

    `keep_unset`: variables that are not set stay as `${env:NAME}` where text may stand.
    """
    filled = fill(tree, origins, keep_unset=keep_unset)
    return validate(RunConfig, filled, origins, more="`umt config NAME` shows every key with its value")


def fill(tree: Tree, origins: Origins, *, keep_unset: bool = False) -> Tree:
    """`tree` with its variables filled in and each leaf as its setting means it, unchecked. Raises ConfigError."""
    filled: Tree = _Reading(tree, origins, keep_unset).of(tree, ())
    return filled


def validate(root: type[M], tree: Tree, origins: Origins, *, more: str) -> M:
    """`tree` as the model `root`, nothing filled in. more: the last hint of the ConfigError that it may raise."""
    try:
        return root.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise explain(error, tree, origins, root, more=more) from None


def is_null(value: Any) -> bool:
    """Whether a value, or the variable that it names, says that there is none."""
    match = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
    text = None if match is None else Environment().text(match[1])
    return value is None if text is None else scalar(text) is None


def is_text(kinds: Kinds) -> bool:
    """Whether text may stand there and no number."""
    return (str in kinds or Path in kinds) and not any(number in kinds for number in _NUMBERS)


def whole(value: Any) -> Any:
    """1e5, which is no whole number for YAML and JSON, as 100000; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Reading:
    """What the leaves of a tree mean."""

    def __init__(self, tree: Tree, origins: Origins, keep_unset: bool) -> None:
        self._tree, self._origins, self._keep_unset = tree, origins, keep_unset

    def of(self, value: Any, path: tuple[KeyPart, ...]) -> Any:
        if isinstance(value, dict):
            return {self._name(key, path): self.of(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.of(item, (*path, index)) for index, item in enumerate(value)]
        kinds = kinds_at(RunConfig, path, self._tree)
        origin = self._origins.get(key_text(path))
        text = origin.text if origin else None
        if isinstance(value, str) and "$" in value:
            value, text = self._filled(value, path, kinds)
        if is_text(kinds) and isinstance(value, (int, float)) and not isinstance(value, bool) and text is not None:
            return text
        return value if float in kinds and int not in kinds else whole(value)

    def _name(self, key: str, path: tuple[KeyPart, ...]) -> str:
        if "${" in key:
            raise self._error((*path, key), "a name cannot come from a variable", hint="write it out")
        return key

    def _filled(self, text: str, path: tuple[KeyPart, ...], kinds: Kinds) -> tuple[Any, str]:
        """The value that `text` with its variables means, and its text."""
        values = {name: Environment().text(name) for name in _VARIABLE.findall(text)}
        for name, value in values.items():
            if not value and self._keep_unset and (is_text(kinds) or not kinds):
                return text, text
            if not value:
                problem = "is not set" if Environment().raw(name) is None else "is empty"
                hint = f"export {name}=…, or give the value: {key_text(path)}=…"
                raise self._error(path, f"environment variable {name} {problem}", hint=hint)
            if not is_encodable(value) or _VARIABLE.search(value):
                raise self._error(path, f"environment variable {name} is {value!r}: it is not UTF-8, or names another")
        filled = _VARIABLE.sub(lambda match: values[match[1]] or "", text)
        if _OF_A_SHELL.search(filled) and not text.startswith("pipe:"):
            raise self._error(path, f"{filled!r} names a variable as a shell does", hint="write ${env:NAME} for $NAME")
        return (typed(filled, where=key_text(path)) if _VARIABLE.fullmatch(text) else scalar(filled)), filled

    def _error(self, path: tuple[KeyPart, ...], problem: str, *, hint: str | None = None) -> ConfigError:
        key = key_text(path)
        return ConfigError(f"{printable(key)}: {problem} (used in {setter_of(key, self._origins).where})", hint=hint)
