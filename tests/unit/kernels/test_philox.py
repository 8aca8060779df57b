"""Philox4x32-10 gives the authors' known answers, and uniform() is a pure function of its key."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from umt_ds.kernels.philox import Purpose, philox4x32, uniform

# Random123, tests/kat_vectors: counter, key, answer.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def philox_numpy(counter: list[int], key: list[int]) -> list[int]:
    """The paper's description in unsigned 64-bit numpy, one counter at a time."""
    c = [np.uint64(value) for value in counter]
    k = [np.uint64(value) for value in key]
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        left, right = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(right >> shift) ^ c[1] ^ k[0], right & low, (left >> shift) ^ c[3] ^ k[1], left & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return [int(value) for value in c]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers_of_random123(counter: str, key: str, answer: str) -> None:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in words(counter))
    k0, k1 = words(key)
    assert [int(word) for word in philox4x32((c0, c1, c2, c3), (k0, k1))] == words(answer)
    assert philox_numpy(words(counter), words(key)) == words(answer)


def test_every_number_is_the_word_of_its_lane_slot_step_purpose_and_seed() -> None:
    seed, step, purpose = 0x0123_4567_89AB_CDEF, 3_000_000_000, Purpose.DROP_PATH
    slots = torch.tensor([0, 7, 4_294_967_295])
    drawn = uniform(seed, step, slots, 6, purpose)
    for row, slot in enumerate(slots.tolist()):
        for lane in range(6):
            answer = philox_numpy([lane // 4, slot, step, purpose], [seed & 0xFFFFFFFF, seed >> 32])[lane % 4]
            assert drawn[row, lane].item() == ((answer >> 9) + 0.5) / 2**23


def test_numbers_are_f32_strictly_between_zero_and_one_and_uniform() -> None:
    drawn = uniform(1, 2, torch.arange(500), 401, Purpose.MASK)
    assert drawn.shape == (500, 401)
    assert drawn.dtype == torch.float32
    assert 0 < drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() < 1
    assert abs(drawn.mean().item() - 0.5) < 4 * (1 / 12 / drawn.numel()) ** 0.5
    counts = torch.histc(drawn, bins=16, min=0, max=1)
    expected = drawn.numel() / 16
    assert ((counts - expected) ** 2 / expected).sum() < 44  # chi², 15 degrees of freedom, p = 1e-4


def test_extreme_words_do_not_round_to_zero_or_one() -> None:
    smallest, largest = torch.tensor([0, 0xFFFFFFFF]) >> 9
    assert (smallest.float() + 0.5) * 2.0**-23 > 0
    assert (largest.float() + 0.5) * 2.0**-23 < 1


def test_a_row_is_the_same_alone_and_in_any_batch_and_lanes_only_extend_it() -> None:
    slots = torch.arange(100, 116)
    together = uniform(5, 6, slots, 10, Purpose.MASK)
    for start, end in ((0, 5), (5, 6), (6, 16)):
        assert torch.equal(uniform(5, 6, slots[start:end], 10, Purpose.MASK), together[start:end])
    assert torch.equal(uniform(5, 6, slots, 3, Purpose.MASK), together[:, :3])


@pytest.mark.parametrize("other", [{"seed": 6}, {"seed": 5 + 2**32}, {"step": 7}, {"purpose": Purpose.DROP_PATH}])
def test_each_part_of_the_key_changes_the_numbers(other: dict[str, int]) -> None:
    key = {"seed": 5, "step": 6, "purpose": Purpose.MASK}
    slots = torch.arange(4)
    assert (uniform(slots=slots, lanes=8, **key) != uniform(slots=slots, lanes=8, **{**key, **other})).all()


def test_a_step_outside_32_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="step=-1"):
        uniform(0, -1, torch.arange(1), 1, Purpose.MASK)
