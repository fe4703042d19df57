"""Scale one box of an image into another, for a batch in which every image has its own pair of boxes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def paste_scaled(images: Tensor, boxes: Tensor, source_boxes: Tensor, interpolation: str) -> Tensor:
    """Scale a box of every image into another box of the same canvas.

    Args:
        images: Shape ``(B, C, H, W)``.
        boxes: Where to, shape ``(B, 4)``; may be empty.
        source_boxes: Where from, shape ``(B, 4)``.
        interpolation: ``"nearest"``, ``"bilinear"``, ``"area"`` or ``"aligned"`` (bilinear from corner to corner),
            each as torch's ``interpolate`` does it.

    Returns:
        Shape ``(B, C, H, W)``; pixels outside ``boxes`` mean nothing.
    """
    if interpolation == "nearest":
        rows = _nearest(boxes[:, :2], source_boxes[:, :2], images.shape[2])
        columns = _nearest(boxes[:, 2:], source_boxes[:, 2:], images.shape[3])
        index = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).flatten(1)  # (B, H * W)
        return images.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
    matrix = _MATRICES[interpolation]
    rows = matrix(boxes[:, :2], source_boxes[:, :2], images.shape[2])  # (B, H, H)
    columns = matrix(boxes[:, 2:], source_boxes[:, 2:], images.shape[3])
    scaled = rows[:, None] @ images.float() @ columns[:, None].transpose(2, 3)
    return scaled.round().to(images.dtype) if images.dtype == torch.uint8 else scaled.to(images.dtype)


def scaled_crop(images: Tensor, source: list[int], height: int, width: int, interpolation: str) -> Tensor:
    """Scale one box, the same for all images ``(B, C, H, W)``, to ``height`` by ``width``."""
    crop = images[:, :, source[0] : source[1], source[2] : source[3]]
    if interpolation == "nearest":
        return F.interpolate(crop, size=(height, width), mode="nearest")
    mode, align = {"bilinear": ("bilinear", False), "aligned": ("bilinear", True), "area": ("area", None)}[
        interpolation
    ]
    scaled = F.interpolate(crop.float(), size=(height, width), mode=mode, align_corners=align)
    return scaled.round_().to(images.dtype) if images.dtype == torch.uint8 else scaled.to(images.dtype)


def _offsets(target: Tensor, source: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each pixel's distance from the target's start (B, L), and both extents (B, 1)."""
    extent, source_extent = ((box[:, 1:] - box[:, :1]).clamp_min(1) for box in (target, source))
    offset = torch.arange(length, device=target.device) - target[:, :1]
    return offset.clamp_min(0).minimum(extent - 1), extent, source_extent


def _nearest(target: Tensor, source: Tensor, length: int) -> Tensor:
    offset, extent, source_extent = _offsets(target, source, length)
    # In float32, as interpolate does it: at a few sizes that differs by one pixel from integer division.
    index = (offset.float() * (source_extent.float() / extent.float())).long()
    return source[:, :1] + index.minimum(source_extent - 1)


def _bilinear(target: Tensor, source: Tensor, length: int) -> Tensor:
    offset, extent, source_extent = _offsets(target, source, length)
    position = ((offset.float() + 0.5) * (source_extent.float() / extent.float()) - 0.5).clamp_min(0)
    return _between(position, source, source_extent, length)


def _aligned(target: Tensor, source: Tensor, length: int) -> Tensor:
    offset, extent, source_extent = _offsets(target, source, length)
    step = (source_extent - 1).float() / (extent - 1).clamp_min(1).float()
    return _between(offset.float() * step, source, source_extent, length)


def _between(position: Tensor, source: Tensor, source_extent: Tensor, length: int) -> Tensor:
    """Return the matrix (B, L, L) that interpolates linearly at positions (B, L) in the source box."""
    low = position.long().minimum(source_extent - 1)
    high = (low + 1).minimum(source_extent - 1)
    weight = position - low
    matrix = weight.new_zeros(*weight.shape, length)
    matrix = matrix.scatter_add(2, (source[:, :1] + low)[..., None], (1 - weight)[..., None])
    return matrix.scatter_add(2, (source[:, :1] + high)[..., None], weight[..., None])


def _area(target: Tensor, source: Tensor, length: int) -> Tensor:
    offset, extent, source_extent = _offsets(target, source, length)
    start = offset * source_extent // extent
    end = ((offset + 1) * source_extent + extent - 1) // extent
    pixel = torch.arange(length, device=target.device) - source[:, :1]  # (B, L), relative to the source box
    inside = (pixel[:, None, :] >= start[:, :, None]) & (pixel[:, None, :] < end[:, :, None])
    return inside.float() / (end - start)[:, :, None]


_MATRICES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "bilinear": _bilinear,
    "aligned": _aligned,
    "area": _area,
}
