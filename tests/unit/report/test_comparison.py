"""`umt report RUN RUN …`: curves over each other, scores with their protocols, settings that differ."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.run_records import metrics_line, scores_line, words_of
from umt_ds.cli.report import command
from umt_ds.config.load import load_run
from umt_ds.config.show import as_tree, as_yaml
from umt_ds.errors import ConfigError, DataError
from umt_ds.report.comparison import measured_alike, read_compared, setting_rows, way_rows
from umt_ds.report.comparison_pictures import axis_of, style_of


def make_run(folder: Path, lines: list[str], *overrides: str) -> Path:
    config = load_run("demo/teacher", (f"run_dir={folder}", *overrides))
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(as_yaml(as_tree(config)))
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def report(*arguments: str | Path) -> str:
    return CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False).stdout


def trained(steps: int = 3, **changes: Any) -> list[str]:
    return [metrics_line(step, **changes) for step in range(1, steps + 1)]


def test_runs_stand_beside_each_other_on_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "one", [*trained(), scores_line(3, name="knn", top1=40.0)]),
        make_run(tmp_path / "two", [*trained(), scores_line(3, name="knn", top1=50.0)], "optim.lr=0.5"),
    ]
    said = report(*runs, "-o", tmp_path / "out")
    assert said.splitlines()[0] == str(tmp_path / "out" / "index.html")
    assert said.splitlines()[-1].split() == ["top1", "40", "at", "step", "3", "50", "at", "step", "3"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert not re.search(r'(src|href)="(?!data:image)', page), "nothing is fetched"
    words = words_of(tmp_path / "out" / "index.html")
    assert re.search(r"optim\.lr \S+ 0\.5", words)
    assert "optim.weight_decay" not in words, "a setting that is the same is no difference"
    assert "A and B: 3 of 3 common steps agree" in words
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "index.html", "training.png", "scores.png", "speed.png",
    }  # fmt: skip


def test_the_page_of_a_run_is_linked_where_it_has_one(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, trained()) for name in ("one", "two")]
    (runs[0] / "report").mkdir()
    (runs[0] / "report" / "index.html").write_text("its own")
    report(*runs)
    page = runs[0] / "report" / "comparison" / "index.html"
    (link,) = re.findall(r'href="([^"]+)"', page.read_text())
    assert (page.parent / link).read_text() == "its own"


def test_scores_that_were_measured_in_different_ways_stand_apart_with_what_differs(tmp_path: Path) -> None:
    protocols = [{"frames": 8, "shards": "/a"}, {"frames": 8, "shards": "/b"}, {"frames": 16, "shards": "/a"}]
    runs = [
        make_run(tmp_path / str(number), [*trained(), scores_line(3, name="test", protocol=protocol, top1=40.0)])
        for number, protocol in enumerate(protocols)
    ]
    compared = read_compared(runs)
    groups = measured_alike(compared)
    assert [[run.letter for run in group.runs] for group in groups] == [["A", "B"], ["C"]], "folders count not"
    assert way_rows(compared, "test") == [["frames", "8", "8", "16"]]
    report(*runs, "-o", tmp_path / "out")
    words = words_of(tmp_path / "out" / "index.html")
    assert "test: MEASURED IN 2 WAYS, so that the scores of A, B from C do not compare" in words


def test_what_cannot_change_a_score_is_told_and_divides_nothing(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / batch, [*trained(), scores_line(3, name="test", protocol={"batch": int(batch)}, top1=1.0)])
        for batch in ("4", "8")
    ]
    assert len(measured_alike(read_compared(runs))) == 1
    report(*runs, "-o", tmp_path / "out")
    assert "test, not alike A B batch 4 8" in words_of(tmp_path / "out" / "index.html")


def test_a_partial_score_says_so_and_the_best_step_is_told(tmp_path: Path) -> None:
    lines = [*trained(), scores_line(1, name="test", top1=60.0), scores_line(3, name="test", left_out=2, top1=70.0)]
    said = report(make_run(tmp_path / "one", lines), make_run(tmp_path / "two", trained()), "-o", tmp_path / "out")
    assert "70 at step 3, partial: 2 left out; best 60 at 1" in said


def test_runs_of_other_batches_are_drawn_over_the_clips_that_they_saw(tmp_path: Path) -> None:
    same = [make_run(tmp_path / name, trained()) for name in ("one", "two")]
    other = make_run(tmp_path / "large", trained(), "batch.global=128")
    assert axis_of(read_compared(same)) == "optimiser step"
    assert axis_of(read_compared([*same, other])) == "clips drawn"
    report(*same, other, "-o", tmp_path / "out")
    assert "the curves are drawn over the clips that each run has drawn" in words_of(tmp_path / "out" / "index.html")


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / folder / "run", trained()) for folder in ("a", "b")]
    assert [run.label for run in read_compared(runs)] == ["a/run", "b/run"]
    assert [row[0] for row in setting_rows(read_compared(runs))] == ["run_dir"]


def test_a_run_named_twice_too_many_runs_and_options_of_one_run_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", trained())
    other = make_run(tmp_path / "two", trained())
    with pytest.raises(ConfigError, match="are one run"):
        report(run, tmp_path / "." / "one")
    with pytest.raises(ConfigError, match="27 runs are too many"):
        read_compared([tmp_path / str(number) for number in range(27)])
    with pytest.raises(ConfigError, match="--probe is for the page of one run"):
        report(run, other, "--no-probe")
    assert not (run / "report").exists()


def test_runs_that_share_no_logged_step_say_so_where_clips_are_compared(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "one", trained(2)), make_run(tmp_path / "two", [metrics_line(9)])]
    report(*runs, "-o", tmp_path / "out")
    assert "nothing to compare" in words_of(tmp_path / "out" / "index.html")


def test_every_run_has_a_colour_and_line_of_its_own() -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert len({style_of(letter) for letter in letters}) == len(letters)


def test_numbers_that_no_axis_can_show_are_left_out(tmp_path: Path) -> None:
    lines = [metrics_line(1, loss=1e300), metrics_line(2, loss=1.0)]
    runs = [make_run(tmp_path / name, lines) for name in ("one", "two")]
    assert report(*runs, "-o", tmp_path / "out")


def eval_file(path: Path, weights: Path, *, protocol: dict[str, Any], **values: float | None) -> Path:
    """What `umt eval -o` writes, as far as a page reads it."""
    found = {"evaluation": "test", "values": values, "items": 8, "left_out": [{"key": "k"}], "protocol": protocol}
    runs = [{"run": "r", "weights": str(weights), "step": 2, "evaluations": [found]}]
    path.write_text(json.dumps({"format": 1, "runs": runs}))
    return path


def test_what_umt_eval_wrote_stands_beside_what_the_training_found(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name, [*trained(), scores_line(3, name="test", protocol={"views": 1}, top1=5.0)])
        for name in "ab"
    ]
    alike = eval_file(tmp_path / "1.json", runs[0] / "checkpoints" / "step-00000002", protocol={"views": 1}, top1=4.0)
    other = eval_file(tmp_path / "2.json", runs[1], protocol={"views": 12}, top1=9.0, top5=None)
    one, two = read_compared(runs, [alike, other])
    assert [(p.step, p.value, p.left_out) for p in one.evaluations["test"].curves["top1"].points] == [
        (2, 4.0, 1),
        (3, 5.0, 0),
    ]
    assert list(two.evaluations) == ["test", "test (umt eval)"], "12 views are another way to measure"
    assert list(two.evaluations["test (umt eval)"].curves) == ["top1"], "a number that is null is none"
    said = report(*runs, "-o", tmp_path / "out", "--scores", alike, "--scores", other)
    assert "9 at step 2, partial: 1 left out" in said


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 2, "runs": []}', '{"format": 1, "runs": [3]}', '{"format": 1}']
)
def test_a_file_that_umt_eval_did_not_write_is_refused(tmp_path: Path, content: str) -> None:
    runs = [make_run(tmp_path / name, trained()) for name in "ab"]
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(DataError, match=r"scores\.json holds no scores: "):
        read_compared(runs, [tmp_path / "scores.json"])


def test_scores_of_other_runs_and_of_one_run_are_refused(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, trained()) for name in "ab"]
    file = eval_file(tmp_path / "scores.json", tmp_path / "c", protocol={}, top1=1.0)
    with pytest.raises(ConfigError, match=r"tells of weights of other runs: .*/c"):
        read_compared(runs, [file])
    with pytest.raises(ConfigError, match="there is no file"):
        read_compared(runs, [tmp_path / "nothing.json"])
    with pytest.raises(ConfigError, match="--scores is for the page of several runs"):
        report(runs[0], "--scores", file)
