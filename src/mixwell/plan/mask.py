"""Plans with a share for every pixel, also over images whose cells are moved."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import Pairs
from mixwell.ops.masks import factor_dtype, mask_functionally, mask_into, mask_order, mean_at, scaled
from mixwell.ops.patches import move_cells
from mixwell.ops.pixels import blend_into, choose_into, gather_into, memory_order, one_by_one
from mixwell.plan.base import Plan


class MaskPlan(Plan):
    """Every pixel has its own share.

    The label weight is the mean of the mask at image size, so labels always match pixels.

    Args:
        pairs: The pairs.
        mask: The anchor's share, shape ``(S, 1, h, w)`` with S the batch or 1, bool or floating point in [0, 1]. It
            may be coarser than the images: it is scaled by nearest neighbour when it is applied.

    Raises:
        ValueError: The mask has another shape, or is finer than the images.
    """

    _geometry = ("_mask",)

    def __init__(self, pairs: Pairs, mask: Tensor) -> None:
        self._mask = _check_mask(mask, pairs)
        super().__init__(pairs, mean_at(mask, pairs.size))

    @property
    def mask(self) -> Tensor:
        """The anchor's share, shape ``(B, 1, h, w)``."""
        return self._mask.expand(len(self), -1, -1, -1)

    def share(self, size: tuple[int, int]) -> Tensor:
        """See :meth:`Plan.share`."""
        mask = scaled(self.mask, size).float()
        return torch.cat((mask, 1 - mask), 1)

    def _differentiable(self, images: Tensor) -> bool:
        return images.requires_grad or self._mask.requires_grad

    def _mix(self, images: Tensor) -> Tensor:
        return mask_functionally(self._source(images, 1), self._source(images, 0), self._mask)

    def _mix_batch(self, images: Tensor, out: Tensor) -> None:
        anchors, mixed = memory_order(images), memory_order(out)
        partners = gather_into(anchors, self.partners[0], mixed)
        mask_into(partners, anchors, scaled(self._mask, images.shape[2:]), images, mixed)

    def _mix_large(self, images: Tensor, out: Tensor) -> None:
        factor = mask_order(scaled(self._mask, images.shape[2:]), images, factor_dtype(self._mask, images))
        anchors, mixed = memory_order(images), memory_order(out)
        mix = choose_into if self._mask.dtype == torch.bool else blend_into
        for row, a, b, target in one_by_one(anchors, self.partners[0].tolist(), mixed):
            mix(b, a, factor[row if len(factor) > 1 else 0], target)


class PatchPlan(MaskPlan):
    """A mask over images whose cells have been moved first, as PuzzleMix does.

    Args:
        pairs: The pairs.
        mask: See :class:`MaskPlan`.
        moves: Which clean cell every cell shows, row by row, of the anchor and of the partner, shape
            ``(B, 2, cells ** 2)``, int64. Both sides of the images must be a multiple of ``cells``.
    """

    _geometry = ("_mask", "moves")

    def __init__(self, pairs: Pairs, mask: Tensor, moves: Tensor) -> None:
        super().__init__(pairs, mask)
        self.moves = moves

    @property
    def moves_pixels(self) -> bool:
        """See :meth:`Plan.moves_pixels`."""
        return True

    def _mix_batch(self, images: Tensor, out: Tensor) -> None:
        out.copy_(self._mix(images))

    _mix_large = _mix_batch

    def _source(self, images: Tensor, k: int, nearest: bool = False) -> Tensor:
        cells = round(self.moves.shape[2] ** 0.5)
        if images.shape[2] % cells or images.shape[3] % cells:
            raise ValueError(
                f"Moving {cells} x {cells} cells needs sides that {cells} divides, got {tuple(images.shape[2:])}."
            )
        return move_cells(super()._source(images, k, nearest), self.moves[:, k], cells)


def _check_mask(mask: Tensor, pairs: Pairs) -> Tensor:
    fits = mask.dim() == 4 and mask.shape[1] == 1 and mask.shape[0] in (1, len(pairs))
    if not fits or mask.shape[2] > pairs.size[0] or mask.shape[3] > pairs.size[1]:
        raise ValueError(
            f"A mask must have shape ({len(pairs)}, 1, h, w) or (1, 1, h, w) and be at most {pairs.size[0]} x "
            f"{pairs.size[1]}, as the images are, but got {tuple(mask.shape)}."
        )
    return mask
