"""What stage 2 prepares for its module: masked tokens, masks, targets; and what it starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.stage2_runs import stage2_run, write_for_stage2
from umt_ds.batch import Batch, Media, Tokens
from umt_ds.config.load import load_run
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.engine.protocol import InitialWeights
from umt_ds.errors import ConfigError, DataError, WeightsError
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.positions import finetune_table, sincos_table
from umt_ds.models.presets import vit_size
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.kinds import build_task
from umt_ds.tasks.stage2.task import Stage2Task

CPU = torch.device("cpu")
TOWER = {"image_size": 64, "patch_size": 8, "width": 32, "layers": 3, "heads": 2, "out_width": 16}
WORDS = Vocabulary(60, cls_id=2, pad_id=0, mask_id=4, fingerprint="of a test")
SETTINGS: dict[str, Any] = {
    "kind": "stage2",
    "student": {"preset": "pocket", "frames": 2, "image_size": 64},
    "text": {
        "preset": "custom", "sizes": {"width": 32, "layers": 3, "heads": 2, "hidden": 64, "vocab_size": 60},
        "weights": "random", "vocabulary": "unread", "fusion_layers": 1, "max_tokens": 10,
    },
    "teacher": {"preset": "custom", "tower": TOWER, "weights": "random", "layers": 2},
    "embed_width": 16,
}  # fmt: skip


def task(pieces: int = 1, words: Vocabulary = WORDS, **settings: Any) -> Stage2Task:
    config = Stage2Config.model_validate({**SETTINGS, **settings})
    return Stage2Task(config, seed=1, device=CPU, precision="fp32", vocabulary=words, pieces=pieces)


def batch(medium: Media, slots: range) -> Batch:
    rows = [torch.Generator().manual_seed(slot) for slot in slots]
    shape = (1 if medium == "image" else 2, 64, 64, 3)
    pixels = torch.stack([torch.randint(0, 256, shape, dtype=torch.uint8, generator=g) for g in rows])
    ids = torch.stack([torch.randint(5, 60, (10,), generator=g) for g in rows])
    ids[:, 0], ids[:, 7:] = WORDS.cls_id, WORDS.pad_id
    numbers = torch.tensor(list(slots))
    keys = tuple(map(str, slots))
    return Batch(medium, pixels, numbers, numbers, keys, text=Tokens(ids, ids != WORDS.pad_id), ids=numbers)


def test_images_show_half_of_their_patches_and_clips_a_fifth() -> None:
    prepare = task().prepare
    ((image,),) = prepare(batch("image", range(4)), 0).pieces
    ((clip,),) = prepare(batch("video", range(4)), 0).pieces
    assert image.clips.keep is not None
    assert clip.clips.keep is not None
    assert image.clips.keep.shape == (4, 32)
    assert clip.clips.keep.shape == (4, 26)  # 64 - int(64 · 0.8) = 13 a frame
    assert [t.shape for t in clip.targets] == [(4, 26, 16)] * 2
    assert clip.pooled_frames == 1


def test_what_a_row_meets_depends_on_step_and_slot_alone() -> None:
    one = task()
    ((whole,),) = one.prepare(batch("video", range(4)), 7).pieces
    ((part,),) = one.prepare(batch("video", range(2, 4)), 7).pieces
    ((later,),) = one.prepare(batch("video", range(4)), 8).pieces
    assert whole.clips.keep is not None
    assert part.clips.keep is not None
    assert later.clips.keep is not None
    assert whole.masked is not None
    assert part.masked is not None
    assert torch.equal(whole.clips.keep[2:], part.clips.keep)
    assert torch.equal(whole.masked.ids[2:], part.masked.ids)
    assert not torch.equal(whole.clips.keep, later.clips.keep)
    assert torch.equal(whole.match_ids[2:], part.match_ids)


def test_the_digest_of_a_step_is_the_same_however_it_is_cut() -> None:
    one = task()
    whole = one.prepare(batch("video", range(4)), 7).digest
    parts = [one.prepare(batch("video", slots), 7).digest for slots in (range(3), range(3, 4))]
    assert whole == sum(parts)
    assert whole != one.prepare(batch("video", range(4)), 8).digest
    assert task(pieces=2).prepare(batch("video", range(4)), 7).digest == whole


def test_a_packed_batch_in_pieces_has_both_media_in_each() -> None:
    packed = replace(batch("image", range(4)), packed_with=batch("video", range(4, 6)))
    pieces = task(pieces=2).prepare(packed, 0).pieces
    assert [[(rows.medium, len(rows.ids)) for rows in piece] for piece in pieces] == [[("image", 2), ("video", 1)]] * 2
    assert pieces[1][0].slots.tolist() == [2, 3]
    losses = task(pieces=2).module(task(pieces=2).prepare(packed, 0))
    assert {"image_uta", "video_uta", "image_vtc", "video_mlm"} <= set(losses.parts)


def test_without_alignment_there_is_no_teacher_no_mask_and_a_vector_for_each_frame() -> None:
    one = task(loss_weights={"uta": 0.0})
    ((rows,),) = one.prepare(batch("video", range(4)), 0).pieces
    assert rows.clips.keep is None
    assert rows.targets == ()
    assert rows.pooled_frames == 2
    assert "teacher" not in one.fingerprints
    assert not any("clip_decoder" in name for name in one.module.state_dict())


def test_random_masks_need_no_teacher() -> None:
    random = {"kind": "random", "ratio": 0.8}
    one = task(loss_weights={"uta": 0.0}, teacher=None, mask={"image": random, "video": random})
    ((rows,),) = one.prepare(batch("video", range(4)), 0).pieces
    assert rows.clips.keep is not None
    assert rows.clips.keep.shape == (4, 26)  # 128 - int(128 · 0.8)
    assert rows.pooled_frames == 1


def test_tubes_in_both_media_keep_the_frames_apart() -> None:
    tube = {"kind": "tube", "ratio": 0.5}
    ((rows,),) = task(mask={"image": tube, "video": tube}).prepare(batch("video", range(4)), 0).pieces
    assert rows.pooled_frames == 2


def test_the_visual_projection_is_compared_with_clips_own_embedding() -> None:
    one = task(align_projections="visual")
    inputs = one.prepare(batch("video", range(4)), 0)
    ((rows,),) = inputs.pieces
    assert rows.clip_video is not None
    torch.testing.assert_close(rows.clip_video.norm(dim=-1), torch.ones(4))
    assert "video_align_visual" in one.module(inputs).parts


def test_a_text_teacher_must_be_part_of_the_clip() -> None:
    with pytest.raises(ConfigError, match="a custom teacher has none"):
        task(align_projections="visual_text")
    with pytest.raises(ConfigError, match="16 wide, not 24"):
        task(align_projections="visual", embed_width=24)


def test_the_temperature_decays_with_the_matrices() -> None:
    one = task()
    decayed, not_decayed = one.parameter_groups(OptimConfig(lr=1e-4, lr_rule="absolute", weight_decay=0.02))
    assert any(p is one.module.temp for p in decayed["params"])
    assert all(p.ndim <= 1 for p in not_decayed["params"])


def stage1_state(out_width: int = 16) -> dict[str, Tensor]:
    torch.manual_seed(9)
    return AlignmentModel(VideoViT(vit_size("pocket")), out_width=out_width, layers=2).state_dict()


def test_it_starts_from_a_student_of_stage_1_decoders_included() -> None:
    one, state = task(), stage1_state()
    assert "video encoder" in one.load_weights(InitialWeights(state, "a run"))
    own = one.module.vision_encoder.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    assert set(own) - set(state) == {"pool_norm.weight", "pool_norm.bias"}


def test_a_bare_encoder_or_a_run_without_alignment_leaves_the_decoders_alone() -> None:
    bare = {name: value for name, value in stage1_state().items() if name.startswith("encoder.")}
    task().load_weights(InitialWeights(bare, "a published encoder"))
    task(loss_weights={"uta": 0.0}).load_weights(InitialWeights(stage1_state(), "a run"))


def test_it_starts_from_a_classifier_without_what_names_the_classes() -> None:
    torch.manual_seed(8)
    state = VideoClassifier(vit_size("pocket"), classes=7).state_dict()
    one = task()
    told = one.load_weights(InitialWeights(state, "a run of recognition"))
    own = one.module.vision_encoder.state_dict()
    kept = {name: value for name, value in state.items() if not name.startswith(("head.", "fc_norm."))}
    assert kept, "its encoder"
    assert all(torch.equal(own[f"encoder.{name}"], value) for name, value in kept.items())
    assert "left out: 4 tensors that name classes" in told
    assert torch.equal(own["encoder.norm.weight"], torch.ones(128)), "begins anew"


def test_positions_are_stretched_from_those_of_another_clip_where_that_is_said() -> None:
    clip = torch.zeros(1, 2, 32, 32, 3, dtype=torch.uint8)
    small = {
        "student": {"preset": "pocket", "frames": 2, "image_size": 32},
        "teacher": None,
        "loss_weights": {"uta": 0},
    }
    plain = task(**small).module.vision_encoder.encoder.position_table(clip)
    stretched = task(**small, positions={"frames": 4, "image_size": 64}).module.vision_encoder.encoder
    assert torch.equal(plain, sincos_table(2 * 16, 128))
    assert torch.equal(stretched.position_table(clip), finetune_table(2, 32, 8, 128, base_frames=4, base_side=64))
    with pytest.raises(ConfigError, match=r"task\.positions\.image_size: frames of 60 px cannot be cut"):
        task(**small, positions={"frames": 4, "image_size": 60})


def test_it_starts_from_stage_2_published_or_own() -> None:
    one, other = task(), task(loss_weights={"uta": 0.0})
    state = {name: torch.randn_like(value) for name, value in one.module.state_dict().items()}
    words = state["text_encoder.bert.embeddings.word_embeddings.weight"]
    teacher = {"clip_teacher.proj": torch.zeros(2)}
    decoder = {"decoder.weight": words, "decoder.bias": torch.zeros(60)}
    tied = {f"text_encoder.cls.predictions.{name}": value for name, value in decoder.items()}
    buffer = {"text_encoder.bert.embeddings.position_ids": torch.zeros(1, 512)}
    published = {**state, **teacher, **tied, **buffer, "temp": torch.tensor(0.05)}
    for target in (one, other):
        target.load_weights(InitialWeights(published, "a file"))
        assert target.module.temp.tolist() == pytest.approx([0.05])
        assert torch.equal(target.module.vision_proj.weight, state["vision_proj.weight"])


def test_weights_of_another_size_are_refused_with_the_first_misfits() -> None:
    with pytest.raises(WeightsError, match=r"2 of another shape: clip_decoder\.0\.head\.bias|of another shape"):
        task().load_weights(InitialWeights(stage1_state(out_width=24), "a run"))


def test_a_tokenizer_that_is_not_the_berts_is_refused() -> None:
    other = replace(WORDS, size=61)
    with pytest.raises(ConfigError, match="61 tokens and this BERT 60"):
        task(words=other)


def test_captions_longer_than_berts_positions_are_refused() -> None:
    text = {**SETTINGS["text"], "max_tokens": 600}
    with pytest.raises(ConfigError, match="knows 512 positions"):
        task(text=text)


def test_student_and_teacher_must_see_the_same_grid() -> None:
    with pytest.raises(ConfigError, match="different grids"):
        task(teacher={**SETTINGS["teacher"], "tower": {**TOWER, "patch_size": 16}})


def test_a_semantic_mask_without_a_teacher_is_refused_by_the_schema() -> None:
    with pytest.raises(ValueError, match="need a teacher"):
        task(teacher=None)


def test_a_model_is_built_where_its_training_data_are_not(tmp_path: Path) -> None:
    """As `umt eval` does; only counting operations asks how many images and clips there are."""
    write_for_stage2(tmp_path)
    run = load_run("demo/stage2", stage2_run(tmp_path, "run", "data.sources.clips.shards=/gone"))
    built = build_task(run, device=CPU, precision="fp32")
    assert len(built.module.state_dict()) > 0
    with pytest.raises(DataError, match="gone"):
        _ = built.flops_per_view
