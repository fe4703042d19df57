"""MergeMix, without the merging of tokens."""

from __future__ import annotations

from mixwell.batch import Pairs
from mixwell.ops.cells import kept_cells, top_cells
from mixwell.plan import MaskPlan
from mixwell.policy import Policy, SaliencySource
from mixwell.saliency import Activation


class MergeMix(Policy):
    """Keep the patches of the anchor with the highest attention, as many as the drawn ratio asks for.

    Args:
        alpha: Distribution of the share of patches that stay with the anchor.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        saliency: A saliency source; its maps are used as they are, one value per patch.

    Raises:
        ValueError: There are no saliency maps.

    Note:
        The published encoder merges similar tokens, which makes its pass over the unmixed images faster; that is not
        done here. Published label ratios are random numbers that depend on nothing; use
        ``label=SaliencyShare(...)`` for the share of attention that remains visible, or the pixel share.

    Source: Jin et al., *MergeMix: A Unified Augmentation Paradigm for Visual and Multi-Modal Understanding*, 2025
    (arXiv:2510.23479).

    Example:
        >>> import torch
        >>> maps = torch.rand(8, 4, 4)
        >>> mixed = MergeMix()(torch.rand(8, 3, 32, 32), torch.arange(8), saliency=maps)
        >>> bool(((mixed.weights * 16) % 1 == 0).all())
        True
    """

    saliency: SaliencySource | None = Activation()

    uses_saliency = True

    def plan(self, pairs: Pairs) -> MaskPlan:
        """See :meth:`Policy.plan`."""
        maps = pairs.saliency_a
        number = maps.shape[1] * maps.shape[2]
        return MaskPlan(pairs, top_cells(maps, kept_cells(pairs.lam, number))[:, None])
