"""The objective of stage 2 on a tiny model: against loops, cut into pieces, packed, with parts left out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.stage2 import gradients, inputs_of, tiny_module, tiny_rows
from umt_ds.models.positions import sincos_table
from umt_ds.models.video_text import VideoTextModel, _Within, keeps_frames
from umt_ds.tasks.stage2.module import Stage2Module

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def run(module: Stage2Module, *pieces: object) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    losses = module(inputs_of(*pieces))
    losses.total.backward()
    return {"total": losses.total.detach(), **losses.parts}, gradients(module)


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Equal to rounding: 1e-4 of the largest value of each tensor."""
    assert one.keys() == other.keys()
    for name in one:
        within = 1e-4 * max(1e-3, float(other[name].abs().max()))
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=within, msg=lambda text, n=name: f"{n}: {text}")


def test_the_total_is_the_weighted_sum_of_the_parts() -> None:
    module = tiny_module(loss_weights={"vtc": 2.0, "vtm": 0.5, "mlm": 3.0, "uta": 1.5})
    parts, _ = run(module, tiny_rows("video", range(4)))
    weights = {"vtc": 2.0, "vtm": 0.5, "mlm": 3.0, "uta": 1.5}
    expected = sum(weight * parts[f"video_{name}"] for name, weight in weights.items())
    torch.testing.assert_close(parts["total"], expected)


def test_contrast_matching_and_words_are_what_a_loop_over_the_rows_says() -> None:
    module, rows = tiny_module(), tiny_rows("video", range(5), texts=[0, 1, 1, 3, 4])
    with torch.no_grad():
        (encoded,) = module.encode([rows])
        negatives = module.hard_negatives([rows], [encoded], module.temperature(), step=5)
        parts = module(inputs_of(rows)).parts

        similarity = encoded.video @ encoded.caption.T / module.temp
        vtc = [0.0, 0.0]
        for direction, logits in enumerate((similarity, similarity.T)):
            for i in range(5):
                partners = [j for j in range(5) if j == i or {i, j} == {1, 2}]
                log_p = logits[i].log_softmax(0)
                vtc[direction] -= sum(log_p[j].item() for j in partners) / len(partners) / 5
        assert parts["video_vtc"].item() == pytest.approx(sum(vtc) / 2, rel=1e-5)

        text, encoder = encoded.text, module.text_encoder
        errors = []
        for i in range(5):
            for video, caption, truth in (
                (i, i, 1), (int(negatives.video[i]), i, 0), (i, int(negatives.caption[i]), 0)
            ):  # fmt: skip
                fused = encoder.fuse(
                    text[caption : caption + 1], rows.is_token[caption : caption + 1], encoded.tokens[video : video + 1]
                )
                errors.append(-module.itm_head(fused[0, 0]).log_softmax(0)[truth].item())
        assert parts["video_vtm"].item() == pytest.approx(sum(errors) / 15, rel=1e-5)

        assert rows.masked is not None
        fused = encoder.fuse(encoder.encode(rows.masked.ids, rows.is_token), rows.is_token, encoded.tokens)
        logits = encoder.words(fused.flatten(0, 1))
        changed = rows.masked.positions[: rows.masked.count]
        words = F.cross_entropy(logits[changed], rows.ids.flatten()[changed])
        assert parts["video_mlm"].item() == pytest.approx(words.item(), rel=1e-5)


def test_equal_captions_are_positives_or_as_published_are_not() -> None:
    """Of four rows, 1 and 2 say the same; rows 0 and 3 show the same sample (views of it)."""
    rows = tiny_rows("video", range(4), texts=[0, 1, 1, 3])
    rows = replace(rows, match_ids=torch.tensor([[7, 1000], [8, 1001], [9, 1001], [7, 1003]]))
    partners = {"caption": [{0, 3}, {1, 2}, {1, 2}, {0, 3}], "sample": [{0, 3}, {1}, {2}, {0, 3}]}
    for positives, of_row in partners.items():
        module = tiny_module(vtc={"positives": positives})
        with torch.no_grad():
            (encoded,) = module.encode([rows])
            loss = module(inputs_of(rows)).parts["video_vtc"].item()
            drawn = [module.hard_negatives([rows], [encoded], module.temperature(), step=s) for s in range(40)]
        similarity = encoded.video @ encoded.caption.T / module.temp
        each = [
            -sum(logits[i].log_softmax(0)[j].item() for j in of_row[i]) / len(of_row[i])
            for logits in (similarity, similarity.T)
            for i in range(4)
        ]
        assert loss == pytest.approx(sum(each) / 8, rel=1e-5), positives
        for i in range(4):
            others = set(range(4)) - of_row[i]
            assert {int(negatives.video[i]) for negatives in drawn} <= others
            assert {int(negatives.caption[i]) for negatives in drawn} <= others
        if positives == "sample":
            assert any(int(negatives.video[1]) == 2 for negatives in drawn), (
                "a row that says the same may be drawn as false"
            )


def test_negatives_never_match() -> None:
    module, rows = tiny_module(), tiny_rows("image", range(6), texts=[0, 0, 0, 1, 1, 2])
    (encoded,) = module.encode([rows])
    for step in range(20):
        negatives = module.hard_negatives([rows], [encoded], module.temperature(), step=step)
        text = torch.tensor([0, 0, 0, 1, 1, 2])
        assert (text[negatives.video] != text).all()
        assert (text[negatives.caption] != text).all()


@pytest.mark.parametrize("texts", [[7], [7, 7, 7]])
def test_rows_without_a_negative_do_not_count_and_nothing_becomes_nan(texts: list[int]) -> None:
    module, rows = tiny_module(), tiny_rows("image", range(len(texts)), texts=texts)
    parts, grads = run(module, rows)
    assert all(math.isfinite(float(value)) for value in parts.values())
    assert all(gradient.isfinite().all() for gradient in grads.values())
    (encoded,) = module.encode([rows])
    fused = module.text_encoder.fuse(encoded.text, rows.is_token, encoded.tokens)
    true_pairs = -module.match(fused).log_softmax(dim=1)[:, 1].mean()
    torch.testing.assert_close(parts["image_vtm"], true_pairs.detach(), **CLOSE)


def test_pieces_change_neither_losses_nor_gradients() -> None:
    module = tiny_module()
    whole = run(module, tiny_rows("video", range(6)))
    cut = run(module, *(tiny_rows("video", range(start, start + 2)) for start in (0, 2, 4)))
    for one, other in zip(whole, cut, strict=True):
        assert_close(one, other)


def test_a_piece_meets_the_same_dropout_when_it_is_computed_again() -> None:
    module = tiny_module(dropout=0.3, loss_weights={"uta": 0})
    pieces = [tiny_rows("video", slots, uta=False) for slots in ([0, 1], [2, 3])]
    torch.manual_seed(1)
    _, grads = run(module, *pieces)
    name, h = "text_proj.bias", 1e-3
    step = torch.zeros_like(module.text_proj.bias)
    step[0] = h
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            module.text_proj.bias += sign * step
            torch.manual_seed(1)
            ends.append(float(module(inputs_of(*pieces)).total))
            module.text_proj.bias -= sign * step
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(float(grads[name][0]), rel=0.02, abs=2e-3)


def test_a_packed_batch_is_two_batches_weighted_by_their_rows() -> None:
    module = tiny_module()
    images, clips = tiny_rows("image", [0, 1, 2, 3]), tiny_rows("video", [4, 5])
    together, grads = run(module, (images, clips))
    of_images, image_grads = run(module, images)
    of_clips, clip_grads = run(module, clips)

    total = of_images.pop("total") * 4 / 6 + of_clips.pop("total") * 2 / 6
    assert_close(together, {"total": total, **of_images, **of_clips})
    assert_close(grads, {name: image_grads[name] * 4 / 6 + clip_grads[name] * 2 / 6 for name in image_grads})


@pytest.mark.parametrize("part", ["vtc", "vtm", "mlm", "uta"])
def test_a_weight_of_zero_leaves_a_part_out_and_the_others_as_they_are(part: str) -> None:
    bare = tiny_rows("video", range(3), mlm=part != "mlm", uta=part != "uta")
    whole, _ = run(tiny_module(), tiny_rows("video", range(3)))
    less, _ = run(tiny_module(loss_weights={part: 0.0}), bare)
    assert f"video_{part}" not in less
    for name in less.keys() - {"total"}:
        # without decoders, what is drawn after them starts elsewhere
        if part != "uta":
            torch.testing.assert_close(less[name], whole[name], **CLOSE)


def test_soft_and_hard_negatives_draw_differently() -> None:
    rows = tiny_rows("image", range(32))
    draws = {}
    for hard in (True, False):
        module = tiny_module(vtm={"hard": hard})
        with torch.no_grad():
            (encoded,) = module.encode([rows])
        cold = torch.full((1,), 0.001)  # at which hard negatives are the nearest ones
        similarity = (encoded.caption @ encoded.video.T).masked_fill(torch.eye(32, dtype=torch.bool), -9)
        drawn = module.hard_negatives([rows], [encoded], cold, step=0).video
        draws[hard] = float(similarity.gather(1, drawn[:, None]).mean()), float(similarity.max(dim=1).values.mean())
    assert draws[True][0] == pytest.approx(draws[True][1], abs=0.02)
    assert draws[False][0] < draws[False][1] - 0.1


def test_a_temperature_at_its_bound_may_come_back_but_not_leave() -> None:
    for value, gradient, through in ((0.5, 1.0, True), (0.5, -1.0, False), (0.001, -1.0, True), (0.0005, 1.0, False)):
        temperature = torch.tensor([value], requires_grad=True)
        _Within.apply(temperature, 0.001, 0.5).backward(torch.tensor([gradient]))
        assert temperature.grad is not None
        assert bool(temperature.grad) is through, (value, gradient)
    assert isinstance(tiny_module(), VideoTextModel)


def test_frames_are_kept_apart_where_all_is_seen_or_all_masks_are_tubes() -> None:
    assert keeps_frames(None, masks=("semantic", None))
    assert keeps_frames("tube", masks=("tube", "tube"))
    assert not keeps_frames("tube", masks=("semantic", "tube"))
    assert not keeps_frames("random", masks=("random", "random"))


def test_an_image_has_the_places_of_a_first_frame_and_twelve_frames_places_never_seen() -> None:
    """METHOD.md, "Positions": no interpolation in stage 2."""
    encoder = tiny_module().vision_encoder.encoder

    def table(frames: int) -> Tensor:
        return encoder.position_table(torch.zeros(1, frames, 16, 16, 3, dtype=torch.uint8))

    assert torch.equal(table(1), table(4)[:4])
    assert torch.equal(table(4), table(12)[:16])
    assert torch.equal(table(12), sincos_table(48, 16))
