"""`umt_ds.load`: from where a model is opened, in which precision and where; and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import umt_ds
from tests.support.predicting import CAPTIONS
from tests.support.recognition import NAMES, a_set, module_of, run_on
from tests.support.tiny_runs import add_checkpoint, make_config, write_run
from umt_ds.cli import export
from umt_ds.config.load import load_run
from umt_ds.errors import ConfigError, MachineError, UmtError
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.presets import vit_size
from umt_ds.tasks.kinds import build_task

torch.set_num_threads(1)


def error_of(call: Callable[[], object]) -> UmtError:
    with pytest.raises(UmtError) as met:
        call()
    return met.value


def test_importing_umt_ds_loads_no_torch() -> None:
    """The rest comes when `umt_ds.load` is asked for."""
    subprocess.run([sys.executable, "-c", "import sys, umt_ds; assert 'torch' not in sys.modules"], check=True)
    assert umt_ds.load is umt_ds.api.load
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        umt_ds.nothing  # noqa: B018


def test_a_run_a_checkpoint_and_a_weight_file_with_its_recipe_are_one_model(
    classifier: umt_ds.VideoModel, classifier_folder: Path, videos: Path, tmp_path: Path
) -> None:
    expected = classifier.predict(videos / "grey.mp4")
    (checkpoint,) = (classifier_folder / "checkpoints").iterdir()
    save_file(dict(classifier.module.state_dict()), tmp_path / "weights.safetensors")
    recipe = str(classifier_folder / "config.yaml")
    given = [umt_ds.load(checkpoint), umt_ds.load(tmp_path / "weights.safetensors", recipe=recipe, classes=NAMES)]
    for model in given:
        assert model.predict(videos / "grey.mp4") == expected
        assert model.fingerprint == classifier.fingerprint
        assert model.classes == NAMES
        assert not model.module.training
    assert given[0].name == classifier.name
    assert repr(classifier).startswith("VideoModel(demo_recognition: recognition, 2 frames of 16 px, fp32 on cpu; can ")


def test_a_folder_that_umt_export_wrote_is_the_same_model(
    classifier: umt_ds.VideoModel, classifier_folder: Path, videos: Path, tmp_path: Path
) -> None:
    words = [str(classifier_folder), "--to", "safetensors", "-o", str(tmp_path / "model")]
    CliRunner().invoke(export.command, words, catch_exceptions=False)
    model = umt_ds.load(tmp_path / "model")
    assert model.predict(videos / "grey.mp4") == classifier.predict(videos / "grey.mp4")
    assert (model.classes, model.task) == (NAMES, "recognition")


def test_the_precision_that_is_asked_for_is_that_of_the_weights(finder_folder: Path, videos: Path) -> None:
    half = umt_ds.load(finder_folder, precision="bf16", device="cpu")
    module: Any = half.module
    assert module.vision_proj.weight.dtype == torch.bfloat16
    assert (half.precision, half.device) == ("bf16", torch.device("cpu"))
    full = umt_ds.load(finder_folder, precision="fp32")
    near, far = half.encode_video(videos / "grey.mp4"), full.encode_video(videos / "grey.mp4")
    assert near.dtype == torch.float32
    assert not torch.equal(near, far)
    assert torch.allclose(near, far, atol=0.02)


def test_settings_may_be_overridden(finder_folder: Path, videos: Path) -> None:
    model = umt_ds.load(finder_folder, overrides=["data.augment.antialias=false"])
    smooth = umt_ds.load(finder_folder, overrides=["data.augment.antialias=true"])
    frames = torch.randint(0, 256, (4, 150, 200, 3), dtype=torch.uint8)
    assert not torch.equal(model.views(frames), smooth.views(frames))


def test_the_moving_average_answers_where_it_is_asked_for_or_judged(tmp_path: Path, videos: Path) -> None:
    """In the checkpoint of `add_checkpoint` the average is twice the weights: the head says other probabilities."""
    train = a_set(tmp_path / "train")
    config = run_on(train, train, f"run_dir={tmp_path / 'run'}", "optim.ema_decay=0.9", "evaluation.val.ema=true")
    run = write_run(config)
    weights = module_of(config).state_dict()
    add_checkpoint(run, config, weights=weights, classes=NAMES)
    judged, plain = umt_ds.load(run), umt_ds.load(run, ema=False)
    for model, times in ((judged, 2), (plain, 1)):
        bias: Any = model.module.get_parameter("head.bias")
        assert torch.equal(bias, times * weights["head.bias"])


def test_stage_1_encodes_videos_and_shows_attention_alone(tmp_path: Path, videos: Path) -> None:
    config = make_config(tmp_path)
    run = write_run(config)
    add_checkpoint(run, config)
    model = umt_ds.load(run)
    assert model.can == ("encode_video", "attention")
    encoder: Any = model.module.encoder
    views = model.views(model.frames_of(videos / "grey.mp4"))
    with torch.no_grad():
        expected = encoder(views).tokens.mean(dim=1)[0]
    assert torch.equal(model.encode_video(videos / "grey.mp4"), expected)
    assert model.attention(videos / "grey.mp4").shape == (2, 2, 2)
    assert "has no predict()" in error_of(lambda: model.predict(videos / "grey.mp4")).what


@pytest.mark.parametrize(
    ("options", "said", "kind"),
    [
        ({"precision": "fp8"}, "precision='fp8'", ConfigError),
        ({"device": "teapot"}, "device 'teapot' is none that torch knows", ConfigError),
        ({"device": "cuda:99"}, "there is no cuda:99: torch sees", MachineError),
        ({"recipe": "demo/stage2", "best": True}, "best= is a checkpoint of a run folder", ConfigError),
        ({"overrides": ["task.nothing=1"]}, "task.nothing", ConfigError),
    ],
)
def test_options_that_cannot_be_are_one_error(
    finder_folder: Path, options: dict[str, Any], said: str, kind: type[UmtError]
) -> None:
    error = error_of(lambda: umt_ds.load(finder_folder, **options))
    assert isinstance(error, kind)
    assert said in error.what


def test_a_source_that_is_none_is_one_error(classifier: umt_ds.VideoModel, tmp_path: Path) -> None:
    save_file(dict(classifier.module.state_dict()), tmp_path / "weights.safetensors")
    alone = error_of(lambda: umt_ds.load(tmp_path / "weights.safetensors"))
    assert "which is neither B nor L" in alone.what
    assert "recipe=" in (alone.hint or "")
    assert "no such folder or file" in error_of(lambda: umt_ds.load("runs/none")).what
    assert "are not there" in error_of(lambda: umt_ds.load(tmp_path / "none.pth", recipe="demo/recognition")).what
    bare = error_of(lambda: umt_ds.load("stage1/b16_k710"))
    assert "umt_ds.load(FILE, recipe='stage1/b16_k710')" in (bare.hint or "")


@pytest.mark.slow  # a model of full size is drawn, written and read
def test_a_published_file_says_to_which_run_it_belongs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(5)
    state = VideoClassifier(vit_size("vit_b16"), classes=400).state_dict()
    torch.save(state, tmp_path / "b16_ptk710_ftk710_ftk400_f8_res224.pth")
    with caplog.at_level("INFO", logger="umt_ds"):
        model = umt_ds.load(tmp_path / "b16_ptk710_ftk710_ftk400_f8_res224.pth", classes="k400", precision="fp32")
    assert "is taken for a model of recognition/b16_k400" in caplog.text
    assert "predict" in model.can
    assert torch.equal(model.module.get_parameter("head.weight"), state["head.weight"])


def test_a_run_that_sees_single_images_is_refused(tmp_path: Path) -> None:
    config = load_run("demo/teacher", [f"run_dir={tmp_path / 'run'}"])
    run = write_run(config)
    weights = build_task(config, device=torch.device("cpu"), precision="fp32").module.state_dict()
    add_checkpoint(run, config, weights=weights)
    assert "sees single images" in error_of(lambda: umt_ds.load(run)).what


def test_blocks_are_compiled_where_that_is_asked_for(finder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are handed to torch.compile; what it makes of them is its own business, and takes a minute."""
    handed = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: handed.append(type(module).__name__))
    umt_ds.load(finder_folder, compile=True)
    assert "Block" in handed
    handed.clear()
    umt_ds.load(finder_folder)
    assert handed == []


def test_captions_may_be_matched_by_a_model_of_a_file(finder_folder: Path, videos: Path, tmp_path: Path) -> None:
    model = umt_ds.load(finder_folder)
    save_file({name: one.contiguous() for name, one in model.module.state_dict().items()}, tmp_path / "a.safetensors")
    other = umt_ds.load(tmp_path / "a.safetensors", recipe=str(finder_folder / "config.yaml"))
    assert other.match(videos / "dark.mp4", CAPTIONS) == model.match(videos / "dark.mp4", CAPTIONS)
