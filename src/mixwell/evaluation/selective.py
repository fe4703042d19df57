"""Selective prediction and out-of-distribution detection: how well a score separates images that deserve trust."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixwell.evaluation.calibration import probabilities
from mixwell.evaluation.ties import shared_by_ties
from mixwell.metrics import precise


def max_probability(logits: Tensor) -> Tensor:
    """Return the largest softmax probability of each image, the usual confidence, shape ``(B,)``.

    Source: Hendrycks and Gimpel, *A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks*, ICLR 2017.
    """
    return probabilities(logits).amax(1)


def negative_energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``T * logsumexp(logits / T)`` of each image, higher for familiar images, shape ``(B,)``.

    Source: Liu et al., *Energy-based Out-of-distribution Detection*, NeurIPS 2020.

    Example:
        >>> negative_energy(torch.zeros(1, 4)).exp().item()
        4.0
    """
    return temperature * (logits.to(precise(logits)) / temperature).logsumexp(1)


def risk_coverage(scores: Tensor, hits: Tensor) -> Tensor:
    """Return the error rate among the ``k`` images with the highest scores, for ``k`` from 1 to B.

    Images of equal score count with their mean error, so their order does not matter.

    Args:
        scores: Confidence of each image, shape ``(B,)``.
        hits: Whether its prediction is right, shape ``(B,)``.

    Returns:
        Shape ``(B,)``, values in [0, 1]; NaN if a score is NaN.

    Example:
        >>> risk_coverage(torch.tensor([0.9, 0.2, 0.5]), torch.tensor([True, False, True])).tolist()
        [0.0, 0.0, 0.333...]
    """
    _same_length(scores, hits)
    errors = shared_by_ties(scores, 1 - hits.to(precise(scores)))[scores.argsort(descending=True)]
    risks = errors.cumsum(0) / torch.arange(1, len(errors) + 1, device=errors.device)
    return risks.where(~scores.isnan().any(), math.nan)


def aurc(scores: Tensor, hits: Tensor) -> Tensor:
    """Return the area under the risk-coverage curve, the mean of :func:`risk_coverage`; lower is better.

    Source: Geifman, Uziel and El-Yaniv, *Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers*, ICLR 2019.

    Example:
        >>> aurc(torch.tensor([0.9, 0.2]), torch.tensor([True, False])).item()
        0.25
    """
    return risk_coverage(scores, hits).mean()


def auroc(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the probability that a positive image has the higher score; equal scores count one half.

    Args:
        positive: Scores of the images that should score high, such as in-distribution images, shape ``(P,)``.
        negative: Scores of the others, shape ``(N,)``.

    Returns:
        Scalar in [0, 1]; NaN if a score is NaN or a group is empty.

    Example:
        >>> auroc(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0])).item()
        0.625
    """
    scores, count = _joined(positive, negative)
    if scores is None:
        return positive.new_tensor(math.nan, dtype=precise(positive))
    ordered = scores[count:].sort().values
    below, up_to = (torch.searchsorted(ordered, scores[:count], right=right) for right in (False, True))
    return (below + up_to).to(scores.dtype).mean() / (2 * len(ordered))


def false_positive_rate(positive: Tensor, negative: Tensor, recall: float = 0.95) -> Tensor:
    """Return the share of negative images above the highest threshold that keeps ``recall`` of the positive ones.

    With the default this is FPR95. A threshold accepts images whose score is equal to it.

    Args:
        positive: Scores of in-distribution images, shape ``(P,)``.
        negative: Scores of out-of-distribution images, shape ``(N,)``.
        recall: Share of positive images to accept.

    Returns:
        Scalar in [0, 1]; NaN if a score is NaN or a group is empty.

    Example:
        >>> false_positive_rate(torch.tensor([3.0, 2.0]), torch.tensor([2.0, 1.0])).item()
        0.5
    """
    scores, count = _joined(positive, negative)
    if scores is None:
        return positive.new_tensor(math.nan, dtype=precise(positive))
    needed = max(math.ceil(round(recall * count, 6)), 1)
    threshold = scores[:count].sort(descending=True).values[needed - 1]
    return (scores[count:] >= threshold).to(scores.dtype).mean()


def _joined(positive: Tensor, negative: Tensor) -> tuple[Tensor | None, int]:
    """Return all scores with the positive ones first and the number of positive ones; None if nothing can be ranked."""
    scores = torch.cat([positive, negative]).to(precise(positive))
    undefined = not len(positive) or not len(negative) or bool(scores.isnan().any())
    return (None if undefined else scores), len(positive)


def _same_length(scores: Tensor, hits: Tensor) -> None:
    if scores.ndim != 1 or hits.shape != scores.shape or not len(scores):
        raise ValueError(
            f"scores and hits must have the same shape (B,), B > 0, got {tuple(scores.shape)} and {tuple(hits.shape)}"
        )
