"""Files of AVA and of its detectors, of any content: boxes that a table can hold, or one error in words."""

from __future__ import annotations

import json
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from data_prep.clip import Refusal
from data_prep.protocols.known import protocol
from umt_ds.errors import DataError

CELLS = st.sampled_from([
    *("v", "-5KQ", "0902", "1000000", "902.5", "0", "0.1", "0.5", "1", "1.0", "-0.2", "1e99", "nan", "inf", "12", "80"),
    *("81", "", " ", '"', "\0", "\ud83d", "é", "\u0663", "1_0"),
])  # fmt: skip
LINE = st.lists(CELLS, min_size=1, max_size=9).map(",".join)
GOOD_LINE = st.tuples(st.sampled_from(["v,0902,0,0,1,1,12", "v,0903,0.1,0.2,0.3,0.4,7"]), CELLS).map(",".join)
LINES = st.lists(LINE | GOOD_LINE, max_size=4).map("\n".join)

NAMES = ["images", "annotations", "id", "movie", "timestamp", "width", "height", "image_id", "bbox", "action_ids"]
NAMES += ["person_id", "score", "v,0902", "v,", ","]
SCALARS = CELLS | st.none() | st.booleans() | st.integers() | st.floats()
NUMBERS = st.lists(st.floats(0, 1) | SCALARS, min_size=3, max_size=6)
VALUES = SCALARS | NUMBERS | st.lists(NUMBERS, max_size=2)
IMAGE = st.fixed_dictionaries({"id": st.integers(0, 2), "movie": CELLS, "timestamp": SCALARS, "width": SCALARS,
                               "height": st.integers(-1, 300)})  # fmt: skip
BOX = st.fixed_dictionaries({"image_id": st.integers(0, 3) | SCALARS, "bbox": NUMBERS},
                            optional={"score": SCALARS, "action_ids": st.lists(SCALARS, max_size=2),
                                      "person_id": SCALARS})  # fmt: skip
COCO = st.fixed_dictionaries({"images": st.lists(IMAGE, max_size=3), "annotations": st.lists(BOX | VALUES, max_size=2)})
CONTENTS = COCO | VALUES | st.lists(BOX | VALUES, max_size=3) | st.dictionaries(st.sampled_from(NAMES), VALUES)


def rows(**files: str) -> list[dict[str, Any]]:
    """No rows where they are refused in words that a terminal takes."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name.replace("_", ".") for name in files]
        for path, content in zip(paths, files.values(), strict=True):
            path.write_bytes(content.encode(errors="surrogatepass"))
        try:
            return [said[1] for said in protocol("ava-val").read(paths) if not isinstance(said, Refusal)]
        except DataError as error:
            refusal = str(error)
    refusal.encode()
    assert any(path.name in refusal for path in paths)
    assert len(refusal) < 2000
    return []


def check(found: list[dict[str, Any]]) -> None:
    for row in found:
        assert len(row["boxes"]) == len(row["actions"]) == len(row["person_ids"])
        assert len(row.get("detected_boxes", [])) == len(row.get("box_scores", []))
        assert all(1 <= action <= 80 for actions in row["actions"] for action in actions)
        assert all(0 <= score <= 1 for score in row.get("box_scores", []))
        for x0, y0, x1, y1 in chain(row["boxes"], row.get("detected_boxes", [])):
            assert x0 <= x1
            assert y0 <= y1
        assert all(0 <= corner <= 1 for box in row["boxes"] for corner in box)
        assert type(row["second"]) is int


@given(lines=LINES, more=LINES)
def test_any_csv_gives_boxes_or_is_refused(lines: str, more: str) -> None:
    check(rows(a_csv=lines))
    check(rows(a_csv=lines, b_csv=more))


@given(content=CONTENTS, annotations=COCO)
def test_any_json_gives_boxes_or_is_refused(content: Any, annotations: Any) -> None:
    check(rows(a_json=json.dumps(content)))
    check(rows(a_json=json.dumps(content), b_json=json.dumps(annotations)))


@given(
    text=st.text() | st.lists(st.sampled_from(["item", "{", "}", "name:", '"a"', "id:", "1", "81", "\n"])).map(" ".join)
)
def test_any_label_map_names_actions_or_is_refused(text: str) -> None:
    check(rows(a_pbtxt=text, b_csv="v,0902,0,0,1,1,12,3"))
