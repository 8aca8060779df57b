"""The notebook of the first hour runs from its first cell to its last, and is committed without outputs."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.paths import REPO
from tests.support.tiny_runs import add_checkpoint, make_config, write_run

NOTEBOOK = REPO / "umt_ds" / "examples" / "first_hour.ipynb"


def said_by(folder: Path) -> str:
    """All that the cells print when the notebook runs in a folder; pictures by their type."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(folder)})
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    assert {one.output_type for one in outputs} <= {"stream", "execute_result"}, "no cell fails"
    texts = [one.get("text", "") or " ".join(one.get("data", {})) for one in outputs]
    return "\n".join(texts)


def test_it_is_committed_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert [cell.outputs for cell in cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)] == []


@pytest.mark.slow
def test_it_runs_on_small_models(classifier_folder: Path, finder_folder: Path, videos: Path, tmp_path: Path) -> None:
    demo = tmp_path / "runs" / "demo"
    (demo / "data").mkdir(parents=True)
    (demo / "data" / "videos").symlink_to(videos)
    (demo / "recognition_appearance").symlink_to(classifier_folder)
    (demo / "stage2").symlink_to(finder_folder)
    config = make_config(tmp_path / "small")
    run = write_run(config)
    add_checkpoint(run, config)
    (demo / "stage1").symlink_to(run)
    (tmp_path / "below").mkdir()  # the demo is looked for above
    said = said_by(tmp_path / "below")
    assert "grey.mp4 | biking" in said
    assert "makes (2, 64)" in said
    assert "match" in said
    assert "patches 8 kept 2" in said
    assert said.count("image/png") == 4


@pytest.mark.slow
def test_a_model_that_is_not_there_is_said_with_the_command_that_trains_it(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "demo" / "data").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "data" / "videos").symlink_to(videos)
    said = said_by(tmp_path)
    assert "runs/demo/stage1 is not there: run `make demo`" in said
    assert "runs/demo/stage2 is not there: run `umt train demo/stage2 --ranks 2`" in said
