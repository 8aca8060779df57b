"""Listings: which files become which samples with which captions and labels, and what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.clip import Clip, Refusal, RunOptions, Sample, StoreOptions
from data_prep.decode import make_sample
from data_prep.sources.demo import (
    APPEARANCES,
    FRAMES,
    JOINT,
    MOTIONS,
    Scene,
    draw,
    list_demo,
    render_demo,
    scenes,
)
from data_prep.sources.folder import list_folder
from data_prep.sources.kinetics import list_kinetics
from data_prep.sources.scan import scan_videos
from data_prep.tables.class_list import read_class_list
from data_prep.tables.kinetics import read_kinetics
from data_prep.tables.labels import Labels
from data_prep.tables.table import Table
from tests.support.files import touch
from tests.support.paths import SHARED
from tests.support.videos import frame_number, pictures_of, write_video
from umt_ds.errors import ConfigError, DataError

KINETICS = SHARED / "data" / "annotations" / "kinetics"


def by_source(clips: Sequence[Clip]) -> dict[str, Clip]:
    return {clip.source: clip for clip in clips}


# --- folder


def test_videos_are_found_below_the_folder_and_the_rest_is_counted(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a.mp4",
        "sub/deep/B.WEBM",
        "sub/c.mkv",
        "._a.mp4",
        ".hidden/x.txt",
        "readme.txt",
        "x.csv",
        "noext",
    )
    found = scan_videos(tmp_path)
    assert found.videos == ("a.mp4", "sub/c.mkv", "sub/deep/B.WEBM")
    assert found.ignored == {"hidden": 1, ".txt": 2, ".csv": 1, "no suffix": 1}


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    touch(tmp_path / "disk2", "v.mp4")
    root = touch(tmp_path / "videos", "w.mp4")
    (root / "more").symlink_to(tmp_path / "disk2")
    (root / "loop").symlink_to(root)
    assert scan_videos(root).videos == ("more/v.mp4", "w.mp4")


def test_a_name_that_is_no_text_is_reported_and_not_lost(tmp_path: Path) -> None:
    touch(tmp_path, "good.mp4")
    (tmp_path / "bad\udcff.mp4").touch()
    listing = list_folder(tmp_path)
    assert [clip.source for clip in listing.clips] == ["good.mp4"]
    assert listing.left_out[0].reason.startswith("file name is not UTF-8")


def test_a_folder_without_videos_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it is empty"):
        list_folder(tmp_path)
    touch(tmp_path, "a.txt", "b.txt")
    with pytest.raises(DataError, match=r"only \.txt 2"):
        list_folder(tmp_path)
    touch(tmp_path, "a.x\ny")
    with pytest.raises(DataError, match=r"only \.txt 2, \.x\\ny 1"):
        list_folder(tmp_path)


def test_captions_and_labels_find_their_files(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "a.mp4", "sub/b.mp4", "sub/c.mp4")
    csv = tmp_path / "c.csv"
    csv.write_text(
        "\ufefffile,seconds,caption,label\n"  # a BOM, as Excel writes, and a column that is not ours
        'a.mp4,1,"one, with a comma",walk\n'
        "a.mp4,1,two,walk\n"
        "b.mp4,1,by its bare name,run\n"
        "gone.mp4,1,no such file,\n",
        encoding="utf-8",
    )
    listing = list_folder(root, captions=csv)
    clips = by_source(listing.clips)
    assert clips["a.mp4"].captions == ("one, with a comma", "two")
    assert clips["sub/b.mp4"].captions == ("by its bare name",)
    assert clips["sub/c.mp4"].captions == ()
    assert listing.labels == ("run", "walk")
    assert (clips["a.mp4"].label, clips["sub/b.mp4"].label, clips["sub/c.mp4"].label) == (1, 0, None)
    assert listing.left_out == (Refusal("gone.mp4", "missing: no such video (c.csv line 5)"),)


def test_a_bare_name_that_several_files_have_is_reported(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "x/b.mp4", "y/b.mp4")
    csv = tmp_path / "c.csv"
    csv.write_text("file,caption\nb.mp4,which?\nx/b.mp4,this\n")
    assert list_folder(root, captions=csv).left_out == (
        Refusal("b.mp4", "2 videos have this name: x/b.mp4 and y/b.mp4 (c.csv line 2)"),
    )


def test_labels_come_from_their_own_csv_too(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "a.mp4", "b.mp4")
    csv = tmp_path / "l.csv"
    csv.write_text("file,label\na.mp4,10\nb.mp4,2\n")
    listing = list_folder(root, labels=csv)
    # whole numbers keep their values: sorted as text, "10" would come before "2" and be class 0
    assert {clip.source: clip.label for clip in listing.clips} == {"a.mp4": 10, "b.mp4": 2}
    assert listing.labels == tuple(str(n) for n in range(11))


def test_two_labels_for_a_file_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "a.mp4")
    csv = tmp_path / "l.csv"
    csv.write_text("file,label\na.mp4,walk\na.mp4,run\n")
    with pytest.raises(DataError, match=r"two labels, 'walk' and 'run': in l\.csv line 2 and in l\.csv line 3"):
        list_folder(root, labels=csv)


def test_the_class_file_gives_the_numbers_and_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("walk\nrun\n\njump\n")
    labels = Labels(read_class_list(path))
    assert [labels.number(name) for name in ("walk", "run", "jump")] == [0, 1, 2]
    with pytest.raises(DataError, match="nearest: 'jump'"):
        labels.number("jumps")
    path.write_text("walk\nwalk\n")
    with pytest.raises(DataError, match="line 2 names 'walk', as line 1 does"):
        read_class_list(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,text\na,b\n", "no column file and caption; its columns are name, text"),
        (b"", "its columns are none"),
        (b"file,caption\na.mp4,one, two\n", "line 2 has 3 fields, its header 2"),
        (b"file,caption\na.mp4\n", "line 2 has 1 fields"),
        (b"\xff\xfe\x00", "it is UTF-16"),
        (b"file,caption\na.mp4," + b"x" * 200_000, "field larger than"),
    ],
)
def test_a_malformed_csv_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(Table(path, columns=("file", "caption")))


def test_clips_come_in_an_order_that_mixes_folders_and_does_not_depend_on_the_listing(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"class{c}/v{n}.mp4" for c in range(4) for n in range(25)))
    listing = list_folder(root)
    ordered = listing.first_in_order().clips
    assert sorted(ordered, key=lambda c: c.key) == sorted(listing.clips, key=lambda c: c.key)
    assert len({clip.source.partition("/")[0] for clip in ordered[:12]}) == 4
    assert listing.first_in_order(7).clips == ordered[:7]


# --- kinetics

CSV = """label,youtube_id,time_start,time_end,split{more}
abseiling,0wR5jVB-WPk,417,427,{val}{cc}
abseiling,3caPS4FHFF8,36,46,{val}{cc}
zumba,--07WQ2iBlw,1,11,{val}{cc}
zumba,a_12_345678,5,15,{val}{cc}
air drumming,gone_for-ev,5,15,{val}{cc}
abseiling,0wR5jVB-WPk,417,427,{val}{cc}
"""


@pytest.mark.parametrize(
    "form", [{"more": ",is_cc", "cc": ",0", "val": "val"}, {"more": "", "cc": "", "val": "validate"}]
)
def test_kinetics_rows_find_their_files_in_any_layout(tmp_path: Path, form: dict[str, str]) -> None:
    root = touch(
        tmp_path / "v",
        "abseiling/0wR5jVB-WPk_000417_000427.mp4",
        "3caPS4FHFF8_36_46.mkv",
        "deep/er/--07WQ2iBlw.webm",
        "a_12_345678.mp4",  # an id that looks like a cut clip's name
        "0wR5jVB-WPk_000000_000010.mp4",  # the same video, another clip: no row names it
        "list.txt",
    )
    csv = tmp_path / "k.csv"
    csv.write_text(CSV.format(**form))
    listing = list_kinetics(root, csv=csv)
    clips = by_source(listing.clips)
    assert set(clips) == {
        "abseiling/0wR5jVB-WPk_000417_000427.mp4",
        "3caPS4FHFF8_36_46.mkv",
        "deep/er/--07WQ2iBlw.webm",
        "a_12_345678.mp4",
    }
    assert listing.labels == ("abseiling", "air drumming", "zumba")  # also of rows without a file
    zumba = clips["deep/er/--07WQ2iBlw.webm"]
    assert (zumba.key, zumba.label, zumba.span_s) == ("--07WQ2iBlw_000001_000011", 2, (1, 11))  # not the path
    assert zumba.extra == {"youtube_id": "--07WQ2iBlw", "time_start": 1, "time_end": 11, "split": "val"}
    assert clips["3caPS4FHFF8_36_46.mkv"].span_s is None
    assert listing.left_out == (
        Refusal("gone_for-ev_000005_000015", "missing: no file for line 6"),
        Refusal("0wR5jVB-WPk_000417_000427", "repeated: line 7 repeats 2"),
    )
    assert "ignored 1 videos that no row names" in listing.notes


def test_one_whole_video_gives_several_clips(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "0wR5jVB-WPk.mp4")
    csv = tmp_path / "k.csv"
    csv.write_text("label,youtube_id,time_start,time_end,split\na,0wR5jVB-WPk,0,10,train\nb,0wR5jVB-WPk,20,30,train\n")
    clips = list_kinetics(root, csv=csv).clips
    assert [(clip.key, clip.label) for clip in clips] == [
        ("0wR5jVB-WPk_000000_000010", 0),
        ("0wR5jVB-WPk_000020_000030", 1),
    ]


def test_kinetics_without_any_file_is_an_error_that_shows_a_name(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "x.mp4")
    csv = tmp_path / "k.csv"
    csv.write_text(CSV.format(more="", cc="", val="val"))
    with pytest.raises(DataError, match=r"none of the 6 rows[\s\S]*0wR5jVB-WPk_000417_000427\.mp4"):
        list_kinetics(root, csv=csv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("youtube_id,time_start,time_end\n", "has no rows"),
        ("label,id\na,b\n", "no column youtube_id and time_start and time_end"),
        ("youtube_id,time_start,time_end\nx,soon,later\n", "line 2: time_start and time_end must be seconds"),
        ("youtube_id,time_start,time_end\nabcdefghijk,0,inf\n", "line 2: time_start and time_end must be seconds"),
        ("youtube_id,time_start,time_end\n../../../et,1,2\n", "k.csv line 2: '../../../et' is no YouTube id"),
    ],
)
def test_a_malformed_kinetics_csv_is_refused(tmp_path: Path, text: str, message: str) -> None:
    root = touch(tmp_path / "v", "x.mp4")
    csv = tmp_path / "k.csv"
    csv.write_text(text)
    with pytest.raises(DataError, match=message):
        list_kinetics(root, csv=csv)


def test_rows_that_name_no_part_of_a_youtube_video_are_left_out(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "0wR5jVB-WPk_000000_000010.mp4", "#NAME?.mp4")
    csv = tmp_path / "k.csv"
    csv.write_text(
        "youtube_id,time_start,time_end,split\n"  # a test list: it has no labels
        "0wR5jVB-WPk,0,10,test\n"
        "#NAME?,0,10,test\n"  # what Excel makes of an id that begins with -
        "abcdefghijk/../../x,0,10,test\n"
        "abcdefghijk,10,10,test\n"
        "abcdefghijk,-5,5,test\n"
    )
    listing = list_kinetics(root, csv=csv)
    assert [(clip.key, clip.label, clip.label_name) for clip in listing.clips] == [
        ("0wR5jVB-WPk_000000_000010", None, None)
    ]
    assert listing.labels == ()
    assert [(refusal.source, refusal.reason.partition(" (")[0]) for refusal in listing.left_out] == [
        ("k.csv line 3", "'#NAME?' is no YouTube id"),
        ("k.csv line 4", "'abcdefghijk/../../x' is no YouTube id"),
        ("k.csv line 5", "10 to 10 s is no part of a video"),
        ("k.csv line 6", "-5 to 5 s is no part of a video"),
    ]


@pytest.mark.parametrize("name", ["0wR5jVB-WPk_000417_000427.mp4", "0wR5jVB-WPk.mp4"])
def test_a_replacement_goes_before_the_damaged_file(tmp_path: Path, name: str) -> None:
    """The layout that the CVDF's scripts leave: train/, val/, replacement/replacement_for_corrupted_k400/."""
    replacement = f"replacement/replacement_for_corrupted_k400/{name}"
    root = touch(
        tmp_path / "k400",
        "abseiling/0wR5jVB-WPk_000417_000427.mp4",
        "train/0wR5jVB-WPk_000417_000427.mp4",
        "val/3caPS4FHFF8_000036_000046.mp4",
        replacement,
    )
    csv = tmp_path / "k.csv"
    csv.write_text(CSV.format(more="", cc="", val="train"))
    listing = list_kinetics(root, csv=csv)
    assert {clip.key: clip.source for clip in listing.clips} == {
        "0wR5jVB-WPk_000417_000427": replacement,
        "3caPS4FHFF8_000036_000046": "val/3caPS4FHFF8_000036_000046.mp4",
    }
    assert "took 1 videos from the folder of replacements" in listing.notes


@pytest.mark.skipif(not KINETICS.is_dir(), reason=f"{KINETICS} is not there")
@pytest.mark.parametrize(
    ("name", "rows", "num_classes"),
    [
        ("kinetics400_validate.csv", 18009, 400),
        ("kinetics600_validate.csv", 28267, 600),
        ("kinetics700_validate.csv", 33909, 700),
        ("activitynet_kinetics-400_val.csv", 19906, 400),
        ("activitynet_kinetics-600_val.csv", 30000, 600),
    ],
)
def test_every_row_of_the_official_csvs_is_usable(name: str, rows: int, num_classes: int) -> None:
    read = read_kinetics(KINETICS / name)
    assert (len(read.rows), read.unusable) == (rows, [])
    assert len(read.labels) == num_classes
    assert {row.split for row in read.rows} == {"val"}  # some say validate


@pytest.mark.skipif(not KINETICS.is_dir(), reason=f"{KINETICS} is not there")
def test_the_official_k400_csv_has_400_classes_and_matches_the_class_list(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "0wR5jVB-WPk_000417_000427.mp4")
    csv, names = KINETICS / "activitynet_kinetics-400_val.csv", KINETICS / "label_map_k400.txt"
    found, given = list_kinetics(root, csv=csv), list_kinetics(root, csv=csv, classes=names)
    assert found.labels == given.labels == tuple(names.read_text().splitlines())
    rows = len(csv.read_text().splitlines()) - 1
    assert len(found.clips) + len(found.left_out) == rows


def decoded_numbers(root: Path, name: str, span: tuple[float, float]) -> list[int] | str:
    """The source frames that a row with `span` gets of a file, as their pixels show; or the reason."""
    clip, store = Clip("k", name, span_s=span), StoreOptions(frames=4)
    outcome = make_sample(clip, root=root, media="video", store=store)
    return [frame_number(p) for p in pictures_of(outcome)] if isinstance(outcome, Sample) else outcome.reason


def test_the_span_of_a_whole_video_is_cut_out_and_a_cut_clip_is_taken_whole(tmp_path: Path) -> None:
    write_video(tmp_path / "w.mp4", frames=32, fps=2)  # 16 s
    assert decoded_numbers(tmp_path, "w.mp4", (4, 8)) == [9, 11, 13, 15]  # frames 8 to 15
    assert decoded_numbers(tmp_path, "w.mp4", (100, 115)) == [
        4,
        12,
        20,
        28,
    ]  # 16 s: the clip itself, cut loosely
    assert "neither the clip of 4 s nor the whole video" in str(decoded_numbers(tmp_path, "w.mp4", (40, 44)))


# --- demo


def test_every_combination_comes_equally_often_and_a_fifth_is_for_validation() -> None:
    world = scenes(960, seed=0)
    assert set(Counter((scene.appearance, scene.motion) for scene in world).values()) == {10}
    assert Counter(scene.split for scene in world) == {"train": 768, "val": 192}
    assert len({scene.caption.replace(scene.appearance, "").replace(scene.motion, "") for scene in world}) >= 12
    for scene in world[:50]:
        assert all(part in scene.caption for part in (scene.appearance, scene.motion, scene.background))


def test_the_world_is_a_function_of_the_seed() -> None:
    assert scenes(100, seed=1) == scenes(200, seed=1)[:100]
    assert scenes(100, seed=1) != scenes(100, seed=2)


def scene_of(motion: str, start: tuple[float, float, float, float] = (0.5, 0.5, 0.2, 0.0)) -> Scene:
    return Scene("x.mp4", "train", "red", "striped", "grey", motion, "", start, 0.5)


def red(scene: Scene, number: int) -> NDArray[np.bool_]:
    """Where the shape is, its white spot with it: bool [64,64]."""
    frame = draw(scene, number, 64).astype(int)
    is_red, is_white = frame[..., 0] - frame[..., 1] > 80, frame.min(axis=2) > 230
    return np.asarray(is_red | is_white)


@pytest.mark.parametrize(
    ("motion", "dx", "dy"),
    [("moves left", -1, 0), ("moves right", 1, 0), ("moves up", 0, -1), ("moves down", 0, 1)],
)
def test_shapes_move_as_their_name_says(motion: str, dx: int, dy: int) -> None:
    centres = [np.argwhere(red(scene_of(motion), n)).mean(axis=0)[::-1] for n in (0, 4)]
    moved = centres[1] - centres[0]
    np.testing.assert_allclose(moved, np.array([dx, dy]) * 64 * 0.5 * 4 / 15, atol=0.6)


def test_growing_and_shrinking_are_what_they_say() -> None:
    areas = {motion: [red(scene_of(motion), n).sum() for n in (0, 5)] for motion in ("grows", "shrinks")}
    assert areas["grows"][1] > 1.2 * areas["grows"][0]
    assert areas["shrinks"][1] < 0.8 * areas["shrinks"][0]


@pytest.mark.parametrize(("motion", "side"), [("turns clockwise", 1), ("turns counterclockwise", -1)])
def test_turning_takes_the_spot_from_the_top_to_the_right_or_left(motion: str, side: int) -> None:
    white = [np.argwhere(draw(scene_of(motion), n, 64).min(axis=2) > 230).mean(axis=0) for n in (0, 7)]
    assert white[0][0] < 28  # at the top first (row)
    assert (white[1][1] - 31.5) * side > 4  # a quarter turn later at the side (column)


def test_a_motion_run_backwards_is_its_opposite() -> None:
    """So no single frame can tell the two apart."""
    end = scene_of("moves left")
    x = (end.start[0] - end.speed) % 1.0
    back = scene_of("moves right", (x, *end.start[1:]))
    for number in range(FRAMES):
        np.testing.assert_array_equal(draw(end, number, 32), draw(back, FRAMES - 1 - number, 32))


def test_the_frames_of_each_motion_show_every_position_size_and_angle_equally_often() -> None:
    """So a frame of which nobody says when it was taken tells nothing of the motion."""
    world = scenes(4 * len(JOINT), seed=5)
    for motion, changes in MOTIONS.items():
        own = [scene for scene in world if scene.motion == motion]
        for number, change in enumerate(changes):
            moved = np.arange(FRAMES) / (FRAMES - 1) * change
            values = np.concatenate([scene.start[number] + scene.speed * moved for scene in own]) % 1.0
            share = np.histogram(values, bins=8, range=(0, 1))[0] / len(values)
            # values of a clip that does not move are one draw; 5 deviations of their share
            assert np.abs(share - 1 / 8).max() < 5 * np.sqrt(1 / 8 * 7 / 8 / len(own)), (motion, number)


def test_a_motion_begins_where_its_opposite_ends() -> None:
    for scene in scenes(len(JOINT), seed=5):
        for start, change in zip(scene.start, MOTIONS[scene.motion], strict=True):
            if change:
                from_its_end = (start - (0 if change > 0 else 1) + 0.5) % 1 - 0.5
                assert abs(from_its_end) < 0.1, scene


def test_the_rendered_demo_lists_its_splits_with_both_kinds_of_labels(tmp_path: Path) -> None:
    run = RunOptions(workers=1)
    render_demo(tmp_path, count=10, seed=3, size=32, run=run)
    videos = {path.name: path.read_bytes() for path in (tmp_path / "videos").iterdir()}
    assert len(videos) == 10
    (tmp_path / "videos" / "clip-00004.mp4").unlink()
    render_demo(tmp_path, count=10, seed=3, size=32, run=run)  # only what is missing, to the same bytes
    assert {path.name: path.read_bytes() for path in (tmp_path / "videos").iterdir()} == videos
    train, val = list_demo(tmp_path, "train"), list_demo(tmp_path, "val")
    assert (len(train.clips), [clip.key for clip in val.clips]) == (8, ["clip-00004", "clip-00009"])
    for clip in (*train.clips, *val.clips):
        appearance, motion = clip.extra["appearance"], clip.extra["motion"]
        assert APPEARANCES[int(clip.extra["appearance_label"])] == appearance
        assert list(MOTIONS)[int(clip.extra["motion_label"])] == motion
        assert clip.label is not None
        assert JOINT[clip.label] == f"{appearance} {motion}" == clip.label_name


def test_another_demo_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    run = RunOptions(workers=1)
    render_demo(tmp_path, count=10, seed=3, size=32, run=run)
    with pytest.raises(ConfigError, match="'seed': 3"):
        render_demo(tmp_path, count=10, seed=4, size=32, run=run)
    with pytest.raises(ConfigError, match="at least 10 clips"):
        render_demo(tmp_path / "new", count=5, seed=4, size=32, run=run)
