"""Move the square cells of an image."""

from __future__ import annotations

from torch import Tensor


def move_cells(images: Tensor, moves: Tensor, cells: int) -> Tensor:
    """Show in every cell another cell of the same image.

    Args:
        images: Shape ``(B, C, H, W)``; both sides a multiple of ``cells``.
        moves: Which clean cell every cell shows, row by row, shape ``(B, cells ** 2)``.
        cells: Cells per side.
    """
    b, c, h, w = images.shape
    blocks = images.reshape(b, c, cells, h // cells, cells, w // cells).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    index = moves[:, :, None, None, None].expand(-1, -1, *blocks.shape[2:])
    moved = blocks.gather(1, index).unflatten(1, (cells, cells)).permute(0, 3, 1, 4, 2, 5)
    return moved.reshape(b, c, h, w)
