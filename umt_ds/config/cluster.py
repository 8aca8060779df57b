"""The habits of a cluster: what is the same for every job on it. `~/.config/umt/cluster.yaml`, or flags, which win."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from umt_ds.config.schema import Section
from umt_ds.errors import ConfigError

EXAMPLE = """\
# ~/.config/umt/cluster.yaml (or the file that UMT_CLUSTER names). Every key may be left out; flags of umt-launch win.
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


class ClusterConfig(Section):
    """How jobs are asked for here. What is None is left to Slurm's defaults."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | None = Field(None, description="Slurm's time limit, such as 24:00:00")
    gpus_per_node: int = Field(8, ge=0, description="0: a job on CPUs")
    gpus: str = Field("--gpus-per-node={count}", description="the option of sbatch that asks for {count} GPUs a node")
    cpus_per_task: int = Field(14, gt=0, description="cores of each rank")
    modules: tuple[str, ...] = ()
    interface: str | None = Field(None, description="network interface for NCCL and gloo, such as ib0")
    env: dict[str, str] = Field({}, description="variables for the ranks")
    container: str | None = Field(None, description="image in which the ranks run")
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    mounts: tuple[str, ...] = Field((), description="FROM:TO, bound into the container")
    sbatch: tuple[str, ...] = Field((), description="any other options of sbatch, such as --exclusive")


def cluster_file() -> Path:
    """Where the habits are written: what UMT_CLUSTER names, or ~/.config/umt/cluster.yaml."""
    named = os.environ.get("UMT_CLUSTER")
    return Path(named) if named else Path.home() / ".config" / "umt" / "cluster.yaml"


def load_cluster(flags: Mapping[str, Any] | None = None) -> ClusterConfig:
    """The habits of the file, if there is one, with `flags` over them: None and () are flags that were not given;
    variables of `env` add to those of the file. Raises ConfigError with file, key and nearest name."""
    path = cluster_file()
    habits = _read(path)
    given = {key: value for key, value in (flags or {}).items() if value not in (None, (), {})}
    if isinstance(habits.get("env"), dict):
        given["env"] = {**habits["env"], **given.get("env", {})}
    try:
        return ClusterConfig.model_validate({**habits, **given})
    except ValidationError as error:
        raise _explain(error, path) from None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        if "UMT_CLUSTER" in os.environ:
            raise ConfigError(f"UMT_CLUSTER names {path}, which is not a file", hint="`umt-launch cluster` shows one")
        return {}
    try:
        habits = yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # 24:00:00 is text, not 86400
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if habits is None or habits == "":
        return {}
    if not isinstance(habits, dict):
        raise ConfigError(f"{path} does not hold a mapping of settings", hint="`umt-launch cluster` shows an example")
    return habits


def _explain(error: ValidationError, path: Path) -> ConfigError:
    lines, hints = [], []
    for item in error.errors():
        key = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key")
            near = difflib.get_close_matches(key, ClusterConfig.model_fields, n=1)
            hints += [f"did you mean {near[0]}?"] if near else []
        else:
            lines.append(f"{key}: {item['msg']} (got {item['input']!r:.80})")
    hints.append("`umt-launch cluster` shows an example")
    return ConfigError(f"{path}: {'; '.join(lines)}", hint=" ".join(hints))
