"""Any bytes of a .npy file: frames as the header says them, or a bad sample."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from umt_ds.data.pixels.decode import array_shape, decode_array
from umt_ds.errors import DecodeError


def saved(array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


GOOD = saved(np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3))
TEXT = b"{'descr': '|u1', 'fortran_order': False, 'shape': "
SIGNS = st.sampled_from(b"(){}[]'\",:\\\n\t -#0123456789L\x00\xff")
CHANGES = st.lists(st.tuples(st.integers(6, 90), SIGNS | st.integers(0, 255)), min_size=1, max_size=5)
SHAPES = st.lists(st.integers(-4, 4) | st.sampled_from([3, 10**12, -(10**30)]), min_size=3, max_size=5)


def changed(changes: list[tuple[int, int]]) -> bytes:
    data = bytearray(GOOD)
    for place, byte in changes:
        data[place] = byte
    return bytes(data)


def with_shape(shape: list[int]) -> bytes:
    text = (TEXT + repr(tuple(shape)).encode() + b", }").ljust(GOOD.index(b"\n") - 10) + b"\n"
    return GOOD[:8] + len(text).to_bytes(2, "little") + text + bytes(range(96))


@example(with_shape([-2, -4, 4, 3]))  # as many as there are
@example(GOOD.replace(b"}", b"("))  # a TokenError: NumPy tries what Python 2 wrote
@given(CHANGES.map(changed) | SHAPES.map(with_shape) | st.binary(max_size=60))
def test_any_array_is_read_as_its_header_says_or_is_a_bad_sample(data: bytes) -> None:
    try:
        frames = decode_array(data)
    except DecodeError as error:
        refusal = error.what
    else:
        assert frames.dtype == np.uint8
        assert array_shape(data)[0] == frames.shape == np.load(io.BytesIO(data)).shape
        assert frames.tobytes() == np.load(io.BytesIO(data)).tobytes()
        assert frames.shape[3] == 3
        return
    assert "npy" in refusal
    assert refusal.isprintable()
    assert len(refusal) < 300
