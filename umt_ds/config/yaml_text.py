"""YAML that means what its reader thinks: version 1.2, told to be wrong with file, line and text. The door to PyYAML.

PyYAML reads YAML 1.1, where 010 is 8, 1:30 is 90, `on` is true and 2024-01-01 is a date. Here (the core schema of
YAML 1.2, less 0o10 and 0x10) a number is decimal, true and false are the only truths, and everything else is text.
Tags, merge keys and names that are no text are refused.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from umt_ds.errors import ConfigError, printable

_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_MOST_DIGITS = 4000  # Python turns no more than 4300 into a number
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NOT_PLAIN = ("[", "{", '"', "'")
_MOST_BYTES = 2_000_000
_IN_QUOTES = "while scanning a quoted scalar"  # PyYAML's words
_MOST_QUOTED = 80
_MOST_VALUES = 200_000  # aliases of aliases multiply: a page of text can stand for billions of values


@dataclass(frozen=True)
class Mark:
    """Where a value stands. line counts from 1; text: a plain value as it was written, None for any other."""

    line: int
    text: str | None


Marks = dict[str, Mark]  # by key path, such as batch.micro


def scalar(text: str) -> bool | int | float | str | None:
    """What plain text (not in quotes) means."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= _MOST_DIGITS else text
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if _FLOAT.fullmatch(text) else text


def typed(text: str, *, where: str) -> Any:
    """What somebody means who types a value in a shell: a list, a mapping or quoted text if it begins like one, and
    otherwise all of it plain, so that a `#` or a `: ` in it belongs to it, and `~` is what it is to a shell. Raises
    ConfigError."""
    text = text.strip()
    if text == "~":
        return text
    return parse_yaml(text, where=where) if text.startswith(_NOT_PLAIN) else scalar(text)


def read_text(path: Path) -> str:
    """The text of a settings file, without a byte order mark. Raises ConfigError where it is not there or no UTF-8."""
    try:
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "is no file" if path.exists() else "is not there"
            raise ConfigError(f"{path} {what}")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path} has more than {_MOST_BYTES} bytes: it is no file of settings")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        of = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        raise ConfigError(
            f"{path} is not UTF-8 (line {line})", hint=f"if it is {of}: iconv -f {of} -t UTF-8, then keep the result"
        ) from error


def parse_yaml(text: str, *, where: str, as_text: bool = False) -> Any:
    """The value of YAML text (`as_text`: numbers and truths stay as they are written). Raises ConfigError."""
    return parse_marked(text, where=where, as_text=as_text)[0]


def parse_marked(text: str, *, where: str, as_text: bool = False) -> tuple[Any, Marks]:
    """The value of YAML text, and where each of its mappings' entries stands. Raises ConfigError."""
    try:
        node = yaml.compose(text, Loader=_Untagged)
        built = _Builder(as_text)
        return (None if node is None else built.whole(node)), built.marks
    except yaml.MarkedYAMLError as error:
        told = [error.problem]
        if type(error) is not yaml.MarkedYAMLError:  # PyYAML's own; that type is ours
            told = ["not valid YAML", error.context, error.problem]
        raise _wrong(text, where, _line_of(error), ": ".join(filter(None, told))) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise _wrong(text, where, line, f"U+{ord(text[error.position]):04X} is no character for YAML") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is not valid YAML: lists or mappings are nested too deeply") from error
    except (ValueError, OverflowError) as error:  # PyYAML's own, at an escape such as "\UFFFFFFFF"
        raise ConfigError(f"{where} is not valid YAML: {error}") from error


def dump_yaml(tree: Any) -> str:
    """YAML that `parse_yaml` reads back as the same value, and readers of YAML 1.1 too."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def quoted(text: str) -> str:
    """Text short enough to be quoted in a message."""
    found = printable(text[:_MOST_QUOTED].strip())
    return found if len(text) <= _MOST_QUOTED else f"{found}…"


def is_encodable(text: str) -> bool:
    """Whether text can be written as UTF-8: a name that is not, as the system gives it, cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _line_of(error: yaml.MarkedYAMLError) -> int:
    """Where to look, counted from 0: what began and never ended (a quote, a key without `: `) is noticed far below."""
    begun, noticed = error.context_mark, error.problem_mark
    is_open = "stream" in str(error.problem) or error.context in ("while scanning a simple key", _IN_QUOTES)
    mark = begun if begun is not None and (noticed is None or is_open) else noticed
    return mark.line if mark else 0


def _wrong(text: str, where: str, line: int, problem: str) -> ConfigError:
    lines = text.splitlines() or [""]
    line = min(line, len(lines) - 1)
    is_told = lines[line].strip() in where  # an override quotes itself
    at = where if is_told else f"{where}, line {line + 1}: `{quoted(lines[line])}`"
    hint = "indent with spaces, not tabs" if r"'\t'" in problem else None
    hint = "a key ends with a colon and a space" if "expected ':'" in problem else hint
    if "not valid YAML" in problem and "${" in text:
        hint = "inside [ ] and { } put ${env:…} in quotes"
    return ConfigError(f"{at}: {printable(problem)}", hint=hint)


class _Untagged(yaml.SafeLoader):
    """Gives every node that has no tag of its own to us, and refuses tags: they would name types, even code."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own name)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="settings have no tags (!…)", problem_mark=event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


class _Builder:
    """Values from nodes."""

    def __init__(self, as_text: bool) -> None:
        self.marks: Marks = {}
        self._as_text = as_text
        self._count = 0
        self._inside: set[int] = set()
        self._not_text: dict[str, yaml.Node] = {}  # keys, by path

    def whole(self, node: yaml.Node) -> Any:
        value = self.value(node, "")
        if self._not_text:
            names = " and ".join(self._not_text)
            raise _problem(next(iter(self._not_text.values())), f"{names}: names must be strings, quote them")
        return value

    def value(self, node: yaml.Node, path: str) -> Any:
        self._count += 1
        if self._count > _MOST_VALUES:
            raise _problem(node, f"more than {_MOST_VALUES} values")
        if isinstance(node, yaml.ScalarNode):
            if not is_encodable(node.value):
                raise _problem(node, "half a character (a surrogate)")
            plain = scalar(node.value) if node.style is None else node.value
            return node.value if self._as_text and plain is not None else plain
        if id(node) in self._inside:
            raise _problem(node, "an anchor that contains itself")
        self._inside.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            made: Any = [self.value(item, f"{path}[{i}]") for i, item in enumerate(node.value)]
        else:
            made = self._mapping(node, path)
        self._inside.remove(id(node))
        return made

    def _mapping(self, node: yaml.Node, path: str) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key_node, item in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "[…]"
            under = f"{path}.{key}" if path else key
            if not _is_name(key_node):
                self._not_text[under] = key_node
            elif key in made:
                raise _problem(key_node, f"{key!r} is given twice")
            plain = item.value if isinstance(item, yaml.ScalarNode) and item.style is None else None
            self.marks[under] = Mark(key_node.start_mark.line + 1, plain)
            made[key] = self.value(item, under)
        return made


def _is_name(node: yaml.Node) -> bool:
    """Whether a key is text for any version of YAML: `on` and 400 are, in quotes."""
    if not isinstance(node, yaml.ScalarNode) or not is_encodable(node.value):
        return False
    if node.value == "<<" and node.style is None:
        raise _problem(node, "YAML 1.2 has no merge keys (<<): write out what it stands for")
    tag = yaml.resolver.Resolver().resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
    return node.style is not None or (isinstance(scalar(node.value), str) and tag == "tag:yaml.org,2002:str")


def _problem(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes text that a reader of either version would take for something else; writes no anchors."""

    def ignore_aliases(self, data: Hashable) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if _LINE_BREAKS & set(data) else None  # any other style would fold them
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_LINE_BREAKS = set("\r\n\x85\u2028\u2029")
_Dumper.add_representer(str, _Dumper.represent_str)


for _first in "+-.0123456789":  # `08` and `1e5` are numbers in 1.2 and were text in 1.1
    _Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{_FLOAT.pattern})$"), [_first])
