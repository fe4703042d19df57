"""Results that do not depend on the order of images with equal scores."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.metrics import precise


def shared_by_ties(scores: Tensor, values: Tensor) -> Tensor:
    """Replace every value by the mean over all images with the same score.

    Sums over the sorted result are the expected sums when images of equal score are put in random order.

    Args:
        scores: Shape ``(B,)``.
        values: Shape ``(B,)``.

    Returns:
        Shape ``(B,)``, dtype of :func:`mixwell.metrics.precise`.

    Example:
        >>> shared_by_ties(torch.tensor([0.5, 0.9, 0.5]), torch.tensor([1.0, 0.0, 0.0])).tolist()
        [0.5, 0.0, 0.5]
    """
    _, group, count = scores.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(count), dtype=precise(scores), device=scores.device)
    return (sums.index_add_(0, group, values.to(sums.dtype)) / count)[group]
