"""What messages, hints and helps name is there: each key in the settings of the task that they speak of, each command
and option in the click tree.

All text of the packages and their pages is looked at, but for docstrings of what is no command. A key that some tasks
lack may be named in code where its own task lives, or beside a recipe of that task, and nowhere else: nobody is sent to
a key that the run at hand does not have.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import zip_longest
from typing import get_args

import click
import pytest

from data_prep.cli import umt_data
from launchers.cli import launch
from tests.support.paths import REPO
from umt_ds.cli import umt
from umt_ds.config.load import load_run, load_tree, run_names
from umt_ds.config.outline import all_keys, keys_at, kinds_at, opened
from umt_ds.config.run import RunConfig
from umt_ds.errors import ConfigError

SECTIONS = ("task", "data", "batch", "optim", "schedule", "engine", "cadence", "init", "report", "evaluation")
KINDS = [
    get_args(task.model_fields["kind"].annotation)[0] for task in opened(RunConfig.model_fields["task"].annotation)
]
KIND_OF_RECIPE = {name: load_tree(name)[0]["task"]["kind"] for name in run_names()}
WITH_TEXT = ["stage2", "retrieval", "question_answering"]  # runs with a BERT
# Modules outside the rooms of a task that speak of some tasks alone.
OF_SOME_TASKS = {
    "umt_ds/bench/plain_recognition.py": ["recognition"],
    "umt_ds/bench/plain*.py": ["stage1", "stage2"],  # twins of two tasks
    "umt_ds/config/lone_rows.py": ["stage2", "retrieval"],
    "umt_ds/bench/fp8.py": ["stage1", "stage2"],  # of runs with a teacher
    "umt_ds/tasks/teacher.py": ["stage1", "stage2"],  # of runs with a teacher
    "umt_ds/tasks/importing/report.py": ["stage1", "stage2"],  # of runs that read a CLIP
    "umt_ds/tasks/importing/identify.py": WITH_TEXT,  # of runs that read a BERT
    "umt_ds/weights/README.md": ["stage1", "stage2"],  # of runs that read a CLIP
    "umt_ds/tasks/bert.py": WITH_TEXT,
    "umt_ds/tasks/captions.py": WITH_TEXT,
    "umt_ds/tasks/initial.py": WITH_TEXT,  # of runs that read a vocabulary
    "umt_ds/tasks/video_text/*.py": ["stage2", "retrieval"],
    "umt_ds/data/draws.py": ["recognition"],  # of runs that learn classes
    "umt_ds/cli/export.py": WITH_TEXT,
    "umt_ds/tasks/encoders.py": ["recognition", *WITH_TEXT],  # of runs whose positions can be stretched
    "umt_ds/tasks/file_run.py": ["recognition", *WITH_TEXT],  # of files with classes, and of those with a BERT
    "umt_ds/preflight/task_checks.py": ["recognition", *WITH_TEXT],  # of runs that learn classes, and that read text
}
PROGRAMS = {"umt": umt, "umt-data": umt_data, "umt-launch": launch}
# What follows a program's name in prose.
PROSE = {"and", "cannot", "does", "has", "is", "needs", "python", "stores", "submitted", "with", "wrote"}
# Of Slurm, docker, tar, pip, torchrun and the deepspeed launcher.
FOREIGN_OPTIONS = {
    "--caption_col", "--constraint", "--container-image", "--exclusive", "--gres", "--ignore-zeros", "--image_size",
    "--input_format", "--local-dir", "--master-addr", "--master_port", "--mem", "--module", "--nnodes", "--node-rank",
    "--nproc-per-node", "--ntasks-per-node", "--output_folder", "--output_format", "--pids-limit", "--repo-type",
    "--resize_mode", "--shm-size", "--signal", "--sort", "--sparse", "--url_col", "--url_list",
}  # fmt: skip

KEY = re.compile(rf"(?<![\w./*-])(?:{'|'.join(SECTIONS)})(?:\.[a-z_*][\w*-]*)+(?![\w/(])")
FILES = (".py", ".json", ".yaml")
FOLDERS = ("data_prep", "launchers", "ds_configs")  # with pages for users
COMMAND = re.compile(r"(?<![\w/.-])(umt|umt-data|umt-launch) ([a-z][\w-]*)(?: ([a-z][\w-]*))?")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")


# ---------------------------------------------------------------- what is said


@dataclass(frozen=True)
class Said:
    """A line of text in a file; what is filled in at run time is `*`."""

    file: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


def lines_in(file: str, source: str) -> Iterator[Said]:
    """Of all string constants, f-strings whole; of docstrings those that a command shows."""
    tree = ast.parse(source)
    silent = {id(one) for one in _docstrings(tree)}

    def walk(node: ast.AST) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "*" for p in node.values)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value
        for child in ast.iter_child_nodes(node):
            is_told = isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)
            yield from () if is_told else walk(child)

    return (Said(file, number, line) for number, text in walk(tree) for line in text.splitlines())


def _docstrings(tree: ast.AST) -> Iterator[ast.expr]:
    """Strings that stand alone, but those of click's commands."""
    for node in ast.walk(tree):
        shown = any(re.search(r"\b(command|group)\(", ast.unparse(d)) for d in getattr(node, "decorator_list", []))
        body = getattr(node, "body", [])
        for child in body if isinstance(body, list) and not shown else []:
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                yield child.value


LINES = [
    said
    for package in ("umt_ds", "data_prep", "launchers")
    for path in sorted((REPO / package).rglob("*.py"))
    for said in lines_in(path.relative_to(REPO).as_posix(), path.read_text())
]


PAGES = [
    Said(path.relative_to(REPO).as_posix(), number, line)
    for pattern in ("*.md", "umt_ds/**/*.md", "umt_ds/configs/**/*.yaml", *(f"{one}/*.md" for one in FOLDERS))
    for path in sorted(REPO.glob(pattern))
    if path.name != "RESULTS.md"  # what was true on its day
    for number, line in enumerate(path.read_text().splitlines(), start=1)
]


# ---------------------------------------------------------------- keys


def is_key(path: str, kind: str) -> bool:
    """Whether a run of this task has such a key; `*` in it is some name."""
    tree = {"task": {"kind": kind}}

    def is_below(above: tuple[str, ...], rest: Sequence[str]) -> bool:
        if not rest:
            return True
        if any(getattr(one, "__origin__", None) is dict for one in kinds_at(RunConfig, above, tree)):
            inner = kinds_at(RunConfig, (*above, rest[0]), tree)
            is_section = any(hasattr(one, "model_fields") for one in inner)
            return is_below((*above, rest[0]), rest[1:]) if is_section else True  # else a dotted key of DeepSpeed's
        fitting = [name for name in keys_at(RunConfig, above, tree) if fnmatchcase(name, rest[0])]
        return any(is_below((*above, name), rest[1:]) for name in fitting)

    return is_below((), path.split("."))


def unknown_keys(said: Said) -> list[str]:
    """Key paths in a line that a run which it speaks of does not have."""
    found = [match[0] for match in KEY.finditer(said.text) if not match[0].endswith(FILES)]
    own = _own_tasks(said)
    return [key for key in found if not (any if own else all)(is_key(key, kind) for kind in own or KINDS)]


def _own_tasks(said: Said) -> list[str]:
    """The tasks that a line speaks of alone: of the recipe that it names, or of its file's room."""
    named = [kind for name, kind in KIND_OF_RECIPE.items() if re.search(rf"(?<!\w){name}(?!\w)", said.text)]
    room = re.match(r"umt_ds/(?:config/)?tasks/(\w+)", said.file)
    of_room = [room[1]] if room and room[1] in KINDS else []
    return named or of_room or next((k for file, k in OF_SOME_TASKS.items() if fnmatchcase(said.file, file)), [])


SHORT_KEYS = {
    ".".join(path[start:])
    for kind in KINDS
    for path in all_keys(RunConfig, {"task": {"kind": kind}, "data": {"sources": {"NAME": {}}}})
    for start in range(1, len(path) - 1)
}


def short_keys(said: Said) -> list[str]:
    """Key paths in a line that lack their beginning. (In `config/` a section may speak of what is in it: whoever
    reports that puts the section's own key before it.)"""
    words = re.findall(r"(?<![\w./*-])[a-z_]+(?:\.[a-z_]+)+(?![\w/(])", said.text)
    return [] if said.file.startswith("umt_ds/config/") else [word for word in words if word in SHORT_KEYS]


def test_each_key_that_is_named_is_one_of_the_task_at_hand() -> None:
    assert sum(len(KEY.findall(said.text)) for said in LINES) > 150, "the walk finds them"
    assert [f"{said}: {key}" for said in LINES for key in unknown_keys(said)] == []


def test_each_key_that_a_page_names_is_one_of_some_task() -> None:
    """A page may speak of several tasks in a line."""
    found = [(said, match[0]) for said in PAGES for match in KEY.finditer(said.text) if not match[0].endswith(FILES)]
    assert len(found) > 50, "the walk finds them"
    assert [f"{said}: {key}" for said, key in found if not any(is_key(key.rstrip("."), kind) for kind in KINDS)] == []


def test_keys_are_named_from_their_beginning() -> None:
    assert [f"{said}: {key}" for said in LINES for key in short_keys(said)] == []


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("umt_ds/engine/loop.py", "save less often (cadence.sav)", ["cadence.sav"]),
        ("umt_ds/engine/loop.py", "see task.teacher.weights", ["task.teacher.weights"]),
        ("umt_ds/engine/loop.py", "task.kind, schedule.warmup_*, data.sources.*.shards, engine/loop.py, data.py", []),
        ("umt_ds/engine/loop.py", "umt train demo/stage1 task.mask.ratio=0.5", []),
        ("umt_ds/engine/loop.py", "umt train demo/stage2 task.mask.ratio=0.5", ["task.mask.ratio"]),
        ("umt_ds/tasks/stage2/model.py", "task.mask.image.kind, task.mask.*.ratio, task.mask.kind", ["task.mask.kind"]),
        ("umt_ds/config/run.py", "evaluation.NAME.shards, evaluation.*.shard", ["evaluation.*.shard"]),
        ("umt_ds/config/run.py", "engine.deepspeed_set.bf16.enabled", []),
    ],
)
def test_a_key_that_is_not_there_is_seen(file: str, text: str, wrong: list[str]) -> None:
    assert unknown_keys(Said(file, 1, text)) == wrong


def test_a_key_without_its_beginning_is_seen() -> None:
    assert short_keys(Said("umt_ds/masking.py", 1, "mask.kind: tube")) == ["mask.kind"]


# ---------------------------------------------------------------- commands


def command_of(program: str, *words: str | None) -> click.Command | None:
    """The command that words name (`umt-launch RUN` submits); None where there is none."""
    command: click.Command = PROGRAMS[program]
    for word in filter(None, words):
        if isinstance(command, click.Group):
            inner = command.get_command(click.Context(command), word)
            if inner is None and program == "umt-launch":
                inner = command.get_command(click.Context(command), "submit")
            if inner is None:
                return None
            command = inner
    return command


def options_of(command: click.Command) -> set[str]:
    """Its own, and those of all commands in it."""
    context = click.Context(command)
    own = {name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
    inside = command.list_commands(context) if isinstance(command, click.Group) else []
    commands = [command.get_command(context, name) for name in inside]  # type: ignore[attr-defined]
    return own.union(*(options_of(one) for one in commands if one is not None))


OPTIONS = FOREIGN_OPTIONS.union(*(options_of(program) for program in PROGRAMS.values()))


def unknown_commands(said: Said) -> list[str]:
    """Commands in a line that there are not, and options that these, or no program, have."""
    if " " not in said.text or said.file == "launchers/snapshot.py":  # a word for a program, scripts
        return []
    wrong = [option for option in OPTION.findall(said.text) if option not in OPTIONS]
    found = list(COMMAND.finditer(said.text))
    for match, following in zip_longest(found, found[1:]):
        program, first, second = match.groups()
        if first in PROSE:
            continue
        command = command_of(program, first, second)
        rest = re.split("[`;#&]", said.text[match.end() : following.start() if following else None])[0]
        if command is None:
            wrong.append(f"{program} {first}")
        else:
            wrong += [one for one in OPTION.findall(rest) if one not in options_of(command) | FOREIGN_OPTIONS]
    return wrong


def test_each_command_and_option_that_is_named_is_there() -> None:
    assert sum(len(COMMAND.findall(said.text)) for said in LINES) > 100, "the walk finds them"
    assert [f"{said}: {name}" for said in [*LINES, *PAGES] for name in unknown_commands(said)] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("`umt plan RUN --samples 3` says so", []),
        ("`umt train RUN --samples 3` says so", ["--samples"]),
        ("run `umt trian RUN`", ["umt trian"]),
        ("leave --aginst away", ["--aginst"]),
        ("umt-launch stage1/b16_k710 --hosts FILE; docker --shm-size", []),
        ("umt-data needs it", []),
    ],
)
def test_a_command_or_option_that_is_not_there_is_seen(text: str, wrong: list[str]) -> None:
    assert unknown_commands(Said("umt_ds/engine/loop.py", 1, text)) == wrong


# ---------------------------------------------------------------- a mistyped key


def test_a_key_of_another_task_is_answered_with_keys_of_this_one() -> None:
    """Each key of each task, written into a run of each: what the hint calls existing exists in that run."""
    keys = {".".join(path) for kind in KINDS for path in all_keys(RunConfig, {"task": {"kind": kind}}, ("task",))}
    for recipe in ("demo/stage1", "demo/stage2", "demo/teacher"):
        kind = KIND_OF_RECIPE[recipe]
        foreign = [key for key in sorted(keys) if not is_key(key, kind)]
        assert len(foreign) > 10
        for key in foreign:
            advice = _advice(recipe, f"{key}=1")
            assert [one for one in KEY.findall(advice) if not is_key(one, kind)] == [], f"{recipe} {key}: {advice}"


def _advice(recipe: str, override: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_run(recipe, [override], keep_unset=True)
    return str(raised.value.hint)


# ---------------------------------------------------------------- troubleshooting, and the published flags

CELL = re.compile(r"`([^`]+)`")


def table_rows(page: str) -> list[list[str]]:
    """The cells of all table rows, without headings."""
    lines = [line for line in (REPO / page).read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_each_message_that_troubleshooting_quotes_is_one_of_ours() -> None:
    """A symptom in backquotes is a message; what it fills in stands as `…`."""
    ours = "\n".join(said.text for said in LINES)
    quoted = [message for row in table_rows("TROUBLESHOOTING.md") for message in CELL.findall(row[0])]
    messages = [message for message in quoted if " " in message and not message.startswith("b16")]
    assert len(messages) > 15, "the search finds them"
    parts = [part for message in messages for part in re.split("…", message) if len(part.strip(" ,:")) > 3]
    assert [part for part in parts if part.strip() not in ours] == []


# Of the two parsers of the published code, and the keys of its configs for video and language.
STAGE_1_FLAGS = """
batch_size epochs save_ckpt_freq model decoder_depth mask_type mask_ratio input_size drop_path normlize_target
tubelet_size use_learnable_pos_emb clip_teacher clip_input_resolution clip_loss_ratio clip_loss_type clip_decoder_type
clip_decoder_embed_dim clip_output_dim clip_norm_type clip_return_attn clip_return_layer clip_return_interval
clip_student_return_interval opt opt_eps opt_betas clip_grad momentum weight_decay weight_decay_end lr warmup_lr
min_lr warmup_epochs warmup_steps use_checkpoint checkpoint_num num_sample color_jitter train_interpolation flip
prefix split data_path imagenet_default_mean_and_std use_decord num_segments num_frames sampling_rate output_dir
log_dir device seed resume auto_resume no_auto_resume start_epoch num_workers pin_mem no_pin_mem world_size local_rank
dist_on_itp dist_url
"""
RECOGNITION_FLAGS = """
update_freq fc_drop_rate drop attn_drop_rate disable_eval_during_finetuning model_ema model_ema_decay
model_ema_force_cpu layer_decay aa smoothing crop_pct short_side_size test_num_segment test_num_crop reprob remode
recount resplit mixup cutmix cutmix_minmax mixup_prob mixup_switch_prob mixup_mode finetune delete_head model_key
model_prefix init_scale use_mean_pooling use_cls eval_data_path nb_classes data_set save_ckpt no_save_ckpt test_best
eval dist_eval enable_deepspeed
"""
CONFIG_KEYS = """
train_corpus train_file test_file test_types num_workers stop_key is_paragraph_retrieval has_multi_vision_gt
multi_txt_gt trimmed30 num_frames num_frames_test batch_size batch_size_test max_txt_l image_res sample_type
sample_type_test random_aug model_cls name img_size patch_size d_model encoder_embed_dim encoder_depth
encoder_num_heads drop_path_rate tubelet_size use_checkpoint checkpoint_num clip_decoder_embed_dim clip_output_dim
clip_return_layer clip_return_interval clip_student_return_interval pretrained clip_teacher clip_img_size
video_mask_type video_mask_ratio image_mask_type image_mask_ratio video_double_mask_ratio image_double_mask_ratio
keep_temporal text_encoder fusion_layer embed_dim temp vtc vtm mlm uta vtm_hard_neg mlm_masking_prob uta_norm_type
uta_loss_type opt different_lr lr opt_betas weight_decay max_grad_norm sched epochs warmup_epochs min_lr_multi
evaluate zero_shot deep_fusion eval_x_only eval_offload debug multimodal eval_frame_ensemble k_test fp16
gradient_checkpointing wandb dist_url device mode output_dir resume auto_resume save_latest log_freq seed
pretrained_path
"""


@pytest.mark.parametrize(
    ("heading", "flags"),
    [
        ("### Flags of stage 1", STAGE_1_FLAGS),
        ("### Flags of recognition", RECOGNITION_FLAGS),
        ("### Keys of stage 2 and after", CONFIG_KEYS),
    ],
)
def test_each_published_flag_has_a_row_with_a_key_of_ours_or_a_reason(heading: str, flags: str) -> None:
    """Whose keys exist."""
    section = (REPO / "MIGRATING.md").read_text().split(heading)[1].split("\n#")[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| `")]
    told = [flag for row in rows for flag in CELL.findall(row[0])]
    assert sorted(told) == sorted(flags.split()), set(told) ^ set(flags.split())
    for flag, ours, remark in rows:
        keys = CELL.findall(ours)
        assert keys or remark.strip(), f"{flag} has neither a key nor a reason"
        assert [key for key in keys if not any(is_key(key, kind) for kind in KINDS)] == [], flag
