"""AttentiveMix and AttentiveMix+."""

from __future__ import annotations

from mixwell.batch import Pairs
from mixwell.ops.cells import check_pixels, kept_cells, on_grid, top_cells
from mixwell.plan import MaskPlan
from mixwell.policy import Policy, SaliencySource
from mixwell.saliency import Activation
from mixwell.typecheck import PositiveInt


class AttentiveMix(Policy):
    """Keep the most salient cells of the anchor and take the rest from the partner.

    With ``top=None`` the number of cells follows a drawn ratio: AttentiveMix+.

    Args:
        alpha: Distribution of the share of cells kept if ``top`` is ``None``; AttentiveMix+ uses 2.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        saliency: Saliency source. The paper uses the last feature map of a pretrained network, the default that of the
            classifier in training. ``Activation(teacher, size=224)`` uses another network and its input size.
        top: Cells to keep, 6 in the paper; ``None`` draws the number.
        cells: Cells per side; maps of another size are averaged or interpolated.
        paste: Paste the partner's best cells over the anchor instead of keeping the anchor's own.

    Raises:
        ValueError: ``top`` or ``cells`` is not positive, there are no saliency maps or, when called, the image is
            smaller than the grid.

    Note:
        The published code uses the last channel of the map only (``Activation(reduce="last")``) and pairs with any
        image of the data set; OpenMixup averages the channels, as here, on images enlarged to 224 pixels.

    Source: Walawalkar et al., *Attentive CutMix*, ICASSP 2020 (arXiv:2003.13048).

    Example:
        >>> import torch
        >>> maps = torch.rand(8, 7, 7)
        >>> AttentiveMix()(torch.rand(8, 3, 28, 28), torch.arange(8), saliency=maps).plan.mask.sum((1, 2, 3)).tolist()
        [6, 6, 6, 6, 6, 6, 6, 6]
    """

    saliency: SaliencySource | None = Activation()
    top: PositiveInt | None = 6
    cells: PositiveInt = 7
    paste: bool = False

    uses_saliency = True

    def plan(self, pairs: Pairs) -> MaskPlan:
        """See :meth:`Policy.plan`."""
        check_pixels(f"AttentiveMix(cells={self.cells})", self.cells, pairs.size)
        maps = on_grid(pairs.saliency_b if self.paste else pairs.saliency_a, self.cells)
        number = maps.shape[1] * maps.shape[2]
        best = top_cells(maps, kept_cells(1 - pairs.lam if self.paste else pairs.lam, number, self.top))
        share = best.float().mean((1, 2))
        keep = ~best if self.paste else best
        return MaskPlan(pairs.with_lam(1 - share if self.paste else share), keep[:, None])
