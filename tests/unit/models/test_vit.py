"""The student: visible patches only, published arithmetic, keyed drop path, checkpointing, sizes.

Shapes: B clips, T frames, N tokens, V visible, D width.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_ds.errors import ConfigError
from umt_ds.losses.alignment import alignment_loss
from umt_ds.models.alignment import AlignmentModel
from umt_ds.models.layers import IMAGENET, Attention, Block, PatchEmbed
from umt_ds.models.positions import sincos_table
from umt_ds.models.presets import VitSize, vit_size
from umt_ds.models.vit import VideoViT, drop_path_noise, tap_layers

SMALL = VitSize(width=24, depth=3, heads=3, patch=8, mlp_ratio=2.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def raw_clip(clips: int = 2, frames: int = 3, height: int = 16, width: int = 24) -> Tensor:
    return torch.randint(0, 256, (clips, frames, height, width, 3), dtype=torch.uint8)


def normalised(raw: Tensor) -> Tensor:
    """uint8 [B,T,H,W,3] to the published model's input [B,3,T,H,W]."""
    values = (raw.double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return values.permute(0, 4, 1, 2, 3).float()


def some_kept(clips: int, tokens: int, visible: int) -> Tensor:
    return torch.stack([torch.randperm(tokens)[:visible].sort().values for _ in range(clips)])


def gathered(x: Tensor, keep: Tensor) -> Tensor:
    return torch.stack([row[kept] for row, kept in zip(x, keep, strict=True)])


# Patches


@pytest.mark.parametrize("layout", ["uint8", "float", "strided uint8"])
def test_kept_patches_are_those_of_a_conv3d_over_the_whole_normalised_clip(layout: str) -> None:
    embed = PatchEmbed(width=10, patch=8)
    raw = raw_clip()
    keep = some_kept(2, 3 * 2 * 3, 7)
    whole = F.conv3d(normalised(raw), embed.proj.weight, embed.proj.bias, stride=(1, 8, 8))
    expected = gathered(whole.flatten(2).transpose(1, 2), keep)

    if layout == "float":
        pixels = normalised(raw)
    elif layout == "strided uint8":  # a crop of a larger clip
        pixels = F.pad(raw, (0, 0, 5, 3, 2, 1))[:, :, 2:-1, 5:-3]
        assert not pixels.is_contiguous()
    else:
        pixels = raw

    torch.testing.assert_close(embed(pixels, keep), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(gathered(embed(pixels), keep), expected, rtol=0, atol=1e-5)


def test_hidden_pixels_are_never_looked_at() -> None:
    model = VideoViT(SMALL)
    pixels = normalised(raw_clip(clips=1))
    keep = some_kept(1, 18, 5)
    before = model(pixels, keep=keep).tokens
    hidden = [index for index in range(18) if index not in keep[0].tolist()]
    for index in hidden:
        frame, row, col = index // 6, index % 6 // 3, index % 3
        pixels[:, :, frame, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] = math.nan
    assert torch.equal(model(pixels, keep=keep).tokens, before)


def test_frames_that_cannot_be_cut_into_patches_are_refused() -> None:
    with pytest.raises(ConfigError, match="16 x 20 pixels cannot be cut into patches of 8 x 8"):
        VideoViT(SMALL)(raw_clip(width=20))


# Blocks


def test_attention_is_torchs_multihead_attention_with_a_zero_key_bias() -> None:
    ours = Attention(24, 3)
    nn.init.normal_(ours.q_bias)
    nn.init.normal_(ours.v_bias)
    oracle = nn.MultiheadAttention(24, 3, batch_first=True)
    oracle.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": torch.cat([ours.q_bias, torch.zeros(24), ours.v_bias]),
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(ours(x), oracle(x, x, x, need_weights=True)[0], rtol=0, atol=1e-5)


def test_a_block_is_pre_norm_with_exact_gelu_and_eps_1e_6() -> None:
    block = Block(width=24, heads=3, mlp_ratio=2.0)
    x = 1e-3 * torch.randn(2, 5, 24)  # low variance: another eps would show
    x1 = x + block.attn(F.layer_norm(x, (24,), eps=1e-6))
    hidden = block.mlp.fc1(F.layer_norm(x1, (24,), eps=1e-6))
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(block(x), x1 + block.mlp.fc2(hidden), rtol=0, atol=1e-6)


def test_tokens_and_taps_share_the_norm_and_positions_are_added_once() -> None:
    model = VideoViT(SMALL)
    nn.init.normal_(model.norm.weight)
    raw = raw_clip()
    keep = some_kept(2, 18, 6)
    x = model.patch_embed(raw, keep) + sincos_table(18, 24)[keep]
    after = []
    for block in model.blocks:
        x = block(x)
        after.append(F.layer_norm(x, (24,), model.norm.weight, model.norm.bias, eps=1e-6))

    output = model(raw, keep=keep, taps=(0, 2))

    torch.testing.assert_close(output.tokens, after[2])
    torch.testing.assert_close(output.taps, (after[0], after[2]))
    assert model(raw, keep=keep).taps == ()


def test_keeping_all_is_keeping_none_back_and_raw_pixels_equal_normalised_ones() -> None:
    model = VideoViT(SMALL)
    raw = raw_clip()
    everything = torch.arange(18).expand(2, -1)
    torch.testing.assert_close(model(raw).tokens, model(normalised(raw), keep=everything).tokens, rtol=0, atol=1e-5)


def test_an_image_is_a_clip_of_one_frame() -> None:
    assert VideoViT(SMALL)(raw_clip(frames=1)).tokens.shape == (2, 6, 24)


def test_without_the_final_norm_the_block_output_itself_comes_out() -> None:
    model, bare = VideoViT(SMALL), VideoViT(SMALL, final_norm=False)
    bare.load_state_dict({name: value for name, value in model.state_dict().items() if name[:5] != "norm."})
    raw = raw_clip()
    plain = bare(raw, taps=(1,))
    torch.testing.assert_close(F.layer_norm(plain.tokens, (24,), eps=1e-6), model(raw).tokens)
    torch.testing.assert_close(F.layer_norm(plain.taps[0], (24,), eps=1e-6), model(raw, taps=(1,)).taps[0])


def test_interpolated_positions_differ_from_the_sincos_table_of_another_length() -> None:
    model = VideoViT(SMALL, positions="interpolated")
    plain = VideoViT(SMALL)
    plain.load_state_dict(model.state_dict())
    assert (model(raw_clip()).tokens - plain(raw_clip()).tokens).abs().max() > 1e-2


def test_bfloat16_parameters_run_and_the_position_table_stays_out_of_the_module() -> None:
    model = VideoViT(SMALL)
    raw, keep = raw_clip(), some_kept(2, 18, 6)
    exact = model(raw, keep=keep).tokens
    rounded = model.to(torch.bfloat16)(raw, keep=keep).tokens
    assert rounded.dtype == torch.bfloat16
    assert F.cosine_similarity(rounded.float(), exact, dim=-1).min() > 0.999
    assert not list(model.buffers())
    assert torch.equal(model.position_table(raw), sincos_table(18, 24))


# Drop path


def dropping(noise: Tensor, **options: Any) -> tuple[Tensor, VideoViT, Tensor]:
    model = VideoViT(SMALL, drop_path=0.5, **options).train()
    raw = raw_clip()
    return model(raw, drop_noise=noise).tokens, model, raw


def test_noise_above_the_keep_rate_drops_the_branch_of_that_clip_alone() -> None:
    noise = torch.zeros(3, 2, 2)
    noise[2, 1, 0] = 0.6  # last block (rate 0.5): the MLP of the first clip
    tokens, model, raw = dropping(noise)
    x = model.patch_embed(raw) + sincos_table(18, 24)
    for block, rate in zip(model.blocks, (0.0, 0.25, 0.5), strict=True):
        x = x + block.attn(block.norm1(x)) / (1 - rate)
        branch = block.mlp(block.norm2(x)) / (1 - rate)
        if rate == 0.5:
            branch[0] = 0
        x = x + branch
    torch.testing.assert_close(tokens, model.norm(x))


def test_a_draw_drops_only_where_it_exceeds_the_keep_rate_of_its_block() -> None:
    """Rates 0, 0.25, 0.5: draws of 0.7 drop the last block, draws of 0.8 the last two."""
    for draw, kept_blocks in ((0.7, 2), (0.8, 1)):
        tokens, model, raw = dropping(torch.full((3, 2, 2), draw))
        x = model.patch_embed(raw) + sincos_table(18, 24)
        for block, rate in list(zip(model.blocks, (0.0, 0.25), strict=False))[:kept_blocks]:
            x = x + block.attn(block.norm1(x)) / (1 - rate)
            x = x + block.mlp(block.norm2(x)) / (1 - rate)
        torch.testing.assert_close(tokens, model.norm(x))


def test_training_with_drop_path_needs_noise_and_evaluation_ignores_it() -> None:
    model = VideoViT(SMALL, drop_path=0.5)
    raw = raw_clip()
    with pytest.raises(ValueError, match="drop_path_noise"):
        model.train()(raw)
    model.eval()
    assert torch.equal(model(raw).tokens, model(raw, drop_noise=torch.ones(3, 2, 2)).tokens)
    VideoViT(SMALL).train()(raw)  # rate 0 needs none


def test_drop_path_noise_belongs_to_the_slot() -> None:
    slots = torch.arange(4, 12)
    noise = drop_path_noise(1, 2, slots, 5)
    assert noise.shape == (5, 2, 8)
    assert torch.equal(drop_path_noise(1, 2, slots[3:5], 5), noise[..., 3:5])
    assert len(noise.unique()) == noise.numel()


# Checkpointing


def gradients_of(checkpoint_blocks: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    model = VideoViT(SMALL, drop_path=0.5, checkpoint_blocks=checkpoint_blocks).train()
    noise = drop_path_noise(0, 0, torch.arange(2), 3)
    output = model(raw_clip(), keep=some_kept(2, 18, 6), taps=(1, 2), drop_noise=noise)
    (torch.stack(output.taps).square() * torch.arange(24)).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("blocks", [1, 3])
def test_checkpointing_gives_the_same_gradients(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = gradients_of(0)
    runs = []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, *a: runs.append(1) or forward(self, *a))

    checkpointed = gradients_of(blocks)

    assert len(runs) == SMALL.depth + blocks  # the first n blocks ran twice
    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=0, atol=0)


# Taps, sizes, initial weights


def test_tap_layers_are_the_last_ones_ascending() -> None:
    assert tap_layers(12, 6) == (6, 7, 8, 9, 10, 11)
    assert tap_layers(24, 6) == (18, 19, 20, 21, 22, 23)
    assert tap_layers(12, 3, 2.5) == (6, 9, 11)  # 11 - floor(0, 2.5, 5)
    assert tap_layers(4, 1) == (3,)


@pytest.mark.parametrize(("depth", "layers", "interval"), [(4, 5, 1.0), (4, 3, 2.0), (12, 6, 0.5), (12, 0, 1.0)])
def test_taps_that_do_not_fit_are_refused(depth: int, layers: int, interval: float) -> None:
    with pytest.raises(ConfigError, match=f"{layers} layers at interval {interval} do not fit {depth} blocks"):
        tap_layers(depth, layers, interval)


@pytest.mark.parametrize(
    ("preset", "out_width", "encoder", "total"),
    [("vit_b16", 512, 85_637_376, 88_005_888), ("vit_l16", 768, 303_074_304, 307_806_720)],
)
def test_parameter_counts_are_the_published_ones(preset: Any, out_width: int, encoder: int, total: int) -> None:
    with torch.device("meta"):
        model = AlignmentModel(VideoViT(vit_size(preset)), out_width=out_width)
    assert sum(p.numel() for p in model.encoder.parameters()) == encoder
    assert sum(p.numel() for p in model.parameters()) == total
    assert all(p.dim() > 0 for p in model.parameters())  # DeepSpeed cannot handle 0-dim ones


def test_initial_weights() -> None:
    model = AlignmentModel(VideoViT(VitSize(width=48, depth=2, heads=3, patch=8)), out_width=16, layers=2)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            assert 0.95 * bound < module.weight.abs().max() <= bound, name
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()
            assert module.eps == 1e-6
    attention = model.encoder.blocks[0].attn
    assert not attention.q_bias.any()
    assert not attention.v_bias.any()
    projection = model.encoder.patch_embed.proj
    bound = 1 / math.sqrt(3 * 8 * 8)  # torch's Conv3d default
    assert 0.95 * bound < projection.weight.abs().max() <= bound
    assert projection.bias is not None
    assert projection.bias.any()


# Alignment


@pytest.mark.parametrize("norm", ["l2", "none"])
def test_decoders_get_positions_again_then_linear_then_norm(norm: Any) -> None:
    model = AlignmentModel(VideoViT(SMALL), out_width=10, layers=2, norm=norm)
    raw, keep = raw_clip(), some_kept(2, 18, 6)
    taps = model.encoder(raw, keep=keep, taps=(1, 2)).taps
    expected = []
    for decoder, x in zip(model.clip_decoder, taps, strict=True):
        y = F.linear(x + sincos_table(18, 24)[keep], decoder.head.weight, decoder.head.bias)
        y = F.layer_norm(y, (10,), decoder.norm.weight, decoder.norm.bias, eps=1e-6)
        expected.append(F.normalize(y, dim=-1) if norm == "l2" else y)
    torch.testing.assert_close(model(raw, keep), torch.stack(expected), rtol=0, atol=1e-5)


def test_the_distance_layer_by_layer_is_that_of_all_features_at_once() -> None:
    """Loss and gradients, for targets that have not been given unit length."""
    model = AlignmentModel(VideoViT(SMALL), out_width=10, layers=2)
    raw, keep, targets = raw_clip(), some_kept(2, 18, 6), 3 * torch.randn(2, 2, 6, 10)
    plain = alignment_loss(model(raw, keep), F.normalize(targets, dim=-1))
    expected = torch.autograd.grad(plain, list(model.parameters()))

    distance = model.distance(model.encode(raw, keep), raw, keep, tuple(targets))

    torch.testing.assert_close(distance, plain)
    for gradient, other in zip(torch.autograd.grad(distance, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_several_masks_of_a_clip_are_several_passes_over_it() -> None:
    model = VideoViT(SMALL, drop_path=0.5).train()
    raw, keep = raw_clip(), some_kept(4, 18, 6)  # two masks of each of two clips, side by side
    noise = drop_path_noise(0, 0, torch.arange(4), SMALL.depth)
    together = model(raw, keep=keep, taps=(2,), drop_noise=noise)
    for mask in range(2):
        alone = model(raw, keep=keep[mask::2], taps=(2,), drop_noise=noise[..., mask::2])
        torch.testing.assert_close(together.tokens[mask::2], alone.tokens)
        torch.testing.assert_close(together.taps[0][mask::2], alone.taps[0])


def test_unit_vectors_are_made_in_fp32_also_from_bfloat16() -> None:
    model = AlignmentModel(VideoViT(SMALL), out_width=10, layers=2).to(torch.bfloat16)
    features = model(raw_clip(), some_kept(2, 18, 6))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 2, 6))


def test_the_published_statistics_are_imagenets() -> None:
    assert (IMAGENET.mean, IMAGENET.std) == (MEAN, STD)
