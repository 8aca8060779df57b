"""From a name and overrides to a checked `RunConfig`.

Precedence: schema default ← each file of `extends`, in order ← the file itself ← `key.path=value`.
`${env:NAME}` is replaced by the environment variable at the end, so an overridden key needs none.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from umt_ds.config.schema import RunConfig
from umt_ds.errors import ConfigError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_ENV = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
Tree = dict[str, Any]
Origins = dict[str, str]  # key path → the file, or the override, that set it


def load_run(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked configuration of run `name` (a name such as stage1/b16_k710, or a path to a YAML file).

    Raises ConfigError with file, key path, nearest name and next step on anything that is wrong.
    """
    tree, origins = load_tree(name, overrides)
    return check(fill_environment(tree, origins), origins)


def load_tree(name: str, overrides: Sequence[str] = ()) -> tuple[Tree, Origins]:
    """The merged but unchecked tree, and where each leaf was set. `${env:…}` is still in place."""
    tree, origins = _load_file(_find(name), trail=())
    for override in overrides:
        path, value = parse_override(override)
        _lay(tree, _nest(path, value), origins, f"override {override!r}")
    return tree, origins


def run_names() -> list[str]:
    """The runs that are shipped, by name (bases that others extend left out)."""
    return [name for name in _shipped() if not name.startswith("base/")]


def parse_override(text: str) -> tuple[str, Any]:
    """`a.b=1e-4` → ("a.b", 0.0001); the value is YAML."""
    path, equals, value = text.partition("=")
    if not equals or not path or any(not part for part in path.split(".")):
        raise ConfigError(f"override {text!r} is not of the form key.path=value", hint="for example batch.micro=32")
    return path, _parse(value, where=f"override {text!r}")


def check(tree: Tree, origins: Origins) -> RunConfig:
    """Validate a filled tree against the schema."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, origins) from None


def fill_environment(tree: Tree, origins: Origins, *, keep_unset: bool = False) -> Tree:
    """Replace `${env:NAME}` in all strings. Raises ConfigError naming key, file and variable when unset,
    or leaves it as it is written (`keep_unset`)."""

    def fill(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: fill(item, f"{path}.{key}" if path else key) for key, item in value.items()}
        if not isinstance(value, str):
            return value
        for variable in _ENV.findall(value):
            if variable not in os.environ and not keep_unset:
                raise ConfigError(
                    f"{path}: environment variable {variable} is not set (used in {_origin(path, origins)})",
                    hint=f"export {variable}=…, or give the value: {path}=…",
                )
        return _ENV.sub(lambda match: os.environ.get(match[1], match[0]), value)

    filled: Tree = fill(tree, "")
    return filled


# ---------------------------------------------------------------- files


class _Yaml(yaml.SafeLoader):
    """YAML 1.1 less two traps: `1e-4` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice (line {line})")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _parse(text: str, *, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Yaml)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error


def _shipped() -> list[str]:
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def _find(name: str, *, beside: Path | None = None) -> Path:
    """The YAML file behind a name: a path, a file beside the one that extends it, or a shipped run."""
    candidates = [Path(name), CONFIGS / f"{name}.yaml"]
    if beside is not None:
        candidates.insert(0, beside.parent / f"{name}.yaml")
    for candidate in candidates:
        if candidate.suffix in (".yaml", ".yml") and candidate.is_file():
            return candidate
    known = run_names() if beside is None else _shipped()
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"no run is called {name!r}" + (f" (extended by {beside})" if beside else ""),
        hint=f"did you mean {near[0]}?" if near else f"one of: {', '.join(known)}; or a path to a YAML file",
    )


def _load_file(path: Path, trail: tuple[Path, ...]) -> tuple[Tree, Origins]:
    path = path.resolve()  # one file, one name: or a circle through `..` would not be seen
    if path in trail:
        raise ConfigError(f"extends goes in a circle: {' → '.join(str(p) for p in (*trail, path))}")
    own = _parse(path.read_text(), where=str(path))
    if not isinstance(own, dict):
        raise ConfigError(f"{path} does not hold a mapping of settings")
    tree: Tree = {}
    origins: Origins = {}
    parents = own.pop("extends", None) or []
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: extends must be a list of names", hint="for example extends: [base/stage1]")
    for parent in parents:
        parent_tree, parent_origins = _load_file(_find(parent, beside=path), (*trail, path))
        _lay(tree, parent_tree, origins, parent_origins)
    _lay(tree, own, origins, str(path))
    return tree, origins


# ---------------------------------------------------------------- merging


def _nest(path: str, value: Any) -> Tree:
    for part in reversed(path.split(".")):
        value = {part: value}
    nested: Tree = value
    return nested


def _lay(tree: Tree, over: Mapping[str, Any], origins: Origins, origin: str | Origins) -> None:
    """Merge one layer. A layer that gives the schedule in steps replaces one in epochs, and the other way round."""
    units = {"steps": ("epochs", "warmup_epochs"), "epochs": ("steps", "warmup_steps")}
    below, above = tree.get("schedule"), over.get("schedule")
    if isinstance(below, dict) and isinstance(above, Mapping):
        for unit, others in units.items():
            if above.get(unit) is not None:
                for other in others:
                    below.pop(other, None)
    _merge(tree, over, origins, origin)


def _merge(tree: Tree, over: Mapping[str, Any], origins: Origins, origin: str | Origins, prefix: str = "") -> None:
    """Lay `over` on `tree` in place: mappings merge, everything else replaces."""
    for key, value in over.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value, origins, origin, f"{path}.")
        elif isinstance(value, dict):
            tree[key] = {}
            _merge(tree[key], value, origins, origin, f"{path}.")
            origins[path] = _origin(path, origin) if isinstance(origin, dict) else origin
        else:
            tree[key] = value
            origins[path] = _origin(path, origin) if isinstance(origin, dict) else origin


def _origin(path: str, origins: Origins) -> str:
    """Who set `path`, or the nearest parent of it that somebody set."""
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return "the schema"


# ---------------------------------------------------------------- explaining


def _explain(error: ValidationError, origins: Origins) -> ConfigError:
    """One error for all that is wrong, each line with key path, file and the nearest name."""
    lines, hints = [], []
    for item in error.errors():
        # pydantic puts the chosen member of a union (`stage1`) into the path; users do not write it
        location = [str(part) for part in item["loc"]]
        if len(location) > 1 and location[0] == "task" and location[1] in ("stage1", "image_text"):
            del location[1]
        if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
            location.append("kind")  # pydantic blames the section; the user wrote its kind
        path = ".".join(location)
        where = _origin(path, origins)
        match item["type"]:
            case "extra_forbidden":
                lines.append(f"{path}: unknown key (in {where})")
                near = difflib.get_close_matches(location[-1], _fields_at(tuple(location[:-1])), n=1)
                if near:
                    hints.append(f"{'.'.join([*location[:-1], near[0]])} exists")
            case "missing":
                lines.append(f"{path}: required, but not given")
                hints.append(f"give {path}=…")
            case _:
                message = item["msg"].removeprefix("Value error, ")
                lines.append(f"{path or 'run'}: {message} (got {item['input']!r:.80}, in {where})")
    hints.append("`umt config NAME` shows every key with its value")
    return ConfigError("; ".join(lines), hint="; ".join(dict.fromkeys(hints)))


def _fields_at(path: tuple[str, ...]) -> list[str]:
    """The keys the schema knows at a path (all members of a union together)."""
    models: list[type[BaseModel]] = [RunConfig]
    for part in path:
        models = [inner for model in models for inner in _models_of(_annotation(model, part))] or models
    return sorted({field.alias or name for model in models for name, field in model.model_fields.items()})


def _annotation(model: type[BaseModel], key: str) -> Any:
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            return field.annotation
    return None


def _models_of(annotation: Any) -> Iterable[type[BaseModel]]:
    """The models inside an annotation: itself, or the members of a union, or the values of a dict."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_of(argument)]
