"""SmoothMix."""

from __future__ import annotations

import torch

from mixwell.batch import Pairs
from mixwell.ops.gaussian import bump, width_for_mean
from mixwell.plan import MaskPlan
from mixwell.policy import Policy
from mixwell.ratio import Ratio, Uniform
from mixwell.typecheck import BelowOne


class SmoothMix(Policy):
    """Blend the partner in around a random point with a Gaussian mask, so that there are no sharp edges.

    Args:
        alpha: Distribution of the Gaussian's width as a share of the image's sides, or of ``lam`` with ``fit=True``.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        fit: Solve for the width that gives a drawn ``lam`` instead of drawing the width.
        plateau: Side of a flat square in the middle, as a share of the image's sides, in [0, 1); with ``fit`` the
            partner's share is then at least that of the square.

    Raises:
        ValueError: ``plateau`` is out of range.

    Note:
        OpenMixup returns the partner's share as the anchor's weight; here labels follow the pixels. The ratio it
        draws has no effect. On images that are not square the width follows each side.

    Source: Lee et al., *SmoothMix: a Simple Yet Effective Data Augmentation to Train Robust Classifiers*, CVPR
        workshops 2020.

    Example:
        >>> mixed = SmoothMix(scope="sample")(torch.rand(8, 3, 32, 32), torch.arange(8))
        >>> bool((mixed.plan.share((32, 32))[:, 0].mean((1, 2)) - mixed.weights[:, 0]).abs().max() < 1e-5)
        True
    """

    alpha: float | Ratio = Uniform(0.25, 0.5)
    fit: bool = False
    plateau: BelowOne = 0.0

    def plan(self, pairs: Pairs) -> MaskPlan:
        """See :meth:`Policy.plan`."""
        draw = pairs.rand(2)
        centre = torch.stack([(draw[:, k] * side).floor() - 0.5 for k, side in enumerate(pairs.size)], 1)
        width = width_for_mean(1 - pairs.lam, centre, pairs.size, self.plateau) if self.fit else pairs.lam
        sigma = torch.stack([width * side for side in pairs.size], 1)
        mask = 1 - bump(centre, sigma, pairs.size, self.plateau)[:, None]
        return MaskPlan(pairs if self.fit else pairs.with_lam(mask.mean((1, 2, 3))), mask)
