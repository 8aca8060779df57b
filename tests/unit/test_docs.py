"""What pages and comments point to is there: headings of METHOD.md, files that a README names, links between pages,
messages of ours, and a row for each flag of the published code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import REPO
from tests.unit.test_messages import KINDS, LINES, is_key

PACKAGES = ("umt_ds", "data_prep", "launchers", "ds_configs", "tests")
METHOD = REPO / "umt_ds" / "METHOD.md"
# Pages of the people who planned the house; a reader of the repository does not have them.
ELSEWHERE = ("SPE" + "C ", "ARCHITEC" + "TURE", "PEER" + "S.md")
POINTER = re.compile(r'METHOD\.md((?:, "[^"]+")+)')
PATH = re.compile(r"`((?:[\w.-]+/)+|(?:[\w.-]+/)*[\w-]+\.(?:py|md))`")  # folders; sources and pages


def files_of_the_repository() -> list[Path]:
    """Pages and settings at the root, and all that lies in the packages."""
    inside = [path for package in PACKAGES for path in sorted((REPO / package).rglob("*"))]
    found = [path for path in (*sorted(REPO.iterdir()), *inside) if path.is_file()]
    return [path for path in found if "__pycache__" not in path.parts and path.name != ".git"]


def text_of(path: Path) -> str:
    """Its text on one line, without the marks of comments at the line breaks; a binary file has none."""
    try:
        return re.sub(r"\s*\n[ \t]*#?[ \t]*", " ", path.read_text())
    except UnicodeDecodeError:
        return ""


def headings(page: str) -> set[str]:
    return {line.lstrip("#").strip() for line in page.splitlines() if line.startswith("#")}


TEXTS = {path.relative_to(REPO).as_posix(): text_of(path) for path in files_of_the_repository()}
READMES = [name for name in TEXTS if name.endswith(".md") and not name.endswith(("RESULTS.md", "METHOD.md"))]


def test_no_file_cites_a_page_that_the_repository_does_not_hold() -> None:
    assert [(name, page) for name, text in TEXTS.items() for page in ELSEWHERE if page in text] == []


def test_every_pointer_into_method_names_a_heading() -> None:
    pointers = [
        (name, heading)
        for name, text in TEXTS.items()
        for found in POINTER.findall(text)
        for heading in re.findall(r'"([^"]+)"', found)
    ]
    assert len(pointers) > 80, "the search finds them"
    assert [pointer for pointer in pointers if pointer[1] not in headings(METHOD.read_text())] == []


def is_missing(name: str, *, beside: Path) -> bool:
    """A path, from the root, from the page's folder or from a package, that should be there and is not.

    A bare file name may lie anywhere. A folder counts if its first part is ours: `RUN/stacks/` is an example.
    """
    if "/" not in name:
        return not any(known.endswith(f"/{name}") or known == name for known in TEXTS)
    roots = [REPO, beside, REPO / "umt_ds", REPO / "data_prep"]
    is_ours = name.endswith((".py", ".md")) or any((root / name.split("/")[0]).exists() for root in roots)
    return is_ours and not any((root / name).exists() for root in roots)


@pytest.mark.parametrize("readme", READMES)
def test_every_path_that_a_readme_names_exists(readme: str) -> None:
    named = PATH.findall((REPO / readme).read_text())
    assert [name for name in named if is_missing(name, beside=(REPO / readme).parent)] == []


def test_a_path_or_heading_that_is_not_there_is_seen() -> None:
    beside = REPO / "umt_ds"
    assert [is_missing(name, beside=beside) for name in ("tasks/stage1.py", "tasks/nothing/", "nothing.py")] == [
        True
    ] * 3
    assert not any(is_missing(name, beside=beside) for name in ("tasks/stage1/task.py", "RUN/stacks/", "loop.py"))
    assert POINTER.findall(f'see {METHOD.name}, "Masking", "Nothing".') == [', "Masking", "Nothing"']
    assert {"Masking", "Nothing"} - headings(METHOD.read_text()) == {"Nothing"}


# ---------------------------------------------------------------- links between pages

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors_of(page: Path) -> set[str]:
    """What a link after `#` may name, as GitHub makes it of headings."""
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()).replace(" ", "-")
        for heading in headings(re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))
    }


def broken_links(page: Path, text: str) -> list[str]:
    """Links that lead to no file, or to no heading of it."""
    broken = []
    for target, anchor in LINK.findall(re.sub(r"\]\(\s+", "](", text)):
        to = page.parent / target if target else page
        if not to.exists() or (anchor and anchor not in anchors_of(to)):
            broken.append(f"{target}#{anchor}")
    return broken


@pytest.mark.parametrize("readme", READMES)
def test_every_link_of_a_page_leads_somewhere(readme: str) -> None:
    assert broken_links(REPO / readme, (REPO / readme).read_text()) == []


def test_a_link_that_leads_nowhere_is_seen() -> None:
    text = "[a](umt_ds/README.md#floors) [b](umt_ds/README.md#flors) [c](umt_ds/NOTHING.md) [d](#nothing)"
    assert broken_links(REPO / "README.md", text) == ["umt_ds/README.md#flors", "umt_ds/NOTHING.md#", "#nothing"]


def test_every_page_is_reached_from_the_first_one() -> None:
    """A newcomer follows links; a page that none leads to is not there."""
    reached, to_visit = set(), [REPO / "README.md"]
    while to_visit:
        page = to_visit.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        to_visit += [page.parent / target for target, _ in LINK.findall(page.read_text()) if target]
    assert [name for name in READMES if (REPO / name).resolve() not in reached] == []


def test_pictures_of_pages_are_small() -> None:
    pictures = [path for path in (REPO / "pictures").iterdir() if path.is_file()]
    assert {path.name for path in pictures} == {"flow.svg", "report.png"}
    assert max(path.stat().st_size for path in pictures) < 200_000


# ---------------------------------------------------------------- messages and flags

CELL = re.compile(r"`([^`]+)`")


def table_rows(page: str) -> list[list[str]]:
    """The cells of all table rows, without headings."""
    lines = [line for line in (REPO / page).read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def strings_of_the_packages() -> str:
    """All string constants, f-strings whole with what is filled in as `*`."""
    return "\n".join(said.text for said in LINES)


def test_each_message_that_troubleshooting_quotes_is_one_of_ours() -> None:
    """A symptom in backquotes is a message; what it fills in stands as `…`."""
    ours = strings_of_the_packages()
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
    """That the keys exist, test_messages.py holds of all pages."""
    section = (REPO / "MIGRATING.md").read_text().split(heading)[1].split("\n#")[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| `")]
    told = [flag for row in rows for flag in CELL.findall(row[0])]
    assert sorted(told) == sorted(flags.split()), set(told) ^ set(flags.split())
    for flag, ours, remark in rows:
        keys = CELL.findall(ours)
        assert keys or remark.strip(), f"{flag} has neither a key nor a reason"
        assert [key for key in keys if not any(is_key(key, kind) for kind in KINDS)] == [], flag
