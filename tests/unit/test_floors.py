"""The house keeps its shape: imports point down, each third-party library has one door, some rooms are torch-free.

The tables below are the plan of the house (umt_ds/README.md, "Floors"); every import statement of every module is
held against them, also those inside functions and under TYPE_CHECKING: a type from upstairs is knowledge of
upstairs. What a test finds wrong here is moved, or the plan is changed in the same commit, with the reason.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.paths import REPO

# A room is a module or package directly below the house. It imports itself, and rooms of lower floors.
HOUSES: dict[str, tuple[frozenset[str], ...]] = {
    "umt_ds": (
        # failures, settings, types that travel
        frozenset(
            {"errors", "refused", "environment", "terminal", "keyed", "batch", "whole_file", "config", "classes"}
        ),
        frozenset({"distributed"}),  # ranks and collectives, no DeepSpeed
        frozenset({"kernels"}),  # fast maths, each with a torch reference
        frozenset({"models", "losses", "masking", "data"}),  # four siblings: a sibling's service is an argument
        frozenset({"evaluation"}),  # how to score a module: it knows nothing of training
        frozenset({"engine", "weights"}),  # how to run, with evaluations between the steps; how to load and export
        frozenset({"tasks"}),  # what to learn, and by which evaluators it is judged
        frozenset({"jobs"}),  # one rank of a training or evaluation job
        # how fast it is; what came of a run; clips as vectors; models for other programs
        frozenset({"bench", "report", "search", "exchange"}),
        frozenset({"preflight"}),  # what one looks at before a job is queued
        frozenset({"api"}),  # trained models from Python
        frozenset({"cli"}),  # the commands
    ),
    "umt_ds.data": (
        frozenset({"lru_cache"}),
        frozenset({"shards"}),  # what lies where, and how it is read
        frozenset({"order", "pixels"}),  # which samples and frames; from bytes to views
        frozenset({"clips", "vocabulary", "pipeline", "collate", "faults"}),
        frozenset({"clip_request"}),  # what an evaluation wants of a clip
        frozenset({"on_device", "evaluation", "text"}),
        frozenset({"loader_plan", "video_clips"}),  # what a loader is told; video files without a set
        frozenset({"draws"}),  # what a draw shows
        frozenset({"worker"}),  # micro-batches of draws
        frozenset({"loader"}),  # the trainer's side
    ),
    "data_prep": (
        frozenset({"clip", "engines", "spool", "decode"}),  # what a clip is; processes that decode one
        frozenset({"tables", "state"}),  # tables of users; what a set in the making leaves on disk
        frozenset({"checking"}),  # what can be said of a finished set
        frozenset({"leaks"}),  # what two sets share
        frozenset({"sources", "protocols"}),  # corpora as listings of clips; what is asked of them
        frozenset({"making"}),  # listings to shards
        frozenset({"cli"}),
    ),
}
# The exceptions inside a floor.
SIBLINGS = {
    "umt_ds.config": {"errors", "environment"},
    "umt_ds.environment": {"errors"},
    "umt_ds.refused": {"errors"},
    "umt_ds.classes": {"errors"},
    "data_prep.decode": {"clip", "engines", "spool"},  # a long clip may take longer; members go to a file
}
VERSION = "umt_ds"  # `from umt_ds import __version__`: anybody may

# What the other packages may know of umt_ds and of each other.
NEIGHBOURS = {
    "data_prep": (
        "umt_ds.data.pixels.picture",  # the door for picture files
        "umt_ds.data.shards.storage",  # folders and URLs; the door to fsspec
        "umt_ds.data.shards.folders",  # what lies below one
        "umt_ds.data.shards.suffixes",  # what files are by their names
        "umt_ds.data.shards.store_answers",  # what stores say, and what to do about it
        "umt_ds.data.shards.fetch",  # files of a disk or a store; whose fault it is where one cannot be read
        "umt_ds.data.clips",  # a sample's members to frames, as training reads them
        "umt_ds.data.pixels.decode",  # the types of those frames, and the size of an array
        "umt_ds.data.shards.records",  # the shard contract
        "umt_ds.data.shards.manifest",  # and what a set says of itself
        "umt_ds.data.shards.node_index",  # the index of a whole set
        "umt_ds.data.shards.set_index",
        "umt_ds.data.shards.arrow_files",  # the statistics of a set are columns of such a file
        "umt_ds.data.shards.items",  # tables over the frames of a set
        "umt_ds.data.shards.source",  # a set as training reads it
        "umt_ds.data.shards.tars",  # what lies in a tar
        "umt_ds.data.shards.left_out",  # and what of it is not read
        "umt_ds.data.shards.sample_record",  # what a sample says of itself
        "umt_ds.data.pixels.video",  # the door to PyAV
        "umt_ds.data.pixels.video_scan",  # and what it says of a video that is not stored
        "umt_ds.data.order.views",  # the frames that evaluation shows, so that a set can hold exactly those
        "umt_ds.distributed.parent",  # decode processes end with the one that started them
        "umt_ds.distributed.leftovers",  # temporary files go with their process
        "umt_ds.config.cluster",  # the habits of the cluster, for a job array
        "umt_ds.environment",
        "umt_ds.errors",
        "umt_ds.refused",
        "umt_ds.terminal",  # progress bars
        "umt_ds.whole_file",  # files that appear whole
        "umt_ds.classes",  # class lists of the corpora, in the order of published heads
        "umt_ds.keyed",  # the demo's clips are drawn by key, so that they are the same everywhere
        VERSION,  # into the manifest of a shard set
        "launchers.slurm",  # a job array that makes shards
    ),
    "launchers": (
        "umt_ds.config.*",
        "umt_ds.environment",
        "umt_ds.errors",
        "umt_ds.whole_file",
        "umt_ds.engine.manifest",
        "umt_ds.engine.readback",
        "umt_ds.refused",
        VERSION,
    ),
    "ds_configs": (),
}
# And who may know the neighbours: umt_ds only the folder of DeepSpeed files, where it is read, and data_prep, where
# its speed is measured.
NEIGHBOURS_OF_THE_PACKAGE = {
    "ds_configs": ("umt_ds.config.deepspeed_json",),
    "data_prep": ("umt_ds.bench.prep", "umt_ds.bench.loader"),
    "launchers": (),
}

# Library → the modules that may import it. Version quirks are handled behind these doors.
DOORS = {
    "deepspeed": ("umt_ds.engine.*",),
    # the kernels; whether it works; compiling ahead of time
    "triton": ("umt_ds.kernels.*.triton", "umt_ds.kernels.backend", "umt_ds.kernels.launch"),
    "flash_attn": ("umt_ds.kernels.attention.flash",),
    "flash_attn_interface": ("umt_ds.kernels.attention.flash",),  # its version 3
    "decord": ("umt_ds.bench.prep", "umt_ds.bench.loader"),  # as what others use, to compare with
    "av": ("umt_ds.data.pixels.video*",),
    "transformers": ("umt_ds.models.bert", "umt_ds.data.text", "umt_ds.weights.*", "umt_ds.exchange.transformers"),
    "tokenizers": ("umt_ds.data.text",),
    "open_clip": ("umt_ds.models.clip_towers", "umt_ds.weights.*", "umt_ds.tasks.image_text.task"),
    # image towers; rates that fall from layer to layer; blocks of the attentive probe
    "timm": (
        "umt_ds.models.timm_tower",
        "umt_ds.models.timm_blocks",
        "umt_ds.engine.optim",
        "umt_ds.evaluation.probes.heads",
        "umt_ds.exchange.timm",
    ),
    "webdataset": ("umt_ds.data.shards.stream",),
    "pydantic": ("umt_ds.config.*",),
    "yaml": ("umt_ds.config.*",),
    "click": ("umt_ds.cli*", "data_prep.cli*", "launchers.cli"),
    "pyarrow": (
        "umt_ds.jobs.score_files",
        "umt_ds.search.*",  # vectors in parquet files
        "umt_ds.data.shards.arrow_files",
        "umt_ds.data.shards.set_index",
        "umt_ds.data.shards.items",
        "data_prep.state.statistics",  # columns
        "data_prep.tables.annotations",
        "data_prep.tables.parquet_files",
    ),
    "onnxruntime": ("umt_ds.exchange.onnx",),
    "huggingface_hub": ("umt_ds.exchange.safetensors",),  # cuts a model into files
    "wandb": ("umt_ds.engine.report",),
    "tqdm": ("umt_ds.terminal",),
    "upath": ("umt_ds.data.shards.storage",),
    "ray": ("data_prep.making.cluster",),
    "faiss": ("umt_ds.search.faiss_file",),
    "scenedetect": ("data_prep.sources.scenes",),
    "py3langid": ("data_prep.sources.before",),
    "imagehash": ("data_prep.leaks.near_duplicates",),
}

# Importing these must not load torch: commands answer at once, decode workers stay small, launchers run on
# login nodes. (`umt_ds.jobs.train` is one rank of a training job and loads everything.)
TORCH_FREE = (
    "umt_ds", "umt_ds.__main__", "umt_ds.environment", "umt_ds.errors", "umt_ds.refused", "umt_ds.keyed",
    "umt_ds.whole_file", "umt_ds.classes",
    "umt_ds.config.*", "umt_ds.cli", "umt_ds.cli.config", "umt_ds.cli.train", "umt_ds.cli.report",
    "umt_ds.distributed.world", "umt_ds.distributed.local", "umt_ds.distributed.parent",
    "umt_ds.distributed.leftovers", "umt_ds.engine.manifest", "umt_ds.engine.readback", "umt_ds.engine.tidy",
    "umt_ds.engine.metrics_file", "umt_ds.engine.best", "umt_ds.data.shards.storage", "umt_ds.data.shards.folders",
    "umt_ds.data.clips", "umt_ds.data.shards.suffixes", "umt_ds.data.shards.store_answers", "umt_ds.data.shards.fetch",
    "umt_ds.data.shards.records", "umt_ds.data.shards.manifest", "umt_ds.data.shards.tars",
    "umt_ds.data.shards.left_out",
    "umt_ds.data.pixels.picture", "umt_ds.data.shards.sample_record", "umt_ds.data.pixels.video*", "umt_ds.bench",
    "umt_ds.bench.machine", "umt_ds.bench.prep", "umt_ds.bench.step_report", "umt_ds.bench.step_sweep",
    "umt_ds.cli.bench", "umt_ds.cli.verify_run", "umt_ds.cli.doctor", "umt_ds.preflight.run_checks",
    "umt_ds.preflight.checks", "umt_ds.preflight.input_checks",
    "umt_ds.cli.plan", "umt_ds.engine.gpus", "data_prep*", "launchers*", "ds_configs",
    "umt_ds.terminal", "umt_ds.report.compare_runs", "umt_ds.data.shards", "umt_ds.preflight",
    "umt_ds.data.order.frames", "umt_ds.data.order.views",
    "umt_ds.cli.eval", "umt_ds.cli.ranks", "umt_ds.jobs.eval_runs", "umt_ds.jobs.eval_plan", "umt_ds.jobs.score_files",
    "umt_ds.cli.predict", "umt_ds.jobs.predict_input",
    "umt_ds.cli.embed", "umt_ds.cli.search", "umt_ds.search.index_files", "umt_ds.search.part_files",
    "umt_ds.cli.import_", "umt_ds.tasks.importing.releases",
    "umt_ds.cli.export", "umt_ds.exchange", "umt_ds.exchange.targets", "umt_ds.weights.exported",
    "umt_ds.cli.probe", "umt_ds.cli.words", "umt_ds.jobs.probe_table", "umt_ds.config.probes",
)  # fmt: skip
LOADS_TORCH = {
    "torch",
    "torchvision",
    "deepspeed",
    "open_clip",
    "timm",
    "transformers",
    "webdataset",
    "safetensors.torch",
}

# Rooms without a subject become everybody's attic.
NO_ROOM_IS_CALLED = {"utils", "util", "common", "helpers", "misc", "core"}


@dataclass(frozen=True)
class Import:
    """One imported name of one module, as `umt_ds.data.pixels.video` (a module) or `torch.Tensor` (a name in one)."""

    module: str
    target: str
    line: int
    at_start: bool  # runs when the module is imported: not in a function, not under TYPE_CHECKING

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def module_name(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path for package in ("umt_ds", *NEIGHBOURS) for path in sorted((REPO / package).rglob("*.py"))
}


def imports_in(module: str, source: str) -> Iterator[Import]:
    """All of them, wherever they stand."""

    def walk(node: ast.AST, at_start: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            here = at_start and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            here = here and not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            if isinstance(child, ast.Import):
                for name in child.names:
                    yield Import(module, name.name, child.lineno, here)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}:{child.lineno}: imports are absolute here"
                for name in child.names:
                    yield Import(module, f"{child.module}.{name.name}", child.lineno, here)
            else:
                yield from walk(child, here)

    yield from walk(ast.parse(source), True)


def target_module(target: str) -> str:
    """The module of ours behind an imported name: `umt_ds.data.pixels.video.decode` → `umt_ds.data.pixels.video`."""
    while target not in MODULES and "." in target:
        target = target.rpartition(".")[0]
    return target


def is_among(module: str, patterns: tuple[str, ...]) -> bool:
    """`umt_ds.config.*` takes the package `umt_ds.config` too."""
    return any(fnmatch(module, p) or module == p.removesuffix(".*") for p in patterns)


def goes_up_or_sideways(one: Import) -> bool:
    """In a house of the table: is the target neither the importer's own room nor on a lower floor?"""
    target = target_module(one.target)
    if target == VERSION or one.module.endswith(".__main__"):  # `python -m umt_ds` stands above the house
        return False
    for house, floors in HOUSES.items():
        if not (one.module.startswith(f"{house}.") and target.startswith(f"{house}.")):
            continue
        depth = house.count(".") + 1
        mine, theirs = one.module.split(".")[depth], target.split(".")[depth]
        number = {room: n for n, rooms in enumerate(floors) for room in rooms}
        is_sibling = theirs in SIBLINGS.get(f"{house}.{mine}", ())
        if mine != theirs and not is_sibling and number[theirs] >= number[mine]:
            return True
    return False


def is_a_wrong_neighbour(one: Import) -> bool:
    """Between the top-level packages: does the plan leave this import out?"""
    mine, target = one.module.split(".")[0], target_module(one.target)
    theirs = target.split(".")[0]
    if mine == theirs or theirs not in {"umt_ds", *NEIGHBOURS}:
        return False
    if mine == "umt_ds":
        return not is_among(one.module, NEIGHBOURS_OF_THE_PACKAGE[theirs])
    return not is_among(target, NEIGHBOURS[mine])


def is_past_the_door(one: Import) -> bool:
    """Is a library with a door imported elsewhere?"""
    library = one.target.split(".")[0]
    return library in DOORS and not is_among(one.module, DOORS[library])


IMPORTS = [one for module, path in MODULES.items() for one in imports_in(module, path.read_text())]


def loads_torch(module: str) -> str | None:
    """How importing `module` loads torch, as a chain of modules; None if it does not."""
    by_module: dict[str, list[Import]] = {}
    for one in IMPORTS:
        if one.at_start:
            by_module.setdefault(one.module, []).append(one)
    seen, trails = set(), [[module]]
    while trails:
        trail = trails.pop()
        # importing a.b.c runs a and a.b first
        parts = trail[-1].split(".")
        for name in (".".join(parts[: n + 1]) for n in range(len(parts))):
            if name in seen or name not in MODULES:
                continue
            seen.add(name)
            for one in by_module.get(name, ()):
                if any(one.target == library or one.target.startswith(f"{library}.") for library in LOADS_TORCH):
                    return " → ".join([*trail, one.target])
                trails.append([*trail, target_module(one.target)])
    return None


# ---------------------------------------------------------------- the house as it stands


@pytest.mark.parametrize("house", HOUSES)
def test_every_room_is_on_a_floor(house: str) -> None:
    depth = house.count(".") + 1
    rooms = {name.split(".")[depth] for name in MODULES if name.startswith(f"{house}.")} - {"__main__"}
    assert rooms == frozenset().union(*HOUSES[house])


@pytest.mark.parametrize("house", HOUSES)
def test_the_readme_draws_the_house_as_it_is(house: str) -> None:
    """A line a floor, the top one first: its rooms, and after two spaces what they are for."""
    page = (REPO / "umt_ds" / "README.md").read_text()
    lines = page.split(f"\n{house}\n", maxsplit=1)[1].split("\n")
    drawn = [re.split(r"\s{2,}", line.strip())[0] for line in itertools.takewhile(lambda line: line[:2] == "  ", lines)]
    assert [frozenset(floor.split(", ")) for floor in reversed(drawn)] == list(HOUSES[house])


def test_imports_point_down() -> None:
    inside = [one for one in IMPORTS if one.module.split(".")[0] == target_module(one.target).split(".")[0]]
    assert len(inside) > 100, "the walk finds them"
    assert [str(one) for one in inside if goes_up_or_sideways(one)] == []


def test_the_other_packages_know_only_what_they_may() -> None:
    assert [str(one) for one in IMPORTS if is_a_wrong_neighbour(one)] == []


def test_each_library_is_imported_behind_its_door_only() -> None:
    assert [str(one) for one in IMPORTS if is_past_the_door(one)] == []


@pytest.mark.parametrize("module", sorted(name for name in MODULES if is_among(name, TORCH_FREE)))
def test_importing_this_module_does_not_load_torch(module: str) -> None:
    assert loads_torch(module) is None


def settings_of_tasks() -> frozenset[str]:
    """The classes of `config/tasks/` but for what all tasks share."""
    files = [path for name, path in MODULES.items() if is_among(name, ("umt_ds.config.tasks.*",))]
    classes = {
        node.name
        for path in files
        if path.stem not in ("__init__", "base")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    return frozenset(classes | {"TaskConfig"})


OF_TASKS = settings_of_tasks()
ROOMS = frozenset(path.parent.name for path in MODULES.values() if path.match("tasks/*/room.py"))
# "recognition" and "retrieval" are also rules of frames, which sets are made with (`umt-data --views recognition:8x4`),
# and kinds of published splits (`umt-data protocols`).
NAMES_RULES_OF_FRAMES = ("umt_ds.data.order.views", "umt_ds.config.evaluation", "data_prep.*")


def knowledge_of_a_task(module: str, source: str) -> Iterator[str]:
    """Where `module`, which is outside `tasks`, `config` and `bench`, tells tasks apart: it names a settings class, by
    whatever way it came or as text, a kind, or the inside of a room, or asks whether a task has some setting."""
    if is_among(module, ("umt_ds.tasks.*", "umt_ds.config.*", "umt_ds.bench.*")):
        return
    for node in ast.walk(ast.parse(source)):
        names = [node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else []
        names += [node.name.rpartition(".")[2]] if isinstance(node, ast.alias) else []
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        asks = ast.unparse(node) if isinstance(node, ast.Call) else ""
        if (
            OF_TASKS & {*names, text}
            or (text in ROOMS and not is_among(module, NAMES_RULES_OF_FRAMES))
            or re.match(r"(has|get)attr\((\w+\.)*task,", asks)
        ):
            yield f"{module}:{node.lineno} knows {text or ast.unparse(node)}"
    for one in imports_in(module, source):
        if is_among(one.target, tuple(f"umt_ds.tasks.{room}.*" for room in ROOMS)):
            yield str(one)


def test_only_tasks_config_and_bench_tell_tasks_apart() -> None:
    """Anybody else would be one more place to touch for a new task: what they need, `TaskSettings` or a room says."""
    assert min(len(ROOMS), len(OF_TASKS)) >= 3, "the walk finds them"
    elsewhere = [found for module, path in MODULES.items() for found in knowledge_of_a_task(module, path.read_text())]
    assert elsewhere == []


def test_no_kind_is_named_where_a_configuration_is_told_or_a_step_is_measured() -> None:
    """No `kind == "stage1"` in `config` and `bench` either."""
    elsewhere = [
        f"{module}:{node.lineno} says {node.value!r}"
        for module, path in MODULES.items()
        if not is_among(module, ("umt_ds.tasks.*", "umt_ds.config.tasks.*", *NAMES_RULES_OF_FRAMES))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in ROOMS
    ]
    assert elsewhere == []


def test_every_door_is_there() -> None:
    """A pattern that no module has any more allows nothing; what it was for has moved, or gone."""
    patterns = [pattern for doors in DOORS.values() for pattern in doors] + list(TORCH_FREE)
    patterns += [p for p in NEIGHBOURS["data_prep"] + NEIGHBOURS["launchers"]]
    assert [p for p in patterns if not any(is_among(module, (p,)) for module in MODULES)] == []


def test_no_room_is_called_after_nothing() -> None:
    assert [name for name in MODULES if NO_ROOM_IS_CALLED & set(name.split("."))] == []


def test_nothing_is_imported_by_string_but_the_commands() -> None:
    """`import_module` would pass unseen here; the commands are imported by name so that `umt --help` is quick."""
    by_string = [
        f"{module}:{node.lineno}"
        for module, path in MODULES.items()
        if module != "umt_ds.cli"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")
    ]
    assert by_string == []


# ---------------------------------------------------------------- would it be noticed?


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("umt_ds.models.vit", "from umt_ds.engine.optim import decay_groups", True),
        ("umt_ds.models.vit", "def f():\n    import umt_ds.tasks.stage1.task", True),
        ("umt_ds.models.vit", "if TYPE_CHECKING:\n    from umt_ds.data.shards.records import Manifest", True),
        ("umt_ds.masking", "from umt_ds import models", True),
        ("umt_ds.batch", "from umt_ds.config import schema", True),
        ("umt_ds.evaluation.metrics.knn", "from umt_ds.tasks.kinds import build_task", True),
        ("umt_ds.models.vit", "from umt_ds.models import layers\nfrom umt_ds.kernels.philox import uniform", False),
        ("umt_ds.config.load", "from umt_ds.errors import ConfigError\nfrom umt_ds import __version__", False),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_seen(module: str, source: str, bad: bool) -> None:
    assert any(map(goes_up_or_sideways, imports_in(module, source))) is bad


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("data_prep.state.writer", "from umt_ds.data import loader", True),
        ("data_prep.state.writer", "from umt_ds.config.load import load_run", True),
        ("launchers.slurm", "from umt_ds.engine.loop import train", True),
        ("launchers.slurm", "import data_prep", True),
        ("umt_ds.data.loader", "from data_prep.state.plan import Plan", True),
        ("umt_ds.cli.train", "import ds_configs", True),
        (
            "data_prep.state.writer",
            "from umt_ds.data.shards import records\nfrom umt_ds import __version__\nimport data_prep",
            False,
        ),
        (
            "launchers.slurm",
            "from umt_ds.config.load import load_run\nfrom umt_ds.engine.manifest import LATEST",
            False,
        ),
    ],
)
def test_a_wrong_neighbour_is_seen(module: str, source: str, bad: bool) -> None:
    assert any(map(is_a_wrong_neighbour, imports_in(module, source))) is bad


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("umt_ds.jobs.train", "import deepspeed.comm as dist", True),
        ("data_prep.decode", "def f():\n    import av", True),
        ("umt_ds.models.vit", "from timm.layers import DropPath", True),
        ("umt_ds.data.pixels.video", "import av", False),
        ("umt_ds.models.vit", "import available", False),
    ],
)
def test_a_library_past_its_door_is_seen(module: str, source: str, bad: bool) -> None:
    assert any(map(is_past_the_door, imports_in(module, source))) is bad


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("from umt_ds.config.tasks.stage1 import Stage1Config", True),
        ("from umt_ds.config.tasks import Stage1Config", True),
        ("from umt_ds.config import tasks\n\n\ndef f(t):\n    return isinstance(t, tasks.Stage2Config)", True),
        ("from umt_ds.tasks.stage1.room import Stage1Config", True),
        ("from umt_ds.config.run import TaskConfig", True),
        ("is_first = type(run.task).__name__ == 'Stage1Config'", True),
        ("from umt_ds.tasks.stage1.task import load_teacher", True),
        ("import umt_ds.tasks.stage2.model", True),
        ("from umt_ds.tasks.image_text import room", True),
        ("is_first = run.task.kind == 'stage1'", True),
        ("has_mask = hasattr(run.task, 'mask')", True),
        ("mask = getattr(self.config.task, 'mask', None)", True),
        ("from umt_ds.tasks.kinds import build_task\nfrom umt_ds.config.tasks.base import TaskSettings", False),
        ("told = f'task.kind {run.task.kind}: {run.task.summary}'", False),
    ],
)
def test_what_tells_tasks_apart_is_seen(source: str, bad: bool) -> None:
    assert any(knowledge_of_a_task("umt_ds.report.facts", source)) is bad


def test_torch_behind_another_module_is_seen() -> None:
    assert loads_torch("umt_ds.jobs.train") == "umt_ds.jobs.train → torch"
    assert str(loads_torch("umt_ds.models.presets")) == "None", "plain numbers"
    assert str(loads_torch("umt_ds.engine.optim")).endswith("→ torch")
