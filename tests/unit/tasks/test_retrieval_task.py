"""Fine-tuning for retrieval: stage 2's objective with two losses, on whole clips, a vector for each frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.unit.tasks.test_stage2_task import WORDS, batch
from tests.unit.tasks.test_video_text_weights import TEXT, drawn, retrieval, stage2
from umt_ds.config.optimisation import OptimConfig
from umt_ds.engine.protocol import InitialWeights
from umt_ds.losses.contrastive import contrastive_loss
from umt_ds.models.positions import sincos_table
from umt_ds.models.video_text import mean_over_frames
from umt_ds.tasks.stage2.task import Stage2Task

torch.set_num_threads(1)
NO_DROPOUT = {**TEXT, "dropout": 0.0}
DROPPED = {"preset": "pocket", "frames": 2, "image_size": 64, "drop_path": 0.3}


def both() -> tuple[Stage2Task, Stage2Task]:
    """The same as retrieval, and in the words of stage 2, from the same weights."""
    settings = {"text": NO_DROPOUT, "vtc": {"gather": "sliced", "positives": "sample"}}
    theirs = stage2(student=DROPPED, teacher=None, loss_weights={"mlm": 0, "uta": 0}, **settings)
    ours = retrieval(encoder=DROPPED, **settings)
    state = drawn(theirs)
    for task in (ours, theirs):
        task.load_weights(InitialWeights(state, "a file"))
        task.module.train()
    return ours, theirs


@pytest.mark.parametrize("medium", ["video", "image"])
def test_losses_and_gradients_are_those_of_stage_2_to_the_bit(medium: str) -> None:
    found = []
    for task in both():
        losses = task.module(task.prepare(batch(medium, range(4)), 3))  # type: ignore[arg-type]
        losses.total.backward()
        gradients = {name: p.grad for name, p in task.module.named_parameters() if p.grad is not None}
        found.append((losses, gradients))
    (ours, own), (theirs, other) = found
    assert set(ours.parts) == {"temperature", f"{medium}_vtc", f"{medium}_vtm"}
    assert torch.equal(ours.total, theirs.total)
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    missing = [name for name, parameter in both()[0].module.named_parameters() if name not in own]
    assert missing == [], "every parameter of a fine-tuned model learns"


def test_nothing_is_hidden_and_each_frame_has_its_vector() -> None:
    task = retrieval(encoder=DROPPED)
    ((clip,),) = task.prepare(batch("video", range(4)), 0).pieces
    ((image,),) = task.prepare(batch("image", range(4)), 0).pieces
    assert clip.clips.keep is image.clips.keep is None
    assert (clip.pooled_frames, image.pooled_frames) == (2, 1)
    assert clip.masked is None
    assert clip.targets == ()
    assert clip.clips.drop_noise is not None
    assert task.teacher is None


def test_rows_of_one_group_belong_together_and_equal_captions_do_not() -> None:
    """As published: METHOD.md, "Retrieval". The loader gives the items of a group one id."""
    task = retrieval(vtc={"positives": "sample"}, loss_weights={"vtm": 0}, text=NO_DROPOUT)
    task.load_weights(InitialWeights(drawn(task), "a file"))
    four = batch("video", range(4))
    assert four.text is not None
    ids = four.text.ids.clone()
    ids[2] = ids[3]  # the same is said of two videos
    grouped = replace(four, ids=torch.tensor([7, 7, 8, 9]), text=replace(four.text, ids=ids))
    inputs = task.prepare(grouped, 0)
    module = task.module.eval()
    loss = module(inputs).total
    ((rows,),) = inputs.pieces
    pooled = module.vision_encoder.pool(module.vision_encoder.encode(rows.clips.pixels).tokens, frames=2)
    video = mean_over_frames(module.embed_video(pooled))
    text = module.embed_text(module.text_encoder.encode(rows.ids, rows.is_token))
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    expected = contrastive_loss(video, text, temperature=module.temperature(), same=same)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)


def test_twelve_frames_run_past_the_table_of_stage_1_and_nothing_is_stretched() -> None:
    """METHOD.md, "Positions". Of 12 frames the first 8 have the rows that stage 1 knows."""
    encoder = retrieval(encoder={"preset": "pocket", "frames": 12, "image_size": 32}).module.vision_encoder.encoder
    grid = 32 // encoder.size.patch
    pixels = torch.zeros(1, 12, 32, 32, 3, dtype=torch.uint8)
    with torch.no_grad():
        for block in encoder.blocks:
            for branch in (block.attn.proj, block.mlp.fc2):
                torch.nn.init.zeros_(branch.weight)
                torch.nn.init.zeros_(branch.bias)
        encoder.norm = torch.nn.Identity()
        tokens = encoder(pixels).tokens[0]  # of equal patches: they differ by their positions alone
    table = sincos_table(12 * grid**2, encoder.size.width)
    torch.testing.assert_close(tokens - tokens[0], table - table[0], rtol=0, atol=1e-5)


def test_the_temperature_decays_and_is_kept_within_its_bounds() -> None:
    task = retrieval()
    decayed, not_decayed = task.parameter_groups(OptimConfig(lr=2e-5, lr_rule="absolute", weight_decay=0.02))
    assert decayed["weight_decay"] == 0.02
    assert any(parameter is task.module.temp for parameter in decayed["params"])
    assert not_decayed["weight_decay"] == 0
    task.module.temp.data.fill_(0.9)
    assert task.module.temperature().item() == 0.5
    assert task.fingerprints == {"vocabulary": WORDS.fingerprint}
