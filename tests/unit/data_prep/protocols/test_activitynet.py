"""ActivityNet Captions: all sentences of a video are one paragraph, whatever file they are in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.making.item_table import read_items, write_table
from data_prep.protocols.known import protocol
from tests.support.loading import Tokenizing
from tests.support.shards import write_shards
from umt_ds.batch import Tokens
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.errors import DataError

IDS = ("v_uqiMw7tQ1Cc", "v_-bXdq2zI1Ms0")
OFFICIAL: dict[str, Any] = {
    IDS[0]: {
        "duration": 55.15,
        "timestamps": [[0.28, 55.15], [13.79, 54.32]],
        "sentences": ["Lifting.", "  He lifts."],
    },
    IDS[1]: {"duration": 21.41, "timestamps": [[4.39, 21.41]], "sentences": ["A bike."]},
}
PUBLISHED = [{"video": f"{name}.mp4", "caption": said["sentences"]} for name, said in OFFICIAL.items()]
PARAGRAPHS = dict(zip(IDS, ("Lifting. He lifts.", "A bike."), strict=True))


def as_json(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows))
    return path


def rows_of(name: str, file: Path) -> list[dict[str, Any]]:
    return [said[1] for said in protocol(name).read([file]) if isinstance(said, tuple)]


def test_both_published_forms_give_the_same_items(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (2,), key=IDS.__getitem__)
    files = [as_json(tmp_path / "val_1.json", OFFICIAL), as_json(tmp_path / "anet_ret_val_1.json", PUBLISHED)]
    one, other = (read_items(base, annotations=[file], protocol=protocol("activitynet-val1")) for file in files)
    assert one.items == other.items
    assert {item.key: item.fields["caption"] for item in one.items} == PARAGRAPHS
    assert "these are NOT the files of the protocol, which have 4,917 videos" in one.text()


def test_a_paragraph_is_the_text_of_its_video_in_training(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (2,), key=IDS.__getitem__)
    file = as_json(tmp_path / "train.json", OFFICIAL)
    write_table(read_items(base, annotations=[file], protocol=protocol("activitynet-train")), tmp_path / "table")
    asked: list[str] = []

    def tokens(captions: list[str]) -> Tokens:
        asked.extend(captions)
        return Tokens(torch.zeros(len(captions), 1, dtype=torch.long), torch.ones(len(captions), 1, dtype=torch.bool))

    plan = LoaderPlan(seed=1, global_draws=2, image_side=16, micro=2)
    source = SourceSpec("anet", tmp_path / "table", FramePolicy("intervals", 2))
    (batch,) = Loader([source], plan, tokenize=Tokenizing(tokens)).micro_batches(0)
    assert dict(zip(batch.keys, asked, strict=True)) == PARAGRAPHS


def test_the_sentences_of_val_2_do_not_join_those_of_val_1(tmp_path: Path) -> None:
    files = [as_json(tmp_path / f"val_{number}.json", OFFICIAL) for number in (1, 2)]
    with pytest.raises(DataError, match=r"val_1.json and .*val_2.json both have texts of v_uqiMw7tQ1Cc"):
        list(protocol("activitynet-val1").read(files))


def test_a_file_without_the_letters_before_its_id_is_found(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", (1,), key=lambda _: IDS[0].removeprefix("v_"))
    files = [as_json(tmp_path / "val_1.json", OFFICIAL)]
    (item,) = read_items(base, annotations=files, protocol=protocol("activitynet-val1")).items
    assert item.key == "uqiMw7tQ1Cc"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"v_a": []}, "v_a has no sentences"),
        ({"v_a": {"duration": 3}}, "val_1.json v_a has no sentences or caption: its fields are video, sentences"),
        ([[]], "entry 1 is no object"),
        (3, "is no list of objects"),
    ],
)
def test_a_file_of_another_form_is_one_error(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(protocol("activitynet-val1").read([as_json(tmp_path / "val_1.json", content)]))


def test_a_real_file_has_videos_of_the_split_and_the_rest_is_missed(shared: Path) -> None:
    annotations = shared / "data" / "annotations"
    rows = rows_of("activitynet-val1", annotations / "activitynet" / "anet_entities_val_1.json")
    split = (annotations / "splits" / "activity-net_val_1_list.txt").read_text().split()
    assert len(split) == protocol("activitynet-val1").expected[0].videos
    assert {row["video"][0] for row in rows} < set(split)
    assert rows[0]["caption"].startswith("A weight lifting tutorial is given. The coach helps the guy in red")
