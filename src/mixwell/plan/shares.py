"""Plans of any number of sources, each with its own share of every pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import Pairs
from mixwell.ops.masks import mean_at, scaled
from mixwell.plan.base import Plan


class SharePlan(Plan):
    """Every pixel is a weighted sum of K sources.

    The generalisation of :class:`MaskPlan` to more than two sources.

    Args:
        pairs: The pairs; ``pairs.partner`` has shape ``(B, K - 1)``, or ``(B,)`` for two sources.
        shares: The anchor's share and those of its partners, shape ``(S, K, h, w)`` with S the batch or 1, floating
            point, summing to one over K. They may be coarser than the images: they are scaled by nearest neighbour.

    Raises:
        ValueError: The shares have another shape, or are finer than the images.

    Example:
        >>> pairs = Pairs(torch.tensor([[1, 2], [2, 0], [0, 1]]), torch.tensor([1 / 3]), (4, 4))
        >>> plan = SharePlan(pairs, torch.full((1, 3, 1, 1), 1 / 3))
        >>> plan.sources.shape, plan.apply(torch.ones(3, 1, 4, 4)).mean().round(decimals=4)
        (torch.Size([3, 3]), tensor(1.))
    """

    _geometry = ("_shares",)

    def __init__(self, pairs: Pairs, shares: Tensor) -> None:
        sources = 1 + (1 if pairs.partner.dim() == 1 else pairs.partner.shape[1])
        fits = shares.dim() == 4 and shares.shape[1] == sources and shares.shape[0] in (1, len(pairs))
        if not fits or shares.shape[2] > pairs.size[0] or shares.shape[3] > pairs.size[1]:
            raise ValueError(
                f"Shares must have shape ({len(pairs)}, {sources}, h, w) and be at most {pairs.size[0]} x "
                f"{pairs.size[1]}, as the images are, but got {tuple(shares.shape)}."
            )
        means = mean_at(shares.flatten(0, 1)[:, None], pairs.size).unflatten(0, shares.shape[:2])
        super().__init__(pairs, means)
        self._shares = shares

    @property
    def shares(self) -> Tensor:
        """Every source's share, shape ``(B, K, h, w)``."""
        return self._shares.expand(len(self), -1, -1, -1)

    def share(self, size: tuple[int, int]) -> Tensor:
        """See :meth:`Plan.share`."""
        return scaled(self.shares, size).float()

    def _differentiable(self, images: Tensor) -> bool:
        return images.requires_grad or self._shares.requires_grad

    def _mix(self, images: Tensor) -> Tensor:
        dtype = images.dtype if images.is_floating_point() else torch.float32
        shares = scaled(self._shares, images.shape[2:]).to(dtype)
        mixed = shares[:, :1] * images.to(dtype)
        for k in range(1, 1 + len(self.partners)):
            mixed = torch.addcmul(mixed, shares[:, k : k + 1], self._source(images, k).to(dtype))
        return mixed if images.is_floating_point() else mixed.round_().to(images.dtype)

    def _mix_batch(self, images: Tensor, out: Tensor) -> None:
        out.copy_(self._mix(images))
