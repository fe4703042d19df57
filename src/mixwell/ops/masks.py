"""Masks of shares: scale them, average them, and mix by them."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.ops.boxes import nearest
from mixwell.ops.pixels import blend, blend_into, choose_into


def scaled(mask: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Scale a mask ``(S, 1, h, w)`` to a size by nearest neighbour."""
    for dim in (2, 3):
        if mask.shape[dim] != size[dim - 2]:
            lines = torch.arange(size[dim - 2], device=mask.device)
            mask = mask.index_select(dim, nearest(lines, mask.shape[dim], size[dim - 2]))
    return mask


def mean_at(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the mean of a mask (S, 1, h, w) scaled to a size, without scaling it."""
    values = mask[:, 0].float()
    if tuple(values.shape[1:]) == size:
        return values.mean((1, 2))
    rows, columns = (_cell_sizes(cells, side, mask.device) for cells, side in zip(values.shape[1:], size, strict=True))
    return torch.einsum("shw,h,w->s", values, rows, columns) / (size[0] * size[1])


def _cell_sizes(cells: int, side: int, device: torch.device) -> Tensor:
    """Return how many of ``side`` pixels nearest-neighbour scaling gives to each of ``cells`` cells."""
    edges = (torch.arange(cells + 1, device=device) * side + cells - 1) // cells
    return (edges[1:] - edges[:-1]).float()


def mask_order(mask: Tensor, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring a mask ``(S, 1, H, W)`` into the memory order of ``images``, as a factor of ``dtype``."""
    if images.is_contiguous():
        return mask.to(dtype)
    # Broadcasting along the innermost dimension defeats vectorisation: written out it is four times faster.
    return mask.to(dtype).permute(0, 2, 3, 1).expand(-1, -1, -1, images.shape[1]).contiguous()


def factor_dtype(mask: Tensor, images: Tensor) -> torch.dtype:
    """Return the type in which a mask multiplies images."""
    soft_bytes = images.dtype == torch.uint8 and mask.dtype != torch.bool
    return torch.float32 if soft_bytes else images.dtype


def mask_into(partners: Tensor, anchors: Tensor, mask: Tensor, images: Tensor, out: Tensor) -> None:
    """Mix tensors in memory order by a mask (S, 1, H, W)."""
    factor = mask_order(mask, images, factor_dtype(mask, images))
    (choose_into if mask.dtype == torch.bool else blend_into)(partners, anchors, factor, out)


def mask_functionally(partner: Tensor, anchor: Tensor, mask: Tensor) -> Tensor:
    """Mix images by a mask ``(S, 1, h, w)``: differentiable and compilable."""
    mask = scaled(mask, anchor.shape[2:])
    return torch.where(mask, anchor, partner) if mask.dtype == torch.bool else blend(partner, anchor, mask)
