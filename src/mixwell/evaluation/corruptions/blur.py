"""Blur: defocus, glass, motion, zoom and Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixwell.evaluation.corruptions.draws import Draws
from mixwell.evaluation.corruptions.filters import correlate, gaussian, mirrored, motion, taken, zoomed


def gaussian_blur(pixels: Tensor, draws: Draws, sigma: float) -> Tensor:
    """Blur with a Gaussian."""
    return gaussian(pixels, sigma)


def defocus_blur(pixels: Tensor, draws: Draws, radius: float, soft: float) -> Tensor:
    """Blur with a disk whose edge is softened by a Gaussian of ``soft`` pixels."""
    return correlate(pixels, disk(radius, soft))


def disk(radius: float, soft: float) -> Tensor:
    """Return the kernel of :func:`defocus_blur`, with rows and columns of zeros at its border removed."""
    reach = 8 if radius <= 8 else math.ceil(radius)
    axis = torch.arange(-reach, reach + 1)
    kernel = (axis.square() + axis[:, None].square() <= radius**2).double()
    half = 1 if radius <= 8 else 2
    weights = torch.exp(-0.5 * (torch.arange(-half, half + 1, dtype=torch.float64) / soft).square())
    weights = weights / weights.sum()
    kernel = correlate(kernel[None, None] / kernel.sum(), weights[:, None] * weights)[0, 0]
    used = min(reach, math.floor(radius) + half)
    return kernel[reach - used : reach + used + 1, reach - used : reach + used + 1]


def motion_blur(pixels: Tensor, draws: Draws, radius: int, sigma: float) -> Tensor:
    """Blur along a line in a random direction within 45 degrees of the horizontal."""
    return motion(pixels, radius, sigma, 90 * draws.uniform() - 45)


def zoom_blur(pixels: Tensor, draws: Draws, end: float, step: float) -> Tensor:
    """Average the image with enlarged copies of itself, with factors from 1 up to ``end``."""
    exact = (1 + step) - 1  # the published factors are NumPy's, and a last digit decides about the size of some copies
    factors = [1 + k * exact for k in range(math.ceil((end - 1) / step))]
    return (pixels + sum(zoomed(pixels, factor) for factor in factors)) / (len(factors) + 1)


def glass_blur(pixels: Tensor, draws: Draws, sigma: float, reach: int, rounds: int) -> Tensor:
    """Blur, replace each pixel by one nearby, and blur again.

    Pixels are visited from the last to the first, as in the program that made the published images. There every pixel
    becomes a copy of the one it was to be swapped with, which may have been replaced itself.
    """
    moved = (gaussian(pixels, sigma) * 255 + 1e-3).floor() / 255
    for _ in range(rounds):
        moved = replaced(moved, (draws.uniform(2, *pixels.shape[2:]) * 2 * reach).floor().long() - reach, reach)
    return gaussian(moved, sigma)


def replaced(images: Tensor, offset: Tensor, reach: int) -> Tensor:
    """Replace pixels from the last to the first by those at ``offset`` (down, right), shape ``(B, 2, H, W)``.

    Pixels on one slanted line do not depend on each other, so that a line is one operation.
    """
    H, W = images.shape[2:]
    images = images.clone()
    rows, columns = torch.meshgrid(
        torch.arange(reach + 1, H - reach + 1), torch.arange(reach + 1, W - reach + 1), indexing="ij"
    )
    rows, columns = (part.flatten() for part in (rows, columns))
    inside = (rows < H) & (columns < W)
    rows, columns = rows[inside], columns[inside]
    time = (H - rows) * (reach + 1) + (W - columns)
    order = time.argsort(stable=True)
    lines = torch.split(order, time.bincount()[int(time.min()) :].tolist()) if len(order) else ()
    flat = images.flatten(2)
    for line in lines:
        if not len(line):
            continue
        row, column = rows[line].to(images.device), columns[line].to(images.device)
        down, right = offset[:, 0, row, column], offset[:, 1, row, column]
        source = mirrored(row + down, H) * W + mirrored(column + right, W)
        flat[:, :, row * W + column] = taken(images, source)
    return images
