"""What recognition makes of a micro-batch: targets, erased and mixed pixels, a digest of the draws; its groups."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from umt_ds.batch import Batch, Targets
from umt_ds.config.load import load_run
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.errors import ConfigError
from umt_ds.models.layers import IMAGENET, normalise
from umt_ds.models.positions import interpolated_table
from umt_ds.tasks.recognition.classes import HeadClasses
from umt_ds.tasks.recognition.task import RecognitionInputs, RecognitionTask

CPU, CLASSES, SEED = torch.device("cpu"), 5, 7
MIXING = "mixup: 0.8, cutmix: 1.0, prob: 1.0, switch: 0.5"
MIXED = (f"task.mixing={{{MIXING}, group: 4}}", "task.erasing=0.5")


def config(*overrides: str) -> RecognitionConfig:
    small = [
        "task.encoder={preset: pocket, frames: 2, image_size: 32, drop_path: 0.1}",
        "task.positions={frames: 8, image_size: 64}",
        "task.label=motion_label",
        "task.smoothing=0.1",
        "task.head_scale=0.001",
        "task.mixing=null",
        "task.erasing=0",
        "batch.global=16",
        "batch.micro=16",
        "data.num_sample=1",
    ]
    task = load_run("demo/recognition", [*small, *overrides]).task
    assert isinstance(task, RecognitionConfig)
    return task


@cache
def task(*overrides: str) -> RecognitionTask:
    return RecognitionTask(config(*overrides), HeadClasses(CLASSES), seed=SEED, device=CPU)


def batch(rows: int = 16, first: int = 0) -> Batch:
    """Row r of a step has pixels of its own and label r mod 5."""
    pixels = torch.randint(0, 256, (64, 2, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    slots = torch.arange(first, first + rows)
    keys = tuple(f"clip-{slot}" for slot in slots.tolist())
    return Batch("video", pixels[slots], slots, slots, keys, targets=Targets(labels=slots % CLASSES))


def prepared(*overrides: str, rows: int = 16, first: int = 0, step: int = 0) -> RecognitionInputs:
    return task(*overrides).prepare(batch(rows, first), step)


# ---------------------------------------------------------------- inputs


def test_pixels_travel_as_bytes_where_nothing_is_erased_or_mixed() -> None:
    inputs = prepared()
    assert torch.equal(inputs.pixels, batch().pixels)
    assert inputs.digest is None
    assert inputs.targets[3].tolist() == pytest.approx([0.02, 0.02, 0.02, 0.92, 0.02])


def test_views_are_erased_before_they_are_mixed() -> None:
    """With both on, the rows are those of erasing alone, mixed by the shares that the targets tell."""
    erased, both = prepared("task.erasing=0.5"), prepared(*MIXED, "task.mixing.cutmix=0")
    clean = normalise(batch().pixels, IMAGENET).permute(0, 4, 1, 2, 3)
    changed = (erased.pixels != clean).flatten(1).any(1)
    assert 3 < changed.sum() < 13
    partner = torch.arange(16).view(4, 4).flip(1).flatten()
    one_hot = F.one_hot(batch().slots % CLASSES, CLASSES) * 0.9 + 0.02
    for row in range(16):
        own, other = one_hot[row], one_hot[partner[row]]
        label = int(own.argmax())
        share = float((both.targets[row, label] - other[label]) / (own[label] - other[label]))
        expected = share * erased.pixels[row] + (1 - share) * erased.pixels[partner[row]]
        torch.testing.assert_close(both.pixels[row], expected, rtol=0, atol=1e-5)
        assert both.targets[row].sum().item() == pytest.approx(1)


def test_a_step_is_the_same_however_it_is_cut_into_micro_batches() -> None:
    whole = prepared(*MIXED, rows=32)
    parts = [prepared(*MIXED, rows=8, first=first) for first in range(0, 32, 8)]
    for name in ("pixels", "targets"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name
    digests = [part.digest for part in parts]
    assert whole.digest is not None
    assert sum(digest for digest in digests if digest is not None) == whole.digest, "modulo 2^64"


def test_the_digest_tells_steps_seeds_and_settings_apart() -> None:
    others = [
        prepared(*MIXED, step=1),
        prepared(f"task.mixing={{{MIXING}, group: 8}}", "task.erasing=0.5"),
        prepared(*MIXED, "task.mixing.cutmix=0.4"),
        prepared(*MIXED[:1], "task.erasing=0.1"),
    ]
    digests = {int(inputs.digest) for inputs in (prepared(*MIXED), *others) if inputs.digest is not None}
    assert len(digests) == 5
    assert prepared(*MIXED).digest == prepared(*MIXED).digest


def test_evaluation_sees_the_pixels_that_training_would_see_unmixed() -> None:
    """Bytes and normalised numbers are embedded alike."""
    module = task(*MIXED).module.eval()
    raw = batch(4).pixels
    floats = normalise(raw, IMAGENET).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(module.logits(raw), module.logits(floats), rtol=0, atol=1e-7)


def test_an_odd_group_and_one_that_does_not_divide_a_micro_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.mixing.*group 3 is odd"):
        config("task.mixing={group: 3}")
    with pytest.raises(ConfigError, match=r"task\.mixing\.group: .* = 16 rows, which is no multiple of 12"):
        config("task.mixing={group: 12}")


@pytest.mark.parametrize("side", [4, 60])
def test_positions_of_frames_that_are_no_patches_are_refused(side: int) -> None:
    with pytest.raises(ConfigError, match=rf"task\.positions\.image_size: frames of {side} px"):
        task(f"task.positions.image_size={side}")


@pytest.mark.parametrize(
    ("micro", "hint"), [(8, "^task.mixing.group=8, or"), (6, "^task.mixing.group=6, or"), (3, "an even number of rows")]
)
def test_a_group_that_does_not_fit_is_refused_with_one_that_does(micro: int, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config("task.mixing={group: 10}", "batch.global=24", f"batch.micro={micro}", "data.num_sample=1")
    assert raised.value.hint is not None
    assert re.search(hint, raised.value.hint)


# ---------------------------------------------------------------- loss and gradient


def test_the_loss_begins_at_the_logarithm_of_the_number_of_classes() -> None:
    losses = task(*MIXED).module.train()(prepared(*MIXED))
    assert losses.total.item() == pytest.approx(math.log(CLASSES), abs=1e-3)
    assert losses.parts["ce"] == losses.total
    assert losses.digest == prepared(*MIXED).digest


def gradients(module: torch.nn.Module, *parts: RecognitionInputs) -> dict[str, Tensor]:
    """Of the mean loss over parts of equal size."""
    module.zero_grad()
    for part in parts:
        (module(part).total / len(parts)).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    for name, gradient in one.items():
        torch.testing.assert_close(
            two[name], gradient, rtol=1e-4, atol=1e-6 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_micro_batches_that_add_up_have_the_gradient_of_the_whole() -> None:
    module = task(*MIXED).module.train()
    with torch.no_grad():
        module.head.weight.normal_(std=0.1)  # a new head would hide the encoder
    parts = [prepared(*MIXED, rows=8, first=first) for first in (0, 8)]
    assert_same(gradients(module, prepared(*MIXED)), gradients(module, *parts))


def test_recomputed_blocks_have_the_same_gradient() -> None:
    module = task(*MIXED).module.train()
    with torch.no_grad():
        module.head.weight.normal_(std=0.1)
    kept = gradients(module, prepared(*MIXED))
    module.checkpoint_blocks = 2
    recomputed = gradients(module, prepared(*MIXED))
    module.checkpoint_blocks = 0
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


def test_the_gradient_is_that_of_the_formula_in_float64() -> None:
    """The pixels are floats here: what mixes them is not differentiated."""
    module = task(*MIXED).module.train()
    with torch.no_grad():
        module.head.weight.normal_(std=0.1)
    inputs = prepared(*MIXED, rows=8)
    ours = gradients(module, inputs)
    exact = replace(inputs, pixels=inputs.pixels.double(), targets=inputs.targets.double())
    parameters = {n: p.detach().double().requires_grad_() for n, p in module.named_parameters()}
    loss = plain_loss(parameters, exact, depth=module.size.depth, heads=module.size.heads, drop_path=0.1)
    theirs = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    assert_same({name: gradient.float() for name, gradient in theirs.items()}, ours)


def plain_loss(p: dict[str, Tensor], inputs: RecognitionInputs, *, depth: int, heads: int, drop_path: float) -> Tensor:
    """The classifier written out: a convolution, softmax attention with its matrix, and the mean over tokens."""
    width = p["head.weight"].shape[1]
    patch = p["patch_embed.proj.weight"].shape[-1]
    kernel = {"bias": p["patch_embed.proj.bias"], "stride": (1, patch, patch)}
    x = F.conv3d(inputs.pixels, p["patch_embed.proj.weight"], **kernel).flatten(2).transpose(1, 2)  # type: ignore[arg-type]
    side = inputs.pixels.shape[-1] // patch
    x = x + interpolated_table(
        frames=inputs.pixels.shape[2], rows=side, cols=side, width=width, base_frames=8, base_grid=64 // patch
    )
    assert inputs.drop_noise is not None
    for block in range(depth):
        keep = 1 - drop_path * block / (depth - 1)
        scales = (inputs.drop_noise[block] < keep).double()[..., None, None] / keep
        at = f"blocks.{block}."
        x = x + scales[0] * plain_attention(p, at, plain_norm(p, at + "norm1", x), heads)
        hidden = F.gelu(F.linear(plain_norm(p, at + "norm2", x), p[at + "mlp.fc1.weight"], p[at + "mlp.fc1.bias"]))
        x = x + scales[1] * F.linear(hidden, p[at + "mlp.fc2.weight"], p[at + "mlp.fc2.bias"])
    logits = F.linear(plain_norm(p, "fc_norm", x.mean(1)), p["head.weight"], p["head.bias"])
    return F.cross_entropy(logits, inputs.targets)


def plain_norm(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p[name + ".weight"], p[name + ".bias"], eps=1e-6)


def plain_attention(p: dict[str, Tensor], at: str, x: Tensor, heads: int) -> Tensor:
    q, k, v = F.linear(x, p[at + "attn.qkv.weight"]).chunk(3, dim=-1)
    q, v = q + p[at + "attn.q_bias"], v + p[at + "attn.v_bias"]
    q, k, v = (one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return F.linear((weights @ v).transpose(1, 2).flatten(2), p[at + "attn.proj.weight"], p[at + "attn.proj.bias"])


# ---------------------------------------------------------------- parameter groups


def groups(**optim: Any) -> list[dict[str, Any]]:
    return task().parameter_groups(OptimConfig(lr=1.0, lr_rule="absolute", **optim))


def test_each_layer_learns_more_slowly_than_the_one_after_it() -> None:
    names = {parameter: name for name, parameter in task().module.named_parameters()}
    rate = {names[p]: group["lr_scale"] for group in groups(layer_decay=0.5) for p in group["params"]}
    depth = task().module.size.depth
    assert rate.keys() == set(names.values())
    assert rate["head.weight"] == rate["fc_norm.bias"] == 1
    assert [rate[f"blocks.{block}.attn.q_bias"] for block in range(depth)] == [0.5 ** (depth - b) for b in range(depth)]
    assert rate["patch_embed.proj.weight"] == 0.5 ** (depth + 1)


def test_without_layer_decay_all_layers_learn_at_one_rate() -> None:
    assert [group["lr_scale"] for group in groups()] == [1, 1]


# ---------------------------------------------------------------- full size


def full_size(preset: str, frames: int, side: int = 224) -> tuple[RecognitionTask, Batch]:
    """Of Kinetics-400, with two views of noise."""
    settings = (f"task.encoder.preset={preset}", f"task.encoder.frames={frames}", f"task.encoder.image_size={side}")
    made = config(*settings, "task.positions={frames: 8, image_size: 224}", MIXED[0].replace("4}", "2}"), MIXED[1])
    slots = torch.arange(2)
    pixels = torch.randint(0, 256, (2, frames, side, side, 3), dtype=torch.uint8)
    shown = Batch("video", pixels, slots, slots, ("a", "b"), targets=Targets(labels=slots))
    return RecognitionTask(made, HeadClasses(400), seed=SEED, device=CPU), shown


@pytest.mark.slow
def test_a_step_of_b16_begins_at_ln_400_and_lowers_the_loss() -> None:
    made, shown = full_size("vit_b16", 8)
    made.module.train()
    optim = OptimConfig(lr=1e-3, lr_rule="absolute", layer_decay=0.75)
    adamw = torch.optim.AdamW([{**g, "lr": optim.lr * g["lr_scale"]} for g in made.parameter_groups(optim)])
    inputs = made.prepare(shown, 0)
    losses = []
    for _ in range(2):
        loss = made.module(inputs).total
        losses.append(loss.item())
        if len(losses) == 1:
            loss.backward()
            adamw.step()
    assert losses[0] == pytest.approx(math.log(400), abs=1e-3)
    assert losses[1] < losses[0] - 0.01


@pytest.mark.slow
def test_l16_sees_16_frames() -> None:
    """3,136 tokens of a clip."""
    made, shown = full_size("vit_l16", 16)
    with torch.inference_mode():
        logits = made.module.eval().logits(shown.pixels[:1])
    assert logits.shape == (1, 400)
    assert 1e-5 < logits.abs().max() < 0.01, "the head begins a thousand times smaller than it would"
