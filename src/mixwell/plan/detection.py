"""Bounding boxes under a plan: where those of every source are in the mixed image, and how much of them is visible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mixwell.ops.boxes import coverage

if TYPE_CHECKING:
    from mixwell.plan.base import Plan


class MixedBoxes(NamedTuple):
    """Bounding boxes of one mixed image, those of the anchor first.

    Attributes:
        boxes: Left, top, right and bottom edge in pixels of the mixed image, shape ``(n, 4)``, float32.
        weights: Share of the box's area that is visible, times the source's share of those pixels, shape ``(n,)``.
        rows: Row of the batch that a box comes from, shape ``(n,)``, int64.
        indices: Position of a box among those of its row, shape ``(n,)``, int64.
    """

    boxes: Tensor
    weights: Tensor
    rows: Tensor
    indices: Tensor


def mix_boxes(
    plan: Plan, boxes: Sequence[Tensor], size: tuple[int, int] | None = None, min_visible: float = 0.1
) -> list[MixedBoxes]:
    """Return the bounding boxes of every mixed image.

    A box is shrunk to the part of it that is visible, and dropped if less than ``min_visible`` of its area is. Where
    images are blended, the boxes of both sources stay, weighted by their ratio.

    Args:
        plan: The plan that mixed the images.
        boxes: For every row, boxes (left, top, right, bottom) in pixels, shape ``(n, 4)``.
        size: Height and width of the images; ``None`` means those that the plan was drawn for.
        min_visible: Smallest weight of a box that is kept, in [0, 1].

    Returns:
        One record per row.

    Raises:
        ValueError: There is not one tensor of boxes per row, ``min_visible`` is out of range, or the plan moves cells
            of the images, as PuzzleMix does, which tears boxes apart.

    Example:
        >>> from mixwell import BoxPlan, Pairs
        >>> plan = BoxPlan(Pairs(torch.tensor([1, 0]), torch.ones(1), (8, 8)), torch.tensor([[0, 8, 4, 8]]))
        >>> left, right = torch.tensor([[0.0, 0, 6, 8]]), torch.tensor([[5.0, 2, 7, 4]])
        >>> mixed = mix_boxes(plan, [left, right])
        >>> mixed[0].boxes.tolist(), mixed[0].weights
        ([[0.0, 0.0, 4.0, 8.0], [5.0, 2.0, 7.0, 4.0]], tensor([0.6667, 1.0000]))
    """
    if len(boxes) != len(plan):
        raise ValueError(f"The plan was drawn for {len(plan)} images, but got boxes of {len(boxes)}.")
    if not 0 <= min_visible <= 1:
        raise ValueError(f"min_visible must lie in [0, 1], but got {min_visible}.")
    shares = plan.share(plan.size if size is None else size)
    return [_of_row(plan, row, sources, boxes, shares[row], min_visible) for row, sources in enumerate(plan.sources)]


def _of_row(
    plan: Plan, row: int, sources: Tensor, boxes: Sequence[Tensor], shares: Tensor, min_visible: float
) -> MixedBoxes:
    found, own = [], plan._plan_of(row)
    for k, source in enumerate(sources.tolist()):
        given = boxes[source].reshape(-1, 4).float()
        share = shares[k]
        if not own.moves_pixels:  # an image that is mixed with itself shows its boxes once
            first = int((sources == source).nonzero()[0])
            if k != first:
                continue
            share = shares[sources == source].sum(0)
        moved = own._moved_boxes(given, row, k, (share.shape[0], share.shape[1]))
        seen, weights = visible_part(moved, share)
        kept = (weights >= min_visible) & (weights > 0)
        indices = torch.arange(len(given), device=given.device)
        found.append((seen[kept], weights[kept], torch.full_like(indices, source)[kept], indices[kept]))
    return MixedBoxes(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def visible_part(boxes: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Shrink boxes to the pixels that show them.

    Args:
        boxes: Left, top, right, bottom in pixels, shape ``(n, 4)``; they may reach over the border.
        share: Share of every pixel that shows the boxes' image, shape ``(H, W)``.

    Returns:
        The boxes, and the share of each one's area that is visible, shape ``(n,)``; 0 for boxes without area.

    Example:
        >>> share = torch.tensor([[1.0, 1, 0, 0]]).expand(4, 4)
        >>> visible_part(torch.tensor([[1.0, 0, 3, 4]]), share)
        (tensor([[1., 0., 2., 4.]]), tensor([0.5000]))
    """
    height, width = share.shape
    columns, rows = coverage(boxes[:, ::2], width), coverage(boxes[:, 1::2], height)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1)
    weights = torch.einsum("nh,hw,nw->n", rows, share, columns) / area.clamp_min(torch.finfo(area.dtype).tiny)
    shown = (share > 0) & (rows[:, :, None] > 0) & (columns[:, None, :] > 0)
    left, right = _ends(shown.any(1))
    top, bottom = _ends(shown.any(2))
    low, high = torch.stack((left, top), 1), torch.stack((right, bottom), 1)
    seen = torch.cat((torch.maximum(boxes[:, :2], low), torch.minimum(boxes[:, 2:], high)), 1)
    return seen, weights.clamp(0, 1)


def _ends(lines: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first true position of every row ``(n, length)`` and the one after the last, as float32."""
    length = lines.shape[1]
    first = lines.int().argmax(1)
    after = length - lines.flip(1).int().argmax(1)
    return first.float(), after.float()
