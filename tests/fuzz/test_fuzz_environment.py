"""Whatever a container, a scheduler or a user sets: this process's place is what the variables say, or one error."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_ds.distributed.world import World, find_world, first_host
from umt_ds.environment import EXPECTED_WORLD, RANK_VARIABLES, Environment, is_host
from umt_ds.errors import MachineError, UmtError

SLURM = (
    "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_ID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST",
    "SLURM_NODELIST",
)  # fmt: skip
NAMES = (
    *RANK_VARIABLES,
    *SLURM,
    EXPECTED_WORLD,
    "GROUP_WORLD_SIZE",
    "CROSS_SIZE",
    "PMI_SIZE",
    "TORCHELASTIC_USE_AGENT_STORE",
)
# what they hold where all is well, and what others were seen to put there
USUAL = st.sampled_from(
    ["0", "1", "2", "8", "29500", "gpu003", "gpu[003-007,9],x1", "10.0.0.1", "", " ", "-1", "tcp://10.0.0.1:29500",
     "8.0", "0x8", "٣", "1_0", "None", "null", "2(x3)", "localhost:29500", "True", "batch", "9" * 30, "4294967294"]
)  # fmt: skip
ANYTHING = st.text(max_size=12).filter(lambda text: "\0" not in text)
NUMBER = st.integers(0, 9).map(str)


@pytest.fixture(scope="module", autouse=True)
def _names_resolve() -> Iterator[None]:
    """Node names here are invented; DNS knows them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda host, port: [])
        yield


def said(variables: dict[str, str], name: str) -> int:
    text = variables.get(name, "").strip()
    assert re.fullmatch(r"-?[0-9]+", text), f"{name}={text!r} was taken for a number"
    return int(text)


def look_at(variables: dict[str, str]) -> None:
    try:
        world = find_world(variables)
    except UmtError as error:
        refused = str(error)
    else:
        is_what_they_say(world, variables)
        return
    assert any(name in refused for name in NAMES), refused


def is_what_they_say(world: World, variables: dict[str, str]) -> None:
    assert 0 <= world.rank < world.size
    assert 0 <= world.local_rank < world.size
    assert 1 <= world.master_port <= 65535
    assert is_host(world.master_addr)
    match world.launcher:
        case "env":
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
            assert [said(variables, name) for name in names] == [world.rank, world.size, world.local_rank]
            assert world.size == 1 or said(variables, "MASTER_PORT") == world.master_port
            assert world.size == 1 or variables["MASTER_ADDR"].strip() == world.master_addr
        case "slurm" if world.size > 1:
            names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
            assert [said(variables, name) for name in names] == [world.rank, world.size, world.local_rank]
        case "slurm" | "alone":
            assert world.size == 1
            assert not any(variables.get(name, "").strip() for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if variables.get(EXPECTED_WORLD, "").strip():
        assert said(variables, EXPECTED_WORLD) == world.size


@given(st.dictionaries(st.sampled_from(NAMES), USUAL | ANYTHING))
def test_any_variables_are_a_place_in_a_world_or_one_error_that_names_one(variables: dict[str, str]) -> None:
    look_at(variables)


@given(
    st.fixed_dictionaries({name: NUMBER for name in RANK_VARIABLES}),
    st.dictionaries(st.sampled_from(NAMES), USUAL | NUMBER, max_size=3),
)
def test_variables_of_a_launcher_with_some_replaced(variables: dict[str, str], others: dict[str, str]) -> None:
    look_at({**variables, "MASTER_ADDR": "gpu003", **others})


@given(
    st.fixed_dictionaries({name: NUMBER for name in SLURM}),
    st.dictionaries(st.sampled_from(NAMES), USUAL | NUMBER, max_size=3),
)
def test_variables_of_a_slurm_step_with_some_replaced(variables: dict[str, str], others: dict[str, str]) -> None:
    look_at({**variables, "SLURM_STEP_NODELIST": "gpu[003-004]", **others})


@given(st.text(max_size=30) | st.text("ab0129[],-.", max_size=15))
def test_a_node_list_gives_the_name_of_a_host_or_one_error(nodelist: str) -> None:
    try:
        host = first_host(nodelist)
    except MachineError:
        return
    assert is_host(host)
    assert nodelist.startswith(re.split(r"[0-9]", host)[0])


@given(USUAL | ANYTHING)
def test_every_type_of_variable_is_read_or_refused_by_name_and_value_in_one_line(value: str) -> None:
    env = Environment({"NAME": value})
    for read in (
        lambda: env.number("NAME", 1),
        lambda: env.port("NAME", 1),
        lambda: env.host("NAME"),
        lambda: env.yes("NAME"),
    ):
        refused = None
        try:
            read()
        except UmtError as error:
            refused = str(error)
        if refused is not None:
            assert refused.startswith(f"NAME={value.strip()!r}")
            assert len(refused.splitlines()) == 1
