"""cluster.yaml of any bytes: habits that stay what they are in a batch script, or one error that names the file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launchers.slurm import directives_of, environment_of, setup_of
from umt_ds.config.cluster import ClusterConfig, load_cluster
from umt_ds.errors import ConfigError

TEXTS = st.text(max_size=8) | st.sampled_from(
    ["gpu", "24:00:00", "1-", "0123", "a b", "a\n#SBATCH --qos=x", "$(x)", "'", '"', "#", "\\", "~", "null", "yes",
     "1e3", "--exclusive", "-t 5", "--time=5", "-p", "--comment='a b'", "--gpus={count}", "\u2028"]
)  # fmt: skip
KEYS = st.sampled_from([*ClusterConfig.model_fields, "partitoin", "time ", "<<"]) | TEXTS
VALUES = st.recursive(
    TEXTS | st.integers() | st.floats() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
DUMPED = st.dictionaries(KEYS, VALUES, max_size=4).map(lambda tree: yaml.safe_dump(tree, allow_unicode=True))
# one key with a value of its own type, so that some files are good
GOOD = st.fixed_dictionaries(
    {},
    optional={
        "partition": TEXTS, "account": TEXTS, "time": TEXTS, "modules": st.lists(TEXTS, max_size=2),
        "env": st.dictionaries(st.sampled_from(["A", "NCCL_DEBUG"]), TEXTS), "sbatch": st.lists(TEXTS, max_size=2),
    },
).map(lambda tree: yaml.safe_dump(tree, allow_unicode=True))  # fmt: skip
PIECES = st.lists(st.sampled_from(list("&*a:[]{}-!<>|'\"\t\n ?,#%@`0~.")) | TEXTS, max_size=12).map("".join)
FILES = (GOOD | DUMPED | PIECES).map(lambda text: text.encode(errors="replace")) | st.binary(max_size=30)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UMT_CLUSTER", str(path))
        yield path


@given(data=FILES)
def test_any_bytes_are_habits_or_one_error_that_names_the_file(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        stays_what_it_is(load_cluster())
    except ConfigError as error:
        refused = str(error)
    else:
        return
    assert str(path) in refused


def stays_what_it_is(cluster: ClusterConfig) -> None:
    """What Slurm and the shell read of the lines is what the habits say."""
    lines = directives_of(cluster).split("\n") if directives_of(cluster) else []
    assert all(line.startswith("#SBATCH ") for line in lines), lines
    words = [shlex.split(line, comments=False)[1:] for line in lines]
    for key in ("partition", "account", "qos", "constraint", "time"):
        value = getattr(cluster, key)
        assert [f"--{key}={value}"] in words or value is None
    assert len(words) - len(cluster.sbatch) == sum(
        getattr(cluster, key) is not None for key in ("partition", "account", "qos", "constraint", "time")
    )
    shell = shlex.split(setup_of(cluster.model_copy(update={"modules": ()})))
    expected: list[str] = []
    for name, value in environment_of(cluster).items():
        expected += ["export", f"{name}={value}"]
    assert shell == expected
