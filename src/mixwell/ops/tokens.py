"""Random rectangles of tokens, and the windows of a map with the largest and smallest sum."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CANDIDATES = 64  # rectangles that are tried for each image
_LOG_ASPECT = math.log(1 / 0.3)  # rectangles are up to 1 / 0.3 times as high as wide, or as wide as high


def rectangles(draws: Tensor, count: Tensor, cells: int) -> Tensor:
    """Mark tokens under random rectangles, never more than ``count`` of an image.

    Each rectangle has a uniform area up to the number of tokens that are left to mark, and a log-uniform aspect ratio.
    It is taken if it marks at least one new token and not more than are left.

    Args:
        draws: Uniform numbers in [0, 1) for area, aspect ratio, row and column, shape ``(S, R, 4)``.
        count: Tokens to mark, shape ``(S,)``, int64.
        cells: Tokens per side.

    Returns:
        Shape ``(S, cells, cells)``, bool.

    Example:
        >>> rectangles(torch.rand(2, 64, 4), torch.tensor([0, 5]), 4).flatten(1).sum(1)[0]
        tensor(0)
    """
    axis = torch.arange(cells, device=draws.device)
    marked = torch.zeros(len(draws), cells, cells, dtype=torch.bool, device=draws.device)
    for area, aspect, row, column in draws.permute(1, 2, 0):
        left = count - marked.flatten(1).sum(1)
        target = 1 + area * (left - 1)
        ratio = ((2 * aspect - 1) * _LOG_ASPECT).exp()
        height, width = ((target * factor).sqrt().round() for factor in (ratio, 1 / ratio))
        spans = []
        for side, where in ((height, row), (width, column)):
            start = (where * (cells - side + 1)).floor()
            spans.append((axis >= start[:, None]) & (axis < (start + side)[:, None]))
        rectangle = spans[0][:, :, None] & spans[1][:, None, :]
        new = (rectangle & ~marked).flatten(1).sum(1)
        fits = (height < cells) & (width < cells) & (new > 0) & (new <= left)
        marked |= rectangle & fits[:, None, None]
    return marked


def extreme_windows(maps: Tensor, side: Tensor, largest: bool) -> Tensor:
    """Return the corner of the square window with the largest or smallest sum; of equal ones the first.

    Args:
        maps: Shape ``(B, h, w)``.
        side: Side of the window in cells, shape ``(S,)`` with S the batch or 1, int64.
        largest: Whether to take the largest sum.

    Returns:
        Row and column of the upper left corner, shape ``(B, 2)``, int64.

    Example:
        >>> extreme_windows(torch.eye(3)[None], torch.tensor([2]), largest=True)
        tensor([[0, 0]])
    """
    rows, height, width = maps.shape
    integral = F.pad(maps.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    y, x = torch.arange(height, device=maps.device), torch.arange(width, device=maps.device)
    side = side.expand(rows)[:, None]
    below, right = (y + side).clamp_max(height), (x + side).clamp_max(width)  # (B, h), (B, w)
    each = torch.arange(rows, device=maps.device)[:, None, None]

    def corner(row: Tensor, column: Tensor) -> Tensor:
        return integral[each, row[:, :, None], column[:, None, :]]

    top, left = y.expand(rows, -1), x.expand(rows, -1)
    sums = corner(below, right) - corner(top, right) - corner(below, left) + corner(top, left)
    outside = (y + side > height)[:, :, None] | (x + side > width)[:, None, :]
    sums = sums.round(decimals=9).masked_fill(outside, -math.inf if largest else math.inf)
    best = sums.flatten(1).argmax(1) if largest else sums.flatten(1).argmin(1)
    return torch.stack((best // width, best % width), 1)
