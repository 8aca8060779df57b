"""`init.weights` of another number of frames, side, patch, width or depth: the table of umt_ds/README.md, by cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tests.support.ranks import REPO
from tests.support.tiny_runs import make_config
from tests.support.video_text_runs import Kind, video_text_run
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.base import ClipShape
from umt_ds.engine.protocol import InitialWeights, Task
from umt_ds.errors import WeightsError
from umt_ds.models.positions import finetune_table, sincos_table
from umt_ds.tasks.encoders import told_positions
from umt_ds.tasks.initial import start_from
from umt_ds.tasks.kinds import build_task

torch.set_num_threads(1)


@dataclass(frozen=True)
class Shape:
    frames: int = 2
    side: int = 20
    patch: int = 5
    width: int = 18
    depth: int = 2


TRAINED = Shape()
OTHERS = {  # heading of the table → what is other; the last column has two
    "other number of frames": [replace(TRAINED, frames=3)],
    "other side of the frames": [replace(TRAINED, side=30)],
    "other patch": [replace(TRAINED, patch=10)],
    "other width or depth": [replace(TRAINED, width=24), replace(TRAINED, depth=3)],
}


POSITIONS = (f"task.positions.frames={TRAINED.frames}", f"task.positions.image_size={TRAINED.side}")
VIDEO_TEXT = ("stage2", "retrieval", "question_answering")


def run_of(kind: str, shape: Shape, folder: Path, *more: str) -> RunConfig:
    sizes = f"{{width: {shape.width}, depth: {shape.depth}, heads: 3, patch: {shape.patch}}}"
    of_encoder = ["preset=custom", f"sizes={sizes}", f"frames={shape.frames}", f"image_size={shape.side}"]
    tower = f"{{image_size: {shape.side}, patch_size: {shape.patch}, width: {shape.width}, layers: {shape.depth}, "
    tower += "heads: 3, out_width: 16}"
    match kind:
        case "stage1":
            student = [f"task.student.{one}" for one in of_encoder]
            return make_config(folder, *student, f"task.teacher.tower={tower}")
        case "stage2" | "retrieval" | "question_answering":
            of_kind: dict[str, Kind] = {one: one for one in ("stage2", "retrieval", "question_answering")}
            name = "student" if kind == "stage2" else "encoder"
            return video_text_run(folder, of_kind[kind], *[f"task.{name}.{one}" for one in of_encoder], *more)
        case "recognition":
            encoder = [f"task.encoder.{one}" for one in of_encoder]
            return load_run("demo/recognition", [*encoder, *POSITIONS, "task.classes=3", "evaluation=null"])
        case _:
            return load_run("demo/teacher", [f"task.tower={tower}", "evaluation=null"])


def task_of(run: RunConfig) -> Task:
    return build_task(run, device=torch.device("cpu"), precision="fp32")


def started(kind: str, shape: Shape, folder: Path, *more: str) -> tuple[Task, str]:
    """A task of this shape from weights of TRAINED, and what it says."""
    trained, run = run_of(kind, TRAINED, folder), run_of(kind, shape, folder, *more)
    weights = InitialWeights(task_of(trained).module.state_dict(), "a file", pretrained_on=trained.task.positions_of)
    task = task_of(run)
    return task, start_from(task, weights, run.task)


def outcome(kind: str, shape: Shape, folder: Path, *more: str) -> str:
    """The word of the table for what becomes of weights of TRAINED."""
    try:
        task, _ = started(kind, shape, folder, *more)
    except WeightsError:
        return "refused"
    vision = getattr(task.module, "vision_encoder", task.module)
    encoder = getattr(vision, "encoder", vision)
    table = encoder.position_table(torch.zeros(1, shape.frames, shape.side, shape.side, 3, dtype=torch.uint8))
    anew = sincos_table(shape.frames * (shape.side // shape.patch) ** 2, shape.width)
    stretched = finetune_table(shape.frames, shape.side, shape.patch, shape.width, TRAINED.frames, TRAINED.side)
    return "computed anew" if torch.equal(table, anew) else "stretched" if torch.equal(table, stretched) else "unknown"


def table() -> dict[str, dict[str, str]]:
    """By task and heading, as umt_ds/README.md has it."""
    section = (REPO / "umt_ds" / "README.md").read_text().partition("## Weights of another shape")[2]
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0].strip("`"): dict(zip(head[1:], row[1:], strict=True)) for row in rows}


@pytest.mark.parametrize("kind", list(table()))
def test_the_table_tells_what_happens(kind: str, tmp_path: Path) -> None:
    found = {}
    for heading, shapes in OTHERS.items():
        if kind == "image_text" and heading == "other number of frames":
            assert run_of(kind, *shapes, tmp_path).task.clip_shape.frames == 1
            words = {"always one"}
        else:
            words = {outcome(kind, shape, tmp_path) for shape in shapes}
        if kind in VIDEO_TEXT:
            words |= {outcome(kind, shape, tmp_path, *POSITIONS) for shape in shapes}
        found[heading] = " or ".join(sorted(words))
    assert found == table()[kind]


def test_every_task_is_in_the_table() -> None:
    from umt_ds.config.tasks import TaskConfig

    kinds = {get.model_fields["kind"].annotation.__args__[0] for get in TaskConfig.__args__[0].__args__}
    assert set(table()) == kinds


@pytest.mark.parametrize("kind", [kind for kind in table() if kind != "image_text"])
def test_another_depth_is_refused_with_both_numbers_and_the_setting(kind: str, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match="a file: its encoder has 2 blocks of width 18, that of the run 3 of width 18"
    ):
        started(kind, replace(TRAINED, depth=3), tmp_path)
    with pytest.raises(
        WeightsError, match="its encoder has patches of 5 x 5 px, that of the run of 10 x 10 px"
    ) as raised:
        started(kind, replace(TRAINED, patch=10), tmp_path)
    assert "task." in str(raised.value.hint)


@pytest.mark.parametrize("kind", ["stage1", "stage2", "retrieval", "question_answering"])
def test_positions_that_are_computed_anew_are_told(kind: str, tmp_path: Path) -> None:
    assert "position" not in started(kind, TRAINED, tmp_path)[1]
    _, told = started(kind, replace(TRAINED, frames=3), tmp_path)
    assert "positions are computed anew for 3 frame(s) of 20 px; it was trained with those of 2 frame(s) of 20" in told


def told(trained_on: ClipShape | None, frames: int, side: int, positions: str = "null") -> str:
    sizes = [f"task.encoder.frames={frames}", f"task.encoder.image_size={side}", f"task.positions={positions}"]
    run = load_run("demo/retrieval", [*sizes, "evaluation=null"], keep_unset=True)
    return told_positions(trained_on, run.task)


def test_what_is_told_says_which_positions_are_new() -> None:
    eight = ClipShape(8, 224)
    assert told(None, 4, 224) == told(eight, 8, 224) == ""
    assert "they are those of its first frames" in told(eight, 4, 224)
    assert "those of the first 8 frames are the same" in told(eight, 16, 224)
    assert "stands for another place" in told(eight, 8, 384)


def test_what_is_told_of_stretched_positions_says_whose_they_are() -> None:
    eight, base = ClipShape(8, 224), "{frames: 8, image_size: 224}"
    assert told(eight, 8, 224, base) == ""
    assert told(eight, 12, 224, base).startswith(
        "positions of 8 frame(s) of 224 px are stretched to 12 frame(s) of 224"
    )
    others = told(ClipShape(4, 224), 4, 224, base)
    assert "trained with the positions of 4 frame(s) of 224 px, and those of 8 f" in others
    assert "task.positions.frames=4 task.positions.image_size=224 are theirs" in others


def test_decoders_for_another_number_of_layers_are_refused_with_both_numbers(tmp_path: Path) -> None:
    six, four = (make_config(tmp_path, f"task.teacher.layers={layers}") for layers in (2, 1))
    weights = InitialWeights(task_of(six).module.state_dict(), "a file")
    with pytest.raises(WeightsError, match="decoders for 2 layers of a teacher, and the run aligns 1") as raised:
        start_from(task_of(four), weights, four.task)
    assert "task.teacher.layers=2" in str(raised.value.hint)
    bare = {name: value for name, value in weights.state.items() if not name.startswith("clip_decoder.")}
    assert "left at their start" in start_from(task_of(four), replace(weights, state=bare), four.task)
