"""Plans of boxes of other images, pasted unchanged or scaled."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import Pairs
from mixwell.ops.boxes import area_weights, covered, covered_factor, rescaled, single_on_host, visible
from mixwell.ops.pixels import choose_into, gather_into, mask_order, memory_order, one_by_one
from mixwell.ops.resample import paste_scaled, scaled_crop
from mixwell.plan.base import Plan


class BoxPlan(Plan):
    """Boxes of other images are pasted over the anchor, later ones over earlier ones.

    Args:
        pairs: The pairs; ``pairs.partner`` may be ``(B, K - 1)``, one partner per box.
        boxes: Where to paste, ``(top, bottom, left, right)`` half open in pixels, inside the image, shape ``(S, 4)`` or
            ``(S, K - 1, 4)``.
        source_boxes: What to paste, of the same shape, scaled to fit; ``None`` pastes the pixels at the same position.
        interpolation: How to scale: ``"nearest"``, ``"bilinear"``, ``"aligned"`` or ``"area"``.
        weight: Label weight of the anchor instead of its share of the pixels, shape ``(S,)``, or of both of two
            sources, ``(S, 2)``.
    """

    _geometry = ("_boxes", "_source_boxes", "interpolation")

    def __init__(
        self,
        pairs: Pairs,
        boxes: Tensor,
        source_boxes: Tensor | None = None,
        interpolation: str = "nearest",
        weight: Tensor | None = None,
    ) -> None:
        if weight is None:
            one = boxes.dim() == 2
            weight = area_weights(boxes, pairs.size) if one else visible(boxes, pairs.size, pairs.size).mean((2, 3))
        super().__init__(pairs, weight)
        self._boxes = boxes.reshape(boxes.shape[0], -1, 4)
        self._source_boxes = None if source_boxes is None else source_boxes.reshape(boxes.shape[0], -1, 4)
        self.interpolation = interpolation

    @property
    def boxes(self) -> Tensor:
        """Where every source but the anchor is pasted, shape ``(B, K - 1, 4)``."""
        return self._boxes.expand(len(self), -1, -1)

    @property
    def source_boxes(self) -> Tensor | None:
        """What is pasted there, of the same shape, or ``None`` for the pixels at the same position."""
        return None if self._source_boxes is None else self._source_boxes.expand(len(self), -1, -1)

    @property
    def moves_pixels(self) -> bool:
        """See :meth:`Plan.moves_pixels`."""
        return self._source_boxes is not None

    def share(self, size: tuple[int, int]) -> Tensor:
        """See :meth:`Plan.share`."""
        return visible(self.boxes, self.size, size)

    def _mix(self, images: Tensor) -> Tensor:
        inside = covered(self._boxes, self.size, (images.shape[2], images.shape[3]))
        mixed = images
        for k in range(1, 1 + len(self.partners)):
            mixed = torch.where(inside[:, k - 1, None], self._source(images, k), mixed)
        return mixed

    def _mix_batch(self, images: Tensor, out: Tensor) -> None:
        if self._boxes.shape[1] != 1 or self.size != images.shape[2:] or self._source_boxes is not None:
            out.copy_(self._mix(images))
        elif single_on_host(self._boxes):
            ((top, bottom, left, right),) = self._boxes.tolist()[0]
            mixed, rows, columns = out, 2, 3
            if not images.is_contiguous():  # channels last: views in the order of memory
                images, mixed, rows, columns = images.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1), 1, 2
            # Whole rows are one piece of memory per image and channel; the box would be gathered element by element.
            band = images.narrow(rows, top, bottom - top).index_select(0, self.partners[0])
            if out.data_ptr() != images.data_ptr():
                mixed.copy_(images)
            mixed.narrow(rows, top, bottom - top).narrow(columns, left, right - left).copy_(
                band.narrow(columns, left, right - left)
            )
        else:
            pasted = mask_order(covered_factor(self._boxes, self.size, images.dtype), images, images.dtype)
            anchors, mixed = memory_order(images), memory_order(out)
            choose_into(anchors, gather_into(anchors, self.partners[0], mixed), pasted, mixed)

    def _mix_large(self, images: Tensor, out: Tensor) -> None:
        partner = self.partners[0].tolist()
        if self._boxes.shape[1] != 1 or self.size != images.shape[2:]:
            out.copy_(self._mix(images))
        elif self._source_boxes is None and single_on_host(self._boxes):
            ((top, bottom, left, right),) = self._boxes.tolist()[0]
            if out.data_ptr() != images.data_ptr():
                out.copy_(images)
            anchors, mixed = (t[:, :, top:bottom, left:right] for t in (images, out))
            for _, _, source, target in one_by_one(anchors, partner, mixed):
                target.copy_(source)
        else:
            boxes = self.boxes[:, 0].tolist()
            source_boxes = boxes if self.source_boxes is None else self.source_boxes[:, 0].tolist()
            for row, anchor, source, mixed in one_by_one(images, partner, out):
                if mixed.data_ptr() != anchor.data_ptr():
                    mixed.copy_(anchor)
                self._paste(source, boxes[row], source_boxes[row], mixed)

    def _paste(self, source: Tensor, box: list[int], source_box: list[int], mixed: Tensor) -> None:
        top, bottom, left, right = box
        if top == bottom or left == right:
            return
        if box == source_box:
            patch = source[:, top:bottom, left:right]
        else:
            patch = scaled_crop(source[None], source_box, bottom - top, right - left, self.interpolation)[0]
        mixed[:, top:bottom, left:right] = patch

    def _source(self, images: Tensor, k: int, nearest: bool = False) -> Tensor:
        source = super()._source(images, k, nearest)
        if k == 0 or self.source_boxes is None:
            return source
        boxes, source_boxes = self.boxes[:, k - 1], self.source_boxes[:, k - 1]
        if self.size != tuple(images.shape[2:]):
            boxes, source_boxes = (rescaled(box, self.size, images.shape[2:]) for box in (boxes, source_boxes))
        return paste_scaled(source, boxes, source_boxes, "nearest" if nearest else self.interpolation)

    def _moved_boxes(self, boxes: Tensor, row: int, k: int, size: tuple[int, int]) -> Tensor:
        if k == 0 or self.source_boxes is None:
            return boxes
        pair = torch.stack((self.source_boxes[row, k - 1], self.boxes[row, k - 1]))
        top, bottom, left, right = (rescaled(pair, self.size, size) if size != self.size else pair).unbind(1)
        start, extent = torch.stack((left, top), 1), torch.stack((right - left, bottom - top), 1)
        moved = (boxes.unflatten(1, (2, 2)) - start[0]) * (extent[1] / extent[0].clamp_min(1)) + start[1]
        return moved.flatten(1)
