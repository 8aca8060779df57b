"""Files of retrieval by paragraph and template, of any content: rows that a table can hold, or one error in words."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.protocols.known import PROTOCOLS
from data_prep.protocols.protocol import Row
from umt_ds.errors import DataError

NAMES = ("didemo-val", "activitynet-val1", "ssv2-label-test", "ssv2-template-train")
WORDS = st.sampled_from(["a.mp4", "v_a", "one", "", " ", "\ud83d", "\0", "x" * 300, "[something]"])
FIELDS = st.sampled_from(["video", "filename", "id", "caption", "description", "sentences", "label", "template", "end"])
SCALARS = WORDS | st.none() | st.booleans() | st.integers() | st.floats()
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(FIELDS, SCALARS, max_size=2)
ROWS = st.dictionaries(FIELDS, VALUES, max_size=5)
GOOD = st.fixed_dictionaries({"video": st.sampled_from(["a", "b"]), "caption": st.lists(WORDS, min_size=1, max_size=3)})
CONTENTS = VALUES | st.lists(ROWS | GOOD | VALUES, max_size=4) | st.dictionaries(WORDS, ROWS | VALUES, max_size=3)


def read(name: str, content: Any) -> list[Row]:
    """No rows where it is refused in words that a terminal takes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        file.write_text(json.dumps(content))
        try:
            return [said for said in PROTOCOLS[name].read([file]) if isinstance(said, tuple)]
        except DataError as error:
            refusal = str(error)
    refusal.encode()
    assert "rows.json" in refusal
    assert len(refusal) < 2000
    return []


@pytest.mark.parametrize("name", NAMES)
@given(content=CONTENTS)
def test_any_json_gives_rows_of_the_task_or_is_refused(name: str, content: Any) -> None:
    rows = read(name, content)
    said = json.dumps(content)
    for where, fields in rows:
        assert where.startswith("rows.json ")
        assert fields["caption"].strip()
        assert all(json.dumps(part)[1:-1] in said for part in fields["caption"].split(" ") if part)
        assert isinstance(fields["video"], str)
        assert fields["video"]
        assert fields.get("group", fields["caption"]) == fields["caption"]
    if name.startswith(("didemo", "activitynet")):
        parts = [(str(fields["video"]), str(fields.get("start")), str(fields.get("end"))) for _, fields in rows]
        assert len(parts) == len(set(parts))
