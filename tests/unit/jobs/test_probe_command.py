"""`umt probe` on small runs: what it computes and keeps, what it prints and writes, what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from tests.support.shards import picture, write_shards
from tests.support.stage2 import SIDE, tiny_module
from tests.support.tiny_runs import add_checkpoint, make_config, write_run
from umt_ds.cli.probe import command
from umt_ds.config.load import load_run
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.errors import CheckpointError, ConfigError, DataError, UmtError
from umt_ds.jobs.probe_table import standard_error
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.kinds import build_task, tokens_of

torch.set_num_threads(1)
QUICK = ("--epochs", "2", "--lr", "0.01", "--weight-decay", "0,0.1")


def clips_of(*classes: int, field: str = "label") -> Any:
    """Members of samples: bright clips are of class 0, dark ones of others; -1: no label."""

    def members(number: int) -> Mapping[str, bytes]:
        label = classes[number % len(classes)]
        noise = np.random.default_rng(number).integers(0, 40, (2, 16, 16, 3)) + (200 if label == 0 else 0)
        record = {field: label} if label >= 0 else {}
        frames = {f"{i:03d}.png": picture(frame.astype(np.uint8)) for i, frame in enumerate(noise)}
        return {"json": json.dumps(record).encode(), **frames}

    return members


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train and val of two classes, with a training clip without label."""
    folder = tmp_path_factory.mktemp("sets")
    write_shards(folder / "train", (12, 9), members=clips_of(0, 1, 0, 1, 0, 1, -1))
    write_shards(folder / "val", (8,), members=clips_of(0, 1), first=100)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = make_config(folder, "data.workers=0")
    write_run(config)
    add_checkpoint(config.folder, config, step=6)
    return config.folder


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clips of each pass through the encoder."""
    seen: list[int] = []
    forward = VideoViT.forward

    def counted(self: VideoViT, pixels: Tensor, **more: Any) -> Any:
        seen.append(len(pixels))
        return forward(self, pixels, **more)

    monkeypatch.setattr(VideoViT, "forward", counted)
    return seen


def umt_probe(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def on(sets: Path, train: str = "train", val: str = "val") -> tuple[object, ...]:
    return ("--train", sets / train, "--val", sets / val)


def refused(*words: object) -> UmtError:
    error = umt_probe(*words).exception
    assert isinstance(error, UmtError), error
    return error


def scores_in(folder: Path) -> Any:
    """The runs of the only file with scores."""
    (file,) = folder.glob("probes-*.json")
    return json.loads(file.read_text())["runs"]


# ---------------------------------------------------------------- what it does


def test_three_probes_make_a_table_and_a_file_that_says_how(run: Path, sets: Path, tmp_path: Path) -> None:
    ended = umt_probe(run, *on(sets), "-o", tmp_path, *QUICK)
    assert ended.exit_code == 0, ended.exception
    table = ended.stdout.splitlines()
    assert table[0] == "2 classes; 8 clips, probes trained on 18"
    assert [line.split()[1] for line in table[2:5]] == ["knn", "linear", "attentive"]
    assert table[5].split()[-1] == "50.00"
    (found,) = scores_in(tmp_path)
    (label,) = found["labels"]
    assert (label["field"], label["classes"], label["items"], label["train"]) == ("label", ["0", "1"], 8, 18)
    assert label["chance"] == 50.0
    knn, linear, attentive = label["probes"]
    assert knn["top1"] == linear["top1"] == 100.0, "bright and dark clips are far apart"
    assert knn["seeds"][0]["taken"] is None
    assert linear["seeds"][0]["taken"]["lr"] == 0.01
    assert len(attentive["seeds"][0]["grid"]) == 2
    assert found["protocol"]["val"]["fingerprint"] == load_manifest(sets / "val").fingerprint
    assert found["protocol"]["linear"] == {"lr": [0.01], "weight_decay": [0.0, 0.1], "steps": 2, "batch": 21}


def test_a_second_call_makes_no_pass_and_finds_the_same(
    run: Path, sets: Path, tmp_path: Path, passes: list[int]
) -> None:
    first = umt_probe(run, *on(sets), "-o", tmp_path, *QUICK)
    assert sum(passes) == 21 + 8 + 1, "each clip once, and a black one to know the size"
    passes.clear()
    again = umt_probe(run, *on(sets), "-o", tmp_path, *QUICK)
    assert (again.exit_code, passes) == (0, [])
    assert again.stdout == first.stdout
    assert umt_probe(run, *on(sets), "-o", tmp_path, "--kinds", "knn").exit_code == 0
    assert passes == [], "the mean lies beside the tokens"


def test_scores_of_other_sets_or_probes_are_kept_beside_each_other(run: Path, sets: Path, tmp_path: Path) -> None:
    for words in (on(sets), on(sets, val="train"), on(sets), (*on(sets), "--limit", 7)):
        assert umt_probe(run, *words, "-o", tmp_path, "--kinds", "knn").exit_code == 0
    found = [json.loads(file.read_text())["runs"][0]["protocol"] for file in tmp_path.glob("probes-*.json")]
    names = sorted(f"{Path(one['val']['shards']).name} {one['limit']}" for one in found)
    assert names == ["train None", "val 7", "val None"]


def test_a_limit_above_the_size_of_a_set_is_no_limit(run: Path, sets: Path, tmp_path: Path, passes: list[int]) -> None:
    assert umt_probe(run, *on(sets), "-o", tmp_path, "--kinds", "knn").exit_code == 0
    passes.clear()
    assert umt_probe(run, *on(sets), "-o", tmp_path, "--kinds", "knn", "--limit", 1000).exit_code == 0
    assert passes == []
    assert len(scores_in(tmp_path)) == 1


def test_features_and_scores_are_kept_in_the_run_where_no_place_is_named(tmp_path: Path, sets: Path) -> None:
    config = make_config(tmp_path, "data.workers=0")
    checkpoint = add_checkpoint(write_run(config), config)
    assert umt_probe(checkpoint, *on(sets), "--kinds", "knn").exit_code == 0
    assert len(scores_in(config.folder / "probes")) == 1
    assert len(list((config.folder / "probes" / "features").iterdir())) == 2


def test_runs_side_by_side_share_a_table_and_seeds_give_a_deviation(run: Path, sets: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, "seed=1", "data.workers=0")
    other = write_run(config)
    add_checkpoint(other, config)
    ended = umt_probe(run, other, *on(sets), "-o", tmp_path / "out", "--kinds", "linear", "--seeds", "2", *QUICK)
    assert ended.exit_code == 0, ended.exception
    assert [line.split()[0] for line in ended.stdout.splitlines()[2:4]] == [str(run), str(other)]
    assert "the mean of 2 seeds" in ended.stdout
    assert "not alike: weights is" in ended.stdout
    for one in scores_in(tmp_path / "out"):
        (probe,) = one["labels"][0]["probes"]
        assert len(probe["seeds"]) == 2
        assert probe["deviation_of_seeds"] is not None


def test_weights_may_lie_anywhere_where_a_recipe_tells_the_model(run: Path, sets: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, "data.workers=0")
    recipe = write_run(config) / "config.yaml"
    said = refused(recipe, "--weights", run, *on(sets))
    assert said.hint == "name a folder: -o DIR"
    ended = umt_probe(recipe, "--weights", run, *on(sets), "-o", tmp_path / "out", "--kinds", "knn")
    assert ended.exit_code == 0, ended.exception
    assert f"{run} into {recipe}: " in ended.stdout


def test_a_dry_run_says_clips_passes_and_bytes_and_stores_nothing(run: Path, sets: Path, tmp_path: Path) -> None:
    ended = umt_probe(run, *on(sets), "-o", tmp_path / "out", "--dry-run", *QUICK)
    assert ended.exit_code == 0, ended.exception
    assert "21 clips; 2 forward passes of 16" in ended.stdout
    assert "attentive: 2 heads and the one that is taken, 2 steps of 21 clips, 1 times" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_clip_that_is_a_training_clip_too_is_said(run: Path, sets: Path, tmp_path: Path) -> None:
    text = umt_probe(run, *on(sets, val="train"), "-o", tmp_path, "--kinds", "knn").stdout
    assert "21 clips of val are training clips, too" in text
    assert "3 clips of val have no label, and are left out" in text


def test_a_clip_that_the_run_itself_was_trained_on_is_said(tmp_path: Path, sets: Path) -> None:
    config = make_config(tmp_path, "data.workers=0", f"data.sources.demo.shards={sets / 'val'}")
    add_checkpoint(write_run(config), config)
    ended = umt_probe(config.folder, *on(sets), "--kinds", "knn")
    assert f"100 % of val are clips of data.sources.demo, which {config.folder} trained on" in ended.stdout


def test_the_standard_error_is_that_of_a_share() -> None:
    assert standard_error(50.0, 100) == 5.0
    assert standard_error(100.0, 8) == 0.0


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        (clips_of(-1), clips_of(0, 1), "the clips of .*/train have no labels to probe for"),
        (clips_of(0, 1), clips_of(-1), "the clips of .*/val have no labels to probe for"),
        (clips_of(1), clips_of(0, 1), r"all clips of .*/train are of one class \(label 1\)"),
        (clips_of(0, 1), clips_of(0, 7), ".*/val: 2 clips are of a label that .*/train does not know: 7"),
    ],
    ids=["no labels", "no labels in val", "one class", "unknown class"],
)
def test_labels_that_cannot_be_probed_are_one_error(
    run: Path, tmp_path: Path, passes: list[int], train: Any, val: Any, words: str
) -> None:
    write_shards(tmp_path / "train", (4,), members=train)
    write_shards(tmp_path / "val", (4,), members=val)
    error = refused(run, *on(tmp_path), "-o", tmp_path / "out", "--kinds", "knn")
    assert isinstance(error, DataError)
    assert re.fullmatch(words, error.what), error.what
    assert passes == [], "nothing was computed before"


def test_a_label_that_a_set_lacks_is_answered_with_those_that_it_has(run: Path, sets: Path, tmp_path: Path) -> None:
    error = refused(run, *on(sets), "-o", tmp_path, "--label", "motion")
    assert (error.exit_code, error.hint) == (2, "fields with whole numbers there: label")


def test_an_average_that_the_run_did_not_keep_is_refused(run: Path, sets: Path, tmp_path: Path) -> None:
    assert isinstance(refused(run, *on(sets), "-o", tmp_path, "--ema"), CheckpointError)


def test_a_run_without_checkpoint_is_called_that(sets: Path, tmp_path: Path) -> None:
    error = refused(write_run(make_config(tmp_path)), *on(sets))
    assert isinstance(error, CheckpointError)
    assert "has no checkpoint" in error.what


def test_features_that_are_larger_than_allowed_are_refused_before_any_is_computed(
    run: Path, sets: Path, tmp_path: Path, passes: list[int]
) -> None:
    error = refused(run, *on(sets), "-o", tmp_path, "--cache-gb", "1e-6")
    assert isinstance(error, ConfigError)
    # 29 · 128 · (2 · 8 + 4) bytes: eight tokens in fp16, and their mean in fp32
    assert "29 clips are 7.42e-05 GB (8 tokens of 128 numbers in fp16 each), more than --cache-gb 1e-06" in error.what
    assert "--pool 2" in str(error.hint)
    assert set(passes) == {1}


def test_a_pool_that_does_not_fit_is_refused(run: Path, sets: Path, tmp_path: Path) -> None:
    assert "made of 3 x 3" in refused(run, *on(sets), "-o", tmp_path, "--pool", "3").what


def test_what_trains_no_encoder_of_clips_cannot_be_probed(sets: Path) -> None:
    config = load_run("demo/teacher")
    with pytest.raises(ConfigError, match="trains a CLIP, which sees single images"):
        tokens_of(config, nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kinds", "knn", "--pool", "2"), "--pool is for the probes attentive"),
        (("--kinds", "knn", "--lr", "0.1"), "--lr is for the probes linear and attentive"),
        (("--kinds", "linear,best"), "'best' is none of knn, linear, attentive"),
        (("--kinds", ","), "names no probe"),
        (("--lr", "0"), "infinite, or too small"),
        (("--lr", ","), "names no number"),
        (("--lr", "fast"), "is no list of numbers"),
        (("--weight-decay", "nan"), "infinite, or too small"),
    ],
)
def test_options_that_mean_nothing_are_refused(run: Path, sets: Path, words: tuple[str, ...], said: str) -> None:
    ended = umt_probe(run, *on(sets), *words)
    assert ended.exit_code == 2
    assert said in ended.output


def test_several_ranks_are_refused(run: Path, sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert refused(run, *on(sets)).exit_code == 2


# ---------------------------------------------------------------- what a frozen model gives


def test_tokens_of_a_classifier_are_those_before_the_norm_of_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # away from the demo's own sets, if they are made
    config = load_run(
        "demo/recognition",
        ["init.weights=null", "task.classes=3", "task.encoder.frames=2", "task.encoder.image_size=16",
         "task.positions.frames=2", "task.positions.image_size=16"],
    )  # fmt: skip
    module: Any = build_task(config, device=torch.device("cpu"), precision="fp32").module.eval()
    pixels = torch.randint(0, 256, (2, 2, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        tokens = tokens_of(config, module)(pixels)
        assert tokens.shape == (2, 2 * 4, 128)
        torch.testing.assert_close(module.fc_norm(tokens.mean(dim=1)), module.features(pixels))


def test_tokens_of_stage2_are_those_of_its_video_encoder() -> None:
    module = tiny_module().eval()
    pixels = torch.randint(0, 256, (2, 2, SIDE, SIDE, 3), dtype=torch.uint8)
    with torch.no_grad():
        found = tokens_of(load_run("stage2/b16_5m", keep_unset=True), module)(pixels)
        assert torch.equal(found, module.vision_encoder.encoder(pixels).tokens)


def test_tokens_of_stage1_are_those_after_its_last_norm(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    module: Any = build_task(config, device=torch.device("cpu"), precision="fp32").module.eval()
    pixels = torch.randint(0, 256, (2, 2, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(tokens_of(config, module)(pixels), module.encoder(pixels).tokens)
