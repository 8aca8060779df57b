"""How many dimensions features really use: a measure of quality without labels."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-7  # the paper's


def rankme(features: Tensor) -> float:
    """The exponential of the entropy of the singular values, each as a share of their sum. [N,D] of any float.

    1 where all features lie on a line, min(N,D) where they fill all dimensions alike; in fp64. 0 where all are 0, or
    one is no number: such features say nothing. Features are taken as they are, neither centred nor normalised.
    Source: Garrido et al. 2023, RankMe (arXiv:2210.02885), section 3.
    """
    wide = features.double()
    if not wide.isfinite().all():
        return 0.0
    values = torch.linalg.svdvals(wide)
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values / total + _EPSILON
    return float(torch.exp(-(shares * shares.log()).sum()))
