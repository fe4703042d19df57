"""Distributions of the mixing ratio ``lam``, the anchor's share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import field

import torch
from torch import Tensor

from mixwell.typecheck import Fraction
from mixwell.value import Value

SMALLEST, LARGEST = 1e-300, 1e300  # parameters of a Beta distribution; beyond these, draws overflow


class Ratio(Value, ABC):
    """A distribution of the mixing ratio, sampled with an explicit generator."""

    @abstractmethod
    def __call__(self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` ratios.

        Args:
            n: Number of ratios.
            device: Device to draw on; the generator's device.
            generator: Random generator; ``None`` uses torch's default generator of the device.

        Returns:
            Ratios in [0, 1], shape ``(n,)``, float32.
        """


class Beta(Ratio):
    """``lam ~ Beta(alpha, beta)``, the distribution that most mixing papers use.

    Args:
        alpha: First parameter, positive. Small values give ratios near 0 and 1, large ones ratios near the mean.
        beta: Second parameter, positive; ``None`` means the same as ``alpha``. FMix's reformulated distribution is
            ``Beta(alpha + 1, beta=alpha)``.

    Raises:
        ValueError: A parameter is not a number from 1e-300 to 1e300.

    Source: Zhang et al., *mixup: Beyond Empirical Risk Minimization*, ICLR 2018 (arXiv:1710.09412).

    Example:
        >>> Beta(0.2)(3, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3])
    """

    alpha: float = field(default=1.0, kw_only=False)
    beta: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.alpha if self.beta is None else self.beta)):
            if not SMALLEST <= value <= LARGEST:
                raise ValueError(
                    f"{name} of a Beta distribution must be a positive finite number, {SMALLEST} to {LARGEST}, but got "
                    f"{value}: to train without mixing use NoMix()."
                )

    def __call__(self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
        beta = self.alpha if self.beta is None else self.beta
        if self.alpha == beta == 1.0:  # uniform: one draw instead of two
            return torch.rand(n, device=device, generator=generator)
        # A two-way Dirichlet draw is a Beta draw; torch.distributions takes no generator.
        shapes = torch.full((n, 2), float(self.alpha), dtype=torch.float64, device=device)
        if beta != self.alpha:
            shapes[:, 1] = float(beta)
        if min(self.alpha, beta) >= _UNDERFLOW:
            return torch._sample_dirichlet(shapes, generator)[:, 0].float()
        return _in_logarithms(shapes, generator).float()


_UNDERFLOW = 0.1  # below this parameter gamma variates underflow in float64; above it one draw is four times faster


def _in_logarithms(shapes: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from Beta distributions, shape ``(n,)``, with ``Gamma(a)`` as ``Gamma(a + 1) * U ** (1 / a)``."""
    larger = torch._standard_gamma(shapes + 1, generator)
    uniform = torch.rand(shapes.shape, dtype=shapes.dtype, device=shapes.device, generator=generator)
    first, second = (larger.log() + (-uniform).log1p() / shapes).unbind(1)
    return torch.sigmoid(first - second)


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

    low: Fraction = field(default=0.0, kw_only=False)
    high: Fraction = field(default=1.0, kw_only=False)

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"Uniform needs low <= high, but got low={self.low} and high={self.high}.")

    def __call__(self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(n, device=device, generator=generator).mul_(self.high - self.low).add_(self.low)


class Constant(Ratio):
    """The same ratio in every draw.

    Args:
        value: The ratio, in [0, 1].

    Raises:
        ValueError: The value is outside [0, 1].

    Example:
        >>> Constant(0.25)(2)
        tensor([0.2500, 0.2500])
    """

    value: Fraction = field(default=0.5, kw_only=False)

    def __call__(self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
        return torch.full((n,), float(self.value), device=device)


class Folded(Ratio):
    """The larger of ``lam`` and ``1 - lam``, so that the anchor has at least half of the weight.

    Args:
        ratio: The distribution to fold.

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
    """Return ``Beta(alpha)`` for a number, and a distribution unchanged."""
    return alpha if isinstance(alpha, Ratio) else Beta(alpha)
