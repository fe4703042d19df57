"""MaskMix."""

from __future__ import annotations

import torch

from mixwell.batch import Pairs
from mixwell.plan import MaskPlan
from mixwell.policy import Policy
from mixwell.typecheck import PositiveInt


class MaskMix(Policy):
    """Keep random square cells of the anchor that are larger than a transformer's patches; labels follow the pixels.

    Args:
        alpha: Distribution of the share of cells that stay with the anchor.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`; the authors draw the share once per batch and the cells for every sample.
        patch: Side of a cell in pixels, a multiple of the model's patch size; published: 56 for DeiT-S and Swin-T. A
            grid that does not fit the image is cut off at its right and lower border.

    Raises:
        ValueError: ``patch`` is not positive or, when called, exceeds a side of the image.

    Note:
        Published code weights labels by the share of cells, also where the grid is cut off; here by the pixels that are
        left. ``label=ProgressiveAttentionShare()`` in a method completes MixPro.

    Source: Zhao et al., *MixPro: Data Augmentation with MaskMix and Progressive Attention Labeling for Vision
    Transformer*, ICLR 2023 (arXiv:2304.12043).

    Example:
        >>> import torch
        >>> mixed = MaskMix(patch=16)(torch.rand(8, 3, 32, 32), torch.arange(8))
        >>> bool(((mixed.weights * 4) % 1 == 0).all())
        True
    """

    patch: PositiveInt = 56

    def plan(self, pairs: Pairs) -> MaskPlan:
        """See :meth:`Policy.plan`."""
        height, width = pairs.size
        if self.patch > min(pairs.size):
            raise ValueError(f"MaskMix(patch={self.patch}) needs images of at least that side, but got {pairs.size}.")
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        rank = pairs.rand(rows * columns).argsort(1).argsort(1)
        keep = rank < (pairs.lam * (rows * columns)).ceil()[:, None]
        mask = keep.view(-1, 1, rows, columns)
        if (rows * self.patch, columns * self.patch) == (height, width):
            return MaskPlan(pairs, mask)
        mask = torch.repeat_interleave(torch.repeat_interleave(mask, self.patch, 2), self.patch, 3)
        return MaskPlan(pairs, mask[:, :, :height, :width])
