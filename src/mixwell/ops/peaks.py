"""Points of a map: the largest value, or one drawn in proportion to the values."""

from __future__ import annotations

import torch
from torch import Tensor


def peaks(maps: Tensor, size: tuple[int, int], levels: int | None = None) -> Tensor:
    """Find the first largest value of every map.

    Args:
        maps: Shape ``(S, h, w)``, in [0, 1] where ``levels`` is given.
        size: Height and width of the image that the maps belong to.
        levels: Round down to this many levels first, which makes ties.

    Returns:
        Row and column in the image, shape ``(S, 2)``, int64.
    """
    values = maps.flatten(1)
    if levels is not None:
        values = (values * levels).long()
    return _in_image(values.argmax(1), maps, size)


def drawn_by(maps: Tensor, u: Tensor, size: tuple[int, int], temperature: float | None = None) -> Tensor:
    """Draw a point of every map with a probability proportional to its value, or any point where all values are zero.

    Args:
        maps: Shape ``(S, h, w)``; negative values count as zero.
        u: Uniform numbers in [0, 1), shape ``(S,)``.
        size: Height and width of the image that the maps belong to.
        temperature: Draw from the softmax of the map, as shares of its largest value, over this temperature instead.

    Returns:
        Row and column in the image, shape ``(S, 2)``, int64.
    """
    values = maps.flatten(1).double().clamp_min(0)
    if temperature is not None:
        peak = values.amax(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        values = (values / peak / temperature).softmax(1)
    mass = (values + (values.sum(1, keepdim=True) == 0)).cumsum(1)
    index = torch.searchsorted(mass, u[:, None].double() * mass[:, -1:], right=True)[:, 0]
    return _in_image(index.clamp_max(mass.shape[1] - 1), maps, size)


def _in_image(index: Tensor, maps: Tensor, size: tuple[int, int]) -> Tensor:
    h, w = maps.shape[1:]
    row, column = index // w, index % w
    middle = ((2 * row + 1) * size[0] // (2 * h), (2 * column + 1) * size[1] // (2 * w))  # of the map's cell
    return torch.stack(middle, 1)
