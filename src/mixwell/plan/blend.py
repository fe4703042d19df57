"""Plans with one ratio for all pixels of an image."""

from __future__ import annotations

from torch import Tensor

from mixwell.batch import Pairs
from mixwell.ops.boxes import single_on_host
from mixwell.ops.pixels import blend, blend_into, gather_into, memory_order, one_by_one
from mixwell.plan.base import Plan


class BlendPlan(Plan):
    """Every pixel is ``lam`` of the anchor and the rest of the partner.

    Args:
        pairs: The pairs; ``pairs.lam`` is the share.
    """

    def __init__(self, pairs: Pairs) -> None:
        super().__init__(pairs, pairs.lam)

    def share(self, size: tuple[int, int]) -> Tensor:
        """See :meth:`Plan.share`."""
        return self.weights[:, :, None, None].expand(-1, -1, *size)

    def _differentiable(self, images: Tensor) -> bool:
        return images.requires_grad or self._lam.requires_grad

    def _mix(self, images: Tensor) -> Tensor:
        return blend(self._source(images, 1), images, self._lam[:, None, None, None])

    def _mix_batch(self, images: Tensor, out: Tensor) -> None:
        anchors, mixed = memory_order(images), memory_order(out)
        partners = gather_into(anchors, self.partners[0], mixed)
        lam = self._lam.item() if single_on_host(self._lam) else self._lam[:, None, None, None]
        blend_into(partners, anchors, lam, mixed)

    def _mix_large(self, images: Tensor, out: Tensor) -> None:
        lam = self.lam.tolist()
        for row, anchor, partner, mixed in one_by_one(images, self.partners[0].tolist(), out):
            blend_into(partner, anchor, lam[row], mixed)
