"""Bumps that fall off smoothly around a point."""

from __future__ import annotations

import torch
from torch import Tensor


def bump(centre: Tensor, sigma: Tensor, size: tuple[int, int], plateau: float = 0.0) -> Tensor:
    """Draw a Gaussian, or a square with Gaussian flanks, with a largest value of 1.

    Args:
        centre: Row and column, shape ``(S, 2)``, in pixels; may lie between pixels and outside.
        sigma: Width along rows and columns, shape ``(S, 2)``, in pixels.
        size: Height and width of the image.
        plateau: Side of the flat square in the middle, as a share of the image's sides.

    Returns:
        Shape ``(S, H, W)``, float32.
    """
    rows, columns = (flank(centre[:, k], sigma[:, k], length, plateau) for k, length in enumerate(size))
    return rows[:, :, None] * columns[:, None, :]


def flank(centre: Tensor, sigma: Tensor, length: int, plateau: float = 0.0) -> Tensor:
    """Return the bump along one axis, shape ``(S, length)``, float32."""
    away = (torch.arange(length, device=centre.device) - centre[:, None]).abs()
    away = (away - plateau * length / 2).clamp_min(0)
    return torch.exp(-away.square() / (2 * sigma[:, None].clamp_min(1e-6).square())).float()


def width_for_mean(mean: Tensor, centre: Tensor, size: tuple[int, int], plateau: float = 0.0) -> Tensor:
    """Solve for the width, as a share of the image's sides, at which the bump has a given mean, by bisection.

    Args:
        mean: Wanted means in [0, 1], shape ``(S,)``; those out of reach get the nearest width in reach.
        centre: See :func:`bump`.
        size: See :func:`bump`.
        plateau: See :func:`bump`.

    Returns:
        Widths, shape ``(S,)``.
    """
    low, high = torch.full_like(mean, -7.0), torch.full_like(mean, 4.0)  # exponents of e
    for _ in range(24):
        middle = (low + high) / 2
        widths = middle.exp()
        parts = (flank(centre[:, k], widths * length, length, plateau).mean(1) for k, length in enumerate(size))
        too_wide = next(parts) * next(parts) > mean
        low, high = torch.where(too_wide, low, middle), torch.where(too_wide, middle, high)
    return ((low + high) / 2).exp()
