"""How useful features are for classes of any data set: k nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 1024  # test images at a time


def neighbour_scores(
    train: Tensor, labels: Tensor, test: Tensor, classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Return the votes for each class of the ``k`` training images whose features are most similar.

    Similarity is the cosine; a vote weighs ``exp(similarity / temperature)``. Of training images with equal similarity
    the first ones count.

    Args:
        train: Features of the training images, shape ``(M, D)``.
        labels: Their class indices, shape ``(M,)``.
        test: Features of the test images, shape ``(B, D)``.
        classes: Number of classes.
        k: Number of neighbours; all training images if there are fewer.
        temperature: Small values favour the nearest neighbours.

    Returns:
        Shape ``(B, classes)``, rows that sum to one; a row has NaN if the features of the image have a NaN or Inf.

    Raises:
        ValueError: Shapes do not match, or a training feature is NaN or Inf.

    Source: Wu et al., *Unsupervised Feature Learning via Non-parametric Instance Discrimination*, CVPR 2018
    (arXiv:1805.01978).

    Example:
        >>> train, labels = torch.eye(2), torch.tensor([0, 1])
        >>> neighbour_scores(train, labels, torch.tensor([[3.0, 0.1]]), 2, k=1)
        tensor([[1., 0.]])
    """
    if train.ndim != 2 or test.shape[1:] != train.shape[1:] or labels.shape != train.shape[:1]:
        raise ValueError(
            f"train, labels and test must have shapes (M, D), (M,) and (B, D), got {tuple(train.shape)}, "
            f"{tuple(labels.shape)} and {tuple(test.shape)}"
        )
    if not bool(train.isfinite().all()):
        raise ValueError("features of the training images are NaN or Inf")
    train, found = F.normalize(train, dim=1), []
    for rows in test.split(ROWS):
        similarity = F.normalize(rows, dim=1) @ train.T
        nearest, place = (part[:, :k] for part in similarity.sort(dim=1, descending=True, stable=True))
        votes = (nearest / temperature).softmax(1)
        found.append(votes.new_zeros(len(rows), classes).scatter_add_(1, labels[place], votes))
    return torch.cat(found)
