"""Each data set of recognition, from annotations in their official form to scores of the matching recipe.

Real clips stand for those of the sets: they are linked under official names. One command makes a set, `umt-data verify`
finds it whole, and two steps of its recipe are trained on it and judged by the views of the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.annotations import SSV2_ROWS
from tests.support.paths import SHARED
from tests.support.ranks import call, run_ranks
from tests.support.umt_data import Umt, umt_data
from umt_ds.classes import classes
from umt_ds.data.shards.manifest import load_manifest

DATA = SHARED / "data"
MAPS, KINETICS = DATA / "annotations" / "label_maps", DATA / "annotations" / "kinetics"
CLIPS = ("asl_sorry.mkv", "asl_brother.mkv", "arms_up.mp4")
SMALL = ("--short-side", "40", "--workers", "1")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there"),
]


@dataclass(frozen=True)
class Official:
    """A data set: its recipe, the words that make it (without OUT), its class list, and the rule of its views."""

    recipe: str
    words: Callable[[Path], list[str | Path]]
    labels: tuple[str, ...]
    views: str = "recognition:8x4"


def link(folder: Path, *names: str) -> Path:
    """Three real clips under these names."""
    for name, clip in zip(names, CLIPS, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            (folder / name).symlink_to(DATA / "clips" / clip)
    return folder


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def kinetics_videos(folder: Path, csv: Path) -> Path:
    """Clips of the first three rows, cut as the official downloaders cut and name them."""
    rows = [line.split(",") for line in csv.read_text().splitlines()[1:4]]
    return link(folder, *(f"{video}_{int(start):06}_{int(end):06}.mp4" for _, video, start, end, *_ in rows))


def kinetics(number: int) -> Callable[[Path], list[str | Path]]:
    csv = KINETICS / f"kinetics{number}_validate.csv"

    def words(folder: Path) -> list[str | Path]:
        name = text(folder / "classes.txt", *classes(f"k{number}"))  # type: ignore[arg-type]
        return ["kinetics", kinetics_videos(folder / "videos", csv), "--csv", csv, "--classes", name]

    return words


def k710(folder: Path) -> list[str | Path]:
    found: list[str | Path] = ["k710"]
    for number in (400, 600, 700):
        csv = KINETICS / f"kinetics{number}_validate.csv"
        found += ["--set", f"k{number}", csv, kinetics_videos(folder / f"k{number}", csv)]
    return found


def ssv2(folder: Path) -> list[str | Path]:
    names = (MAPS / "sthv2_label_map.txt").read_text().splitlines()
    videos = link(folder / "videos", *(f"{row['id']}.webm" for row in json.loads(SSV2_ROWS)))
    rows = text(folder / "validation.json", SSV2_ROWS)
    labels = text(folder / "labels.json", json.dumps({name: str(number) for number, name in enumerate(names)}))
    return ["something", videos, "--json", rows, "--labels", labels]


def moments(folder: Path) -> list[str | Path]:
    files = ("clapping/yt-a_1.mp4", "adult+female+speaking/getty-b_2.mp4", "covering/flickr-c_3.mp4")
    rows = text(folder / "validationSet.csv", *(f"{file},{file.split('/')[0]},3,1" for file in files))
    videos = link(folder / "videos", *files)
    return ["moments", videos, "--csv", rows, "--classes", MAPS / "mit_label_map.txt"]


def ucf101(folder: Path) -> list[str | Path]:
    files = [f"{name}/v_{name}_g01_c01.avi" for name in ("ApplyEyeMakeup", "Archery", "YoYo")]
    names = (MAPS / "ucf101_label_map.txt").read_text().split()
    rows = text(folder / "testlist01.txt", *files)
    index = text(folder / "classInd.txt", *(f"{number} {name}" for number, name in enumerate(names, start=1)))
    return ["ucf101", link(folder / "videos", *files), "--rows", rows, "--classes", index]


def hmdb51(folder: Path) -> list[str | Path]:
    names = (MAPS / "hmdb51_label_map.txt").read_text().split()
    for name in names:
        text(folder / "splits" / f"{name}_test_split1.txt", f"x_{name}_u_cm_np1_ba_med_0.avi 2 ")
    files = [f"{name}/x_{name}_u_cm_np1_ba_med_0.avi" for name in (names[0], names[30], names[50])]
    return ["hmdb51", link(folder / "videos", *files), "--splits", folder / "splits", "--part", "test"]


def own_folder(folder: Path) -> list[str | Path]:
    files = ("mine/a.mp4", "mine/b.mp4", "c.mp4")
    labels = text(folder / "labels.csv", "file,label", *(f"{f},{name}" for f, name in zip(files, "jrj", strict=True)))
    return ["folder", link(folder / "videos", *files), "--labels", labels]


def listed(name: str) -> tuple[str, ...]:
    path = MAPS / f"{name}_label_map.txt"
    return tuple(path.read_text().splitlines()) if path.is_file() else ()


OFFICIAL = {
    **{f"k{n}": Official(f"b16_k{n}", kinetics(n), classes(f"k{n}")) for n in (400, 600, 700)},  # type: ignore[arg-type]
    "k710": Official("b16_k710", k710, classes("k710")),
    "ssv2": Official("b16_ssv2", ssv2, listed("sthv2"), "ssv2:8x2"),
    "mit": Official("b16_mit", moments, listed("mit")),
    "ucf101": Official("ucf101", ucf101, listed("ucf101")),
    "hmdb51": Official("hmdb51", hmdb51, listed("hmdb51")),
    "mine": Official("small", own_folder, ("j", "r")),
}


@pytest.fixture
def umt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Umt:
    return umt_data(monkeypatch, capsys)


def test_each_set_is_made_by_one_command_verified_and_fine_tuned_on(umt: Umt, tmp_path: Path) -> None:
    for name, official in OFFICIAL.items():
        folder = tmp_path / name
        verb, *rest = official.words(folder)
        places = {"train": ("--frames", "16"), "val": ("--views", official.views)}
        for part, frames in places.items():
            out = folder / part
            words = [verb, out, *rest] if verb == "k710" else [verb, rest[0], out, *rest[1:]]
            done = umt(*words, *frames, *SMALL)
            assert done.code == 0, done.text
            assert umt("verify", out).code == 0
            manifest = load_manifest(out)
            assert manifest.num_samples >= 3, name
            assert manifest.labels == official.labels, name
    calls = [call("tests.distributed.recipe_calls:fine_tune", name=f"recognition/{one.recipe}",
                  overrides=overrides(tmp_path / name, one)) for name, one in OFFICIAL.items()]  # fmt: skip
    (results,) = run_ranks(1, calls)
    for name, scores in zip(OFFICIAL, results, strict=True):
        assert {one["evaluation"]: one["protocol"]["views"] for one in scores} == {
            "val": 1, "test": 6 if name == "ssv2" else 12,
        }, name  # fmt: skip
        assert all(one["items"] >= 3 and one["left_out"] == 0 for one in scores), name


def overrides(folder: Path, official: Official) -> list[str]:
    """Two steps of a recipe on the set in a folder of its name, with a small model."""
    own = ("kind=classification", "frames=published", "segments=4", "crops=3")
    tested = [f"evaluation.test.{setting}" for setting in own] if official.recipe == "small" else []
    return [
        f"run_dir={folder / 'run'}", f"data.sources.{folder.name}.shards={folder / 'train'}", "data.workers=0",
        f"evaluation.val.shards={folder / 'val'}", "evaluation.val.frames=published", *tested,
        f"evaluation.test.shards={folder / 'val'}", "evaluation.test.in_training=true", "init.weights=null",
        f"task.classes={len(official.labels)}", "task.encoder.preset=pocket", "task.encoder.image_size=32",
        "task.mixing.group=2", "batch.global=2", "batch.micro=2", "schedule.epochs=null",
        "schedule.warmup_epochs=null", "schedule.steps=2", "schedule.warmup_steps=1", "cadence.evaluate=2",
        "report.tensorboard=false", "engine.deepspeed=cpu.json",
    ]  # fmt: skip
