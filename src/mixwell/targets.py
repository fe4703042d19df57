"""Dense targets from the labels of a mixed batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import field

import torch
from torch import Tensor

from mixwell.batch import MixedBatch
from mixwell.typecheck import BelowOne, PositiveFloat
from mixwell.value import Value


class Targets(Value, ABC):
    """Builds dense targets ``(B, N)`` for losses over all classes."""

    @abstractmethod
    def __call__(self, mixed: MixedBatch, num_classes: int, smoothing: float = 0.0) -> Tensor:
        """Return targets, shape ``(B, N)``, float32."""


class SoftTargets(Targets):
    """The label weight of every class: :meth:`MixedBatch.targets`.

    Example:
        >>> from mixwell import NoMix
        >>> SoftTargets()(NoMix()(torch.rand(1, 3, 4, 4), torch.tensor([1])), 3)
        tensor([[0., 1., 0.]])
    """

    def __call__(self, mixed: MixedBatch, num_classes: int, smoothing: float = 0.0) -> Tensor:
        return mixed.targets(num_classes, smoothing)


class ThresholdTargets(Targets):
    """Target 1 for classes whose label weight exceeds a threshold.

    Args:
        threshold: In [0, 1).

    Raises:
        ValueError: The threshold is out of range.

    Example:
        >>> from mixwell import NoMix
        >>> ThresholdTargets(0.2)(NoMix()(torch.rand(1, 3, 4, 4), torch.tensor([1])), 3)
        tensor([[0., 1., 0.]])
    """

    threshold: BelowOne = field(default=0.2, kw_only=False)

    def __call__(self, mixed: MixedBatch, num_classes: int, smoothing: float = 0.0) -> Tensor:
        return (mixed.targets(num_classes, smoothing) > self.threshold).float()


class Rescale(Value, ABC):
    """Raises small weights, so that classes with a small area count more."""

    @abstractmethod
    def __call__(self, weights: Tensor) -> Tensor:
        """Return new weights of the same shape."""


class PowerRescale(Rescale):
    """``(w / threshold) ** exponent`` below the threshold, and 1 above it.

    Args:
        threshold: Weight from which on a class counts fully.
        exponent: Below 1 raises small weights; its sign is ignored, as published.

    Raises:
        ValueError: The threshold is not positive.

    Source: Liu et al., *Harnessing Hard Mixed Samples with Decoupled Regularizer*, NeurIPS 2023 (arXiv:2203.10761).

    Example:
        >>> PowerRescale(threshold=0.8, exponent=0.5)(torch.tensor([0.2, 0.9]))
        tensor([0.5000, 1.0000])
    """

    threshold: PositiveFloat = 1.0
    exponent: float = 1.0

    def __call__(self, weights: Tensor) -> Tensor:
        return torch.where(weights >= self.threshold, 1.0, (weights / self.threshold) ** abs(self.exponent))


class ExponentialRescale(Rescale):
    """An exponential ramp from 0 at weight 0 to 1 at the threshold, and 1 above it.

    Args:
        threshold: Weight from which on a class counts fully.
        base: Steepness; 0 and 1 are undefined. Its sign is ignored, as published.

    Raises:
        ValueError: The base is 0 or 1, or the threshold is not positive.

    Source: Liu et al., *Harnessing Hard Mixed Samples with Decoupled Regularizer*, NeurIPS 2023 (arXiv:2203.10761).

    Example:
        >>> ExponentialRescale(threshold=0.5, base=2.0)(torch.tensor([0.0, 0.6]))
        tensor([0., 1.])
    """

    threshold: PositiveFloat = 1.0
    base: float = 2.0

    def __post_init__(self) -> None:
        if abs(self.base) in (0.0, 1.0):
            raise ValueError(f"base must be neither 0 nor 1, but got {self.base}.")

    def __call__(self, weights: Tensor) -> Tensor:
        base = abs(self.base)
        start = base ** (-2 * self.threshold)
        return torch.where(
            weights >= self.threshold, 1.0, (base ** (2 * weights - 2 * self.threshold) - start) / (1 - start)
        )


class TwoHotTargets(Targets):
    """Target 1 for the class of every source, whatever its weight.

    Args:
        scale: Factor on the targets.
        rescale: Use the weights, raised by a :class:`Rescale`, instead of 1.
        clamp: Clamp targets to at most 1.

    Raises:
        ValueError: The scale is not positive.

    Note:
        Published code gives a class that both sources share a target of 2, unless ``scale`` is below 1; here targets
        are clamped to 1. ``clamp=False`` is the published form.

    Source: Beyer et al., *Are we done with ImageNet?*, 2020 (arXiv:2006.07159), and OpenMixup for the options.

    Example:
        >>> from mixwell import Constant, MixUp, Roll
        >>> mixed = MixUp(alpha=Constant(0.9), pairing=Roll())(torch.rand(2, 3, 4, 4), torch.tensor([0, 2]))
        >>> TwoHotTargets()(mixed, 3)
        tensor([[1., 0., 1.],
                [1., 0., 1.]])
    """

    scale: PositiveFloat = 1.0
    rescale: Rescale | None = None
    clamp: bool = True

    def __call__(self, mixed: MixedBatch, num_classes: int, smoothing: float = 0.0) -> Tensor:
        weights = torch.ones_like(mixed.weights) if self.rescale is None else self.rescale(mixed.weights)
        targets = mixed.with_weights(weights).targets(num_classes, smoothing) * self.scale
        return targets.clamp_max(1.0) if self.clamp or self.scale < 1 else targets


def classy_vision_smoothing(smoothing: float) -> float:
    """Return the smoothing that equals ClassyVision's ``(t + s / N) / (1 + s)``.

    Example:
        >>> round(classy_vision_smoothing(0.1), 4)
        0.0909
    """
    return smoothing / (1 + smoothing)
