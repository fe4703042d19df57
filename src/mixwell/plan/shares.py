"""Plans that blend: each source has a share of an image, or of each pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import Pairs
from mixwell.ops.boxes import single_on_host
from mixwell.ops.patches import move_cells
from mixwell.ops.pixels import blend, blend_into, choose_into, gather_into, mask_order, memory_order, one_by_one, scaled
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
        rows, (height, width) = pairs.partner.shape[0], pairs.size
        fits = mask.dim() == 4 and mask.shape[1] == 1 and mask.shape[0] in (1, rows)
        if not fits or mask.shape[2] > height or mask.shape[3] > width:
            raise ValueError(
                f"A mask must have shape ({rows}, 1, h, w) or (1, 1, h, w) and be at most {height} x {width}, as the "
                f"images are, but got {tuple(mask.shape)}."
            )
        self._mask = mask
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
        anchor, partner, mask = self._source(images, 0), self._source(images, 1), scaled(self._mask, images.shape[2:])
        return torch.where(mask, anchor, partner) if mask.dtype == torch.bool else blend(partner, anchor, mask)

    def _mix_batch(self, images: Tensor, out: Tensor) -> None:
        anchors, mixed = memory_order(images), memory_order(out)
        partners = gather_into(anchors, self.partners[0], mixed)
        factor = mask_order(scaled(self._mask, images.shape[2:]), images)
        (choose_into if self._mask.dtype == torch.bool else blend_into)(partners, anchors, factor, mixed)

    def _mix_large(self, images: Tensor, out: Tensor) -> None:
        factor = mask_order(scaled(self._mask, images.shape[2:]), images)
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


class SharePlan(Plan):
    """Every pixel is a weighted sum of K sources.

    The generalisation of :class:`MaskPlan` to more than two sources.

    Args:
        pairs: The pairs; ``pairs.partner`` has shape ``(B, K - 1)``, or ``(B,)`` for two sources.
        shares: The anchor's share and those of its partners, shape ``(S, K, h, w)`` with S the batch or 1, floating
            point, summing to one over K. They may be coarser than the images: they are scaled by nearest neighbour.
        ratios: Drawn ratio of every source, shape ``(B, K)``, rows summing to one, if there is one.

    Raises:
        ValueError: The shares have another shape, or are finer than the images.

    Example:
        >>> pairs = Pairs(torch.tensor([[1, 2], [2, 0], [0, 1]]), torch.tensor([1 / 3]), (4, 4))
        >>> plan = SharePlan(pairs, torch.full((1, 3, 1, 1), 1 / 3))
        >>> plan.sources.shape, plan.apply(torch.ones(3, 1, 4, 4)).mean().round(decimals=4)
        (torch.Size([3, 3]), tensor(1.))
    """

    _geometry = ("_shares", "_ratios")

    def __init__(self, pairs: Pairs, shares: Tensor, ratios: Tensor | None = None) -> None:
        sources = 1 + (1 if pairs.partner.dim() == 1 else pairs.partner.shape[1])
        fits = shares.dim() == 4 and shares.shape[1] == sources and shares.shape[0] in (1, pairs.partner.shape[0])
        if not fits or shares.shape[2] > pairs.size[0] or shares.shape[3] > pairs.size[1]:
            raise ValueError(
                f"Shares must have shape ({len(pairs)}, {sources}, h, w) and be at most {pairs.size[0]} x "
                f"{pairs.size[1]}, as the images are, but got {tuple(shares.shape)}."
            )
        means = mean_at(shares.flatten(0, 1)[:, None], pairs.size).unflatten(0, shares.shape[:2])
        super().__init__(pairs, means)
        self._shares, self._ratios = shares, ratios

    @property
    def ratios(self) -> Tensor:
        """See :attr:`Plan.ratios`."""
        return super().ratios if self._ratios is None else self._ratios

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


class MosaicPlan(SharePlan):
    """Every pixel shows one of K sources: a :class:`SharePlan` whose shares are 0 and 1, in one pass over the images.

    Args:
        pairs: See :class:`SharePlan`.
        shares: See :class:`SharePlan`; in every cell that of one source is 1.
        ratios: See :class:`SharePlan`.

    Example:
        >>> pairs = Pairs(torch.tensor([[1, 2], [2, 0], [0, 1]]), torch.tensor([1 / 3]), (2, 2))
        >>> shares = torch.eye(3).view(1, 3, 1, 3).expand(3, 3, 2, 3)[..., :2]
        >>> MosaicPlan(pairs, shares).apply(torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 2))[:, 0, 0]
        tensor([[0., 1.],
                [1., 2.],
                [2., 0.]])
    """

    def _mix(self, images: Tensor) -> Tensor:
        shown = self.shares.argmax(1)
        rows = self.sources.gather(1, shown.flatten(1)).view_as(shown)[:, None]
        return images.gather(0, scaled(rows, images.shape[2:]).expand_as(images))


def mean_at(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the mean of a mask (S, 1, h, w) scaled to a size, without scaling it."""
    values = mask[:, 0].float()
    if tuple(values.shape[1:]) in (size, (1, 1)):
        return values.mean((1, 2))
    rows = _cell_sizes(values.shape[1], size[0], mask.device)
    columns = _cell_sizes(values.shape[2], size[1], mask.device)
    # No einsum: autocast would round it.
    return (values * (rows[:, None] * columns)).sum((1, 2)) / (size[0] * size[1])


def _cell_sizes(cells: int, side: int, device: torch.device) -> Tensor:
    """Return how many of ``side`` pixels nearest-neighbour scaling gives to each of ``cells`` cells."""
    edges = (torch.arange(cells + 1, device=device) * side + cells - 1) // cells
    return (edges[1:] - edges[:-1]).float()
