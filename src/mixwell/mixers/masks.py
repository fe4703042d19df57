"""Predicted masks: the losses that train them, and how they are changed before images are mixed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import field
from typing import Annotated, Literal

import torch
from torch import Tensor

from mixwell.typecheck import Fraction, NonNegativeFloat, Within
from mixwell.value import Value


class MaskLoss(Value, ABC):
    """A loss of predicted masks, besides the classification loss."""

    @abstractmethod
    def __call__(self, share: Tensor, lam: Tensor) -> Tensor:
        """Return the loss of a batch of masks.

        Args:
            share: The anchor's share, shape ``(B, 1, H, W)``, float32.
            lam: Drawn ratio, the target of the mean, shape ``(B,)`` or ``(1,)``.

        Returns:
            A scalar.
        """


class Scoped(MaskLoss):
    """A loss of each mask, or of all masks of the batch as if they were one.

    Args:
        scope: ``"sample"``, or ``"batch"`` as published, where an empty mask and a full one cancel each other.

    Raises:
        ValueError: The scope is unknown, or another setting is out of range.
    """

    scope: Literal["sample", "batch"] = "sample"

    def scoped(self, share: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks as rows of pixels, one row per mask or one row in total, and the target mean of each row."""
        if self.scope == "sample":
            return share.flatten(1), lam
        return share.reshape(1, -1), lam.mean(0, keepdim=True)


class AreaHinge(Scoped):
    """A hinge loss on the distance of a mask's mean to the mixing ratio.

    Args:
        scope: See :class:`Scoped`.
        margin: Distance without loss, in [0, 1].
        power: 1 for ``|mean - lam| - margin``, 2 for ``(mean - lam) ** 2 - margin ** 2``; negative values count as 0.

    Raises:
        ValueError: A setting is unknown or out of range.

    Note: the publication averages the masks of a batch first, as ``scope="batch"`` does.

    Source: Liu et al., *AutoMix: Unveiling the Power of Mixup for Stronger Classifiers*, ECCV 2022 (arXiv:2103.13027).

    Example:
        >>> extremes = torch.stack((torch.zeros(1, 2, 2), torch.ones(1, 2, 2)))
        >>> AreaHinge()(extremes, torch.tensor([0.5])), AreaHinge(scope="batch")(extremes, torch.tensor([0.5]))
        (tensor(0.4000), tensor(0.))
    """

    margin: Fraction = 0.1
    power: Literal[1, 2] = 1

    def __call__(self, share: Tensor, lam: Tensor) -> Tensor:
        rows, target = self.scoped(share, lam)
        off = (rows.mean(1) - target).abs()
        return (off**self.power - self.margin**self.power).clamp_min(0).mean()


class VarianceBonus(Scoped):
    """A reward for the variance of the pixels inside a mask.

    Args:
        scope: See :class:`Scoped`.
        weight: Factor on the variance, not negative.
        target: Variance above which the loss is 0; ``None`` means no bound, as published.

    Raises:
        ValueError: A setting is unknown or out of range.

    Source: Li et al., *Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup*, 2021
    (arXiv:2111.15454).

    Example:
        >>> halves = torch.tensor([[[[0.0, 1.0]]]])
        >>> VarianceBonus(target=None)(halves, torch.tensor([0.5])), VarianceBonus()(halves, torch.tensor([0.5]))
        (tensor(-0.5000), tensor(0.))
    """

    weight: NonNegativeFloat = 2.0
    target: Annotated[float, Within(0, 0.25, above=True)] | None = 0.1  # 0.25 is the largest variance there is

    def __call__(self, share: Tensor, lam: Tensor) -> Tensor:
        variance = self.scoped(share, lam)[0].var(1, correction=0)
        missing = -variance if self.target is None else (self.target - variance).clamp_min(0)
        return self.weight * missing.mean()


class Sparsity(Scoped):
    """A loss on pixels that are shared between both images, above a margin.

    Args:
        scope: See :class:`Scoped`.
        margin: Mean of ``share * (1 - share)`` without loss, not negative.

    Raises:
        ValueError: A setting is unknown or out of range.

    Source: See :class:`AreaHinge`.

    Example:
        >>> Sparsity()(torch.full((1, 1, 2, 2), 0.5), torch.tensor([0.5]))
        tensor(0.1500)
    """

    margin: NonNegativeFloat = 0.1

    def __call__(self, share: Tensor, lam: Tensor) -> Tensor:
        rows, _ = self.scoped(share, lam)
        return ((rows * (1 - rows)).mean(1) - self.margin).clamp_min(0).mean()


class SumOf(MaskLoss):
    """The sum of several losses.

    Args:
        terms: The losses.

    Example:
        >>> SumOf((AreaHinge(), VarianceBonus()))(torch.full((1, 1, 2, 2), 0.5), torch.tensor([0.5]))
        tensor(0.2000)
    """

    terms: tuple[MaskLoss, ...] = field(default=(), kw_only=False)

    def __call__(self, share: Tensor, lam: Tensor) -> Tensor:
        total = share.new_zeros(())
        for term in self.terms:
            total = total + term(share, lam)
        return total


def even_near_pure(shares: Tensor, lam: Tensor, margin: float) -> Tensor:
    """Replace the masks of samples with a ratio near 0 or 1 by that ratio for all pixels, which is MixUp.

    Args:
        shares: Predicted shares, shape ``(B, K, H, W)``.
        lam: Drawn ratios, shape ``(B, K)``.
        margin: Largest distance to 0 or 1 that counts as near, in [0, 1/2].

    Example:
        >>> shares, lam = torch.tensor([[[[0.2]], [[0.8]]]] * 2), torch.tensor([[0.05, 0.95], [0.4, 0.6]])
        >>> even_near_pure(shares, lam, margin=0.08)[:, :, 0, 0]
        tensor([[0.0500, 0.9500],
                [0.2000, 0.8000]])
    """
    pure = ((lam <= margin) | (lam >= 1 - margin)).any(1)
    return torch.where(pure[:, None, None, None], lam.to(shares.dtype)[:, :, None, None], shares)


def adjusted(share: Tensor, lam: Tensor) -> Tensor:
    """Scale the anchor's share, or the partner's where the anchor's is too small, so that its mean equals the ratio.

    Args:
        share: The anchor's share, shape ``(B, 1, H, W)``.
        lam: Drawn ratio, shape ``(B,)``.

    Returns:
        The same shape; every value stays in [0, 1].

    Example:
        >>> adjusted(torch.tensor([[[[0.2, 0.6]]]]), torch.tensor([0.2])).flatten()
        tensor([0.1000, 0.3000])
    """
    target = lam[:, None, None, None]
    mean = share.clamp(1e-8, 1 - 1e-8).mean((1, 2, 3), keepdim=True).clamp(1e-6, 1 - 1e-6)
    less, more = share * (target / mean), 1 - (1 - share) * ((1 - target) / (1 - mean))
    return torch.where(mean > target, less, more).clamp(0, 1)
