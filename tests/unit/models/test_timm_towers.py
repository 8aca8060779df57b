"""timm's towers as teachers: each family against the library's own forward, in fp64 and with random weights.

Shapes: B clips, T frames, F = B·T, S patches per frame, P prefix tokens, N = P + S, K layers, V kept tokens, W width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.support.tiny_towers import TOWERS, open_clip_config, randomised
from umt_ds.config.models import TeacherConfig
from umt_ds.errors import ConfigError, WeightsError
from umt_ds.masking import MaskPlan
from umt_ds.models.teachers import Teacher, build_teacher
from umt_ds.models.timm_blocks import can_open
from umt_ds.models.timm_tower import TimmTower
from umt_ds.tasks.teacher import forward_flops, teacher_by_shape

CLIPS, FRAMES, LAYERS = 2, 3, 3
NO_MAP = ("tiny_siglip_gap", "tiny_aimv2")
POOLED = ("tiny_siglip", "tiny_pe_core_big")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def both(name: str, side: int = 32) -> tuple[Teacher, Any]:
    """The teacher and the library's model with the same weights, which have 32 px, at `side`."""
    # DINOv3's rotations are made in fp64 on each pass of a model of any size, in fp32 and once in one of fixed size
    library = timm.create_model(name, num_classes=0, **({"dynamic_img_size": False} if "dinov3" in name else {}))
    state = randomised(library)
    library.load_state_dict(state)
    teacher = build_teacher(name, layers=LAYERS, norm="none", image_size=side, state=state)
    if side != 32:
        library.set_input_size((side, side))
    return teacher.double(), library.double().eval().requires_grad_(False)


def video(side: int = 32) -> Tensor:
    return torch.randn(CLIPS, 3, FRAMES, side, side, dtype=torch.float64)


def frames_of(pixels: Tensor) -> Tensor:
    return pixels.transpose(1, 2).flatten(0, 1)


def features_of(library: Any, pixels: Tensor) -> Tensor:
    """Of the last K blocks, by the library: [K,B,T·S,W]."""
    indices = list(range(6 - LAYERS, 6))
    layers = library.forward_intermediates(
        frames_of(pixels), indices=indices, norm=True, output_fmt="NLC", intermediates_only=True
    )
    return torch.stack([library.fc_norm(x) for x in layers]).unflatten(1, (CLIPS, FRAMES)).flatten(2, 3)


def class_attention_of(library: Any, pixels: Tensor) -> Tensor:
    """The softmax that the last block multiplies values with, as the library has it without its fused product."""
    seen: list[Tensor] = []
    attn = library.blocks[-1].attn
    attn.fused_attn = False
    attn.attn_drop.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    library.forward_features(frames_of(pixels))
    return seen[0].mean(dim=1)[:, 0, library.num_prefix_tokens :]  # of [F,h,N,N]


def pooled_attention_of(library: Any, pixels: Tensor) -> Tensor:
    """The pooling head's, head by head from the tensors that the library hands to it."""
    seen: list[Tensor] = []
    library.attn_pool.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    library(frames_of(pixels))
    pool, (tokens,) = library.attn_pool, seen
    width = tokens.shape[-1] // pool.num_heads
    query, key = pool.q(pool.latent)[0, 0], pool.kv(tokens)[..., : tokens.shape[-1]]
    maps = []
    for head in range(pool.num_heads):
        part = slice(head * width, (head + 1) * width)
        maps.append((key[..., part] @ query[part] / width**0.5).softmax(dim=-1))
    return torch.stack(maps).mean(dim=0)


@pytest.mark.parametrize("side", [32, pytest.param(48, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TOWERS)
def test_each_family_is_its_librarys_own_forward(name: str, side: int) -> None:
    teacher, library = both(name, side)
    pixels, patches = video(side), (side // 8) ** 2
    expected = features_of(library, pixels)

    look = teacher.attend(pixels)
    plan = MaskPlan("tube" if look.attention is None else "semantic", 0.6)
    slots = torch.arange(CLIPS)
    keep = plan.keep(look.attention, seed=0, step=0, slots=slots, frames=FRAMES, patches=patches)

    expected = torch.stack([expected[:, clip, rows] for clip, rows in enumerate(keep)], dim=1)
    assert teacher.tower.prefix_tokens == library.num_prefix_tokens
    for equal_frames in (True, False):  # the last block for kept tokens alone, and for all
        features = torch.stack(look.features(keep, equal_frames=equal_frames))
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-11)
    if name in NO_MAP:
        assert look.attention is None
        return
    assert look.attention is not None
    oracle = pooled_attention_of if name in POOLED else class_attention_of
    torch.testing.assert_close(look.attention.flatten(0, 1), oracle(library, pixels), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TOWERS)
def test_where_the_last_block_runs_on_kept_tokens_alone_and_what_masks_are_drawn_from(name: str) -> None:
    tower = build_teacher(name, layers=LAYERS).tower
    assert tower.is_lean == (name not in POOLED)
    assert tower.map_source == (None if name in NO_MAP else "pooling head" if name in POOLED else "class token")


@pytest.mark.parametrize("name", ["tiny_dinov3", "tiny_beitv2", "tiny_eva02_clip", "tiny_aimv2", "tiny_siglip"])
def test_the_embedding_of_a_frame_is_the_librarys(name: str) -> None:
    teacher, library = both(name)
    pixels = video()
    expected = library(frames_of(pixels)).float().unflatten(0, (CLIPS, FRAMES))
    torch.testing.assert_close(teacher.attend(pixels).embedding(), expected)
    assert teacher.embed_width == expected.shape[-1]


@pytest.mark.parametrize("name", ["tiny_siglip", "tiny_aimv2", "tiny_dinov3", "tiny_beitv2"])
def test_raw_pixels_are_normalised_and_embedded_in_one_product(name: str) -> None:
    """Mean and deviation of the tower's own, as timm says them."""
    teacher = build_teacher(name, layers=2, pixels="own")
    config = timm.create_model(name).pretrained_cfg
    raw = torch.randint(0, 256, (CLIPS, FRAMES, 32, 32, 3), dtype=torch.uint8)
    by_hand = ((raw / 255 - torch.tensor(config["mean"])) / torch.tensor(config["std"])).permute(0, 4, 1, 2, 3)
    keep = torch.arange(40).expand(CLIPS, -1)
    targets = teacher.attend(raw).targets(keep)
    torch.testing.assert_close(targets, teacher.attend(by_hand).targets(keep), rtol=0, atol=1e-4)
    imagenet = build_teacher(name, layers=2).attend(raw).targets(keep)
    if name not in ("tiny_dinov3", "tiny_beitv2"):  # whose own are ImageNet's
        assert (targets - imagenet).abs().max() > 1e-3


def test_rotations_stay_exact_in_a_bf16_teacher() -> None:
    exact = build_teacher("tiny_dinov3", layers=2).tower
    rounded = build_teacher("tiny_dinov3", layers=2).to(torch.bfloat16).tower
    assert isinstance(exact, TimmTower)
    assert isinstance(rounded, TimmTower)
    assert next(rounded.parameters()).dtype == torch.bfloat16
    assert torch.equal(rounded.contexts()["rope"], exact.contexts()["rope"])
    seen = build_teacher("tiny_dinov3", layers=2).to(torch.bfloat16).attend(video().float())
    assert seen.attention is not None
    assert seen.attention.dtype == torch.float32


# Names, sizes and projections


@pytest.mark.parametrize(
    ("name", "features", "width"),
    [("tiny_eva02_clip", None, 24), ("tiny_eva02_clip", "tokens", 32), ("tiny_siglip", None, 32)],
)
def test_features_are_projected_where_open_clips_tower_projects_a_token(name: str, features: Any, width: int) -> None:
    teacher = build_teacher(open_clip_config(name), layers=2, norm="none", features=features).double()
    assert teacher.out_width == width
    trunk, pixels = teacher.tower.visual, video()
    last = trunk.forward_features(frames_of(pixels))[:, trunk.num_prefix_tokens :]
    expected = (trunk.head(last) if width == 24 else last).unflatten(0, (CLIPS, FRAMES)).flatten(1, 2)
    features_of_last = teacher.attend(pixels).features(torch.arange(48).expand(CLIPS, -1))[-1]
    torch.testing.assert_close(features_of_last, expected, rtol=0, atol=1e-11)


def test_clips_own_tower_gives_its_tokens_before_the_projection_too() -> None:
    size = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "head_width": 8}
    clip = {"embed_dim": 10, "quick_gelu": True, "vision_cfg": size}
    projected = build_teacher(clip, layers=2, norm="none")
    tokens = build_teacher(clip, layers=2, norm="none", features="tokens")
    keep, pixels = torch.arange(48).expand(CLIPS, -1), video().float()
    before, behind = (torch.stack(one.attend(pixels).features(keep)) for one in (tokens, projected))
    assert (tokens.out_width, projected.out_width) == (24, 10)
    assert tokens.embed_width == projected.embed_width == 10
    torch.testing.assert_close(before @ tokens.tower.visual.proj, behind)
    torch.testing.assert_close(tokens.attend(pixels).embedding(), projected.attend(pixels).embedding())


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (open_clip_config("tiny_pe_core"), "its projection stands behind a pooling head"),
        (open_clip_config("tiny_siglip"), "it ends in a pooling head"),
        ("tiny_dinov2", "it is built without one"),
    ],
)
def test_a_projection_that_a_tower_has_not_is_refused_with_the_choice_there_is(model: Any, why: str) -> None:
    with pytest.raises(ConfigError, match="has no projection of a token") as caught:
        build_teacher(model, features="projected")
    assert why in caught.value.what
    assert caught.value.hint is not None
    assert "features=tokens" in caught.value.hint


@pytest.mark.parametrize("name", ["resnet18", "vit_base_patch16_rope_mixed_224", "convnext_tiny"])
def test_models_of_timm_that_are_no_such_transformers_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="one feature per patch"), torch.device("meta"):
        build_teacher(name)


def test_a_size_that_patches_do_not_fill_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="image_size=36 is not a multiple of 8") as caught:
        build_teacher("tiny_dinov2", image_size=36)
    assert caught.value.hint == "nearest: 32 or 40"


def test_names_may_carry_the_tag_of_their_weights() -> None:
    with torch.device("meta"):
        teacher = build_teacher("vit_small_patch14_dinov2.lvd142m", image_size=196, pixels="own")
    assert teacher.grid == (14, 14)
    assert teacher.statistics.mean == (0.485, 0.456, 0.406)


def test_pixels_that_weights_of_one_name_do_not_agree_on_are_asked_for() -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match="trained with several means"):
        build_teacher("ViT-L-14", pixels="own")
    settings = TeacherConfig(preset="ViT-L-14", weights=Path("nowhere"), pixels="own")
    assert teacher_by_shape(settings).out_width == 768, "what it costs can be said without its weights"
    with torch.device("meta"):
        assert build_teacher("PE-Core-B-16", pixels="own").statistics.mean == (0.5, 0.5, 0.5)
        assert build_teacher("clip_b16", pixels="own").statistics.mean[0] == 0.48145466


# Weights


def test_weights_of_another_patch_size_are_refused_and_not_resized() -> None:
    state = timm.create_model("tiny_dinov2", patch_size=4, num_classes=0).state_dict()
    with pytest.raises(WeightsError, match="patches of 4 px in the file, of 8 px in the model"):
        build_teacher("tiny_dinov2", layers=2, state=state)


def test_a_classifier_is_left_out_and_named_and_anything_else_must_fit() -> None:
    state = timm.create_model("tiny_dinov2", num_classes=5).state_dict()
    teacher = build_teacher("tiny_dinov2", layers=2, state=state)
    assert teacher.tower.left_out == ("head.bias", "head.weight")
    del state["blocks.2.mlp.fc1.weight"]
    with pytest.raises(WeightsError, match=r"blocks\.2\.mlp\.fc1\.weight"):
        build_teacher("tiny_dinov2", layers=2, state=state)


def test_blocks_whose_sums_are_not_known_run_as_the_library_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, library = both("tiny_dinov2")
    assert can_open(library.blocks[-1])
    monkeypatch.setattr("umt_ds.models.timm_tower.can_open", lambda _: False)
    plain, pixels, keep = both("tiny_dinov2")[0], video(), torch.arange(12).expand(CLIPS, -1)
    plain.load_state_dict(teacher.state_dict())
    look = plain.attend(pixels)
    assert look.attention is None, "nobody can say what its class token looks at"
    assert "its blocks are not known here" in plain.summary
    torch.testing.assert_close(look.features(keep), teacher.attend(pixels).features(keep))


# Cost


@pytest.mark.parametrize("name", ["tiny_siglip", "tiny_dinov2_reg", "tiny_dinov3_plus", "tiny_aimv2", "tiny_beitv2"])
def test_operations_are_counted_as_torch_counts_them(name: str) -> None:
    """Within 2 %: the query of the class token, and products with the pooling head's query, are nearly nothing."""
    teacher = build_teacher(name, layers=LAYERS, norm="none")
    kept, pixels = 6, video().float()
    keep = torch.cat([torch.arange(kept) + frame * 16 for frame in range(FRAMES)]).expand(CLIPS, -1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        teacher.attend(pixels).features(keep, equal_frames=True)
    ours = CLIPS * forward_flops(teacher, frames=FRAMES, kept=kept)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_projection_counts_where_there_is_one() -> None:
    flops = [
        forward_flops(build_teacher(open_clip_config("tiny_eva02_clip"), layers=2, features=what), frames=1, kept=None)
        for what in ("tokens", "projected")
    ]
    assert flops[1] - flops[0] == 2 * 2 * 16 * 32 * 24
