"""How much: laws of the mixing ratio ``lam``, the anchor's share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import field

import torch
from torch import Tensor

from mixwell.value import Value


class Ratio(Value, ABC):
    """A law of the mixing ratio, drawn with an explicit generator."""

    @abstractmethod
    def __call__(self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` ratios.

        Args:
            n: How many.
            device: Where to draw; the generator must live there.
            generator: Source of randomness; ``None`` takes torch's default for the device.

        Returns:
            Ratios in [0, 1], shape ``(n,)``, float32.
        """


class Beta(Ratio):
    """``lam ~ Beta(alpha, beta)``, the law of nearly every mixing paper.

    Args:
        alpha: First parameter, positive. Small values draw ratios near 0 and 1, large ones near the mean.
        beta: Second parameter, positive; ``None`` repeats ``alpha``. FMix's reformulated law is ``Beta(alpha + 1,
            beta=alpha)``.

    Raises:
        ValueError: A parameter is no positive number.

    Source: Zhang et al., *mixup: Beyond Empirical Risk Minimization*, ICLR 2018 (arXiv:1710.09412).

    Example:
        >>> Beta(0.2)(3, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3])
    """

    alpha: float = field(default=1.0, kw_only=False)
    beta: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.alpha if self.beta is None else self.beta)):
            if not 0 < value < math.inf:
                raise ValueError(
                    f"{name} of a Beta law must be a positive finite number, but got {value}; to switch mixing off, "
                    "leave the policy out."
                )

    def __call__(self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
        beta = self.alpha if self.beta is None else self.beta
        if self.alpha == beta == 1.0:  # uniform: one draw instead of two
            return torch.rand(n, device=device, generator=generator)
        # torch.distributions takes no generator; a two-way Dirichlet draw, which does, is a Beta draw. In float64,
        # because for alpha below 0.1 both gammas underflow in float32.
        parameters = torch.full((n, 2), float(self.alpha), dtype=torch.float64, device=device)
        if beta != self.alpha:
            parameters[:, 1] = float(beta)
        return torch._sample_dirichlet(parameters, generator)[:, 0].float()


class Uniform(Ratio):
    """``lam`` uniform between two bounds.

    Args:
        low: Smallest ratio, in [0, 1].
        high: Largest ratio, in [low, 1].

    Raises:
        ValueError: The bounds are out of order or outside [0, 1].

    Example:
        >>> bool((Uniform(0.1, 0.8)(100) >= 0.1).all())
        True
    """

    low: float = field(default=0.0, kw_only=False)
    high: float = field(default=1.0, kw_only=False)

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"Uniform needs 0 <= low <= high <= 1, but got low={self.low} and high={self.high}.")

    def __call__(self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(n, device=device, generator=generator).mul_(self.high - self.low).add_(self.low)


class Constant(Ratio):
    """Always the same ratio.

    Args:
        value: The ratio, in [0, 1].

    Raises:
        ValueError: The value is outside [0, 1].

    Example:
        >>> Constant(0.25)(2)
        tensor([0.2500, 0.2500])
    """

    value: float = field(default=0.5, kw_only=False)

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"Constant needs a ratio in [0, 1], but got {self.value}.")

    def __call__(self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
        return torch.full((n,), float(self.value), device=device)


class Folded(Ratio):
    """The larger of ``lam`` and ``1 - lam``, so that the anchor always dominates.

    Args:
        ratio: The law to fold.

    Source: Berthelot et al., *MixMatch*, NeurIPS 2019 (arXiv:1905.02249).

    Example:
        >>> bool((Folded(Beta(1.0))(100) >= 0.5).all())
        True
    """

    ratio: Ratio = field(default=Beta(), kw_only=False)

    def __call__(self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
        lam = self.ratio(n, device, generator)
        return torch.maximum(lam, 1 - lam)


def as_ratio(alpha: float | Ratio) -> Ratio:
    """Read a number as ``Beta(alpha)`` and leave a law as it is."""
    return alpha if isinstance(alpha, Ratio) else Beta(alpha)
