"""What is nearest, against sorting all products; blocks and dtypes change nothing, and equal ones keep their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from umt_ds.search.nearest import nearest


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_largest_products_whatever_the_block(block: int, dtype: type[np.floating]) -> None:
    vectors = np.random.default_rng(0).standard_normal((100, 8)).astype(dtype)
    queries = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32))
    found = nearest(queries, vectors, top=5, block=block)
    products = queries.numpy().astype(np.float64) @ vectors.astype(np.float64).T
    expected = np.argsort(-products, axis=1)[:, :5]
    assert found.rows.tolist() == expected.tolist()
    assert np.allclose(found.similarity.numpy(), np.take_along_axis(products, expected, 1), atol=1e-5)


@pytest.mark.parametrize("block", [1, 3, 100])
def test_of_equal_ones_the_first_rows(block: int) -> None:
    vectors = np.ones((10, 4), np.float16)
    vectors[6] = 2
    assert nearest(torch.ones(1, 4), vectors, top=4, block=block).rows.tolist() == [[6, 0, 1, 2]]


def test_all_of_them_where_there_are_fewer_than_asked_for() -> None:
    assert nearest(torch.ones(2, 4), np.eye(4, dtype=np.float32)[:3], top=10).rows.shape == (2, 3)
