"""The FLOP count against numbers worked by hand (per clip of 8 x 224 x 224) and the UMT paper, within 0.5 %."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from umt_ds.models.bert import Bert
from umt_ds.models.flops import ClipFlops, student_flops_per_clip, teacher_flops_per_clip, text_flops
from umt_ds.models.presets import BertSize, StudentPreset, VitSize, vit_size
from umt_ds.models.vit import VideoViT

CLIP_B16 = VitSize(width=768, depth=12, heads=12, patch=16)
CLIP_L14 = VitSize(width=1024, depth=24, heads=16, patch=14)
G = 1e9


def student(preset: StudentPreset, out_width: int, embedded: int | None = 1568, visible: int = 320) -> ClipFlops:
    size = vit_size(preset)
    return student_flops_per_clip(size, visible=visible, layers=6, out_width=out_width, embedded=embedded)


def teacher(size: VitSize, out_width: int, frames: int = 8, kept: int | None = None) -> ClipFlops:
    return teacher_flops_per_clip(size, frames=frames, patches=196, layers=6, out_width=out_width, kept=kept)


@pytest.mark.parametrize(
    ("preset", "out_width", "blocks", "embed", "heads", "forward", "both"),
    [("vit_b16", 512, 58.1, 1.85, 1.51, 61.5, 182.6), ("vit_l16", 768, 203.3, 2.47, 3.02, 208.8, 624.0)],
)
def test_student(
    preset: StudentPreset,
    out_width: int,
    blocks: float,
    embed: float,
    heads: float,
    forward: float,
    both: float,
) -> None:
    flops = student(preset, out_width)
    assert flops.blocks / G == pytest.approx(blocks, rel=5e-3)
    assert flops.patch_embed / G == pytest.approx(embed, rel=5e-3)
    assert flops.heads / G == pytest.approx(heads, rel=5e-3)
    assert flops.forward / G == pytest.approx(forward, rel=5e-3)
    assert flops.forward_backward / G == pytest.approx(both, rel=5e-3)


@pytest.mark.parametrize(("preset", "embed"), [("vit_b16", 0.38), ("vit_l16", 0.50)])
def test_student_embeds_visible_patches_only(preset: StudentPreset, embed: float) -> None:
    assert student(preset, 512, embedded=None).patch_embed / G == pytest.approx(embed, abs=0.006)


@pytest.mark.parametrize(("preset", "out_width", "both"), [("vit_b16", 512, 1098.7), ("vit_l16", 768, 3618)])
def test_student_without_masking(preset: StudentPreset, out_width: int, both: float) -> None:
    assert student(preset, out_width, visible=1568).forward_backward / G == pytest.approx(both, rel=5e-3)


@pytest.mark.parametrize(
    ("size", "out_width", "blocks", "embed", "heads", "clip"),
    [(CLIP_B16, 512, 34.9, 0.23, 0.92, 288.4), (CLIP_L14, 768, 122.8, 0.24, 1.85, 999.1)],
)
def test_teacher(size: VitSize, out_width: int, blocks: float, embed: float, heads: float, clip: float) -> None:
    frame = teacher(size, out_width, frames=1)
    assert frame.blocks / G == pytest.approx(blocks, rel=5e-3)
    assert frame.patch_embed / G == pytest.approx(embed, abs=5e-3)
    assert frame.heads / G == pytest.approx(heads, abs=6e-3)
    assert teacher(size, out_width).forward / G == pytest.approx(clip, rel=5e-3)


def test_the_last_block_on_kept_tokens_saves_what_it_should() -> None:
    """Per token and layer 12·2·d² in Linears; the last block does keys and values for all 197."""
    saved = teacher(CLIP_B16, 512, frames=1).blocks - teacher(CLIP_B16, 512, frames=1, kept=40).blocks
    linears = 2 * 768**2 * (12 * 197 - 2 * 197 - 10 * 40)
    attention = 4 * 197 * 768 * (197 - 40)
    assert saved == pytest.approx(linears + attention)
    assert teacher(CLIP_B16, 512, frames=1, kept=40).heads / G == pytest.approx(0.19, abs=5e-3)


# ---------------------------------------------------------------- the UMT paper, tables 6 and 8


@pytest.mark.parametrize(
    ("preset", "frames", "side", "giga"),
    [
        ("vit_b16", 8, 224, 180),
        ("vit_l16", 8, 224, 596),
        ("vit_l16", 16, 224, 1434),
        ("vit_b16", 8, 384, 786),
        ("vit_l16", 8, 384, 2440),
    ],
)
def test_the_paper_s_flops_of_a_view_are_multiply_adds_and_ours_count_two(
    preset: StudentPreset, frames: int, side: int, giga: float
) -> None:
    tokens = frames * (side // 16) ** 2
    view = student_flops_per_clip(vit_size(preset), visible=tokens, layers=0, out_width=0)
    assert view.forward / 2 / G == pytest.approx(giga, rel=5e-3)


@pytest.mark.parametrize(("preset", "exact", "millions"), [("vit_b16", 85_944_976, 87), ("vit_l16", 303_484_304, 304)])
def test_the_paper_s_parameters_are_those_of_our_encoder_with_a_head_for_k400(
    preset: StudentPreset, exact: int, millions: float
) -> None:
    with torch.device("meta"):
        model = nn.Sequential(VideoViT(vit_size(preset)), nn.Linear(vit_size(preset).width, 400))
    assert sum(parameter.numel() for parameter in model.parameters()) == exact
    assert exact / 1e6 == pytest.approx(millions, rel=0.015)  # the paper rounds B up


@pytest.mark.parametrize(
    ("preset", "clip", "out_width", "total", "share"),
    [("vit_b16", CLIP_B16, 512, 471.0, 0.612), ("vit_l16", CLIP_L14, 768, 1623.1, 0.616)],
)
def test_a_clip_of_stage_1_as_published(
    preset: StudentPreset, clip: VitSize, out_width: int, total: float, share: float
) -> None:
    of_teacher = teacher(clip, out_width).forward
    flops = student(preset, out_width).forward_backward + of_teacher
    assert flops / G == pytest.approx(total, rel=5e-3)
    assert of_teacher / flops == pytest.approx(share, abs=5e-4)


def test_bert_s_halves_and_words_are_what_torch_counts() -> None:
    """A caption of 12 tokens: read twice, four times fused with two videos of 20 tokens, 3 tokens predicted."""
    size = BertSize(width=32, layers=5, heads=4, hidden=48, vocab_size=70)
    bert = Bert(size, fusion_layers=2, video_width=24, dropout=0.0)
    ids, is_token = torch.randint(0, 70, (2, 12)), torch.ones(4, 12, dtype=torch.bool)
    video, rows = torch.randn(2, 20, 24), torch.tensor([0, 1, 0, 0])
    counted = []
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        text = bert.encode(ids, is_token[:2])
        counted.append(counter.get_total_flops())
        fused = bert.fuse(text[[0, 0, 1, 1]], is_token, video, rows)
        counted.append(counter.get_total_flops())
        bert.words(fused[0, :3])
        counted.append(counter.get_total_flops())
    flops = text_flops(
        size,
        fusion_layers=2,
        tokens=12,
        video_tokens=20,
        video_width=24,
        texts=2,
        fused_texts=4,
        videos=2,
        masked_tokens=3,
    )
    assert counted[0] == flops.encode
    assert counted[1] - counted[0] == flops.fuse
    assert counted[2] - counted[1] == flops.words
