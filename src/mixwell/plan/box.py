"""Rectangles of other images, pasted as they are or scaled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixwell.batch import Pairs
from mixwell.ops.boxes import area_weights, covered, covered_factor, rescaled, visible
from mixwell.ops.masks import mask_order
from mixwell.ops.pixels import choose_into, gather_into, memory_order, on_host, one_by_one
from mixwell.ops.resample import paste_scaled, scaled_crop
from mixwell.plan.base import Plan, shared


class BoxPlan(Plan):
    """Boxes of other images are pasted over the anchor, later ones over earlier ones.

    Args:
        pairs: The pairs; ``pairs.partner`` may be ``(B, K - 1)``, one partner per box.
        boxes: Where to paste, ``(top, bottom, left, right)`` half open in pixels, shape ``(S, 4)`` or ``(S, K - 1,
            4)``.
        source_boxes: What to paste, of the same shape, scaled to fit; ``None`` pastes what lies in the same place.
        interpolation: How to scale: ``"nearest"``, ``"bilinear"``, ``"aligned"`` or ``"area"``.
        weight: Label weight of the anchor instead of its share of the pixels, shape ``(S,)``, or of both of two
            sources, ``(S, 2)``.
    """

    _geometry = ("boxes", "source_boxes", "interpolation")

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
        self.boxes = (boxes if boxes.dim() == 3 else boxes.unsqueeze(1)).expand(len(pairs), -1, -1)
        self.source_boxes = None
        if source_boxes is not None:
            source_boxes = source_boxes if source_boxes.dim() == 3 else source_boxes[:, None]
            self.source_boxes = source_boxes.expand(len(pairs), -1, -1)
        self.interpolation = interpolation

    @property
    def moves_pixels(self) -> bool:
        """See :meth:`Plan.moves_pixels`."""
        return self.source_boxes is not None

    def share(self, size: tuple[int, int]) -> Tensor:
        """See :meth:`Plan.share`."""
        return visible(self.boxes, self.size, size)

    def _mix(self, images: Tensor) -> Tensor:
        inside = covered(self.boxes, self.size, (images.shape[2], images.shape[3]))
        mixed = images
        for k in range(1, self.sources.shape[1]):
            mixed = torch.where(inside[:, k - 1, None], self._source(images, k), mixed)
        return mixed

    def _mix_batch(self, images: Tensor, out: Tensor) -> None:
        if not self._plain(images) or self.source_boxes is not None:
            out.copy_(self._mix(images))
        elif on_host(self.boxes) and shared(self.boxes):
            anchors, window, partner = memory_order(images), self._window(images), self.sources.select(1, 1)
            target = anchors[window]
            # Whole images are gathered as one piece of memory each, which costs by the byte; a window by the element.
            if 8 * target.numel() > anchors.numel() * anchors.element_size():
                patches = anchors.index_select(0, partner)[window]
            else:
                patches = target.index_select(0, partner)
            if out.data_ptr() != images.data_ptr():
                target = memory_order(out.copy_(images))[window]
            target.copy_(patches)
        else:
            boxes = self.boxes[:1] if shared(self.boxes) else self.boxes
            pasted = mask_order(covered_factor(boxes, self.size, images.dtype), images, images.dtype)
            anchors, mixed = memory_order(images), memory_order(out)
            choose_into(anchors, gather_into(anchors, self.sources[:, 1], mixed), pasted, mixed)

    def _mix_large(self, images: Tensor, out: Tensor) -> None:
        partner = self.sources[:, 1].tolist()
        if not self._plain(images):
            out.copy_(self._mix(images))
        elif self.source_boxes is None and shared(self.boxes):
            anchors, targets = self._windows(images, out)
            for _, _, source, target in one_by_one(anchors, partner, targets):
                target.copy_(source)
        else:
            boxes = self.boxes[:, 0].tolist()
            source_boxes = boxes if self.source_boxes is None else self.source_boxes[:, 0].tolist()
            for row, anchor, source, mixed in one_by_one(images, partner, out):
                if mixed.data_ptr() != anchor.data_ptr():
                    mixed.copy_(anchor)
                self._paste(source, boxes[row], source_boxes[row], mixed)

    def _plain(self, images: Tensor) -> bool:
        """Tell whether there is one box per image, in pixels of these images."""
        return self.boxes.shape[1] == 1 and self.size == tuple(images.shape[2:])

    def _windows(self, images: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Copy the anchors to ``out`` if they are not there, and return the one box of all images in both."""
        window = self._window(images)
        anchors = memory_order(images)[window]
        if out.data_ptr() == images.data_ptr():
            return anchors, anchors
        out.copy_(images)
        return anchors, memory_order(out)[window]

    def _window(self, images: Tensor) -> tuple[Any, ...]:
        """Return the one box of all images as an index, in memory order."""
        top, bottom, left, right = self.boxes[0].tolist()[0]
        box = slice(top, bottom), slice(left, right)
        return (..., *box) if images.is_contiguous() else (slice(None), *box)

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
