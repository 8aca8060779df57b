"""umt-data as a user types it: quick help without torch, exit codes, clear words for wrong input."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest

from data_prep.cli import umt_data
from data_prep.cli.making import unused_options
from data_prep.clip import ExecutionOptions, StoreOptions
from tests.support.paths import REPO
from tests.support.shards import write_shards
from tests.support.umt_data import Said, Umt
from tests.support.videos import write_video, write_videos
from umt_ds.data.shards.manifest import load_manifest

COMMANDS = (
    "scenes",
    *("folder", "list", "kinetics", "k710", "classes", "something", "ucf101", "hmdb51"),
    *("moments", "webvid", "pairs", "parquet", "demo"),
    *(
        "verify",
        "stats",
        "sheet",
        "show",
        "leaks",
        "answers",
        "index",
        "upgrade",
        "items",
        "protocols",
        "filter",
        "split",
        "merge",
        "work",
        "finish",
    ),
)
ONLY_TELL = ("classes", "verify", "stats", "show", "answers", "protocols")  # write at most what was asked for
TASKS = ("work", "finish")  # are not for people

SMALL = ("--frames", "2", "--short-side", "16", "--workers", "1")


def umt_apart(*words: str | Path) -> Said:
    """The same in a process of its own; stderr ends with the heavy modules that it loaded."""
    code = (
        "import sys\nfrom data_prep.cli import main\ntry:\n    main()\n"
        "finally:\n    sys.stderr.write(str({'torch', 'numpy', 'av', 'webdataset'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_videos(tmp_path / "videos", 2, frames=3)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_neither_torch_nor_numpy_and_shows_an_example(command: str) -> None:
    done = umt_apart(*([command, "--help"] if command else ["--help"]))
    assert done.code == 0
    assert "Example:" in done.out
    assert f"umt-data {command}" in done.out
    assert done.err == "set()"


def test_help_answers_within_half_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        umt_apart("--help")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(4)) < 0.5  # the best of four: the machine may be busy


def test_every_command_is_tested_and_every_writer_has_a_dry_run() -> None:
    assert set(umt_data.commands) == set(COMMANDS)
    for name, command in umt_data.commands.items():
        assert isinstance(command, click.Command)
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--dry-run" in options) == (name not in (*ONLY_TELL, *TASKS))


def test_the_way_from_a_folder_to_a_checked_set(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    done = umt_apart("folder", videos, out, *SMALL)
    assert done.code == 0
    assert done.out.startswith("set: 2 samples + 0 refused = 2 in all; ")
    assert "2/2" in done.err  # the progress bar is not in the results
    for command, words in {"verify": "all good", "stats": "2 samples", "sheet": "2 samples drawn"}.items():
        done = umt_apart(command, out)
        assert (done.code, "torch" in done.err) == (0, False)
        assert words in done.out
    assert (out / "sheet.png").exists()
    again = umt_apart("folder", videos, out, *SMALL)
    assert (again.code, "torch" in again.err) == (0, False)  # nothing was left to write


@pytest.mark.parametrize(("max_bad", "code"), [("0.5", 0), ("0.2", 1)])
def test_exit_code_says_whether_refusals_are_within_max_bad(
    umt: Umt, videos: Path, tmp_path: Path, max_bad: str, code: int
) -> None:
    (videos / "zero.mp4").touch()
    done = umt("folder", videos, tmp_path / "set", *SMALL, "--max-bad", max_bad)
    assert done.code == code
    assert "2 samples + 1 refused = 3 in all" in done.out
    assert "1  file is empty (0 bytes)" in done.out
    assert ("failed: 33.3%" in done.err) == bool(code)


def test_scenes_of_a_film_become_clips_and_a_film_that_cannot_be_read_counts(umt: Umt, tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    pictures = [np.full((48, 64, 3), grey, np.uint8) for grey in (20, 230) for _ in range(20)]
    write_video(tmp_path / "films" / "a.mp4", pictures=pictures, fps=10)
    (tmp_path / "films" / "b.mp4").touch()
    out = tmp_path / "scenes.csv"
    done = umt("scenes", tmp_path / "films", out, "--max-seconds", "9", "--workers", "1")
    assert done.code == 1
    assert done.out.splitlines() == [
        f"{out}: 2 scenes of 1 videos",
        f"1 videos cannot be read, see {tmp_path / 'scenes.bad.csv'}: b.mp4, file is empty (0 bytes)",
    ]
    assert "failed: 50.0% of the videos cannot be read, more than --max-bad" in done.err
    clips = umt("folder", tmp_path / "films", tmp_path / "set", "--spans", out, *SMALL)
    assert "set: 2 samples + 0 refused = 2 in all" in clips.out


def test_missing_kinetics_rows_are_counted_apart(umt: Umt, videos: Path, tmp_path: Path) -> None:
    (videos / "v00.mp4").rename(videos / "abcdefghijk_000001_000002.mp4")
    csv = tmp_path / "k.csv"
    csv.write_text("label,youtube_id,time_start,time_end,split\na,abcdefghijk,1,2,val\nb,zzzzzzzzzzz,3,4,val\n")
    done = umt("kinetics", videos, tmp_path / "set", "--csv", csv, *SMALL, "--max-bad", "0")
    assert done.code == 0
    assert "1 samples + 0 refused + 1 left out before decoding = 2 in all" in done.out
    assert (tmp_path / "set" / "bad.csv").read_text().splitlines()[1:] == [
        "zzzzzzzzzzz_000003_000004,,missing: no file for line 3"
    ]


def test_a_dry_run_writes_nothing(umt: Umt, videos: Path, tmp_path: Path) -> None:
    for words in (("folder", videos, tmp_path / "set", *SMALL), ("demo", tmp_path / "demo")):
        done = umt(*words, "--dry-run")
        assert done.code == 0
        assert "would" in done.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos"]


def test_damage_and_changed_options_are_told_by_the_exit_code(umt: Umt, videos: Path, tmp_path: Path) -> None:
    umt("folder", videos, tmp_path / "set", *SMALL)
    changed = umt("folder", videos, tmp_path / "set", *SMALL, "--quality", "80")
    assert changed.code == 2
    assert "quality 90 → 80" in changed.err
    assert "hint: " in changed.err
    tar = next((tmp_path / "set").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-512])
    damaged = umt("verify", tmp_path / "set")
    assert damaged.code == 1
    assert "1 faults" in damaged.out


WRONG = {
    ("folder", "gone", "set"): (2, "there is no folder 'gone'"),
    ("folder", "empty", "set"): (1, "no video below"),
    ("folder", "videos", "set", "--captions", "gone.csv"): (2, "does not exist"),
    ("folder", "videos", "set", "--captions", "columns.csv"): (1, "no column caption"),
    ("folder", "videos", "set", "--captions", "binary.csv"): (1, "cannot be read as UTF-8 text"),
    ("folder", "videos", "set", "--frames", "0"): (2, "not in the range"),
    ("folder", "videos", "set", "--name", "a/b"): (2, "no file name"),
    ("folder", "videos", "videos/v00.mp4"): (2, "is a file"),
    ("folder", "videos", "set", "--spans", "columns.csv", "--kind", "image"): (2, "and so does --kind image"),
    ("folder", "videos", "set", "--spans", "columns.csv"): (1, "no column start and end"),
    ("folder", "videos", "set", "--min-words", "5", "--max-words", "4"): (2, "is above --max-words 4"),
    ("folder", "videos", "set", "--min-words", "1"): (1, "not one of the 2 clips is left: 2 no caption"),
    ("scenes", "videos", "columns.csv"): (2, "is there already"),
    ("scenes", "videos", "gone/scenes.csv"): (2, "there is no folder 'gone'"),
    ("index", "videos", "--suffix", "caption"): (2, "does not say what a suffix means"),
    ("index", "videos", "--subfolders"): (1, "no *.tar below videos"),
    ("leaks", "videos", "--against", "empty", "--against", "empty"): (2, "is named twice"),
    ("kinetics", "videos", "set"): (2, "Missing option '--csv'"),
    ("demo", "set", "--clips", "3"): (2, "at least 10 clips"),
    ("verify", "videos"): (1, "holds no manifest.json"),
    ("index", "videos"): (1, "no *.tar"),
    ("stats", "gone"): (2, "there is no folder 'gone'"),
    ("fold",): (2, "No such command"),
    ("folder", "videos", "set", "--max-bad", "nan"): (2, "nan is no number"),
    ("folder", "videos", "set", "--timeout", "inf"): (2, "inf is no number"),
    ("folder", "videos", "set", "--fps", "nan"): (2, "nan is no number"),
    ("verify", "videos", "--timeout", "nan"): (2, "nan is no number"),
    ("leaks", "videos", "--against", "videos", "--share", "nan"): (2, "nan is no number"),
    ("split", "videos", "set", "--share", "nan"): (2, "nan is no number"),
    ("filter", "videos", "set", "--min-seconds", "-1"): (2, "not in the range"),
    ("filter", "videos", "set", "--min-seconds", "inf"): (2, "inf is no number"),
    ("filter", "videos", "set", "--max-seconds", "nan"): (2, "nan is no number"),
    ("filter", "videos", "set", "--max-seconds", "0"): (2, "not in the range"),
    ("filter", "videos", "set", "--min-side", "-1"): (2, "not in the range"),
    ("filter", "videos", "set", "--min-seconds", "9", "--max-seconds", "8"): (
        2,
        "no clip has at least 9 s",
    ),
    ("finish", "videos", "--max-bad", "nan"): (2, "nan is no number"),
    ("split", "videos", "set", "--share", "1"): (2, "not in the range"),
    ("stats", "videos", "--plot", "gone/plot.png"): (2, "there is no folder 'gone'"),
    ("sheet", "videos", "-o", "gone/sheet.png"): (2, "there is no folder 'gone'"),
    ("show", "videos", "key", "--png", "empty"): (2, "'empty' is a folder"),
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_input_gives_one_clear_error(
    umt: Umt, videos: Path, tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "columns.csv").write_text("file,text\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    monkeypatch.chdir(tmp_path)
    code, message = WRONG[words]
    done = umt(*words)
    assert done.code == code
    assert message in done.err
    assert not list(tmp_path.glob("set/*.tar"))


def test_the_demo_is_made_whole_and_a_second_time_left_alone(umt: Umt, tmp_path: Path) -> None:
    words = ("demo", tmp_path / "demo", "--clips", "10", "--size", "32", "--workers", "1")
    first = umt(*words)
    assert first.code == 0
    assert first.out.splitlines()[0].startswith("demo-train: 8 samples + 0 refused = 8 in all")
    assert first.out.splitlines()[1].startswith("demo-val: 2 samples + 0 refused = 2 in all")
    assert umt(*words).out == first.out


def test_what_leaks_finds_is_what_exclude_leaves_out(umt: Umt, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    ids = ["aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc"]
    for youtube_id in ids:
        write_video(videos / f"{youtube_id}_000010_000020.mp4", frames=3)
    head = "label,youtube_id,time_start,time_end,split\n"
    train, val = tmp_path / "train.csv", tmp_path / "val.csv"
    train.write_text(head + "".join(f"walking,{youtube_id},10,20,train\n" for youtube_id in ids))
    val.write_text(head + "walking,aaaaaaaaaaa,15,25,val\nwalking,bbbbbbbbbbb,50,60,val\n")
    found = umt("leaks", train, "--against", val, "-o", tmp_path / "leaks", "--check", "--workers", "1")
    assert found.code == 1
    assert found.out.splitlines()[2].split() == ["val.csv", "2", "2", "1"]  # clips, same video, same seconds
    out = tmp_path / "set"
    done = umt("kinetics", videos, out, "--csv", train, "--exclude", tmp_path / "leaks" / "exclude.txt", *SMALL)
    assert done.code == 0
    assert "1 samples + 0 refused + 2 left out before decoding = 3 in all" in done.out
    assert "exclude.txt: 2 keys, all found: 2 of 3 clips are left out" in done.err
    clean = umt("leaks", out, "--against", val, "-o", tmp_path / "none", "--check", "--workers", "1")
    assert clean.code == 0
    assert "nothing is to be left out" in clean.out
    empty = ("--exclude", tmp_path / "none" / "exclude.txt", "--workers", "1")  # what a script gives without looking
    copied = umt("filter", out, tmp_path / "copy", *empty)
    assert (copied.code, "exclude.txt: 0 keys, nothing to leave out" in copied.err) == (0, True)
    assert umt("leaks", train, "--against", val, "--near").code == 2  # frames of a csv


@pytest.mark.parametrize(
    ("media", "store", "unused"),
    [
        ("sample", StoreOptions(short_side=8, store="npy", per_shard=2), ["--short-side 8", "--store npy"]),
        ("image", StoreOptions(frames=2, quality=80), ["--frames 2"]),
        ("image", StoreOptions(quality=80, store="npy"), ["--quality 80"]),
        ("video", StoreOptions(frames=2, fps=0.5), ["--frames 2"]),
        ("video", StoreOptions(frames=2, quality=80, store="mp4", fps=5.0), ["--frames 2", "--quality 80"]),
        ("video", StoreOptions(frames=2, quality=80, short_side=8, per_shard=2), []),
    ],
)
def test_options_without_effect_are_known(media: str, store: StoreOptions, unused: list[str]) -> None:
    assert unused_options(media, store) == unused


@pytest.mark.parametrize(
    ("where", "unused"),
    [
        (ExecutionOptions(tasks=4, logs=Path("l"), wait=True), ["--tasks 4", "--logs l", "--wait"]),
        (
            ExecutionOptions(sbatch=("-p a", "-t 9"), ray_address="auto"),
            ["--sbatch -p a", "--sbatch -t 9", "--ray-address auto"],
        ),
        (ExecutionOptions("ray", tasks=4, ray_address="auto"), ["--tasks 4"]),
        (ExecutionOptions("slurm", tasks=4, wait=True, ray_address="auto"), ["--ray-address auto"]),
    ],
)
def test_options_of_another_engine_are_known(where: ExecutionOptions, unused: list[str]) -> None:
    assert where.unused() == unused


def test_leaks_says_which_options_have_no_effect(umt: Umt, tmp_path: Path) -> None:
    train, val = write_shards(tmp_path / "train", [1]), write_shards(tmp_path / "val", [1], first=1)
    done = umt("leaks", train, "--against", val, "--distance", "5", "--same-seconds", "--dry-run")
    assert done.err.splitlines() == [
        "without effect without --near: --distance 5",
        "without effect without --output: --same-seconds",
    ]
    assert umt("leaks", train, "--against", val, "--near", "--share", "0.5", "--dry-run").err == ""


def test_a_dry_run_says_nothing_of_what_it_does_not_read(umt: Umt, tmp_path: Path) -> None:
    done = umt("merge", tmp_path / "set", write_shards(tmp_path / "a", [2]), "--dry-run", "--copy")
    assert "would make 1 shards" in done.out
    assert "caption" not in done.out  # every sample has one, and merge looks at none


def test_what_split_leaves_out_is_looked_for_once_in_both_sides(umt: Umt, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("".join(f"clip-{number:04d}\n" for number in range(4)))
    words = ("split", write_shards(tmp_path / "set", [12]), tmp_path / "parts", "--exclude", tmp_path / "keys.txt")
    done = umt(*words, "--share", "0.5", "--workers", "1")
    assert done.err.count("keys.txt") == 1
    assert "keys.txt: 4 keys, all found: 4 of 12 clips are left out" in done.err
    sides = [load_manifest(tmp_path / "parts" / side) for side in ("train", "val")]
    assert sum(side.num_samples for side in sides) == 8
    assert [[one["list"] for one in side.options["excluded"]] for side in sides] == [["keys.txt"]] * 2
    rows = [(tmp_path / "parts" / side / "bad.csv").read_text().count("excluded") for side in ("train", "val")]
    assert rows == [4, 0]


def test_finished_sets_are_filtered_split_and_merged_by_their_commands(umt: Umt, videos: Path, tmp_path: Path) -> None:
    for number in range(2, 8):
        write_video(videos / f"v{number:02d}.mp4", frames=2 + number)
    assert umt("folder", videos, tmp_path / "set", *SMALL).code == 0
    one = ("--workers", "1")
    copy = (*one, "--copy")
    done = umt("filter", tmp_path / "set", tmp_path / "long", "--min-seconds", "0.6", *copy)
    assert "left out before decoding = 8 in all" in done.out
    assert umt("filter", tmp_path / "set", tmp_path / "same", *copy).code == 2  # nothing to leave out
    done = umt("split", tmp_path / "set", tmp_path / "parts", "--share", "0.4", "--quality", "80", *copy)
    assert (done.code, "without effect here: --quality 80" in done.err) == (0, True)
    done = umt("merge", tmp_path / "whole", tmp_path / "parts" / "train", tmp_path / "parts" / "val", *copy)
    assert "whole: 8 samples + 0 refused = 8 in all" in done.out
    shown = umt("show", tmp_path / "whole", "v02.mp4", "--png", tmp_path / "v02.png")
    assert (shown.code, (tmp_path / "v02.png").exists()) == (0, True)
    assert umt("stats", tmp_path / "whole", "--plot", tmp_path / "plot.png", *one).code == 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
