"""The examples of the page on the Python API run as they stand there, one after the other."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import umt_ds
from tests.support.paths import REPO
from tests.support.recognition import NAMES
from tests.support.tiny_runs import make_config, write_run

torch.set_num_threads(1)
PAGE = REPO / "umt_ds" / "api" / "README.md"


def test_the_examples_of_the_page_run(
    finder_folder: Path,
    answerer_folder: Path,
    classifier: umt_ds.VideoModel,
    classifier_folder: Path,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs", "films"):
        (tmp_path / name).mkdir()
    for name, folder in (("retrieval", finder_folder), ("questions", answerer_folder)):
        (tmp_path / "runs" / name).symlink_to(folder)
    (tmp_path / "runs" / "stage1").symlink_to(write_run(make_config(tmp_path / "stage1")))
    save_file(dict(classifier.module.state_dict()), tmp_path / "b16_k400.safetensors")
    shutil.copy(classifier_folder / "config.yaml", tmp_path / "recognition.yaml")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    shutil.copy(videos / "grey.mp4", tmp_path / "clip.mp4")
    shutil.copy(videos / "dark.mp4", tmp_path / "films" / "a.mp4")
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(examples) >= 8, "the search finds them"
    names: dict[str, Any] = {}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert "can encode_video, encode_text, similarity, match, attention" in said
    assert "Choice(text='biking'" in said
