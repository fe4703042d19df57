"""SMMix."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import Pairs
from mixwell.ops.cells import check_pixels, on_grid
from mixwell.ops.tokens import extreme_windows
from mixwell.pairing import Pairing, Reverse
from mixwell.plan import BoxPlan
from mixwell.policy import Policy, SaliencySource
from mixwell.ratio import Ratio, Uniform
from mixwell.saliency import Activation
from mixwell.typecheck import PositiveInt


class SMMix(Policy):
    """Paste the partner's window with the largest saliency over the anchor's window with the smallest.

    Args:
        alpha: Distribution of the window's side as a share of the image's, rounded down to whole cells. The default
            gives 3 to 10 of 14 cells with equal probability, as published.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        saliency: A saliency source; the paper averages the attention that each patch receives in the last block.
        cells: Cells per side of the image; 14 for patches of 16 pixels at 224.

    Raises:
        ValueError: ``cells`` is not positive, there are no saliency maps or, when called, the image has fewer pixels
            than cells per side.

    Source: Chen et al., *SMMix: Self-Motivated Image Mixing for Vision Transformers*, ICCV 2023 (arXiv:2212.12977).

    Example:
        >>> import torch
        >>> maps = torch.rand(8, 4, 4)
        >>> mixed = SMMix(cells=4)(torch.rand(8, 3, 32, 32), torch.arange(8), saliency=maps)
        >>> bool((mixed.weights[:, 1] <= (10 / 14) ** 2).all())
        True
    """

    alpha: float | Ratio = Uniform(3 / 14, 11 / 14)
    pairing: Pairing = Reverse()
    saliency: SaliencySource | None = Activation()
    cells: PositiveInt = 14

    uses_saliency = True

    def plan(self, pairs: Pairs) -> BoxPlan:
        """See :meth:`Policy.plan`."""
        check_pixels(f"SMMix(cells={self.cells})", self.cells, pairs.size)
        side = (pairs.lam * self.cells + 1e-6).floor().clamp(0, self.cells).long()
        own = extreme_windows(on_grid(pairs.saliency_a, self.cells), side, largest=False)
        source = extreme_windows(on_grid(pairs.saliency_b, self.cells), side, largest=True)
        height, width = (side * pixels // self.cells for pixels in pairs.size)
        boxes, sources = (
            torch.stack((top, top + height, left, left + width), 1)
            for top, left in (self._pixels(corner, pairs.size) for corner in (own, source))
        )
        share = 1 - (side / self.cells) ** 2
        return BoxPlan(pairs.with_lam(share), boxes, sources)

    def _pixels(self, corner: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the pixel at which a cell starts, row and column."""
        return corner[:, 0] * size[0] // self.cells, corner[:, 1] * size[1] // self.cells
