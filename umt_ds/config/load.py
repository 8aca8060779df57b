"""From a name and overrides to a checked `RunConfig`.

Precedence: schema default ← each file of `extends`, in order ← the file itself ← `key.path=value`.
`${env:NAME}` is replaced by the environment variable at the end, so an overridden key needs none.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from umt_ds.config.check import Tree, check, is_null
from umt_ds.config.explain import Origin, Origins, is_at_or_inside, origins_in, setter_of
from umt_ds.config.key_paths import leaves
from umt_ds.config.run import RunConfig
from umt_ds.config.yaml_text import is_encodable, parse_marked, quoted, read_text, typed
from umt_ds.environment import at_home
from umt_ds.errors import ConfigError, shown, some

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
# entries by names of the user's own: null drops an inherited one
TABLES = ("evaluation", "data.sources", "data.segments")
_DEEPEST = 30  # parts of a key
_MOST_TOLD = 200  # characters of an override
_MOST_OF_PATH = 400  # characters


def load_run(name: str, overrides: Sequence[str] = (), *, keep_unset: bool = False) -> RunConfig:
    """The checked configuration of run `name` (a name such as stage1/b16_k710, or a path to a YAML file).

    `keep_unset`: variables that are not set stay as `${env:NAME}` where text may stand, so that one can look first.
    Raises ConfigError with key path, the user's line, nearest name and next step on anything that is wrong.
    """
    return check(*load_tree(name, overrides), keep_unset=keep_unset)


def load_tree(name: str, overrides: Sequence[str] = ()) -> tuple[Tree, Origins]:
    """The merged but unchecked tree, and where each leaf was set. `${env:…}` is still in place."""
    tree, origins = _load_file(_find(name), trail=())
    lay_overrides(tree, origins, overrides)
    for key in tree:
        if difflib.get_close_matches("extends", [key.lower()], cutoff=0.8):
            where = setter_of(key, origins).where
            hint = "a file builds on others by its line `extends: […]`"
            raise ConfigError(f"{key}: unknown key (in {where})", hint=hint)
    return tree, origins


def lay_overrides(tree: Tree, origins: Origins, overrides: Sequence[str]) -> None:
    """Set what each `key.path=value` says, in place."""
    for override in overrides:
        path, value = parse_override(override)
        origin = Origin(_as_given(override), text=override.partition("=")[2].strip())
        _lay(tree, _nest(path, value), origins, {"": origin, path: origin})


def run_names() -> list[str]:
    """The runs that are shipped, by name (bases that others extend left out)."""
    return [name for name in _shipped() if not name.startswith("base/")]


def parse_override(text: str) -> tuple[str, Any]:
    """`a.b=1e-4` → ("a.b", 0.0001). A value that begins with [, { or a quote is YAML; any other is taken whole, `#` and
    all. Nothing after the `=` is empty text, which no setting takes, and `~` a home folder: null is written out."""
    path, equals, value = text.partition("=")
    parts = path.split(".")
    if not equals or not all(parts) or len(parts) > _DEEPEST:
        raise ConfigError(f"{_as_given(text)} is not of the form key.path=value", hint="for example batch.micro=32")
    if not is_encodable(text):
        raise ConfigError(f"{_as_given(text)} is not UTF-8")
    meant = typed(value, where=_as_given(text)) if value.strip() else ""
    if meant == {}:
        drops = path in TABLES or path.rpartition(".")[0] in TABLES
        raise ConfigError(
            f"{_as_given(text)} changes nothing: mappings are laid over each other",
            hint=f"{path}=null drops what is inherited" if drops else f"say what changes: {path}.KEY=VALUE",
        )
    return path, meant


def _as_given(override: str) -> str:
    return f"override {override!r}" if len(override) <= _MOST_TOLD else f"override {override[:_MOST_TOLD]!r}…"


# ---------------------------------------------------------------- files


def _shipped() -> list[str]:
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def _find(name: str, *, beside: Path | None = None) -> Path:
    """The YAML file behind a name: a path or a shipped run; in `extends`, a file beside the one that extends it or a
    shipped one, wherever the command is given."""
    folder = Path() if beside is None else beside.parent
    try:
        path = at_home(name)
    except ValueError as error:
        raise ConfigError(f"{name!r}: {error}") from error
    names = [path] if path.endswith((".yaml", ".yml")) else [] if beside is None else [f"{path}.yaml", f"{path}.yml"]
    for candidate in names:
        if _is_there(folder / candidate):
            return folder / candidate
    if name.removesuffix(".yaml") in _shipped():
        return CONFIGS / f"{name.removesuffix('.yaml')}.yaml"
    at = f" (extended by {beside})" if beside else ""
    known = run_names() if beside is None else _shipped()
    near = _meant(path, folder, known)
    if is_path(path) or (near is None and "/" in path):
        is_of_run = Path(path).name == "config.yaml"
        advice = "name a YAML file, or a shipped run: `umt config` lists them"
        advice = "`umt train` writes it into the folder of a run" if is_of_run else advice
        raise ConfigError(_not_there(folder / path) + at, hint=near or advice)
    advice = "`umt config` lists the runs; or give a path to a YAML file"
    raise ConfigError(f"no run is called {quoted(name)!r}{at}", hint=near or advice)


def is_path(name: str) -> bool:
    """Whether a name is written as a path, and can be no shipped run's."""
    return name.startswith(("/", "./", "../", "~")) or name in (".", "..") or name.endswith((".yaml", ".yml"))


def _not_there(path: Path) -> str:
    """Why no YAML file is read at a path."""
    said = shown(str(path), _MOST_OF_PATH)
    if _is_there(path):
        return (
            f"{said} is a folder, and no run's: it has no config.yaml" if path.is_dir() else f"{said} is no YAML file"
        )
    above = next((parent for parent in reversed(path.parents) if not _is_there(parent)), None)
    return (
        f"there is no {said}"
        if above is None
        else f"there is no folder {shown(str(above), _MOST_OF_PATH)}, where {said} would lie"
    )


def _is_there(path: Path) -> bool:
    """Whether something has this name, readable or not: reading says what is wrong with it."""
    try:
        path.lstat()
    except (OSError, ValueError) as error:  # too long, through a file, with a zero byte: no such name
        return isinstance(error, PermissionError)
    return True


def _meant(name: str, folder: Path, known: Sequence[str]) -> str | None:
    """The nearest of what is there: a file without its ending, the folder of a run, shipped runs of a folder, a shipped
    name."""
    for path in (f"{name}.yaml", f"{name}.yml", f"{name}/config.yaml"):
        if name and _is_there(folder / path):
            return f"did you mean {path}?"
    if is_path(name):
        return None
    inside = [run for run in known if name and run.startswith(f"{name.rstrip('/')}/")]
    if inside:
        return f"it is a folder of runs: {some(inside)}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else None


def _load_file(path: Path, trail: tuple[Path, ...]) -> tuple[Tree, Origins]:
    path = path.resolve()  # one file, one name: or a circle through `..` would not be seen
    if path in trail:
        raise ConfigError(f"extends goes in a circle: {' → '.join(str(p) for p in (*trail, path))}")
    text = read_text(path)
    own, marks = parse_marked(text, where=str(path))
    if not isinstance(own, dict):
        raise ConfigError(f"{path} does not hold a mapping of settings", hint="a line is KEY: VALUE, with a space")
    own_origins = origins_in(path, text, marks)
    tree: Tree = {}
    origins: Origins = {}
    parents = own.pop("extends", None) or []
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: extends must be a list of names", hint="for example extends: [base/stage1]")
    for parent in parents:
        parent_tree, parent_origins = _load_file(_find(parent, beside=path), (*trail, path))
        _lay(tree, parent_tree, origins, parent_origins)
    _lay(tree, own, origins, own_origins)
    return tree, origins


# ---------------------------------------------------------------- merging


def _nest(path: str, value: Any) -> Tree:
    for part in reversed(path.split(".")):
        value = {part: value}
    nested: Tree = value
    return nested


def _lay(tree: Tree, over: Tree, origins: Origins, own: Origins) -> None:
    """Merge one layer. A layer that gives the schedule in steps replaces one in epochs, and the other way round."""
    _undot(over, own)
    units = {
        "steps": ("epochs", "warmup_epochs", "decay_epochs"),
        "epochs": ("steps", "warmup_steps", "decay_steps"),
    }
    below, above = tree.get("schedule"), over.get("schedule")
    if isinstance(below, dict) and isinstance(above, Mapping):
        for unit, others in units.items():
            if not is_null(above.get(unit)):
                for other in others:
                    below.pop(other, None)
    _merge(tree, over, origins, own)


def _undot(layer: Tree, own: Origins) -> None:
    """engine.deepspeed_set by sections, however it was written: or one setting could be said twice, by two names."""
    engine = layer.get("engine")
    if not isinstance(engine, dict) or not isinstance(dotted := engine.get("deepspeed_set"), dict):
        return
    nested: Tree = {}
    for key, value in leaves(dotted):
        *sections, leaf = key.split(".")
        inner = nested
        for section in sections[:_DEEPEST]:
            inner = inner.setdefault(section, {}) if isinstance(inner, dict) else inner
        if not isinstance(inner, dict) or leaf in inner:
            path = f"engine.deepspeed_set.{key}"
            raise ConfigError(f"{path} is given twice, or is a section and a value (in {setter_of(path, own).where})")
        inner[leaf] = value
    engine["deepspeed_set"] = nested


def _merge(tree: Tree, over: Tree, origins: Origins, own: Origins, prefix: str = "") -> None:
    """Lay `over` on `tree` in place: mappings merge, everything else replaces. Of a table, null drops one entry or all.

    Raises ConfigError for an entry to drop that is not there.
    """
    for key, value in over.items():
        path = f"{prefix}{key}"
        if value is None and (path in TABLES or prefix.removesuffix(".") in TABLES):
            _drop(tree, key, origins, path=path, where=setter_of(path, own).where)
            continue
        is_section = isinstance(value, dict)
        if not (is_section and isinstance(tree.get(key), dict)):
            inside = [old for old in origins if is_at_or_inside(old, path)] if isinstance(tree.get(key), dict) else []
            for old in (path, *inside):
                origins.pop(old, None)  # and not only written over: the latest stands last
            tree[key] = {} if is_section else value
            origins[path] = setter_of(path, own)
        if is_section:
            _merge(tree[key], value, origins, own, f"{path}.")


def _drop(tree: Tree, key: str, origins: Origins, *, path: str, where: str) -> None:
    """Take a table, or an entry of one, out of the tree. where: it was asked for."""
    if key not in tree and path not in TABLES:
        there = f"there is {some(tree)}" if tree else "nothing of this kind is inherited"
        raise ConfigError(
            f"{path}: null drops what is inherited, and there is no {shown(key)} (in {where})", hint=there
        )
    tree.pop(key, None)
    for inside in [old for old in origins if is_at_or_inside(old, path)]:
        del origins[inside]
