"""Which rows of a large array of vectors are most like some others: a matrix product, block by block.

Shapes: N rows, C width, Q queries, K found of each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 4_096  # rows, as f32 of 512 numbers 8 MB: they stay in the cache of a core between conversion and product


class Nearest(NamedTuple):
    """The best first; of equal ones, the one that lies first. similarity: f32 [Q,K]; rows: i64 [Q,K]."""

    similarity: Tensor
    rows: Tensor


def nearest(queries: Tensor, vectors: NDArray[np.floating], *, top: int, block: int = _BLOCK) -> Nearest:
    """The `top` rows of `vectors` [N,C] with the largest products with each of `queries` f32 [Q,C]; K is `top`, or N
    where that is less.

    Products are f32, whatever the vectors are. A block of rows is in memory as f32 at a time.
    """
    values = torch.empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.int64)
    memory = torch.empty(
        min(block, len(vectors)), vectors.shape[1]
    )  # fresh pages for each block cost ten times as much
    for start in range(0, len(vectors), block):
        some = torch.from_numpy(np.asarray(vectors[start : start + block]))
        products = memory[: len(some)].copy_(some) @ queries.T  # [B,Q]
        if values.shape[1] == top and bool((products <= values[:, -1]).all()):
            continue
        found = _best(products, top)
        values = torch.cat([values, found.similarity], dim=1)
        rows = torch.cat([rows, found.rows + start], dim=1)
        # those of earlier blocks lie first, and a stable sort leaves equal ones so
        order = values.argsort(dim=1, descending=True, stable=True)[:, :top]
        values, rows = values.gather(1, order), rows.gather(1, order)
    return Nearest(values, rows)


def _best(products: Tensor, top: int) -> Nearest:
    """Of the products [B,Q] of a block. torch.topk alone says nothing of which equal ones it takes."""
    count = min(top, len(products))
    least = products.topk(count, dim=0).values[-1]  # [Q]
    chosen = []
    for query, value in enumerate(least):
        at_least = (products[:, query] >= value).nonzero()[:, 0]  # ascending
        order = products[at_least, query].argsort(descending=True, stable=True)[:count]
        chosen.append(at_least[order])
    rows = torch.stack(chosen)
    return Nearest(products.T.gather(1, rows), rows)
