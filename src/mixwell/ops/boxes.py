"""Boxes ``(top, bottom, left, right)``, half open, in pixels: how they are placed and which pixels they cover.

A rule computes the position of a box along one axis. It is written for plain numbers and for tensors, because a single
box on the CPU is computed ten times faster in plain numbers than in twenty operations on tensors of one element.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mixwell.ops.pixels import nearest

Rule = Callable[[Any, Any, Any, str], tuple[Any, Any]]  # (length, side, where, odd) -> first pixel, first pixel after


def single_on_host(rows: Tensor) -> bool:
    """Return whether there is one row only, whose numbers can be read without waiting for a device."""
    return rows.is_cpu and rows.shape[0] == 1 and not torch.compiler.is_compiling()


def from_numbers(*values: float) -> Tensor:
    """Return numbers as a tensor on the CPU, int64 if they are whole and else float32, faster than ``torch.tensor``."""
    whole = type(values[0]) is int
    return torch.frombuffer(array("q" if whole else "f", values), dtype=torch.int64 if whole else torch.float32)


def cut_side(lam: Tensor, aspect: Tensor | None = None) -> Tensor | float:
    """Return the sides, as shares of the image's, of a box that leaves the anchor the share ``lam``.

    Args:
        lam: The anchor's share, shape ``(S,)``.
        aspect: Height over width relative to the image's own, shape ``(S,)``; a side never exceeds the image.

    Returns:
        Shares of height and width, shape ``(S, 2)``, or where they are equal ``(S, 1)``, or the number that is all of
        them.
    """
    if aspect is None and single_on_host(lam) and lam.dtype == torch.float32:
        return _single(math.sqrt(_single(1 - lam.item())))
    side = (1 - lam).sqrt_()[:, None]
    if aspect is None:
        return side
    stretch = aspect.sqrt()[:, None]
    return (side * torch.cat((stretch, 1 / stretch), 1)).clamp_max(1.0)


def matched(size: tuple[int, int], side: Tensor | float, lam: Tensor) -> Tensor:
    """Return sides near the given ones whose box covers nearly ``1 - lam`` of the pixels.

    The height is rounded down or up, whichever gives an area closer to the wanted one with a whole number of columns;
    if one side is limited by the image, the other one is enlarged.

    Args:
        size: Height and width of the image.
        side: What :func:`cut_side` returns.
        lam: The anchor's share, shape ``(S,)``.

    Returns:
        Shares of height and width, shape ``(S, 2)``.
    """
    pixels = (1 - lam)[:, None] * (size[0] * size[1])
    least = (pixels / size[1]).floor()  # of rows, where the box is as wide as the image
    height = side[:, :1] if isinstance(side, Tensor) else torch.full_like(least, side)
    rows = torch.maximum((height * size[0]).floor(), least)
    rows = torch.cat((rows, rows + 1), 1).clamp(1, size[0])
    columns = (pixels / rows).round().clamp_max(size[1])
    best = (rows * columns - pixels).abs().argmin(1, keepdim=True)
    chosen = torch.cat((rows.gather(1, best), columns.gather(1, best)), 1)
    return (chosen + 0.5) / extent(size, lam.device)  # half a pixel more, because places round down


def fitted(space: tuple[int, ...], lam: Tensor) -> Tensor:
    """Return sides of a box of any number of dimensions whose volume is nearly ``1 - lam`` of the whole.

    Sides are equal shares of their dimensions, rounded to elements one after the other. Each makes up for the rounding
    of those before it, so that the volume is wrong by at most half an element times the other sides.

    Args:
        space: Sizes of all dimensions.
        lam: The anchor's share, shape ``(S,)``.

    Returns:
        Shares of the dimensions, shape ``(S, len(space))``.

    Example:
        >>> (fitted((4, 10, 10), torch.tensor([0.5])) * torch.tensor([4, 10, 10])).long()
        tensor([[3, 8, 8]])
    """
    left, sides = 1 - lam, []
    for axis, length in enumerate(space[:-1]):
        share = left ** (1 / (len(space) - axis))
        pixels = (length * share).round().maximum((length * left).ceil()).clamp(1, length)
        left = left * length / pixels
        sides.append((pixels + 0.5) / length)  # half an element more, because rules round down
    last = (space[-1] * left).round().clamp_max(space[-1])
    return torch.stack([*sides, (last + 0.5) / space[-1]], 1)


def in_box(first: Tensor, after: Tensor, space: tuple[int, ...]) -> Tensor:
    """Return which elements lie in boxes of any number of dimensions.

    Args:
        first: First element inside, along every dimension, shape ``(S, len(space))``.
        after: First element after the box, of the same shape.
        space: Sizes of all dimensions.

    Returns:
        Shape ``(S, *space)``, bool.

    Example:
        >>> in_box(torch.tensor([[1]]), torch.tensor([[3]]), (4,)).int()
        tensor([[0, 1, 1, 0]], dtype=torch.int32)
    """
    found = torch.ones_like(first[:, 0], dtype=torch.bool)
    for axis, length in enumerate(space):
        line = torch.arange(length, device=first.device)
        within = (line >= first[:, axis, None]) & (line < after[:, axis, None])
        found = found[..., None] & within.view(-1, *(1,) * axis, length)
    return found


def place(rule: Rule, size: tuple[int, int], side: Tensor | float, where: Tensor, odd: str = "floor") -> Tensor:
    """Place boxes by a rule.

    Args:
        rule: :func:`clipped`, :func:`inside`, :func:`shifted`, :func:`clipped_around` or :func:`shifted_around`.
        size: Height and width of the image.
        side: Sides as shares of the image's, shape ``(S, 2)`` or ``(S, 1)``, or one number.
        where: Uniform numbers in [0, 1), or the pixel of the centre for a rule ``*_around``, shape ``(S, 2)``.
        odd: ``"exact"`` keeps every pixel of an odd side that is halved; ``"floor"`` loses one, as published.

    Returns:
        Boxes, shape ``(S, 4)``, int64.
    """
    if single_on_host(where) and (not isinstance(side, Tensor) or side.dtype == torch.float32):
        high, wide = side.expand(1, 2).tolist()[0] if isinstance(side, Tensor) else (side, side)
        y, x = where.tolist()[0]
        return from_numbers(*rule(size[0], high, y, odd), *rule(size[1], wide, x, odd)).unsqueeze(0)
    return torch.stack(rule(extent(size, where.device), side, where, odd), -1).flatten(1)


def clipped(length: Any, side: Any, where: Any, odd: str) -> tuple[Any, Any]:
    """Draw a uniform centre and clip the box at the border, which makes boxes near it smaller than drawn."""
    return clipped_around(length, side, whole(length * where), odd)


def inside(length: Any, side: Any, where: Any, odd: str) -> tuple[Any, Any]:
    """Draw a uniform position among those where the whole box fits."""
    pixels = whole(length * side)
    first = whole((length - pixels + 1) * where)
    return first, first + pixels


def shifted(length: Any, side: Any, where: Any, odd: str) -> tuple[Any, Any]:
    """Draw a uniform centre and shift the box until it lies inside."""
    return shifted_around(length, side, whole(length * where), odd)


def clipped_around(length: Any, side: Any, centre: Any, odd: str) -> tuple[Any, Any]:
    """Put the box around a pixel and clip it at the border."""
    pixels = whole(length * side)
    before = pixels >> 1
    after = before if odd == "floor" else pixels - before
    if isinstance(pixels, int):
        return max(centre - before, 0), min(centre + after, length)
    return (centre - before).clamp_min(0), _at_most(centre + after, length)


def shifted_around(length: Any, side: Any, centre: Any, odd: str) -> tuple[Any, Any]:
    """Put the box around a pixel and shift it until it lies inside."""
    pixels = whole(length * side)
    first, last = centre - (pixels >> 1), length - pixels
    first = min(max(first, 0), last) if isinstance(pixels, int) else _at_most(first.clamp_min(0), last)
    return first, first + pixels


def whole(number: Any) -> Any:
    """Round down a number that is not negative."""
    return int(_single(number)) if isinstance(number, float) else number.long()


def _single(number: float) -> float:
    """Round to float32, as tensors do: ten times 0.7 is 7 in both cases."""
    return array("f", (number,))[0]


def _at_most(number: Tensor, bound: Tensor | int) -> Tensor:
    return torch.minimum(number, bound) if isinstance(bound, Tensor) else number.clamp_max(bound)


def extent(size: tuple[int, ...], device: torch.device) -> Tensor | int:
    """Return height and width, or other sizes, as an int64 tensor; of equal height and width the one number."""
    if len(size) == 2 and size[0] == size[1]:
        return size[0]
    host = torch.tensor(size)
    return host if device.type == "cpu" else host.to(device, non_blocking=True)


def whole_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the box of the whole image, as often as there are ``boxes``."""
    image = torch.zeros_like(boxes)
    image[..., 1], image[..., 3] = size
    return image


def area_weights(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the shares of the image outside and inside each box ``(S, 4)``, shape ``(S, 2)``, float32."""
    pixels = float(size[0] * size[1])
    if single_on_host(boxes):
        top, bottom, left, right = boxes.tolist()[0]
        inside_box = (bottom - top) * (right - left) / pixels
        return from_numbers(1 - inside_box, inside_box).unsqueeze(0)
    covered_share = (boxes[:, 1::2] - boxes[:, ::2]).prod(1) / pixels
    return torch.stack((1 - covered_share, covered_share), 1)


def box_sums(maps: Tensor, boxes: Tensor) -> Tensor:
    """Sum maps ``(B, H, W)`` over one box each ``(B, 4)``, shape ``(B,)``, float64."""
    table = torch.nn.functional.pad(maps.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    top, bottom, left, right = boxes.expand(len(maps), 4).unbind(1)
    row = torch.arange(len(maps), device=maps.device)
    return table[row, bottom, right] - table[row, top, right] - table[row, bottom, left] + table[row, top, left]


def covered(boxes: Tensor, size: tuple[int, int], canvas: tuple[int, int]) -> Tensor:
    """Return which pixels lie in which box.

    Args:
        boxes: Boxes on a canvas of the given size, shape ``(..., 4)``.
        size: Height and width the boxes were made for.
        canvas: Height and width of the result; its pixels are mapped to those of ``size`` as nearest-neighbour scaling
            does.

    Returns:
        Shape ``(..., h, w)``, bool.
    """
    in_rows, in_columns = _split(_covered_lines(boxes, size, canvas), canvas)
    return in_rows & in_columns


def covered_factor(boxes: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return :func:`covered` as a 0/1 factor, computed as a product of rows and columns without converting a mask."""
    in_rows, in_columns = _split(_covered_lines(boxes, size, size).to(dtype), size)
    return in_rows * in_columns


def _covered_lines(boxes: Tensor, size: tuple[int, int], canvas: tuple[int, int]) -> Tensor:
    """Return which rows and which columns lie in a box, shape ``(..., 2, n)``, n the longer side of the canvas."""
    line = torch.arange(max(canvas), device=boxes.device)
    if canvas != size:
        line = torch.stack([nearest(line, s, c) for s, c in zip(size, canvas, strict=True)])
    edges = boxes.unflatten(-1, (2, 2))  # axis, then first line inside and first line after
    return (line >= edges[..., :1]) & (line < edges[..., 1:])


def _split(lines: Tensor, canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return rows ``(..., h, 1)`` and columns ``(..., 1, w)`` that broadcast to a mask."""
    rows, columns = lines.unbind(-2)
    return rows[..., : canvas[0], None], columns[..., None, : canvas[1]]


def visible(boxes: Tensor, size: tuple[int, int], canvas: tuple[int, int]) -> Tensor:
    """Return the share (S, 1 + M, H, W) of the anchor and of M boxes pasted one over the other."""
    inside_box = covered(boxes, size, canvas)
    above = inside_box.flip(1).cumsum(1).flip(1) - inside_box.long()  # how many later boxes lie over a pixel
    return torch.cat((~inside_box.any(1, keepdim=True), inside_box & (above == 0)), 1).float()


def rescaled(boxes: Tensor, size: tuple[int, int], canvas: torch.Size | tuple[int, ...]) -> Tensor:
    """Bring boxes (B, 4) from one canvas to another: the first pixel inside stays the first pixel inside."""
    rows = (boxes[:, :2] * canvas[0] + size[0] - 1) // size[0]
    columns = (boxes[:, 2:] * canvas[1] + size[1] - 1) // size[1]
    return torch.cat((rows, columns), 1)


def coverage(edges: Tensor, length: int) -> Tensor:
    """Return which part of every pixel of a line lies between two edges ``(..., 2)``, shape ``(..., length)``.

    Example:
        >>> coverage(torch.tensor([0.5, 2.0]), 3)
        tensor([0.5000, 1.0000, 0.0000])
    """
    first = torch.arange(length, device=edges.device, dtype=edges.dtype)
    return (torch.minimum(edges[..., 1:], first + 1) - torch.maximum(edges[..., :1], first)).clamp_min(0)
