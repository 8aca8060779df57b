"""What `umt doctor` looks at on a machine: one function each, which tells what is there, what follows, what to do.

Torch-free to import; each check imports what it needs when it runs (in a process of its own, see `run_checks.py`). What
a run reads is looked at in `input_checks.py`.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

from umt_ds.config.run import RunConfig
from umt_ds.distributed.world import free_port
from umt_ds.environment import EXPECTED_WORLD, Environment
from umt_ds.errors import MachineError

Status = Literal["ok", "note", "problem"]

_CHECKOUT = Path(__file__).resolve().parents[2]  # where umt_ds was installed with --editable, or not at all
_ANSWER_S = 60.0  # for a command that should answer at once
_DISK_BYTES, _BLOCK = 256 << 20, 4 << 20
_SLOW_DISK = 200e6  # bytes/s; ViT-L's checkpoint of 3.7 GB then takes 18 s
_SMALL_SHARED_MEMORY = 1 << 30
_FEW_FILES = 1024
_NETWORK = "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names the network interface (see `ip address`)"


@dataclass(frozen=True)
class Finding:
    """One line: what is `there`; `used`, what follows from it; `todo`, what to install or do."""

    status: Status
    there: str
    used: str = ""
    todo: str = ""
    name: str = ""

    def __str__(self) -> str:
        used = f" → {self.used}" if self.used else ""
        todo = f"; do: {self.todo}" if self.todo else ""
        line = " ".join(f"{self.there}{used}{todo}".split())
        return f"{self.status:8}{self.name:16} {line}"


Check = Callable[[], Finding]

# ---------------------------------------------------------------- software


def python() -> Finding:
    """The interpreter. (An older one than 3.11 would not have come here.)"""
    return Finding("ok", f"{platform.python_version()}, {sys.executable}")


def packages() -> Finding:
    """What umt_ds requires, by its own metadata; and, in a checkout, what it was tested with."""
    wanted = [requirement for requirement in _requirements() if not requirement.marker or requirement.marker.evaluate()]
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", _text(_CHECKOUT / "constraints.txt"), flags=re.MULTILINE))
    unfit, untested = [], []
    for requirement in wanted:
        have = _installed(requirement.name)
        if have is None or not requirement.specifier.contains(have, prereleases=True):
            unfit.append(f"{requirement.name}{requirement.specifier} ({have or 'absent'})")
            continue
        known = tested.get(requirement.name.lower().replace("_", "-"))
        if known and Version(have).public != known:
            untested.append(f"{requirement.name} {have} (tested: {known})")
    if unfit:
        return Finding("problem", f"not as required: {', '.join(unfit)}", todo="pip install umt_ds again")
    there = f"all {len(wanted)} requirements are met"
    if untested:
        return Finding("note", f"{there}; other than tested: {', '.join(untested)}", todo="if something is odd, "
                       "pip install --constraint constraints.txt")  # fmt: skip
    return Finding("ok", there + (", all as tested (constraints.txt)" if tested else ""))


def torch_build() -> Finding:
    """torch, and what it was built for."""
    import torch

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    if not torch.distributed.is_available():
        return Finding("problem", f"{torch.__version__}, {built}, without torch.distributed", todo="pip install torch")
    return Finding("ok", f"{torch.__version__}, {built}, {torch.get_num_threads()} threads")


def cuda() -> Finding:
    """Driver and devices."""
    import torch

    query = "--query-gpu=driver_version,name,memory.total,memory.used"
    driver = _answer("nvidia-smi", query, "--format=csv,noheader")
    if torch.cuda.is_available():
        return _devices(driver)
    if driver is None:
        return Finding("note", "no NVIDIA driver answers here", "the CPU, with gloo: engine.deepspeed=cpu.json")
    there = f"{len(driver.splitlines())} GPU(s), driver {driver.split(',')[0]}, but torch sees none"
    hidden = Environment().raw("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return Finding("note", f"{there}: CUDA_VISIBLE_DEVICES={hidden!r}", "the CPU", "unset it")
    if torch.version.cuda is None:
        return Finding("problem", f"{there}: it was built without CUDA", todo="pip install the ordinary torch wheel")
    todo = f"a driver for CUDA {torch.version.cuda}, or a torch >= 2.7 built for an older CUDA"
    return Finding("problem", f"{there}: it was built for CUDA {torch.version.cuda}", todo=todo)


def _devices(driver: str | None) -> Finding:
    import torch

    from umt_ds.distributed.device import has_code

    count = torch.cuda.device_count()
    name = torch.cuda.get_device_name(0)
    free, total = zip(*(torch.cuda.mem_get_info(device) for device in range(count)), strict=True)
    there = f"{count} x {name}, {min(total) / 1e9:.0f} GB each, {min(free) / 1e9:.0f} free at least"
    there += f", driver {driver.split(',')[0]}" if driver else ""
    built_for = torch.cuda.get_arch_list()
    foreign = [n for n in range(count) if not has_code(torch.cuda.get_device_capability(n), built_for)]
    if foreign:
        which = f"this torch has no code for {torch.cuda.get_device_name(foreign[0])}, only for {', '.join(built_for)}"
        return Finding("problem", f"{there}; {which}", todo="a torch >= 2.7 built for an older CUDA, or another GPU")
    if min(free) < 0.9 * min(total):
        return Finding("note", there, "NCCL", "somebody computes there already: see nvidia-smi")
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return Finding("note", f"{there}, without bf16", "NCCL", "engine.deepspeed=zero2_fp16.json")
    return Finding("ok", there, "NCCL, bf16")


def deepspeed() -> Finding:
    """Whether it imports; nothing is compiled."""
    return _import("deepspeed", used="ZeRO as engine.deepspeed says", missing="problem", todo="pip install deepspeed")


def triton() -> Finding:
    """For kernels of our own, on a GPU. Raises ConfigError and MachineError where UMT_KERNELS cannot be followed."""
    import torch

    from umt_ds.kernels.backend import choose

    choice = choose("cuda" if torch.cuda.is_available() else "cpu")
    if choice.broken:
        return Finding("note", choice.why, "kernels in plain torch", "install triton again, or UMT_KERNELS=torch")
    used = "our kernels run in Triton" if choice.triton else f"kernels in plain torch ({choice.why})"
    return _import("triton", used=used, missing="ok")


def flash_attention() -> Finding:
    """For attention, which torch has too: as a ViT in bf16 would choose."""
    import torch

    from umt_ds.kernels.attention import flash

    found = {name: _installed(name) for name in ("flash-attn", "flash-attn-3", "flash-attn-4")}
    there = ", ".join(f"{name} {number}" for name, number in found.items() if number) or "not installed"
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    choice = flash.choose(device, torch.bfloat16, 64)
    used = "torch's own fused attention" if choice.version is None else f"flash-attn {choice.version}"
    if choice.broken:
        return Finding("note", there, f"{used} ({choice.why})", "install it again, or remove it")
    return Finding("ok", there, f"{used} ({choice.why})")


def _import(module: str, *, used: str, missing: Status, todo: str = "") -> Finding:
    """Import it in a fresh interpreter: what a library does on import stays there."""
    if _installed(module.replace("_", "-")) is None:
        return Finding(missing, "not installed", used if missing == "ok" else "", todo)
    code = f"import {module}; print(); print({module}.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        worse: Status = "problem" if missing == "problem" else "note"
        return Finding(worse, f"is installed but does not import: {said}", todo=f"install {module} again, or remove it")
    return Finding("ok", done.stdout.splitlines()[-1], used)


# ---------------------------------------------------------------- ranks


def gloo() -> Finding:
    """Two processes on this machine, as `umt train --ranks 2` starts them on CPUs."""
    told = _all_reduce(2, {"CUDA_VISIBLE_DEVICES": ""})
    return Finding("ok", told, "for training on CPUs")


def nccl() -> Finding:
    """One process on each GPU of this machine."""
    import torch

    if not torch.cuda.is_available():
        return Finding("ok", "no GPU here, not tried", "gloo")
    number = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]  # (torch 2.14)
    return Finding("ok", f"{number}: {_all_reduce(torch.cuda.device_count(), {})}", "for training on GPUs")


def _all_reduce(ranks: int, variables: dict[str, str]) -> str:
    """What rank 0 of `umt_ds.bench.all_reduce` says. Raises MachineError with what a rank said instead."""
    everything = {**os.environ}
    env = {name: value for name, value in everything.items() if not name.startswith(("SLURM_", EXPECTED_WORLD))}
    env |= variables
    env |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    env.setdefault("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "umt_ds.bench.all_reduce"]
    children = [
        subprocess.Popen(
            command,
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    deadline = time.monotonic() + _ANSWER_S
    try:
        told = [child.communicate(timeout=max(1.0, deadline - time.monotonic())) for child in children]
    except subprocess.TimeoutExpired:
        surroundings = Environment()
        interface = surroundings.text("GLOO_SOCKET_IFNAME") or surroundings.text("NCCL_SOCKET_IFNAME") or "not set"
        raise MachineError(
            f"{ranks} ranks did not find one another within {_ANSWER_S:g} s (network interface: {interface})",
            hint=_NETWORK,
        ) from None
    finally:
        for child in children:
            child.kill()
            child.wait()
    for child, (_, errors) in zip(children, told, strict=True):
        if child.returncode:
            said = errors.strip()[-300:] or f"exit code {child.returncode}"
            raise MachineError(f"one of {ranks} ranks failed: {said}", hint=_NETWORK)
    return told[0][0].strip().splitlines()[-1]


def slurm() -> Finding:
    """The commands, the controller, and whether this is inside a job."""
    missing = [command for command in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(command) is None]
    if len(missing) == 4:
        return Finding("ok", "not on this machine", "umt train --ranks, torchrun or the deepspeed launcher")
    if missing:
        return Finding("note", f"{', '.join(missing)} missing", todo="install Slurm's client commands")
    there = _answer("sbatch", "--version") or "installed"  # without its configuration it tells no version
    env = Environment()
    job = env.text("SLURM_JOB_ID")
    if job is not None:
        nodes, tasks = env.text("SLURM_JOB_NUM_NODES") or "?", env.text("SLURM_NTASKS") or "1"
        return Finding("ok", f"{there}, inside job {job}: {nodes} node(s), {tasks} task(s)", "srun: one rank a task")
    ping = _answer("scontrol", "ping")
    if ping is None or " UP" not in ping:
        return Finding("note", f"{there}, but no controller answers", todo="umt-launch needs it: ask who runs it")
    return Finding("ok", f"{there}, the controller answers", "umt-launch")


# ---------------------------------------------------------------- disk, memory, limits


def disk(folder: Path) -> Finding:
    """Write 256 MB where checkpoints will lie, fsync, and read them back from the disk."""
    there = nearest_folder(folder)
    block = os.urandom(_BLOCK)
    with tempfile.TemporaryFile(dir=there) as file:  # has no name: nothing is left behind, whatever happens
        begin = time.perf_counter()
        for _ in range(_DISK_BYTES // _BLOCK):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = _DISK_BYTES / (time.perf_counter() - begin)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # or it would come from memory
        file.seek(0)
        begin = time.perf_counter()
        while file.read(_BLOCK):
            pass
        read = _DISK_BYTES / (time.perf_counter() - begin)
    free = shutil.disk_usage(there).free
    told = f"{there}: writes {written / 1e6:,.0f} MB/s, reads {read / 1e6:,.0f} MB/s, {free / 1e9:,.0f} GB free"
    used = f"a checkpoint of 1 GB (ViT-B) takes {1e9 / written:.1f} s"
    if written < _SLOW_DISK:
        return Finding("note", told, used, "save less often (cadence.save), or choose another run_dir")
    return Finding("ok", told, used)


def shared_memory(config: RunConfig | None) -> Finding:
    """Loader workers hand their batches over in /dev/shm."""
    usage = shutil.disk_usage("/dev/shm")
    there = f"{usage.total / 1e9:.1f} GB, {usage.free / 1e9:.1f} free"
    todo = "docker: --shm-size; or fewer data.workers, or a smaller batch.micro"
    if config is None:
        return Finding("ok", there) if usage.free >= _SMALL_SHARED_MEMORY else Finding("note", there, todo=todo)
    import torch

    from umt_ds.data.loader import LoaderPlan

    frames, side = config.task.clip_shape
    batch = config.batch.micro * config.data.num_sample * frames * side**2 * 3
    need = (config.data.workers * LoaderPlan.prefetch + 1) * batch
    ranks = max(1, torch.cuda.device_count())
    told = f"{there}; the loader of a rank fills {need / 1e9:.2f} GB ({config.data.workers} workers)"
    room = int(usage.free // need)
    if room < ranks:
        return Finding("note" if room else "problem", told, f"room for {room} of {ranks} ranks", todo)
    return Finding("ok", told, f"room for {room} ranks")


def open_files() -> Finding:
    """A worker keeps the shards of a window open, and a file for each batch under way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = f"{soft:,} (hard limit {hard:,})"
    if soft < _FEW_FILES:
        return Finding("note", there, todo=f"ulimit -n {min(hard, 65536)} in the job's script")
    return Finding("ok", there)


# ---------------------------------------------------------------- asking


def _requirements() -> Iterator[Requirement]:
    try:
        lines = requires("umt_ds") or []
    except PackageNotFoundError:  # run from a checkout
        lines = tomllib.loads(_text(_CHECKOUT / "pyproject.toml"))["project"]["dependencies"]
    return (requirement for line in lines if "extra" not in str((requirement := Requirement(line)).marker))


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _answer(*command: str) -> str | None:
    """What a command says; None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S / 2, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def nearest_folder(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    folder = folder.resolve()
    return next(path for path in (folder, *folder.parents) if path.is_dir())
