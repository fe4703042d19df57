"""How well predicted probabilities agree with frequencies: reliability, adaptive ECE, Brier score, temperature.

The expected calibration error with bins of equal width is :func:`mixwell.metrics.expected_calibration_error`.
Logits are computed in float64. Logits with NaN give NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixwell.evaluation.ties import shared_by_ties
from mixwell.metrics import precise

WIDEST = math.log(100.0)  # temperatures are searched between 1/100 and 100


def probabilities(logits: Tensor) -> Tensor:
    """Return the softmax of logits ``(B, N)``, float64 where the device has it."""
    return logits.to(precise(logits)).softmax(1)


def confidence_and_hits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest probability and whether its class is the label, both of shape ``(B,)``, as floats.

    Raises:
        ValueError: The shapes are not ``(B, N)`` and ``(B,)``, or there are no images.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"logits must have shape (B, N) and labels (B,), B > 0, got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    confidence, predicted = probabilities(logits).max(1)
    return confidence, (predicted == labels).to(confidence.dtype)


def reliability(logits: Tensor, labels: Tensor, bins: int = 10) -> dict[str, Tensor]:
    """Return the points of a reliability diagram with bins ``(a, b]`` of equal width; the first bin also holds 0.

    Args:
        logits: Shape ``(B, N)``.
        labels: Class indices, shape ``(B,)``.
        bins: Number of bins of [0, 1].

    Returns:
        ``count``, ``confidence`` (mean) and ``accuracy`` (0 to 1) of each bin, shape ``(bins,)``; the last two are NaN
        in empty bins.

    Source: Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017.

    Example:
        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> [(name, round(part[-1].item(), 3)) for name, part in reliability(logits, torch.tensor([0, 1]), 2).items()]
        [('count', 2.0), ('confidence', 0.9), ('accuracy', 0.5)]
    """
    confidence, hits = confidence_and_hits(logits, labels)
    edges = torch.arange(1, bins, device=logits.device, dtype=confidence.dtype) / bins
    place = torch.bucketize(confidence, edges)
    count, sums, right = (
        confidence.new_zeros(bins).index_add_(0, place, part)
        for part in (torch.ones_like(confidence), confidence, hits)
    )
    return {"count": count, "confidence": sums / count, "accuracy": right / count}


def adaptive_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Return the calibration error over bins that hold equally many images.

    Images are sorted by confidence and cut into ``bins`` groups whose sizes differ by at most one. Images of equal
    confidence share their accuracy, so their order does not matter.

    Args:
        logits: Shape ``(B, N)``.
        labels: Class indices, shape ``(B,)``.
        bins: Number of groups.

    Returns:
        Scalar in [0, 1].

    Source: Nixon et al., *Measuring Calibration in Deep Learning*, CVPR workshops 2019, arXiv 1904.01685, for the
    predicted class only.

    Example:
        >>> sure = torch.tensor([[0.8, 0.2], [0.8, 0.2]]).log()
        >>> adaptive_calibration_error(sure, torch.tensor([0, 1]), 1).item()
        0.30000...
    """
    confidence, hits = confidence_and_hits(logits, labels)
    gap = (shared_by_ties(confidence, hits) - confidence)[confidence.argsort()]
    return torch.stack([part.sum().abs() for part in gap.tensor_split(bins)]).sum() / len(gap)


def brier_score(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over images of the squared distance between probabilities and the one-hot label, 0 to 2.

    Source: Brier, *Verification of Forecasts Expressed in Terms of Probability*, 1950.

    Example:
        >>> brier_score(torch.zeros(1, 2), torch.tensor([0])).item()
        0.5
    """
    right = probabilities(logits)
    right[torch.arange(len(labels), device=labels.device), labels] -= 1
    return right.square().sum(1).mean()


def fit_temperature(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the temperature with the smallest negative log likelihood of ``logits / temperature``.

    The likelihood is concave in the inverse temperature, so bisection of its derivative finds the only maximum. Fit on
    held-out images, never on those that are measured.

    Args:
        logits: Logits of held-out images, shape ``(B, N)``.
        labels: Their class indices, shape ``(B,)``.

    Returns:
        Positive scalar between 0.01 and 100; NaN if a logit is NaN or Inf.

    Source: Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017.

    Example:
        >>> fit_temperature(torch.tensor([[2.0, 0.0]]).repeat(4, 1), torch.tensor([0, 0, 0, 1])).item()
        1.820...
    """
    logits = logits.to(precise(logits))
    right = logits.gather(1, labels[:, None])[:, 0].mean()
    low, high = right.new_tensor(-WIDEST), right.new_tensor(WIDEST)  # log of the inverse temperature
    for _ in range(60):
        middle = (low + high) / 2
        expected = ((logits * middle.exp()).softmax(1) * logits).sum(1).mean()
        low, high = torch.where(expected > right, low, middle), torch.where(expected > right, middle, high)
    return (-(low + high) / 2).exp().where(logits.isfinite().all(), math.nan)
