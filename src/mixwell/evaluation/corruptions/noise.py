"""Noise: Gaussian, shot, impulse and speckle, independent in every channel."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.evaluation.corruptions.draws import Draws
from mixwell.metrics import precise


def gaussian_noise(pixels: Tensor, draws: Draws, deviation: float) -> Tensor:
    """Add normal noise."""
    return pixels + deviation * draws.normal(*pixels.shape[1:])


def speckle_noise(pixels: Tensor, draws: Draws, deviation: float) -> Tensor:
    """Add normal noise in proportion to the pixel."""
    return pixels + pixels * deviation * draws.normal(*pixels.shape[1:])


def impulse_noise(pixels: Tensor, draws: Draws, share: float) -> Tensor:
    """Replace a share of the values, half of it by 0 and half by 1."""
    draw = draws.uniform(*pixels.shape[1:])
    return pixels.masked_fill(draw < share / 2, 0).masked_fill(draw > 1 - share / 2, 1)


def shot_noise(pixels: Tensor, draws: Draws, photons: float) -> Tensor:
    """Replace values by Poisson counts; white has a mean of ``photons``.

    The counts are quantiles of a table for the 256 levels of a pixel.
    """
    level = (pixels * 255).round().long()
    rate = torch.arange(256, dtype=precise(pixels), device=pixels.device)[:, None] * photons / 255
    count = torch.arange(int(photons + 10 * photons**0.5) + 10, device=pixels.device).to(rate.dtype)
    log_density = torch.xlogy(count, rate) - rate - torch.lgamma(count + 1)
    below = log_density.exp().cumsum(1).clamp_max(1)
    table = below + torch.arange(256, device=pixels.device)[:, None]  # one ascending list for all levels
    wanted = level + draws.uniform(*pixels.shape[1:]).to(table.dtype)
    found = torch.searchsorted(table.flatten(), wanted.flatten()).view_as(level) - level * len(count)
    return (found / photons).to(pixels.dtype)
