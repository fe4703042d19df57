"""GridMix."""

from __future__ import annotations

from mixwell.batch import Pairs
from mixwell.ops.cells import check_pixels
from mixwell.ops.grid import random_cells
from mixwell.plan import MaskPlan
from mixwell.policy import Policy
from mixwell.typecheck import PositiveInt


class GridMix(Policy):
    """Take every cell of a regular grid from one of two images, at random.

    Exactly ``round(lam * cells ** 2)`` cells show the anchor, so the label weight is the drawn ratio to within half a
    cell. :class:`GridLoss` adds the paper's local loss, which predicts the label of every cell.

    Args:
        alpha: Distribution of ``lam``.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        cells: Cells per side; 1 keeps or replaces the whole image.

    Raises:
        ValueError: ``cells`` is not positive or, when called, exceeds a side of the image.

    Note:
        Another method goes by the same name in OpenMixup: :class:`GridMixup`. The paper's own code is not public; 4
        cells per side on 32-pixel images is from memory.

    Source: Baek et al., *GridMix: Strong regularization through local context mapping*, Pattern Recognition 2021.

    Example:
        >>> import torch
        >>> GridMix(cells=4)(torch.rand(8, 3, 32, 32), torch.arange(8)).plan.mask.shape
        torch.Size([8, 1, 4, 4])
    """

    cells: PositiveInt = 4

    def plan(self, pairs: Pairs) -> MaskPlan:
        """See :meth:`Policy.plan`."""
        check_pixels(f"GridMix(cells={self.cells})", self.cells, pairs.size)
        keep = random_cells(pairs.rand(self.cells**2), pairs.lam)
        return MaskPlan(pairs, keep.view(-1, 1, self.cells, self.cells))
