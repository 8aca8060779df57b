"""`umt import`: what it prints and writes, and that other commands read the folder it makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from tests.support.tiny_runs import add_checkpoint, make_config, write_run
from umt_ds.cli import umt
from umt_ds.errors import WeightsError
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.positions import finetune_table
from umt_ds.models.presets import VitSize
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.importing.releases import RELEASES, named_as
from umt_ds.tasks.initial import read_weights
from umt_ds.weights.published import teacher_state, text_teacher_state

SIZE = VitSize(width=16, depth=2, heads=2, patch=16)


def run(*words: object) -> Result:
    return CliRunner().invoke(umt, ["import", *map(str, words)])


def stage1() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return AlignmentModel(VideoViT(SIZE), out_width=8, layers=2).state_dict()


def classifier(**more: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return VideoClassifier(SIZE, classes=710).state_dict() | more


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_a_file_is_told_in_lines_and_nothing_is_written(tmp_path: Path) -> None:
    done = run(saved(tmp_path / "w.pth", {"model": stage1(), "model_ema": stage1(), "epoch": 3}))
    assert done.exit_code == 0
    assert "stage 1, 2 blocks of width 16, patches of 16 px, 2 decoders of width 8" in done.output
    assert "tensors under model; beside them, not read: model_ema, epoch" in done.output
    assert "used      38 of 38 tensors" in done.output
    assert "an average of the weights too (model_ema)" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_positions_say_how_many_frames_a_classifier_sees(tmp_path: Path) -> None:
    table = finetune_table(16, 224, 16, 16)[None]
    told = json.loads(run(saved(tmp_path / "w.pth", classifier(pos_embed=table)), "--json").output)
    assert told["positions"] == [{"frames": 16, "side": 224}, {"frames": 8, "side": 224}]
    assert told["classes"] == 710
    assert told["tensors"]["unused"] == {"a table of positions, which are computed": 1}
    assert any("first 400 rows" in trap for trap in told["traps"])


def test_half_precision_is_told_and_kept(tmp_path: Path) -> None:
    file = saved(tmp_path / "w.pth", {key: value.half() for key, value in stage1().items()})
    done = run(file, "--to", tmp_path / "out")
    assert "38 tensors are float16, the model is float32" in done.output
    assert {value.dtype for value in read_weights(tmp_path / "out").values()} == {torch.float16}


def test_a_dry_run_writes_nothing_and_says_what_would_be_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "w.pth", stage1())
    done = run(file, "--to", tmp_path / "out", "--dry-run")
    assert done.exit_code == 0
    assert f"would write {tmp_path / 'out'}" in done.output
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    refused = run(file, "--to", tmp_path / "out", "--dry-run")
    assert isinstance(refused.exception, WeightsError)
    assert "is there already" in str(refused.exception)


def test_as_names_what_a_file_is_taken_for(tmp_path: Path) -> None:
    file = saved(tmp_path / "w.pth", classifier())
    assert run(file, "--as", "encoder", "--to", tmp_path / "out").exit_code == 0
    state = read_weights(tmp_path / "out")
    assert not any(key.startswith(("head.", "fc_norm.")) for key in state)
    assert "no last norm, as it comes from a classifier" in run(file, "--as", "encoder").output
    refused = run(file, "--as", "stage2")
    assert "seem to be of recognition" in str(refused.exception)
    assert "--as recognition" in str(refused.exception)


def test_a_run_of_ours_is_a_source_too(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    add_checkpoint(write_run(config), config)
    done = run(config.folder, "--to", tmp_path / "out")
    assert done.exit_code == 0, done.exception
    assert "a run of ours" in done.output
    state, again = read_weights(config.folder), read_weights(tmp_path / "out")
    assert state.keys() == again.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_what_is_no_model_of_umt_is_refused(tmp_path: Path) -> None:
    refused = run(saved(tmp_path / "w.pth", {"conv.weight": torch.ones(2)}))
    assert isinstance(refused.exception, WeightsError)
    assert "no UMT student among 1 tensors" in str(refused.exception)
    pixels = stage1() | {"encoder.mask_token": torch.ones(1)}
    assert "VideoMAE" in str(run(saved(tmp_path / "w.pth", pixels)).exception)
    assert "no weight file" in str(run(tmp_path / "gone.pth").exception)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_clip_becomes_a_folder_with_both_towers(tmp_path: Path) -> None:
    """As OpenAI's files are: TorchScript in half precision, with whole numbers among the buffers."""
    torch.manual_seed(0)
    model = open_clip.model.CLIP(
        embed_dim=10,
        quick_gelu=True,
        vision_cfg={"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "head_width": 8},
        text_cfg={"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2},
    ).half()
    model.register_buffer("input_resolution", torch.tensor(32))
    torch.jit.script(model).save(tmp_path / "ViT-B-16.pt")
    done = run(tmp_path / "ViT-B-16.pt", "--to", tmp_path / "out")
    assert done.exit_code == 0, done.exception
    assert "TorchScript" in done.output
    assert "3 blocks of width 24, and its text tower" in done.output
    state = read_weights(tmp_path / "out")
    for read, expected in (
        (teacher_state(state), teacher_state(model.state_dict())),
        (text_teacher_state(state), text_teacher_state(model.state_dict())),
    ):
        kept = {key: value for key, value in expected.items() if key != "attn_mask"}
        assert read.keys() == kept.keys()
        assert all(torch.equal(read[key], value) for key, value in kept.items())


def test_names_of_releases_say_what_they_are() -> None:
    assert len(RELEASES) == 47
    l16 = named_as("l16_ptk710_ftk710_ftk700_f16_res224.pth")
    assert l16 is not None
    assert (l16.kind, l16.width, l16.classes, l16.frames, l16.side) == ("recognition", 1024, 700, 16, 224)
    tpl = named_as("ret_ssv2_tpl_l16_25m.pth")
    assert tpl is not None
    assert (tpl.kind, tpl.width, tpl.data, tpl.corpus) == ("retrieval", 1024, "ssv2_tpl", "25m")
    mit = named_as("b16_ptk710_ftk710_ftk400_ftmitv1_f8_res384")
    assert mit is not None
    assert (mit.classes, mit.side) == (339, 384)
    assert named_as("model.safetensors") is None
