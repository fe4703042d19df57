"""Gather, blend and choose whole batches of pixels, by one share or by masks of shares, in any memory format."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Bytes; from here on a loop over images beats one batched operation on a CPU (docs/lab-book.md).
LARGE_IMAGE = 64 * 1024


def on_host(t: Tensor) -> bool:
    """Return whether a tensor's numbers can be read now: on the CPU, and not while ``torch.compile`` traces."""
    return t.is_cpu and not torch.compiler.is_compiling()


def layout(images: Tensor) -> torch.memory_format | None:
    """Return the memory format of dense images, or ``None`` if they are not dense."""
    if images.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else None


def memory_order(images: Tensor) -> Tensor:
    """View dense images so that memory is walked from the first pixel to the last.

    Returns:
        ``(B, C, H, W)``, or ``(B, H, W, C)`` for channels-last images.
    """
    return images if images.is_contiguous() else images.permute(0, 2, 3, 1)


def gather_into(images: Tensor, index: Tensor, out: Tensor) -> Tensor:
    """Gather rows into ``out``, or into a new tensor if ``out`` is ``images`` itself."""
    if out.data_ptr() == images.data_ptr():
        return images.index_select(0, index)
    return torch.index_select(images, 0, index, out=out)


def blend(partner: Tensor, anchor: Tensor, share: Tensor | float) -> Tensor:
    """Return ``share`` of the anchor and the rest of the partner; exact where the share is 0 or 1."""
    if anchor.dtype == torch.uint8:
        mixed = torch.lerp(partner.float(), anchor.float(), share.float() if isinstance(share, Tensor) else share)
        return mixed.round_().to(torch.uint8)  # halves go to the even neighbour
    return torch.lerp(partner, anchor, share.to(anchor.dtype) if isinstance(share, Tensor) else share)


def blend_into(partner: Tensor, anchor: Tensor, share: Tensor | float, out: Tensor) -> None:
    """Write ``blend(partner, anchor, share)`` to ``out``, which may be either of them."""
    if anchor.dtype == torch.uint8:
        out.copy_(blend(partner, anchor, share))
    elif isinstance(share, Tensor):
        torch.lerp(partner, anchor, share.to(anchor.dtype), out=out)
    else:
        torch.lerp(partner, anchor, share, out=out)


def choose_into(partner: Tensor, anchor: Tensor, keep: Tensor, out: Tensor) -> None:
    """Write the anchor where ``keep`` (a 0/1 factor of the images' dtype) is 1 and the partner elsewhere, exactly."""
    if anchor.dtype == torch.uint8:
        torch.add(partner, (anchor - partner).mul_(keep), out=out)  # differences wrap around twice, which cancels
    else:
        torch.lerp(partner, anchor, keep, out=out)


def one_by_one(images: Tensor, partner: list[int], out: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Walk a batch image by image: row, anchor, partner, and where the mixed image goes.

    In place (``out`` is ``images``) rows are visited along the cycles of the pairing, so that a partner is read before
    it is overwritten; this needs one image of scratch memory.
    """
    if out.data_ptr() != images.data_ptr():
        anchors = images.unbind()
        yield from zip(range(len(partner)), anchors, [anchors[p] for p in partner], out.unbind(), strict=True)
        return
    if len(set(partner)) < len(partner):  # not a permutation: no order of the rows avoids overwriting
        yield from one_by_one(images.clone(memory_format=torch.preserve_format), partner, out)
        return
    rows, scratch = out.unbind(), torch.empty_like(out[0])
    seen = [False] * len(partner)
    for first in range(len(partner)):
        if seen[first]:
            continue
        scratch.copy_(rows[first])
        row = first
        while not seen[row]:
            seen[row] = True
            following = partner[row]
            yield row, rows[row], scratch if following == first else rows[following], rows[row]
            row = following


def nearest(lines: Tensor, source: int, target: int) -> Tensor:
    """Return which of ``source`` lines nearest-neighbour scaling shows in these of ``target`` lines."""
    return lines * source // target


def scaled(mask: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Scale a mask ``(S, 1, h, w)`` to a size by nearest neighbour."""
    for dim in (2, 3):
        if mask.shape[dim] != size[dim - 2]:
            lines = torch.arange(size[dim - 2], device=mask.device)
            mask = mask.index_select(dim, nearest(lines, mask.shape[dim], size[dim - 2]))
    return mask


def mask_order(mask: Tensor, images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Bring a mask ``(S, 1, H, W)`` into the memory order of ``images``, as a factor.

    Its dtype is that of the images, but float32 where shares that are not 0 or 1 multiply bytes.
    """
    if dtype is None:
        dtype = torch.float32 if images.dtype == torch.uint8 and mask.dtype != torch.bool else images.dtype
    if images.is_contiguous():
        return mask.to(dtype)
    # Broadcasting along the innermost dimension defeats vectorisation: written out it is four times faster.
    return mask.to(dtype).permute(0, 2, 3, 1).expand(-1, -1, -1, images.shape[1]).contiguous()
