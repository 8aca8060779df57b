"""`umt export` on small runs: what is written, that it is the same model, who takes it, and what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from tests.support.exported import differing
from tests.support.recognition import NAMES, a_set, module_of, run_on
from tests.support.tiny_runs import add_checkpoint, make_config, write_run
from tests.support.video_text_runs import odd_weights, pixels_of, video_text_run
from tests.support.videos import write_video
from umt_ds.cli import eval as umt_eval
from umt_ds.cli import export, predict
from umt_ds.config.check import check
from umt_ds.errors import ConfigError, DataError, UmtError, WeightsError
from umt_ds.exchange.folder import read_folder
from umt_ds.exchange.published import FILE, published_state, teacher_of_source
from umt_ds.exchange.source import Source, open_source
from umt_ds.jobs.eval_runs import find_runs
from umt_ds.search.model import open_model
from umt_ds.tasks.kinds import build_task
from umt_ds.weights.load import read_state

torch.set_num_threads(1)
STAGE1, CLASSIFIER, RETRIEVAL, ANSWERS = "student/run", "classifier/run", "retrieval/run", "answers/run"
RUNS = (STAGE1, CLASSIFIER, RETRIEVAL, ANSWERS)
SCORE = {
    "kind": "scores", "step": 6, "evaluation": "val", "values": {"top1": 0.5}, "items": 5, "left_out": 1,
    "seconds": 1.0, "protocol": {"views": 3}, "attempt": 1,
}  # fmt: skip


def call(command: Any, *words: object) -> Result:
    return CliRunner().invoke(command.command, [str(word) for word in words])


def exported(*words: object) -> str:
    """What a call printed that ended well."""
    ended = call(export, *words)
    assert ended.exit_code == 0, (ended.exception, ended.output)
    return ended.stdout


def refused(*words: object) -> UmtError:
    error = call(export, *words).exception
    assert isinstance(error, UmtError), (error, words)
    return error


def opened(run: Path | str, *, averaged: bool = False) -> Source:
    return open_source(find_runs([str(run)], judged=False)[0], averaged=averaged)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUNS, each with a checkpoint."""
    folder = tmp_path_factory.mktemp("export")
    averaged = make_config(folder / "student", "optim.ema_decay=0.5", "init.ema=false")
    add_checkpoint(write_run(averaged), averaged, fingerprints={"data.demo": "dddd", "teacher": "tttt"})
    train = a_set(folder / "classifier" / "train")
    of_classes = run_on(train, train, f"run_dir={folder / CLASSIFIER}", "evaluation.val.segments=1")
    run = write_run(of_classes)
    add_checkpoint(run, of_classes, weights=module_of(of_classes).state_dict(), classes=NAMES)
    (run / "metrics.jsonl").write_text(json.dumps(SCORE) + "\n")
    for kind, name in (("retrieval", "retrieval"), ("question_answering", "answers")):
        (folder / name).mkdir()
        config = video_text_run(folder / name, kind)  # type: ignore[arg-type]
        module = odd_weights(build_task(config, device=torch.device("cpu"), precision="fp32").module)
        add_checkpoint(write_run(config), config, weights=module.state_dict(), fingerprints={"data.own": "dddd"})
    return folder


@pytest.fixture(scope="module")
def folders(folder: Path) -> Path:
    """FOLDERS/NAME is the model folder of each run."""
    for run in RUNS:
        exported(folder / run, "--to", "safetensors", "-o", folder / "folders" / Path(run).parent)
    return folder / "folders"


# ---------------------------------------------------------------- the model folder


@pytest.mark.parametrize("run", RUNS)
def test_a_model_folder_is_the_model_that_it_was_made_of(run: str, folder: Path, folders: Path) -> None:
    before, after = opened(folder / run), opened(folders / Path(run).parent)
    assert differing(after.state, before.state) == []
    assert after.classes == before.classes
    assert after.config.task.kind == before.config.task.kind
    if before.tokenizer is not None and after.tokenizer is not None:
        assert after.tokenizer.fingerprint == before.tokenizer.fingerprint


@pytest.mark.parametrize("run", [STAGE1, RETRIEVAL])
def test_what_is_made_of_a_model_folder_is_made_of_its_run(run: str, folder: Path, folders: Path) -> None:
    states = [published(opened(path)) for path in (folder / run, folders / Path(run).parent)]
    assert differing(*states) == []


def published(source: Source) -> dict[str, torch.Tensor]:
    return published_state(source, teacher_of_source(source))


def test_read_folder_tells_settings_classes_vocabulary_and_card(folder: Path, folders: Path) -> None:
    classifier, retrieval = read_folder(folders / "classifier"), read_folder(folders / "retrieval")
    assert classifier.classes == NAMES
    assert classifier.vocabulary is None
    assert retrieval.vocabulary == folders / "retrieval" / "vocab.txt"
    assert retrieval.vocabulary.read_text() == (folder / "retrieval" / "vocab.txt").read_text()
    assert retrieval.card["target"] == "safetensors"
    config = check(retrieval.tree, {}, keep_unset=True)
    assert config.task.text.vocabulary == folders / "retrieval" / "vocab.txt"  # type: ignore[union-attr]
    assert read_state(folders / "retrieval").keys() == load_file(folders / "retrieval/model.safetensors").keys()


def test_a_model_is_cut_into_files_of_a_size(folder: Path, tmp_path: Path) -> None:
    exported(folder / STAGE1, "--to", "safetensors", "-o", tmp_path / "cut", "--max-shard-size", "500KB")
    files = sorted(path.name for path in (tmp_path / "cut").glob("*.safetensors"))
    assert len(files) >= 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert all((tmp_path / "cut" / name).stat().st_size < 550_000 for name in files)
    assert differing(opened(tmp_path / "cut").state, opened(folder / STAGE1).state) == []


def test_umt_predict_says_the_same_of_a_run_and_of_its_folder(folder: Path, folders: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4")
    said = [
        json.loads(call(predict, path, video, "--json").stdout)["videos"][0]["predictions"]
        for path in (folder / CLASSIFIER, folders / "classifier")
    ]
    assert said[0] == said[1]
    assert {choice["text"] for choice in said[0][0]["choices"]} == set(NAMES)


def test_umt_eval_finds_a_model_folder_and_its_evaluations(folders: Path) -> None:
    (run,) = find_runs([str(folders / "classifier")])
    assert list(run.config.evaluation) == ["val"]
    assert (run.checkpoint, run.weights, run.classes) == (None, folders / "classifier", NAMES)
    ended = call(umt_eval, folders / "classifier", "--dry-run")
    assert ended.exit_code == 0, (ended.exception, ended.output)


def test_a_model_folder_is_what_an_index_is_made_with(folder: Path, folders: Path) -> None:
    """As `umt embed` opens it."""
    models = []
    for path in (folder / RETRIEVAL, folders / "retrieval"):
        (run,) = find_runs([str(path)], judged=False)
        models.append(open_model(run.config, run.weights, averaged=False, device=torch.device("cpu")))
    assert models[0].fingerprint == models[1].fingerprint
    clips = pixels_of(0)[None]
    assert torch.equal(models[0].embed_clips(clips), models[1].embed_clips(clips))


# ---------------------------------------------------------------- average, card, options


def test_the_average_is_exported_where_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    exported(folder / STAGE1, "--to", "safetensors", "-o", tmp_path / "average", "--ema")
    trained, averaged = opened(folder / STAGE1).state, opened(tmp_path / "average").state
    assert all(torch.equal(averaged[name], 2 * value) for name, value in trained.items())
    assert read_folder(tmp_path / "average").card["averaged"] is True
    assert "moving average" in (tmp_path / "average" / "README.md").read_text()


def test_the_card_tells_where_a_model_came_from_and_how_good_it_is(folder: Path, folders: Path) -> None:
    card = read_folder(folders / "classifier").card
    assert (card["task"], card["name"], card["step"]) == ("recognition", "demo_recognition", 6)
    assert card["trained_with"] == {"torch": "9.9"}
    score = {name: SCORE[name] for name in ("evaluation", "values", "items", "left_out", "protocol")}
    assert card["scores"] == [score]
    assert card["compared"]["outputs"]["logits"] == {"shape": [2, 3], "largest_difference": 0.0}
    for name, stated in card["files"].items():
        content = (folders / "classifier" / name).read_bytes()
        assert stated == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert read_folder(folders / "student").card["fingerprints"] == {"data.demo": "dddd", "teacher": "tttt"}
    page = (folders / "classifier" / "README.md").read_text()
    assert "| val | top1 | 0.5 | 5 | 1 |" in page
    assert "umt eval FOLDER" in page


def test_the_differences_are_printed_and_a_clip_can_be_named(folder: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4")
    said = exported(folder / CLASSIFIER, "--to", "published", "-o", tmp_path / "out", "--clip", clip)
    lines = said.splitlines()
    assert lines[0] == f"{tmp_path / 'out'}: README.md, card.json, {FILE}"
    assert lines[-1].startswith("largest difference 0 of logits [1, 3], whose largest value is ")
    assert json.loads((tmp_path / "out" / "card.json").read_text())["compared"]["on"] == "clip.mp4"


@pytest.mark.parametrize(("words", "key"), [((), "model"), (("--wrap", "module"), "module"), (("--wrap", "flat"), "")])
def test_published_weights_lie_under_the_key_that_is_asked_for(
    words: tuple[str, ...], key: str, folder: Path, tmp_path: Path
) -> None:
    exported(folder / RETRIEVAL, "--to", "published", "-o", tmp_path / "out", *words)
    content = torch.load(tmp_path / "out" / FILE, weights_only=True)
    state = content[key] if key else content
    assert state["temp"].shape == ()
    assert "text_encoder.embeddings.word_embeddings.weight" in state


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    said = exported(folder / RETRIEVAL, "--to", "safetensors", "-o", tmp_path / "out", "--dry-run")
    assert said.splitlines()[0] == f"would write {tmp_path / 'out'}:"
    assert {"  vocab.txt: its word pieces", "  config.yaml: the settings of its run"} <= set(said.splitlines())
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- what weights do not hold


def test_what_the_weights_do_not_hold_is_not_written_and_said(folder: Path, tmp_path: Path) -> None:
    state = {
        name: value for name, value in opened(folder / STAGE1).state.items() if not name.startswith("clip_decoder")
    }
    torch.save(state, tmp_path / "encoder.pth")
    words = (folder / STAGE1 / "config.yaml", "--weights", tmp_path / "encoder.pth", "--to", "published")
    said = exported(*words, "-o", tmp_path / "out")
    assert "note: The weights held nothing of clip_decoder.0.head, clip_decoder.0.norm, " in said
    assert "aligned" not in said
    assert differing(torch.load(tmp_path / "out" / FILE, weights_only=True), state) == []


def test_weights_that_lack_a_part_of_the_model_are_refused(folder: Path, tmp_path: Path) -> None:
    state = {name: value for name, value in opened(folder / CLASSIFIER).state.items() if not name.startswith("head")}
    torch.save(state, tmp_path / "headless.pth")
    words = (folder / CLASSIFIER / "config.yaml", "--weights", tmp_path / "headless.pth", "--to", "safetensors")
    error = refused(*words, "-o", tmp_path / "out")
    assert isinstance(error, WeightsError)
    assert "lacks 2 tensors of a trained recognition model: head.bias, head.weight" in error.what


# ---------------------------------------------------------------- refusals


def test_a_folder_that_is_there_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    for words in ((), ("--dry-run",)):
        error = refused(folder / STAGE1, "--to", "published", "-o", tmp_path, *words)
        assert isinstance(error, ConfigError)
        assert error.what == f"{tmp_path} is there already"


def test_a_failure_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    error = refused(folder / STAGE1, "--to", "published", "-o", tmp_path / "out", "--clip", tmp_path / "clip.mp4")
    assert isinstance(error, DataError)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_positions_that_the_authors_code_would_not_have_are_refused(folder: Path) -> None:
    """Clips of 1,568 tokens have no table in a published file."""
    source = opened(folder / CLASSIFIER)
    shape = ("task.encoder.frames=98", "task.encoder.image_size=32", "task.positions.frames=49")
    (run,) = find_runs([str(folder / CLASSIFIER)], [*shape, "task.positions.image_size=32"], judged=False)
    module = build_task(run.config, device=torch.device("cpu"), precision="fp32").module
    other = replace(source, config=run.config, module=module)
    from umt_ds.exchange import published as target
    from umt_ds.exchange.targets import Options

    with pytest.raises(
        ConfigError, match="no form for its positions, which are stretched from 49 frames of 32 px"
    ) as e:
        target.plan(other, Options())
    assert "--to safetensors" in str(e.value.hint)


def test_a_task_without_a_video_transformer_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "any.pth")
    words = ("demo/teacher", "--weights", tmp_path / "any.pth", "data.sources.demo.shards=none")
    error = refused(*words, "--to", "published", "-o", tmp_path / "out")
    assert "has no video transformer" in error.what


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-shard-size", "2 parsecs"), "is no size"),
        (("--weights", "w.pth", "--best"), "--best is a checkpoint of a run folder"),
        (("another",), "one RUN at a time"),
    ],
)
def test_words_that_make_no_sense_are_refused(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    ended = call(export, "run", *words, "--to", "published", "-o", tmp_path / "out")
    assert ended.exit_code == 2
    assert said in ended.stderr


def test_a_damaged_model_folder_is_told(folders: Path, tmp_path: Path) -> None:
    for name, content in (("card.json", "{"), ("card.json", '{"format": 9}'), ("classes.json", "[1]")):
        damaged = tmp_path / f"{name}{len(content)}"
        damaged.mkdir()
        for path in (folders / "classifier").iterdir():
            (damaged / path.name).write_bytes(path.read_bytes())
        (damaged / name).write_text(content)
        with pytest.raises(WeightsError, match=name):
            read_folder(damaged)
