"""Stage 2 gives what the published modules give: encoders, similarities, four losses, fusion, heads, key names.

Every size comes from the file itself, so that another file of the same form is judged unedited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from umt_ds.config.batching import RunPlan
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.engine.schedule import lr_at
from umt_ds.losses.contrastive import contrastive_loss
from umt_ds.losses.masked_lm import MaskedTokens
from umt_ds.models.alignment import unit_length
from umt_ds.models.bert import Bert
from umt_ds.models.presets import BertSize, VitSize, bert_size, vit_size
from umt_ds.models.teachers import build_teacher
from umt_ds.models.video_text import VideoEncoder, mean_over_frames
from umt_ds.models.vit import Clips, VideoViT
from umt_ds.tasks.stage2.module import EncodedRows, HardNegatives, Rows, Stage2Inputs, Stage2Module
from umt_ds.weights.load import load_strict
from umt_ds.weights.published import teacher_state, video_text_state

Golden = Callable[[str], Any]
Keys = Callable[..., dict[str, tuple[int, ...]]]
OUTPUTS = {"rtol": 0, "atol": 1e-5}
MEDIA = ("video", "image")


def module_of(
    vit: VitSize, bert: BertSize, *, fusion_layers: int, embed_width: int, out_width: int, layers: int
) -> Stage2Module:
    vision = VideoEncoder(VideoViT(vit), out_width=out_width, layers=layers, interval=1.0, norm="l2")
    text = Bert(bert, fusion_layers=fusion_layers, video_width=vit.width, dropout=0.0)
    config = Stage2Config.model_validate(
        {"kind": "stage2", "text": {"weights": "none"}, "teacher": {"weights": "random"}, "embed_width": embed_width}
    )
    return Stage2Module(vision, text, config=config, seed=0).eval()


def published_module(file: dict[str, Any]) -> Stage2Module:
    ve, bert = file["cfg"]["ve"], file["cfg"]["bert"]
    module = module_of(
        VitSize(ve["encoder_embed_dim"], ve["encoder_depth"], ve["encoder_num_heads"], ve["patch_size"]),
        BertSize(
            width=bert["hidden_size"],
            layers=bert["num_hidden_layers"],
            heads=bert["num_attention_heads"],
            hidden=bert["intermediate_size"],
            vocab_size=bert["vocab_size"],
            max_tokens=bert["max_position_embeddings"],
        ),
        fusion_layers=bert["num_hidden_layers"] - bert["fusion_layer"],
        embed_width=file["cfg"]["embed_dim"],
        out_width=ve["clip_output_dim"],
        layers=ve["clip_return_layer"],
    )
    load_strict(module, video_text_state(file["state"]), where="stage2_umt.pt")
    return module


def rows_of(file: dict[str, Any], medium: str, *, masked: MaskedTokens | None = None) -> Rows:
    part = file[medium]
    mask = part["mask"]
    keep = torch.arange(mask.shape[1]).expand_as(mask)[~mask].view(len(mask), -1)
    return Rows(
        medium="video" if medium == "video" else "image",
        clips=Clips(part["img"].transpose(1, 2), keep),
        pooled_frames=1,
        ids=file["input_ids"],
        is_token=file["attention_mask"].bool(),
        masked=masked,
        match_ids=part["idx"][:, None].expand(-1, 2),
        slots=torch.arange(len(mask)),
        targets=tuple(part["clip_vis"]),
    )


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, **OUTPUTS)


@pytest.mark.parametrize("medium", MEDIA)
def test_encoders_and_similarities_are_the_published_ones(golden: Golden, medium: str) -> None:
    file = golden("stage2_umt.pt")
    module, rows, part = published_module(file), rows_of(file, medium), file[medium]
    vision = module.vision_encoder

    output = vision.encode(*rows.clips)
    pooled = vision.pool(output.tokens, frames=1)
    text = module.text_encoder.encode(rows.ids, rows.is_token)

    close(output.tokens, part["vision_embeds"])
    close(pooled, part["pooled"])
    close(vision.decode(output, rows.clips.pixels, rows.clips.keep), unit_length(part["student"]))
    close(module.vision_proj(pooled), part["vision_proj"])
    close(text, part["text_embeds"])
    close(module.text_proj(text[:, 0]), part["text_proj"])
    video, caption = mean_over_frames(module.embed_video(pooled)), module.embed_text(text)
    close(video @ caption.T / module.temperature(), part["sim_v2t"])
    close(caption @ video.T / module.temperature(), part["sim_t2v"])


@pytest.mark.parametrize("medium", MEDIA)
def test_each_loss_is_the_published_one(golden: Golden, medium: str) -> None:
    file = golden("stage2_umt.pt")
    module, part = published_module(file), file[medium]
    labels, ids = part["mlm_labels"], part["mlm_ids"]
    positions = (labels != -100).flatten().nonzero().squeeze(1)
    rows = rows_of(file, medium, masked=MaskedTokens(ids, positions, labels.flatten()[positions], len(positions)))
    (encoded,) = module.encode([rows])

    close(encoded.losses["uta"], part["loss_uta"])

    same = part["idx"][:, None] == part["idx"][None]
    vtc = contrastive_loss(encoded.video, encoded.caption, temperature=module.temperature(), same=same)
    close(vtc, part["loss_vtc"])

    every = torch.ones(len(labels), dtype=torch.bool)
    negatives = HardNegatives(
        encoded.tokens, encoded.text, rows.is_token, part["vtm_negative_video"], every, part["vtm_negative_text"], every
    )
    matching, mlm_sum = module.fuse(rows, encoded, negatives)
    close(matching / (3 * len(labels)), part["loss_vtm_seed7"])
    close(mlm_sum / len(positions), part["mlm_loss_fixed"])


LOSSES = ("uta", "vtc", "vtm", "mlm")


def masked_rows(file: dict[str, Any], medium: str, some: slice) -> Rows:
    """Some rows of a medium, with words hidden as the file says."""
    part = file[medium]
    ids, labels = part["mlm_ids"][some], part["mlm_labels"][some].flatten()
    positions = (labels != -100).nonzero().squeeze(1)
    rows = rows_of(file, medium)
    return replace(
        rows,
        clips=Clips(rows.clips.pixels[some], None if rows.clips.keep is None else rows.clips.keep[some]),
        ids=rows.ids[some],
        is_token=rows.is_token[some],
        masked=MaskedTokens(ids, positions, labels[positions], len(positions)),
        match_ids=rows.match_ids[some],
        slots=rows.slots[some],
        targets=tuple(target[some] for target in rows.targets),
    )


def given_negatives(monkeypatch: pytest.MonkeyPatch, module: Stage2Module, file: dict[str, Any]) -> None:
    """The module draws those of the file."""

    def negatives(
        pieces: Sequence[Rows], encoded: Sequence[EncodedRows], temperature: Tensor, *, step: int
    ) -> HardNegatives:
        tokens, text = torch.cat([each.tokens for each in encoded]), torch.cat([each.text for each in encoded])
        is_token, part = torch.cat([rows.is_token for rows in pieces]), file[pieces[0].medium]
        all_have = torch.ones(len(text), dtype=torch.bool)
        video, caption = part["vtm_negative_video"], part["vtm_negative_text"]
        return HardNegatives(tokens, text, is_token, video, all_have, caption, all_have)

    monkeypatch.setattr(module, "hard_negatives", negatives)


def gradients_of(module: Stage2Module, file: dict[str, Any], media: Sequence[str], *, pieces: int) -> dict[str, Tensor]:
    """By published name, of the parameters that the loss reaches, when a step is worked on in so many pieces."""
    each = len(file["input_ids"]) // pieces
    cut = [slice(piece * each, None if piece + 1 == pieces else (piece + 1) * each) for piece in range(pieces)]
    rows = tuple(tuple(masked_rows(file, medium, some) for medium in media) for some in cut)
    module(Stage2Inputs(rows, step=0, digest=torch.zeros((), dtype=torch.int64))).total.backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())}
    return {name: grad.squeeze() if name == "temp" else grad for name, grad in found.items()}


def close_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """1e-4 of the maximum of each, and 1e-6 of the maximum of all: those of BERT's key biases are zero but for
    rounding."""
    reached = {name for name, grad in theirs.items() if bool(grad.any())}
    assert reached - ours.keys() == set()
    largest = max(float(grad.abs().max()) for grad in theirs.values())
    for name in ours.keys() | reached:
        expected = theirs[name]
        atol = 1e-4 * float(expected.abs().max()) + 1e-6 * largest
        torch.testing.assert_close(
            ours[name], expected, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("loss", [*LOSSES, "sum"])
@pytest.mark.parametrize("medium", MEDIA)
def test_every_gradient_of_each_loss_is_the_published_one(
    golden: Golden, monkeypatch: pytest.MonkeyPatch, medium: str, loss: str, pieces: int
) -> None:
    file = golden("stage2_grads.pt")
    module = published_module(file)
    given_negatives(monkeypatch, module, file)
    module.weights = {name: float(loss in (name, "sum")) for name in LOSSES}
    close_gradients(gradients_of(module, file, [medium], pieces=pieces), file[medium]["grads"][loss])


def test_images_and_clips_in_one_step_have_the_mean_of_the_published_gradients(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = golden("stage2_grads.pt")
    module = published_module(file)
    given_negatives(monkeypatch, module, file)
    image, video = (file[medium]["grads"]["sum"] for medium in ("image", "video"))
    both = {name: (image.get(name, 0) + video.get(name, 0)) / 2 for name in image.keys() | video.keys()}
    close_gradients(gradients_of(module, file, ["image", "video"], pieces=1), both)


@pytest.mark.parametrize("medium", MEDIA)
def test_the_losses_of_a_step_are_the_published_ones(
    golden: Golden, monkeypatch: pytest.MonkeyPatch, medium: str
) -> None:
    file = golden("stage2_grads.pt")
    module = published_module(file)
    given_negatives(monkeypatch, module, file)
    losses = module(Stage2Inputs(((masked_rows(file, medium, slice(None)),),), 0, torch.zeros((), dtype=torch.int64)))
    for name in LOSSES:
        close(losses.parts[f"{medium}_{name}"], file[medium]["losses"][name])
    close(losses.total.squeeze(), sum(file[medium]["losses"].values()))


@pytest.mark.parametrize("medium", MEDIA)
def test_fusion_and_its_heads_are_the_published_ones(golden: Golden, medium: str) -> None:
    file = golden("stage2_umt.pt")
    module, rows, part = published_module(file), rows_of(file, medium), file[medium]
    text, tokens = module.text_encoder, part["vision_embeds"]

    fused = text.fuse(part["text_embeds"], rows.is_token, tokens)
    close(fused, part["fusion"])
    close(module.match(fused), part["itm_logits"])

    predicted = text.fuse(text.encode(part["mlm_ids"], rows.is_token), rows.is_token, tokens)
    column = part["mlm_logits_col2"]
    close(text.words(predicted[:, 2])[:, : column.shape[1]], column)


@pytest.mark.parametrize("medium", MEDIA)
def test_embeddings_for_evaluation_see_all_tokens_and_keep_the_frames(golden: Golden, medium: str) -> None:
    file = golden("stage2_umt.pt")
    vision, pixels = published_module(file).vision_encoder, file[medium]["img"].transpose(1, 2)
    output = vision.encode(pixels)
    close(output.tokens, file[medium]["eval_embeds"])
    close(vision.pool(output.tokens, frames=pixels.shape[2]), file[medium]["eval_pooled"])


def test_the_teacher_gives_the_published_targets(golden: Golden) -> None:
    file = golden("stage2_umt.pt")
    cfg = file["cfg"]["teacher"]
    state = {key.removeprefix("clip_teacher."): value for key, value in file["state"].items() if "clip_teacher" in key}
    vision = {key: cfg[key] for key in ("width", "layers")}
    vision |= {"image_size": cfg["side"], "patch_size": cfg["patch"], "head_width": cfg["width"] // cfg["heads"]}
    teacher = build_teacher(
        {"embed_dim": cfg["output_dim"], "quick_gelu": True, "vision_cfg": vision},
        layers=cfg["return_layers"],
        norm="none",
        state=teacher_state(state),
    )
    for medium in MEDIA:
        rows = rows_of(file, medium)
        assert rows.clips.keep is not None
        targets = teacher.attend(rows.clips.pixels).targets(rows.clips.keep, equal_frames=True)
        close(targets, file[medium]["clip_vis"])


@pytest.mark.parametrize("size", ["base", "large"])
def test_keys_and_shapes_are_those_of_published_checkpoints(published_keys: Keys, size: str) -> None:
    published = published_keys(f"keys_stage2_{size}.txt")
    vit, bert, fusion, width = {
        "base": (vit_size("vit_b16"), bert_size("bert_base"), 3, 512),
        "large": (vit_size("vit_l16"), bert_size("bert_large"), 5, 768),
    }[size]
    with torch.device("meta"):
        module = module_of(vit, bert, fusion_layers=fusion, embed_width=width, out_width=width, layers=6)
    ours = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    theirs = {
        key: shape
        for key, shape in published.items()
        if not key.startswith("clip_teacher.") and "predictions.decoder" not in key and "position_ids" not in key
    }
    assert theirs.pop("temp") == ()
    assert ours.pop("temp") == (1,)
    assert ours == theirs


def test_the_learning_rate_of_every_step_is_the_published_one(golden: Golden) -> None:
    settings = golden("lr_stage2.pt")["settings"]
    assert settings
    for one in settings:
        plan = RunPlan(
            world=1, micro=1, chunk=1, accumulation=1, draws_per_step=1, views_per_step=1, steps_per_epoch=1,
            total_steps=one["total"], warmup_steps=one["warmup"], peak_lr=one["lr"],
            min_lr=one["lr"] * one["min_lr_multi"], lr_curve="cosine_floor",
        )  # fmt: skip
        ours = torch.tensor([lr_at(step, plan) for step in range(one["total"] + 1)], dtype=torch.float64)
        torch.testing.assert_close(ours[:-1], one["rate"], rtol=1e-9, atol=0)
        torch.testing.assert_close(ours[:-1] / one["lr"], one["factor"], rtol=1e-9, atol=0)
        assert float(ours[-1]) / one["lr"] == pytest.approx(one["after"], rel=1e-9)
