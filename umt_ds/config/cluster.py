"""The habits of a cluster: what is the same for every job on it. `~/.config/umt/cluster.yaml`, or flags, which win."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from umt_ds.config.check import whole
from umt_ds.config.explain import Origin, Origins, explain, origins_in
from umt_ds.config.section import Section
from umt_ds.config.yaml_text import is_encodable, parse_marked, read_text, scalar
from umt_ds.environment import EXPECTED_WORLD, RANK_VARIABLES, Environment, at_home, home
from umt_ds.errors import ConfigError

EXAMPLE = """\
# ~/.config/umt/cluster.yaml (or the file that UMT_CLUSTER names). Every key may be left out; flags win.
partition: gpu
account: vision
qos: normal
constraint: ib
time: 24:00:00
gpus_per_node: 8
gpus: --gres=gpu:h100:{count}      # how GPUs are asked for; default: --gpus-per-node={count}
cpus_per_task: 14                  # for each rank: its loader workers run there
modules: [cuda/12.4]               # module load …
interface: ib0                     # NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME
env: {NCCL_DEBUG: WARN}
container: umt.sqsh                # an image; RUN/launch has recipes to make one
container_runtime: pyxis           # pyxis (srun --container-image) or apptainer
mounts: ["/data:/data"]            # besides the run folder and the current folder
sbatch: [--exclusive]              # any other options of sbatch
"""


# Options of sbatch that have a key of their own, with their short names.
_OWN_KEYS = {"partition": "p", "account": "A", "qos": "q", "constraint": "C", "time": "t"}
_FLAGS = {"modules": "module", "mounts": "mount"}  # what a flag is called, where it is not called after its key
_TIMES = "minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds], or UNLIMITED"


def time_limit_s(text: str) -> int | None:
    """Seconds of a time limit as Slurm reads it, in whole minutes; None is no limit. Raises ValueError."""
    if text.upper() in ("UNLIMITED", "INFINITE", "-1"):
        return None
    number = "([0-9]{1,7})"
    if match := re.fullmatch(f"{number}-{number}(?::{number}(?::{number})?)?", text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    elif match := re.fullmatch(f"{number}:{number}:{number}", text):
        days, (hours, minutes, seconds) = 0, map(int, match.groups())
    elif match := re.fullmatch(f"{number}(?::{number})?", text):
        days, hours, (minutes, seconds) = 0, 0, (int(part or 0) for part in match.groups())
    else:
        raise ValueError(f"is no time limit of Slurm: {_TIMES}")
    in_minutes = (days * 24 + hours) * 60 + minutes + -(-seconds // 60)
    return in_minutes * 60 or None


def _is_time_limit(text: str) -> str:
    time_limit_s(text)
    return text


def _is_one_word(text: str) -> str:
    if not text or re.search(r"[\s\x00-\x1f\x7f'\"\\#]", text) or not is_encodable(text):
        raise ValueError("has to be one word, without quotes, # and \\: it stands in an #SBATCH line")
    return text


def _is_option(text: str) -> str:
    if not text.startswith("-"):
        raise ValueError("has to be an option of sbatch, such as --gpus-per-node={count}")
    return _is_one_word(text)


def _is_one_line(text: str) -> str:
    if not text or re.search(r"[\x00-\x1f\x7f]", text) or not is_encodable(text):
        raise ValueError("has to be one line of text, in UTF-8")
    return text


def _is_variable(text: str) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("is no name of a variable")
    if text in (*RANK_VARIABLES, EXPECTED_WORLD):
        raise ValueError("is set by the job itself")
    return text


def _is_value(text: str) -> str:
    if "\0" in text or not is_encodable(text):
        raise ValueError("a variable cannot hold a null character, and in a batch script only UTF-8")
    return text


def _as_number(value: object) -> object:
    """A number of the file, which is read as it is written."""
    return whole(scalar(value)) if isinstance(value, str) else value


def _at_home(text: str) -> str:
    return at_home(_is_one_line(text))


Number = Annotated[int, BeforeValidator(_as_number), Field(strict=True, le=100_000)]
Word = Annotated[str, AfterValidator(_is_one_word)]
Line = Annotated[str, AfterValidator(_is_one_line)]
Place = Annotated[str, AfterValidator(_at_home)]  # as it is for a shell, which a batch script would keep from it


class ClusterConfig(Section):
    """How jobs are asked for here. What is None is left to Slurm's defaults."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    time: Annotated[Word, AfterValidator(_is_time_limit)] | None = Field(
        None, description="Slurm's time limit, such as 24:00:00"
    )
    gpus_per_node: Number = Field(8, ge=0, description="0: a job on CPUs")
    gpus: Annotated[str, AfterValidator(_is_option)] = Field(
        "--gpus-per-node={count}", description="the option of sbatch that asks for {count} GPUs a node"
    )
    cpus_per_task: Number = Field(14, gt=0, description="cores of each rank")
    modules: tuple[Line, ...] = ()
    interface: Line | None = Field(None, description="network interface for NCCL and gloo, such as ib0")
    env: dict[Annotated[str, AfterValidator(_is_variable)], Annotated[str, AfterValidator(_is_value)]] = Field(
        {}, description="variables for the ranks"
    )
    container: Place | None = Field(None, description="image in which the ranks run")
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    mounts: tuple[Place, ...] = Field((), description="FROM:TO, bound into the container")
    sbatch: tuple[Line, ...] = Field((), description="any other options of sbatch, such as --exclusive")


def cluster_file() -> Path | None:
    """Where the habits are written: what UMT_CLUSTER names, or ~/.config/umt/cluster.yaml; None without a home."""
    folder = home()
    named = Environment().path("UMT_CLUSTER")
    return named or (folder and folder / ".config" / "umt" / "cluster.yaml")


def load_cluster(flags: Mapping[str, Any] | None = None) -> ClusterConfig:
    """The habits of the file, if there is one, with `flags` over them: None and () are flags that were not given;
    variables of `env` add to those of the file. Raises ConfigError with file or flag, key and nearest name."""
    path = cluster_file()
    file, origins = _read(path)
    habits = _with_own_keys(file, str(path))
    flags = {key: value for key, value in (flags or {}).items() if value not in (None, (), {})}
    given = _with_own_keys(flags, "the command line")
    merged = {**habits, **given}
    if isinstance(habits.get("env"), dict):
        merged["env"] = {**habits["env"], **given.get("env", {})}
    origins = {**origins, **_origins_of(given, flags)}
    try:
        return ClusterConfig.model_validate(merged)
    except ValidationError as error:
        raise explain(error, merged, origins, ClusterConfig, more="`umt-launch cluster` shows an example") from None


def _origins_of(given: Mapping[str, Any], flags: Mapping[str, Any]) -> Origins:
    """The flag that said each key; `given` has what --sbatch says under keys of its own."""
    said = {key: f"--{_FLAGS.get(key, key).replace('_', '-')}" if key in flags else "--sbatch" for key in given}
    variables = {f"env.{name}": Origin("--env") for name in given.get("env", {})}
    return {**{key: Origin(flag) for key, flag in said.items() if key != "env"}, **variables}


def options_in(texts: Iterable[str]) -> list[list[str]]:
    """Options of sbatch as words: `["--exclusive -t 5", "--mem=0"]` → `[[--exclusive], [-t, 5], [--mem=0]]`.

    Raises ValueError for what belongs to no option.
    """
    options: list[list[str]] = []
    for word in (word for text in texts for word in shlex.split(text)):
        if word.startswith("-"):
            options.append([word])
        elif not options or len(options[-1]) > 1 or "=" in options[-1][0]:
            raise ValueError(f"{word!r} is no option of sbatch (white space in a value needs quotes)")
        else:
            options[-1].append(word)
    return options


def _with_own_keys(layer: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What `sbatch` says of options that have a key of their own, under that key. Raises ConfigError where they say it
    twice."""
    said = layer.get("sbatch")
    if not isinstance(said, (list, tuple)) or not all(isinstance(text, str) for text in said):
        return dict(layer)
    try:
        options = options_in(said)
    except ValueError as error:
        raise ConfigError(f"{where}, sbatch: {error}", hint="for example sbatch: [--exclusive, --mem=0]") from None
    own: dict[str, str] = {}
    rest: list[str] = []
    for option in options:
        key, value = _own_key(option)
        if key is None:
            rest.append(shlex.join(option))
        elif key in own or key in layer:
            raise ConfigError(f"{where} gives {key} twice: {own.get(key, layer.get(key))!r} and {shlex.join(option)!r}")
        else:
            own[key] = value
    return {**layer, **own, "sbatch": tuple(rest)} if rest else {**_without(layer, "sbatch"), **own}


def _without(layer: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in layer.items() if name != key}


def _own_key(option: Sequence[str]) -> tuple[str | None, str]:
    """The key that stands for an option of sbatch, if there is one, and the option's value."""
    word, values = option[0], list(option[1:])
    for key, short in _OWN_KEYS.items():
        if word in (f"--{key}", f"-{short}") and values:
            return key, values[0]
        if word.startswith(f"--{key}="):
            return key, word.partition("=")[2]
        if word.startswith(f"-{short}") and len(word) > 2 and not word.startswith("--"):
            return key, word[2:]
    return None, ""


# ---------------------------------------------------------------- the file


def _read(path: Path | None) -> tuple[dict[str, Any], Origins]:
    """The keys of the file that have a value, and their lines; none without a file."""
    if path is None:
        return {}, {}
    if _is_missing(path):
        if Environment().text("UMT_CLUSTER") is not None:
            raise ConfigError(f"UMT_CLUSTER names {path}, which is not there", hint="`umt-launch cluster` shows one")
        return {}, {}
    text = read_text(path)
    habits, marks = parse_marked(text, where=str(path), as_text=True)  # 24:00:00 is not 86400, and 0123 not 123
    if habits is None:
        return {}, {}
    if not isinstance(habits, dict):
        raise ConfigError(f"{path} does not hold a mapping of settings", hint="`umt-launch cluster` shows an example")
    return {key: value for key, value in habits.items() if value is not None}, origins_in(path, text, marks)


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        hint = "set UMT_CLUSTER to a file that this user can read, or HOME to a folder"
        raise ConfigError(f"the cluster file {path} cannot be read: {error.strerror}", hint=hint) from error
    return False
