"""Boxes ``(top, bottom, left, right)``, half open, in pixels: where they lie, and which pixels they cover."""

from __future__ import annotations

import torch
from torch import Tensor


def cut_size(lam: Tensor, size: tuple[int, int], aspect: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return height and width of a box that leaves the anchor the share ``lam``, rounded down.

    Args:
        lam: The anchor's share, shape ``(S,)``.
        size: Height and width of the image.
        aspect: Height over width relative to the image's own, shape ``(S,)``; a side never exceeds the image.
    """
    side = (1 - lam).sqrt()
    high, wide = size[0] * side, size[1] * side
    if aspect is not None:
        stretch = aspect.sqrt()
        high, wide = (high * stretch).clamp(max=size[0]), (wide / stretch).clamp(max=size[1])
    return high.long(), wide.long()


def centred(
    height: Tensor, width: Tensor, row: Tensor, column: Tensor, size: tuple[int, int], odd: str = "floor"
) -> Tensor:
    """Put boxes around a centre and clip them at the border.

    Args:
        height: Heights, shape ``(S,)``, int64.
        width: Widths, shape ``(S,)``, int64.
        row: Row of the centre, shape ``(S,)``, int64.
        column: Column of the centre, shape ``(S,)``, int64.
        size: Height and width of the image.
        odd: ``"exact"`` keeps every pixel of an odd side; ``"floor"`` loses one, as published.

    Returns:
        Boxes, shape ``(S, 4)``.
    """
    up, left = height // 2, width // 2
    down, right = (up, left) if odd == "floor" else (height - up, width - left)
    rows = torch.stack((row - up, row + down), -1).clamp_(0, size[0])
    columns = torch.stack((column - left, column + right), -1).clamp_(0, size[1])
    return torch.cat((rows, columns), -1)


def clipped(
    height: Tensor, width: Tensor, where: Tensor, size: tuple[int, int], odd: str = "floor"
) -> Tensor:
    """Draw a uniform centre and clip at the border: small boxes near it, less mixing than drawn.

    Args:
        height: Heights, shape ``(S,)``, int64.
        width: Widths, shape ``(S,)``, int64.
        where: Uniform numbers in [0, 1), shape ``(S, 2)``: row and column of the centre.
        size: Height and width of the image.
        odd: See :func:`centred`.
    """
    return centred(height, width, (where[:, 0] * size[0]).long(), (where[:, 1] * size[1]).long(), size, odd)


def inside(height: Tensor, width: Tensor, where: Tensor, size: tuple[int, int], odd: str = "exact") -> Tensor:
    """Draw a uniform place among those where the whole box lies inside the image; the arguments are those of ``clipped``."""
    del odd  # no side is halved, so no pixel is lost
    top = (where[:, 0] * (size[0] - height + 1)).long()
    left = (where[:, 1] * (size[1] - width + 1)).long()
    return torch.stack((top, top + height, left, left + width), -1)


def shifted(
    height: Tensor, width: Tensor, row: Tensor, column: Tensor, size: tuple[int, int], odd: str = "exact"
) -> Tensor:
    """Put boxes around a centre and shift them until they lie inside; the arguments are those of :func:`centred`."""
    del odd  # no side is cut, so no pixel is lost
    top = (row - height // 2).clamp_min(0).minimum(size[0] - height)
    left = (column - width // 2).clamp_min(0).minimum(size[1] - width)
    return torch.stack((top, top + height, left, left + width), -1)


def area(boxes: Tensor) -> Tensor:
    """Return the number of pixels of boxes ``(..., 4)``."""
    return (boxes[..., 1] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 2])


def covered(boxes: Tensor, size: tuple[int, int], canvas: tuple[int, int]) -> Tensor:
    """Tell which pixels lie in which box.

    Args:
        boxes: Boxes on a canvas of the given size, shape ``(..., 4)``.
        size: Height and width the boxes were made for.
        canvas: Height and width wanted: a pixel of it stands for the pixel of ``size`` that nearest-neighbour scaling takes.

    Returns:
        Shape ``(..., h, w)``, bool.
    """
    rows, columns = (nearest(c, s, boxes.device) for c, s in zip(canvas, size, strict=True))
    top, bottom, left, right = boxes[..., None, :].unbind(-1)  # each (..., 1)
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return in_rows[..., :, None] & in_columns[..., None, :]


def nearest(target: int, source: int, device: torch.device) -> Tensor:
    """Return the source index of every target index in nearest-neighbour scaling, shape ``(target,)``."""
    index = torch.arange(target, device=device)
    return index if target == source else index * source // target


def visible(boxes: Tensor, size: tuple[int, int], canvas: tuple[int, int]) -> Tensor:
    """Return the share (S, 1 + M, H, W) of the anchor and of M boxes pasted one over the other."""
    inside = covered(boxes, size, canvas)
    above = inside.flip(1).cumsum(1).flip(1) - inside.long()  # how many later boxes lie over a pixel
    return torch.cat((~inside.any(1, keepdim=True), inside & (above == 0)), 1).float()


def rescaled(boxes: Tensor, size: tuple[int, int], canvas: torch.Size) -> Tensor:
    """Bring boxes (B, 4) from one canvas to another: the first pixel inside stays the first pixel inside."""
    rows = (boxes[:, :2] * canvas[0] + size[0] - 1) // size[0]
    columns = (boxes[:, 2:] * canvas[1] + size[1] - 1) // size[1]
    return torch.cat((rows, columns), 1)
