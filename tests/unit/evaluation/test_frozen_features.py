"""The kNN probe: votes, ties, labels, and what the features are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.shards import frame as one_colour
from tests.support.shards import picture, write_shards
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.errors import DataError
from umt_ds.evaluation.encode import encode_set
from umt_ds.evaluation.frozen_features import features_of, label_fields, pooled_student, pooled_teacher, probe_all
from umt_ds.evaluation.metrics.knn import Features, chance_accuracy, knn_accuracy
from umt_ds.models.presets import VitSize
from umt_ds.models.teachers import build_teacher
from umt_ds.models.vit import VideoViT

torch.set_num_threads(1)


def features(vectors: Tensor | list[list[float]], labels: list[int]) -> Features:
    vectors = torch.as_tensor(vectors, dtype=torch.float32)
    return Features(vectors, {"label": torch.tensor(labels)}, tuple(str(n) for n in range(len(labels))))


def vote_by_hand(train: Features, test: Features, k: int, temperature: float) -> float:
    """The same in plain Python loops, without torch's normalise, sort or scatter."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    labels, right = train.labels["label"].tolist(), 0
    for vector, truth in zip(test.vectors.tolist(), test.labels["label"].tolist(), strict=True):
        similar = [cosine(vector, other) for other in train.vectors.tolist()]
        nearest = sorted(range(len(similar)), key=lambda i: (-similar[i], i))[:k]
        votes: dict[int, float] = {}
        for i in nearest:
            votes[labels[i]] = votes.get(labels[i], 0.0) + math.exp(similar[i] / temperature)
        right += min(votes, key=lambda label: (-votes[label], label)) == truth
    return right / len(test.keys)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0), (1000, 0.5)])
def test_accuracy_is_that_of_a_brute_force_vote(k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(k)
    centres = torch.randn(4, 8, generator=generator)
    labels = torch.randint(0, 4, (900,), generator=generator)
    vectors = centres[labels] + 1.5 * torch.randn(900, 8, generator=generator)
    train = features(vectors[:300], labels[:300].tolist())
    test = features(vectors[300:], labels[300:].tolist())  # 600: more than one chunk
    found = knn_accuracy(train, test, label="label", k=k, temperature=temperature)
    assert found == pytest.approx(vote_by_hand(train, test, k, temperature), abs=1e-9)
    assert 0.4 < found < 1


def test_one_near_neighbour_outweighs_two_far_ones_unless_the_temperature_is_high() -> None:
    train = features([[1.0, 0.1], [1.0, 1.0], [1.0, 1.1]], [1, 0, 0])
    test = features([[1.0, 0.0]], [1])
    assert knn_accuracy(train, test, label="label", k=3, temperature=0.07) == 1.0
    assert knn_accuracy(train, test, label="label", k=3, temperature=10.0) == 0.0


def test_length_of_a_vector_does_not_matter() -> None:
    train = features([[100.0, 90.0], [0.001, 0.0]], [0, 1])
    assert knn_accuracy(train, features([[5.0, 0.1]], [1]), label="label", k=1) == 1.0


def test_ties_go_to_the_earlier_clip_and_the_lower_class() -> None:
    same = [[1.0, 0.0]] * 4
    asked = features([[1.0, 0.0]], [2])
    # the first of equal neighbours is taken …
    assert knn_accuracy(features(same, [2, 0, 0, 0]), asked, label="label", k=1) == 1.0
    assert knn_accuracy(features(same, [0, 2, 2, 2]), asked, label="label", k=1) == 0.0
    # … and of equal votes the lower class wins, in whatever order they came
    assert knn_accuracy(features(same, [5, 2, 2, 5]), asked, label="label", k=4) == 1.0
    assert knn_accuracy(features(same, [1, 2, 2, 1]), asked, label="label", k=4) == 0.0


def test_clips_without_the_label_neither_vote_nor_count() -> None:
    train = features([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], [-1, 1, 0])
    test = features([[1.0, 0.0], [0.0, 1.0]], [1, -1])
    assert knn_accuracy(train, test, label="label", k=1) == 1.0
    with pytest.raises(DataError, match="none of 1 clips has a label 'label'"):
        knn_accuracy(train, features([[1.0, 0.0]], [-1]), label="label")


def test_a_class_that_no_training_clip_has_is_never_right() -> None:
    assert knn_accuracy(features([[1.0, 0.0]], [0]), features([[1.0, 0.0]], [7]), label="label") == 0.0


def test_chance_is_the_share_of_the_most_common_training_class() -> None:
    train = features([[1.0]] * 5, [3, 1, 1, 3, 0])  # 1 and 3 equally often: the lower one
    assert chance_accuracy(train, features([[1.0]] * 4, [1, 3, 1, 0]), label="label") == 0.5


def test_labels_may_be_any_numbers() -> None:
    far = [2**62, 7, 2**62]
    train = features([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]], far)
    assert knn_accuracy(train, features([[1.0, 0.0]], [2**62]), label="label", k=2) == 1.0
    assert chance_accuracy(train, features([[1.0, 0.0]] * 2, [2**62, 7]), label="label") == 0.5


def clip_set(shards: Path, *fields: str) -> EvaluationSet:
    return EvaluationSet(shards, ClipRequest(middle_frames(1), side=16, label_fields=fields), batch_size=5)


def test_features_keep_order_keys_and_labels(tmp_path: Path) -> None:
    clips = clip_set(write_shards(tmp_path, (4, 3)), "label", "motion")
    encoded = encode_set({"red": lambda pixels: pixels.double().mean(dim=(1, 2, 3))}, clips)
    found = features_of(encoded, "red", ["label", "motion"])
    assert found.keys == tuple(f"clip-{n:04d}" for n in range(7))
    assert found.labels["label"].tolist() == list(range(7))
    assert found.labels["motion"].tolist() == [-1] * 7
    assert found.vectors.dtype == torch.float32
    assert found.vectors[:, 0].tolist() == list(range(7)), "red is the number of a clip"


def test_no_clips_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clips"):
        encode_set({"one": lambda pixels: pixels}, clip_set(write_shards(tmp_path, (0,))))


def test_student_features_are_the_mean_of_all_tokens_without_drop_path() -> None:
    torch.manual_seed(0)
    encoder = VideoViT(VitSize(width=32, depth=2, heads=2, patch=8), drop_path=0.5).train()
    pixels = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    found = pooled_student(encoder)(pixels)
    assert encoder.training  # a probe during training leaves it so
    tokens = encoder.eval()(pixels).tokens
    assert tokens.shape == (2, 3 * 4, 32)
    assert torch.equal(found, tokens.mean(dim=1))


def test_teacher_features_do_not_know_the_order_of_frames() -> None:
    size = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    teacher = build_teacher({"embed_dim": 24, "vision_cfg": size}, layers=2)
    pixels = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    encode = pooled_teacher(teacher)
    assert encode(pixels).shape == (2, 24)
    torch.testing.assert_close(encode(pixels), encode(pixels.flip(1)))


def test_probe_finds_what_an_encoder_tells_apart(tmp_path: Path) -> None:
    """Colour tells `appearance`, which clips share in pairs; nothing of it tells `motion`."""

    def members(number: int) -> dict[str, bytes]:
        text = f'{{"appearance": "x", "appearance_label": {number % 2}, "motion_label": {number // 6}}}'
        return {"json": text.encode(), "000.png": picture(one_colour(200 * (number % 2), 0))}

    shards = write_shards(tmp_path, (12,), members=members)
    fields = label_fields(shards)
    assert fields == ["appearance_label", "motion_label"]
    clips = clip_set(shards, *fields)

    def colour(pixels: Tensor) -> Tensor:
        return pixels.float().mean(dim=(1, 2, 3)) - 128

    result = probe_all({"colour": colour}, clips, clips, fields=fields)
    assert result.accuracy == {
        "colour": {"appearance": 1.0, "motion": 0.5},
        "chance": {"appearance": 0.5, "motion": 0.5},
    }
    assert (result.train_clips, result.test_clips) == (12, 12)


def test_label_fields_of_other_sets(tmp_path: Path) -> None:
    assert label_fields(write_shards(tmp_path / "joint", (2,))) == ["label"]
    without = {"000.png": picture(one_colour(1, 0))}
    assert label_fields(write_shards(tmp_path / "none", (2,), members=lambda _: without)) == []
