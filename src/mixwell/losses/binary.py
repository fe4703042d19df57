"""Binary cross entropy of mixed batches, for single-label and multi-label data."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import MixedBatch
from mixwell.losses.softmax import Loss, check_logits, check_smoothing, reduced
from mixwell.targets import SoftTargets, Targets
from mixwell.typecheck import BelowOne, NonNegativeFloat


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

    smoothing: BelowOne = 0.0
    targets: Targets = SoftTargets()
    classes: Literal["mean", "sum"] = "mean"
    negative_weight: NonNegativeFloat = 1.0

    def __call__(self, logits: Tensor, mixed: MixedBatch) -> Tensor:
        return binary_cross_entropy(
            logits,
            mixed,
            self.smoothing,
            targets=self.targets,
            classes=self.classes,
            negative_weight=self.negative_weight,
        )


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
        ValueError: Logits do not fit the batch, a label is out of range (checked on the CPU only), or a setting is
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
    each = each.mean(1) if classes == "mean" else each.sum(1)
    return reduced(-each[:, None], reduction)


def target_weights(target: Tensor, negative_weight: float) -> Tensor:
    """Return 1 where a target is positive and ``negative_weight`` elsewhere, shape ``(B, N)``.

    Example:
        >>> target_weights(torch.tensor([[0.3, 0.0]]), 0.5)
        tensor([[1.0000, 0.5000]])
    """
    return torch.where(target > 0, 1.0, negative_weight)
