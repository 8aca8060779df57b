"""The teacher against an oracle built of torch's own nn.MultiheadAttention, and what it refuses.

Shapes: B clips, T frames, S patches per frame, K layers, V kept tokens, C output width.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_ds.errors import ConfigError, WeightsError
from umt_ds.masking import MaskPlan
from umt_ds.models.clip_towers import build_text_teacher
from umt_ds.models.teachers import Teacher, build_teacher
from umt_ds.weights.published import text_teacher_state

POCKET: dict[str, Any] = {
    "embed_dim": 10,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 24, "layers": 4, "head_width": 8},
}
CLIPS, FRAMES, PATCHES = 2, 3, 16


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def pocket(**options: Any) -> Teacher:
    """A small teacher whose biases and norms are not at their neutral start."""
    teacher = build_teacher(POCKET, layers=3)
    state = {key: value + 0.1 * torch.randn_like(value) for key, value in teacher.tower.visual.state_dict().items()}
    return build_teacher(POCKET, layers=3, state=state, **options)


def video(side: int = 32) -> Tensor:
    return torch.randn(CLIPS, 3, FRAMES, side, side)


def kept(visible: int = 20) -> Tensor:
    tokens = FRAMES * PATCHES
    return torch.stack([torch.randperm(tokens)[:visible].sort().values for _ in range(CLIPS)])


def oracle(state: dict[str, Tensor], pixels: Tensor, gelu: Any = None) -> tuple[Tensor, Tensor]:
    """CLIP's image tower by its formulas: attention [B,T,S] of the last block, features [3,B,T·S,C]."""
    gelu = gelu or (lambda x: x * torch.sigmoid(1.702 * x))

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)

    frames = pixels.transpose(1, 2).flatten(0, 1)
    x = F.conv2d(frames, state["conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([state["class_embedding"].expand(len(x), 1, 24), x], dim=1) + state["positional_embedding"]
    x = norm("ln_pre", x)
    features = []
    for index in range(4):
        name = f"transformer.resblocks.{index}"
        attention = nn.MultiheadAttention(24, 3, batch_first=True)
        attention.load_state_dict(
            {k.removeprefix(f"{name}.attn."): v for k, v in state.items() if f"{name}.attn." in k}
        )
        y = norm(f"{name}.ln_1", x)
        y, weights = attention(y, y, y, need_weights=True, average_attn_weights=True)
        x = x + y
        y = F.linear(norm(f"{name}.ln_2", x), state[f"{name}.mlp.c_fc.weight"], state[f"{name}.mlp.c_fc.bias"])
        x = x + F.linear(gelu(y), state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"])
        features.append((norm("ln_post", x) @ state["proj"])[:, 1:])
    stacked = torch.stack(features[1:]).unflatten(1, (CLIPS, FRAMES)).flatten(2, 3)
    return weights[:, 0, 1:].unflatten(0, (CLIPS, FRAMES)).detach(), stacked.detach()


def gathered(features: Tensor, keep: Tensor) -> Tensor:
    return torch.stack([features[:, clip, rows] for clip, rows in enumerate(keep)], dim=1)


# What it computes


@pytest.mark.parametrize("norm", ["l2", "none"])
def test_attention_and_targets_are_those_of_plain_multihead_attention(norm: Any) -> None:
    teacher = pocket(norm=norm)
    pixels, keep = video(), kept()
    attention, features = oracle(teacher.tower.visual.state_dict(), pixels)

    seen = teacher.attend(pixels)
    targets = seen.targets(keep)

    assert seen.attention is not None
    assert seen.attention.shape == (CLIPS, FRAMES, PATCHES)
    assert seen.attention.dtype == torch.float32
    assert (seen.attention.sum(-1) < 1).all()  # the class token's own share is left out
    torch.testing.assert_close(seen.attention, attention, rtol=0, atol=1e-6)
    expected = gathered(features, keep)
    expected = F.normalize(expected, dim=-1) if norm == "l2" else expected
    torch.testing.assert_close(targets, expected, rtol=0, atol=1e-5)
    assert not targets.requires_grad


@pytest.mark.parametrize("kind", ["semantic", "tube"])
def test_the_last_block_on_kept_tokens_alone_gives_the_same_targets(kind: Any) -> None:
    seen = pocket().attend(video())
    plan = MaskPlan(kind, 0.6)
    keep = plan.keep(seen.attention, seed=0, step=0, slots=torch.arange(CLIPS), frames=FRAMES, patches=PATCHES)
    whole = seen.targets(keep)
    torch.testing.assert_close(seen.targets(keep, equal_frames=True), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole.norm(dim=-1), torch.ones(whole.shape[:-1]))


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_the_lean_teacher_is_the_full_one_to_the_last_bits_of_fp64(quick_gelu: bool) -> None:
    """Against open_clip's own blocks with attention weights, all tokens, all projections."""
    model = {**POCKET, "quick_gelu": quick_gelu}
    teacher = build_teacher(model, layers=3, norm="none", state=pocket().tower.visual.state_dict()).double()
    plain = open_clip_tower(model)
    plain.load_state_dict(teacher.tower.visual.state_dict())
    pixels = video().double()
    plan = MaskPlan("semantic", 0.6)

    look = teacher.attend(pixels)
    keep = plan.keep(look.attention, seed=0, step=0, slots=torch.arange(CLIPS), frames=FRAMES, patches=PATCHES)
    features = torch.stack(look.features(keep, equal_frames=True))

    outputs = []
    for block in plain.transformer.resblocks:
        block.register_forward_hook(lambda _module, _input, output: outputs.append(output))
    inputs = []
    plain.transformer.resblocks[-1].ln_1.register_forward_hook(lambda _module, _input, output: inputs.append(output))
    plain(pixels.transpose(1, 2).flatten(0, 1))
    expected = torch.stack([(plain.ln_post(x) @ plain.proj)[:, 1:] for x in outputs[1:]])
    expected = gathered(expected.unflatten(1, (CLIPS, FRAMES)).flatten(2, 3), keep)
    _, weights = plain.transformer.resblocks[-1].attn(*[inputs[0]] * 3, need_weights=True)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)
    assert look.attention is not None
    torch.testing.assert_close(look.attention.flatten(0, 1), weights[:, 0, 1:], rtol=0, atol=1e-14)


def open_clip_tower(model: dict[str, Any]) -> Any:
    from open_clip.model import _build_vision_tower

    tower = _build_vision_tower(model["embed_dim"], model["vision_cfg"], quick_gelu=model["quick_gelu"])
    return tower.double().requires_grad_(False).eval()


@pytest.mark.parametrize("kind", ["semantic", "tube", "random"])
def test_several_masks_of_a_clip_share_one_look(kind: Any) -> None:
    seen, views = pocket().attend(video()), 3
    assert seen.attention is not None
    plan = MaskPlan(kind, 0.6)
    attention, slots = seen.attention.repeat_interleave(views, dim=0), torch.arange(CLIPS * views)
    keep = plan.keep(attention, seed=0, step=0, slots=slots, frames=FRAMES, patches=PATCHES)
    together = seen.targets(keep, equal_frames=plan.equal_frames)
    for view in range(views):
        alone = seen.targets(keep[view::views], equal_frames=plan.equal_frames)
        torch.testing.assert_close(together[:, view::views], alone)


def test_a_teacher_in_fp8_says_nearly_the_same_and_looks_at_nearly_the_same_patches() -> None:
    teacher, pixels, keep = pocket(), video(), kept()
    exact = teacher.attend(pixels)
    targets = exact.targets(keep)
    teacher.quantise()
    rounded = teacher.attend(pixels)
    assert exact.attention is not None
    assert rounded.attention is not None
    cosine = (rounded.targets(keep) * targets).sum(-1)
    assert cosine.mean() > 0.99  # a tower of width 24 averages little out
    assert cosine.max() < 1, "it is another product"
    torch.testing.assert_close(rounded.attention, exact.attention, rtol=0.1, atol=1e-3)


def test_openai_presets_use_quick_gelu_and_plain_names_do_not() -> None:
    def activation(name: str) -> str:
        with torch.device("meta"):
            return type(build_teacher(name).tower.visual.transformer.resblocks[0].mlp.gelu).__name__

    assert activation("clip_b16") == activation("clip_l14") == "QuickGELU"
    assert activation("ViT-B-16") == "GELU"


def test_gelu_instead_of_quick_gelu_would_give_other_targets() -> None:
    teacher = pocket()
    state, pixels, keep = teacher.tower.visual.state_dict(), video(), kept()
    wrong = F.normalize(gathered(oracle(state, pixels, gelu=F.gelu)[1], keep), dim=-1)
    targets = teacher.attend(pixels).targets(keep)
    assert (targets - wrong).abs().max() > 1e-3
    plain = build_teacher({**POCKET, "quick_gelu": False}, layers=3, state=state)
    torch.testing.assert_close(plain.attend(pixels).targets(keep), wrong, rtol=0, atol=1e-5)


def test_presets_have_the_published_sizes() -> None:
    with torch.device("meta"):
        base, large = build_teacher("clip_b16"), build_teacher("clip_l14")
    assert (base.grid, base.out_width, base.taps) == ((14, 14), 512, (6, 7, 8, 9, 10, 11))
    assert (large.grid, large.out_width, large.taps) == ((14, 14), 768, (18, 19, 20, 21, 22, 23))
    assert large.tower.image_size == (196, 196)
    assert sum(p.numel() for p in base.parameters()) == 86_192_640
    assert (base.size.width, base.size.depth, base.size.heads, base.size.patch) == (768, 12, 12, 16)


# Pixels and positions


@pytest.mark.parametrize(
    ("pixels", "mean", "std"),
    [
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("clip", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ],
)
def test_uint8_pixels_get_the_statistics_asked_for(pixels: Any, mean: Any, std: Any) -> None:
    teacher = pocket(pixels=pixels)
    raw = torch.randint(0, 256, (CLIPS, FRAMES, 32, 32, 3), dtype=torch.uint8)
    by_hand = ((raw / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 4, 1, 2, 3)
    keep = kept()
    targets = teacher.attend(raw).targets(keep)
    torch.testing.assert_close(targets, teacher.attend(by_hand).targets(keep), rtol=0, atol=1e-5)


def test_a_clip_of_another_size_is_resized_after_normalisation_without_antialias() -> None:
    teacher, keep = pocket(), kept()
    clip = video(side=48)
    targets = teacher.attend(clip).targets(keep)

    def resized(antialias: bool) -> Tensor:  # as published: channels and frames as one axis
        flat = F.interpolate(
            clip.flatten(1, 2), size=(32, 32), mode="bicubic", align_corners=False, antialias=antialias
        )
        return flat.unflatten(1, (3, FRAMES))

    torch.testing.assert_close(targets, teacher.attend(resized(False)).targets(keep), rtol=0, atol=1e-5)
    assert (targets - teacher.attend(resized(True)).targets(keep)).abs().max() > 1e-3


def test_positions_for_another_image_size_are_resized_without_antialias() -> None:
    state = pocket().tower.visual.state_dict()
    smaller = build_teacher(POCKET, layers=3, image_size=24, state=state)
    table = state["positional_embedding"]
    planes = table[1:].view(1, 4, 4, 24).permute(0, 3, 1, 2)

    def resized(antialias: bool) -> Tensor:
        grid = F.interpolate(planes, size=(3, 3), mode="bicubic", align_corners=False, antialias=antialias)
        return torch.cat([table[:1], grid.flatten(2)[0].T])

    ours = smaller.tower.visual.positional_embedding
    assert smaller.grid == (3, 3)
    torch.testing.assert_close(ours.data, resized(antialias=False))
    assert (ours - resized(antialias=True)).abs().max() > 1e-3


# How it behaves


def test_it_is_frozen_stays_in_eval_mode_and_leaves_no_graph() -> None:
    teacher = nn.Sequential(pocket())
    teacher.train()
    assert not any(module.training for module in teacher[0].modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    seen = teacher[0].attend(video().requires_grad_())
    assert seen.states[0].grad_fn is None


def test_targets_may_be_used_in_a_loss_with_gradients() -> None:
    student = torch.randn(3, CLIPS, 20, 10, requires_grad=True)
    (student * pocket().attend(video()).targets(kept())).sum().backward()
    assert student.grad is not None


def test_random_weights_come_from_the_seed_and_leave_torchs_own_numbers_alone() -> None:
    before = torch.get_rng_state()
    first, same, other = (build_teacher(POCKET, layers=1, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["tower.visual.proj"], other["tower.visual.proj"])


def test_a_bfloat16_teacher_gives_fp32_attention_and_unit_targets() -> None:
    teacher, pixels, keep = pocket(), video(), kept()
    exact = teacher.attend(pixels)
    targets = exact.targets(keep)
    rounded = teacher.to(torch.bfloat16).attend(pixels)
    assert exact.attention is not None
    assert rounded.attention is not None
    assert rounded.attention.dtype == torch.float32
    torch.testing.assert_close(rounded.attention, exact.attention, rtol=0.1, atol=1e-3)
    rounded_targets = rounded.targets(keep, equal_frames=False)
    assert rounded_targets.dtype == torch.float32
    assert (rounded_targets * targets).sum(-1).min() > 0.99


# Other towers


def test_towers_without_a_class_token_that_means_something_offer_no_semantic_mask() -> None:
    with torch.device("meta"):
        average = build_teacher("ViT-L-14-CLIPA")
    assert average.map_source is None
    pooled = {**POCKET, "vision_cfg": {**POCKET["vision_cfg"], "pool_type": "avg"}}
    seen = build_teacher(pooled, layers=2).attend(video())
    assert seen.attention is None
    with pytest.raises(ConfigError, match="class-token attention"):
        MaskPlan("semantic", 0.8).keep(
            seen.attention, seed=0, step=0, slots=torch.arange(CLIPS), frames=FRAMES, patches=PATCHES
        )
    assert seen.targets(kept()).shape == (2, CLIPS, 20, 10)


@pytest.mark.parametrize("name", ["RN50", "coca_ViT-B-32", "convnext_tiny"])
def test_towers_without_one_feature_per_patch_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="one feature per patch"), torch.device("meta"):
        build_teacher(name)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no teacher is called 'clip_b_16'") as caught:
        build_teacher("clip_b_16")
    assert "clip_b16" in str(caught.value)


def test_weights_of_another_model_are_refused() -> None:
    state = pocket().tower.visual.state_dict()
    del state["proj"]
    with pytest.raises(WeightsError, match="proj"):
        build_teacher(POCKET, layers=3, state=state)


def test_the_text_teacher_is_the_text_half_of_an_open_clip_file() -> None:
    import open_clip

    config = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    torch.manual_seed(0)
    clip = open_clip.model.CLIP(
        config["embed_dim"],
        open_clip.CLIPVisionCfg(**config["vision_cfg"]),
        open_clip.CLIPTextCfg(**config["text_cfg"]),
        quick_gelu=True,
    ).eval()
    ids = open_clip.tokenize(["a red ball", "two dogs run"])
    teacher = build_text_teacher(config, state=text_teacher_state(clip.state_dict()))
    with torch.no_grad():
        expected = clip.encode_text(ids, normalize=True)
    torch.testing.assert_close(teacher.embedding(ids), expected)
    assert not any(p.requires_grad for p in teacher.parameters())
    with pytest.raises(WeightsError, match="needs a whole CLIP file"):
        build_text_teacher(config, state={"ln_final.weight": torch.zeros(32)})
