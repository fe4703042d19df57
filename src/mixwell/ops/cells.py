"""Maps on a coarse grid of cells."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def on_grid(maps: Tensor, cells: int, pool: Callable[[Tensor, int], Tensor] = F.adaptive_avg_pool2d) -> Tensor:
    """Resize maps ``(B, h, w)`` to ``cells`` per side: larger ones are pooled, smaller ones interpolated."""
    if tuple(maps.shape[1:]) == (cells, cells):
        return maps
    if min(maps.shape[1:]) >= cells:
        return pool(maps[:, None], cells)[:, 0]
    return F.interpolate(maps[:, None], (cells, cells), mode="bilinear", align_corners=False)[:, 0]


def top_cells(maps: Tensor, count: Tensor | int) -> Tensor:
    """Mark the largest cells of every map.

    Args:
        maps: Shape ``(B, h, w)``.
        count: Number of cells to mark, an int or shape ``(S,)``.

    Returns:
        Shape ``(B, h, w)``, bool.
    """
    rank = maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1)
    return (rank < (count[:, None] if isinstance(count, Tensor) else count)).view(maps.shape)


def salient_cells(maps: Tensor, temperature: float) -> Tensor:
    """Mark the cells whose softmax over a temperature exceeds its mean.

    Args:
        maps: Non-negative maps, shape ``(B, h, w)``, not all zero; each is divided by its peak first.
        temperature: The lower, the fewer cells.

    Returns:
        Shape ``(B, h, w)``, bool; no cell of a uniform map.

    Example:
        >>> salient_cells(torch.tensor([[[1.0, 2.0, 4.0]]]), temperature=1.0)
        tensor([[[False, False,  True]]])
    """
    powers = ((maps / maps.amax((1, 2), keepdim=True) - 1) / temperature).exp()
    return powers > powers.mean((1, 2), keepdim=True)


def divided(maps: Tensor, other: Tensor, least: float = 1e-12) -> Tensor:
    """Return the share of the first in the sum of two non-negative maps; 0.5 where both are 0."""
    return (maps + least) / (maps + other + 2 * least)


def summing_to_one(maps: Tensor) -> Tensor:
    """Scale non-negative maps ``(B, h, w)`` to a sum of one; a map of zeros becomes uniform."""
    total = maps.sum((1, 2), keepdim=True)
    even = torch.full_like(maps, 1 / maps[0].numel())
    return torch.where(total > 0, maps / total.clamp_min(torch.finfo(maps.dtype).tiny), even)


def kept_cells(lam: Tensor, number: int, top: int | None = None) -> Tensor | int:
    """Return how many of ``number`` cells to keep: ``top``, or the share ``lam`` of them, at least one."""
    return (lam * number).long().clamp(1, number) if top is None else min(top, number)


def check_pixels(what: str, cells: int, size: tuple[int, int]) -> None:
    """Raise unless images of this height and width have at least one pixel per cell on each side."""
    if cells > min(size):
        raise ValueError(
            f"{what} needs images of at least {cells} pixels per side, but got {size[0]} x {size[1]}: use fewer cells."
        )
