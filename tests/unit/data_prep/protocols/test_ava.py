"""AVA: files of every published form give the same seconds, and an item shows the frames around its second."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from data_prep.cli import umt_data as command
from data_prep.clip import Refusal, RunOptions, StoreOptions
from data_prep.making.item_table import ItemsRead, read_items, write_table
from data_prep.making.prepare import prepare
from data_prep.protocols.known import protocol
from data_prep.sources.folder import list_folder
from tests.support.shards import frame as one_colour
from tests.support.shards import picture, write_shards
from tests.support.videos import shown_number, write_numbered_video
from umt_ds.data.clip_request import ClipRequest, ShownFrames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError

# As ava_val_v2.2.csv has them: three actions of one person, then two persons in the next second
CSV = """\
0f39OWEqJ24,0904,0.031,0.162,0.670,0.995,80,7
0f39OWEqJ24,0904,0.031,0.162,0.670,0.995,12,7
0f39OWEqJ24,0904,0.031,0.162,0.670,0.995,17,7
0f39OWEqJ24,0906,0.034,0.189,0.669,0.980,12,7
0f39OWEqJ24,0906,0.500,0.250,0.750,1.000,11,8
_-Z6wFjXtGQ,0902,0.063,0.049,0.524,0.996,74,0
"""
WIDTH, HEIGHT = 341, 256
PERSON, OTHER = [0.034, 0.189, 0.669, 0.98], [0.5, 0.25, 0.75, 1.0]


def coco(*, seconds: Sequence[int] = range(902, 908)) -> dict[str, Any]:
    """The same as AlphAction writes it: x, y, w, h in pixels, to two decimals; an image for each second, also of those
    without people; a number of a video times 10,000 plus the second is an image."""
    videos = ["0f39OWEqJ24", "_-Z6wFjXtGQ"]
    images = [
        {"id": n * 10000 + s, "movie": video, "timestamp": s, "width": WIDTH, "height": HEIGHT}
        for n, video in enumerate(videos)
        for s in seconds
    ]
    annotations: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in csv.reader(CSV.splitlines()):
        x0, y0, x1, y1 = map(float, row[2:6])
        pixels = [x0 * WIDTH, y0 * HEIGHT, (x1 - x0) * WIDTH, (y1 - y0) * HEIGHT]
        one = {
            "image_id": videos.index(row[0]) * 10000 + int(row[1]),
            "bbox": [round(pixel, 2) for pixel in pixels],
            "person_id": int(row[7]),
            "action_ids": [],
        }
        annotations.setdefault((*row[:6], row[7]), one)["action_ids"].append(int(row[6]))
    return {"images": images, "annotations": list(annotations.values())}


def said(paths: Sequence[Path]) -> tuple[dict[str, dict[str, Any]], list[tuple[str, str]]]:
    """The rows of files by where they stand, and what is left out of them, with the reason."""
    both = list(protocol("ava-val").read(paths))
    refused = [(one.source, one.reason) for one in both if isinstance(one, Refusal)]
    return dict(one for one in both if not isinstance(one, Refusal)), refused


def rows(folder: Path, **files: str) -> dict[str, dict[str, Any]]:
    """The rows of files by their names, in which two `_` stand for the dot."""
    paths = [folder / name.replace("__", ".") for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_text(content)
    return said(paths)[0]


def test_rows_of_one_box_are_one_box_with_its_actions(tmp_path: Path) -> None:
    found = rows(tmp_path, val__csv=CSV)
    assert list(found) == ["0f39OWEqJ24,0904", "0f39OWEqJ24,0906", "_-Z6wFjXtGQ,0902"]
    first, second, _ = found.values()
    assert first == {
        "video": ("0f39OWEqJ24", "0f39OWEqJ24_trim"),
        "movie": "0f39OWEqJ24",
        "second": 904,
        "start": 899,
        "end": 908.999,
        "boxes": [[0.031, 0.162, 0.67, 0.995]],
        "actions": [[12, 17, 80]],
        "person_ids": [7],
    }
    assert (second["boxes"], second["actions"], second["person_ids"]) == ([PERSON, OTHER], [[12], [11]], [7, 8])


def test_both_forms_of_a_split_give_the_same_rows(tmp_path: Path) -> None:
    official = rows(tmp_path, val__csv=CSV)
    assert rows(tmp_path, val__json=json.dumps(coco())) == official
    assert rows(tmp_path, val__json=json.dumps(coco()), val__csv=CSV) == official, "and so they do together"
    unnumbered = coco()
    for one in unnumbered["annotations"]:
        del one["person_id"]
    assert rows(tmp_path, val__json=json.dumps(unnumbered), val__csv=CSV) == official, "nor is a person two"


def test_the_official_sample_is_read_with_its_excluded_seconds(shared: Path) -> None:
    folder = shared / "data" / "annotations" / "ava"
    files = [folder / name for name in ("ava_sample.csv", "ava_excluded_timestamps_sample.csv")]
    found, refused = said(files)
    assert {where: row["actions"] for where, row in found.items()} == {"0f39OWEqJ24,0902": [[12, 17, 79]]}
    why = "an excluded time stamp"
    assert refused == [("0f39OWEqJ24,0903", why), ("_-Z6wFjXtGQ,0902", why)]


# ---------------------------------------------------------------- what a detector found

SLOWFAST = """\
0f39OWEqJ24,0906,0.030,0.180,0.670,0.990,12,0.995
0f39OWEqJ24,0906,0.030,0.180,0.670,0.990,80,0.995
0f39OWEqJ24,0906,0.510,0.240,0.760,0.990,,0.301
0f39OWEqJ24,0905,0.100,0.200,0.300,0.400,,0.900
"""
FOUND = {
    905: ([[0.1, 0.2, 0.3, 0.4]], [0.9]),
    906: ([[0.03, 0.18, 0.67, 0.99], [0.51, 0.24, 0.76, 0.99]], [0.995, 0.301]),
}


def detected(folder: Path, form: str) -> dict[str, dict[str, Any]]:
    """Rows of the annotations beside the detector's boxes in one of their forms."""
    match form:
        case "slowfast":
            return rows(folder, val__csv=CSV, det__csv=SLOWFAST)
        case "mmaction csv":
            lines = (line.split(",") for line in SLOWFAST.splitlines())
            return rows(folder, det__csv="\n".join(",".join([*x[:6], x[7]]) for x in lines), val__csv=CSV)
        case "mmaction json":
            boxes = {f"0f39OWEqJ24,{s:04d}": [[*b, p] for b, p in zip(*of, strict=True)] for s, of in FOUND.items()}
            return rows(folder, det__json=json.dumps(boxes), val__csv=CSV)
        case _:
            entries = [
                {
                    "image_id": second,
                    "bbox": [x0 * WIDTH, y0 * HEIGHT, (x1 - x0) * WIDTH, (y1 - y0) * HEIGHT],
                    "score": score,
                }
                for second, (boxes, scores) in FOUND.items()
                for (x0, y0, x1, y1), score in zip(boxes, scores, strict=True)
            ]
            return rows(folder, det__json=json.dumps(entries), val__json=json.dumps(coco()))


@pytest.mark.parametrize("form", ["slowfast", "mmaction csv", "mmaction json", "alphaction"])
def test_boxes_of_a_detector_stand_beside_the_truth(tmp_path: Path, form: str) -> None:
    found = detected(tmp_path, form)
    of_detector = {where: (row["detected_boxes"], row["box_scores"]) for where, row in found.items()}
    assert of_detector == {
        "0f39OWEqJ24,0904": ([], []),
        "0f39OWEqJ24,0905": FOUND[905],
        "0f39OWEqJ24,0906": FOUND[906],
        "_-Z6wFjXtGQ,0902": ([], []),
    }
    assert found["0f39OWEqJ24,0905"]["boxes"] == [], "a false alarm counts in a score"
    assert found["0f39OWEqJ24,0906"]["boxes"] == [PERSON, OTHER]


def test_boxes_of_a_video_that_nobody_annotated_are_said(tmp_path: Path) -> None:
    rows(tmp_path, val__csv=CSV, det__csv="elsewhere00,0905,0.1,0.2,0.3,0.4,,0.9\n")
    found, refused = said([tmp_path / "det.csv", tmp_path / "val.csv"])
    assert len(found) == 3
    assert refused == [("elsewhere00", "a detector's boxes of a video that nobody annotated")]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "v,0902,1\n", "its first line has 3 columns"),
        ("a.csv", CSV + "v,0902\n", "line 7 has 2 columns, the first one 8"),
        ("a.csv", CSV + "v,soon,0,0,1,1,12,3\n", "line 7: 'v', 'soon' are no video and second of it"),
        ("a.csv", CSV + "v,0902,0.5,0,0.4,1,12,3\n", "line 7: 0.5, 0, 0.4, 1 are no x0, y0, x1, y1 in shares"),
        ("a.csv", CSV + "v,0902,10,20,300,200,12,3\n", "line 7: 10, 20, 300, 200 are no x0, y0, x1, y1 in shares"),
        ("a.csv", CSV + "v,0902,nan,0,1,1,12,3\n", "line 7: nan, 0, 1, 1 are no x0"),
        ("a.csv", CSV + "v,0902,0,0,1,1,81,3\n", "line 7: '81' is no action: they are numbered from 1 to 80"),
        ("a.csv", "v,0902,0,0,1,1,,1.5\n", "line 1: '1.5' is no score"),
        ("a.json", "{}", "is of no form of AVA that is known"),
        ("a.json", '[{"image_id": 902, "bbox": [1,2,3,4], "score": 1}]', "entry 1 is of image 902, and no file says"),
        ("a.json", '{"v,0902": [[0, 0, 1, 1]]}', r"v,0902: \[0, 0, 1, 1\] is no \[x0, y0, x1, y1, score\]"),
        ("a.json", '{"images": [3], "annotations": []}', "image 1 is no object but 3"),
        (
            "a.json",
            json.dumps({**coco(), "annotations": [{"image_id": 902, "action_ids": [1], "bbox": [0, 0, 700, 9]}]}),
            "annotation 1: 0, 0, 2.053, 0.035 are no x0, y0, x1, y1 in shares",
        ),
        (
            "a.json",
            json.dumps({**coco(), "annotations": [{"image_id": 902, "action_ids": [1], "bbox": [1e400, 0, 7, 9]}]}),
            r"bbox \[inf, 0, 7, 9\] is no x, y, w, h in pixels",
        ),
        ("a.pbtxt", 'item { name: "dance" id: 81 }', 'name: "dance" id: 81.* is no name of an action from 1 to 80'),
        ("a.pbtxt", 'item { name: "dance" }', 'name: "dance".* is no name of an action'),
        ("a.pbtxt", "nothing", "it names no actions from 1 to 80"),
    ],
)
def test_what_is_of_no_known_form_is_refused_with_its_place(tmp_path: Path, name: str, content: str, why: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=why):
        list(protocol("ava-val").read([tmp_path / name]))


def test_a_pickle_of_proposals_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "ava_dense_proposals_val.FAIR.recall_93.9.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match="is a pickle: to read it is to run") as caught:
        list(protocol("ava-val").read(list(tmp_path.iterdir())))
    assert "json.dump" in str(caught.value.hint)


# ---------------------------------------------------------------- items over a film

FPS, FRAMES = 10, 130
# name, second at which the stored frames begin, as whole films are stored and as public copies are cut
FILMS = [("0f39OWEqJ24", 0), ("0f39OWEqJ24_trim", 0), ("0f39OWEqJ24_00899000_00913000", 899)]


def film(folder: Path, name: str = "0f39OWEqJ24", *, begins: float = 0, frames: int = FRAMES, fps: float = FPS) -> Path:
    """A film whose frames say their number in green."""
    record = {"times_s": [round(begins + n / fps, 3) for n in range(frames)]}
    members = {f"{n:03d}.png": picture(one_colour(0, n, size=(2, 2))) for n in range(frames)}
    return write_shards(
        folder, (1,), members=lambda _: {"json": json.dumps(record).encode(), **members}, key=lambda _: name
    )


def items(folder: Path, base: Path, content: str = CSV, *more: Path) -> ItemsRead:
    (folder / "val.csv").write_text(content)
    return read_items(base, annotations=[folder / "val.csv", *more], protocol=protocol("ava-val"))


@pytest.mark.parametrize(("name", "begins"), FILMS)
def test_an_item_is_the_frames_around_its_second_in_a_whole_film_and_in_a_cut_one(
    tmp_path: Path, name: str, begins: float
) -> None:
    read = items(tmp_path, film(tmp_path / "film", name, begins=begins))
    write_table(read, tmp_path / "table")
    shown = ShownFrames("first, key and last", 3, lambda count: [0, count // 2, count - 1])
    (batch,) = EvaluationSet(tmp_path / "table", ClipRequest(shown, side=2), batch_size=9).batches()
    source = ShardSource(tmp_path / "table")
    moments = [source.question(ref).fields["key_frame"] for ref in source.refs()]
    numbers = batch.pixels[:, :, 0, 0, 1].tolist()
    late = 10 if begins else 0
    assert moments == [40 + late, 50]
    assert numbers == [[0, (90 + late) // 2, 89 + late], [10 + late, 60 + late, 109 + late]]
    assert [source.question(ref).fields["stored_fps"] for ref in source.refs()] == [FPS, FPS]
    assert ("1 items are shorter than asked for" in read.text()) == (not begins)


def test_frames_that_are_too_far_apart_are_no_item(tmp_path: Path) -> None:
    record = json.dumps({"times_s": [28.125 * n for n in range(32)]}).encode()  # 32 of 15 minutes
    files = {f"{n:03d}.png": picture(one_colour(0, n, size=(2, 2))) for n in range(32)}
    base = write_shards(
        tmp_path / "film", (1,), members=lambda _: {"json": record, **files}, key=lambda _: "0f39OWEqJ24"
    )
    with pytest.raises(DataError, match="its 32 frames are stored too far apart: make the set with --fps"):
        items(tmp_path, base)


@pytest.mark.parametrize(("ends", "is_sure"), [(901, True), (906, True), (910, False), (1790, False), (1800, True)])
def test_a_film_that_is_neither_whole_nor_cut_as_usual_gives_no_frames_of_other_seconds(
    tmp_path: Path, ends: int, is_sure: bool
) -> None:
    base = film(tmp_path / "film", frames=101, fps=100 / ends)
    with pytest.raises(DataError) as caught:  # frames nine seconds and more apart
        items(tmp_path, base, CSV.replace("0906", "0907"))
    assert ("too far apart" in str(caught.value)) == is_sure
    assert (f"its file ends at {ends} s: it is neither the whole" in str(caught.value)) == (not is_sure)


def test_a_video_stored_at_a_steady_rate_shows_its_seconds(tmp_path: Path) -> None:
    """Of 25 frames a second, ten are stored; frame n of the video shows n."""
    write_numbered_video(tmp_path / "videos" / "0f39OWEqJ24_trim.mp4", range(300), fps=25)
    listing = list_folder(tmp_path / "videos").first_in_order()
    prepare(listing, tmp_path / "film", name="film", store=StoreOptions(fps=10, per_shard=1), run=RunOptions(workers=1))
    write_table(items(tmp_path, tmp_path / "film"), tmp_path / "table")
    source = ShardSource(tmp_path / "table")
    fields = source.question(source.ref(1)).fields
    assert (fields["second"], fields["stored_fps"]) == (906, pytest.approx(10, abs=0.05))
    shown = ShownFrames("first, key and last", 3, lambda count: [0, fields["key_frame"], count - 1])
    evaluation = EvaluationSet(tmp_path / "table", ClipRequest(shown, side=48), batch_size=2)
    numbers = [shown_number(frame.numpy()) for frame in evaluation.views_of([1])[1][0]]
    seconds = [number / 25 for number in numbers]
    assert seconds == pytest.approx([906 - 5 - 900, 906 - 900, 906 + 5 - 900], abs=0.1)


def test_seconds_that_a_film_lacks_and_films_that_a_set_lacks_are_said(tmp_path: Path) -> None:
    late = "0f39OWEqJ24,0916,0.1,0.2,0.3,0.4,12,7\n"
    (tmp_path / "excluded.csv").write_text("0f39OWEqJ24,0904\n")
    read = items(tmp_path, film(tmp_path / "film"), CSV + late, tmp_path / "excluded.csv")
    assert len(read.items) == 1
    assert {(one.source, one.reason) for one in read.left_out} == {
        ("0f39OWEqJ24,0904", "an excluded time stamp"),
        ("0f39OWEqJ24,0916", "this second is not in its file, which has 900.0 to 912.9 s"),
        ("_-Z6wFjXtGQ", "no clip of the set has this name"),
    }
    assert "1 videos are MISSING in the set" in read.text()
    assert "these are NOT the files of the protocol, which have 64 videos" in read.text()
    assert "ava-val: 2 videos and 4 boxes in the files" in read.text()


# ---------------------------------------------------------------- names of the actions

LABELS = 'item {\n  name: "bend/bow (at the waist)"\n  id: 1\n}\nitem {\n  name: "dance"\n  id: 4\n}\n'
ALL_LABELS = "".join(
    f'label {{\n  name: "{name}"\n  label_id: {number}\n  label_type: PERSON_MOVEMENT\n}}\n'
    for number, name in enumerate(["bend/bow (at the waist)", *"bcd", *(f"action {n}" for n in range(5, 81))], start=1)
)


def test_the_label_maps_name_the_actions_and_say_which_are_scored(tmp_path: Path) -> None:
    (tmp_path / "all.pbtxt").write_text(ALL_LABELS)
    (tmp_path / "scored.pbtxt").write_text(LABELS.replace("dance", "d"))
    read = items(tmp_path, film(tmp_path / "film"), CSV, tmp_path / "all.pbtxt", tmp_path / "scored.pbtxt")
    write_table(read, tmp_path / "table")
    manifest = load_manifest(tmp_path / "table")
    assert manifest.labels[:4] == ("bend/bow (at the waist)", "b", "c", "d")
    assert len(manifest.labels) == 80
    assert manifest.options["protocol"]["scored"] == [1, 4]
    (tmp_path / "scored.pbtxt").write_text(LABELS)
    with pytest.raises(DataError, match=r"scored\.pbtxt calls action 4 dance, another label map d"):
        items(tmp_path, tmp_path / "film", CSV, tmp_path / "all.pbtxt", tmp_path / "scored.pbtxt")


def test_the_official_label_map_names_the_sixty_that_are_scored(shared: Path, tmp_path: Path) -> None:
    official = shared / "data" / "annotations" / "ava" / "ava_action_list_v2.1_for_activitynet_2018.pbtxt"
    read = items(tmp_path, film(tmp_path / "film"), CSV, official)
    assert read.coverage is not None
    assert read.coverage.classes is not None
    assert len(read.coverage.classes.scored) == 60
    assert (read.labels[0], read.labels[1], read.labels[79]) == ("bend/bow (at the waist)", "", "watch (a person)")


def test_the_command_makes_the_table_and_its_items_are_the_seconds(tmp_path: Path) -> None:
    base = film(tmp_path / "film")
    (tmp_path / "val.csv").write_text(CSV)
    arguments = ["items", base, tmp_path / "table", "--protocol", "ava-val", "--annotations", tmp_path / "val.csv"]
    output = CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False).output
    assert "2 items over 1 clips, with movie, second, boxes, actions, person_ids, key_frame, stored_fps" in output
    source = ShardSource(tmp_path / "table")
    fields = source.question(source.ref(1)).fields
    assert (fields["second"], fields["boxes"], fields["actions"]) == (906, [PERSON, OTHER], [[12], [11]])
