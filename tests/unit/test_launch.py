"""umt-launch: what is checked, kept and submitted; what the batch shell does (with stand-ins for Slurm's commands)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from launchers.hosts import read_hostfile
from launchers.runs import describe, last_submission
from launchers.train import TrainJob, render
from tests.support.ranks import environment
from umt_ds.config.cluster import EXAMPLE, ClusterConfig, load_cluster
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


def test_white_space_in_the_run_folder_is_refused() -> None:
    with pytest.raises(MachineError, match="white space"):
        render(job(Path("/my runs/x")))


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
        ("partitoin: gpu", "partitoin: unknown key\n  hint: did you mean partition\\?"),
        ("gpus_per_node: many", "gpus_per_node: .* valid integer"),
        ("- gpu", "does not hold a mapping"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_wrong_cluster_file_is_one_error_that_names_it(text: str, said: str, cluster_file: Path) -> None:
    cluster_file.write_text(text)
    with pytest.raises(ConfigError, match=f"(?s){cluster_file}.*{said}"):
        load_cluster()


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
    done = launch(*words, "--launcher", "deepspeed")
    assert f"deepspeed.launcher.runner --hostfile={hosts} --master_addr=node1 --module umt_ds train" in done.stdout
    assert launch(*words).returncode == 2
    assert launch(*words, "batch.global=32", "--launcher", "deepspeed").returncode == 2, "32 is not 16 x 4 ranks"


@pytest.mark.parametrize("line", ["node1", "node1 slots=0", "node1 slots=two", "node0 slots=1", ""])
def test_a_host_file_that_deepspeed_could_not_read_is_refused_by_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(f"node0 slots=1\n{line}\n" if line else "\n")
    with pytest.raises(ConfigError, match="line 2" if line else "names no host"):
        read_hostfile(path)


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
