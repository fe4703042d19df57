"""Losses of mixed batches, as objects with settings and as functions."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import MixedBatch
from mixwell.checks import check_classes
from mixwell.schedule import check_range
from mixwell.targets import SoftTargets, Targets
from mixwell.value import Value


class Loss(Value, ABC):
    """A loss with its settings. Any callable with the same arguments serves as ``loss=`` of a method."""

    @abstractmethod
    def __call__(self, logits: Tensor, mixed: MixedBatch) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Args:
            logits: Shape ``(B, N)``.
            mixed: The mixed batch, with the weights of the label policy.
        """


class CrossEntropy(Loss):
    """Softmax cross entropy of every source's label, weighted per sample; see :func:`cross_entropy`.

    Args:
        smoothing: Label smoothing, in [0, 1).

    Raises:
        ValueError: The smoothing is out of range.

    Example:
        >>> from mixwell import MixUp
        >>> mixed = MixUp()(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> CrossEntropy(smoothing=0.1)(torch.zeros(4, 10), mixed)
        tensor(2.3026)
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.smoothing)

    def __call__(self, logits: Tensor, mixed: MixedBatch) -> Tensor:
        return cross_entropy(logits, mixed, self.smoothing)


class BinaryCrossEntropy(Loss):
    """Binary cross entropy of every class, for single-label and multi-label data; see :func:`binary_cross_entropy`.

    Args:
        smoothing: Label smoothing, in [0, 1).
        targets: How labels become targets.
        classes: ``"mean"`` or ``"sum"`` over the classes.
        negative_weight: Weight of classes whose target is zero before smoothing, not negative.

    Raises:
        ValueError: A setting is out of range.

    Example:
        >>> from mixwell import MixUp
        >>> mixed = MixUp()(torch.rand(4, 3, 8, 8), torch.eye(4))
        >>> BinaryCrossEntropy()(torch.zeros(4, 4), mixed)
        tensor(0.6931)
    """

    smoothing: float = 0.0
    targets: Targets = SoftTargets()
    classes: str = "mean"
    negative_weight: float = 1.0

    def __post_init__(self) -> None:
        check_smoothing(self.smoothing)
        check_range("negative_weight", self.negative_weight)
        if self.classes not in ("mean", "sum"):
            raise ValueError(f"classes must be mean or sum, but got {self.classes!r}.")

    def __call__(self, logits: Tensor, mixed: MixedBatch) -> Tensor:
        return binary_cross_entropy(
            logits,
            mixed,
            self.smoothing,
            targets=self.targets,
            classes=self.classes,
            negative_weight=self.negative_weight,
        )


def cross_entropy(
    logits: Tensor, mixed: MixedBatch, smoothing: float = 0.0, reduction: str = "mean", *, published: bool = False
) -> Tensor:
    """Cross entropy of every source's label, weighted sample by sample.

    ``sum_k w_k CE(logits, y_k)``, the same as the cross entropy of dense soft targets, but without building them.
    Computed in float32.

    Args:
        logits: Shape ``(B, N)``.
        mixed: The mixed batch.
        smoothing: Share of the labels' mass spread evenly over all classes, in [0, 1). Smooth here or in
            ``mixed.targets``, never both.
        reduction: ``"mean"`` or ``"sum"`` over the batch, or ``"none"``.
        published: Replace every sample's weights by the batch's mean, as OpenMixup's heads do: for parity only, as it
            throws the weighting of single samples away.

    Returns:
        A scalar, or the loss of every sample ``(B,)``.

    Raises:
        TypeError: The logits are not a tensor, or there is no mixed batch.
        ValueError: Logits do not fit the batch, a label is out of range (looked at on the CPU only), or a setting is
            wrong.

    Example:
        >>> from mixwell import MixUp
        >>> mixed = MixUp()(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> cross_entropy(torch.zeros(4, 10), mixed)
        tensor(2.3026)
    """
    check_logits(logits, mixed)
    check_smoothing(smoothing)
    log_probabilities = logits.float().log_softmax(1)
    weights = mixed.weights
    if published:
        weights = weights.mean(0, keepdim=True).expand_as(weights)
    if mixed.labels.dim() == 3:
        targets = (weights[..., None] * mixed.labels.float()).sum(1)  # not einsum, which autocast would run in bfloat16
        each = -(targets * log_probabilities).sum(1)
    else:
        each = -(weights * log_probabilities.gather(1, mixed.labels)).sum(1)
    if smoothing:
        each = (1 - smoothing) * each - smoothing * weights.sum(1) * log_probabilities.mean(1)
    return _reduced(each, reduction)


def binary_cross_entropy(
    logits: Tensor,
    mixed: MixedBatch,
    smoothing: float = 0.0,
    reduction: str = "mean",
    *,
    targets: Targets = SoftTargets(),
    classes: str = "mean",
    negative_weight: float = 1.0,
) -> Tensor:
    """Binary cross entropy of every class, against targets made from the mixed labels.

    Args:
        logits: Shape ``(B, N)``.
        mixed: The mixed batch.
        smoothing: Share of the labels' mass spread evenly over all classes, in [0, 1), before the targets are made
            binary.
        reduction: ``"mean"`` or ``"sum"`` over the batch, or ``"none"``.
        targets: How labels become targets: :class:`SoftTargets`, :class:`TwoHotTargets` or :class:`ThresholdTargets`.
        classes: ``"mean"`` over the classes, as timm and torchvision do, or ``"sum"``, as OpenMixup does.
        negative_weight: Factor for classes whose target is zero before smoothing.

    Returns:
        A scalar, or the loss of every sample ``(B,)``.

    Raises:
        TypeError: The logits are not a tensor.
        ValueError: Logits do not fit the batch, a label is out of range (looked at on the CPU only), or a setting is
            wrong.

    Source: Wightman et al., *ResNet strikes back*, 2021 (arXiv:2110.00476), for training on mixed labels this way.

    Example:
        >>> from mixwell import MixUp
        >>> mixed = MixUp()(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> binary_cross_entropy(torch.zeros(4, 10), mixed)
        tensor(0.6931)
    """
    check_logits(logits, mixed)
    check_smoothing(smoothing)
    if classes not in ("mean", "sum"):
        raise ValueError(f"classes must be mean or sum, but got {classes!r}.")
    target = targets(mixed, logits.shape[1], smoothing)
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    if negative_weight != 1:
        each = each * target_weights(targets(mixed, logits.shape[1]), negative_weight)
    return _reduced(each.mean(1) if classes == "mean" else each.sum(1), reduction)


def target_weights(target: Tensor, negative_weight: float) -> Tensor:
    """Return 1 where a target is positive and ``negative_weight`` elsewhere, shape ``(B, N)``.

    Example:
        >>> target_weights(torch.tensor([[0.3, 0.0]]), 0.5)
        tensor([[1.0000, 0.5000]])
    """
    return torch.where(target > 0, 1.0, negative_weight)


def check_logits(logits: Tensor, mixed: MixedBatch) -> None:
    """Raise unless there is a row of logits for every mixed image and a column for every label."""
    if not isinstance(logits, Tensor):
        got = type(logits).__name__
        raise TypeError(f"logits must be a tensor of shape (B, N), but got {got}: wrap a model that returns more.")
    if not hasattr(mixed, "weights"):
        raise TypeError(f"mixed must be what a policy returns for images and labels, but got {type(mixed).__name__}.")
    if logits.dim() != 2 or len(logits) != len(mixed.weights):
        raise ValueError(f"logits must have shape ({len(mixed.weights)}, N), but got {tuple(logits.shape)}.")
    check_classes(mixed.labels, logits.shape[1])


def check_smoothing(smoothing: float) -> None:
    """Raise unless smoothing leaves some of the labels."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must lie in [0, 1), but got {smoothing}.")


def _reduced(each: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be mean, sum or none, but got {reduction!r}.")
    return each if reduction == "none" else getattr(each, reduction)()
