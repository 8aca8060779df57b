"""umt-launch: what is checked, kept and submitted; what the batch shell does (with stand-ins for Slurm's commands)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from launchers.cli import launch as umt_launch
from launchers.hosts import as_hostfile, is_here, read_hostfile
from launchers.runs import describe, last_submission, submit_run
from launchers.slurm import setup_of, submit
from launchers.train import TrainJob, grace_within, render
from tests.support.ranks import environment
from umt_ds.config.cluster import EXAMPLE, ClusterConfig, load_cluster, time_limit_s
from umt_ds.config.load import load_run
from umt_ds.errors import ConfigError, MachineError

RUN = ["demo/stage1", "task.teacher.weights=random", "data.sources.demo.shards=/data/x"]


@pytest.fixture(autouse=True)
def cluster_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cluster.yaml, whatever this user's says."""
    path = tmp_path / "cluster.yaml"
    path.touch()
    monkeypatch.setenv("UMT_CLUSTER", str(path))
    return path


def launch(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = environment() | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    code = "from launchers.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False)


def here(*words: str) -> str:
    """The same in this process: all that it prints. Raises what it raises."""
    done = CliRunner().invoke(umt_launch, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def job(run: Path, **more: object) -> TrainJob:
    given = {"nodes": 2, "ranks_per_node": 4, "cluster": ClusterConfig(), **more}
    return TrainJob("x", run, run.parent, **given)  # type: ignore[arg-type]


# ---------------------------------------------------------------- before the queue


def test_dry_run_prints_a_valid_script_and_writes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = launch(*RUN, "--nodes", "2", "--gpus-per-node", "8", "--dry-run", f"run_dir={run}", "batch.global=256")
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--signal=B:USR1@600", "--requeue"):
        assert f"#SBATCH {line}\n" in done.stdout
    assert "UMT_EXPECTED_WORLD=16\n" in done.stdout
    assert not run.exists()


def test_an_impossible_batch_is_refused_before_the_queue_with_2() -> None:
    done = launch(*RUN, "--nodes", "3", "--gpus-per-node", "8", "--dry-run")
    assert done.returncode == 2
    assert "batch.global=32" in done.stderr


def test_what_is_submitted_is_kept_in_the_run_folder_and_told(tmp_path: Path) -> None:
    program(tmp_path, "sbatch", f'cp "$2" {tmp_path}/submitted; echo 4711')
    program(tmp_path, "squeue", "echo 4711 RUNNING")
    run = tmp_path / "run"
    done = launch(*RUN, "--gpus-per-node", "2", f"run_dir={run}", "optim.lr=0.5", path=tmp_path)
    assert done.returncode == 0, done.stderr
    for told in ("job 4711", f"{run}/launch/slurm-4711.log", f"umt-launch logs {run}", f"umt-launch stop {run}"):
        assert told in done.stdout
    kept = run / "launch"
    assert (tmp_path / "submitted").read_text() == (kept / "train.sbatch").read_text()
    assert load_run(str(kept / "config.yaml")).optim.lr == 0.5, "the job runs what was checked"
    assert f"train {kept}/config.yaml" in (kept / "train.sbatch").read_text()
    assert "\ntorch==" in (kept / "versions.txt").read_text()
    assert "pip install" in (kept / "container.def").read_text()
    again = launch(*RUN, "--gpus-per-node", "2", f"run_dir={run}", path=tmp_path)
    assert again.returncode == 1
    assert "job 4711 is already working" in again.stderr


def test_the_git_state_is_kept_with_what_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from launchers import snapshot

    def git(*words: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@x")
        return subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    (tmp_path / "a").write_text("one\n")
    git("add", "a")
    git("commit", "--quiet", "--message", "a")
    (tmp_path / "a").write_text("two\n")
    monkeypatch.setattr(snapshot, "_SOURCE", tmp_path)
    kept = snapshot.write_snapshot(tmp_path / "run", load_run(RUN[0], RUN[1:]), {})
    assert (kept / "git.txt").read_text().startswith(git("rev-parse", "HEAD"))
    assert "-one\n+two\n" in (kept / "git.diff").read_text()


def test_what_sbatch_refuses_is_told(tmp_path: Path) -> None:
    program(tmp_path, "sbatch", "echo 'invalid partition' >&2; exit 1")
    done = launch(*RUN, "--gpus-per-node", "2", f"run_dir={tmp_path / 'run'}", path=tmp_path)
    assert done.returncode == 1
    assert "invalid partition" in done.stderr


@pytest.mark.parametrize(
    "name",
    ["my runs", "a\nrm -rf b", "a\tb", "it's", 'a"b', "$HOME", "a;b", "a&b", "`x`", "a\\b", "a#b", "(a)", "a*", "a\r"],
)
def test_a_run_folder_that_a_batch_script_would_not_take_as_it_is_is_refused(name: str) -> None:
    with pytest.raises(MachineError, match="white space, quotes or other signs of the shell"):
        render(job(Path("/r") / name))
    with pytest.raises(MachineError, match="white space"):
        render(TrainJob("x", Path("/r/x"), Path("/r") / name, 1, 1, ClusterConfig()))


@pytest.mark.parametrize("name", ["a%j", "läufe", "~a", "a=b,c@d+e^f~g"])
def test_the_job_works_in_the_folder_that_was_asked_for_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    """Slurm would replace %j in the name of the log, and bash the ~ behind a colon."""
    shell = Shell(tmp_path / name)
    assert shell.start('echo "here: $RUN" >&2').wait(timeout=20) == 0
    assert (shell.launch / "history").is_file()
    text = (shell.launch / "train.sbatch").read_text()
    assert f"#SBATCH --output={str(shell.run).replace('%', '%%')}/launch/slurm-%j.log\n" in text
    assert f"#SBATCH --chdir={shell.run.parent}\n" in text


def test_a_batch_that_the_ranks_could_only_compare_in_parts_is_refused_before_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("UMT_DATA", "UMT_CLIP_B16", "UMT_BERT_BASE", "UMT_STAGE1_B16"):
        monkeypatch.setenv(name, "/there")
    words = ["stage2/b16_5m", "--nodes", "2", "--gpus-per-node", "8", "--dry-run"]
    refused = CliRunner().invoke(umt_launch, words)
    assert isinstance(refused.exception, ConfigError)
    assert "would shrink what each text is compared with" in refused.exception.what
    assert CliRunner().invoke(umt_launch, [*words, "batch.split_contrastive=true"]).exit_code == 0


# ---------------------------------------------------------------- time limit and grace


@pytest.mark.parametrize(
    ("text", "minutes"),  # as sbatch 22.05 reads them
    [
        ("5", 5), ("5:90", 7), ("5:00", 5), ("1:2:3", 63), ("24:00:00", 1440), ("1-2", 1560), ("1-2:3", 1563),
        ("1-02:03:04", 1564), ("0", None), ("unlimited", None), ("INFINITE", None), ("-1", None), ("090", 90),
    ],
)  # fmt: skip
def test_a_time_limit_is_read_as_slurm_reads_it(text: str, minutes: int | None) -> None:
    assert time_limit_s(text) == (None if minutes is None else minutes * 60)


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "5.5", "+5", "-5", "1-1-1", "1-", "٣", "1 2", "5:", "9" * 5000])
def test_a_time_limit_that_slurm_cannot_read_is_refused_before_the_queue(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^time: .*in --time"):
        load_cluster({"time": text})


@pytest.mark.parametrize("words", [["--time=5"], ["--time 5"], ["-t 5"], ["-t5"], ["-t", "5"], ["--exclusive -t 5"]])
def test_a_time_limit_among_the_options_of_sbatch_is_the_time_limit(words: list[str], cluster_file: Path) -> None:
    assert load_cluster({"sbatch": tuple(words)}).time == "5"
    cluster_file.write_text(yaml.safe_dump({"sbatch": words}))
    assert load_cluster().time == "5"
    assert load_cluster({"time": "7"}).time == "7", "flags win"
    with pytest.raises(ConfigError, match="the command line gives time twice: '7' and "):
        load_cluster({"time": "7", "sbatch": tuple(words)})


@pytest.mark.parametrize(("time", "asked", "grace"), [
    (None, None, 600), (None, 30, 30), ("24:00:00", None, 600), ("40", None, 600), ("20", None, 300), ("5", None, 75),
    ("5", 180, 180), ("UNLIMITED", 7200, 7200), ("0", None, 600),
])  # fmt: skip
def test_the_grace_is_at_most_a_quarter_of_the_limit_unless_asked_for(
    time: str | None, asked: int | None, grace: int
) -> None:
    assert grace_within(time, asked) == grace


@pytest.mark.parametrize(
    ("time", "asked"), [("5", 600), ("5", 300), ("10", 500), ("2", None), ("1", None), ("2:00:00", 7200)]
)
def test_a_limit_that_leaves_no_time_to_train_is_refused_with_both_values(time: str, asked: int | None) -> None:
    with pytest.raises(ConfigError, match=f"the time limit {time} is .* {asked or ''}.*--grace.*requeued for ever"):
        grace_within(time, asked)


def test_the_limit_that_sbatch_takes_from_the_shell_is_a_limit_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*RUN, "--gpus-per-node", "2", "--dry-run", f"run_dir={tmp_path}/run"]
    monkeypatch.setenv("SBATCH_TIMELIMIT", "8")
    short = here(*words)
    assert "#SBATCH --signal=B:USR1@120\n" in short
    assert "grace: 120 s instead of 600, a quarter of the time limit 8" in short
    with pytest.raises(ConfigError, match="the time limit 8 is 480 s, and saving begins 420 s before it"):
        here(*words, "--grace", "420")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "8h")
    with pytest.raises(ConfigError, match="SBATCH_TIMELIMIT='8h' is no time limit of Slurm"):
        here(*words)


def test_what_the_script_says_is_not_overruled_by_variables_of_sbatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "sbatch", f"env | grep SBATCH_ >{tmp_path}/seen; echo 5")
    script = tmp_path / "x.sbatch"
    script.write_text(
        "#!/bin/bash\n#SBATCH --time=5\n#SBATCH --ntasks-per-node=2\n#SBATCH --requeue\n#SBATCH --qos=a\n"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("TIMELIMIT", "NTASKS_PER_NODE", "NO_REQUEUE", "ACCOUNT", "WAIT"):
        monkeypatch.setenv(f"SBATCH_{name}", "x")
    assert submit(script) == "5"
    assert (tmp_path / "seen").read_text().split() == ["SBATCH_ACCOUNT=x", "SBATCH_WAIT=x"]


def test_a_folder_that_umt_launch_did_not_start_has_no_status(tmp_path: Path) -> None:
    done = launch("status", str(tmp_path))
    assert (done.returncode, "is not a run that umt-launch submitted" in done.stderr) == (2, True)


# ---------------------------------------------------------------- the habits of a cluster


def test_the_habits_of_the_cluster_are_in_the_job_and_flags_win(cluster_file: Path, tmp_path: Path) -> None:
    cluster_file.write_text(EXAMPLE)
    flags = ["--partition", "night", "--env", "NCCL_DEBUG=INFO", "--cpus-per-task", "6", "--nodes", "1"]
    done = launch(*RUN, *flags, "--dry-run", "batch.global=128", f"run_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    directives = ["--partition=night", "--account=vision", "--qos=normal", "--constraint=ib", "--time=24:00:00"]
    directives += ["--gres=gpu:h100:8", "--exclusive", "--cpus-per-task=6"]
    assert [f"#SBATCH {line}" for line in directives if f"#SBATCH {line}" not in lines] == []
    for line in ("module load cuda/12.4", "export NCCL_DEBUG=INFO", "export GLOO_SOCKET_IFNAME=ib0"):
        assert line in lines
    step = next(line for line in lines if line.startswith("srun"))
    assert "--cpus-per-task=6 --container-image=umt.sqsh" in step, "srun does not take it from the job"
    assert f"{tmp_path}/run:{tmp_path}/run," in step
    assert ",/data:/data" in step
    assert " python -m umt_ds" in step, "the interpreter of the container"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitoin: gpu", r"partitoin: unknown key \(in .*line 1: `partitoin: gpu`\)\n  hint: partition exists"),
        (
            "gpus_per_node: many",
            r"gpus_per_node: give a whole number \(got 'many', in .*, line 1: `gpus_per_node: many`",
        ),
        ("gpus_per_node: 1_0", "gpus_per_node: give a whole number"),
        ("gpus_per_node: true", "gpus_per_node: give a whole number"),
        ("cpus_per_task: 99999999999999999999", "cpus_per_task: must be at most 100000"),
        ("modules: cuda", "modules: give a list"),
        ("- gpu", "does not hold a mapping"),
        ("a: [", "not valid YAML"),
        ("a: &a [*a]", "an anchor that contains itself"),
        ("env: &a {X: *a}", "an anchor that contains itself"),
        ("env: {X: [1]}", "env.X: give text"),
        ("&a [*a]", "an anchor that contains itself"),
        ("[" * 1000, "nested too deeply"),
        ("a: \0", "is no character for YAML"),
        ("qos: a\nqos: b", "line 2: `qos: b`: 'qos' is given twice"),
        ("time: 1h", "time: is no time limit of Slurm: minutes, "),
        ('partition: ""', "partition: has to be one word"),
        ("partition: gpu cpu", "partition: has to be one word"),
        ('account: "x\\n#SBATCH --qos=high"', "account: has to be one word"),
        ("constraint: a#b", "constraint: has to be one word"),
        ("gpus: gpu:8", "gpus: has to be an option of sbatch"),
        ("env: {1A: x}", "env.1A.*: is no name of a variable"),
        ("env: {RANK: 0}", "env.RANK.*: is set by the job itself"),
        ("env: {MASTER_PORT: 1}", "env.MASTER_PORT.*: is set by the job itself"),
        ('env: {A: "\\0"}', "env.A: a variable cannot hold a null character"),
        ("sbatch: [exclusive]", "sbatch: 'exclusive' is no option of sbatch"),
        ("sbatch: [--comment=my job]", "sbatch: 'job' is no option of sbatch"),
        ('sbatch: ["--comment=\'x"]', "sbatch: No closing quotation"),
        ("partition: gpu\nsbatch: [-p cpu]", "gives partition twice: 'gpu' and '-p cpu'"),
        ('modules: ["a\\nb"]', "modules.0.: has to be one line of text"),
    ],
)
def test_a_wrong_cluster_file_is_one_error_that_names_it(text: str, said: str, cluster_file: Path) -> None:
    cluster_file.write_text(text)
    with pytest.raises(ConfigError, match=said) as raised:
        load_cluster()
    assert str(cluster_file) in raised.value.what
    assert not re.search(r"Input should|valid (string|tuple|integer)|\[key\]", raised.value.what), "pydantic's words"


@pytest.mark.parametrize("data", [b"partition: gpu\nqos: \xfcber", "partition: gpu".encode("utf-16"), b"\xff"])
def test_a_cluster_file_that_is_not_utf8_is_refused_with_its_line(data: bytes, cluster_file: Path) -> None:
    cluster_file.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{cluster_file} is not UTF-8 \(line {1 + data.startswith(b'par')}\)"):
        load_cluster()


def test_a_byte_order_mark_windows_lines_and_null_are_read(cluster_file: Path) -> None:
    cluster_file.write_bytes(
        "partition: gpu\r\naccount: 0123\r\nqos: null\r\ntime: ~\r\n# größe\r\n".encode("utf-8-sig")
    )
    cluster = load_cluster()
    assert (cluster.partition, cluster.account, cluster.qos, cluster.time) == ("gpu", "0123", None, None)


def test_a_cluster_file_that_cannot_be_opened_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".config" / "umt" / "cluster.yaml").mkdir(parents=True)
    monkeypatch.setenv("UMT_CLUSTER", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"cluster\.yaml is a folder, not a file"):
        load_cluster()
    for name in ("x" * 300, "missing.yaml"):
        monkeypatch.setenv("UMT_CLUSTER", str(tmp_path / name))
        with pytest.raises(ConfigError, match=name):
            load_cluster()


def test_without_a_home_folder_the_defaults_are_in_force(tmp_path: Path) -> None:
    """As in `docker run --user 54321`: no HOME, and a user whom the machine does not know."""
    code = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
    code += "from launchers.cli import main; main()"
    env = {name: value for name, value in environment().items() if name not in ("HOME", "UMT_CLUSTER")}
    done = subprocess.run([sys.executable, "-c", code, "cluster"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "this user has no home folder" in done.stdout
    assert "gpus_per_node: 8" in done.stdout


@pytest.mark.parametrize(
    "flags",
    [
        {"partition": "\udcff"}, {"modules": ("\udcff",)}, {"container": "\udcff"}, {"env": {"A": "\udcff"}},
        {"sbatch": ("--comment=\udcff",)}, {"interface": "\udcff"}, {"gpus": "--gres=\udcff"},
    ],
    ids=str,
)  # fmt: skip
def test_a_flag_that_is_no_utf_8_is_refused_as_no_script_could_hold_it(flags: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"udcff.*in --(partition|module|container|env|sbatch|interface|gpus)"):
        load_cluster(flags)


def test_the_tilde_is_the_home_folder_in_what_a_script_would_not_expand(
    cluster_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cluster_file.write_text("container: ~/umt.sqsh\nmounts: [~/data:/data, /x:/x]\ngpus_per_node: 010\n")
    habits = load_cluster()
    assert (habits.container, habits.mounts) == ("/home/me/umt.sqsh", ("/home/me/data:/data", "/x:/x"))
    assert habits.gpus_per_node == 10


def test_a_wrong_flag_is_called_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"^partition: has to be one word.*in --partition"):
        load_cluster({"partition": "a b"})
    with pytest.raises(ConfigError, match=r"^modules.0.: has to be one line.*in --module"):
        load_cluster({"modules": ("a\nb",)})
    with pytest.raises(ConfigError, match=r"^env.RANK: is set by the job itself.*in --env"):
        load_cluster({"env": {"RANK": "0"}})


def test_a_job_whose_module_cannot_be_loaded_does_not_go_on() -> None:
    setup = setup_of(ClusterConfig(modules=("it's",)))
    for module, code, said in (("true", 0, "on"), ("false", 1, "")):
        script = f"module() {{ {module}; }}\n{setup}\necho on"
        done = subprocess.run(["bash", "-uc", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (code, said)
        assert ("module load 'it'\"'\"'s' failed" in done.stderr) is (code == 1)


@pytest.mark.parametrize(
    "option",
    ["--nodes=3", "-N3", "--signal=USR1", "--output=x", "-o x", "--array=0-3", "-D /x", "--sig=B:USR1@5", "--node=3"],
)
def test_options_that_the_job_sets_itself_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=f"sbatch: {option} is what the job sets itself"):
        render(job(Path("/r/x"), cluster=load_cluster({"sbatch": (option,)})))


def test_quotes_in_an_option_of_sbatch_stay() -> None:
    text = render(job(Path("/r/x"), cluster=load_cluster({"sbatch": ("--comment='my job' --mem=0",)})))["train.sbatch"]
    assert "#SBATCH '--comment=my job'\n#SBATCH --mem=0\n" in text


def test_the_cluster_command_prints_what_is_in_force(cluster_file: Path) -> None:
    cluster_file.write_text("interface: bond7\n")
    done = launch("cluster")
    in_force, _, example = done.stdout.partition("# ---- an example\n")
    assert yaml.safe_load(in_force)["interface"] == "bond7"
    assert example == EXAMPLE


def test_apptainer_runs_the_ranks_inside() -> None:
    cluster = ClusterConfig(container="umt.sif", container_runtime="apptainer", mounts=("/data:/data",))
    text = render(job(Path("/r/x"), cluster=cluster))["train.sbatch"]
    assert "apptainer exec --nv --bind /r/x:/r/x,/r:/r,/data:/data --pwd /r umt.sif bash /r/x/launch/rank.sh" in text


@pytest.mark.parametrize("name", ["a:b", "a,b"])
def test_a_folder_that_cannot_be_mounted_into_a_container_is_refused(name: str) -> None:
    with pytest.raises(MachineError, match="cannot be mounted"):
        render(job(Path("/r") / name, cluster=ClusterConfig(container="umt.sqsh")))


# ---------------------------------------------------------------- who makes the ranks


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_one_launcher_a_node_makes_the_ranks_of_it(launcher: str, tmp_path: Path) -> None:
    files = render(job(tmp_path / "run", launcher=launcher, cluster=ClusterConfig(cpus_per_task=3)))
    assert "#SBATCH --ntasks-per-node=1\n#SBATCH --cpus-per-task=12\n" in files["train.sbatch"]
    assert f"bash {tmp_path}/run/launch/node.sh &" in files["train.sbatch"]
    words = {"torchrun": "--nproc-per-node=4", "deepspeed": f"--hostfile={tmp_path}/run/launch/hostfile"}
    assert words[launcher] in files["node.sh"]


def test_hosts_without_slurm_are_for_the_deepspeed_launcher(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# ours\nnode1 slots=2\nnode2 slots=2  # old\n")
    words = [*RUN, "--hosts", str(hosts), "batch.global=64", f"run_dir={tmp_path}/run", "--dry-run"]
    told = here(*words, "--launcher", "deepspeed")
    ours = f"--hostfile={tmp_path}/run/launch/hostfile --master_addr=node1 --module umt_ds train"
    assert f"deepspeed.launcher.runner {ours}" in told
    with pytest.raises(ConfigError, match="--hosts cannot be used with --launcher srun"):
        here(*words)
    with pytest.raises(ConfigError, match=r"batch\.global=32"):  # is not 16 x 4 ranks
        here(*words, "batch.global=32", "--launcher", "deepspeed")


@pytest.mark.parametrize("line", ["node1", "node1 slots=0", "node1 slots=two", "node0 slots=1", ""])
def test_a_host_file_that_deepspeed_could_not_read_is_refused_by_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(f"node0 slots=1\n{line}\n" if line else "\n")
    with pytest.raises(ConfigError, match="line 2" if line else "names no host"):
        read_hostfile(path)


@pytest.mark.parametrize(
    "line",
    [
        "gpu[1-2] slots=1", "a:22 slots=1", "-oX slots=1", "u@h slots=1", "a slots=٣", "a slots=08", "NODE0 slots=1",
        "localhost slots=1", "a slots=1 max_slots=2", "a slots=1\x0cb slots=1",
    ],
)  # fmt: skip
def test_hosts_that_no_launcher_would_reach_are_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(f"node0 slots=1\n{line}\n")
    with pytest.raises(ConfigError, match=str(path)):
        read_hostfile(path)


def test_a_host_file_of_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes("node0\tslots=1 # größe\r\n\r\nnode1   slots=2\r\n".encode("utf-8-sig"))
    assert read_hostfile(path) == {"node0": 1, "node1": 2}
    assert as_hostfile(read_hostfile(path)) == "node0 slots=1\nnode1 slots=2\n"


@pytest.mark.parametrize("data", [b"a slots=1\n# gr\xf6\xdfe\n", "\na slots=1".encode("utf-16-le") + b"\xff\xdf"])
def test_a_host_file_in_another_encoding_is_refused_with_its_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{path} is not UTF-8 \(line 2\)"):
        read_hostfile(path)


def test_one_host_that_is_another_machine_is_reached_by_ssh(tmp_path: Path) -> None:
    assert is_here({"localhost": 2})
    assert not is_here({"node1": 2})
    hosts = tmp_path / "hosts"
    hosts.write_text("node1 slots=2\n")
    words = [*RUN, "--hosts", str(hosts), "--launcher", "deepspeed", f"run_dir={tmp_path}/run", "--dry-run"]
    assert "--master_addr=node1 --force_multi --module" in here(*words)
    with pytest.raises(ConfigError, match=r"env: A=.* would not reach the hosts"):
        here(*words, "--env", "A=$x")


# ---------------------------------------------------------------- the batch shell


class Shell:
    """The batch shell of a job on one node, whose `srun` starts one rank that is a line of bash."""

    def __init__(self, folder: Path, *, stop_at: int | None = None) -> None:
        self.folder, self.run, self.bin = folder, folder / "run", folder / "bin"
        self.launch = self.run / "launch"
        for new in (self.launch, self.run / "checkpoints", self.bin):
            new.mkdir(parents=True)
        for name, text in render(job(self.run, nodes=1, stop_at=stop_at)).items():
            (self.launch / name).write_text(text)
        self.slurm_says("PreemptTime=None")

    def slurm_says(self, about_the_job: str) -> None:
        answers = {"show hostnames": "n1", "show node": "A=1 NodeAddr=10.0.0.7 B=2", "show job": about_the_job}
        cases = " ".join(f'"{asked}") echo "{answer}";;' for asked, answer in answers.items())
        program(self.bin, "scontrol", f'case "$1 $2" in {cases} *) echo "$@" >>{self.folder}/requeued;; esac')

    def start(self, rank: str, *, srun_code: str = "$?") -> subprocess.Popen[bytes]:
        (self.folder / "rank").write_text(rank)
        program(self.bin, "srun", f"bash {self.launch}/rank.sh bash {self.folder}/rank; exit {srun_code}")
        env = {
            **os.environ,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "12",
            "SLURM_JOB_NODELIST": "n1",
        }
        env |= {"RUN": str(self.run)}
        return subprocess.Popen(["bash", str(self.launch / "train.sbatch")], env=env, stdout=subprocess.DEVNULL)

    @property
    def requeues(self) -> int:
        path = self.folder / "requeued"
        return path.read_text().splitlines().count("requeue 12") if path.exists() else 0


# as ranks do: they start, stop together when they see the file, and save
TRAIN = "touch $RUN/up; until [ -e $RUN/stop ]; do sleep 0.02; done; mkdir $RUN/checkpoints/step-00000007; exit 75"


@pytest.mark.parametrize(
    ("by", "requeues", "said"),
    [
        (signal.SIGUSR1, 1, "before the time limit or by preemption: requeued"),
        (signal.SIGUSR2, 0, "stopped: umt-launch resume"),
        (signal.SIGTERM, 0, "cancelled: umt-launch resume"),
        (None, 0, "by the file stop"),
    ],
)
def test_the_shell_requeues_what_its_own_usr1_stopped_and_nothing_else(
    by: signal.Signals | None, requeues: int, said: str, tmp_path: Path
) -> None:
    shell = Shell(tmp_path)
    batch = shell.start(TRAIN)
    deadline = time.monotonic() + 20
    while not (shell.run / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if by is not None:
        batch.send_signal(by)
    if by in (None, signal.SIGTERM):  # which Slurm sends to the ranks too
        (shell.run / "stop").touch()
    assert batch.wait(timeout=20) == 75
    assert shell.requeues == requeues
    last = (shell.launch / "history").read_text().splitlines()[-1]
    assert "exit 75, newest checkpoint: step-00000007; " in last
    assert said in last


def test_a_preemption_that_only_the_ranks_were_told_of_is_requeued(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.slurm_says("JobState=RUNNING PreemptTime=2026-01-01T00:00:00")
    assert (shell.start("exit 75").wait(timeout=20), shell.requeues) == (75, 1)
    assert "by preemption: requeued" in (shell.launch / "history").read_text()


def test_a_job_that_hangs_is_requeued_three_times_without_progress_then_ends_with_1(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    assert shell.start("exit 75").wait(timeout=20) == 75
    assert shell.start("mkdir $RUN/checkpoints/step-00000001; exit 75").wait(timeout=20) == 75, "counts anew from here"
    assert [shell.start("exit 75").wait(timeout=20) for _ in range(4)] == [75, 75, 75, 1]
    assert shell.requeues == 5
    assert "no new checkpoint in 4 starts" in (shell.launch / "history").read_text()


def test_what_a_crash_left_of_the_count_counts_anew_and_only_checkpoints_are_progress(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (shell.launch / "stalls").write_bytes(b"\0\0\0")
    for name in ("step-5", "step-00000009.partial", "step-\u0665\u0665\u0665\u0665\u0665\u0665\u0665\u0665"):
        (shell.run / "checkpoints" / name).mkdir()
    assert shell.start("mkdir $RUN/checkpoints/step-00000009.aside-1; exit 75").wait(timeout=20) == 75
    assert (shell.launch / "stalls").read_text() == "1\n"
    assert "newest checkpoint: none" in (shell.launch / "history").read_text()


def test_a_job_that_the_limit_stops_before_its_first_step_is_requeued_three_times_then_ends_with_1(
    tmp_path: Path,
) -> None:
    shell = Shell(tmp_path)
    too_short = "kill -USR1 $(cat $RUN/batch); until [ -e $RUN/stop ]; do sleep 0.02; done; rm $RUN/stop; exit 75"
    codes = []
    for _ in range(4):
        batch = shell.start(f"until [ -s $RUN/batch ]; do sleep 0.02; done; {too_short}")
        (shell.run / "batch").write_text(str(batch.pid))
        codes.append(batch.wait(timeout=20))
    assert codes == [75, 75, 75, 1]
    assert shell.requeues == 3
    assert (
        "no new checkpoint in 4 starts, the last one: stopped before the time limit"
        in (shell.launch / "history").read_text()
    )


def test_ranks_that_the_submitting_shell_spoke_of_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_WORLD_SIZE", "CROSS_SIZE"):
        monkeypatch.setenv(name, "1")
    shell = Shell(tmp_path)
    assert shell.start("env | grep -E '^(RANK|WORLD_SIZE|LOCAL_RANK|GROUP_|CROSS_)' >$RUN/told; exit 0").wait(20) == 0
    assert (shell.run / "told").read_text() == ""


def test_a_submission_that_cannot_be_noted_says_which_job_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "sbatch", f"rm {tmp_path}/launch/jobs.jsonl; mkdir {tmp_path}/launch/jobs.jsonl; echo 4711")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "train.sbatch").write_text("#SBATCH --requeue\n")
    with pytest.raises(MachineError, match=r"job 4711 is submitted, but could not be noted(.|\n)*scancel 4711"):
        submit_run(tmp_path, "much")


def test_where_stop_at_says_the_job_stays_stopped(tmp_path: Path) -> None:
    shell = Shell(tmp_path, stop_at=7)
    assert (shell.start("mkdir $RUN/checkpoints/step-00000007; exit 75").wait(timeout=20), shell.requeues) == (75, 0)


@pytest.mark.parametrize(
    ("rank", "launcher_code", "code", "requeues"),
    [
        ("exit 0", 0, 0, 0),
        ("exit 1", 1, 1, 0),
        ("exit 75", 1, 75, 1),  # torchrun makes 1 of it
        ("exit 75", 137, 75, 1),  # srun: a hung rank was killed after the others had left
        ("kill -9 $PPID", 0, 1, 0),  # deepspeed makes 0 of a launcher that was killed
    ],
)
def test_the_code_of_the_ranks_reaches_the_shell_whatever_the_launcher_makes_of_it(
    rank: str, launcher_code: int, code: int, requeues: int, tmp_path: Path
) -> None:
    shell = Shell(tmp_path)
    assert shell.start(rank, srun_code=str(launcher_code)).wait(timeout=20) == code
    assert shell.requeues == requeues


def test_the_master_is_the_address_of_the_first_node_and_hosts_are_the_allocation(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    told = 'echo "$MASTER_ADDR $MASTER_PORT $UMT_EXPECTED_WORLD" >$RUN/told'
    assert shell.start(told).wait(timeout=20) == 0
    assert (shell.run / "told").read_text() == "10.0.0.7 20012 4\n"
    assert read_hostfile(shell.launch / "hostfile") == {"n1": 4}


def test_resume_submits_the_same_file_again_from_a_clean_slate(tmp_path: Path) -> None:
    program(tmp_path, "sbatch", f'echo "$2" >>{tmp_path}/submitted; echo 5')
    program(tmp_path, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    run = tmp_path / "run"
    assert launch(*RUN, "--gpus-per-node", "2", f"run_dir={run}", path=tmp_path).returncode == 0
    for left_over in (run / "stop", run / "launch" / "stalls"):
        left_over.touch()
    assert launch("resume", str(run), path=tmp_path).returncode == 0
    assert (tmp_path / "submitted").read_text().splitlines() == [f"{run}/launch/train.sbatch"] * 2
    assert len([json.loads(line) for line in (run / "launch" / "jobs.jsonl").read_text().splitlines()]) == 2
    assert not (run / "stop").exists()
    assert not (run / "launch" / "stalls").exists()


def submitted(run: Path, *lines: bytes) -> Path:
    (run / "launch").mkdir(parents=True)
    (run / "launch" / "jobs.jsonl").write_bytes(b"".join(lines))
    return run


WHOLE = b'{"job": "5", "submitted": "2026-01-01T00:00:00+00:00", "asked": "1 node"}\n'


@pytest.mark.parametrize(
    "line",
    [b'{"job": "6", "subm', b"null\n", b'{"job": 6}\n', bytes(40), b"\xff\n", WHOLE.replace(b'"5"', b"5"), b"[" * 9999],
)
def test_a_submission_that_cannot_be_read_is_one_error_as_its_job_may_run(tmp_path: Path, line: bytes) -> None:
    """To take the line before it could put two jobs into one run folder."""
    assert last_submission(submitted(tmp_path / "whole", WHOLE)).job == "5"
    with pytest.raises(MachineError, match=r"jobs\.jsonl: line 2 tells of no submission") as raised:
        last_submission(submitted(tmp_path / "odd", WHOLE, line))
    assert "squeue" in str(raised.value.hint)


def test_the_status_survives_a_history_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launchers.runs.state_of", lambda job: "RUNNING")
    run = submitted(tmp_path / "run", WHOLE)
    (run / "launch" / "history").write_bytes(b"\xff\0\nstarted\n")
    assert ("history", "started") in describe(run)
