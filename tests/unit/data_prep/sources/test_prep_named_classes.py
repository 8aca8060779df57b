"""UCF101, HMDB51 and Moments in Time V1 by their official files: which clip has which number, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.sources.named_classes import list_hmdb51, list_moments, list_ucf101
from data_prep.sources.path_label import list_path_label
from tests.support.files import touch, written
from tests.support.paths import SHARED
from umt_ds.errors import DataError

ANNOTATIONS = SHARED / "data" / "annotations"
CLASS_IND = "1 ApplyEyeMakeup\n2 ApplyLipstick\n3 Archery\n"


def test_ucf101_counts_its_classes_from_0(tmp_path: Path) -> None:
    touch(tmp_path / "ucf", "ApplyLipstick/v_ApplyLipstick_g01_c01.avi", "Archery/v_Archery_g08_c02.avi")
    classes = written(tmp_path / "classInd.txt", CLASS_IND)
    lines = "ApplyLipstick/v_ApplyLipstick_g01_c01.avi 2\nArchery/v_Archery_g08_c02.avi 3\n"
    lines += "Archery/v_Archery_g09_c01.avi 3\n"
    train = list_ucf101(tmp_path / "ucf", rows=written(tmp_path / "trainlist01.txt", lines), classes=classes)
    assert [(clip.label, clip.label_name) for clip in train.clips] == [(1, "ApplyLipstick"), (2, "Archery")]
    assert train.labels == ("ApplyEyeMakeup", "ApplyLipstick", "Archery")
    assert [(one.source, one.reason) for one in train.left_out] == [
        ("Archery/v_Archery_g09_c01.avi", "missing: no file for it")
    ]
    test = written(tmp_path / "testlist01.txt", "Archery/v_Archery_g08_c02.avi\n")
    assert [clip.label for clip in list_ucf101(tmp_path / "ucf", rows=test, classes=classes).clips] == [2]


@pytest.mark.parametrize(
    ("rows", "classes", "says"),
    [
        ("Archery/a.avi 2\n", CLASS_IND, "line 1: Archery has number 2, and 3 in classInd.txt"),
        ("Archery/a.avi 3\n", "", "classInd.txt names no class"),
        ("Archery/a.avi 3\n", "1 Archery\n2 Biking\n3 Archery\n", "line 3 names Archery, as line 1 does"),
        ("Archery/a.avi 3\n", "0 ApplyEyeMakeup\n", "line 1 is not `1 CLASS`"),
        ("a.avi 3\n", CLASS_IND, "is not CLASS/FILE"),
        ("Archry/a.avi\n", CLASS_IND, "line 1: label 'Archry' is not in the class list"),
        ("Archery/b.avi 3\n", CLASS_IND, "none of the 1 rows"),
    ],
)
def test_files_of_ucf101_that_do_not_fit_are_refused(rows: str, classes: str, says: str, tmp_path: Path) -> None:
    touch(tmp_path / "ucf", "Archery/a.avi")
    table, names = written(tmp_path / "rows.txt", rows), written(tmp_path / "classInd.txt", classes)
    with pytest.raises(DataError) as raised:
        list_ucf101(tmp_path / "ucf", rows=table, classes=names)
    assert says in raised.value.what


def test_hmdb51_takes_one_part_of_one_split_and_numbers_in_alphabetical_order(tmp_path: Path) -> None:
    touch(tmp_path / "hmdb", "wave/x_wave_u.avi", "wave/y_wave_u.avi", "cartwheel/z_cartwheel_f.avi")
    splits = tmp_path / "splits"
    splits.mkdir()
    written(splits / "wave_test_split1.txt", "x_wave_u.avi 1 \ny_wave_u.avi 2 \nw_wave_u.avi 0 \n")
    written(splits / "cartwheel_test_split1.txt", "z_cartwheel_f.avi 1 \n")
    train = list_hmdb51(tmp_path / "hmdb", splits=splits, split=1, part="train")
    assert {clip.source: clip.label for clip in train.clips} == {
        "cartwheel/z_cartwheel_f.avi": 0,
        "wave/x_wave_u.avi": 1,
    }
    test = list_hmdb51(tmp_path / "hmdb", splits=splits, split=1, part="test")
    assert [clip.source for clip in test.clips] == ["wave/y_wave_u.avi"]
    assert test.labels == train.labels == ("cartwheel", "wave")
    with pytest.raises(DataError, match="holds no file NAME_test_split3"):
        list_hmdb51(tmp_path / "hmdb", splits=splits, split=3, part="test")
    written(splits / "wave_test_split1.txt", "x_wave_u.avi\n")
    with pytest.raises(DataError, match="line 1 does not end in 0, 1 or 2"):
        list_hmdb51(tmp_path / "hmdb", splits=splits, split=1, part="test")


def test_classes_of_hmdb51_without_a_split_file_are_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path / "hmdb", "wave/x.avi", "walk/y.avi", "walk/z.avi", "run/u.avi")
    splits = tmp_path / "splits"
    splits.mkdir()
    written(splits / "wave_test_split1.txt", "x.avi 1 \n")
    (said,) = [
        note for note in list_hmdb51(tmp_path / "hmdb", splits=splits, split=1, part="train").notes if "classes" in note
    ]
    assert said.startswith("2 folders with 3 videos have no NAME_test_split1.txt")
    assert said.endswith(": run, walk")
    written(splits / "walk_test_split2.txt", "y.avi 1 \n")
    with pytest.raises(
        DataError, match=r"1 of 2 classes have files of other splits and no NAME_test_split1\.txt: walk"
    ):
        list_hmdb51(tmp_path / "hmdb", splits=splits, split=1, part="train")


def test_moments_in_time_takes_the_class_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path / "mit", "adult+female+singing/getty-x_4.mp4", "clapping/yt-a_1.mp4")
    classes = written(tmp_path / "moments_categories.txt", "clapping,0\nadult+female+singing,1\n")
    rows = "adult+female+singing/getty-x_4.mp4,adult+female+singing,3,1\nclapping/yt-a_1.mp4,clapping,3,0\n"
    listing = list_moments(tmp_path / "mit", csv=written(tmp_path / "trainingSet.csv", rows), classes=classes)
    assert {clip.source.partition("/")[0]: clip.label for clip in listing.clips} == {
        "adult+female+singing": 1,
        "clapping": 0,
    }
    with pytest.raises(DataError, match="does not begin with CLASS/FILE,CLASS"):
        list_moments(tmp_path / "mit", csv=written(tmp_path / "v.csv", "clapping/a.mp4,praying,3,0\n"), classes=classes)


@pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason=f"{ANNOTATIONS} is not there")
def test_version_2_of_moments_in_time_has_the_same_files_and_305_classes(tmp_path: Path) -> None:
    touch(tmp_path / "training", "adult+female+singing/getty-x_4.mp4", "clapping/yt-a_1.mp4")
    rows = "adult+female+singing/getty-x_4.mp4,adult+female+singing,3,1\nclapping/yt-a_1.mp4,clapping,3,0\n"
    classes = ANNOTATIONS / "label_maps" / "category_momentsv2.txt"
    listing = list_moments(tmp_path / "training", csv=written(tmp_path / "trainingSet.csv", rows), classes=classes)
    assert (len(listing.labels), {clip.label_name: clip.label for clip in listing.clips}) == (
        305,
        {"adult+female+singing": 256, "clapping": 0},
    )
    of_version_1 = written(tmp_path / "v1.csv", "praying/a.mp4,praying,3,0\n")
    with pytest.raises(DataError, match="label 'praying' is not in the class list of 305 classes"):
        list_moments(tmp_path / "training", csv=of_version_1, classes=classes)


@pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason=f"{ANNOTATIONS} is not there")
def test_the_numbers_are_those_of_the_published_lists(tmp_path: Path) -> None:
    """HMDB51 and UCF101: a clip of a published list has the same number by the official form of its row."""
    names = (ANNOTATIONS / "label_maps" / "hmdb51_label_map.txt").read_text().split()
    assert sorted(names) == names
    published = ANNOTATIONS / "lists_path_label" / "ucf101_split1_train.csv"
    ucf = (ANNOTATIONS / "label_maps" / "ucf101_label_map.txt").read_text().split()
    rows = published.read_text().splitlines()[::97]
    touch(tmp_path / "ucf", *(row.split()[0] for row in rows))
    official = [f"{file} {int(number) + 1}" for file, number in (row.split() for row in rows)]
    listing = list_ucf101(
        tmp_path / "ucf",
        rows=written(tmp_path / "trainlist01.txt", "\n".join(official)),
        classes=written(tmp_path / "classInd.txt", "\n".join(f"{n} {name}" for n, name in enumerate(ucf, start=1))),
    )
    theirs = list_path_label(tmp_path / "ucf", rows=published)
    assert {c.source: c.label for c in listing.clips} == {c.source: c.label for c in theirs.clips}
