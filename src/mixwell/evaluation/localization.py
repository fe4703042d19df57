"""Weakly supervised localization: how well boxes around the bright parts of score maps agree with the true boxes.

Finding the connected parts of a map needs SciPy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

THRESHOLDS = tuple(k / 100 for k in range(100))
IOUS = (0.3, 0.5, 0.7)


def normalized_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale maps ``(B, h, w)`` bilinearly to the size of the images, and each to the range from 0 to 1.

    Returns:
        Shape ``(B, *size)``, float32; 0 everywhere for maps that are constant or have a NaN or Inf.

    Example:
        >>> normalized_maps(torch.tensor([[[1.0, 3.0]]]), (1, 2))
        tensor([[[0., 1.]]])
    """
    maps = F.interpolate(maps.float()[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    usable = ((high - low) > 0) & (high - low).isfinite()
    return torch.where(usable, (maps - low) / (high - low), 0.0)


def overlaps(maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the boxes of score maps with the true boxes at every threshold of ``THRESHOLDS``.

    The pixels of a map above a threshold form connected parts, where pixels that share a corner are connected. The box
    of a part is the smallest that holds it.

    Args:
        maps: Scores in [0, 1], shape ``(B, H, W)``, see :func:`normalized_maps`.
        boxes: True boxes, ``(x1, y1, x2, y2)`` in pixels of the maps, shape ``(B, 4)``, or ``(B, M, 4)`` for several
            in an image, of which the one that agrees best counts. Boxes without area are ignored.

    Returns:
        Two tensors ``(B, thresholds)``: intersection over union of the box of the largest part, and the largest one of
        all parts. It is 0 where no pixel is above the threshold.

    Raises:
        ImportError: SciPy is not installed.

    Example:
        >>> maps = torch.zeros(1, 4, 4)
        >>> maps[0, 1:3, 0:2] = 1
        >>> largest, best = overlaps(maps, torch.tensor([[0.0, 1.0, 2.0, 2.0]]))
        >>> largest[0, 50].item(), best[0, 50].item()
        (0.5, 0.5)
    """
    from scipy import ndimage

    label: Any = ndimage.label
    largest, best = torch.zeros(2, len(maps), len(THRESHOLDS), dtype=torch.float64).unbind()
    corners = torch.ones(3, 3).numpy()
    for row, (scores, box) in enumerate(zip(maps.cpu().numpy(), boxes.double().cpu(), strict=True)):
        sides, column, first = [], [], []
        for place, threshold in enumerate(THRESHOLDS):
            parts, count = label(scores > threshold, corners)
            if not count:
                break  # nor is any pixel above a higher threshold
            first.append(len(sides) + int(torch.from_numpy(parts).flatten().bincount()[1:].argmax()))
            sides += [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(parts)]
            column += [place] * count
        if sides:
            shares = box_iou(torch.tensor(sides, dtype=torch.float64)[:, None], box.view(-1, 4)).amax(1)
            largest[row, : len(first)] = shares[first]
            best[row].scatter_reduce_(0, torch.tensor(column), shares, "amax")
    return largest, best


def centre_overlaps(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Compare true boxes with boxes in the centre that have the proportions of the image, the baseline of localization.

    Args:
        boxes: True boxes, see :func:`overlaps`.
        size: Height and width of the images.

    Returns:
        Intersection over union, shape ``(B, thresholds)``; the box at threshold ``t`` has ``1 - t`` of each side.

    Example:
        >>> centre_overlaps(torch.tensor([[1.0, 1.0, 3.0, 3.0]]), (4, 4))[0, 50].item()
        1.0
    """
    side = torch.tensor([size[1], size[0]], dtype=torch.float64)
    margin = torch.tensor(THRESHOLDS, dtype=torch.float64)[:, None] * side / 2
    return box_iou(torch.cat([margin, side - margin], 1), boxes.double().view(len(boxes), -1, 1, 4)).amax(1)


def box_iou(boxes: Tensor, other: Tensor) -> Tensor:
    """Return the intersection over union of boxes ``(x1, y1, x2, y2)``, shapes ``(..., 4)``, which broadcast.

    Example:
        >>> box_iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 3.0, 2.0]))
        tensor(0.3333)
    """
    sides = torch.minimum(boxes[..., 2:], other[..., 2:]) - torch.maximum(boxes[..., :2], other[..., :2])
    shared = sides.clamp_min(0).prod(-1)
    areas = [(one[..., 2:] - one[..., :2]).clamp_min(0).prod(-1) for one in (boxes, other)]
    return shared / (areas[0] + areas[1] - shared).clamp_min(1e-12)


def box_accuracy(overlap: Tensor, iou: float = 0.5) -> Tensor:
    """Return the share of images whose box overlaps the true one by at least ``iou``, in percent, for each threshold.

    The largest value is MaxBoxAcc for the box of the largest part and ``iou=0.5``. MaxBoxAccV2 is the mean of the
    largest values for 0.3, 0.5 and 0.7, with the best part of each map. To report the accuracy of a method, choose the
    threshold on other images.

    Args:
        overlap: One result of :func:`overlaps`, shape ``(B, thresholds)``.
        iou: Smallest intersection over union.

    Returns:
        Shape ``(thresholds,)``, values in [0, 100].

    Source: Choe et al., *Evaluating Weakly Supervised Object Localization Methods Right*, CVPR 2020 (arXiv:2001.07437).

    Example:
        >>> box_accuracy(torch.tensor([[0.6, 0.2], [0.5, 0.4]])).tolist()
        [100.0, 0.0]
    """
    return 100 * (overlap >= iou).double().mean(0)
