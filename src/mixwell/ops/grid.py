"""Regular grids: which cells stay, and holes cut at regular distances."""

from __future__ import annotations

import torch
from torch import Tensor


def random_cells(noise: Tensor, lam: Tensor) -> Tensor:
    """Keep the cells of lowest rank: exactly ``round(lam * cells ** 2)`` of them.

    Args:
        noise: One number per cell, shape ``(S, cells ** 2)``.
        lam: Share to keep, shape ``(S,)``.

    Returns:
        Shape ``(S, cells ** 2)``, bool.
    """
    rank = noise.argsort(1).argsort(1)
    return rank < (lam * noise.shape[1]).round()[:, None]


def grid_crop(area: Tensor, aspect: Tensor, size: tuple[int, int], clamp: bool = True) -> tuple[Tensor, Tensor]:
    """Return height and width of the part of the image that gets holes, rounded down.

    Args:
        area: Share of the image's area, shape ``(S,)``.
        aspect: Height over width, shape ``(S,)``.
        size: Height and width of the image.
        clamp: Keep both sides within the image.
    """
    width = ((area * (size[0] * size[1])).floor() / aspect).sqrt().floor()
    height = (width * aspect).floor()
    if clamp:
        height, width = height.clamp_max(size[0]), width.clamp_max(size[1])
    return height.long(), width.long()


def holes(
    lam: Tensor, crop: tuple[Tensor, Tensor], where: Tensor, count: Tensor, aspect: Tensor, size: tuple[int, int]
) -> Tensor:
    """Cut rectangular holes at regular distances out of a part of the image.

    Args:
        lam: A hole has ``sqrt(1 - lam)`` of each side of its cell, shape ``(S,)``.
        crop: Height and width of the part, shape ``(S,)`` each, int64.
        where: Uniform numbers in [0, 1) for the row and column of the part, shape ``(S, 2)``.
        count: Holes in a row, shape ``(S,)``, int64.
        aspect: Height of a cell over its width, shape ``(S,)``.
        size: Height and width of the image.

    Returns:
        1 where a pixel lies in a hole, shape ``(S, H, W)``, bool.
    """
    cell_width = -(-crop[1] // count)
    cell_height = (cell_width * aspect).long().clamp_min(1)
    root = (1 - lam).sqrt()
    axes = []
    for k, (extent, cell, length) in enumerate(zip(crop, (cell_height, cell_width), size, strict=True)):
        hole = torch.minimum((cell * root).long().clamp_min(1), cell - 1)
        first = ((length - extent) * where[:, k]).trunc().long()
        offset = torch.arange(length, device=lam.device) - first[:, None]  # (S, length)
        axes.append((offset >= 0) & (offset < extent[:, None]) & (offset % cell[:, None] < hole[:, None]))
    return axes[0][:, :, None] & axes[1][:, None, :]
