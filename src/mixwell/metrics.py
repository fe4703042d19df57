"""Measures of a classifier: accuracy on clean and on mixed images, calibration, likelihood, average precision."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import MixedBatch, hits
from mixwell.plan import Plan


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Return the share of samples whose class is among the ``k`` highest logits, in percent.

    Args:
        logits: Shape ``(B, N)``; with fewer than ``k`` classes all are taken.
        labels: Class indices, shape ``(B,)``.
        k: Number of highest classes.

    Returns:
        Scalar in [0, 100].

    Example:
        >>> top_k_accuracy(torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]), torch.tensor([1, 2]))
        tensor(50.)
    """
    return 100 * top_k_hits(logits, labels, k).float().mean()


def top_k_hits(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Return for each image whether its label is among the ``k`` highest classes, bool, shape ``(B,)``.

    Counts of several batches may be added; :func:`top_k_accuracy` is the mean of one batch. Of equal logits the one of
    the first class counts as the higher one, as in ``argmax``. An image with a NaN logit is never a hit.
    """
    _check(logits, labels)
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(1)
    return (rank < k) & ~logits.isnan().any(1)


def mixed_accuracy(logits: Tensor, mixed: MixedBatch) -> Tensor:
    """Return the mean label weight of the predicted class, in percent.

    It is the mean over images of the summed weights of those sources whose label is the class of the highest logit.

    Args:
        logits: Shape ``(B, N)``.
        mixed: The mixed batch, or any object with its ``labels`` and ``weights``.

    Returns:
        Scalar; in [0, 100] where weights sum to one.

    Example:
        >>> from types import SimpleNamespace
        >>> mixed = SimpleNamespace(labels=torch.tensor([[0, 1]]), weights=torch.tensor([[0.75, 0.25]]))
        >>> mixed_accuracy(torch.tensor([[0.0, 9.0, 1.0]]), mixed)
        tensor(25.)
    """
    on = hits(logits.argmax(1, keepdim=True), mixed.labels)[..., 0]
    return 100 * (mixed.weights * on).sum(1).mean()


def ranked_accuracy(logits: Tensor, mixed: MixedBatch, order: Literal["sample", "batch", "given"] = "sample") -> Tensor:
    """Return the mean weight of the labels that have the right rank, in percent.

    The label of the largest weight must be the highest class, that of the second largest exactly the second highest
    class, and so on. Of equal weights the later source counts as the larger one. Sources with equal labels can score
    once only, because a class has one rank.

    Args:
        logits: Shape ``(B, N)``.
        mixed: The mixed batch, or any object with its ``labels`` and ``weights``.
        order: ``"sample"`` ranks and weights the sources of every image by its own weights. ``"batch"`` uses the mean
            weights of the batch for all, as OpenMixup does; the same where all images share one ratio. ``"given"``
            takes the mean weights and the sources in their order, with the last one at any rank from its own down to
            the third, as OpenMixup does for Co-Mixup.

    Returns:
        Scalar; in [0, 100] where weights sum to one.

    Example:
        >>> from types import SimpleNamespace
        >>> mixed = SimpleNamespace(labels=torch.tensor([[0, 1]]), weights=torch.tensor([[0.75, 0.25]]))
        >>> ranked_accuracy(torch.tensor([[9.0, 0.0, 1.0]]), mixed)
        tensor(75.)
    """
    count = mixed.weights.shape[1]
    depth = max(count, 3) if order == "given" else count
    on = hits(logits.topk(min(depth, logits.shape[1]), dim=1).indices, mixed.labels)  # (B, K, ranks)
    weights = mixed.weights if order == "sample" else mixed.weights.mean(0, keepdim=True).expand_as(mixed.weights)
    rank = torch.arange(count, device=on.device).expand(weights.shape)
    if order != "given":
        # A stable sort of the reversed row puts the later of two equal weights first.
        rank = weights.flip(1).argsort(dim=1, descending=True, stable=True).argsort(1).flip(1)
    right = rank[..., None] == torch.arange(on.shape[2], device=on.device)
    if order == "given":
        right[:, -1, count:3] = True
    return 100 * (weights * (on * right).sum(2)).sum(1).mean()


def expected_calibration_error(
    logits: Tensor, labels: Tensor, bins: int = 10, *, probabilities: bool = False
) -> Tensor:
    """Return the mean difference between confidence and accuracy over equally wide bins of confidence.

    A bin holds confidences in ``(a, b]``; the first one also holds 0. Every bin is weighted by its own count.

    Args:
        logits: Logits, or with ``probabilities=True`` probabilities, shape ``(B, N)``.
        labels: Class indices, shape ``(B,)``.
        bins: Number of bins of [0, 1].
        probabilities: Whether ``logits`` are already probabilities.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: Shapes do not match.

    Source: Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017.

    Example:
        >>> sure = torch.tensor([[0.8, 0.2], [0.8, 0.2]])
        >>> expected_calibration_error(sure, torch.tensor([0, 1]), probabilities=True)
        tensor(0.3000)
    """
    return calibration_sums(logits, labels, bins, probabilities=probabilities).abs().sum() / len(labels)


def calibration_sums(logits: Tensor, labels: Tensor, bins: int = 10, *, probabilities: bool = False) -> Tensor:
    """Return for each bin of confidence the number of hits minus the summed confidence, shape ``(bins,)``.

    Sums of several batches may be added. The sum of their absolute values, divided by the number of images, is the
    expected calibration error: the count of a bin times ``|accuracy - confidence|`` is the absolute value of its sum.

    Args:
        logits: See :func:`expected_calibration_error`.
        labels: Class indices, shape ``(B,)``.
        bins: Number of bins that divide [0, 1].
        probabilities: Whether ``logits`` are probabilities already.

    Returns:
        float64 for logits in float64, else float32.
    """
    _check(logits, labels)
    scores = logits if logits.dtype == torch.float64 else logits.float()
    confidence, predicted = (scores if probabilities else scores.softmax(1)).max(1)
    edges = torch.arange(1, bins, device=scores.device, dtype=scores.dtype) / bins
    difference = (predicted == labels).to(scores.dtype) - confidence
    return scores.new_zeros(bins).index_add_(0, torch.bucketize(confidence, edges), difference)


def mean_average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over classes of the average precision (mAP), in percent, for several labels per image.

    The average precision of a class is the sum over distinct scores of the precision at that score times the gain in
    recall, without interpolation. Classes without an image are left out of the mean.

    Args:
        scores: Logits or probabilities, shape ``(B, N)``.
        labels: 1 for each class on the image, else 0, shape ``(B, N)``.

    Returns:
        Scalar in [0, 100], float64 where the device has it; NaN if no image has a label or a score is NaN.

    Raises:
        ValueError: The shapes do not match.

    Example:
        >>> scores = torch.tensor([[0.9, 0.2], [0.8, 0.7], [0.1, 0.6]])
        >>> mean_average_precision(scores, torch.tensor([[1, 0], [0, 1], [1, 0]])).item()
        91.66...
    """
    if scores.ndim != 2 or labels.shape != scores.shape:
        raise ValueError(
            f"scores and labels must have the same shape (B, N), got {tuple(scores.shape)} and {tuple(labels.shape)}"
        )
    dtype = precise(scores)
    ranked, positive = scores.T.to(dtype).contiguous(), labels.T > 0.5
    total = positive.sum(1, keepdim=True)
    # How many images score as high as each image or higher, and how many of them have the label; equal scores are one
    # threshold.
    above, found = (
        len(scores) - torch.searchsorted(part.sort(1).values, ranked)
        for part in (ranked, ranked.masked_fill(~positive, -math.inf))
    )
    precision = (found.minimum(total).to(dtype) / above).masked_fill(ranked.isnan(), math.nan)
    return 100 * ((precision * positive).sum(1) / total[:, 0])[total[:, 0] > 0].mean()


def precise(tensor: Tensor) -> torch.dtype:
    """Return the most precise floating-point type of a tensor's device, float64 except on MPS."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean negative log likelihood of the labels, in nats.

    Args:
        logits: Shape ``(B, N)``; log probabilities are accepted too.
        labels: Class indices, shape ``(B,)``.

    Example:
        >>> negative_log_likelihood(torch.zeros(3, 10), torch.arange(3))
        tensor(2.3026)
    """
    _check(logits, labels)
    return F.cross_entropy(logits.float(), labels)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must have shape (B, N) and labels (B,), got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )


def visible_objects(plan: Plan, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much of the anchor's and of the partner's object is visible in mixed images.

    Args:
        plan: A plan of two sources.
        masks: The object in every unmixed image, shape ``(B, H, W)``, bool or floating point in [0, 1]; see
            :func:`mixwell.labels.objects.object_masks` for boxes.

    Returns:
        Two tensors ``(B,)``, float32: the anchor's share of the visible object pixels, and the same with the pixels of
        each object divided by its size. NaN where no object is visible, or where an image is mixed with itself.

    Raises:
        ValueError: The plan does not have two sources.

    Example:
        >>> from mixwell import Constant, MixUp, Roll
        >>> plan = MixUp(alpha=Constant(0.75), pairing=Roll()).draw(torch.rand(2, 3, 4, 4), torch.arange(2))
        >>> visible_objects(plan, torch.ones(2, 4, 4))
        (tensor([0.7500, 0.7500]), tensor([0.7500, 0.7500]))
    """
    if len(plan.partners) != 1:
        raise ValueError(f"Label errors are measured for two sources, but the plan has {1 + len(plan.partners)}.")
    masks = masks.float()
    seen, size = plan.visible(masks), masks.sum((1, 2))[plan.sources]
    counted = (seen.sum(1) > 1e-3) & (plan.sources[:, 0] != plan.sources[:, 1])
    area, fraction = (part[:, 0] / part.sum(1) for part in (seen, seen / size.clamp_min(1e-9)))
    return area.masked_fill(~counted, math.nan), fraction.masked_fill(~counted, math.nan)


def label_error(weights: Tensor, visible: Tensor, large: float = 0.3) -> dict[str, Tensor]:
    """Return how far label weights are from the visible share of what the labels name.

    Args:
        weights: Weight of the anchor's label, shape ``(B,)``.
        visible: Visible share of the anchor's object, shape ``(B,)``, see :func:`visible_objects`; images with NaN are
            left out.
        large: Difference from which a label counts as badly wrong.

    Returns:
        ``error``, the mean absolute difference; ``correlation``, Pearson's, NaN if either is constant; ``large``, the
        share of labels whose difference exceeds ``large``; ``images``, the number of images that count.

    Raises:
        ValueError: The shapes differ, or no image counts.

    Example:
        >>> label_error(torch.tensor([0.5, 0.9]), torch.tensor([0.1, 0.9]))["error"]
        tensor(0.2000)
    """
    if weights.shape != visible.shape or weights.dim() != 1:
        raise ValueError(
            f"weights and visible must both have shape (B,), but got {tuple(weights.shape)} and {tuple(visible.shape)}."
        )
    counted = visible.isfinite()
    if not bool(counted.any()):
        raise ValueError("There is no image whose label can be checked: in none is an object visible.")
    weights, visible = weights[counted].double(), visible[counted].double()
    difference = (weights - visible).abs()
    return {
        "error": difference.mean().float(),
        "correlation": torch.corrcoef(torch.stack((weights, visible)))[0, 1].float(),
        "large": (difference > large).float().mean(),
        "images": counted.sum(),
    }
