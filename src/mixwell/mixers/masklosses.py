"""What a mix block pays for its masks, besides the classification loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import field

import torch
from torch import Tensor

from mixwell.value import Value, set_field


class MaskLoss(Value, ABC):
    """A cost of masks."""

    @abstractmethod
    def __call__(self, share: Tensor, lam: Tensor) -> Tensor:
        """Rate masks.

        Args:
            share: The anchor's share, shape ``(B, 1, H, W)``, float32.
            lam: The wanted mean, shape ``(B,)`` or ``(1,)``.

        Returns:
            A scalar.
        """


class Scoped(MaskLoss):
    """A cost of every mask by itself, or of the whole batch as if it were one mask.

    Args:
        scope: ``"sample"``, or ``"batch"`` as published, where a mask of nothing beside a mask of everything costs
            nothing.

    Raises:
        ValueError: The scope is unknown, or another setting is out of range.
    """

    scope: str = "sample"

    def __post_init__(self) -> None:
        if self.scope not in ("sample", "batch"):
            raise ValueError(f"scope must be sample or batch, but got {self.scope!r}.")

    def rows(self, share: Tensor) -> Tensor:
        """View masks as rows of pixels, one for each mask that counts."""
        return share.flatten(1) if self.scope == "sample" else share.reshape(1, -1)

    def wanted(self, lam: Tensor) -> Tensor:
        """Return the wanted mean of each row."""
        return lam if self.scope == "sample" else lam.mean(0, keepdim=True)


class AreaHinge(Scoped):
    """Charge masks whose mean is further than a margin from the wanted ratio.

    Args:
        scope: See :class:`Scoped`.
        margin: Distance that costs nothing, in [0, 1].
        power: 1 charges ``|mean - lam| - margin``, 2 charges ``(mean - lam) ** 2 - margin ** 2``.

    Raises:
        ValueError: A setting is unknown or out of range.

    Note: the publication averages over the batch; ``scope="batch"`` does so.

    Source: Liu et al., *AutoMix: Unveiling the Power of Mixup for Stronger Classifiers*, ECCV 2022 (arXiv:2103.13027).

    Example:
        >>> extremes = torch.stack((torch.zeros(1, 2, 2), torch.ones(1, 2, 2)))
        >>> AreaHinge()(extremes, torch.tensor([0.5])), AreaHinge(scope="batch")(extremes, torch.tensor([0.5]))
        (tensor(0.4000), tensor(0.))
    """

    margin: float = 0.1
    power: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.margin <= 1 or self.power not in (1, 2):
            raise ValueError(f"margin must lie in [0, 1] and power be 1 or 2, but got {self.margin} and {self.power}.")

    def __call__(self, share: Tensor, lam: Tensor) -> Tensor:
        off = (self.rows(share).mean(1) - self.wanted(lam)).abs()
        return (off**self.power - self.margin**self.power).clamp_min(0).mean()


class VarianceBonus(Scoped):
    """Reward masks whose pixels differ.

    Args:
        scope: See :class:`Scoped`.
        weight: Reward for each unit of variance, not negative.
        target: Variance from which more is not rewarded; ``None`` rewards without end, as published.

    Raises:
        ValueError: A setting is unknown or out of range.

    Source: Li et al., *Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup*, 2021
    (arXiv:2111.15454).

    Example:
        >>> halves = torch.tensor([[[[0.0, 1.0]]]])
        >>> VarianceBonus(target=None)(halves, torch.tensor([0.5])), VarianceBonus()(halves, torch.tensor([0.5]))
        (tensor(-0.5000), tensor(0.))
    """

    weight: float = 2.0
    target: float | None = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight < 0 or (self.target is not None and not 0 < self.target <= 0.25):
            raise ValueError(
                "weight must not be negative and target lie in (0, 0.25], the largest variance there is, but got "
                f"{self.weight} and {self.target}."
            )

    def __call__(self, share: Tensor, lam: Tensor) -> Tensor:
        variance = self.rows(share).var(1, correction=0)
        missing = -variance if self.target is None else (self.target - variance).clamp_min(0)
        return self.weight * missing.mean()


class Sparsity(Scoped):
    """Charge pixels that are neither one image's nor the other's, beyond a margin.

    Args:
        scope: See :class:`Scoped`.
        margin: Mean of ``share * (1 - share)`` that costs nothing.

    Raises:
        ValueError: A setting is unknown or out of range.

    Source: See :class:`AreaHinge`.

    Example:
        >>> Sparsity()(torch.full((1, 1, 2, 2), 0.5), torch.tensor([0.5]))
        tensor(0.1500)
    """

    margin: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin < 0:
            raise ValueError(f"margin must not be negative, but got {self.margin}.")

    def __call__(self, share: Tensor, lam: Tensor) -> Tensor:
        rows = self.rows(share)
        return ((rows * (1 - rows)).mean(1) - self.margin).clamp_min(0).mean()


class SumOf(MaskLoss):
    """Several costs at once.

    Args:
        terms: The costs.

    Example:
        >>> SumOf((AreaHinge(), VarianceBonus()))(torch.full((1, 1, 2, 2), 0.5), torch.tensor([0.5]))
        tensor(0.2000)
    """

    terms: tuple[MaskLoss, ...] = field(default=(), kw_only=False)

    def __post_init__(self) -> None:
        set_field(self, "terms", tuple(self.terms))

    def __call__(self, share: Tensor, lam: Tensor) -> Tensor:
        return torch.stack([term(share, lam) for term in self.terms]).sum() if self.terms else share.new_zeros(())


def published(mode: str, margin: float = 0.1) -> MaskLoss:
    """Return a loss exactly as the released code has it, by the name it has there.

    Args:
        mode: ``"L1"``, ``"L1+Variance"``, ``"L2+Variance"`` or ``"Sparsity"``.
        margin: See the classes.

    Raises:
        ValueError: There is no such mode.

    Example:
        >>> published("L1")
        AreaHinge(scope='batch')
    """
    modes = {
        "L1": (AreaHinge(scope="batch", margin=margin),),
        "L1+Variance": (AreaHinge(scope="batch", margin=margin), VarianceBonus(scope="batch", target=None)),
        "L2+Variance": (AreaHinge(scope="batch", margin=margin, power=2), VarianceBonus(scope="batch", target=None)),
        "Sparsity": (Sparsity(scope="batch", margin=margin),),
    }
    if mode not in modes:
        raise ValueError(f"mode must be one of {', '.join(modes)}, but got {mode!r}.")
    return modes[mode][0] if len(modes[mode]) == 1 else SumOf(modes[mode])
