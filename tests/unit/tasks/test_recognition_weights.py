"""Fine-tuning starts from every file that UMT published and every run of ours; what is not loaded is counted."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.tiny_runs import add_checkpoint, make_config, write_run
from umt_ds.classes import classes
from umt_ds.config.load import load_run
from umt_ds.config.tasks.base import ClipShape
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.engine.protocol import InitialWeights
from umt_ds.errors import WeightsError
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.positions import finetune_table, sincos_table
from umt_ds.models.presets import VitSize, vit_size
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.initial import read_initial
from umt_ds.tasks.recognition.classes import HeadClasses
from umt_ds.tasks.recognition.task import RecognitionTask
from umt_ds.tasks.recognition.weights import Loading, computed_clip, load_initial

SIZE = VitSize(width=16, depth=2, heads=2, patch=16)
NAMES = ("archery", "biking", "crying")
ENCODER = 2 + 2 * 13  # tensors: of the patches, and of each block
State = Mapping[str, Tensor]


def classifier(count: int = 3, *, seed: int = 0) -> VideoClassifier:
    torch.manual_seed(seed)
    module = VideoClassifier(SIZE, classes=count)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def fine_tuned(count: int = 3) -> dict[str, Tensor]:
    return classifier(count, seed=1).state_dict()


def stage1() -> dict[str, Tensor]:
    """Names as published: `encoder.`, two decoders, the last norm."""
    torch.manual_seed(2)
    return AlignmentModel(VideoViT(SIZE), out_width=8, layers=2).state_dict()


def settings(*overrides: str) -> RecognitionConfig:
    base = ["task.positions.image_size=224", "task.encoder.image_size=224", "task.encoder.frames=8"]
    task = load_run("demo/recognition", [*base, *overrides]).task
    assert isinstance(task, RecognitionConfig)
    return task


def load(
    module: VideoClassifier,
    state: State,
    *overrides: str,
    names: tuple[str, ...] = (),
    head: HeadClasses | None = None,
) -> Loading:
    head = head or HeadClasses(module.head.out_features, NAMES if module.head.out_features == 3 else ())
    return load_initial(module, InitialWeights(state, "a file", names), settings(*overrides), head)


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def assert_encoder(module: VideoClassifier, encoder: State) -> None:
    own = module.state_dict()
    for name, value in encoder.items():
        if name.startswith(("patch_embed.", "blocks.")):
            assert torch.equal(own[name], value), name


def bare(state: State) -> dict[str, Tensor]:
    return {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}


# ---------------------------------------------------------------- where weights come from


@pytest.mark.parametrize("wrapper", ["", "backbone.", "module.", "model."])
def test_a_stage_1_file_gives_its_encoder_with_any_prefix(wrapper: str) -> None:
    module, start = classifier(), classifier().state_dict()
    loading = load(module, prefixed(wrapper, stage1()))
    assert_encoder(module, bare(stage1()))
    assert all(torch.equal(module.state_dict()[name], start[name]) for name in start if name.startswith("fc_norm"))
    assert loading.told == (
        f"{ENCODER} tensors loaded; head: none there, so its 3 rows begin anew; fc_norm (2 tensors) begins anew; "
        "left out: 8 of clip_decoder, 2 of norm, in whose place fc_norm is"
    )
    assert loading.doubts == ()


def test_a_bare_encoder_without_decoders_is_taken_too() -> None:
    module = classifier()
    assert load(module, bare(stage1())).told.startswith(f"{ENCODER} tensors loaded; head: none there")
    assert_encoder(module, bare(stage1()))


def test_a_classifier_is_taken_with_fc_norm_and_head() -> None:
    module = classifier()
    loading = load(module, fine_tuned(), names=NAMES)
    assert all(torch.equal(value, fine_tuned()[name]) for name, value in module.state_dict().items())
    assert loading == Loading(f"{ENCODER + 4} tensors loaded; head: all 3 rows, of the same classes", ())


def test_stage_2_gives_its_video_encoder_and_the_rest_is_counted() -> None:
    rest = {"temp": torch.ones(1), "text_encoder.bert.x": torch.ones(2), "clip_teacher.proj": torch.ones(2)}
    counter = {"text_encoder.bert.embeddings.position_ids": torch.arange(4)[None]}
    module = classifier()
    loading = load(module, {**rest, **counter, **prefixed("vision_encoder.", stage1())})
    assert_encoder(module, bare(stage1()))
    assert loading.told.endswith(
        "left out: 1 of temp, 1 of text_encoder, 1 of clip_teacher, 8 of vision_encoder, 2 of norm, in whose place "
        "fc_norm is, 1 counters"
    )


def test_a_deepspeed_checkpoint_file_is_read_in_half_precision(tmp_path: Path) -> None:
    """`mp_rank_00_model_states.pt`, as the authors' fine-tuning writes it with --enable_deepspeed."""
    half = {name: value.half() for name, value in fine_tuned().items()}
    beside = {"epoch": 3, "optimizer": None, "ds_version": "0.5", "param_shapes": None, "dp_world_size": 16}
    file = tmp_path / "mp_rank_00_model_states.pt"
    torch.save({"module": half, "buffer_names": [], **beside}, file)
    module = classifier()
    load_initial(module, read_initial(file), settings(), HeadClasses(3, NAMES))
    assert torch.equal(module.head.weight, half["head.weight"].float())


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"visual.conv1.weight": torch.ones(2)}, "a file: no UMT student among 1 tensors, the first is 'visual.conv1"),
        ({"vision_encoder.pool_norm.weight": torch.ones(2)}, "a file: no video encoder among 1 tensors"),
        (
            VideoClassifier(VitSize(width=32, depth=2, heads=2, patch=16), classes=3).state_dict(),
            "a file: its encoder has 2 blocks of width 32, that of the run 2 of width 16",
        ),
        (
            VideoClassifier(VitSize(width=16, depth=3, heads=2, patch=16), classes=3).state_dict(),
            "a file: its encoder has 3 blocks of width 16, that of the run 2 of width 16",
        ),
        (
            fine_tuned() | {"patch_embed.proj.weight": torch.ones(16, 3, 2, 16, 16)},
            "do not fit: 1 of another shape: patch_embed.proj.weight (16, 3, 2, 16, 16), not (16, 3, 1, 16, 16)",
        ),
        ({k: v for k, v in fine_tuned().items() if k != "head.bias"}, "1 missing in the file: head.bias"),
    ],
    ids=[
        "image_text",
        "stage2 without an encoder",
        "another width",
        "another depth",
        "patches of two frames",
        "half a head",
    ],
)
def test_weights_of_another_task_or_size_are_one_error_and_nothing_is_copied(state: State, said: str) -> None:
    module = classifier()
    with pytest.raises(WeightsError, match=re.escape(said)):
        load(module, state)
    assert all(torch.equal(value, classifier().state_dict()[name]) for name, value in module.state_dict().items())


def test_a_file_of_another_size_is_told_with_the_preset_that_it_is() -> None:
    with torch.device("meta"):
        large = VideoClassifier(vit_size("vit_l16"), classes=400).state_dict()
    with pytest.raises(WeightsError) as raised:
        load(classifier(), large)
    assert raised.value.what == "a file: its encoder has 24 blocks of width 1024, that of the run 2 of width 16"
    assert raised.value.hint == "task.encoder.preset=vit_l16, or other weights"


# ---------------------------------------------------------------- the head


def test_rows_follow_the_names_and_a_new_class_keeps_its_start() -> None:
    module = classifier()
    loading = load(module, fine_tuned(), names=("biking", "diving", "archery"))
    for here, there in ((0, 2), (1, 0)):
        assert torch.equal(module.head.weight[here], fine_tuned()["head.weight"][there])
        assert torch.equal(module.head.bias[here], fine_tuned()["head.bias"][there])
    assert torch.equal(module.head.weight[2], classifier().head.weight[2])
    assert loading.doubts == ("head: 1 of the classes have no row there and begin anew: crying",)


def test_a_head_of_kinetics_710_becomes_one_of_kinetics_400() -> None:
    module = classifier(400)
    loading = load(module, fine_tuned(710), head=HeadClasses(400, classes("k400")))
    assert torch.equal(module.head.weight, fine_tuned(710)["head.weight"][:400])
    assert "400 of its 710 rows" in loading.told
    assert len(loading.doubts) == 1


@pytest.mark.parametrize(
    ("overrides", "names", "said"),
    [
        (["task.head=new"], NAMES, r"head: its 3 rows are left out, and 3 begin anew \(task\.head: new\)"),
        ([], ("a", "b", "c"), "head: none of the classes of its 3 rows is one of the 3 here"),
    ],
)
def test_a_head_begins_anew_where_that_is_asked_for_or_nothing_matches(
    overrides: list[str], names: tuple[str, ...], said: str
) -> None:
    module = classifier()
    loading = load(module, fine_tuned(), *overrides, names=names)
    assert re.search(said, loading.told)
    assert torch.equal(module.head.weight, classifier().head.weight)
    assert torch.equal(module.fc_norm.weight, fine_tuned()["fc_norm.weight"])
    assert bool(loading.doubts) == (not overrides)


# ---------------------------------------------------------------- positions


def test_a_table_of_16_frames_is_computed_anew_for_8() -> None:
    table = finetune_table(16, 224, SIZE.patch, SIZE.width)[None]
    loading = load(classifier(), fine_tuned() | {"pos_embed": table}, names=NAMES)
    assert "pos_embed, computed for 16 frames of 224 px, is left out: it is computed anew for 8" in loading.told
    assert loading.doubts == ()


def test_a_learned_table_is_one_error() -> None:
    learned = torch.randn(1, 2 * 9, SIZE.width)
    with pytest.raises(WeightsError, match=r"a file: its table of positions, pos_embed \(1, 18, 16\), was learned"):
        load(classifier(), fine_tuned() | {"pos_embed": learned})


@pytest.mark.parametrize("shape", [(1, 0, 16), (3136, 16), (2, 9, 16), (1, 9, 8)])
def test_a_table_of_no_clip_is_one_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match="was learned"):
        load(classifier(), fine_tuned() | {"pos_embed": torch.zeros(shape)})


@pytest.mark.parametrize("clip", [(8, 224), (16, 224), (8, 384), (12, 96), (1, 224)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_clip_of_a_computed_table_is_found(clip: tuple[int, int], dtype: torch.dtype) -> None:
    base = ClipShape(8, 224)
    table = finetune_table(*clip, 16, 32).to(dtype)[None]
    assert computed_clip(table, width=32, patch=16, bases=[base]) == (ClipShape(*clip), base)


def test_a_table_that_is_stretched_from_another_clip_is_told_with_the_settings() -> None:
    table = finetune_table(8, 224, SIZE.patch, SIZE.width)[None]
    loading = load(classifier(), fine_tuned() | {"pos_embed": table}, "task.positions.image_size=64", names=NAMES)
    assert loading.doubts == (
        "its table of positions is that of 8 frames of 224 px; this run stretches those of 8 frames of 64 px: "
        "task.positions.frames=8 task.positions.image_size=224 are theirs",
    )
    plain = sincos_table(16 * 196, SIZE.width)[None]  # of a pretraining with 16 frames
    (doubt,) = load(classifier(), fine_tuned() | {"pos_embed": plain}, names=NAMES).doubts
    assert "task.positions.frames=16 task.positions.image_size=224 are theirs" in doubt


# ---------------------------------------------------------------- a run of ours


def test_a_run_says_what_its_rows_are_called_and_on_which_clip_it_was_pretrained(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run = write_run(config)
    add_checkpoint(run, config, step=6)
    initial = read_initial(run)
    assert (initial.classes, initial.pretrained_on) == ((), config.task.clip_shape)


def test_what_is_in_doubt_is_warned_of_when_a_run_loads(caplog: pytest.LogCaptureFixture) -> None:
    task = RecognitionTask(settings(), HeadClasses(3, NAMES), seed=0, device=torch.device("cpu"))
    own = dict(task.module.state_dict())
    told = task.load_weights(InitialWeights(own, "a file"))
    assert told == f"{len(own)} tensors loaded; head: all 3 rows as they are"
    (warned,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned.startswith("a file: the 3 rows of the head are kept as they are: classes have no names there")
