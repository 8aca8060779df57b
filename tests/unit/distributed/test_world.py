"""Who am I among how many: each launcher's environment, and those that contradict themselves."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from umt_ds.distributed.world import World, find_world, first_host, free_port, sign_of_launcher
from umt_ds.errors import ConfigError, MachineError, UmtError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu003", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_JOB_ID": "4000123",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_NODELIST": "gpu[001-004]",
}


def test_torchrun_tells_everything() -> None:
    assert find_world(TORCHRUN) == World(5, 8, 1, "gpu003", 29500, "env")


@pytest.mark.parametrize("name", list(TORCHRUN))
def test_an_incomplete_launcher_environment_is_refused_by_name(name: str) -> None:
    incomplete = {key: value for key, value in TORCHRUN.items() if key != name}
    with pytest.raises(MachineError, match=rf"but not {name}\n"):
        find_world(incomplete)


@pytest.mark.parametrize("rank", ["8", "9", "-1"])
def test_a_rank_outside_the_world_is_refused(rank: str) -> None:
    with pytest.raises(MachineError, match=f"RANK={rank} is outside WORLD_SIZE=8"):
        find_world({**TORCHRUN, "RANK": rank})


@pytest.mark.parametrize("local_rank", ["8", "-1"])
def test_a_local_rank_outside_the_world_is_refused(local_rank: str) -> None:
    with pytest.raises(MachineError, match=f"LOCAL_RANK={local_rank} is outside WORLD_SIZE=8"):
        find_world({**TORCHRUN, "LOCAL_RANK": local_rank})


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("RANK", "first", "a whole number"),
        ("WORLD_SIZE", "0", "a whole number, 1 or more"),
        ("LOCAL_RANK", "0.0", "a whole number"),
        ("MASTER_ADDR", "gpu003:29500", "a host name or an IP address, without a port"),
        ("MASTER_PORT", "tcp://10.0.0.1:29500", "a port"),
        ("MASTER_PORT", "99999", "a whole number from 1 to 65535"),
        ("UMT_EXPECTED_WORLD", "8 ranks", "a whole number, 1 or more"),
        ("GROUP_WORLD_SIZE", "?", "a whole number, 1 or more"),
        ("CROSS_SIZE", "-1", "a whole number, 1 or more"),
        ("SLURM_STEP_NUM_TASKS", "2(x3)", "a whole number, 1 or more"),
    ],
)
def test_a_variable_that_cannot_be_read_is_one_line_of_name_value_and_what_it_should_be(
    name: str, value: str, wanted: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        find_world({**TORCHRUN, name: value})
    assert f"{name}={value!r}" in str(caught.value)
    assert f"should be {wanted}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("blank", ["", " "])
def test_blank_variables_count_as_not_set(blank: str) -> None:
    blanks = dict.fromkeys([*TORCHRUN, *SRUN, "UMT_EXPECTED_WORLD", "GROUP_WORLD_SIZE"], blank)
    assert find_world(blanks).launcher == "alone"
    assert find_world({**blanks, **SRUN}).launcher == "slurm"
    assert find_world({**blanks, **TORCHRUN}).launcher == "env"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_PROCID", "8"),
        ("SLURM_PROCID", ""),
        ("SLURM_PROCID", "x"),
        ("SLURM_LOCALID", "8"),
        ("SLURM_LOCALID", ""),
        ("SLURM_JOB_ID", "5_1"),
        ("SLURM_JOB_ID", ""),
        ("SLURM_STEP_ID", "batch"),
        ("SLURM_STEP_NODELIST", "gpu["),
    ],
)
def test_a_slurm_step_that_contradicts_itself_is_one_error_that_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(UmtError, match=name):
        find_world({**SRUN, name: value})


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_a_single_rank_needs_no_port_that_another_run_may_have(launcher: str) -> None:
    """As two runs in one `srun --pty bash`, or with a MASTER_PORT that a login script exports."""
    one = {
        "torchrun": {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        "srun": {
            **SRUN,
            "SLURM_STEP_NUM_TASKS": "1",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "MASTER_PORT": "29500",
        },
    }[launcher]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        taken = other.getsockname()[1]
        world = find_world({**one, "MASTER_PORT": str(taken)})
        assert (world.size, world.master_addr) == (1, "127.0.0.1")
        assert world.master_port != taken


def test_a_single_rank_of_torchrun_meets_torchrun_where_it_says() -> None:
    one = {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert (find_world(one).master_addr, find_world(one).master_port) == ("gpu003", 29500)


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"])
def test_processes_of_mpi_that_are_told_no_ranks_are_refused(name: str) -> None:
    """`mpirun -n 4 umt train` would start four trainings in one run folder."""
    with pytest.raises(MachineError, match=rf"MPI started 4 processes \({name}\)"):
        find_world({name: "4"})
    assert find_world({name: "1"}).launcher == "alone"
    assert find_world({**TORCHRUN, name: "8"}).size == 8


@pytest.mark.parametrize(
    ("variables", "sign"),
    [
        ({"RANK": "0"}, "RANK=0"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK=0"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NUM_TASKS=2"),
        ({"PMI_SIZE": "2"}, "PMI_SIZE=2"),
        ({"RANK": " ", "SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "1"}, None),
    ],
)
def test_what_says_that_a_launcher_is_at_work_is_named(variables: dict[str, str], sign: str | None) -> None:
    assert sign_of_launcher(variables) == sign


def test_two_steps_of_one_job_meet_at_different_ports() -> None:
    ports = [find_world({**SRUN, "SLURM_STEP_ID": str(step)}).master_port for step in range(8)]
    assert len(set(ports)) == 8


@pytest.fixture(autouse=True)
def names_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Node names of the tests are invented; DNS knows them all."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port: [])


def test_a_node_that_dns_does_not_know_is_reached_at_the_address_slurm_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(host: str, port: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "NodeName=$4 Arch=x86_64 NodeAddr=10.1.2.3 NodeHostName=$4"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_world(SRUN).master_addr == "10.1.2.3"
    scontrol.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="gpu003"):
        find_world(SRUN)


def test_srun_gives_one_rank_a_task_and_the_first_node_of_the_step_as_master() -> None:
    assert find_world(SRUN) == World(5, 8, 1, "gpu003", 20123, "slurm")


def test_all_tasks_of_a_step_agree_on_the_port_and_another_job_has_another() -> None:
    ports = [find_world({**SRUN, "SLURM_PROCID": str(task)}).master_port for task in range(8)]
    assert len(set(ports)) == 1
    assert find_world({**SRUN, "SLURM_JOB_ID": "4000124"}).master_port != ports[0]


def test_a_master_that_the_batch_script_set_is_taken() -> None:
    world = find_world({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"})
    assert (world.master_addr, world.master_port, world.launcher) == ("10.0.0.1", 1234, "slurm")


def test_one_srun_task_is_a_world_of_one() -> None:
    world = find_world({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    assert (world.rank, world.size, world.launcher) == (0, 1, "slurm")


def test_several_srun_tasks_that_are_told_to_be_alone_are_refused() -> None:
    """WORLD_SIZE=1 left in the batch script would start as many separate trainings as there are tasks."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    with pytest.raises(MachineError, match="srun started 8 tasks"):
        find_world({**SRUN, **alone})


@pytest.mark.parametrize("nodes", [{"GROUP_WORLD_SIZE": "2"}, {"CROSS_SIZE": "2"}], ids=["torchrun", "deepspeed"])
def test_one_launcher_on_each_node_of_a_step_is_believed(nodes: dict[str, str]) -> None:
    assert find_world({**SRUN, "SLURM_STEP_NUM_TASKS": "2", **TORCHRUN, **nodes}).launcher == "env"


@pytest.mark.parametrize("nodes", [{"GROUP_WORLD_SIZE": "1"}, {"CROSS_SIZE": "1"}], ids=["torchrun", "deepspeed"])
def test_launchers_that_do_not_know_of_the_other_nodes_are_refused(nodes: dict[str, str]) -> None:
    """`srun -n4 torchrun --nproc-per-node 8` would be four trainings of eight ranks each."""
    with pytest.raises(MachineError, match=r"4 separate trainings of 8 rank\(s\)"):
        find_world({**SRUN, "SLURM_STEP_NUM_TASKS": "4", **TORCHRUN, **nodes})


@pytest.mark.parametrize("env", [{}, TORCHRUN, SRUN], ids=["alone", "torchrun", "srun"])
def test_another_number_of_ranks_than_the_job_was_planned_for_is_refused(env: dict[str, str]) -> None:
    assert find_world({**env, "UMT_EXPECTED_WORLD": "8" if env else "1"}).size in (1, 8)
    with pytest.raises(MachineError, match="planned for 16 ranks"):
        find_world({**env, "UMT_EXPECTED_WORLD": "16"})


def test_a_batch_script_outside_any_step_is_alone() -> None:
    """sbatch gives its script a process id of 0 and the node list, but no step."""
    batch = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NODELIST": "gpu[001-004]", "SLURM_NTASKS": "8"}
    world = find_world(batch)
    assert (world.rank, world.size, world.launcher) == (0, 1, "alone")


def test_without_a_launcher_this_process_is_alone_and_first() -> None:
    world = find_world({})
    assert (world.rank, world.size, world.local_rank, world.master_addr) == (0, 1, 0, "127.0.0.1")
    assert world.is_first
    assert not find_world(TORCHRUN).is_first


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("gpu003", "gpu003"),
        ("gpu003,gpu004", "gpu003"),
        ("gpu[003-007]", "gpu003"),
        ("gpu[003,005-007],x1", "gpu003"),
        ("gpu[003-007,9],x1", "gpu003"),
        ("a1,gpu[003-007]", "a1"),
        ("dgx-[12-15].cluster", "dgx-12.cluster"),
        ("node-1-[2-3]", "node-1-2"),
        ("rack[1-2]node[04-09]", "rack1node04"),
        ("rack[1,3]node[04,06],x1", "rack1node04"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_first_host_of_a_node_list(nodelist: str, host: str) -> None:
    """As `scontrol show hostnames` would print first."""
    assert first_host(nodelist) == host


@pytest.mark.parametrize("nodelist", ["", "gpu[", "gpu[x]", "gpu[]", "gpu]", "(null)", "a b", ",gpu1", "gpu[1-2"])
def test_what_is_no_node_list_is_refused(nodelist: str) -> None:
    with pytest.raises(MachineError, match="cannot read the Slurm node list '") as caught:
        first_host(nodelist)
    assert f"node list {nodelist!r}" in str(caught.value)


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))
