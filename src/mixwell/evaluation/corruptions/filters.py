"""Linear filters and bilinear sampling for batches of images, with the border rules of SciPy and OpenCV."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Fold = Callable[[Tensor, int], Tensor]


def nearest(index: Tensor, size: int) -> Tensor:
    """Map indices outside an axis to its ends."""
    return index.clamp(0, size - 1)


def symmetric(index: Tensor, size: int) -> Tensor:
    """Mirror indices at the border and repeat the border pixel: b a | a b c."""
    index = index % (2 * size)
    return index.minimum(2 * size - 1 - index)


def mirrored(index: Tensor, size: int) -> Tensor:
    """Mirror indices at the border pixel, which is not repeated: c b | a b c."""
    if size == 1:
        return torch.zeros_like(index)
    index = index % (2 * size - 2)
    return index.minimum(2 * size - 2 - index)


def gaussian(images: Tensor, sigma: float, fold: Fold = nearest, truncate: float = 4.0) -> Tensor:
    """Blur images ``(..., H, W)`` with a Gaussian that is cut at ``truncate`` standard deviations."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return images
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offset / sigma).square())
    weights = weights / weights.sum()
    rows, columns = (_matrix(weights, size, fold).to(images) for size in images.shape[-2:])
    return rows @ images @ columns.T


def _matrix(weights: Tensor, size: int, fold: Fold) -> Tensor:
    """Return the filter along one axis as a matrix ``(size, size)``, in which folded borders are summed up."""
    offset = torch.arange(len(weights)) - len(weights) // 2
    places = fold(torch.arange(size)[:, None] + offset, size)
    return torch.zeros(size, size, dtype=weights.dtype).scatter_add_(1, places, weights.expand(size, -1))


def correlate(images: Tensor, kernel: Tensor) -> Tensor:
    """Correlate every channel of ``(B, C, H, W)`` with one kernel of odd sides; borders are mirrored."""
    B, C, H, W = images.shape
    rows, columns = (
        mirrored(torch.arange(-(k // 2), size + k // 2, device=images.device), size)
        for k, size in zip(kernel.shape, (H, W), strict=True)
    )
    padded = images.index_select(2, rows).index_select(3, columns)
    return F.conv2d(padded.flatten(0, 1)[:, None], kernel.to(images)[None, None]).view(B, C, H, W)


def motion(images: Tensor, radius: int, sigma: float, angle: Tensor) -> Tensor:
    """Average each image along a line that starts at the pixel, with weights that fall off as half a Gaussian.

    Args:
        images: Shape ``(B, C, H, W)``.
        radius: The line has ``2 * radius + 1`` pixels.
        sigma: Standard deviation of the weights, in pixels.
        angle: Direction, in degrees, shape ``(B,)``.
    """
    length = 2 * radius + 1
    step = torch.arange(length, device=images.device)
    weights = torch.exp(-step.float().square() / (2 * sigma**2))
    weights = weights / weights.sum()
    radians = torch.deg2rad(angle.double())
    down, right = ((step * part[:, None] - 0.5).ceil().long() for part in (radians.sin(), radians.cos()))
    total = torch.zeros_like(images)
    for k in range(length):
        total += weights[k] * shifted(images, down[:, k], right[:, k])
    return total


def shifted(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Return for every pixel the one ``down`` and ``right`` of it, shape ``(B,)`` each; border pixels are repeated."""
    H, W = images.shape[2:]
    rows = nearest(torch.arange(H, device=images.device) + down[:, None], H)
    columns = nearest(torch.arange(W, device=images.device) + right[:, None], W)
    index = (rows[:, :, None] * W + columns[:, None]).flatten(1)
    return taken(images, index).view_as(images)


def taken(images: Tensor, index: Tensor) -> Tensor:
    """Return the pixels with flat indices ``(B, M)``, shape ``(B, C, M)``."""
    return images.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1))


def bilinear(images: Tensor, rows: Tensor, columns: Tensor, corners: bool) -> Tensor:
    """Sample images at fractional positions ``(B, H, W)``, in pixels; outside, images are mirrored.

    With ``corners`` they are mirrored at the centres of the outermost pixels, otherwise at their edges.
    """
    H, W = images.shape[2:]
    x, y = (
        (2 * place + (1 - corners)) / max(size - corners, 1) - 1 for place, size in ((columns, W), (rows, H))
    )  # in units of half the image
    return F.grid_sample(images, torch.stack([x, y], 3), padding_mode="reflection", align_corners=corners)


def zoomed(images: Tensor, factor: float) -> Tensor:
    """Enlarge the middle of images by a factor and cut the result to the size of the images."""
    H, W = images.shape[2:]
    inner = [-int(-size // factor) for size in (H, W)]
    top, left = ((size - part) // 2 for size, part in zip((H, W), inner, strict=True))
    crop = images[:, :, top : top + inner[0], left : left + inner[1]]
    size = [round(part * factor) for part in inner]
    large = F.interpolate(crop, size=size, mode="bilinear", align_corners=True)
    top, left = ((outer - part) // 2 for outer, part in zip(size, (H, W), strict=True))
    return large[:, :, top : top + H, left : left + W]
