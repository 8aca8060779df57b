"""Recognition gives what the published code gives: logits, layer decay, mixing, erasing, learning rates.

Every size and name comes from the files themselves, so that other files of the same form are judged unedited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from umt_ds.config.batching import plan_run
from umt_ds.config.load import load_run
from umt_ds.engine.optim import decay_groups, layer_decay_groups
from umt_ds.engine.schedule import lr_at
from umt_ds.models.classifier import VideoClassifier
from umt_ds.models.presets import VitSize
from umt_ds.tasks.recognition.box import Box
from umt_ds.tasks.recognition.erasing import AREA, LOG_ASPECT, box_size, fill
from umt_ds.tasks.recognition.mixing import Mix, cutmix_of, mix_groups_
from umt_ds.tasks.recognition.task import smoothed_targets, soft_cross_entropy
from umt_ds.weights.load import load_strict

Golden = Callable[[str], Any]
EXACT = {"rtol": 0, "atol": 1e-6}


# ---------------------------------------------------------------- the model


def classifier_of(file: dict[str, Any]) -> VideoClassifier:
    """With the weights of the file. A table of positions in it is the one that we compute."""
    cfg, state = file["cfg"], dict(file["state"])
    table = state.pop("pos_embed", None)
    width = state["patch_embed.proj.weight"].shape[0]
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    size = VitSize(width=width, depth=depth, heads=cfg["heads"], patch=cfg["patch"], mlp_ratio=cfg["mlp_ratio"])
    model = VideoClassifier(size, classes=len(state["head.bias"]))
    load_strict(model, state, where="the file")
    if table is not None:
        torch.testing.assert_close(model.position_table(file["x"].float())[None], table, **EXACT)
    return model.eval()


@pytest.mark.parametrize("name", ["finetune_T8.pt", "finetune_T16.pt"])
def test_logits(golden: Golden, name: str) -> None:
    file = golden(name)
    logits = classifier_of(file).logits(file["x"].float())
    torch.testing.assert_close(logits, file["y"], rtol=0, atol=1e-5)


# ---------------------------------------------------------------- the optimiser


def groups_by_name(model: VideoClassifier, groups: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Of each parameter: scale of the learning rate, and weight decay."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: [group["lr_scale"], group["weight_decay"]] for group in groups for p in group["params"]}


def test_each_parameter_has_the_published_rate_and_weight_decay(golden: Golden) -> None:
    for part in golden("recognition.pt")["layer_decay"].values():
        with torch.device("meta"):
            model = VideoClassifier(VitSize(width=16, depth=part["depth"], heads=2, patch=8, mlp_ratio=4), classes=3)
        weight_decay = part["weight_decay"]
        ours = groups_by_name(model, layer_decay_groups(model, weight_decay, part["layer_decay"]))
        plain = groups_by_name(model, decay_groups(model, weight_decay))

        published = {name: told for name, told in part["groups"].items() if name != "pos_embed"}  # never trained there
        assert ours.keys() == plain.keys() == published.keys()
        for name, told in published.items():
            assert ours[name] == pytest.approx(told, rel=1e-12), name
            assert plain[name] == [1, told[1]], "without layer decay"


def test_the_rate_of_every_step(golden: Golden) -> None:
    for setting in golden("recognition.pt")["fine_tune_lr"]:
        draws = setting["batch_size"] * setting["world_size"] * setting["update_freq"]
        config = load_run(
            "demo/recognition",
            [
                f"batch.global={draws}", f"batch.micro={setting['batch_size']}",
                f"data.num_sample={setting['num_sample']}", "optim.lr_rule=per_256", "task.mixing=null",
                *(f"optim.{name}={setting[name]}" for name in ("lr", "min_lr", "warmup_lr")),
                "schedule.steps=null", "schedule.warmup_steps=null",
                f"schedule.epochs={setting['epochs']}", f"schedule.warmup_epochs={setting['warmup_epochs']}",
            ],
        )  # fmt: skip
        samples = setting["steps_per_epoch"] * draws + draws // 2
        plan = plan_run(config, world=setting["world_size"], num_samples=samples)
        assert [plan.peak_lr, plan.min_lr, plan.warmup_lr] == pytest.approx(setting["scaled"], rel=1e-9)
        assert plan.total_steps == len(setting["rate"])
        ours = torch.tensor([lr_at(step, plan) for step in range(plan.total_steps)], dtype=torch.float64)
        torch.testing.assert_close(ours, setting["rate"], rtol=1e-9, atol=0)


# ---------------------------------------------------------------- mixing


def mix_of_case(case: dict[str, Any], pixels: Tensor) -> Mix:
    if case["kind"] == "mixup":
        return Mix(case["lam"])
    height, width = pixels.shape[-2:]
    return cutmix_of(case["lam"], y=case["centre_y"], x=case["centre_x"], height=height, width=width)


def test_mixup_and_cutmix(golden: Golden) -> None:
    part = golden("recognition.pt")["mixing"]
    assert {case["kind"] for case in part["cases"]} == {"mixup", "cutmix"}
    for case in part["cases"]:
        pixels = part["batch"].clone()
        targets = smoothed_targets(part["labels"], part["classes"], case["smoothing"])
        mix = mix_of_case(case, pixels)
        mix_groups_(pixels, targets, [mix])

        assert mix.share == pytest.approx(case["lam_of_box"], abs=1e-6)
        if mix.box is not None:
            assert list(mix.box) == case["box"]
        torch.testing.assert_close(pixels, case["mixed"], **EXACT)
        torch.testing.assert_close(targets, case["targets"], **EXACT)
        torch.testing.assert_close(soft_cross_entropy(part["logits"], targets), case["loss"], **EXACT)


def test_plain_targets_and_their_loss(golden: Golden) -> None:
    part = golden("recognition.pt")["mixing"]
    smoothing = max(case["smoothing"] for case in part["cases"])
    targets = smoothed_targets(part["labels"], part["classes"], smoothing)
    torch.testing.assert_close(targets, part["plain_targets"], **EXACT)
    torch.testing.assert_close(soft_cross_entropy(part["logits"], targets), part["plain_smoothed_loss"], **EXACT)


# ---------------------------------------------------------------- erasing


def test_erasing(golden: Golden) -> None:
    part = golden("recognition.pt")["erasing"]
    assert part["area"] == pytest.approx(AREA, rel=1e-12)
    assert part["log_aspect"] == pytest.approx(LOG_ASPECT, rel=1e-12)
    assert part["layout"] == "T,C,H,W"
    for case in part["cases"]:
        height, width = case["x"].shape[-2:]
        for one in case["tries"]:
            tall, wide = box_size(one["area"], one["log_aspect"], height=height, width=width)
            assert (tall, wide) == (one["h"], one["w"])
            assert (tall < height and wide < width) == one["accepted"]
        clip = case["x"].transpose(0, 1).clone()  # [3,T,H,W]
        if case["box"] is not None:
            top, left, tall, wide = case["box"]
            fill(clip, Box(top, top + tall, left, left + wide), case["noise"])
        assert torch.equal(clip.transpose(0, 1), case["result"])
