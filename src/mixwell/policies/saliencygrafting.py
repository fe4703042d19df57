"""Saliency Grafting."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import Pairs
from mixwell.ops.cells import check_pixels, on_grid, salient_cells, summing_to_one
from mixwell.plan import MaskPlan
from mixwell.policy import Policy, SaliencySource, Scope
from mixwell.ratio import Constant, Ratio
from mixwell.saliency import InputGradient
from mixwell.typecheck import PositiveFloat, PositiveInt


class SaliencyGrafting(Policy):
    """Paste a random choice of the partner's salient cells; label weights follow the saliency that remains visible.

    Saliency maps are max-pooled to a grid. A cell of the partner is a candidate if the softmax of its map, over a
    temperature, exceeds its mean there. Each candidate is pasted with probability ``1 - lam``. The label weight of an
    image is the Euclidean norm of its visible saliency over that of its whole map, divided by the sum over both images.

    Args:
        alpha: Distribution of ``lam``, the probability that a candidate is not pasted.
        pairing: See :class:`Policy`.
        scope: Whether ``lam`` and the choice of cells are drawn for every image or once per batch; candidates differ in
            any case.
        saliency: A saliency source; the paper uses the gradient of the loss.
        temperature: Temperature of the softmax of the map, as shares of its peak. The lower, the fewer candidates: near
            0 only the peak, at large values all cells above the mean.
        cells: Cells per side; maps of fewer cells are interpolated.

    Raises:
        ValueError: A setting is out of range, there are no saliency maps or, when called, the image is smaller than
            the grid.

    Note:
        There is no public code. The probability of 1/2 and the Euclidean norm are from memory, temperature and grid are
        not known; the authors take the gradient at a layer inside the network. The ratio of the plan, which
        ``label=RatioShare()`` uses, is the anchor's share of the cells. A map of zeros counts as uniform, and a uniform
        map has no candidates.

    Source: Park et al., *Saliency Grafting: Innocuous Attribution-Guided Mixup with Calibrated Label Mixing*, AAAI 2022
    (arXiv:2112.08796).

    Example:
        >>> maps = torch.rand(8, 16, 16)
        >>> mixed = SaliencyGrafting()(torch.rand(8, 3, 32, 32), torch.arange(8), saliency=maps)
        >>> mixed.plan.mask.shape, bool((mixed.weights.sum(1) - 1).abs().max() < 1e-6)
        (torch.Size([8, 1, 8, 8]), True)
    """

    alpha: float | Ratio = Constant(0.5)
    scope: Scope = "sample"
    saliency: SaliencySource | None = InputGradient()
    temperature: PositiveFloat = 1.0
    cells: PositiveInt = 8

    uses_saliency = True

    def plan(self, pairs: Pairs) -> MaskPlan:
        """See :meth:`Policy.plan`."""
        check_pixels(f"SaliencyGrafting(cells={self.cells})", self.cells, pairs.size)
        own = summing_to_one(on_grid(pairs.saliency_a, self.cells, F.adaptive_max_pool2d))
        source = own.index_select(0, pairs.partner)
        drawn = pairs.rand(self.cells, self.cells) >= pairs.lam[:, None, None]
        keep = ~(salient_cells(source, self.temperature) & drawn)
        plan = MaskPlan(pairs.with_lam(keep.float().mean((1, 2))), keep[:, None])
        visible = torch.stack((visible_norm(own, keep), visible_norm(source, ~keep)), 1)
        plan.weights = visible / visible.sum(1, keepdim=True)
        return plan


def visible_norm(maps: Tensor, shown: Tensor) -> Tensor:
    """Return the Euclidean norm of the visible cells of maps over that of all cells, shape ``(B,)``, in [0, 1].

    Args:
        maps: Shape ``(B, h, w)``, not all zero.
        shown: Which cells are visible, shape ``(B, h, w)``, bool.

    Example:
        >>> visible_norm(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[False, True]]]))
        tensor([0.8000])
    """
    return torch.linalg.vector_norm(maps * shown, dim=(1, 2)) / torch.linalg.vector_norm(maps, dim=(1, 2))
