"""Lists of answers of a stranger: texts that a tokenizer takes, or one ConfigError."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from umt_ds.errors import ConfigError
from umt_ds.evaluation.answer_list import read_answer_list

TEXT = st.text(st.characters() | st.sampled_from("\x00\ufeff\ud83d \t\n\"'[]"), max_size=8)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
CONTENT = st.one_of(SCALAR, st.lists(TEXT, max_size=5), st.lists(SCALAR, max_size=5), st.dictionaries(TEXT, SCALAR))
FILE = CONTENT.map(lambda content: json.dumps(content).encode()) | st.binary(max_size=60)


@given(FILE)
def test_any_file_is_a_list_of_texts_or_one_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "answers.json").write_bytes(content)
        try:
            found = read_answer_list(Path(folder) / "answers.json")
        except ConfigError:
            return
    told: Any = json.loads(content)
    assert len(found.answers) == len(told) > 0
    assert all(answer.strip() == answer != "" for answer in found.answers)
    assert all(answer.encode() for answer in found.answers)
    assert found.has_one_of(found.answers[:1])
    assert len(found.fingerprint) == 16
