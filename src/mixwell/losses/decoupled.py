"""Decoupled mixup: the classes of a mixed image do not compete with each other."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import MixedBatch
from mixwell.losses.softmax import Loss, check_logits, cross_entropy
from mixwell.targets import PowerRescale, Rescale
from mixwell.typecheck import BelowOne, Fraction, NonNegativeFloat


class DecoupledCrossEntropy(Loss):
    """Cross entropy of mixed labels, plus a term per source that leaves out the classes of the other sources.

    The term of a source is the softmax cross entropy of its class over all classes but those of the other sources, so
    that both classes of a mixed image can be predicted with confidence. It is computed per sample; samples whose
    sources share one class have the cross entropy alone.

    Args:
        eta: Weight of the terms, not negative.
        keep: ``"both"`` terms, or only that of the source with ``"less"`` or ``"more"`` of the label weight.
        threshold: Anchor weight below which the anchor is the source with less, for the last two.
        rescale: How the label weight scales its term; ``None`` does not scale. ``PowerRescale()`` multiplies by the
            weight itself, as published.
        smoothing: Label smoothing of the cross entropy of mixed labels, in [0, 1).

    Raises:
        ValueError: A setting is out of range; when called, labels are dense, or ``keep`` is not ``"both"`` for more
            than two sources.

    Note:
        The authors' code uses the ratio of the first sample for the whole batch, and exchanges the weights of both
        terms where that sample's anchor has the larger class index. The sigmoid form of the paper is
        ``BinaryCrossEntropy(targets=TwoHotTargets(rescale=PowerRescale(...)), negative_weight=...)``.

    Source: Liu et al., *Harnessing Hard Mixed Samples with Decoupled Regularizer*, NeurIPS 2023 (arXiv:2203.10761).

    Example:
        >>> from mixwell import CutMix
        >>> mixed = CutMix()(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> bool(DecoupledCrossEntropy()(torch.zeros(4, 10), mixed) > cross_entropy(torch.zeros(4, 10), mixed))
        True
    """

    eta: NonNegativeFloat = 0.1
    keep: Literal["both", "less", "more"] = "both"
    threshold: Fraction = 0.5
    rescale: Rescale | None = PowerRescale()
    smoothing: BelowOne = 0.0

    def __call__(self, logits: Tensor, mixed: MixedBatch) -> Tensor:
        check_logits(logits, mixed)
        if mixed.labels.dim() != 2:
            raise ValueError(f"{self} needs class indices, but the labels are dense {tuple(mixed.labels.shape)}.")
        terms = decoupled_terms(logits, mixed.labels)
        return cross_entropy(logits, mixed, self.smoothing) + (self.term_weights(mixed.weights) * terms).sum(1).mean()

    def term_weights(self, weights: Tensor) -> Tensor:
        """Return the weight of the term of every source, shape ``(B, K)``, from the label weights."""
        scaled = torch.ones_like(weights) if self.rescale is None else self.rescale(weights)
        if self.keep != "both":
            if weights.shape[1] != 2:
                raise ValueError(f"{self} needs two sources, but got {weights.shape[1]}: use keep='both'.")
            anchor = (weights[:, 0] < self.threshold) == (self.keep == "less")
            scaled = scaled * torch.stack((anchor, ~anchor), 1)
        return self.eta * scaled


def decoupled_terms(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of every source's class without the classes of the other sources.

    Args:
        logits: Shape ``(B, N)``.
        labels: Class indices ``(B, K)``.

    Returns:
        Shape ``(B, K)``, float32; 0 for sources that share the class of all others.

    Example:
        >>> decoupled_terms(torch.zeros(1, 3), torch.tensor([[0, 1]])).exp().round(decimals=4)
        tensor([[2., 2.]])
    """
    logits = logits.float()
    terms = []
    for k in range(labels.shape[1]):
        own = labels[:, k : k + 1]
        # The own class stays where another source shares it; scattering it last restores it.
        others = torch.zeros_like(logits, dtype=torch.bool).scatter(1, labels, True).scatter(1, own, False)
        term = F.cross_entropy(logits.masked_fill(others, -math.inf), own[:, 0], reduction="none")
        terms.append(torch.where(others.any(1), term, 0.0))
    return torch.stack(terms, 1)
