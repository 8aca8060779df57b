"""Heads on frozen features: what they learn, that a grid changes none of them, and which point is taken."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from umt_ds.config.probes import GridPoint, HeadGrid
from umt_ds.errors import DataError
from umt_ds.evaluation.probes.heads import AttentiveHead, LinearHead, initialised
from umt_ds.evaluation.probes.selection import beats_of, select_and_score, split
from umt_ds.evaluation.probes.training import LabelledClips, batch_places, hits_of, train_heads

torch.set_num_threads(1)
CPU = torch.device("cpu")


def grid(lr: float = 0.05, weight_decay: float = 0.0, *, steps: int = 150, batch: int = 32) -> HeadGrid:
    return HeadGrid((lr,), (weight_decay,), epochs=1, min_steps=steps, batch=batch)


def clips(features: Tensor, classes: Tensor) -> LabelledClips:
    return LabelledClips(lambda rows: features[rows], torch.arange(len(features)), classes)


def gaussians(count: int, seed: int, *, scales: tuple[float, ...] = (1.0, 1000.0)) -> tuple[Tensor, Tensor]:
    """Two classes of equal covariance, in features of very different sizes, of which each tells half."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 2
    features = torch.randn(count, len(scales), generator=generator) + 1.5 * (2 * classes[:, None] - 1)
    return features * torch.tensor(scales) + 7.0, classes


def fisher(features: Tensor, classes: Tensor, asked: Tensor) -> Tensor:
    """Fisher's linear discriminant, in closed form: the best linear rule for such classes."""
    low, high = features[classes == 0], features[classes == 1]
    within = torch.cov(torch.cat([low - low.mean(0), high - high.mean(0)]).T)
    direction = torch.linalg.solve(within, high.mean(0) - low.mean(0))
    return ((asked - (low.mean(0) + high.mean(0)) / 2) @ direction > 0).long()


def trained_linear(features: Tensor, classes: Tensor, recipe: HeadGrid) -> nn.Module:
    head = initialised(LinearHead(features, classes=2), seed=0)
    train_heads([head], recipe.points, clips(features, classes), recipe, seed=0, device=CPU)
    return head


def test_the_linear_probe_answers_as_fishers_discriminant_whatever_the_size_of_features() -> None:
    features, classes = gaussians(400, seed=0)
    asked, truth = gaussians(1000, seed=1)
    head = trained_linear(features, classes, grid())
    with torch.no_grad():
        answers = head(asked).argmax(dim=1)
    best = fisher(features, classes, asked)
    assert (best == truth).double().mean() > 0.95
    assert (answers == best).double().mean() > 0.985


def test_a_feature_that_is_the_same_in_all_training_clips_says_nothing() -> None:
    features, classes = gaussians(40, seed=0)
    features[:, 1] = 3.0
    head = trained_linear(features, classes, grid(steps=5))
    with torch.no_grad():
        assert torch.equal(head(torch.tensor([[7.0, 3.0]])), head(torch.tensor([[7.0, 1e6]])))


def bound_tokens(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clips of four tokens, each with its place; one token of the first two is marked, and one of the others, twice as
    much, wherever the class is 0 at the same end. The mean over tokens is alike for both classes: [count,4,8]."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 2, (count,), generator=generator)
    tokens = torch.zeros(count, 4, 8)
    tokens[:, :, :4] = torch.eye(4)
    tokens[torch.arange(count), torch.where(classes == 0, 0, 3), 4] = 2.0  # early or late
    tokens[torch.arange(count), torch.where(classes == 0, 3, 0), 5] = 2.0  # and the other way round
    return tokens + 0.05 * torch.randn(count, 4, 8, generator=generator), classes


def test_the_attentive_probe_learns_an_order_that_the_mean_does_not_show() -> None:
    tokens, classes = bound_tokens(128, seed=0)
    asked, truth = bound_tokens(200, seed=1)
    recipe = grid(3e-3, 0.01, steps=60)
    attentive = initialised(AttentiveHead(8, classes=2), seed=0)
    train_heads([attentive], recipe.points, clips(tokens, classes), recipe, seed=0, device=CPU)
    linear = trained_linear(tokens.mean(dim=1), classes, grid(steps=60))
    (of_tokens,) = hits_of([attentive], clips(asked, truth), device=CPU)
    (of_mean,) = hits_of([linear], clips(asked.mean(dim=1), truth), device=CPU)
    assert of_tokens.accuracy > 0.97
    assert of_mean.accuracy < 0.65


def test_the_attentive_head_has_the_four_blocks_of_the_published_one() -> None:
    """The count of V-JEPA 2's: 12·D² + 13·D a block, two norms less where the query is not normed, and the head."""
    width, classes = 64, 5
    blocks = 3 * (12 * width**2 + 13 * width)
    pooling = 12 * width**2 + 13 * width + width  # and the query
    found = sum(parameter.numel() for parameter in AttentiveHead(width, classes=classes).parameters())
    assert found == blocks + pooling + classes * width + classes


def test_a_head_of_a_grid_is_the_head_that_is_trained_alone() -> None:
    features, classes = gaussians(40, seed=0)
    recipe = HeadGrid((0.1, 0.01), (0.0, 1.0), epochs=2, min_steps=1, batch=16)
    together = [initialised(LinearHead(features, classes=2), seed=3) for _ in recipe.points]
    train_heads(together, recipe.points, clips(features, classes), recipe, seed=3, device=CPU)
    for head, point in zip(together, recipe.points, strict=True):
        alone = initialised(LinearHead(features, classes=2), seed=3)
        train_heads([alone], [point], clips(features, classes), recipe, seed=3, device=CPU)
        assert torch.equal(head.linear.weight, alone.linear.weight)
    assert len({head.linear.weight[0, 0].item() for head in together}) == 4


def test_training_leaves_the_random_generator_of_torch_alone() -> None:
    tokens, classes = bound_tokens(8, seed=0)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    head = initialised(AttentiveHead(8, classes=2), seed=0)
    torch.set_rng_state(before)
    train_heads([head], [GridPoint(1e-3, 0.0)], clips(tokens, classes), grid(steps=1), seed=0, device=CPU)
    assert torch.equal(torch.rand(1), expected)


def test_every_epoch_shows_each_clip_once_in_another_order() -> None:
    shown = torch.cat([batch_places(step, 4, 10, seed=0) for step in range(5)])  # 20 of 10 clips: two epochs
    first, second = shown[:10].tolist(), shown[10:].tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert batch_places(3, 4, 10, seed=0).tolist() == batch_places(3, 4, 10, seed=0).tolist()
    assert batch_places(3, 4, 10, seed=0).tolist() != batch_places(3, 4, 10, seed=1).tolist()


def test_steps_follow_from_epochs_and_a_small_set_is_shown_more_often() -> None:
    recipe = HeadGrid((0.1,), (0.0,), epochs=10, min_steps=30, batch=64)
    assert (recipe.steps(640), recipe.batch_of(640)) == (100, 64)
    assert (recipe.steps(20), recipe.batch_of(20)) == (30, 20)
    assert recipe.changed(epochs=2).steps(20) == 2
    assert recipe.changed(lr=(1.0, 2.0)).points == [(1.0, 0.0), (2.0, 0.0)]


# ---------------------------------------------------------------- hits


class Says(nn.Module):
    """A head that says what it is given."""

    def forward(self, features: Tensor) -> Tensor:
        return features


def test_hits_are_counted_by_hand() -> None:
    logits = torch.tensor(
        [[9.0, 1, 2, 3, 4, 5, 6], [1, 9, 8, 7, 6, 5, 4], [0, 0, 0, 0, 0, 0, 0], [math.nan, 9, 0, 0, 0, 0, 0]]
    )
    (hits,) = hits_of([Says()], clips(logits, torch.tensor([1, 1, 0, 1])), device=CPU)
    assert (hits.items, hits.top1, hits.top5) == (4, 2, 2)  # class 1 is the sixth of the first clip
    assert hits.loss == math.inf, "a loss that is no number is never the best"


def test_a_class_that_the_head_does_not_know_is_never_right_and_counts() -> None:
    (hits,) = hits_of([Says()], clips(torch.eye(2), torch.tensor([0, 2])), device=CPU)
    assert (hits.items, hits.top1, hits.accuracy) == (2, 1, 0.5)
    assert hits.loss == pytest.approx(math.log(1 + math.exp(-1)))


# ---------------------------------------------------------------- choosing


def test_a_tenth_is_held_back_by_key_and_nobody_trains_on_it() -> None:
    kept, back = split(50, 0.1, seed=0)
    assert (len(kept), len(back)) == (45, 5)
    assert sorted([*kept.tolist(), *back.tolist()]) == list(range(50))
    assert back.tolist() != split(50, 0.1, seed=1)[1].tolist()
    assert [len(part) for part in split(3, 0.1, seed=0)] == [2, 1]
    with pytest.raises(DataError, match="1 labelled training clips are too few"):
        split(1, 0.1, seed=0)


def choose(train: LabelledClips, val: LabelledClips, recipe: HeadGrid, beats: list[int]) -> object:
    return select_and_score(
        lambda some: initialised(LinearHead(some.rows(some.numbers), classes=2), seed=0), recipe, train, val,
        held_back=0.1, seed=0, device=CPU, beat=lambda: beats.append(1),
    )  # fmt: skip


def test_the_point_is_taken_by_clips_that_are_held_back_and_not_by_the_held_out_set() -> None:
    """Held-out labels are turned round, so that the worst head for the training clips is the best for them."""
    features, classes = gaussians(200, seed=0)
    asked, truth = gaussians(100, seed=1)
    recipe = HeadGrid((0.05, 1e-9), (0.0,), epochs=1, min_steps=60, batch=32)
    beats: list[int] = []
    found = choose(clips(features, classes), clips(asked, 1 - truth), recipe, beats)
    assert found.taken == (0.05, 0.0)
    assert found.val.accuracy < 0.1
    assert found.best_point == (1e-9, 0.0)
    assert found.best.top1 > found.val.top1
    assert [result.point for result in found.grid] == recipe.points
    assert len(beats) == beats_of(recipe, 200, 100, 0.1)


def test_the_head_that_counts_is_trained_on_all_training_clips() -> None:
    features, classes = gaussians(40, seed=0)
    asked, truth = gaussians(100, seed=1)
    recipe = grid(steps=20)
    found = choose(clips(features, classes), clips(asked, truth), recipe, [])
    (by_hand,) = hits_of([trained_linear(features, classes, recipe)], clips(asked, truth), device=CPU)
    assert found.val == by_hand
